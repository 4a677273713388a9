"""Saliency maps where the truth is known, by hand, and as rankings beside the concepts."""

import itertools
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional

from stce import ablation, curves, models, supervoxels
from stce.clips import Clips
from stce.concepts import Concepts
from stce.evaluation import saliency
from stce.models.network import Network

SIZE = (4, 8, 16)
METHODS = {
    "grad-cam": saliency.grad_cam,
    "integrated gradients": saliency.integrated_gradients,
    "occlusion": saliency.occlusion,
}


class Quarters(nn.Module):
    """The mean of each quarter of the width, ``(N, 4)``."""

    def forward(self, x):
        return torch.stack([q.mean((1, 2, 3, 4)) for q in x.chunk(4, dim=-1)], dim=1)


@pytest.fixture
def world():
    """Clips with a bright second quarter, on whose brightness alone the class "yes" depends."""
    conv, head = nn.Conv3d(1, 1, 1, bias=False), nn.Linear(4, 2)
    conv.weight.data.fill_(1)
    head.weight.data = torch.tensor([[0.0] * 4, [0.0, 40.0, 0.0, 0.0]])
    head.bias.data = torch.tensor([0.0, -20.0])
    settings = {"name": "quarters", "in_channels": 1, "input_size": SIZE}
    network = Network({"conv": conv, "quarters": Quarters(), "fc": head}, "quarters", settings)
    frames = np.random.default_rng(0).integers(60, 100, (3, *SIZE, 1), np.uint8)
    frames[..., 4:8, :] = 255
    clips = Clips(frames, [1, 1, 1], ["a", "b", "c"], ["p"] * 3, ("no", "yes"))
    labels = np.tile(np.repeat([1, 2, 3, 4], 4), (3, 1, 4, 8, 1)).astype(np.uint8)
    rows = [
        (n, 0, i + 1, 0, 4, 0, 8, 4 * i, 4 * i + 4, 128, 0.25) for n in range(3) for i in range(4)
    ]
    cut = supervoxels.Supervoxels(labels, pd.DataFrame(rows, columns=supervoxels.COLUMNS))
    concepts = Concepts(None, None, {"yes": np.eye(4, dtype=np.float32)})
    # The concepts are ranked wrongly, so that only the maps can be right.
    return network, clips, cut, concepts, {"yes": [3, 0, 2, 1]}


def noise(n, size, channels=1, seed=0):
    """Clips of noise, of alternating classes."""
    frames = np.random.default_rng(seed).integers(0, 256, (n, *size, channels), np.uint8)
    return Clips(frames, np.arange(n) % 2, [str(i) for i in range(n)], ["p"] * n, ("no", "yes"))


