"""Words that are wrong: parameters, arguments of calls, and the names of classes and files."""

from __future__ import annotations

import io
import math
import os
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import yaml

from book import explorer
from book.campaigns.badfiles import shelf
from book.campaigns.badfilms import mutated, stocked
from book.campaigns.mutations import Trial, command
from stce import ablation, datasets, models, supervoxels
from stce.clips import Clips, middle_clips
from stce.concepts import Concepts
from stce.datasets.__main__ import main as datasets_main
from stce.datasets.hmdb import random_clips
from stce.datasets.textures import textures
from stce.explanation import Explanation, explain
from stce.models.adapt import adapt
from stce.study import jobs
from stce.study import parameters as study_parameters
from stce.study.__main__ import main
from stce.study.known import find, known
from stce.study.parameters import HOME, NOTEBOOKS, PARAMETERS
from stce.study.run import Run
from stce.supervoxels import Supervoxels
from stce.videos import cache, decode
from stce.videos.frames import fitted
from stce.viz import charts, figures, film, tables

__all__ = ["arguments", "names", "parameters"]

# --- parameters --------------------------------------------------------------------------------

WORDS = [
    "", "~", "null", "yes", "-1", "0", "1e3", "1.5", ".inf", "-.inf", ".nan", "010", "1:30", "0x1F",
    "1_000", "9" * 400, "9" * 5000, "1e400", "[]", "{}", "[1, [2, [3]]]", "[" * 3000,
    "[" * 3000 + "]" * 3000,
    "{a: {b: c}}", "{1: 2, 1: 3}", "{[a]: b}", "? [a]\n: b",
    "!!python/object/apply:os.system [true]",
    "!!python/name:os.system", "!!binary aGVsbG8=", "!!set {a, b}", "!!float x", "!!int x",
    "!!int ''",
    "!!timestamp x", "!!timestamp 2026-13-45", "2026-13-45", "!own x", "&a [*a]", "*nobody",
    "&a [1, 2]",
    "{<<: 3}", "'", '"', '"\\ud800"', "\x00", "\x07", "\u2028", "\ufeff5", "é", "日本", "a: b: c",
    "- 1\n- 2",
    "%YAML 9.9\n---\n1", "--- 1\n--- 2", "|", "> x", "@x", "`x`", "\t5", "5\t", "$HOME", "~/x",
    "../../x",
    "<script>", "True", "None", "nan", "1,5", "1 000", "0.1.2", "2026-11-28", "[1, 02]", "[.nan]",
    "[.inf, 1]",
    "!!null x", "!!bool x", "!!map [a]", "!!seq {a: b}", "!!str [a]", "!!omap [a]", "!!pairs [a]",
]  # fmt: skip
KEYS = sorted({name for one in PARAMETERS.values() for name in one})
HEADS = ("description", "groups", "tables", "seeds", "also")
BASE = {"description": "A small study.", "groups": ["own"], "seeds": [0, 1], "epochs": 3,
    "width": 0.25,
        "n_segments": [4, 8], "n_concepts": 5, "q_max": 3, "flip": False, "network": "r3d18",
        "dataset": "actors", "dataset_options": {"takes": 2}, "class_name": "wave"}  # fmt: skip


def _spelled(key: str, rng: np.random.Generator) -> str:
    at = int(rng.integers(len(key)))
    near = [key[:at] + key[at + 1 :], key.upper(), key.replace("_", "-"), f" {key}", key * 20]
    return str(rng.choice([*near, key[:at] + "é" + key[at:], "", "a.b", "__class__", "self"]))


