import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from stce import models
from stce.models import Network
from stce.models.architectures import c3d, i3d, r3d

TINY = {"n_classes": 3, "width": 0.125, "in_channels": 1, "input_size": (8, 16, 16)}


@pytest.fixture(params=models.NETWORKS)
def network(request):
    return models.build(request.param, **TINY).eval()


@pytest.fixture
def frames():
    return torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (2, 8, 16, 16, 1), dtype=np.uint8)
    )


def count(blocks):
    return sum(p.numel() for block in blocks.values() for p in block.parameters())


@pytest.mark.parametrize(
    ("module", "n_classes", "parameters"),
    [(c3d, 101, 78_409_573), (r3d, 400, 33_371_472), (i3d, 400, 12_697_264)],
)
def test_at_width_1_it_is_the_network_of_the_paper(module, n_classes, parameters):
    with torch.device("meta"):
        assert count(module.blocks(n_classes, 1.0, 3, (16, 112, 112), 0.5)) == parameters


@pytest.mark.parametrize(
    ("module", "size", "expected"),
    [
        (
            c3d,
            (16, 112, 112),
            {
                "pool1": (64, 16, 56, 56),
                "pool2": (128, 8, 28, 28),
                "pool3": (256, 4, 14, 14),
                "pool4": (512, 2, 7, 7),
                "pool5": (512, 1, 4, 4),
                "fc6": (4096,),
                "fc7": (4096,),
            },
        ),
        (
            r3d,
            (16, 112, 112),
            {
                "stem": (64, 16, 56, 56),
                "layer2": (128, 8, 28, 28),
                "layer4": (512, 2, 7, 7),
                "avgpool": (512,),
            },
        ),
        (
            i3d,
            (64, 224, 224),
            {
                "Conv3d_1a_7x7": (64, 32, 112, 112),
                "MaxPool3d_3a_3x3": (192, 32, 28, 28),
                "Mixed_3c": (480, 32, 28, 28),
                "Mixed_4b": (512, 16, 14, 14),
                "Mixed_4f": (832, 16, 14, 14),
                "Mixed_5c": (1024, 8, 7, 7),
                "avgpool": (1024,),
            },
        ),
    ],
)
def test_shapes_are_those_of_the_papers(module, size, expected):
    with torch.device("meta"):
        blocks = module.blocks(5, 1.0, 3, size, 0.5)
        settings = {"in_channels": 3, "input_size": size}
        shapes = {name: Network(blocks, name, settings).feature_shape for name in expected}
    assert shapes == expected


def test_r3d18_is_torchvisions():
    import stce.videos.compat  # noqa: F401, I001  lets torchvision load beside a CPU-only torch
    import torchvision

    theirs = torchvision.models.video.r3d_18(num_classes=7).eval()
    ours = models.build("r3d18", 7, input_size=(4, 24, 24)).eval()
    state = theirs.state_dict()
    generator = torch.Generator().manual_seed(1)
    for key, value in state.items():  # not the 0 and 1 of a fresh network
        if key.endswith(("running_mean", "running_var", "bias")):
            center = 1.0 if key.endswith("var") else 0.0
            value.copy_(center + 0.2 * torch.randn(value.shape, generator=generator).clamp(-2, 2))
    keys = [key for key in ours.state_dict() if key not in ("mean", "std")]
    # By order, and the names are the same as well.
    assert [key.partition(".")[2] for key in keys] == list(state)
    ours.load_state_dict(dict(zip(keys, state.values(), strict=True)), strict=False)
    x = torch.randn(2, 3, 4, 24, 24, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = theirs(x)
        assert (expected[0] - expected[1]).abs().max() > 0.01
        torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-4)


def test_i3d_pads_like_tensorflow():
    # SAME: an even input of 8 under kernel 3, stride 2 is padded only at the end.
    x = torch.arange(8.0).reshape(1, 1, 1, 1, 8) + 1
    assert i3d._Pool((1, 1, 3), (1, 1, 2))(x).flatten().tolist() == [3, 5, 7, 8]
    assert i3d._Pool((1, 1, 3), (1, 1, 2))(x[..., :7]).flatten().tolist() == [2, 4, 6, 7]
    padded = i3d._same(torch.ones(1, 1, 16, 224, 15), (7, 7, 7), (2, 2, 2))
    assert padded.shape[2:] == (21, 229, 21)
    assert padded[0, 0, :, 10, 10].tolist() == [0] * 2 + [1] * 16 + [0] * 3
    assert padded[0, 0, 10, 10].tolist() == [0] * 3 + [1] * 15 + [0] * 3


