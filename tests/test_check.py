"""What a sceptic asks of a run is asked of anybody's network, with the same numbers."""

import dataclasses
from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from stce import curves, models
from stce.clips import Clips
from stce.datasets.textures import textures
from stce.evaluation import saliency, trust
from stce.explanation import Explanation, explain
from stce.models.adapt import Functions, adapt

HOW = {"random": 40, "n_segments": (4, 8), "n_concepts": 4, "n_keep": 5, "n_groups": 4}
QUICK = {"n_clips": 1, "n_null": 200, "n_randomised": 2}
HOW |= {"progress": False, "n_random_orders": 2, "n_matched": 1}


def world(size=(8, 32, 32)):
    """Clips of class "yes", to find concepts in and to test them on."""
    made = textures(12, n_frames=size[0], size=size[1:], seed=0)
    parts = np.zeros(made.frames.shape[:4], np.uint8)
    parts[:, :, 8:24, 8:24] = 1
    clips = Clips(made.frames, np.ones(12, int), made.ids, made.groups, ("no", "yes"), parts)
    return clips.select(np.arange(6)), clips.select(np.arange(6, 9))


@pytest.fixture(scope="module")
def ours():
    clips, test = world()
    network = models.build("r3d18", 2, 0.125, 1, (8, 32, 32), seed=0)
    network.classes = ("no", "yes")
    found = explain(network, None, clips, "yes", test_clips=test, **HOW)
    return network, dataclasses.replace(found, trust=found.check(**QUICK))


def test_the_studys_networks_and_anybodys_get_the_same_numbers(ours):
    network, found = ours
    clips, test = world()
    module = nn.Sequential(OrderedDict(network.blocks())).eval()
    how = {"mean": network.mean.tolist(), "std": network.std.tolist(), "classes": ("no", "yes")}
    again = explain(module, "avgpool", clips, "yes", test_clips=test, **how, **HOW)
    assert again.ranking == found.ranking
    both = [found.trust.tables, again.check(**QUICK).tables]
    assert sorted(both[0]) == sorted(both[1])
    near = {"rtol": 1e-3, "atol": 1e-4}
    for name in ("composition", "truth", "stability", "motion"):
        pd.testing.assert_frame_equal(both[0][name], both[1][name], **near)
    # Grad-CAM reads the last map of ours; of a module the layer, here without positions.
    curves = [tables["accuracy"].query("order != 'grad-cam'") for tables in both]
    assert "grad-cam" in set(both[0]["accuracy"]["order"])
    pd.testing.assert_frame_equal(*(t.reset_index(drop=True) for t in curves), **near)
    # The head alone is shuffled in one of ours, all weights of a module: other numbers are drawn.
    drawn = ["derivative_low", "derivative_high", "p_weights", "p", "q_value", "verdict"]
    sides = [tables["significance"].drop(columns=drawn) for tables in both]
    pd.testing.assert_frame_equal(*sides, **near)
    # A module is randomised layer by layer, one of ours block by block.
    assert both[0]["sanity"]["network"].iloc[0] == both[1]["sanity"]["network"].iloc[0]


def test_each_question_has_an_answer_with_its_number(ours):
    told = ours[1].trust
    asked = told.table.set_index("question")
    assert list(asked.index) == [
        "more than chance",
        "random weights",
        "random groups",
        "k-means",
        *(f"ahead of {rival}, {how}" for rival in trust.RIVALS for how in ("added", "removed")),
        "ahead of the background",
    ]
    gone = told.tables["sanity"].iloc[-1]
    row = asked.loc["random weights"]
    assert (row["value"], row["low"]) == (gone["correlation"], gone["ci_low"])
    assert row["passes"] == (not gone["ci_low"] > 0)
    assert f"{gone['correlation']:.2f}" in row["answer"]
    judged = asked[asked["passes"].notna()]
    ahead = asked["passes"].filter(regex="ahead of (?!the background)")
    assert not ahead.notna().any(), "too few clips, or maps that see the very clip"
    first, scores = asked.loc["more than chance"], ours[1].scores
    assert first["value"] == scores["verdict"].isin(["for", "against"]).mean()
    assert f"{scores['q_chance'].min():.2g}" in first["answer"]
    gain = curves.difference(ours[1].outcomes, "top", "least").set_index("mode").loc["add", "gain"]
    assert asked.loc["ahead of least, added", "value"] == gain
    fine = int(judged["passes"].sum())
    assert f"It passes {fine} of {len(judged)} tests" in str(told)
    for text, passes in judged[["answer", "passes"]].itertuples(index=False):
        assert (text in str(told)) != (passes and fine < len(judged))
    assert ours[1].motion is told.tables["motion"]