def _file(rng: np.random.Generator, path: Path) -> tuple[str, bool]:
    """Write a bad parameter file; say what is bad, and whether it must be refused."""
    text = yaml.safe_dump(BASE, allow_unicode=True, sort_keys=False)
    key = str(rng.choice([*KEYS, *HEADS]))
    kind = str(rng.choice(["value"] * 6 + ["spelling", "spelling", "encoding", "encoding", "twice",
        "bomb",
        "bytes", "bytes", "node", "keys", "top", "deep"]))  # fmt: skip
    must = False
    if kind == "value":
        word = str(rng.choice(WORDS))
        kind, text = f"{key}: {word[:12]!r}", text + f"\n{key}: {word}\n"
        must = f"\n{key}:" in f"\n{yaml.safe_dump(BASE)}"
    elif kind == "spelling":
        wrong = _spelled(key, rng)
        text, must = text + f"\n{wrong}: 3\n", wrong.strip() not in (*KEYS, *HEADS)
    elif kind == "twice":
        text, must = text + "epochs: 300\n", True
    elif kind == "bomb":
        rows = [
            f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]"
            for i in range(12)
        ]
        text, must = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "\n".join(rows), True
    elif kind == "keys":
        text += str(rng.choice(["1: 2\n", "null: 3\n", "[a, b]: 3\n", "{a: b}: 3\n", "1.5: x\n",
            "yes: no\n",
                                "? |\n  a\n: 3\n"]))  # fmt: skip
        must = True
    elif kind == "top":
        text = str(
            rng.choice(
                ["- a\n- b\n", "text", "3", "[1, 2]", "null", "", "---\na: 1\n---\nb: 2\n", "#"]
            )
        )
    elif kind == "deep":
        text += "dataset_options: " + "{a: " * 2000 + "1" + "}" * 2000 + "\n"
        must = True
    data = text.encode()
    if kind == "encoding":
        how = str(
            rng.choice(
                ["utf-16", "utf-16-le", "utf-32", "latin-1", "bom", "nul", "tabs", "crlf", "cp037"]
            )
        )
        kind, wide = f"encoding {how}", text.replace("small", "kleine, schöne")
        data = {"bom": b"\xef\xbb\xbf" + data, "nul": data.replace(b"small", b"\0"),
                "tabs": data.replace(b": ", b":\t").replace(b"\n  ", b"\n\t"),
                "crlf": data.replace(b"\n", b"\r\n")}.get(how) or wide.encode(how)  # fmt: skip
    elif kind == "bytes":
        kind, data = mutated(data, rng, data)
    if kind == "node":
        kind = str(rng.choice(["folder", "loop", "dangling", "pipe", "name"]))
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "name":
            path.with_name("own file é.yaml").write_bytes(data)
            Path(os.fsdecode(os.fsencode(path.parent) + b"/caf\xe9.yaml")).write_bytes(data)
        else:
            path.symlink_to(path.name if kind == "loop" else "nowhere.yaml")
    else:
        path.write_bytes(data)
    return f"file {kind}", must


def _sound(settings: dict[str, dict]) -> str:
    """Say what in accepted parameters no notebook can work with."""
    for stage, values in settings.items():
        for name, value in values.items():
            if not PARAMETERS[stage][name].accepts(value):
                return f"{name} is {value!r}"
            flat = value if isinstance(value, list) else [value]
            for one in flat:
                if isinstance(one, int | float) and not abs(one) < 2**63:
                    return f"{name} is {str(value)[:50]}"
    return ""


def _planned(name: str, words: list[str]) -> str:
    for job in jobs.plan(name, jobs.assignments(words)):
        if wrong := _sound(job.settings):
            return wrong
        datasets.check_options(
            job.settings["train"]["dataset"], job.settings["train"]["dataset_options"]
        )
    return ""


