"""Figures show what they are given; tables count what is there."""

import itertools

import matplotlib
import matplotlib.pyplot as plt
import nbclient
import nbformat
import numpy as np
import pandas as pd
import pytest

from book import sketches
from stce import curves
from stce.clips import Clips
from stce.concepts import Concepts
from stce.evaluation import truth
from stce.supervoxels import Supervoxels
from stce.viz import charts, figures, pictures, tables

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


def test_every_figure_is_drawn(world):
    clips, supervoxels, concepts = world
    pairs = pictures.typical(clips, supervoxels, concepts.members("wave", 0), 4)
    accuracy = curves.accuracy_table(_outcomes(), n_bootstrap=10)
    history = pd.DataFrame({"epoch": [1, 2], "loss": [2, 1.0], "accuracy": [0.2, 0.5]})
    history["test_accuracy"] = [np.nan, 0.4]
    parts = np.zeros((4, 6, 8, 8), np.uint8)
    counted = truth.counts(concepts, supervoxels, parts, ("background",))
    lifts = tables.ranked_parts(truth.composition(counted, n_bootstrap=1), {"wave": [0, 1]})
    drawn = {
        figures.clip_sheet(clips.frames, list("abcd")): 4,
        charts.learning_curve(history): 2,
        figures.resolutions(clips.frames[0], supervoxels.labels[0], ["2"], 3): 6,
        figures.concept_montage([pairs, pairs], ["one", "two"], columns=2): 2,
        figures.concept_frames(pairs, ["one", "two"]): 2,
        charts.score_chart(_scores()): 1,
        charts.accuracy_curves(accuracy): 2,
        figures.reveal_strip(clips.frames[0], [parts[0] == 0] * 2, ["q = 0", "q = 1"], 90): 6,
        charts.part_chart(lifts): 2,
    }
    for figure, n_axes in drawn.items():
        assert len(figure.axes) == n_axes
        figure.canvas.draw()


def test_dots_are_filled_by_the_test_that_keeps_its_rate():
    told = ["for", "chance", "against", "not separable"]
    # Against random sets alone the first concept passes too; that is not what is announced.
    for scores, filled in ((_scores().assign(verdict=told), [0, 2]), (_scores(), [])):
        dots = charts.score_chart(scores).axes[0].collections[-1].get_facecolors()
        assert [i for i, colour in enumerate(dots) if colour[:3].max() < 0.5] == filled
        assert np.flatnonzero(tables.significant(scores)).tolist() == filled


def test_accuracy_curves_draw_the_numbers_they_are_given():
    accuracy = curves.accuracy_table(_outcomes(), n_bootstrap=10)
    figure = charts.accuracy_curves(accuracy)
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
    counted = truth.counts(concepts, supervoxels, parts, ("back", "arm", "leg"))
    table = tables.ranked_parts(truth.composition(counted, n_bootstrap=1), {"wave": [1, 0]})
    by_rank = table.set_index("rank")
    assert by_rank["concept"].tolist() == [1, 0]
    assert by_rank.loc[2, "arm"] == pytest.approx(0.5 / 0.25)
    assert by_rank.loc[1, "arm"] == 0
    assert by_rank.loc[1, "back"] == pytest.approx(1 / 0.75)
    assert "leg" not in table


def _classes(shift=0.0):
    rows = [
        (mode, order, q, 0.1 * q + shift + 0.05 * i, 0.1 * q, 0.1 * q + 0.4)
        for mode in ("add", "remove")
        for i, order in enumerate(("top", "random", "least"))
        for q in range(4)
    ]
    return pd.DataFrame(rows, columns=["mode", "order", "q", "accuracy", "ci_low", "ci_high"])


@pytest.mark.parametrize(("mode", "word"), [("add", "added"), ("remove", "removed")])
def test_class_curves_draw_both_settings(mode, word):
    standard, small = _classes(), _classes(shift=0.2)
    figure = sketches.class_curves(standard, small, mode, "jogging")
    for ax, table, title in zip(figure.axes, (standard, small), ("(a) st", "(b) sm"), strict=True):
        assert ax.get_title().startswith(title) and "jogging" in ax.get_title()
        assert ax.get_xlabel() == f"number of concepts {word}"
        baseline, *lines = ax.lines
        start = table.query("mode == 'remove' and q == 0 and order == 'top'")["accuracy"].item()
        assert baseline.get_ydata() == pytest.approx([100 * start] * 2)
        for line, order in zip(lines, ("top", "random", "least"), strict=True):
            part = table[(table["mode"] == mode) & (table["order"] == order)]
            np.testing.assert_allclose(line.get_ydata(), 100 * part["accuracy"])
            np.testing.assert_array_equal(line.get_xdata(), [0, 1, 2, 3])
        band = ax.collections[0].get_paths()[0].vertices[:, 1]
        assert (band.min(), band.max()) == pytest.approx((0, 70))
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["Top", "Random", "Least", "intact clips"]


