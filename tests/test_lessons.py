"""Sentences say what their tables say."""

import pandas as pd
import pytest

from book.campaigns import choices, lessons


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
    heart = [f"labels shuffled{end}" for end in ("", " again", ", same start")]
    floor = "two shuffles, with each other"
    labels = _sanity(
        ["trained", *heart, floor], [1, 0.05, 0.15, 0.3, 0.07], [0.1, 0.01, 0.02, 0.03, None]
    )
    labels = labels.assign(fits=[None, 0.98, 0.99, 1, None], figure=[0.4, 0.02, 0.04, 0.3, None])
    labels = pd.concat([labels.assign(seed=s) for s in (0, 1)])
    table = lessons.gone(weights, labels)
    assert table["network"].tolist() == [*networks, *heart, floor]
    assert table["seeds"].tolist() == [3, 3, 3, 2, 2, 2, 2]
    text = lessons.sanity(weights, labels)
    assert "3 seeds: 10 % of concepts" in text and "at most 2.0 %" in text
    assert "from -0.10 to +0.20" in text
    assert "know 99 % of their clips: 2.0 % of concepts significant" in text
    assert "rank agreement +0.10 (4 networks, +0.05 to +0.15;" in text
    assert "interval of the mean +0.01 to +0.19)" in text
    assert "each other at +0.07" in text and "first weights of the trained network" in text
    assert "agrees with it at +0.30" in text
    assert "what a concept holds of it +0.03, in the trained networks +0.40" in text


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
    assert "(7 clips)" in text and "With noise the lead is gone" in text
    better = lessons.rivals(areas, fills.assign(gain=0.1), pointed)
    assert "lead is gone" not in better


def test_variants_are_averaged_over_seeds_beside_the_runs_own():
    kinds = [
        ("fc", "logit", "in place", 0.30, 1000),
        ("fc", "log_prob", "in place", 0.28, 1000),
        ("fc", "logit", "stretched", 0.05, 1000),
        ("conv", "logit", "in place", 0.20, 1000),
        ("conv", "logit", "pooled", 0.10, 10),
    ]
    table = pd.DataFrame(kinds, columns=["layer", "target", "features", "gain", "forwards"])
    table = table.assign(run="net", change=0.0, truth=1.0, ari=0.5, agreement=0.4)
    both = pd.concat([table.assign(seed=0), table.assign(seed=1, gain=table["gain"] + 0.1)])
    told = choices.table(both)
    assert told.index[0] == ("net", "fc", "logit", "in place")
    assert told["gain"].tolist() == pytest.approx([0.35, 0.33, 0.10, 0.25, 0.15])
    assert told["low"].iloc[0] == 0.30 and told["high"].iloc[0] == pytest.approx(0.40)
    assert told["forwards"].iloc[-1] == 0.01 and (told["seeds"] == 2).all()
    text = choices.variants(both)
    assert "fc, logit, in place gains 35 points (the largest); log_prob 33; conv 25" in text
    assert "stretched 10; pooled at conv 15 with 100 times fewer passes" in text


def test_pooling_is_an_option_unless_it_keeps_the_area():
    rows = [("one by one", 1000, 0.4), ("pooled", 10, 0.2), ("pooled", 10, 0.3)]
    table = pd.DataFrame(rows, columns=["features", "forwards", "gain"])
    table = table.assign(run="net", seed=0, layer=["fc", "conv4", "conv5"], target="logit")
    table = table.assign(change=0.0, truth=1.0, ari=0.1, agreement=0.2)
    text = choices.pooled(table, 55.4, pd.Series({"in place": 0.2, "pooled": 0.19}))
    assert "100 to 100 times fewer passes and are made **55 times** as fast" in text
    assert "95 % of that" in text and "net 75 %" in text and "Asked were 90 %" in text
    good = table.assign(gain=0.4)
    text = choices.pooled(good, 55.4, pd.Series({"in place": 0.2, "pooled": 0.19}))
    assert "as good at a fraction of the cost" in text
