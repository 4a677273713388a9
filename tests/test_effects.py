"""What campaigns of effects are summed up to, on tables whose answer is plain."""

import numpy as np
import pandas as pd
import pytest

from book.campaigns import effects
from book.campaigns.turning import PARTS


def _concept(world, kind, *held, seed=0):
    parts = {part: part in held for part in PARTS[1:]}
    known = {"accuracy": 1.0 - seed / 10, "accuracy_shuffled": 0.5}
    return {"seed": seed, "world": world, "kind": kind} | parts | known


def test_the_truth_of_a_concept_is_what_its_parts_tell():
    table = pd.DataFrame(
        [
            _concept("motion of a hand", "motion", "moving hand"),
            _concept("motion of a hand", "unsure", "badge", "standing hand"),
            _concept(effects.MIXED, "both", "moving hand", "badge"),
            _concept(effects.MIXED, "look", "badge"),
            _concept("motion and look of a hand", "motion", "moving hand"),
        ]
    )
    assert effects.truths(table)["truth"].tolist() == [
        "motion",
        "neither",
        "both",
        "look, beside a motion",
        "both",
    ]


def test_what_concepts_are_called():
    kinds = ["motion"] * 7 + ["both", "look", "unsure"]
    rows = [_concept("motion of a hand", kind, "moving hand") for kind in kinds]
    rows += [_concept("look of a badge", "look", "badge", seed=1)]
    told = effects.called(pd.DataFrame(rows))
    one = told.loc["motion"]
    assert one[["concepts", "counting"]].tolist() == [10, 9]
    assert one["moves"] == pytest.approx(8 / 9) and one["moves_low"] < 8 / 9 < one["moves_high"]
    assert one[list(effects.KINDS)].sum() == pytest.approx(1)
    assert told.loc["look", "moves"] == 0 and np.isnan(told.loc["both", "moves"])
    known = effects.knows(pd.DataFrame(rows))
    assert known.loc["look of a badge"].tolist() == pytest.approx([90, 90, 50, 50])


def _causal(n_seeds=4):
    """Return clips in which one method ranks parts rightly, one upside down; curves say so too."""
    parts = ["left arm", "right arm", "shadow", "ground"]
    rng, rows = np.random.default_rng(0), []
    for seed in range(n_seeds):
        common = {"run": "one", "seed": seed, "class": "a", "id": f"clip {seed}"}
        for part, effect in zip(parts, (4.0, 3.0, 1.0, 0.0), strict=True):
            row = common | {"part": part, "effect": effect, "lost": int(effect > 3), "area": 0.1}
            row |= {m: rng.normal() for m in effects.METHODS}
            rows.append(row | {"score": effect, "random": -effect})
        for method in effects.METHODS:
            gap = {"score": 0.8, "random": -0.4}.get(method, rng.normal(0, 0.1))
            rows.append(common | {"method": method, "insertion": gap + 0.1, "deletion": 0.1})
    return pd.DataFrame(rows)


def test_methods_are_ranked_by_the_truth():
    table = _causal()
    told, (related, *ends) = effects.methods(table)
    told = told.set_index("method")
    assert told.index[0] == "STCE, score" and told.index[-1] == "random"
    assert told.loc["STCE, score", "correlation"] == pytest.approx(1)
    assert told.loc["random", ["correlation_low", "correlation_high"]].tolist() == [-1, -1]
    assert told.loc["STCE, score", "gap"] == pytest.approx(0.8)
    true = effects.true_effects(table).set_index("part")
    assert true["effect"].tolist() == [4, 3, 1, 0] and true["lost"].tolist() == [1, 0, 0, 0]
    by_hand = told[["correlation", "gap"]].rank().corr().iloc[0, 1]
    assert related == pytest.approx(by_hand) and ends[0] <= related <= ends[1]


def test_intervals_are_over_runs_and_over_their_clips():
    rng = np.random.default_rng(0)
    rows = [
        {"run": run, "seed": 0, "part": "arms", "id": f"clip {i}", "effect": mean + rng.normal()}
        for run, mean in (("one", 0.0), ("two", 10.0))
        for i in range(50)
    ]
    table = pd.DataFrame(rows)
    both = effects.averaged(table, "part", ["effect"]).iloc[0]
    assert both["effect"] == pytest.approx(table["effect"].mean())
    assert both["effect_low"] < 1 and both["effect_high"] > 9
    # Of one run alone it is that over clips, never of no width.
    one = effects.averaged(table.query("run == 'one'"), "part", ["effect"]).iloc[0]
    assert 0.4 < one["effect_high"] - one["effect_low"] < 0.7


def test_what_is_explained_is_told_by_run():
    rows = [("one", 0, "concepts", 0.8), ("one", 1, "concepts", 0.6), ("two", 0, "concepts", 0.2)]
    table = pd.DataFrame(rows, columns=["run", "seed", "description", "explained"])
    told = effects.explained(table).loc["concepts"]
    assert told.tolist() == pytest.approx([0.7, 0.2, 0.2, 0.8])
