"""Verdicts on worlds with known answers."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from book import paper, verdict
from stce.evaluation import paired

COLUMNS = ["model", "run", "seed", "id", "mode", "order", "q", "correct"]


def world(gap, n=200, seeds=(0, 1), mode="add", seed=0):
    """Outcomes in which top recognises `gap` more of the clips than random, and so on to least."""
    rng = np.random.default_rng(seed)
    rows = []
    for s in seeds:
        ease = rng.random(n)
        for order, lift in (("top", gap), ("random", 0.0), ("least", -gap)):
            shift = lift if mode == "add" else -lift
            rows += [
                ("C3D", "r", s, f"clip{v}", mode, order, q, ease[v] < 0.5 + shift)
                for v in range(n)
                for q in (1, 2)
            ]
    return pd.DataFrame(rows, columns=COLUMNS)


@pytest.mark.parametrize("mode", ["add", "remove"])
def test_a_planted_gap_is_found_with_the_papers_sign(mode):
    judged = paired.judge(verdict.gaps(world(0.2, mode=mode)))
    assert set(judged["verdict"]) == {"holds"}
    least = judged[(judged["first"] == "top") & (judged["second"] == "least")]
    assert least["gap"].between(30, 50).all()
    reversed_ = paired.judge(verdict.gaps(world(-0.2, mode=mode)))
    assert set(reversed_["verdict"]) == {"reversed"}


def test_without_a_gap_the_test_keeps_its_level():
    rng = np.random.default_rng(1)
    p = []
    for trial in range(200):
        difference = rng.choice([-1, 0, 1], 60)  # symmetric: no order is better
        p.append(verdict.sign_flips(difference.astype(float), 500, np.random.default_rng(trial)))
    share = np.mean(np.array(p) < 0.05)
    assert stats.binomtest(int(share * 200), 200, 0.05).pvalue > 0.01
    assert share <= 0.1


def test_a_clip_seen_by_many_seeds_counts_once():
    # Ten equal copies of one seed must not make a gap more significant than one of them does.
    one = verdict.gaps(world(0.03, n=80, seeds=(0,)))
    ten = world(0.03, n=80, seeds=(0,))
    ten = pd.concat([ten.assign(seed=s) for s in range(10)])
    np.testing.assert_allclose(one["p"], verdict.gaps(ten)["p"])


def test_the_papers_gaps_agree_with_the_textbook():
    table = verdict.paper_gaps(paper.table(3))
    row = table[(table["q"] == 5) & (table["first"] == "top") & (table["second"] == "least")].iloc[
        0
    ]
    assert row["gap"] == pytest.approx(46.23 - 31.87)
    hits = np.round(np.array([0.4623, 0.3187]) * 863)
    chi2 = stats.chi2_contingency([hits, 863 - hits], correction=False)
    assert row["p"] == pytest.approx(chi2.pvalue, rel=0.05)  # whole videos
    assert row["p_best"] < row["p"]
    removed = verdict.paper_gaps(paper.table(4))
    assert (removed[removed["second"] == "least"]["gap"] > 0).mean() > 0.7


def test_the_papers_first_table_fails_where_the_decisions_chapter_says():
    table = verdict.paper_gaps(paper.table(1))
    wrong = table[(table["second"] == "least") & (table["first"] == "top") & (table["gap"] <= 0)]
    assert {(r.model, r.q) for r in wrong.itertuples()} == {("C3D", 1), ("I3D", 1), ("I3D", 3)}


def test_holm_is_scipys_bonferroni_step_down():
    p = np.array([0.01, 0.04, 0.03, 0.005])
    table = pd.DataFrame({"first": "top", "second": "least", "gap": 1.0, "p": p})
    # By hand: 0.005*4, 0.01*3, 0.03*2, 0.04*1 made monotone.
    np.testing.assert_allclose(paired.judge(table)["p_holm"], [0.03, 0.06, 0.06, 0.02])


def test_seed_by_seed():
    table = verdict.by_seed(world(0.2))
    assert list(table["seed"]) == [0, 1]
    assert (table["gain"] > 30).all() and (table["ci_low"] > 20).all() and table["between"].all()


def test_runs_made_twice_stand_beside_each_other():
    first, second = (verdict.by_seed(world(by)) for by in (0.2, 0.1))
    table = verdict.repeated(first, second[second["seed"] == 1])
    assert set(table["seed"]) == {1} and set(table["mode"]) == set(first["mode"])
    expected = first.query("seed == 1")["gain"].to_numpy()
    np.testing.assert_array_equal(table["gain"], expected)
    np.testing.assert_allclose(table["apart"], (table["gain"] - table["gain_again"]).abs())
    assert (table["apart"] > 0).all()


def test_the_class_of_a_blank_clip_is_told_apart():
    there = world(0.2, mode="remove").assign(**{"class": "walking"})
    stays = world(0.0, mode="remove").assign(**{"class": "running", "correct": True})
    stays["id"] = "other" + stays["id"]
    blank = pd.concat([there, stays]).query("q == 1").assign(mode="add", q=0)
    blank["correct"] = blank["class"] == "running"
    table = verdict.without_blank_class(pd.concat([there, stays, blank], ignore_index=True))
    assert set(table["blank"]) == {"running"} and (table["gain_blank"] == 0).all()
    plain = verdict.by_seed(there)
    np.testing.assert_allclose(table["gain"], plain["gain"])
    assert (table["ci_low"] > 20).all()
