"""Tables of what campaigns found say what the campaigns' rows say."""

import pandas as pd
import pytest

from book.campaigns import summary


def test_false_discoveries_are_shares_of_concepts():
    rows = [("noise", 3, 1, 2, 0), ("noise", 3, 0, 1, 0), ("planted", 3, 3, 3, 3)]
    columns = ["world", "concepts", "p", "p_derivative", "q_value"]
    table = summary.false_discoveries(pd.DataFrame(rows, columns=columns)).set_index("test")
    assert table["world"].unique().tolist() == ["noise"]
    assert table.loc["random sets", "share"] == 0.5 and table.loc["both", "share"] == 1 / 6
    assert table.loc["corrected", ["share", "ci_low"]].tolist() == [0, 0]
    assert table.loc["corrected", "ci_high"] == pytest.approx(1 - 0.025 ** (1 / 6))


def test_significant_counts_what_is_found_where_there_is_something():
    null = pd.DataFrame({"world": ["noise", "planted", "planted"], "seed": [0, 0, 1]})
    null = null.assign(found=[1, 1, 0])
    tested = pd.DataFrame({"verdict": ["for", "chance", "against"], "rank": [1, 2, 4]})
    table = summary.significant(null, tested.assign(score=[1, 1, 0.2]))
    assert table["number"].tolist() == [2, 50, 3, 2, 1, 2]


def test_a_shortcut_is_counted_over_seeds_that_learnt_it_and_that_did_not():
    first = {"first_holds": [True, True], "most_rank": [1, 2], "first_q_value": [0.01, 0.2]}
    cued = pd.DataFrame({**first, "first_p": [0.01, 0.02], "holding": [2, 3]})
    cued = cued.assign(cue_there=1.0, cue_removed=0.0, cue_pasted=[0.8, 1.0])
    control = cued[list(first) + ["first_p", "holding"]].assign(first_holds=[False, True])
    table = summary.shortcut(cued, control)
    assert table["learnt"].tolist() == pytest.approx([100, 0, 90, 2, 2, 1, 2, 1, 2, 2.5])
    assert table["not"].isna().tolist() == [True] * 3 + [False] * 7
    assert table.loc["the first concept holds it", "not"] == 1


def test_carriers_are_counted_over_runs_all_classes_last():
    rows = [("all", 4, 2, 0.5, 1, 0.01), ("boxing", 3, 1, 0.4, 2, 0.2), ("all", 2, 2, 0.3, -1, 0.5)]
    columns = ["class", "top", "random", "correlation", "gain", "p"]
    table = summary.carriers(pd.DataFrame(rows, columns=columns))
    assert table.index.tolist() == ["boxing", "all"]
    assert table.loc["all"].tolist() == [3, 2, 0.4, 1, 1, 2]


def _sanity(networks, correlation, significant):
    columns = {"network": networks, "correlation": correlation, "significant": significant}
    return pd.DataFrame(columns | {"ci_low": -0.1, "ci_high": 0.1})


def test_sanity_tells_what_is_left_of_networks_that_know_nothing():
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
    table = summary.gone(weights, labels)
    assert table["network"].tolist() == [*networks, *heart, floor]
    assert table["seeds"].tolist() == [3, 3, 3, 2, 2, 2, 2]
    means = table.set_index("network")
    assert means.loc["trained", "significant"] == pytest.approx(0.1)
    random = means[means.index.str.endswith("random")]
    assert random["significant"].max() == pytest.approx(0.02)
    assert random["correlation"].tolist() == pytest.approx([0.2, -0.1])
    told = summary.by_heart(labels)
    assert told["n"].tolist() == [2, 4, 2, 2]
    by_heart = told.loc["by heart"]
    assert by_heart["fits"] == pytest.approx(98.5) and by_heart["significant"] == pytest.approx(1.5)
    assert by_heart["agreement"] == pytest.approx(0.1)
    assert (by_heart["lowest"], by_heart["highest"]) == (0.05, 0.15)
    assert by_heart[["ci_low", "ci_high"]].tolist() == pytest.approx([0.008, 0.192], abs=0.001)
    assert told.loc["two by heart", "agreement"] == pytest.approx(0.07)
    assert told.loc["by heart, same start", "agreement"] == pytest.approx(0.3)
    assert by_heart["figure"] == pytest.approx(0.03)
    assert told.loc["trained", "figure"] == pytest.approx(0.4)


def test_came_back_is_the_mean_over_seeds_best_first():
    rows = [("groups", 0.9), ("groups", 0.7), ("none", 1.0), ("training", 0.5), ("training", 0.3)]
    small = pd.DataFrame(rows, columns=["changed", "correlation"])
    small = small.assign(value="derivative", classifier="ours", seed=[0, 1, 0, 0, 1])
    sgd = small.iloc[:1].assign(changed="classifier", classifier="SGD", correlation=0.95)
    whole = pd.DataFrame({"run": ["a"], "correlation": [0.6], "seed": [0]})
    table = summary.came_back(pd.concat([small, sgd]), whole)
    assert table["changed"].tolist() == ["classifier (SGD)", "groups", "whole run: a", "training"]
    assert table["correlation"].tolist() == pytest.approx([0.95, 0.8, 0.6, 0.4])
    groups = table.set_index("changed").loc["groups"]
    assert groups["ci_low"] == pytest.approx(0.705) and groups["ci_high"] == pytest.approx(0.895)