def small(name, size=(8, 32, 32), seed=0):
    """Return a narrow network with biases, for which halving the clip does not halve the logits."""
    network = models.build(name, 2, 0.125, in_channels=1, input_size=size, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if getattr(module, "bias", None) is not None:
            nn.init.normal_(module.bias, 0, 0.3, generator=generator)
    network.set_moments([0.5], [0.3])
    return network


def run(orders, inputs, **options):
    subject = ablation.Subject(*inputs, stretch=False)
    parts = ablation.run(subject, orders, q_max=4, progress=False, **options)
    return pd.concat(parts, ignore_index=True)


def test_every_method_finds_the_region_that_the_class_depends_on(world):
    network, clips, cut, *_ = world
    maps = {name: method(network, clips, progress=False) for name, method in METHODS.items()}
    for found in maps.values():
        assert found.shape == clips.frames.shape[:4] and found.dtype == np.float32
        for n in range(3):
            table = cut.table.iloc[cut.rows_of(n)]
            assert saliency.rank_supervoxels(found[n], cut.labels[n], table)[0] == 1
    table = pd.concat([run(saliency.along(maps), world), run(ablation.ranked(0), world)])
    area = curves.areas(table, n_bootstrap=10).set_index(["mode", "order"])["area"]
    for name in METHODS:
        assert area["add", name] == 1 and area["remove", name] == 0
    assert area["add", "top"] == 0.25 and area["remove", "top"] == 0.75


def test_steps_show_as_many_voxels_as_the_concepts_do(world):
    network, clips, cut, concepts, rankings = world
    # Supervoxels of other sizes and shapes than the concepts' steps.
    labels = np.concatenate([cut.labels, np.tile(np.arange(16) // 3 + 1, (3, 1, 4, 8, 1))], axis=1)
    rows = [
        (n, 1, i + 1, 0, 4, 0, 8, 3 * i, 3 * i + 3, 96, 0.19) for n in range(3) for i in range(5)
    ]
    extra = pd.DataFrame(rows, columns=supervoxels.COLUMNS)
    table = pd.concat([cut.table, extra]).sort_values("video", kind="stable", ignore_index=True)
    inputs = network, clips, supervoxels.Supervoxels(labels, table), concepts, rankings
    rng = np.random.default_rng(0)
    videos = np.array([2, 0])
    maps = {"random": rng.normal(size=(2, *SIZE)), "cam": rng.normal(size=(2, *SIZE))}
    top = run(ablation.ranked(0), inputs, videos=videos)
    top = top[top.order == "top"].set_index(["video", "mode", "q"])["revealed"]
    found = run(saliency.along(maps, videos), inputs, videos=videos)
    assert len(found) == 2 * len(top) and found.video.unique().tolist() == [2, 0]
    for row in found.itertuples():
        voxels = np.prod(SIZE)
        assert round(row.revealed * voxels) == round(top[row.video, row.mode, row.q] * voxels)


def test_maps_belong_to_the_clips_named_by_videos(world):
    network, clips, *_ = world
    right = saliency.integrated_gradients(network, clips, progress=False)
    maps = {"map": np.stack([-right[0], right[2]])}
    videos = np.array([0, 2])
    found = run(saliency.along(maps, videos), world, videos=videos)
    first = found[(found.q == 1) & (found["mode"] == "add")].set_index("video")["correct"]
    assert not first[0] and first[2]
    with pytest.raises(ValueError, match=r"maps 'map' are of shape \(2, 4, 8, 16\), but \(3, 4,"):
        run(saliency.along(maps), world)
    with pytest.raises(ValueError, match="clips named by videos, 1 among them"):
        run(saliency.along(maps, videos), world, videos=np.array([1]))


@pytest.mark.parametrize("name", models.NETWORKS)
def test_grad_cam_is_what_the_two_halves_of_the_network_give(name):
    network, clips = small(name), noise(3, (8, 32, 32))
    layer = saliency.last_convolution(network)
    # Of clips as small as these, I3D's last blocks leave one voxel, which is no map.
    assert layer == {"c3d": "conv5b", "r3d18": "layer4", "i3d": "Mixed_4f"}[name]
    for chosen in (layer, network.layers[2]):
        half = network.split(chosen)
        x = network.prepare(torch.from_numpy(clips.frames))
        z = half.features(x).detach().requires_grad_()
        logits = half.logits(z)
        (gradient,) = torch.autograd.grad(logits[range(3), clips.labels].sum(), z)
        gradient, z = gradient.view(3, *half.feature_shape), z.view(3, *half.feature_shape)
        coarse = (gradient.mean((2, 3, 4), keepdim=True) * z).sum(1, keepdim=True)
        fine = functional.interpolate(coarse, (8, 32, 32), mode="trilinear")[:, 0].detach()
        found = saliency.grad_cam(network, clips, layer=chosen, batch_size=2, progress=False)
        assert np.ptp(found) > 0
        assert np.allclose(found, fine, atol=1e-5 * np.abs(found).max())
    assert all(w.grad is None for w in network.parameters())


def test_the_last_convolution_of_the_networks_of_the_paper():
    found = {
        name: saliency.last_convolution(models.build(name, 2, 0.125, input_size=(16, 64, 64)))
        for name in models.NETWORKS
    }
    assert found == {"c3d": "conv5b", "r3d18": "layer4", "i3d": "Mixed_5c"}


def test_grad_cam_above_a_global_pool_is_the_tube_of_the_linear_weights():
    network, clips = small("r3d18"), noise(2, (8, 32, 32))
    with torch.no_grad():
        z = network.split("layer4").trunk(network.prepare(torch.from_numpy(clips.frames)))
        weight = network.head[-1].weight[clips.labels][:, :, None, None, None]
        tube = (z * weight).sum(1, keepdim=True) / z[0, 0].numel()
        tube = functional.interpolate(tube, (8, 32, 32), mode="trilinear")[:, 0]
    assert np.allclose(saliency.grad_cam(network, clips, progress=False), tube, atol=1e-6)


def test_integrated_gradients_sum_to_the_difference_of_the_logits():
    network, clips = small("c3d", (8, 16, 16)), noise(3, (8, 16, 16))
    with torch.no_grad():
        x = network.prepare(torch.from_numpy(clips.frames))
        blank = network(torch.zeros_like(x))
        rise, half = (network(x) - blank).numpy(), (network(x / 2) - blank).numpy()
    assert np.abs(half / rise - 0.5).max() > 0.02, "of a straight path any one step gives the sum"
    for labels in (clips.labels, 1 - clips.labels):
        found = saliency.integrated_gradients(
            network, clips, labels, n_steps=300, batch_size=100, progress=False
        )
        assert np.allclose(found.sum((1, 2, 3), dtype=float), rise[range(3), labels], rtol=0.01)


@pytest.fixture
def linear():
    """A linear network of RGB clips, and its weights ``(C, T, H, W)`` for class 1."""
    size = (3, 5, 7)
    conv, fc = nn.Conv3d(3, 3, 1, bias=False), nn.Linear(3 * 105, 2)
    conv.weight.data = torch.eye(3)[:, :, None, None, None]
    settings = {"name": "linear", "in_channels": 3, "input_size": size}
    blocks = {"conv": conv, "flat": nn.Flatten(), "fc": fc}
    return Network(blocks, "flat", settings), fc.weight[1].detach().view(3, *size).numpy()


def test_integrated_gradients_of_a_linear_network_are_weight_times_input(linear):
    network, weight = linear
    clips = noise(2, (3, 5, 7), 3)
    x = network.prepare(torch.from_numpy(clips.frames)).numpy()
    found = saliency.integrated_gradients(network, clips, [1, 1], n_steps=5, progress=False)
    assert np.allclose(found, (weight * x).sum(1), atol=1e-5)


@pytest.mark.parametrize(
    ("window", "stride"), [((1, 1, 1), (1, 1, 1)), ((3, 5, 7), None), ((2, 2, 3), (1, 2, 2))]
)
def test_occlusion_of_a_linear_network_is_the_evidence_in_the_box(linear, window, stride):
    network, weight = linear
    clips = noise(2, (3, 5, 7), 3)
    x = network.prepare(torch.from_numpy(clips.frames)).numpy()
    evidence = (weight * x).sum(1)
    total, boxes = np.zeros_like(evidence), np.zeros_like(evidence)
    steps = stride or tuple(n // 2 for n in window)
    starts = [
        range(0, int(np.ceil((n - w) / s)) * s + 1, s)
        for n, w, s in zip((3, 5, 7), window, steps, strict=True)
    ]
    for corner in itertools.product(*starts):
        box = (slice(None), *(slice(c, c + w) for c, w in zip(corner, window, strict=True)))
        total[box] += evidence[box].sum((1, 2, 3), keepdims=True)
        boxes[box] += 1
    found = saliency.occlusion(
        network, clips, [1, 1], window=window, stride=stride, batch_size=4, progress=False
    )
    assert boxes.min() >= 1
    assert np.allclose(found, total / boxes, atol=1e-4)


@pytest.mark.parametrize(("side", "stride"), [(112, (2, 8, 8)), (126, (4, 18, 18))])
def test_a_box_takes_whole_steps_in_clips_of_which_a_pass_is_dear(side, stride, monkeypatch):
    given = []

    class Occlusion:
        def __init__(self, network):
            pass

        def attribute(self, x, strides, **_):
            given.append(strides)
            return torch.zeros_like(x)

    monkeypatch.setattr(saliency, "_captum", lambda: SimpleNamespace(Occlusion=Occlusion))
    network = models.build("c3d", 2, 0.125, 3, (16, side, side))
    found = saliency.occlusion(network, noise(1, (16, side, side), 3), [1], progress=False)
    assert given == [(3, *stride)] and found.shape == (1, 16, side, side)


def test_ranking_is_by_the_mean_over_all_levels():
    rng = np.random.default_rng(0)
    labels = rng.integers(1, 6, (2, 3, 6, 6)).astype(np.uint8)
    table = pd.DataFrame(
        [(lev, lab) for lev in range(2) for lab in range(1, 6) if (lev, lab) != (1, 3)],
        columns=["level", "label"],
        index=range(40, 49),
    )
    attribution = rng.normal(size=(3, 6, 6))
    means = [attribution[labels[lev] == lab].mean() for lev, lab in table.to_numpy()]
    order = saliency.rank_supervoxels(attribution, labels, table)
    assert order.tolist() == np.argsort(means)[::-1].tolist()
    flat = saliency.rank_supervoxels(np.zeros((3, 6, 6)), labels, table)
    assert flat.tolist() == list(range(9))


def test_errors_name_the_remedy(world, monkeypatch):
    network, clips, *_ = world
    for method in METHODS.values():
        with pytest.raises(ValueError, match="labels has 2 entries for 3 clips; give the class"):
            method(network, clips, [1, 1], progress=False)
    with pytest.raises(ValueError, match="no layer 'conv9'; its layers are conv, quarters"):
        saliency.grad_cam(network, clips, layer="conv9")
    with pytest.raises(ValueError, match=r"'quarters' has shape \(4,\) .* for example 'conv'"):
        saliency.grad_cam(network, clips, layer="quarters")
    with pytest.raises(ValueError, match=r"window is \(9, 1, 1\); give frames, height and width"):
        saliency.occlusion(network, clips, window=(9, 1, 1))
    with pytest.raises(ValueError, match=r"stride is \(3, 1, 1\).* \(2, 2, 2\)"):
        saliency.occlusion(network, clips, window=(2, 2, 2), stride=(3, 1, 1))
    blind = Network(
        {"flat": nn.Flatten(), "fc": nn.Linear(512, 2)},
        "flat",
        {"in_channels": 1, "input_size": SIZE},
    )
    with pytest.raises(ValueError, match="no 3D convolution whose output is more than one voxel"):
        saliency.grad_cam(blind, clips)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    for method in (saliency.integrated_gradients, saliency.occlusion):
        with pytest.raises(ModuleNotFoundError, match="install it with: pip install captum"):
            method(network, clips)
