"""Diagrams are exact: what they draw is what they were given, and the CAV's plane is its own."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from book import diagrams
from stce import cav

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def _world(scores=3):
    frames = np.full((8, 12, 12, 1), 90, np.uint8)
    labels = np.ones((3, 8, 12, 12), np.uint8)
    labels[..., 6:] = 2
    concepts = [[np.full((12, 12, 3), 10 * k + j, np.uint8) for j in range(4)] for k in range(3)]
    table = pd.DataFrame({"rank": [1, 2, 9], "score": [0.9, 0.6, 0.2]})[:scores]
    table["ci_low"], table["ci_high"] = table["score"] - 0.1, table["score"] + 0.05
    return frames, labels, [15, 30, 60], concepts, table


def test_the_framework_shows_levels_concepts_and_scores():
    figure = diagrams.framework(*_world(), network="C3D")
    figure.canvas.draw()
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == ["clip", "15 segments", "30 segments", "60 segments"]
    images = [np.asarray(ax.images[0].get_array()) for ax in figure.axes if ax.images]
    assert len(images) == 4 + 3 * 4
    assert [int(image[0, 0, 0]) for image in images[4:]] == [
        10 * k + j for k in range(3) for j in range(4)
    ]
    bars = figure.axes[-1]
    assert [bar.get_width() for bar in bars.patches] == pytest.approx([0.9, 0.6, 0.2])
    assert [label.get_text() for label in bars.get_yticklabels()] == ["rank 1", "rank 2", "rank 9"]
    assert any("C3D" in text.get_text() for text in figure.texts)
    assert figure.get_facecolor() == (1, 1, 1, 1)
    texts = [t for t in figure.findobj(plt.Text) if t.get_text() and t.get_visible()]
    assert min(t.get_fontsize() for t in texts) >= 8


def test_each_level_has_its_own_colour():
    figure = diagrams.framework(*_world())
    stacks = [np.asarray(ax.images[0].get_array()) for ax in figure.axes[1:4]]
    green, blue, orange = (
        image[(image[..., 3] > 0) & (np.ptp(image[..., :3].astype(int), axis=-1) > 30)][0, :3]
        for image in stacks
    )
    assert green.argmax() == 1 and blue.argmax() == 2 and orange.argmax() == 0


def test_bars_stand_level_with_their_concepts():
    figure = diagrams.framework(*_world())
    figure.canvas.draw()
    bars = figure.axes[-1]
    for k in range(3):
        image = figure.axes[4 + 4 * k].get_position()
        y = bars.transData.transform((0, k))[1]
        y = figure.transFigure.inverted().transform((0, y))[1]
        assert y == pytest.approx((image.y0 + image.y1) / 2, abs=0.01)


def test_the_framework_says_what_does_not_fit():
    frames, labels, counts, concepts, table = _world()
    with pytest.raises(ValueError, match="labels hold 2 resolutions and counts 3"):
        diagrams.framework(frames, labels[:2], counts, concepts, table)
    with pytest.raises(ValueError, match="There are 2 rows of scores for 3 concepts"):
        diagrams.framework(*_world(scores=2))


def test_a_stack_has_the_first_image_whole_and_in_front():
    images = [np.full((10, 10, 3), value, np.uint8) for value in (50, 100, 150)]
    whole = diagrams.stack(images, step=0.2)
    assert whole.shape == (14, 14, 4)
    assert (whole[5:13, 1:9, :3] == 50).all()
    assert (whole[1, 5:13, :3] == 150).all()
    assert whole[0, 0, 3] == 0 and whole[-1, -1, 3] == 0


@pytest.fixture(scope="module")
def fitted():
    """Two clouds of samples in 12 dimensions and the classifier between them."""
    rng = np.random.default_rng(0)
    concept = rng.normal(size=(20, 12)) + 2 * rng.normal(size=12)
    samples = np.concatenate([concept, rng.normal(size=(20, 12))])
    mean, scale = cav.scaling([samples])
    z = (samples - mean) / scale
    sign = np.repeat([1, -1], 20)
    weights, bias = cav.classifiers(z, z @ z.T, np.arange(40)[None], sign)
    return z[:20], z[20:], weights[0], float(bias[0])


def test_the_plane_holds_distances_along_the_cav_and_the_most_of_the_rest(fitted):
    concept, random, weights, bias = fitted
    positive, negative = diagrams.plane(concept, random, weights)
    both, points = np.concatenate([concept, random]), np.concatenate([positive, negative])
    # Along x, decisions are exactly |w| x + b.
    np.testing.assert_allclose(np.linalg.norm(weights) * points[:, 0] + bias, both @ weights + bias)
    # No other direction orthogonal to the CAV has more variance than y.
    direction = weights / np.linalg.norm(weights)
    rest = both - np.outer(both @ direction, direction)
    most = np.linalg.eigvalsh(np.cov(rest.T, bias=True))[-1]
    assert points[:, 1].var() == pytest.approx(most)
    assert points[:, 1].mean() == pytest.approx(0, abs=1e-9)


def test_the_cav_is_orthogonal_to_the_boundary_in_the_plot(fitted):
    concept, random, weights, bias = fitted
    images = [np.full((8, 8, 1), 7, np.uint8)] * 6
    figure = diagrams.cav(concept, random, weights, bias, images, images[:4])
    figure.canvas.draw()
    ax = next(ax for ax in figure.axes if not ax.images)
    assert sum(bool(other.images) for other in figure.axes) == 10
    (boundary,) = ax.lines
    line = boundary.get_transform().transform(boundary.get_xydata())
    arrow = next(t for t in ax.texts if t.arrow_patch is not None)
    tail, tip = ax.transData.transform([arrow.xyann, arrow.xy])
    assert np.dot(tip - tail, line[1] - line[0]) == pytest.approx(0, abs=1e-6)
    assert tip[0] > tail[0]  # towards the concept
    # The decision is 0 on the boundary, and the arrow starts there.
    assert np.linalg.norm(weights) * boundary.get_xdata()[0] + bias == pytest.approx(0)
    assert arrow.xyann[0] == pytest.approx(boundary.get_xdata()[0])
    drawn = [np.asarray(c.get_offsets()) for c in ax.collections]
    for points, expected in zip(drawn, diagrams.plane(concept, random, weights)[::-1], strict=True):
        np.testing.assert_allclose(points, expected)
        assert (points[:, 1] > ax.get_ylim()[0]).all() and (points[:, 1] > arrow.xy[1]).all()


def test_samples_lie_on_the_side_that_the_classifier_puts_them(fitted):
    concept, random, weights, bias = fitted
    boundary = -bias / np.linalg.norm(weights)
    for samples, points in zip(
        (concept, random), diagrams.plane(concept, random, weights), strict=True
    ):
        assert ((samples @ weights + bias > 0) == (points[:, 0] > boundary)).all()
