"""Charts show what their tables say."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from book import sketches
from stce.viz import charts


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def outcomes(orders):
    rows = [
        (mode, order, q, 0.1 * q + 0.05 * i)
        for mode in ("add", "remove")
        for i, order in enumerate(orders)
        for q in range(4)
    ]
    return pd.DataFrame(rows, columns=["mode", "order", "q", "accuracy"])


def test_every_order_has_a_line_and_a_look_of_its_own():
    figure = charts.order_curves(outcomes(charts.LOOKS))
    lines = figure.axes[0].get_lines()
    assert len(lines) == len(charts.LOOKS)
    assert len({(x.get_linestyle(), x.get_marker(), x.get_color()) for x in lines}) == len(lines)
    words = {text.get_text() for text in figure.legends[0].get_texts()}
    assert "random voxels" in words and "concepts, most important first" in words
    top = next(x for x in lines if x.get_label() == "concepts, most important first")
    np.testing.assert_allclose(top.get_ydata(), [0, 10, 20, 30])


def test_orders_that_were_not_run_are_left_out():
    figure = charts.order_curves(outcomes(["top", "least"]))
    assert len(figure.axes[1].get_lines()) == 2


def test_randomised_networks_stand_below_the_trained_one():
    table = pd.DataFrame(
        {
            "network": ["trained", "random"],
            "significant": [0.4, 0.0],
            "correlation": [1.0, 0.1],
            "ci_low": [1.0, -0.2],
            "ci_high": [1.0, 0.4],
        }
    )
    left, right = charts.sanity_chart(table).axes
    assert [bar.get_width() for bar in left.patches] == [40, 0]
    assert [label.get_text() for label in left.get_yticklabels()] == ["trained", "random"]
    low, high = right.get_ylim()
    assert low > high  # the trained network is at the top


def test_agreement_has_one_dot_a_change():
    table = pd.DataFrame(
        {"changed": ["groups", "training"], "correlation": [0.9, 0.4], "ci_low": 0.1, "ci_high": 1}
    )
    (ax,) = charts.agreement_chart(table).axes
    dots = next(x for x in ax.get_lines() if x.get_marker() == "o")
    assert list(dots.get_xdata()) == [0.9, 0.4]


def test_carriers_of_several_runs_share_a_place():
    rows = [(name, 2.0 + i, 1.0) for i in range(3) for name in ("boxing", "all")]
    table = pd.DataFrame(rows, columns=["class", "top", "random"])
    (ax,) = charts.carriers_chart(table).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["boxing", "all"]
    drawn = [x for x in ax.get_lines() if len(x.get_xdata()) == 3]
    places = [np.round(x.get_ydata()).astype(int).tolist() for x in drawn]
    assert places.count([0, 0, 0]) == places.count([1, 1, 1]) == 2


def test_a_shortcut_is_shown_beside_its_control():
    table = pd.DataFrame({"first_lift": [3.0, 5.0], "first_ci_low": 1.0, "first_ci_high": 6.0})
    with_cue, without = sketches.shortcut(table, table.iloc[:1]).axes
    dots = next(x for x in with_cue.get_lines() if x.get_marker() == "o")
    assert list(dots.get_ydata()) == [5.0, 3.0]
    assert "without" in without.get_title()


def test_pointed_lists_the_orders_best_first():
    rows = [("least", 0.5), ("top", 3.0), ("occlusion", 1.2)]
    table = pd.DataFrame(rows, columns=["order", "lift"])
    table = table.assign(ci_low=table["lift"] - 0.2, ci_high=table["lift"] + 0.2)
    (ax,) = charts.pointed_chart(table).axes
    words = [tick.get_text() for tick in ax.get_yticklabels()]
    assert words[0] == "concepts, most important first" and words[1] == "occlusion"
    places = {
        tuple(x.get_xdata()): x.get_ydata()[0] for x in ax.get_lines() if x.get_marker() != "None"
    }
    assert places == {(3.0,): 0, (1.2,): 1, (0.5,): 2}
