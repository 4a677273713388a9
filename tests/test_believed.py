"""An explanation that cannot be believed says so: worlds where each reason holds, or none."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from stce import ablation, supervoxels
from stce.clips import Clips
from stce.concepts import Concepts
from stce.datasets.textures import textures
from stce.evaluation.verdict import verdict
from stce.explanation import Explanation, explain
from stce.models.adapt import Functions

N = 20


def world(ranks=(1, 2, 3, 4), figure=2, n=N):
    """Give scores, concepts, clips and supervoxels: four stripes, each a concept of class "a".

    The first `figure` columns of each clip stand out from the background; two stripes of four are
    significant.
    """
    parts = np.zeros((n, 2, 4, 4), np.uint8)
    parts[..., :figure] = 3
    frames = np.zeros((*parts.shape, 1), np.uint8)
    clips = Clips(frames, [0] * n, list(map(str, range(n))), ["p"] * n, ("a", "b"), parts)
    labels = np.broadcast_to(np.arange(1, 5, dtype=np.uint8), (n, 1, 2, 4, 4))
    rows = pd.DataFrame({"video": np.arange(n).repeat(4), "level": 0, "label": [1, 2, 3, 4] * n})
    rows = rows.reindex(columns=supervoxels.COLUMNS, fill_value=0)
    table = pd.DataFrame({"class": "a", "concept": [0, 1, 2, 3] * n, "supervoxel": range(4 * n)})
    scores = pd.DataFrame({"class": "a", "concept": range(4), "rank": ranks})
    scores = scores.assign(q_chance=[0.01, 0.03, 0.4, 0.6], verdict=["for"] * 2 + ["chance"] * 2)
    return scores, Concepts(table, None, {}), clips, supervoxels.Supervoxels(labels, rows)


def outcomes(n=N, **right):
    """Give outcomes of one step in which each order is right on so many of n clips, adding.

    Removing it is wrong on as many; an intact clip is right.
    """
    rows = [(v, "remove", "top", 0, True) for v in range(n)]
    for order, share in ({"top": 1.0, "least": 0.2, "random_supervoxels": 0.3} | right).items():
        if share is not None:
            name = order.replace("_", " ")
            rows += [(v, "add", name, 1, v < share * n) for v in range(n)]
            rows += [(v, "remove", name, 1, v >= share * n) for v in range(n)]
    table = pd.DataFrame(rows, columns=["video", "mode", "order", "q", "correct"])
    return table.assign(**{"class": "a"})


def said(n, right, classes=("a", "b")):
    """Give answers to n clips of each class, of which so many are right."""
    rows = [
        (c, c if v < right else classes[i - 1]) for i, c in enumerate(classes) for v in range(n)
    ]
    table = pd.DataFrame(rows, columns=["class", "predicted"])
    return table.assign(correct=table["class"] == table["predicted"])


def test_where_all_is_well_one_sentence_says_so_with_its_numbers():
    found = verdict(*world(), outcomes=outcomes())
    assert found.reasons == {}
    assert str(found) == (
        "Nothing that was looked at speaks against this explanation: the network names 100 % of 20 "
        "clips rightly, by chance 50 %; 2 of 4 concepts are more than chance; the most important "
        f"concepts beat the least by {gain(80, 60, 95)}; as many voxels of random supervoxels by "
        f"{gain(70, 50, 90)}; the upper half of the ranking holds 2.0 times (2.0 to 2.0) the "
        "clips' share of what stands out from the background, the lower half 0.0 times."
    )


def gain(points, low, high):
    both = (f"{points:+d} ({low} to {high}) points when {w}" for w in ("added", "removed"))
    return ", ".join(both)


CHANCE = {"q_chance": [0.21, 0.3, 0.4, 0.6], "verdict": "chance"}


@pytest.mark.parametrize(
    ("reason", "line", "change"),
    [
        ("unknown", "names 60 % of 20 clips rightly, by chance 50 % (p = 0.25)",
         {"answers": said(10, 6)}),
        ("chance", "smallest of 4 corrected p-values is 0.21", {"scores": CHANCE}),
        ("area", "The gap between the orders is area: the most important concepts beat the least "
         "by +80", {"outcomes": outcomes(random_supervoxels=1.0)}),
        ("order", "does not hold: the most important concepts beat the least by +0",
         {"outcomes": outcomes(least=1.0, random_supervoxels=1.0)}),
        ("order", "does not hold: the most important concepts beat the least by -20",
         {"outcomes": outcomes(top=0.0, random_supervoxels=None)}),
        ("background", "concepts are background: the upper half of the ranking holds 0.0 times",
         {"world": {"ranks": (3, 4, 1, 2)}}),
        ("background", "concepts are background: the upper half of the ranking holds 1.0 times",
         {"world": {"ranks": (1, 3, 2, 4)}}),
        ("few", "Too few clips to tell: 5 test clips, fewer than 6", {"outcomes": outcomes(5)}),
    ],
)  # fmt: skip
def test_each_reason_is_told_where_it_holds_and_no_other(reason, line, change):
    scores, *found = world(**change.get("world", {}))
    tables = {"outcomes": outcomes()} | {
        k: change[k] for k in ("answers", "outcomes") if k in change
    }
    told = verdict(scores.assign(**change.get("scores", {})), *found, **tables)
    # A sixth clip would also have to be known: of five, none may be wrong (0.5 ** 5 < 0.05).
    assert list(told.reasons) == [reason]
    assert line in told.reasons[reason] and "\n" not in told.reasons[reason]
    assert str(told).startswith("Do not believe this explanation yet:\n\n- ")
    assert told._repr_markdown_() == str(told)


def test_where_the_network_falls_for_a_class_the_curves_have_little_room():
    table = outcomes(random_supervoxels=1.0, random_voxels=0.0)
    blind = table["order"] == "random voxels"
    for named, pulled in ((table["correct"] & ~blind, False), (table["correct"] | blind, True)):
        told = verdict(*world(), outcomes=table.assign(correct=named)).reasons["area"]
        words = "of clips with random voxels shown or hidden it names 100 % too"
        assert told.endswith(words) == pulled
    # Where top is ahead for all that, nothing is held against it.
    ahead = outcomes(random_voxels=0.0)
    ahead["correct"] |= ahead["order"] == "random voxels"
    assert verdict(*world(), outcomes=ahead).reasons == {}


def test_adding_and_removing_that_disagree_are_no_support():
    table = outcomes()
    chance, removed = table["order"] == "random supervoxels", table["mode"] == "remove"
    table["correct"] &= ~(chance & removed)  # whatever is removed by chance costs every clip
    table.loc[removed & (table["order"] == "top") & (table["video"] < 10), "correct"] = True
    told = verdict(*world(), outcomes=table)
    assert list(told.reasons) == ["mixed"]
    assert told.reasons["mixed"].startswith("Adding and removing disagree: the most important")
    # Behind the least, whose concepts are larger, it may lie as long as it is not behind its area.
    least = outcomes()
    least.loc[(least["order"] == "least") & (least["mode"] == "remove"), "correct"] = False
    least.loc[
        (least["order"] == "top")
        & (least["mode"] == "remove")
        & (least["video"] < 10)
        & (least["q"] > 0),
        "correct",
    ] = True
    assert verdict(*world(), outcomes=least).reasons == {}


def test_forty_of_a_hundred_are_not_known_among_three_classes():
    # Sixty real clips of three actions, of which a network knew 40 %.
    scores, concepts, clips, cut = world()
    clips = replace(clips, classes=("a", "b", "c"))
    for right, known in ((5, "does not know"), (8, "Nothing shows that the network"), (10, "")):
        answers = said(20, right, clips.classes)
        told = verdict(scores, concepts, clips, cut, answers=answers).reasons.get("unknown", "")
        assert known in told and bool(known) == bool(told)


def test_naming_the_commonest_class_is_no_knowledge():
    answers = pd.DataFrame({"class": ["a"] * 45 + ["b"] * 5, "predicted": "a"})
    answers["correct"] = answers["class"] == "a"
    told = verdict(*world(), answers=answers).reasons["unknown"]
    assert "names 90 % of 50 clips rightly, by chance 90 %" in told


def test_what_was_not_looked_at_is_said_and_is_no_reason():
    scores, concepts, clips, cut = world()
    old = scores.drop(columns=["q_chance", "verdict"])
    found = verdict(old, concepts, replace(clips, parts=None), cut)
    assert found.reasons == {} and set(found.facts) == {"chance", "order"}
    assert "not tested against chance; the ranking was not tested on other clips" in str(found)
    assert "background" not in verdict(*world(figure=0)).facts  # nothing stands out
    assert "area" not in verdict(*world(), outcomes=outcomes(random_supervoxels=None)).reasons


def test_the_order_of_the_rows_is_nothing_to_it():
    def shuffled(table):
        return table.sample(frac=1, random_state=3, ignore_index=True)

    for right in ({}, {"top": 0.4, "least": 0.3, "random_supervoxels": 0.35}):
        scores, concepts, *rest = world(ranks=(1, 4, 2, 3))
        tables = {"answers": said(10, 7), "outcomes": outcomes(**right)}
        wanted = verdict(scores, concepts, *rest, **tables)
        concepts = replace(concepts, table=shuffled(concepts.table))
        mixed = {name: shuffled(table) for name, table in tables.items()}
        assert verdict(shuffled(scores), concepts, *rest, **mixed) == wanted


def squares(n, seed, channels=(0, 1, 2)):
    """Clips with a red, a green and a blue square, each somewhere else in every clip."""
    rng = np.random.default_rng(seed)
    frames = np.full((n, 4, 32, 32, 3), 128, np.uint8)
    for clip in frames:
        for channel, quarter in zip(channels, rng.permutation(4), strict=False):
            y, x = 16 * (quarter // 2) + 2, 16 * (quarter % 2) + 2
            clip[:, y : y + 12, x : x + 12] = np.where(np.arange(3) == channel, 230, 40)
    return frames


def colours(x):
    """Return how much of a clip is red, green and blue beyond each of 16 levels, ``(N, 48)``."""
    strength = torch.relu(2 * x - x.sum(1, keepdim=True)).unsqueeze(2)
    levels = torch.arange(16).view(16, 1, 1, 1)
    return (16 * strength - levels).clip(0, 1).mean((3, 4, 5)).flatten(1)


FEW = {"classes": ("red", "other"), "n_segments": (20,), "compactness": 2.0, "n_concepts": 4}
FEW |= {"n_keep": 8, "n_groups": 5, "random": squares(40, 2, (1, 2)), "n_random_orders": 2}
FEW |= {"q_max": 1, "progress": False}


def reader(weights, bias):
    head = torch.nn.Linear(48, 2)
    head.weight.data = torch.stack([weights, torch.zeros(48)])
    head.bias.data = torch.tensor([bias, 0.0])
    return Functions(colours, head, (3, 4, 32, 32), mean=0.5)


@pytest.fixture(scope="module")
def red():
    """What a network that looks for red, and knows it, is explained by."""
    network = reader(torch.tensor([1.0, -0.1, -0.1]).repeat_interleave(16), -0.5)
    return explain(network, None, squares(16, 0), "red", test_clips=squares(12, 1), **FEW)


def test_a_network_that_knows_what_it_is_asked_for_is_believed(red, tmp_path):
    assert red.verdict.reasons == {}
    assert "of random supervoxels by +" in str(red.verdict)
    assert repr(red).startswith("Nothing that was looked at speaks against this explanation: the ")
    assert repr(red).endswith(f"first: {', '.join(map(str, red.ranking))}")
    red.save(tmp_path / "saved")
    assert Explanation.load(tmp_path / "saved").verdict == red.verdict


def test_the_curves_are_those_of_the_concepts_alone(red):
    assert set(red.outcomes["order"]) == {"top", "random", "least", *ablation.MATCHED}
    assert set(red.accuracy["order"]) == {"top", "random", "least"}


def test_a_random_network_is_not_believed(capsys, monkeypatch):
    monkeypatch.delenv("STCE_PROGRESS", raising=False)
    rng = torch.Generator().manual_seed(0)
    network = reader(torch.randn(48, generator=rng), -9.0)  # whatever it sees, it says "other"
    given = network, None, squares(16, 0), "red"
    found = explain(*given, **FEW | {"progress": True})
    assert list(found.verdict.reasons) == ["unknown", "chance"]
    assert "it names 0 % of 16 clips rightly" in found.verdict.reasons["unknown"]
    assert str(found.verdict) in capsys.readouterr().err
    assert repr(found).startswith("Do not believe this explanation yet:")
    # Some scores are far from 1/2 all the same: by itself that says nothing.
    assert (found.scores["score"] - 0.5).abs().max() > 0.25
    found = explain(*given, test_clips=squares(5, 1), **FEW)
    assert {"unknown", "chance", "few", "order"} <= set(found.verdict.reasons)
    assert capsys.readouterr().err == ""


def test_with_few_random_clips_nothing_was_tested():
    network = reader(torch.ones(48), 1.0)
    found = explain(network, None, squares(6, 0), "red", **FEW | {"random": 20})
    assert set(found.scores["verdict"]) == {"untested"} and found.scores["q_chance"].isna().all()
    assert "not tested against chance" in str(found.verdict)


def test_orders_do_not_change_what_the_network_answers_to_others(red):
    clips = replace(textures(3, n_frames=4, size=(32, 32), channels=3), classes=("red", "other"))
    clips = replace(clips, labels=np.zeros(3, int))
    cut = supervoxels.segment(clips, n_segments=(12,), progress=False)
    subject = ablation.Subject(red.network, clips, cut, red.concepts, {"red": red.ranking})
    how = {"q_max": 3, "progress": False}
    alone = pd.concat(ablation.run(subject, ablation.ranked(2), **how))
    both = pd.concat(ablation.run(subject, ablation.ranked(2), ablation.matched(2), **how))
    first = both[~both["order"].isin(ablation.MATCHED)]
    assert first.reset_index(drop=True).equals(alone.reset_index(drop=True))
    none = pd.concat(ablation.run(subject, ablation.ranked(2), ablation.matched(0), **how))
    assert none.reset_index(drop=True).equals(alone.reset_index(drop=True))
