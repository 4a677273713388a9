"""Supervoxels left in place, embedded by windows: the features of the whole clips."""

import numpy as np
import pytest
import torch
from torch import nn

from stce import features, models, supervoxels
from stce.clips import Clips
from stce.engine.windows import Local, Windows, local_layers, windows
from stce.models.adapt import adapt

SIZE = (8, 48, 40)


def _network(name, layer=None, channels=1):
    torch.manual_seed(0)
    network = models.build(name, 3, 0.125, channels, SIZE, layer=layer).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):  # blank maps are not blank after it
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.bias.data.normal_()
    return network


def _clips(n, channels=1):
    frames = np.random.default_rng(0).integers(0, 256, (n, *SIZE, channels), np.uint8)
    return Clips(frames, np.zeros(n, int), [str(i) for i in range(n)], ["p"] * n, ("a", "b", "c"))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "layer"),
    [("c3d", None), ("c3d", "conv2"), ("r3d18", None), ("r3d18", "layer1"), ("i3d", None)],
)
def test_features_are_those_of_the_whole_clip(name, layer, channels):
    network, clips = _network(name, layer, channels), _clips(2, channels)
    # Corners, edges, the middle, one voxel, and the whole clip; two in one frame only.
    boxes = np.array(
        [
            (0, 3, 0, 9, 0, 11), (5, 8, 39, 48, 33, 40), (2, 6, 20, 27, 0, 5),
            (3, 4, 21, 22, 19, 20), (0, 8, 11, 24, 13, 22), (0, 1, 40, 48, 4, 9),
            (0, 8, 0, 48, 0, 40),
        ]
    )  # fmt: skip
    volume = np.zeros((len(boxes), *SIZE), np.int16)
    for i, (a, b, c, d, e, f) in enumerate(boxes):
        volume[i, a:b, c:d, e:f] = np.random.default_rng(i).random((b - a, d - c, f - e)) < 0.8
    labels = torch.from_numpy(volume)
    x = network.prepare(torch.from_numpy(clips.frames))
    given = [x[i % 2] for i in range(len(boxes))]
    with torch.inference_mode():
        wanted = network.features(torch.stack(given) * (labels == 1)[:, None])
        for count in range(1, len(network.local) + 1):
            near = Windows(network, count)
            for some in (slice(None), slice(1, 3), slice(3, 4)):
                n = len(boxes[some])
                found = near.features(given[some], labels[some], [1] * n, boxes[some])
                torch.testing.assert_close(found, wanted[some], rtol=1e-4, atol=1e-5)
    assert len(network.local) > 3 or layer


def test_a_layers_stride_and_reach_are_found():
    trunk = nn.Sequential(
        nn.Conv3d(1, 4, (3, 5, 1), padding=(1, 2, 0)),
        nn.ReLU(),
        nn.Sequential(nn.Conv3d(4, 4, 3, padding=(1, 2, 2), dilation=(1, 2, 2)), nn.BatchNorm3d(4)),
        nn.MaxPool3d((1, 2, 2)),
        nn.Conv3d(4, 4, 3, stride=2, padding=1),
        nn.Flatten(),
        nn.Linear(4 * 4 * 8 * 8, 3),
    ).eval()
    found = local_layers(trunk, (1, 8, 32, 32))
    assert [(one.cells, one.stride, one.reach, len(one.module)) for one in found] == [
        ((8, 32, 32), (1, 1, 1), (1, 2, 0), 2),
        ((8, 32, 32), (1, 1, 1), (1, 2, 2), 2),
        ((8, 16, 16), (1, 2, 2), (0, 0, 0), 1),
        ((4, 8, 8), (2, 2, 2), (1, 1, 1), 1),
    ]


def test_layers_that_look_at_the_whole_clip_or_cut_it_unevenly_end_the_search():
    everywhere = nn.Sequential(nn.Conv3d(1, 2, 1), nn.AdaptiveAvgPool3d(1), nn.Conv3d(2, 2, 1))
    assert len(local_layers(everywhere.eval(), (1, 8, 16, 16))) == 1
    uneven = nn.Sequential(nn.Conv3d(1, 2, 1), nn.MaxPool3d(3), nn.Conv3d(2, 2, 1))
    assert len(local_layers(uneven.eval(), (1, 8, 16, 16))) == 1
    assert local_layers(everywhere, (1, 1, 16, 16)) == []


def test_a_trunk_without_weights_is_as_local_as_any():
    trunk = nn.Sequential(nn.AvgPool3d((1, 2, 2)), nn.Flatten()).eval()
    assert [(one.stride, one.reach) for one in local_layers(trunk, (1, 4, 8, 8))] == [
        ((1, 2, 2), (0, 0, 0))
    ]


def test_what_a_box_changes_and_the_window_for_it():
    local = Local(nn.Sequential(), (8, 16, 16), (1, 2, 2), (1, 1, 0))
    box = np.array([[0, 9, 30], [3, 1, 31]]), np.array([[2, 12, 32], [8, 2, 32]])
    start, stop = local.changed(*box)
    assert start.tolist() == [[0, 3, 15], [2, 0, 15]] and stop.tolist() == [[3, 7, 16], [8, 2, 16]]
    corner, size = local.window(start, stop)
    assert size.tolist() == [7, 6, 1]
    assert corner.tolist() == [[0, 2, 15], [1, 0, 15]]


def test_windows_are_left_out_where_they_spare_nothing():
    network = _network("c3d")
    small, whole = np.array([[0, 4, 10, 16, 10, 16]]), np.array([[0, 8, 0, 48, 0, 40]])
    assert len(windows(network, small).locals) > 1
    assert windows(network, whole) is None
    own = nn.Sequential(nn.Conv3d(1, 2, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(2, 2))
    assert windows(adapt(own, "0", clip_shape=(1, 8, 16, 16)), small) is None


def test_weights_that_have_changed_since_are_seen():
    network, clips = _network("r3d18"), _clips(1)
    cut = supervoxels.segment(clips, n_segments=(6, 30), progress=False)
    before = features.extract(network, clips, cut, stretch=False, progress=False)
    with torch.no_grad():
        next(network.parameters()).mul_(-1)
    after = features.extract(network, clips, cut, stretch=False, progress=False)
    assert np.abs(before - after).max() > 1e-3
    wanted = []
    for row in range(len(cut)):
        clip = network.prepare(torch.from_numpy(clips.frames[:1])) * torch.from_numpy(cut.mask(row))
        with torch.inference_mode():
            wanted.append(network.features(clip)[0].numpy())
    np.testing.assert_allclose(after, wanted, rtol=1e-4, atol=1e-5)


def test_a_network_in_training_stays_in_training():
    network = models.build("c3d", 2, 0.125, 1, SIZE).train()
    assert network.local and all(module.training for module in network.modules())
