"""Sentences say what their tables say."""

import pandas as pd
import pytest

from stce import lessons


def test_false_discoveries_are_shares_of_concepts():
    rows = [("noise", 3, 1, 2, 0), ("noise", 3, 0, 1, 0), ("planted", 3, 3, 3, 3)]
    columns = ["world", "concepts", "p", "p_derivative", "q_value"]
    table = lessons.false_discoveries(pd.DataFrame(rows, columns=columns)).set_index("test")
    assert table["world"].unique().tolist() == ["noise"]
    assert table.loc["random sets", "share"] == 0.5 and table.loc["both", "share"] == 1 / 6
    assert table.loc["corrected", ["share", "ci_low"]].tolist() == [0, 0]
    assert table.loc["corrected", "ci_high"] == pytest.approx(1 - 0.025 ** (1 / 6))


def _sanity(networks, correlation, significant):
    columns = {"network": networks, "correlation": correlation, "significant": significant}
    return pd.DataFrame(columns | {"ci_low": -0.1, "ci_high": 0.1})


def test_sanity_tells_the_worst_of_the_networks_that_know_nothing():
    networks = ["trained", "fc and above random", "conv and above random"]
    weights = pd.concat(
        [_sanity(networks, [1, 0.2, -0.1], [0.1, 0.02, 0]).assign(seed=s) for s in (0, 1, 2)]
    )
    labels = _sanity(["trained", "labels shuffled"], [1, 0.05], [0.08, 0.01])
    labels = pd.concat([labels.assign(seed=s, fits=[1.0, 0.99]) for s in (0, 1)])
    table = lessons.gone(weights, labels)
    assert table["network"].tolist()[-1] == "small networks: labels shuffled"
    assert table["seeds"].tolist() == [3, 3, 3, 2, 2]
    text = lessons.sanity(weights, labels)
    assert "3 seeds: 10 % of concepts" in text and "at most 2.0 %" in text
    assert "from -0.10 to +0.20" in text
    assert "2 small networks" in text and "know 99 % of their clips" in text
    assert "1.0 % significant, where the trained ones have 8.0 %" in text


def test_came_back_is_the_mean_over_seeds_best_first():
    rows = [("groups", 0.9), ("groups", 0.7), ("none", 1.0), ("training", 0.5), ("training", 0.3)]
    small = pd.DataFrame(rows, columns=["changed", "correlation"])
    small = small.assign(value="derivative", classifier="ours", seed=[0, 1, 0, 0, 1])
    sgd = small.iloc[:1].assign(changed="classifier", classifier="SGD", correlation=0.95)
    whole = pd.DataFrame({"run": ["a"], "correlation": [0.6], "seed": [0]})
    table = lessons.came_back(pd.concat([small, sgd]), whole)
    assert table["changed"].tolist() == ["classifier (SGD)", "groups", "whole run: a", "training"]
    assert table["correlation"].tolist() == pytest.approx([0.95, 0.8, 0.6, 0.4])
    groups = table.set_index("changed").loc["groups"]
    assert groups["ci_low"] == pytest.approx(0.705) and groups["ci_high"] == pytest.approx(0.895)


def test_rivals_are_told_apart_by_their_intervals():
    rows = [("top", 0, 0, 0.0), ("least", 0.1, 0.3, 0.2), ("random", -0.1, 0.1, 0.0)]
    rows += [("integrated gradients", -0.3, -0.1, -0.2)]
    areas = pd.DataFrame(rows, columns=["order", "gain_low", "gain_high", "gain"])
    areas = pd.concat([areas.assign(mode=mode, n_clips=7) for mode in ("add", "remove")])
    fills = pd.DataFrame({"fill": "noise", "mode": ["add", "remove"], "gain": [-0.1, 0.05]})
    pointed = pd.DataFrame({"order": [r[0] for r in rows], "lift": [2.0, 1.0, 1.5, 3.0]})
    text = lessons.rivals(areas, fills, pointed)
    assert "when adding it is ahead of least, behind integrated gradients" in text
    assert "integrated gradients 3.0, top 2.0." in text and "noise -10 and +5 points" in text
    assert "(7 clips)" in text