def test_it_is_kept_with_the_explanation_and_asked_again(ours, tmp_path):
    found = ours[1]
    found.save(tmp_path / "kept")
    kept = Explanation.load(tmp_path / "kept")
    assert str(kept.trust) == str(found.trust)
    assert sorted(kept.trust.tables) == sorted(found.trust.tables)
    pd.testing.assert_frame_equal(kept.motion, found.motion)
    again = found.check(**{**QUICK, "n_randomised": 1})
    assert len(again.tables["sanity"]) == 2
    same = ["accuracy", "motion", "significance", "stability"]
    for name in same:
        pd.testing.assert_frame_equal(again.tables[name], found.trust.tables[name])
    with pytest.raises(ValueError, match="not at hand; call check on what explain returns"):
        kept.check()


class Brittle(nn.Module):
    """Two tracks with weights of its own beside those of its layers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm3d(6)
        self.scale = nn.Parameter(torch.ones(6, 1, 1, 1))
        self.fc = nn.Linear(6, 2)

    def forward(self, x):
        return self.fc((self.norm(self.conv(x)).relu() * self.scale).mean((2, 3, 4)))


@pytest.mark.parametrize("fails", [False, True])
def test_a_module_comes_back_as_it_was(monkeypatch, fails):
    torch.manual_seed(0)
    model = Brittle().train()
    model.fc.bias.requires_grad = False
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    clips, test = world((4, 24, 24))
    found = explain(model, "norm", clips.frames, 1, test_clips=test.frames[:2], **HOW)
    if fails:

        def broken(*args, **how):
            raise RuntimeError("no")

        monkeypatch.setattr(saliency, "occlusion", broken)
        with pytest.raises(RuntimeError, match="no"):
            found.check()
    else:
        names = found.check().tables["sanity"]["network"].tolist()
        # From the last layer down to the module's own weights, which come first.
        assert names == ["trained", "fc and above random", "conv and above random"] + [
            "Brittle and above random"
        ]
    for name, value in model.state_dict().items():
        assert torch.equal(value, kept[name]), name
    assert model.training
    assert not model.fc.bias.requires_grad
    assert model.conv.weight.requires_grad
    assert model.conv.weight.grad is None
    assert not any(m._forward_hooks for m in model.modules())


def test_what_has_no_weights_is_asked_the_rest():
    own = Functions(
        lambda x: torch.cat([x.mean((2, 3, 4)), x.std((2, 3, 4))], 1),
        lambda z: torch.cat([z.sum(1, keepdim=True), -z.sum(1, keepdim=True)], 1),
        (1, 4, 24, 24),
    )
    clips, test = world((4, 24, 24))
    found = explain(own, None, clips.frames, 0, test_clips=test.frames[:2], check=True, **HOW)
    questions = set(found.trust.table["question"])
    assert "random weights" not in questions
    assert "ahead of grad-cam, added" not in questions
    assert {"more than chance", "k-means", "ahead of occlusion, added"} <= questions
    with pytest.raises(ValueError, match="tested on no clips.* give test_clips"):
        explain(own, None, clips.frames, 0, **HOW).check()


def test_a_few_random_clips_are_no_test():
    clips, test = world((4, 24, 24))
    model, few = Brittle(), {**HOW, "random": 10}
    found = explain(model, "conv", clips.frames, 1, test_clips=test.frames[:2], check=True, **few)
    first = found.trust.table.iloc[0]
    assert first["passes"] is None
    assert "too few random clips" in first["answer"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"n_nul": 5}, "check takes no 'n_nul'; it takes n_null, n_randomised"),
        ({"tried": ["fc7/logit/pooled"]}, "check takes no 'tried'"),
        ({"n_clips": 0}, "n_clips is 0; it takes int, at least 1"),
        ({"n_changed": "six"}, "n_changed is 'six'; it takes int, at least 1"),
        ({"seed": -1}, "seed is -1; it takes int, at least 0"),
        ({"fills": ["red"]}, "fill is 'red'; choose one of"),
    ],
)
def test_what_cannot_be_asked_is_refused(ours, asked, said):
    with pytest.raises(ValueError, match=said):
        ours[1].check(**{**QUICK, **asked})


def test_a_transformer_is_asked_as_well():
    from test_networks import Tokens

    torch.manual_seed(0)
    seen = adapt(Tokens(), "mix", clip_shape=(1, 8, 24, 24), grid=(4, 2, 2))
    clips, test = world((8, 24, 24))
    how = {**HOW, "features": "pooled"}
    found = explain(seen, None, clips.frames, 1, test_clips=test.frames[:2], check=True, **how)
    assert "grad-cam" in set(found.trust.tables["outcomes"]["order"])
    assert len(found.trust.tables["sanity"]) == 4


def told(**changes):
    """Return answers that pass every test, but for what is changed."""
    good = {"correlation": 0.8, "ci_low": 0.5, "ci_high": 0.9}
    rows = [
        {"class": "a", "video": v, "order": o, "repeat": 0, "q": q, "mode": m}
        | {"correct": (o == "top") == (m == "add"), "revealed": 1}
        for v in range(12)
        for o in ("top", "least", "random supervoxels", "occlusion")
        for q in (1, 2)
        for m in ("add", "remove")
    ]
    tables = {
        "significance": pd.DataFrame({"verdict": ["for", "chance"], "q_chance": [0.01, 0.5]}),
        "sanity": pd.DataFrame([{**good, "ci_low": -0.4}]),
        "stability": pd.DataFrame([{**good, "class": "all", "changed": "random groups"}]).pipe(
            lambda t: pd.concat([t, t.assign(changed="k-means")])
        ),
        "outcomes": pd.DataFrame(rows),
        "truth": pd.DataFrame([{"top": 2.0, "random": 1.0, "p": 0.01}]),
    }
    return tables | changes


def summed_up(**changes):
    tables = told(**changes)
    return trust.summed_up(tables, tables["significance"])


def test_what_is_wrong_is_said_and_nothing_else():
    table = summed_up()
    fine = trust.Trust(table, {})
    assert table["passes"].dropna().all()
    assert str(fine).startswith("It passes 9 of 9 tests: 1 of 2 concepts are more than chance")
    assert table.set_index("question").loc["ahead of least, added", "value"] == 1.0
    assert table.set_index("question").loc["ahead of the background", "value"] == 0.5
    good = told()
    cases = {
        "more than chance": {
            "significance": pd.DataFrame({"verdict": ["chance"] * 2, "q_chance": [0.4, 0.5]})
        },
        "random weights": {"sanity": good["sanity"].assign(ci_low=0.2)},
        "k-means": {
            "stability": good["stability"].assign(
                ci_low=lambda t: np.where(t["changed"] == "k-means", -0.1, 0.5)
            )
        },
        "ahead of the background": {"truth": good["truth"].assign(p=0.3)},
    }
    for question, changes in cases.items():
        table = summed_up(**changes).set_index("question")
        wrong = table.index[table["passes"].eq(False)]
        assert list(wrong) == [question]
        text = str(trust.Trust(table.reset_index(), {}))
        assert text.count("\n- ") == 1
        assert table.loc[question, "answer"] in text