def test_i3ds_global_pool_is_the_papers_pool():
    x = torch.randn(1, 4, 2, 7, 7)
    blocks = i3d.blocks(3, 0.125, 3, (16, 224, 224), 0.5)
    theirs = torch.nn.functional.avg_pool3d(x, (2, 7, 7), stride=1).flatten(1)
    torch.testing.assert_close(blocks["avgpool"](x), theirs)


def test_every_split_gives_the_same_logits(network, frames):
    x = network.prepare(frames)
    with torch.no_grad():
        logits = network(x)
        for layer in network.layers:
            other = network.split(layer)
            z = other.features(x)
            assert other.layer == other.settings["layer"] == layer
            assert not other.training
            assert z.shape == (2, other.n_features) == (2, math.prod(other.feature_shape))
            torch.testing.assert_close(other.logits(z), logits)
    assert logits.shape == (2, 3)


def test_a_split_shares_the_weights(network):
    other = network.split(network.layers[0])
    pointers = {p.data_ptr() for p in network.parameters()}
    assert {p.data_ptr() for p in other.parameters()} == pointers
    assert network.layer != other.layer


@pytest.mark.parametrize(
    ("name", "layer", "dropout"),
    [("c3d", "fc7", 0.5), ("r3d18", "avgpool", 0.0), ("i3d", "avgpool", 0.5)],
)
def test_defaults_are_the_papers(name, layer, dropout):
    network = models.build(name, **TINY)
    assert network.layer == layer
    assert network.settings["dropout"] == dropout
    assert isinstance(next(iter(network.head)), torch.nn.Dropout)


def test_c3ds_fc7_is_taken_after_its_relu(frames):
    network = models.build("c3d", **TINY).eval()
    z = network.features(network.prepare(frames))
    assert z.min() == 0 and z.max() > 0


@pytest.mark.parametrize("name", models.NETWORKS)
@pytest.mark.parametrize("size", [(1, 1, 1), (3, 5, 9), (16, 20, 31)])
def test_any_clip_size(name, size):
    network = models.build(name, 2, 0.125, 3, size).eval()
    with torch.no_grad():
        logits = network(torch.randn(2, 3, *size))
    assert logits.shape == (2, 2) and logits.isfinite().all()


@pytest.mark.parametrize("name", models.NETWORKS)
def test_gradients_reach_every_weight(name, frames):
    # C3D has no batch normalisation: with weights too small the gradients would vanish.
    network = models.build(name, **TINY, dropout=0.0)
    network.set_moments([0.5], [0.29])  # of uniform noise
    loss = torch.nn.functional.cross_entropy(network(network.prepare(frames)), torch.tensor([0, 1]))
    loss.backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad.abs().max() > 1e-6, key


def test_the_signal_keeps_its_size_through_c3d():
    network = models.build("c3d", 6, 0.125, 1, (16, 32, 32)).eval()
    x = torch.randn(4, 1, 16, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        sizes = [network.split(layer).features(x).std().item() for layer in network.layers]
    assert 0.2 < min(sizes) <= max(sizes) < 5


def test_the_seed_makes_the_weights_and_nothing_else_does():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = models.build("c3d", **TINY, seed=5).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    again = models.build("c3d", **TINY, seed=5).state_dict()
    other = models.build("c3d", **TINY, seed=6).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["trunk.conv1.0.weight"], other["trunk.conv1.0.weight"])


def test_settings_rebuild_the_network(network):
    again = models.build(**network.settings)
    ours = network.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in again.state_dict().items())