def parameters(rng: np.random.Generator, place: Path, stock: Path) -> Trial:
    """Give bad parameters to a study: in a file, after ``--set``, and from papermill."""
    folder = HOME / "notebooks" / "parameters"
    if not folder.is_relative_to(place.parent):
        raise RuntimeError(f"{folder} is no folder of the campaign, and is left as it is.")
    for old in os.scandir(os.fsencode(folder)):
        os.unlink(old) if not old.is_dir(follow_symlinks=False) else os.rmdir(old)
    path = folder / "own.yaml"
    kind, key = (
        str(rng.choice(["file", "file", "set", "set", "papermill", "command"])),
        str(rng.choice(KEYS)),
    )
    if kind == "file":
        what, must = _file(rng, path)

        def act():
            runs = known()
            settings = [find("own", runs)[0].settings()] if "own" in runs else []
            wrong = "".join(map(_sound, settings))
            return wrong or ("it was taken" if must else "")

        return Trial(what, act, ("own.yaml", "caf", *KEYS, *HEADS, "Unknown parameter"))
    path.write_text(yaml.safe_dump(BASE), "utf-8")
    word = str(rng.choice(WORDS))
    if kind == "papermill":
        values = [None, "3", b"3", 3.0, -1, math.nan, math.inf, 10**400, True, [], {}, [[1]], (1,
            2), {1, 2},
                  np.int64(3), np.float32(0.5), np.array([1, 2]), Decimal("0.5"), Fraction(1, 2),
                  "\ud800",
                  Path("x"), object(), 1j, range(3), "x" * 10**5, [math.nan], [None],
                  {"a": {"b": 1}}]  # fmt: skip
        value = values[int(rng.integers(len(values)))]
        stages = {**PARAMETERS, **NOTEBOOKS}
        stage = str(rng.choice(list(stages)))
        name = str(rng.choice([*stages[stage], _spelled(key, rng)]))

        def act():
            found = study_parameters.read(stage, {name: value})
            return _sound({stage: vars(found)}) if stage in PARAMETERS else ""

        return Trial(f"papermill {name[:20]}: {type(value).__name__}", act, (name[:40],))
    name = key if rng.random() < 0.8 else _spelled(key, rng)
    pairs = [
        f"{name}={word}",
        *([f"{rng.choice(KEYS)}={rng.choice(WORDS)}"] if rng.random() < 0.3 else []),
    ]
    pairs = [word] if rng.random() < 0.05 else pairs
    if kind == "set":
        return Trial(f"set {pairs[0][:30]!r}", lambda: _planned("own", pairs), ())
    line = [
        "run",
        "own",
        "--from",
        "visualize",
        "--folder",
        place / "out" / "run",
        "--seeds",
        "0",
        "--set",
        *pairs,
    ]
    swaps = [
        [],
        ["--seeds", word],
        ["--from", word],
        ["--also", word],
        ["--folder", word],
        ["--set"],
    ]
    line += swaps[int(rng.integers(len(swaps)))]
    line[1] = str(rng.choice(["own", "own", "own", word, "../own", "own.yaml", "nobody"]))
    verify = ["verify", str(rng.choice([word, "own", str(place), "/dev/null", "nobody"]))]
    line = line if rng.random() < 0.85 else verify

    def act():
        command(main, line)
        return "it ended well without a run"

    return Trial(f"command {' '.join(map(str, line[-2:]))[:40]!r}", act, ())


# --- arguments ---------------------------------------------------------------------------------


def _net(classes: int = 2) -> torch.nn.Module:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3), torch.nn.AdaptiveAvgPool3d(1))
    return net.extend([torch.nn.Flatten(), torch.nn.Linear(4, classes)])


SCALARS = [None, "3", "", "x", b"x", -1, 0, 1, 2.5, -0.5, math.nan, math.inf, -math.inf, 10**30,
    True, (), [],
           {}, set(), [1, 2], (3, 3), (0, 0), (-1, 5), (8, 4), [math.nan], ["a", "b"], range(3),
           object(), 1j,
           np.int64(2), np.float32(1.5), np.array(3), np.array([]), np.array([1, 2]), Decimal(2),
           Fraction(1, 2), torch.tensor(2), Path("x"), len, "cuda:99", ("a", 1), {"a": 1},
           iter([4, 8])]  # fmt: skip


def _arrays(rng: np.random.Generator) -> list:
    good = rng.integers(0, 256, (4, 4, 24, 24, 1), np.uint8)
    wild = np.where(rng.random(good.shape) < 0.01, np.nan, 0.5).astype("f4")
    return [good[0], good[:0], good[:1], good[..., :0], good[:, :0], good.astype("f8"),
        good.astype("i8"), -good / 255,
            wild, np.full(good.shape, np.inf), good.astype(bool), good.astype(object),
            good.astype(str),
            good.astype(complex), good.tolist(), np.repeat(good, 4, -1), np.repeat(good, 3, -1),
            good[:, :1],
            good[:, :, :2, :2], good[:, :, ::2], torch.from_numpy(good),
                torch.from_numpy(good / 255).half(),
            torch.from_numpy(good).permute(0, 4, 1, 2, 3), (x for x in good), list(good),
            np.float16(good / 255),
            np.ma.masked_array(good, good > 9), np.asfortranarray(good),
            pd.DataFrame(good[0, 0, :, :, 0]),
            "frames.npy", None, 7, {}, set(), np.zeros((2, 3, 4, 3, 3), np.uint8),
            memoryview(good)]  # fmt: skip


FEW = {
    "n_segments": (4, 8),
    "n_concepts": 3,
    "n_keep": 5,
    "n_groups": 3,
    "random": 10,
    "progress": False,
}


def _explained(**given) -> str:
    clips = textures(4, n_frames=4, size=(24, 24), channels=1).frames
    base = {"model": _net(), "layer": "0", "clips": clips, "target_class": 1, **FEW}
    found = explain(**{**base, **given})
    bad = ~np.isfinite(found.scores["score"].astype(float)).all()
    return "scores that are no numbers" if bad else ""