def test_orders_are_set_beside_the_concepts_with_their_intervals():
    rows = [
        ("top", 0, 0, 0.0),
        ("least", 0.1, 0.3, 0.2),
        ("integrated gradients", -0.3, -0.1, -0.2),
    ]
    areas = pd.DataFrame(rows, columns=["order", "gain_low", "gain_high", "gain"])
    areas = areas.assign(area=0.9, ci_low=0.8, ci_high=0.95, steps=1.55)
    areas = pd.concat([areas.assign(mode=mode) for mode in ("add", "remove")])
    pointed = pd.DataFrame({"order": [r[0] for r in rows], "lift": [2.0, 1.0, 3.0]})
    table = summary.orders(areas, pointed)
    assert table.loc[("add", "top")].tolist() == ["0.90 (0.80 to 0.95)", "", "1.6", "2.0"]
    assert table.loc[("remove", "least"), "gain"] == "+0.20 (0.10 to 0.30)"
    assert table.loc[("add", "integrated gradients"), "gain"] == "-0.20 (-0.30 to -0.10)"
    assert table.loc["remove", "limbs"].tolist() == [""] * 3


def test_fillings_are_told_in_points():
    fills = pd.DataFrame({"fill": "noise", "mode": ["add", "remove"], "gain": [-0.1, 0.05]})
    assert summary.fills(fills).loc["noise"].to_dict() == {"adding": -10, "removing": 5}


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
    told = summary.variants(both)
    assert told.index[0] == ("net", "fc", "logit", "in place")
    assert told["gain"].tolist() == pytest.approx([0.35, 0.33, 0.10, 0.25, 0.15])
    assert told["low"].iloc[0] == 0.30 and told["high"].iloc[0] == pytest.approx(0.40)
    assert told["forwards"].iloc[-1] == 0.01 and (told["seeds"] == 2).all()


def test_pooling_is_told_by_its_best_layer():
    rows = [("one by one", 1000, 0.4), ("pooled", 10, 0.2), ("pooled", 10, 0.3)]
    table = pd.DataFrame(rows, columns=["features", "forwards", "gain"])
    table = table.assign(run="net", seed=0, layer=["fc", "conv4", "conv5"], target="logit")
    table = table.assign(change=0.0, truth=1.0, ari=0.1, agreement=0.2)
    told = summary.pooled(table).loc["net"]
    assert told["layer"] == "conv5" and told["share"] == pytest.approx(0.75)
    assert told["fewer"] == pytest.approx(100)
    assert (told["ari"], told["agreement"]) == pytest.approx((0.1, 0.2))


def test_choices_are_set_beside_the_first_one_on_the_same_runs():
    rows = [("a", 0, "old", 1.0), ("a", 0, "new", 2.0), ("b", 0, "old", 5.0), ("b", 0, "new", 8.0)]
    tried = pd.DataFrame(rows, columns=["run", "seed", "way", "gain"])
    table = summary.beside(tried, "way", ["gain"])
    old, new = (table.loc[("gain", way)] for way in ("old", "new"))
    assert (old["value"], old["more"], new["value"], new["more"], new["runs"]) == (3, 0, 5, 2, 2)
    assert old[["low", "high"]].isna().all()
    # Of two differences, 1 and 3, the t-quantile of one degree of freedom on a standard error of 1.
    assert new[["low", "high"]].tolist() == pytest.approx([2 - 12.706, 2 + 12.706], abs=1e-3)


def test_a_planted_cue_is_counted_by_way():
    planted = pd.DataFrame({"way": ["kmeans", "nmf"] * 2, "most": [1, 2, 1, 1]})
    planted = planted.assign(first=[True, False, True, True], sure=[True, False, False, True])
    table = summary.cues(planted.assign(false=[False, True, False, False]))
    assert table.loc["kmeans"].tolist() == [2, 2, 2, 1, 0]
    assert table.loc["nmf"].tolist() == [2, 1, 1, 1, 1]


def test_questions_that_nobody_judges_have_no_yes():
    rows = [("a", 0.5, True), ("a", 0.7, False), ("b", 1.0, None), ("b", 2.0, None)]
    table = summary.questions(pd.DataFrame(rows, columns=["question", "value", "passes"]))
    assert table.loc["a"].tolist() == [0.6, 0.5, 0.7, "1 of 2"]
    assert table.loc["b"].tolist() == [1.5, 1.0, 2.0, ""]


def test_hiding_inside_is_set_beside_hiding_in_the_clip():
    rows = [("a", "in place", 1, 0.4), ("a", "m", 3, 0.2), ("a", "in place", 1, 0.6)]
    rows += [("a", "m", 5, 0.6)]
    tried = pd.DataFrame(rows, columns=["run", "features", "speed", "gain"])
    table = summary.inside(tried.assign(truth=0.0, agreement=1.0))
    assert table.loc[("a", "in place"), ["speed", "gain", "share"]].tolist() == [1, 0.5, 1]
    assert table.loc[("a", "m"), ["speed", "gain", "share"]].tolist() == pytest.approx(
        [4, 0.4, 0.8]
    )