def test_class_curves_say_what_is_wrong():
    with pytest.raises(ValueError, match="mode is 'adding'; choose 'add' or 'remove'"):
        sketches.class_curves(_classes(), _classes(), "adding", "jogging")
    with pytest.raises(ValueError, match="no results of class 'joging'"):
        sketches.class_curves(_classes(), _classes()[:0], "add", "joging")


def _shown(ax):
    return np.asarray(ax.images[0].get_array())


def test_a_reveal_strip_names_its_mode_and_outlines_each_step():
    frames = np.full((6, 12, 12, 1), 120, np.uint8)
    masks = [np.zeros((6, 12, 12), bool) for _ in range(3)]
    masks[1][:, 2:8, 2:8] = True
    masks[2][:, 2:11, 2:8] = True
    figure = figures.reveal_strip(frames, masks, ["blank", "+ rank 1", "+ rank 2"], 40, "add")
    assert figure.texts[0].get_text().startswith("Adding concepts")
    assert [ax.get_title() for ax in figure.axes[:3]] == ["blank", "+ rank 1", "+ rank 2"]
    blank, first, second = (_shown(ax) for ax in figure.axes[:3])
    assert (blank == 40).all()
    assert (first[3:7, 3:7] == 120).all() and (first[9:] == 40).all()
    assert (first[2, 2:8] == pictures.EDGE).all()
    assert (second[2:7, 3:7] == 120).all()  # the concept before is no longer outlined
    assert (second[8, 2:8] == pictures.EDGE).all()
    plain = figures.reveal_strip(frames, masks, ["a", "b", "c"], 40)
    assert not plain.texts
    assert (_shown(plain.axes[1])[2:8, 2:8] == 120).all()
    with pytest.raises(ValueError, match="mode is 'show'; choose 'add', 'remove' or ''"):
        figures.reveal_strip(frames, masks, ["a", "b", "c"], 40, "show")


def test_settings_light_the_masks_in_the_same_clip():
    frames = np.full((4, 10, 10, 1), 200, np.uint8)
    left, right = np.zeros((2, 4, 10, 10), bool)
    left[..., :5], right[..., 5:] = True, True
    figure = sketches.settings(frames, [left, right], ["standard", "small"], n_frames=2)
    assert [ax.get_ylabel() for ax in figure.axes] == ["raw", "standard", "small"]
    raw, standard, small = (_shown(ax) for ax in figure.axes)
    assert (raw == 200).all()
    assert (standard[:, :4] == 200).all() and (standard[:, 5:10] == 60).all()
    assert (small[:, 16:] == 200).all() and (small[:, 10:15] == 60).all()


def test_high_resolution_lights_the_videos_own_pixels():
    frames = np.full((4, 120, 160, 1), 200, np.uint8)
    mask = np.zeros((4, 56, 56), bool)
    mask[:, 18:38, 18:38] = True  # 20 of the 60 x 60 voxels, from 20 on: the middle third
    figure = sketches.high_resolution([frames], [mask], ["rank 1"], (60, 60), n_frames=1)
    assert figure.axes[0].get_title() == "rank 1"
    both = _shown(figure.axes[0])
    assert both.shape == (240, 160, 3)
    lit, raw = both[:120], both[120:]
    assert (raw == 200).all()
    assert (lit[42:78, 56:104] == 200).all()
    assert (lit[40, 60:100] == pictures.EDGE).all()
    assert (lit[:39] == 60).all() and (lit[81:] == 60).all()
    assert (lit[:, :52] == 60).all() and (lit[:, 108:] == 60).all()