def _adapted(**given) -> str:
    base = {"model": _net(), "layer": "0", "clip_shape": (1, 4, 24, 24)}
    found = adapt(**{**base, **given})
    with torch.no_grad():
        out = found(torch.zeros(2, 1, 4, 24, 24))
    return "" if out.shape == (2, 2) and out.isfinite().all() else f"logits of {tuple(out.shape)}"


def _clipped(**given) -> str:
    base = {"frames": np.zeros((2, 4, 8, 8, 1), np.uint8), "labels": [0, 1], "ids": ["a", "b"],
            "groups": ["p", "q"], "classes": ("walk", "run"), "parts": None}  # fmt: skip
    clips = Clips(**{**base, **given})
    return (
        ""
        if len(clips) == len(clips.labels) == len(clips.select([0]).ids) + len(clips) - 1
        else "lengths"
    )


def _segmented(**given) -> str:
    base = {
        "clips": textures(2, n_frames=4, size=(24, 24), channels=1),
        "n_segments": (4, 8),
        "progress": False,
    }
    found = supervoxels.segment(**{**base, **given})
    return "" if len(found.table) else "no supervoxels"


def _ablated(which: str, **given) -> str:
    found = Explanation.load(STOCK[0] / "explanation")
    network = adapt(_net(), "0", clip_shape=(1, 4, 24, 24))
    clips = found.clips
    base = {"network": network, "clips": clips, "supervoxels": found.supervoxels,
        "concepts": found.concepts,
            "rankings": {found.class_name: found.ranking}}  # fmt: skip
    subject = ablation.Subject(**base, **(given if which == "subject" else {}))
    orders = [ablation.ranked(**{"n_random": 2, "seed": 0, **(given if which == "order" else {})})]
    how = {"q_max": 2, "seed": 0, "progress": False, **(given if which == "run" else {})}
    table = pd.concat(ablation.run(subject, *orders, **how))
    return "" if len(table) else "no outcomes"


STOCK: list = []
VIDEO = np.zeros((20, 24, 32, 1), np.uint8)


class _Videos(datasets.folder.Videos):
    def read(self, i):
        return VIDEO


def _videos() -> _Videos:
    table = pd.DataFrame({"id": ["a", "b"], "label": [0, 1], "class": ["c", "d"], "group": "g"})
    return _Videos(table, ["c", "d"])


def _cached(**given) -> str:
    base = {"videos": _videos(), "folder": "../out/cache", "size": (12, 12), "progress": False}
    return "" if len(cache(**{**base, **given})) == 2 else "a video is lost"


def _middle(**given) -> str:
    made = middle_clips(**{"videos": _videos(), "n_frames": 4, "crop": (8, 8), **given})
    return "" if len(made) else "no clips"


def _decoded(**given) -> str:
    return "" if len(decode(**{"path": STOCK[1], **given})) else "no frames"


def _loaded(**given) -> str:
    base = {"folder": str(STOCK[0] / "films"), "test_groups": ["b"]}
    videos = datasets.load("folder", given.pop("split", "train"), **{**base, **given})
    return "" if len(videos.read(0)) else "no frames"


def _drawn(**given) -> str:
    base = {"n": 2, "folder": STOCK[0] / "films", "n_frames": 4, "size": (16, 16)}
    return "" if len(random_clips(**{**base, **given})) else "no clips"


def _built(**given) -> str:
    base = {
        "name": "r3d18",
        "n_classes": 3,
        "width": 0.125,
        "in_channels": 1,
        "input_size": (4, 16, 16),
    }
    net = models.build(**{**base, **given}).eval()
    return (
        ""
        if net(torch.zeros(1, net.settings["in_channels"], 4, 16, 16)).isfinite().all()
        else "no numbers"
    )


def _textured(**given) -> str:
    return "" if len(textures(**{"n": 2, "n_frames": 4, "size": (16, 16), **given})) else "no clips"


def _encoded(**given) -> str:
    return "" if film.html(**{"frames": VIDEO, **given}) else "no page"


def _cut(**given) -> str:
    made = fitted(**{"frames": VIDEO, "parts": None, "size": (8, 8), **given})[0]
    return "" if made.size else "no frames"


