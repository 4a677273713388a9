"""Figures show what they are given; tables count what is there."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from stce import curves, figures, tables
from stce.clips import Clips
from stce.concepts import Concepts
from stce.supervoxels import Supervoxels

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture
def world():
    """Four clips whose left half is supervoxel 1 and whose right half is supervoxel 2."""
    frames = np.full((4, 6, 8, 8, 1), 100, np.uint8)
    clips = Clips(frames, [0, 0, 1, 1], list("abcd"), ["p"] * 4, ("wave", "walk"))
    labels = np.tile(np.repeat([1, 2], 4), (4, 1, 6, 8, 1)).astype(np.uint8)
    table = pd.DataFrame(
        [(v, 0, s) for v in range(4) for s in (1, 2)], columns=["video", "level", "label"]
    )
    members = [("wave", 0, 0), ("wave", 0, 2), ("wave", 1, 1), ("wave", 1, 3)]
    rows = pd.DataFrame(members, columns=["class", "concept", "supervoxel"])
    rows["rank"] = [0, 1, 0, 1]
    return clips, Supervoxels(labels, table), Concepts(rows, None, {"wave": np.zeros((2, 3))})


def _scores():
    rows = [("wave", k, k + 1, 1 - k / 4, 0.1, 1.0, 0.04 * (k + 1)) for k in range(4)]
    columns = ["class", "concept", "rank", "score", "ci_low", "ci_high", "q_value"]
    return pd.DataFrame(rows, columns=columns)


def _outcomes():
    rows = [
        (v, mode, order, 0, q, (v + q) % 2 == 0, q / 2)
        for v in range(6)
        for mode in ("add", "remove")
        for order in ("top", "random", "least")
        for q in range(3)
    ]
    columns = ["video", "mode", "order", "repeat", "q", "correct", "revealed"]
    return pd.DataFrame(rows, columns=columns)


def test_highlight_keeps_the_inside_and_dims_the_rest():
    frames = np.full((2, 9, 9, 1), 200, np.uint8)
    mask = np.zeros((2, 9, 9), bool)
    mask[0, 2:7, 2:7] = True
    lit = figures.highlight(frames, mask, dim=0.25)
    assert (lit[0, 3:6, 3:6] == 200).all()
    assert (lit[0, 2, 2:7] == figures.EDGE).all()
    assert (lit[~mask] == 50).all()
    assert (frames == 200).all()


def test_side_by_side_has_lit_above_raw():
    lit, raw = np.full((3, 4, 5, 3), 9, np.uint8), np.full((3, 4, 5, 1), 7, np.uint8)
    both = figures.side_by_side([(lit, raw)] * 3, gap=2)
    assert both.shape == (3, 4 + 2 + 4, 3 * 5 + 2 * 2, 3)
    assert (both[:, :4, :5] == 9).all()
    assert (both[:, 6:, :5] == 7).all()
    assert (both[:, 4:6] == 255).all()


def test_typical_takes_one_supervoxel_a_clip_in_order(world):
    clips, supervoxels, _ = world
    pairs = figures.typical(clips, supervoxels, np.array([0, 1, 2, 4, 6]), 3)
    assert len(pairs) == 3
    assert all(np.array_equal(raw, clips.frames[0]) for _, raw in pairs)
    assert (pairs[0][0][:, :, :3].mean()) > (pairs[0][0][:, :, 5:].mean())


def test_every_figure_is_drawn(world):
    clips, supervoxels, concepts = world
    pairs = figures.typical(clips, supervoxels, concepts.members("wave", 0), 4)
    accuracy = curves.accuracy_table(_outcomes(), n_bootstrap=10)
    history = pd.DataFrame({"epoch": [1, 2], "loss": [2, 1.0], "accuracy": [0.2, 0.5]})
    history["test_accuracy"] = [np.nan, 0.4]
    parts = np.zeros((4, 6, 8, 8), np.uint8)
    truth = tables.composition(concepts, supervoxels, parts, ("background",), {"wave": [0, 1]})
    drawn = {
        figures.clip_sheet(clips.frames, list("abcd")): 4,
        figures.learning_curve(history): 2,
        figures.resolutions(clips.frames[0], supervoxels.labels[0], ["2"], 3): 6,
        figures.concept_montage([pairs, pairs], ["one", "two"], columns=2): 2,
        figures.concept_frames(pairs, ["one", "two"]): 2,
        figures.score_chart(_scores()): 1,
        figures.accuracy_curves(accuracy): 2,
        figures.reveal_strip(clips.frames[0], [parts[0] == 0] * 2, ["q = 0", "q = 1"], 90): 6,
        figures.part_lift(truth): 2,
    }
    for figure, n_axes in drawn.items():
        assert len(figure.axes) == n_axes
        figure.canvas.draw()


def test_accuracy_curves_draw_the_numbers_they_are_given():
    accuracy = curves.accuracy_table(_outcomes(), n_bootstrap=10)
    figure = figures.accuracy_curves(accuracy)
    line = figure.axes[0].lines[1]
    part = accuracy[(accuracy["mode"] == "add") & (accuracy["order"] == "top")]
    np.testing.assert_allclose(line.get_ydata(), 100 * part.sort_values("q")["accuracy"])


def test_the_papers_shape():
    wide = tables.accuracy(curves.accuracy_table(_outcomes(), n_bootstrap=10), "add")
    assert wide.index.tolist() == ["Top", "Random", "Least"]
    assert wide.columns.tolist() == [1, 2, "Baseline"]
    assert wide.loc["Top"].tolist() == [50, 50, 50]
    html = tables.style(wide, "Adding", bold="max").to_html()
    assert "Adding" in html and "font-weight: bold" in html


def test_composition_is_lift_over_the_clips(world):
    _, supervoxels, concepts = world
    parts = np.zeros((4, 6, 8, 8), np.uint8)
    parts[..., :2] = 1  # a quarter of each clip, all of it in supervoxel 1
    table = tables.composition(
        concepts, supervoxels, parts, ("back", "arm", "leg"), {"wave": [1, 0]}
    )
    by_rank = table.set_index("rank")
    assert by_rank["concept"].tolist() == [1, 0]
    assert by_rank.loc[2, "arm"] == pytest.approx(0.5 / 0.25)
    assert by_rank.loc[1, "arm"] == 0
    assert by_rank.loc[1, "back"] == pytest.approx(1 / 0.75)
    assert "leg" not in table