def test_figures_are_opaque_and_legible(world):
    clips, supervoxels, concepts = world
    pairs = pictures.typical(clips, supervoxels, concepts.members("wave", 0), 2)
    masks = [np.zeros((6, 8, 8), bool)] * 3
    for figure in (
        sketches.class_curves(_classes(), _classes(), "add", "jogging"),
        figures.concept_frames(pairs, ["one", "two"]),
        figures.reveal_strip(clips.frames[0], masks, ["a", "b", "c"], 90, "remove"),
        sketches.settings(clips.frames[0], masks[:1], ["small"]),
    ):
        figure.canvas.draw()
        assert figure.get_facecolor() == (1, 1, 1, 1)
        assert figure.get_size_inches()[0] == 9.5
        texts = [t for t in figure.findobj(plt.Text) if t.get_text() and t.get_visible()]
        assert min(t.get_fontsize() for t in texts) >= 8


def test_gains_are_drawn_run_by_run_with_their_intervals():
    rows = [
        (run, seed, mode, gain + seed, gain - 5, gain + 5)
        for run, gain in (("a", 20), ("b", -3))
        for seed in (0, 1)
        for mode in ("add", "remove")
    ]
    table = pd.DataFrame(rows, columns=["run", "seed", "mode", "gain", "ci_low", "ci_high"])
    figure = sketches.gains(table)
    left = figure.axes[0]
    assert [label.get_text() for label in left.get_yticklabels()] == ["a", "b"]
    dots = [line for line in left.lines if line.get_marker() == "o"]
    assert [line.get_xdata().tolist() for line in dots] == [[20, 21], [-3, -2]]
    assert left.get_ylim()[0] > left.get_ylim()[1]  # the first run at the top
    plt.close(figure)


def _assessed(**values):
    row = {"class": "wave", "concept": 0, "n_clips": 9, "kind": "motion", "remove": 5.0}
    row |= {"motion": 4.0, "motion_low": 3.0, "motion_high": 6.0}
    row |= {"look": 1.0, "look_low": -1.0, "look_high": 2.0}
    return row | values


def test_motion_and_look_have_one_scale_and_a_picture_a_concept():
    unseen = _assessed(concept=1, n_clips=0, kind="unseen", motion=np.nan, look=np.nan)
    rows = [_assessed(), unseen, _assessed(**{"class": "walk"}, look_high=40.0, kind="look")]
    figure = charts.motion_chart(pd.DataFrame(rows))
    wave, walk = [ax for ax in figure.axes if ax.get_title()]
    assert wave.get_ylim() == pytest.approx((-0.6, 6.6))
    assert wave.get_xlim() == pytest.approx((-1.9, 2.9))  # a logit is as long, and no half is empty
    assert {ax.get_aspect() for ax in (wave, walk)} == {1.0}
    assert walk.get_xlim()[1] > 40
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["motion", "look"]
    dots = [line for line in wave.lines if line.get_marker() == "o"]
    assert [(d.get_xdata()[0], d.get_ydata()[0]) for d in dots] == [(1.0, 4.0)]
    shown = charts.motion_chart(pd.DataFrame(rows[:1]), {("wave", 0): np.zeros((8, 8, 1), "u1")})
    (picture,) = [a for a in shown.axes[0].artists if hasattr(a, "offsetbox")]
    assert picture.xy == (1.0, 4.0)
    # Where nothing counts at all there is a scale as well.
    nil = dict.fromkeys(["motion", "motion_low", "motion_high", "look", "look_low", "look_high"], 0)
    assert charts.motion_chart(pd.DataFrame([_assessed(**nil)])).axes[0].get_xlim() == (-0.1, 0.1)


def test_pictures_of_concepts_lie_beside_their_chart_and_apart():
    near = [_assessed(concept=k, motion=4.0 + k / 10) for k in range(4)]
    shown = {("wave", k): np.zeros((8, 8, 1), "u1") for k in range(4)}
    figure = charts.motion_chart(pd.DataFrame(near), shown)
    figure.canvas.draw()
    ax = figure.axes[0]
    boxes = [a.patch.get_window_extent() for a in ax.artists if hasattr(a, "offsetbox")]
    assert all(box.x0 > ax.get_window_extent().x1 for box in boxes)
    assert all(a.y1 <= b.y0 for a, b in itertools.pairwise(boxes))
    assert max(box.x1 for box in boxes) <= figure.bbox.x1