OF_EXPLAIN = (
    "layer target_class mean std classes n_segments n_concepts n_keep n_groups compactness sigma "
    "target features concept_layer stretch pool q_max random n_random_orders n_matched seed "
    "batch_size device random_from test_clips"
)
# What tries a call, which of its arguments are given arrays, and which are given other values.
CALLS = {
    "explain": (_explained, ("model clips random test_clips", OF_EXPLAIN)),
    "adapt": (_adapted, ("model", "layer clip_shape mean std classes channel_axis pool")),
    "Clips": (_clipped, ("frames parts labels", "labels ids groups classes frames")),
    "segment": (_segmented, ("clips",
        "n_segments compactness sigma spacing min_fraction threshold")),
    "ablation.Subject": (lambda **g: _ablated("subject", **g), ("", "stretch batch_size device")),
    "ablation.ranked": (lambda **g: _ablated("order", **g), ("", "n_random seed")),
    "ablation.run": (lambda **g: _ablated("run", **g), ("", "q_max seed")),
    "cache": (_cached, ("", "size min_frames max_frames")),
    "middle_clips": (_middle, ("", "n_frames crop indices")),
    "decode": (_decoded, ("", "path fps")),
    "load": (_loaded, ("",
    "split test_groups group_pattern groups_file fps stride fit window window_frames parts")),
    "random_clips": (_drawn, ("", "n folder n_frames size channels exclude seed")),
    "build": (_built, ("", "name n_classes width in_channels input_size layer dropout seed")),
    "textures": (_textured, ("", "n n_frames size channels seed")),
    "film.html": (_encoded, ("frames", "")),
    "fitted": (_cut, ("frames", "size how")),
}  # fmt: skip


def arguments(rng: np.random.Generator, place: Path, stock: Path) -> Trial:
    """Call a function with one argument that is not what it takes."""
    STOCK[:] = shelf(stock), stocked(stock)["xvid.avi"]
    name = str(rng.choice(list(CALLS), p=np.array([4, *[1] * (len(CALLS) - 1)]) / (len(CALLS) + 3)))
    call, (arrays, numbers) = CALLS[name]
    known = [(one, _arrays) for one in arrays.split()] + [(one, None) for one in numbers.split()]
    argument, made = known[int(rng.integers(len(known)))]
    values = made(rng) if made else list(SCALARS)
    value = values[int(rng.integers(len(values)))]
    told = type(value).__name__
    told += str(value.shape).replace(" ", "") if hasattr(value, "shape") else f" {str(value)[:12]}"
    return Trial(
        f"{name}({argument}={told})",
        lambda: call(**{argument: value}),
        (argument, "The path", argument[-5:], *([repr(value)] if isinstance(value, str) else [])),
    )


# --- names -------------------------------------------------------------------------------------

SCRIPT = "<script>alert(1)</script>"
NAMES = [SCRIPT, "$x^2$", r"$\frac{$", "🎬 日本", "two\nlines", "a\tb", "é" * 127, "x" * 255,
    ".hidden", "--help", "-rf",
         "a b", "%s %d {0} {x}", "\"quoted\" 'too'", "</script><img src=x onerror=alert(1)>",
         "&lt;b&gt;", "a&b",
         "`rm`", "$(true)", "con", "nul", "a;b|c", "*?[a]", "\\back\\slash", "\u202eright to left",
         "\u0301accent",
         "\x1b[31mred", "__init__", "null", "1e5", "010", "yes", "#hash", "a,b", "=1+1",
         "[link](javascript:alert(1))",
         "a/b", "..", "", " ", "\x00", "\ud800", "\udce9", "{{x}}", "<b>", "]]>", "'''", "<!--",
         "javascript:alert(1)"]  # fmt: skip


def _is_raw(page: str, name: str) -> str:
    """Say which tag of a name stands in a page as one."""
    tags = ("<script>alert", "<img src=x", "<b>", '<!--"')
    return next((f"{tag} stands in the page" for tag in tags if tag in page and tag in name), "")


def _shown(name: str) -> str:
    """Show a name in a table, in films, in the explorer and in figures."""
    clips = Clips(np.zeros((1, 4, 8, 8, 1), np.uint8), [0], [name], [name], (name,))
    cut = Supervoxels(
        np.ones((1, 1, 4, 8, 8), np.uint8), pd.DataFrame({"video": [0], "level": [0], "label": [1]})
    )
    row = pd.DataFrame({"class": [name], "concept": [0], "supervoxel": [0], "rank": [0]})
    score = {"score": [0.9], "ci_low": [0.8], "ci_high": [1.0], "verdict": ["for"]}
    scores = row[["class", "concept"]].assign(rank=1, **score)
    table = pd.DataFrame({name: [name]}, index=[name])
    pages = [explorer.page(clips, cut, Concepts(row, None, {}), scores), film.html(clips.frames[0],
        alt=name),
             tables.style(table, name).to_html()]  # fmt: skip
    made = [charts.score_chart(scores), figures.clip_sheet(clips.frames, [name])]
    for figure in made:
        figure.savefig(io.BytesIO(), format="png")
        texts = [text for text in figure.findobj(plt.Text) if text.get_text() == name]
        plt.close(figure)
        if name.strip() and not texts:
            return "a figure shows another name"
    return "".join(_is_raw(page, name) for page in pages)