def test_prepare_normalises():
    network = models.build("r3d18", 2, 0.125, 3, (8, 16, 16))
    network.set_moments([0.2, 0.4, 0.6], [0.1, 0.2, 0.0])
    frames = torch.zeros(2, 8, 16, 16, 3, dtype=torch.uint8)
    frames[0] = torch.tensor([51, 102, 153])
    frames[1, 3, 4, 5] = torch.tensor([255, 255, 154])
    x = network.prepare(frames)
    assert x.shape == (2, 3, 8, 16, 16) and x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last_3d)
    assert x[0].abs().max() < 1e-4
    # The third channel never changes: one grey level counts as its deviation.
    torch.testing.assert_close(x[1, :, 3, 4, 5], torch.tensor([8.0, 3.0, 1.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(x, network.prepare(frames.numpy()))


def test_prepare_takes_frames_only():
    network = models.build("c3d", **TINY)
    with pytest.raises(ValueError, match=r"\(N, T, H, W, 1\) uint8, got \(2, 8, 16, 16, 3\) uint8"):
        network.prepare(torch.zeros(2, 8, 16, 16, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="float32"):
        network.prepare(torch.zeros(2, 8, 16, 16, 1))


def test_wrong_shapes_are_named(network):
    with pytest.raises(
        ValueError, match=r"takes clips \(N, 1, 8, 16, 16\), got \(2, 1, 8, 16, 8\)"
    ):
        network(torch.zeros(2, 1, 8, 16, 8))
    with pytest.raises(ValueError, match="at another layer"):
        network.logits(torch.zeros(2, network.n_features + 1))
    with pytest.raises(ValueError, match="in_channels=1, the data 3"):
        network.set_moments([0.1, 0.2, 0.3], [1, 1, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "c4d"}, "no network 'c4d'; the networks are c3d, r3d18, i3d"),
        ({"layer": "fc9"}, "no layer 'fc9'.*conv1, pool1, .*fc7, dropout7"),
        ({"layer": "fc8"}, "no layer 'fc8'"),  # the last block: nothing would be left for the head
        ({"n_classes": 1}, "n_classes must be at least 2, got 1"),
        ({"width": 0}, "width must be above 0.*got 0"),
        ({"in_channels": 2}, "in_channels must be 1 .* got 2"),
        ({"input_size": (8, 16)}, "input_size must be frames, height and width"),
        ({"input_size": (8, 16, 0)}, r"input_size .* got \[8, 16, 0\]"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
    ],
)
def test_build_says_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        models.build(**{"name": "c3d", **TINY, **change})


def test_saved_and_loaded(tmp_path, network, frames):
    network.classes = ("walk", "run", "wave")
    network.set_moments([0.3], [0.2])
    path = tmp_path / "net.safetensors"
    models.save(path, network, epoch=4, accuracy=0.5)
    state = torch.random.get_rng_state()
    other = models.load(path)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not other.training
    assert other.classes == network.classes
    assert other.settings == network.settings
    assert other.metadata == {"epoch": 4, "accuracy": 0.5}
    with torch.no_grad():
        x = network.prepare(frames)
        assert torch.equal(other.prepare(frames), x)
        assert torch.equal(other(x), network(x))
        elsewhere = models.load(path, layer=network.layers[1])
        assert elsewhere.layer == network.layers[1]
        torch.testing.assert_close(elsewhere.logits(elsewhere.features(x)), network(x))
    assert all(p.requires_grad for p in other.parameters())
    assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"]


def test_a_file_does_not_depend_on_the_layer(tmp_path, network):
    models.save(tmp_path / "a", network)
    models.save(tmp_path / "b", network.split(network.layers[0]))
    first, second = load_file(tmp_path / "a"), load_file(tmp_path / "b")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert models.load(tmp_path / "b", layer=network.layer).layer == network.layer


def test_a_file_that_is_not_ours(tmp_path):
    with pytest.raises(FileNotFoundError, match="no network file .*none"):
        models.load(tmp_path / "none")
    (tmp_path / "text").write_text("not weights")
    save_file({"w": torch.zeros(2)}, tmp_path / "weights")
    save_file({"w": torch.zeros(2)}, tmp_path / "other", {"stce": "{"})
    save_file({"w": torch.zeros(2)}, tmp_path / "resume", {"stce": json.dumps({"history": []})})
    for name in ("text", "weights", "other", "resume"):
        with pytest.raises(ValueError, match=f"{name} is not a network saved by stce"):
            models.load(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "value"), [("input_size", 3), ("width", {}), ("width", 0), ("name", []), ("layer", 7)]
)
def test_settings_that_make_no_network_name_the_file(tmp_path, name, value):
    network = models.build("c3d", **TINY)
    network.settings[name] = value
    models.save(tmp_path / "net", network)
    with pytest.raises(ValueError, match="net cannot be read .*; get it again, or make it anew"):
        models.load(tmp_path / "net")


def test_weights_that_do_not_fit(tmp_path):
    network = models.build("c3d", **TINY)
    network.settings["n_classes"] = 4
    models.save(tmp_path / "net", network)
    with pytest.raises(ValueError, match="(?s)do not fit its settings.*fc8"):
        models.load(tmp_path / "net")
    with pytest.raises(FileNotFoundError, match="the folder .*none does not exist"):
        models.save(tmp_path / "none" / "net", network)


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    network = models.build("c3d", **TINY)
    path = tmp_path / "net"
    models.save(path, network, epoch=1)

    def broken(tensors, file, header):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("stce.models.store.save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        models.save(path, network, epoch=2)
    assert models.load(path).metadata == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_network_that_does_not_fit_into_memory_is_one_sentence():
    with pytest.raises(ValueError, match=r"width is 2000.0 .* does not fit into memory; lower"):
        models.build("c3d", 2, 2000.0)
    with pytest.raises(ValueError, match="width must be above 0 .*, got 1000000000000"):
        models.build("c3d", 2, 10**30)