def test_answers_of_a_sceptic_are_coloured_by_what_they_say():
    rows = [("a", 0.5, 0.2, 0.8, True), ("b", -0.5, -0.9, 0.1, False), ("c", 0.1, np.nan, 0, None)]
    columns = ["question", "value", "low", "high", "passes"]
    figure = charts.trust_chart(pd.DataFrame(rows, columns=columns))
    (ax,) = figure.axes
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [(d.get_xdata()[0], d.get_ydata()[0]) for d in dots] == [(0.5, 0), (-0.5, 1), (0.1, 2)]
    assert len({d.get_color() for d in dots}) == 3
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert told == ["passed", "not passed", "not judged"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b", "c"]


def test_a_clip_is_charted_by_frame_and_by_concept():
    concepts = pd.DataFrame({"concept": [3, 1], "contribution": [2.0, -0.5]})
    left, right = charts.clip_chart(np.array([1.0, -1.0, 0.5]), concepts).axes
    assert [bar.get_height() for bar in left.patches] == [1, -1, 0.5]
    assert [bar.get_width() for bar in right.patches] == [2, -0.5]
    assert left.patches[0].get_facecolor() == right.patches[0].get_facecolor()
    assert left.patches[1].get_facecolor() == right.patches[1].get_facecolor()
    assert [t.get_text() for t in right.get_yticklabels()] == ["concept 3", "concept 1"]


def test_choices_have_a_dot_a_run_and_their_mean_on_top():
    table = pd.DataFrame({"way": ["kmeans", "nmf"] * 2, "gain": [0.1, 0.2, 0.3, 0.6]})
    figure = sketches.choices(table, "way", {"gain": "gain (accuracy)"})
    (ax,) = figure.axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["kmeans", "nmf"]
    drawn = [np.asarray(line.get_xdata()).tolist() for line in ax.lines]
    assert [0.1, 0.3] in drawn and [0.2, 0.6] in drawn
    assert any(x == pytest.approx([0.4]) for x in drawn) and ax.get_xlabel() == "gain (accuracy)"
    three = {name: name.upper() for name in ("gain", "lift", "agreement")}
    figure = sketches.choices(table.assign(lift=1.0, agreement=0.5), "way", three)
    assert [ax.get_xlabel() for ax in figure.axes if ax.axison] == list(three.values())


def test_kinds_and_faithfulness_draw_the_numbers_they_are_given():
    table = pd.DataFrame(
        {"concepts": [10, 4], "motion": [0.9, 0], "look": [0, 1.0], "unsure": [0.1, 0]},
        index=["motion", "look"],
    ).reindex(columns=["concepts", *charts.KINDS], fill_value=0)
    figure = sketches.kinds(table)
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert sorted(w for w in widths if w) == pytest.approx([10, 90, 100])
    methods = {"method": ["a", "b"], "correlation": [0.5, 0.1], "gap": [0.3, 0.2]}
    ends = {
        name: [0.0, 0.0]
        for name in (f"{v}_{end}" for v in ("correlation", "gap") for end in ("low", "high"))
    }
    left, right = sketches.faithful(pd.DataFrame(methods | ends)).axes
    assert left.lines[-1].get_xdata().tolist() == [0.5, 0.1]
    assert right.lines[-1].get_xdata().tolist() == [0.3, 0.2]


def test_every_figure_of_a_notebook_is_shown():
    # IPython shows no figure after the first one if that is made inside matplotlib's rc_context.
    draw = "_ = charts.agreement_chart(pd.DataFrame(" + repr(
        {"changed": ["a"], "correlation": [0.1], "ci_low": [0], "ci_high": [1]}
    )
    cells = ["import pandas as pd\nfrom stce.viz import charts", f"{draw}))", f"{draw}))"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nbclient.NotebookClient(notebook, kernel_name="python3").execute()
    for cell in notebook.cells[1:]:
        assert [output.output_type for output in cell.outputs] == ["display_data"]


def test_a_network_has_a_line_from_the_clip_to_its_last_layer():
    index = pd.MultiIndex.from_tuples(
        [("a", "in place"), ("a", "m"), ("b", "in place")], names=["run", "hidden"]
    )
    table = pd.DataFrame(
        {"speed": [1, 4, 1], "share": [1, 0.8, 1], "agreement": [1, 0.5, 1]}, index
    )
    figure = sketches.halfway(table)
    share, agreement = figure.axes
    lines = [line.get_xydata().tolist() for line in share.lines]
    assert [[1, 1], [4, 0.8]] in lines and [[1, 1]] in lines
    assert [text.get_text() for text in share.texts] == ["m"] and not agreement.texts
