"""All variants of the method on clips whose only evidence is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from stce import models, supervoxels
from stce.clips import Clips
from stce.datasets.textures import textures
from stce.evaluation.variants import Inputs, Variant, part_of
from stce.features import Negatives
from stce.models.network import Network
from stce.study.finished import Finished
from stce.study.run import Run
from stce.supervoxels import Supervoxels

SIZE = (4, 16, 16)
CLASSES = ("bright", "dark", "neither")
CARRIERS = {"bright": ("light",), "dark": ("shade",)}
PARTS = ("background", "light", "shade")


def _network():
    """Counts light against shade: its map has both, and positions; a blank clip is neither."""
    look = nn.Conv3d(1, 2, 1)
    fc = nn.Linear(2, 3)
    with torch.no_grad():
        look.weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1, 1))
        look.bias.zero_()
        fc.weight.copy_(torch.tensor([[9.0, -6.0], [-6.0, 9.0], [0.0, 0.0]]))
        fc.bias.copy_(torch.tensor([0.0, 0.0, 0.2]))
    blocks = {
        "look": nn.Sequential(look, nn.ReLU(), nn.AvgPool3d((2, 4, 4))),
        "avgpool": nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten()),
        "fc": fc,
    }
    network = Network(blocks, "avgpool", {"in_channels": 1, "input_size": SIZE}, CLASSES).eval()
    network.set_moments([0.5], [0.25])
    return network


def _clips(n, seed):
    """In each clip one square is much lighter or darker (the class), another a little so."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(124, 133, (2 * n, *SIZE, 1))
    parts = np.zeros((2 * n, *SIZE), np.uint8)
    for i in range(2 * n):
        sign = 1 if i < n else -1
        for square, step in zip(rng.permutation(16)[:2], (100 * sign, -40 * sign), strict=True):
            y, x = 4 * (square // 4), 4 * (square % 4)
            frames[i, :, y : y + 4, x : x + 4] += step
            parts[i, :, y : y + 4, x : x + 4] = 1 if step > 0 else 2
    names = [f"{seed}-{i}" for i in range(2 * n)]
    labels = np.repeat([0, 1], n)
    return Clips(frames.astype(np.uint8), labels, names, names, CLASSES, parts)


def _cut(n):
    """The sixteen squares of each clip."""
    volume = np.arange(16, dtype=np.uint8).reshape(4, 4).repeat(4, 0).repeat(4, 1) + 1
    labels = np.broadcast_to(volume, (2 * n, 1, *SIZE))
    rows = [
        (video, 0, i + 1, 0, 4, 4 * (i // 4), 4 * (i // 4) + 4, 4 * (i % 4), 4 * (i % 4) + 4, 64)
        for video in range(2 * n)
        for i in range(16)
    ]
    columns = "video level label t0 t1 y0 y1 x0 x1 size".split()
    return Supervoxels(labels, pd.DataFrame(rows, columns=columns).assign(fraction=1 / 16))


@pytest.fixture(scope="module")
def given():
    own = Variant("avgpool", "logit", "in place")
    random = Negatives(textures(60, n_frames=4, size=SIZE[1:]))
    return Inputs(_network(), own, _clips(12, 0), _cut(12), _clips(6, 1), _cut(6), random, 3, 10)


@pytest.fixture(scope="module")
def table(given):
    asked = [
        Variant("look", "log_prob", "pooled"),
        Variant("avgpool", "log_prob", "in place"),
        Variant("look", "logit", "pooled"),
        Variant("avgpool", "logit", "stretched"),
        Variant("look", "logit", "in place"),
    ]
    how = {"parts": PARTS, "carriers": CARRIERS, "n_top": 1, "n_groups": 4, "q_max": 2}
    return replace(given, **how).compare(asked, progress=False)


def test_the_own_variant_comes_first_and_the_rest_as_asked(table):
    assert table["layer"].tolist() == ["avgpool", "look", "avgpool", "look", "avgpool", "look"]
    targets = ["logit", "log_prob", "log_prob", "logit", "logit", "logit"]
    assert table["target"].tolist() == targets
    shown = ["in place", "pooled", "in place", "pooled", "stretched", "in place"]
    assert table["features"].tolist() == shown


def test_the_only_evidence_is_found_in_all_variants_that_can(table):
    for row in table.iloc[:4].itertuples():
        assert row.add == row.remove == row.gain == 1
        assert row.add_low == row.remove_high == 1
        assert row.change == row.change_low == 0
        assert row.truth == pytest.approx(16 - 16 / 3)  # one square of 16, one concept of 3
        assert row.truth_correlation > 0.8
    assert (table["n_clips"] == 12).all()


def test_change_is_the_gain_less_that_of_the_own_variant(table):
    np.testing.assert_allclose(table["change"], table["gain"] - table["gain"].iloc[0], atol=1e-12)
    assert table["gain"].min() < 1
    assert (table["change"].between(table["change_low"], table["change_high"])).all()


def test_likeness_is_full_where_the_concepts_are_the_same(table):
    assert table["ari"].iloc[:4].tolist() == pytest.approx([1] * 4)
    assert table["agreement"].iloc[:4].tolist() == pytest.approx([1] * 4)
    # With positions among the features the same square elsewhere is another concept.
    assert table["ari"].iloc[5] < 0.9


def test_cost_is_counted(table):
    assert table["forwards"].tolist() == [24 * 16, 24, 24 * 16, 24, 24 * 16, 24 * 16]
    assert table["n_features"].tolist() == [2, 2, 2, 2, 2, 2 * 2 * 4 * 4]
    assert table["speed"].iloc[0] == 1
    shared = table.groupby(["layer", "features"])["seconds"].nunique()
    assert (shared == 1).all()  # embedded once for both class outputs


def test_without_parts_there_is_no_truth(given):
    clips = given.clips
    bare = Clips(clips.frames, clips.labels, clips.ids, clips.groups, clips.classes)
    few = replace(given, clips=bare, n_groups=2, q_max=2)
    table = few.compare([], progress=False)
    assert table[["truth", "truth_low", "truth_correlation"]].isna().all(axis=None)
    assert table["gain"].item() == 1


def _finished_run(folder):
    """A run up to stage "tcav", of which `part_of` needs what is written here."""
    clips = _clips(5, 3)
    network = models.build("r3d18", 3, 0.125, 1, (4, 16, 16), layer="layer4")
    run = Run(folder)
    with run.stage("train", {"seed": 0}).write() as stage:
        models.save(stage / "last.safetensors", network)
    with run.stage("segment", {"seed": 0}).write() as stage:
        for name in ("train", "test"):
            clips.save(stage / f"{name}-clips")
            how = {"n_segments": (4, 8), "progress": False}
            supervoxels.segment(clips, stage / f"{name}-supervoxels", **how)
    at = {"layer": "layer3", "stretch": True, "n_concepts": 4, "n_keep": 7}
    with run.stage("cluster", at).write():
        pass
    how = {"target": "log_prob", "random_source": "textures", "random_folder": ""}
    with run.stage("tcav", how).write():
        pass
    return clips


def test_a_part_of_a_run_is_read(tmp_path):
    clips = _finished_run(tmp_path / "run")
    run = Finished(tmp_path / "run")
    given = part_of(run, n_clips=3, n_discovery=99, n_random_clips=20)
    assert given.own == Variant("layer3", "log_prob", "stretched")
    assert (given.n_concepts, given.n_keep, len(given.random)) == (4, 7, 20)
    assert len(given.clips) == 10
    rows = [0, 2, 4, 5, 7, 9]
    assert given.test.ids.tolist() == clips.ids[rows].tolist()
    whole = Supervoxels.load(tmp_path / "run" / "segment" / "test-supervoxels")
    for new, old in enumerate(rows):
        a, b = given.test_cut.rows_of(new), whole.rows_of(old)
        assert len(a) == len(b)
        assert (given.test_cut.mask(a[-1]) == whole.mask(b[-1])).all()
    given = replace(given, carriers=CARRIERS, parts=PARTS, n_groups=2, q_max=2)
    table = given.compare([], progress=False)
    assert len(table) == 1


def test_arguments_that_do_not_exist_are_refused(given, tmp_path):
    with pytest.raises(ValueError, match="target is 'odds'; choose one of logit, log_prob"):
        Variant("look", "odds")
    with pytest.raises(ValueError, match="features is 'crop'; choose one of stretched"):
        given.compare([Variant("look", features="crop")])
    with pytest.raises(ValueError, match="no layer 'fc9'"):
        given.compare([Variant("fc9")])
    with pytest.raises(ValueError, match="no positions to pool over"):
        given.compare([Variant("avgpool", features="pooled")])
    with pytest.raises(FileNotFoundError, match="does not hold"):
        part_of(Finished(tmp_path / "nothing"))
