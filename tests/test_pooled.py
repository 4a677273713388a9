"""Features pooled from one map: weights by hand, exact heads, finite differences."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import adaptive_avg_pool3d

from stce import ablation, concepts, features, models, supervoxels, tcav
from stce.clips import Clips
from stce.engine import pooling
from stce.evaluation import significance
from stce.models import Pooled
from stce.supervoxels import Supervoxels

SIZE = (8, 36, 28)
GRIDS = [(2, 3, 3), (4, 9, 7), (3, 5, 4), (8, 36, 28), (1, 1, 1)]


@pytest.fixture(scope="module")
def clips():
    frames = np.random.default_rng(0).integers(0, 256, (3, *SIZE, 1)).astype(np.uint8)
    return Clips(frames, [0, 0, 1], list("abc"), list("abc"), ("no", "yes"))


@pytest.fixture(scope="module")
def cut(clips):
    return supervoxels.segment(clips, n_segments=(4, 12), progress=False)


def _network(layer, name="r3d18"):
    network = models.build(name, 2, 0.125, 1, SIZE, layer=layer, dropout=0).eval()
    with torch.no_grad():  # at 0.01 the logits would differ by rounding only
        network.blocks()["fc" if name == "r3d18" else "fc8"].weight.mul_(30)
    return network


def _labels(seed=0):
    labels = np.random.default_rng(seed).integers(1, 6, (2, *SIZE)).astype(np.uint8)
    rows = [(level, label) for level in range(2) for label in (5, 1, 3)]
    return labels, pd.DataFrame(rows, columns=["level", "label"])


@pytest.mark.parametrize("grid", GRIDS)
def test_weights_are_the_averaged_masks(grid):
    labels, table = _labels()
    got = pooling.weights(labels, table, grid)
    for row, (level, label) in zip(got, table.to_numpy(), strict=True):
        mask = torch.from_numpy((labels[level] == label).astype(np.float64))
        expected = adaptive_avg_pool3d(mask[None], grid).numpy().ravel()
        np.testing.assert_allclose(row, expected / expected.sum(), atol=1e-6)


def test_weights_against_a_loop_over_voxels():
    labels, table = _labels(1)
    grid = (4, 9, 7)  # divides the clip: each voxel has one cell
    got = pooling.weights(labels, table, grid)
    counts = np.zeros_like(got)
    for place in np.ndindex(SIZE):
        cell = np.ravel_multi_index(
            [p * g // n for p, g, n in zip(place, grid, SIZE, strict=True)], grid
        )
        for s, (level, label) in enumerate(table.to_numpy()):
            counts[s, cell] += labels[(level, *place)] == label
    np.testing.assert_allclose(got, counts / counts.sum(1, keepdims=True), atol=1e-6)


def _own(layer, name="r3d18"):
    network = _network(layer, name)
    return network, Pooled.of(network)


def _slope(pooled_network, clips, y, target="logit"):
    whole = features.extract_layer(pooled_network, clips, batch_size=2)
    return tcav.slopes(pooled_network, whole, y, target)


def test_a_supervoxel_that_covers_everything_is_the_networks_own_feature(clips):
    network, seen = _own("layer4")
    table = pd.DataFrame({"video": range(3), "level": 0, "label": 1})
    whole = Supervoxels(np.ones((3, 1, *SIZE), np.uint8), table)
    own = features.extract_clips(network.split("avgpool"), clips)
    near = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(features.extract(seen, clips, whole, progress=False), own, **near)
    np.testing.assert_allclose(features.extract_clips(seen, clips), own, **near)


def test_a_supervoxel_within_a_cell_has_the_features_of_the_cell(clips):
    network, seen = _own("layer2")
    z = features.extract_clips(network, clips).reshape(3, *network.feature_shape)
    _, t, h, w = z.shape[1:]
    labels = np.ones((3, 1, *SIZE), np.uint8)
    labels[:, :, 2:4, -2:, :2] = 2
    table = pd.DataFrame({"video": range(3), "level": 0, "label": 2})
    got = features.extract(seen, clips, Supervoxels(labels, table), progress=False)
    np.testing.assert_allclose(got, z[:, :, 2 * t // SIZE[0], h - 1, 0], rtol=1e-4, atol=1e-5)
    assert (t, h, w) == seen.grid == (4, 9, 7)


def test_rows_keep_their_order_in_batches_of_any_size(clips, cut, tmp_path, monkeypatch):
    _, seen = _own("layer3")
    one = features.extract(seen, clips, cut, batch_size=1, progress=False)
    rows = np.random.default_rng(0).permutation(len(cut))[:9]
    some = features.extract_rows(seen, clips, cut, rows, batch_size=24)
    np.testing.assert_allclose(some, one[rows], atol=1e-5)
    monkeypatch.setattr(features, "POOLED_ROWS_PER_CHUNK", 7)  # clips on both sides of a border
    stored = features.extract(seen, clips, cut, tmp_path, progress=False)
    np.testing.assert_allclose(stored[:], one, atol=1e-5)
    assert one.shape == (len(cut), 32) and stored.chunks[0] == 7 and len(cut) > 14


def test_each_clip_is_seen_once(clips, cut):
    _, seen = _own("layer3")
    passed = []
    seen.trunk.register_forward_hook(lambda module, args, out: passed.append(len(out)))
    features.extract(seen, clips, cut, progress=False)
    assert sum(passed) == len(clips) < len(cut) / 5


@pytest.mark.parametrize("target", tcav.TARGETS)
def test_the_gradient_is_exact_before_a_global_average(clips, target):
    network, seen = _own("layer4")
    own = network.split("avgpool")
    expected = tcav.slopes(own, features.extract_clips(own, clips), 1, target)
    np.testing.assert_allclose(_slope(seen, clips, 1, target), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("target", tcav.TARGETS)
def test_the_gradient_is_that_of_a_constant_shift(clips, target):
    network, seen = _own("conv5b", "c3d")
    got = _slope(seen, clips, 1, target)
    z = torch.from_numpy(features.extract_clips(network, clips)).double()
    direction = torch.from_numpy(np.random.default_rng(0).normal(size=network.feature_shape[0]))
    shift = direction[:, None].expand(-1, z.shape[1] // len(direction)).reshape(1, -1)
    head, step = network.head.double(), 1e-6

    def output(z):
        logits = head(z.unflatten(1, network.feature_shape))
        return (logits.log_softmax(1) if target == "log_prob" else logits)[:, 1]

    with torch.no_grad():
        slope = (output(z + step * shift) - output(z - step * shift)) / (2 * step)
    assert slope.abs().min() > 1e-4
    np.testing.assert_allclose(got @ direction.numpy(), slope, rtol=1e-3)


def test_the_two_targets_differ_by_the_mean_over_classes(clips):
    network, seen = _own("conv4b", "c3d")
    logit = np.stack([_slope(seen, clips, y) for y in (0, 1)])
    with torch.no_grad():
        p = network(network.prepare(clips.frames)).softmax(1).T.numpy()[..., None]
    got = _slope(seen, clips, 0, "log_prob")
    np.testing.assert_allclose(got, logit[0] - (p * logit).sum(0), rtol=1e-3, atol=1e-5)
    assert np.abs(got - logit[0]).max() > 1e-3


def test_a_planted_direction_is_scored_and_tested(clips):
    _, seen = _own("layer4")
    rng = np.random.default_rng(0)
    slope = _slope(seen, clips, 1)
    towards = slope[0] / np.linalg.norm(slope[0])
    z = rng.normal(size=(60, 64)).astype(np.float32)
    z[:20] += 8 * towards
    z[20:40] -= 8 * towards
    classes, owners = np.ones(60, int), np.arange(60)
    found = concepts.cluster(z, classes, owners, clips.classes, n_concepts=3, n_keep=20)
    owner = concepts.assign(z, found.centres["yes"])
    random = rng.normal(size=(80, 64)).astype(np.float32)
    groups = tcav.random_groups(80, 4, 20, rng)
    whole = {"yes": features.extract_layer(seen, clips)}
    samples = tcav.Samples(found, z, whole, random, groups, clips.classes)
    result = tcav.score(seen, samples)
    ranking = result.ranking("yes")
    assert (ranking[0], ranking[-1]) == (owner[0], owner[20])
    assert result.scores["score"].max() == 1 and result.scores["score"].min() == 0
    table = significance.assess(seen, result, samples, n_null=40, n_shuffles=40)
    assert table.set_index("rank").loc[1, "p_weights"] < 0.05  # the head is shuffled behind a map


def test_a_layer_without_positions_is_refused(tmp_path):
    network = _network("fc7", "c3d")
    with pytest.raises(ValueError, match="layer 'fc7' of c3d .* no positions .* conv5b, pool5"):
        Pooled.of(network)
    models.save(tmp_path / "net", network)
    with pytest.raises(ValueError, match="layer 'fc7' of c3d .* no positions"):
        models.load(tmp_path / "net", features="pooled")
    with pytest.raises(ValueError, match="features is 'mean'; choose one of supervoxels, pooled"):
        models.load(tmp_path / "net", features="mean")
    again = models.load(tmp_path / "net", layer="pool5", features="pooled")
    assert again.grid == network.split("pool5").feature_shape[1:]
    assert type(again.split("fc7")) is models.Network


def test_ablation_takes_features_that_are_there_already(clips, cut):
    network = _network("avgpool")
    z = features.extract(network, clips, cut, stretch=False, progress=False)
    rows = cut.table["video"].to_numpy()
    found = concepts.cluster(z, clips.labels[rows], rows, clips.classes, n_concepts=3)
    rankings = {name: [0, 1, 2] for name in clips.classes}
    given = network, clips, cut, found, rankings

    def run(*given, **options):
        subject = ablation.Subject(*given, **options)
        return pd.concat(ablation.run(subject, ablation.ranked(1), q_max=3, progress=False))

    before = run(*given, stretch=False)
    pd.testing.assert_frame_equal(before, run(*given, features=z))
    seen = Pooled.of(network.split("layer4"))
    other = features.extract(seen, clips, cut, progress=False)
    apart = run(*given, features=other)
    together = run(seen, *given[1:])
    pd.testing.assert_frame_equal(apart, together, rtol=1e-4)
    assert len(apart) == len(before)
    with pytest.raises(ValueError, match=r"features is \(2, .* for .* supervoxels"):
        ablation.Subject(*given, features=z[:2])