def _kept(name: str, out: Path) -> str:
    """Save and load clips of a class of a name."""
    clips = Clips(np.zeros((2, 4, 8, 8, 1), np.uint8), [0, 0], [name, "b"], ["g", name], (name,))
    clips.save(out / "clips")
    back = Clips.load(out / "clips")
    same = back.classes == clips.classes and list(back.ids) == list(clips.ids)
    return "" if same else f"{ascii(back.classes)} came back"


def _network(name: str, out: Path) -> str:
    """Save and load a network with a class of a name."""
    network = models.build("c3d", 2, 0.125, 1, (4, 16, 16))
    network.classes = (name, "b")
    models.save(out / "net.safetensors", network, note=name)
    back = models.load(out / "net.safetensors")
    return (
        ""
        if tuple(back.classes) == (name, "b") and back.metadata["note"] == name
        else "another name came back"
    )


def _run(name: str, out: Path) -> str:
    """Make a run in a folder of a name."""
    run = Run(out / name)
    with run.stage("train", {"epochs": 2}).write() as folder:
        (folder / "note.txt").write_text("kept", "utf-8")
    return (
        ""
        if run.verify("train") == "" and not run.stage("train", {"epochs": 2}).todo
        else "not current"
    )


def _folder(name: bytes, place: Path, stock: Path, as_class: bool) -> str:
    """Load, check and cache films of a class, or in a file, of a name."""
    films, body = place / "in" / "films", stocked(stock)["xvid.avi"].read_bytes()
    videos = datasets.load(
        "folder", "train", folder=films, test_groups=["b"], group_pattern=r"_(\w)\.avi$"
    )
    if as_class and name[:1] in b"._":  # put aside on purpose
        return "" if videos.classes == ("clap",) else "it was taken"
    if len(videos) != 2:
        return f"{len(videos)} films of 2"
    kept = cache(videos, place / "out" / "cache", (24, 24), progress=False)
    both = [kept.read(i) for i in range(len(kept))]
    code = datasets_main(
        ["folder", "--check", "--folder", str(films), "--group-pattern", r"_(\w)\.avi$"]
    )
    wanted = os.fsdecode(name)
    there = wanted in kept.classes if as_class else any(wanted in one for one in kept.table["id"])
    return "" if there and len(both) == 2 and not code and body else "the name is another one"


def names(rng: np.random.Generator, place: Path, stock: Path) -> Trial:
    """Call a class, a file or a folder something that means something elsewhere."""
    name, kind = (
        str(rng.choice(NAMES)),
        str(rng.choice(["shown", "kept", "network", "run", "class", "file"])),
    )
    told = f"{kind} {ascii(name)[:24]}"
    if kind == "shown":
        return Trial(told, lambda: _shown(name), ())
    name = name if kind != "run" or name != ".." else "...."  # that is the folder above
    if kind in ("kept", "network", "run"):
        use = {"kept": _kept, "network": _network, "run": _run}[kind]
        return Trial(told, lambda: use(name, place / "out"), ())
    raw = name.encode("utf-8", "surrogateescape" if "\udce9" in name else "replace") or b"x"
    raw = raw.replace(b"/", b":").replace(b"\0", b"0")
    raw = raw if raw.strip(b".") else b"..."
    raw = raw[: 255 if kind == "class" else 249]
    films = os.fsencode(place / "in" / "films")
    for label in (raw if kind == "class" else b"wave", b"clap"):
        os.makedirs(os.path.join(films, label))
        for person in (b"a", b"b"):
            front = raw if kind == "file" and label == b"wave" else b"film"
            with open(os.path.join(films, label, front + b"_" + person + b".avi"), "wb") as file:
                file.write(stocked(stock)["xvid.avi"].read_bytes())
    return Trial(told, lambda: _folder(raw, place, stock, kind == "class"), ())
