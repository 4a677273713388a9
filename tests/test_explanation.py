"""All steps in one call: worlds with known answers, real films, and the chapter's own code."""

import dataclasses
import functools
import os
import re
import shutil
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from stce.videos import compat  # noqa: F401

# isort: split
from torchvision.models.video import r3d_18

from stce import ablation, concepts, datasets, features, models, supervoxels, tcav, videos
from stce import clips as clips_module
from stce.clips import Clips
from stce.concepts import Concepts
from stce.datasets.textures import textures
from stce.evaluation import saliency
from stce.explanation import Explanation, explain
from stce.models.adapt import Explainable, Functions, adapt
from stce.tcav import Tcav

ROOT = Path(__file__).parents[1]
FILMS = Path(os.environ.get("STCE_CLIPS", ROOT.parent / "shared" / "clips"))
SMALL = {
    "random": 12,
    "n_segments": (4, 8),
    "n_concepts": 3,
    "n_keep": 6,
    "n_groups": 3,
    "n_random_orders": 2,
    "progress": False,
}


@pytest.fixture(scope="module")
def some():
    return textures(4, n_frames=8, size=(32, 32), channels=3)


@pytest.fixture
def model():
    """A chain that stce knows nothing of."""
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv3d(3, 6, 3, 2, 1),
            norm=nn.BatchNorm3d(6),
            relu=nn.ReLU(inplace=True),
            pool=nn.AdaptiveAvgPool3d(1),
            flat=nn.Flatten(),
            fc=nn.Linear(6, 2),
        )
    )


def coloured(n=6, t=8, side=32):
    """Clips with a red, a green and a blue square, each somewhere else in every clip."""
    rng = np.random.default_rng(0)
    frames = np.full((n, t, side, side, 3), 128, np.uint8)
    half = side // 2
    for clip in frames:
        for channel, quarter in enumerate(rng.permutation(4)[:3]):
            y, x = half * (quarter // 2) + 2, half * (quarter % 2) + 2
            clip[:, y : y + 12, x : x + 12] = np.where(np.arange(3) == channel, 230, 40)
    return frames


def redness(x):
    """Return how much of a clip is red, green, blue: ``(N, 3)``."""
    return torch.relu(2 * x - x.sum(1, keepdim=True)).mean((2, 3, 4))


def share_of_red(found, concept):
    """Return how red the voxels of a concept are."""
    rows, frames = found.members(concept), found.clips.frames
    table = found.supervoxels.table
    red = [frames[table["video"][r]][found.supervoxels.mask(r)][:, 0].mean() for r in rows]
    return np.mean(red)


class Colours(nn.Module):
    """Says "red" for red, whatever else is there; averages at the very end."""

    def __init__(self):
        super().__init__()
        self.look = nn.Conv3d(3, 3, 1)
        self.act, self.pool = nn.ReLU(), nn.AdaptiveAvgPool3d(1)
        with torch.no_grad():
            self.look.weight.copy_((2 * torch.eye(3) - 1)[..., None, None, None])
            self.look.bias.zero_()

    def forward(self, x):
        z = self.pool(self.act(self.look(x))).flatten(1)
        return torch.stack([z[:, 0] - z[:, 1] - z[:, 2], -z[:, 0]], 1)


class Own(Explainable):
    """A network of one's own: what it does not give has a default."""

    n_features = 3

    def features(self, x):
        return redness(x)

    def logits(self, z):
        return torch.stack([z[:, 0] - z[:, 1] - z[:, 2], -z[:, 0]], 1)


@pytest.mark.parametrize("kind", ["split", "gradient pass", "functions", "a class"])
def test_what_the_model_looks_for_ranks_first(kind):
    frames = coloured()
    options = SMALL | {"n_segments": (20,), "n_concepts": 4, "random": 20, "compactness": 2.0}
    if kind == "functions":
        head = nn.Linear(3, 2, bias=False)
        head.weight.data = torch.tensor([[1.0, -1, -1], [-1, 0, 0]])
        network = Functions(redness, head, (3, 8, 32, 32), mean=0.5)
        found = explain(network, None, frames, "red", classes=("red", "other"), **options)
    elif kind == "a class":
        found = explain(Own((3, 8, 32, 32), 0.5), None, frames, 0, **options)
    else:
        layer = "act" if kind == "gradient pass" else "pool"
        found = explain(
            Colours(), layer, frames, "red", classes=("red", "other"), mean=0.5, **options
        )
        assert found.network.splits == ("no" if kind == "gradient pass" else "replay")
    shares = [share_of_red(found, k) for k in found.ranking]
    assert np.argmax(shares) == 0
    assert found.scores["score"].iloc[0] == 1
    assert found.scores["score"].iloc[-1] == 0


def test_same_scores_as_the_stages_by_hand(some):
    network = models.build("r3d18", 2, 0.125, input_size=(8, 32, 32), seed=1)
    network.set_moments([0.4] * 3, [0.2] * 3)
    found = explain(network, None, some, 1, **SMALL)
    cut = supervoxels.segment(some, n_segments=(4, 8))
    z = features.extract(network, some, cut, stretch=False)
    rows = cut.table["video"].to_numpy()
    mine = concepts.cluster(z, np.ones(len(rows), int), rows, ("0", "1"), n_concepts=3, n_keep=6)
    random = textures(12, n_frames=8, size=(32, 32), channels=3)
    samples = tcav.Samples(
        mine,
        z,
        {"1": features.extract_clips(network, some)},
        features.extract_clips(network, random),
        tcav.random_groups(12, 3, 6, np.random.default_rng(0)),
        ("0", "1"),
    )
    by_hand = tcav.score(network, samples)
    assert found.tcav.scores.drop(columns=["q_chance", "verdict"]).equals(by_hand.scores)
    assert found.network is network
    # The same weights as a module that stce knows nothing of
    plain = nn.Sequential(OrderedDict(network.blocks()))
    other = explain(plain, "avgpool", some, 1, mean=[0.4] * 3, std=[0.2] * 3, **SMALL)
    assert other.network.splits == "chain"
    columns = ["class", "concept", "rank", "score", "n_members"]
    assert other.tcav.scores[columns].equals(by_hand.scores[columns])
    np.testing.assert_allclose(other.scores["derivative"], found.scores["derivative"], rtol=1e-3)


def test_another_layer_of_a_network_of_ours(some):
    network = models.build("r3d18", 2, 0.125, input_size=(8, 32, 32)).train()
    found = explain(network, "layer3", some, 0, **SMALL)
    assert (found.network.layer, network.layer) == ("layer3", "avgpool")
    assert all(part.training for part in network.modules())


def test_supervoxels_pooled_from_the_map_of_a_clip(model, some):
    network = models.build("r3d18", 2, 0.125, input_size=(8, 32, 32), seed=1)
    network.set_moments([0.4] * 3, [0.2] * 3)
    how = {"features": "pooled", "test_clips": some.select([0, 2]), **SMALL}
    found = explain(network, "layer4", some, 1, **how)
    assert found.network.grid == network.split("layer4").feature_shape[1:]
    assert found.settings["features"] == "pooled" and len(found.outcomes)
    # The same weights as a module that stce knows nothing of
    plain, moments = nn.Sequential(OrderedDict(network.blocks())), {"mean": [0.4] * 3}
    other = explain(plain, "layer4", some, 1, std=[0.2] * 3, **moments, **how)
    columns = ["class", "concept", "rank", "score", "n_members"]
    assert other.tcav.scores[columns].equals(found.tcav.scores[columns])
    near = {"rtol": 1e-3, "atol": 1e-6}
    np.testing.assert_allclose(other.scores["derivative"], found.scores["derivative"], **near)
    assert explain(model, "relu", some, 0, features="pooled", **SMALL).network.grid == (4, 16, 16)


def test_maps_of_a_network_that_sees_frames_one_by_one(some):
    class Frames(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 5, 3, 4), nn.Linear(5, 2)

        def forward(self, x):
            z = self.conv(x.transpose(1, 2).flatten(0, 1)).mean((2, 3))
            return self.fc(z.unflatten(0, (len(x), -1)).mean(1))

    seen = adapt(Frames(), "conv", clip_shape=(3, 8, 32, 32)).pooled()
    x = torch.rand(2, 3, 8, 32, 32)
    assert seen.grid == (8, 8, 8)
    torch.testing.assert_close(seen.maps(x)[1, :, 3], seen.model.conv(x[1:, :, 3])[0])
    torch.testing.assert_close(seen.maps(x).mean((2, 3, 4)), seen.features(x))


def test_ranking_is_tested_on_test_clips(model, some):
    found = explain(model, "relu", some, 0, test_clips=some.select([0, 2]), mean=0.4, **SMALL)
    assert set(found.outcomes["order"]) == {"top", "least", "random", *ablation.MATCHED}
    assert set(found.accuracy["q"]) == {0, 1, 2, 3}
    intact = found.outcomes.query("mode == 'remove' and q == 0")
    assert (intact["revealed"] == 1).all()
    with torch.no_grad():
        wanted = found.network(found.network.prepare(torch.from_numpy(some.frames[[0, 2]])))
    wanted = wanted.softmax(1)[:, 0].numpy()
    np.testing.assert_allclose(intact.groupby("video")["probability"].mean(), wanted, rtol=1e-5)


def state(model):
    """Return everything of a module that must not change."""
    tensors = [*model.parameters(), *model.buffers()]
    return [
        [m.training for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
        [t.detach().double().sum().item() for t in tensors],
        [None if p.grad is None else p.grad.sum().item() for p in model.parameters()],
        [(t.data_ptr(), t.dtype, t.device) for t in tensors],
        [len(m._forward_hooks) for m in model.modules()],
    ]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("given", ["module", "adapted"])
def test_module_comes_back_as_it_was(model, some, given, fails):
    model.train()
    model.norm.eval()
    model.conv.bias.requires_grad_(False)
    model(torch.rand(2, 3, 8, 32, 32)).sum().backward()
    before = state(model)
    calls = []

    def watch(module, args):
        calls.append(module.training)
        if fails and len(calls) == 20:
            raise RuntimeError("half way")

    handle = model.fc.register_forward_pre_hook(watch)
    layer, network = "pool", model
    if given == "adapted":
        layer, network = None, adapt(model, "pool", clip_shape=(3, 8, 32, 32))
    options = SMALL | {"test_clips": some, "batch_size": 2}
    if fails:
        with pytest.raises(RuntimeError, match="half way"):
            explain(network, layer, some, 0, **options)
    else:
        assert explain(network, layer, some, 0, **options).network.model is model
    handle.remove()
    assert state(model) == before
    assert calls and not any(calls)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(model, some, dtype):
    found = explain(model.to(dtype), "pool", some, 0, **SMALL)
    assert found.tcav.cavs["0"].dtype == np.float32
    assert found.scores["score"].between(0, 1).all()
    assert next(model.parameters()).dtype is dtype


def test_all_ways_to_give_clips(model, some):
    first = np.moveaxis(some.frames, -1, 1)
    labelled = both_kinds(some)
    wanted = explain(model, "pool", some.frames, 1, **SMALL)
    for given, target in (
        (first, 1),
        (torch.from_numpy(first.copy()), np.int64(1)),
        (torch.from_numpy(first.copy()).double() / 255, 1),
        (labelled, "mine"),
        (some, 1),
    ):
        found = explain(model, "pool", given, target, **SMALL)
        assert np.array_equal(found.clips.frames, some.frames)
        assert found.scores["score"].tolist() == wanted.scores["score"].tolist()
    found = explain(model, "pool", labelled, "mine", test_clips=labelled, **SMALL)
    assert found.class_name == "mine" and set(found.outcomes["class"]) == {"mine"}


def test_two_runs_agree_to_the_last_bit(model, some):
    one, two = (explain(model, "relu", some, 1, test_clips=some, **SMALL) for _ in range(2))
    assert one.tcav.scores.equals(two.tcav.scores)
    assert one.outcomes.equals(two.outcomes)


def test_saved_and_loaded(model, some, tmp_path, monkeypatch):
    found = explain(model, "pool", some, 1, test_clips=some, **SMALL)
    found.save(tmp_path / "kept")
    again = Explanation.load(tmp_path / "kept")
    assert again.ranking == found.ranking and again.settings == found.settings
    assert again.scores.equals(found.scores) and again.accuracy.equals(found.accuracy)
    assert np.array_equal(again.supervoxels.mask(1), found.supervoxels.mask(1))
    assert again.members(0).tolist() == found.members(0).tolist()
    assert again.network is None
    assert again.fill == found.fill == 0 and np.array_equal(again.cavs, found.cavs)
    assert again.title(again.ranking[0]) == found.title(found.ranking[0])
    with pytest.raises(FileExistsError, match="kept is there already"):
        found.save(tmp_path / "kept")
    with pytest.raises(FileNotFoundError, match="There is no explanation in"):
        Explanation.load(tmp_path)
    numbers = {"seed": np.int64(3), "sigma": np.float32(0.5), "stretch": np.True_}
    dataclasses.replace(found, settings=found.settings | numbers).save(tmp_path / "numbers")
    assert Explanation.load(tmp_path / "numbers").settings == found.settings | numbers
    shutil.rmtree(tmp_path / "numbers")
    broken = dataclasses.replace(found, settings={"layer": object()})
    with pytest.raises(TypeError):
        broken.save(tmp_path / "half")
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_one_class_of_several_is_selected(model, some):
    one, two = (explain(model, "pool", some, y, test_clips=some, **SMALL) for y in (0, 1))
    concepts = [
        pd.concat([getattr(f.concepts, part) for f in (one, two)]) for part in ("table", "sizes")
    ]
    both = Concepts(*concepts, one.concepts.centres | two.concepts.centres)
    scores = pd.concat([f.tcav.scores for f in (one, two)], ignore_index=True)
    result = Tcav(scores, one.tcav.cavs | two.tcav.cavs, one.tcav.sensitivity)
    outcomes = pd.concat([one.outcomes, two.outcomes], ignore_index=True)
    for found in (one, two):
        part = dataclasses.replace(found, concepts=both, tcav=result, outcomes=outcomes)
        assert part.scores.equals(found.scores) and part.ranking == found.ranking
        assert part.accuracy.equals(found.accuracy) and np.array_equal(part.cavs, found.cavs)
        assert part.members(1).tolist() == found.members(1).tolist()
        assert part.ends(1) == [part.ranking[0], part.ranking[-1]]
        assert part.title(part.ranking[2]).startswith("rank 3 of 3, score ")
        for ask in (part.title, part.members):
            for none in (3, -1, "1", None, [0], 0.5):
                with pytest.raises(ValueError, match="No concept .* go up to .*: 2}"):
                    ask(none)
        with pytest.raises(ValueError, match="n must be a whole number"):
            part.ends("2")
        with pytest.raises(ValueError, match="No concept 0 of class 'wink'"):
            part.concepts.members("wink", 0)


def both_kinds(some):
    """The same clips as two classes, once as they are and once inverted."""
    frames, ids = np.concatenate([some.frames, 255 - some.frames]), [f"c{i}" for i in range(8)]
    return Clips(frames, np.repeat([1, 0], 4), ids, ["g"] * 8, ("other", "mine"))


def test_told_from_like_supervoxels_of_others_and_found_at_another_layer(some):
    torch.manual_seed(0)
    first, last = nn.Conv3d(3, 5, 3, 2, 1), nn.Conv3d(5, 7, 3, 2, 1)
    tail = nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(7, 2)
    model, clips = nn.Sequential(first, nn.ReLU(), last, *tail), both_kinds(some)
    how = SMALL | {"random": "others", "concept_layer": "1", "test_clips": clips}
    found = explain(model, "4", clips, "mine", random_from="matched", **how)
    settings = found.settings
    assert (settings["random_from"], settings["concept_layer"]) == ("matched", "1")
    assert found.network.layer == "4" and found.cavs.shape == (3, 3, 7)
    # The very same by hand.
    finder = adapt(model, "1", clip_shape=(3, 8, 32, 32))
    mine, others = clips.select(slice(4)), clips.select(slice(4, 8))
    rng = np.random.default_rng(0)
    cutting = {"n_segments": (4, 8), "progress": False}
    negatives = features.random_supervoxels(others, 5 * 3 * 6, 6, rng, **cutting)
    cut = supervoxels.segment(mine, **cutting)
    z = [features.extract(net, mine, cut, stretch=False) for net in (finder, found.network)]
    rows = cut.table["video"].to_numpy()
    wanted = concepts.cluster(
        z[0], np.ones(len(rows), int), rows, clips.classes, n_concepts=3, n_keep=6
    )
    assert wanted.centres["mine"].shape == found.concepts.centres["mine"].shape == (3, 5)
    assert wanted.table.equals(found.concepts.table)
    whole = {"mine": features.extract_layer(found.network, mine)}
    random = negatives.embed(found.network, stretch=False)
    groups = tcav.matched_groups(wanted, cut.places(), negatives, 3, rng)
    result = tcav.score(
        found.network, tcav.Samples(wanted, z[1], whole, random, groups, clips.classes)
    )
    assert result.scores["score"].equals(found.tcav.scores["score"])
    assert set(found.outcomes["class"]) == {"mine"}
    # One layer under two names is one layer.
    plain = how | {"random": 12}
    both = [
        explain(model, "4", clips, "mine", **plain | {"concept_layer": at}) for at in ("4", None)
    ]
    assert both[0].tcav.scores.equals(both[1].tcav.scores)
    with pytest.raises(ValueError, match="no layer 'fc'; near to it are"):
        explain(model, "4", clips, "mine", **how | {"concept_layer": "fc"})
    message = "There are .* supervoxels to tell 'mine' apart from, fewer than n_groups=900"
    with pytest.raises(ValueError, match=message):
        explain(model, "4", clips, "mine", random_from="matched", **how | {"n_groups": 900})


def one_of_each(frames):
    return Clips(frames[:2], [0, 1], ["a", "b"], ["g", "g"], ("wave", "clap"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"clips": lambda c: c.frames[0]}, r"clips is of shape \(8, 32, 32, 3\)"),
        ({"clips": lambda c: c.frames[:, :3]}, "C = 1 or 3 on one side only"),
        ({"clips": lambda c: c.frames[:1]}, "clips has 1 clips; give two or more"),
        ({"clips": lambda c: c.frames / 100}, "give uint8, or floats in 0..1"),
        ({"clips": lambda c: c.frames[..., :1]}, r"cannot take clips \(2, 1, 8, 32, 32\)"),
        ({"clips": lambda c: one_of_each(c.frames), "target_class": 0}, "clips has 1 clips"),
        (
            {"clips": lambda c: one_of_each(c.frames), "classes": ("a", "b"), "target_class": "a"},
            "clips has no clip of 'a' but of clap, wave",
        ),
        ({"target_class": "jump"}, "target_class is 'jump'; choose from 0, 1. An index below 2"),
        ({"target_class": 2}, "target_class is 2"),
        ({"classes": ("a", "b", "c")}, "classes has 3 names"),
        ({"random": 5}, "There are 5 random clips, too few for groups of 6"),
        ({"random": textures(9, n_frames=8, size=(16, 16), channels=3)}, "random has clips"),
        ({"test_clips": textures(2, n_frames=8, size=(32, 32)).frames}, "test_clips has clips"),
        ({"target": "loss"}, "target is 'loss'; choose one of logit, log_prob"),
        ({"n_groups": 1}, "n_groups is 1; it takes int, at least 2"),
        ({"n_groups": "5"}, "n_groups must be a whole number, at least 0, not '5'"),
        ({"n_concepts": 2.5}, "n_concepts must be a whole number"),
        ({"n_concepts": 0}, "n_concepts is 0; it takes int, at least 1"),
        ({"n_keep": 0}, "n_keep is 0"),
        ({"batch_size": 0}, "batch_size must be a whole number, at least 1, not 0"),
        ({"q_max": 0}, "q_max is 0; it takes int, at least 1"),
        ({"q_max": -1}, "q_max must be a whole number"),
        ({"compactness": 0}, "compactness is 0"),
        ({"n_segments": 5}, "n_segments is 5; it takes a list"),
        ({"n_segments": ()}, "n_segments is "),
        ({"random": 0}, "random 0 is none .*from 1 to .* textures, not 0.*; give clips, or 2"),
        ({"random": -1}, "random -1 is none .*; give clips, or 2"),
        ({"random": [[1], 2]}, "The argument random is none .*; give one array of clips"),
        ({"clips": lambda c: [[1], 2]}, "The argument clips is none .*; give one array of clips"),
        ({"classes": torch.tensor(2)}, "classes has 1 names"),
        ({"classes": ("a", "a")}, "classes has 'a' twice"),
        ({"target_class": np.array([0, 1])}, "target_class is array"),
        ({"n_concepts": 60}, "has .* supervoxels, fewer than n_concepts=60"),
        ({"layer": "pol"}, "no layer 'pol'; near to it are pool"),
        ({"layer": None}, "no layer None"),
        ({"random_from": "boxes"}, "choose one of clips, supervoxels, matched"),
        ({"features": "mean"}, "features is 'mean'; choose one of supervoxels, pooled"),
        ({"layer": "flat", "features": "pooled"}, "cannot be pooled from 'flat' of Sequential"),
        ({"pool": False, "layer": "relu", "features": "pooled"}, "cannot be pooled from 'relu'"),
        ({"device": "cuda:7"}, None),
    ],
)
def test_errors(model, some, changed, message):
    arguments = {"model": model, "layer": "pool", "clips": lambda c: c, "target_class": 0}
    arguments |= SMALL | changed
    arguments["clips"] = arguments["clips"](some)
    before = state(model)
    with pytest.raises(Exception if message is None else ValueError, match=message):
        explain(**arguments)
    assert state(model) == before


def test_fewer_different_features_than_concepts(model, some):
    with torch.no_grad():
        model.norm.weight.zero_(), model.norm.bias.fill_(-1)
    with pytest.raises(ValueError, match="n_concepts is 3, but .* only 1 different features"):
        with pytest.warns(UserWarning, match="distinct clusters"):
            explain(model, "pool", some, 1, **SMALL)


def test_errors_of_networks_that_have_their_layer(some):
    own = Functions(redness, nn.Linear(3, 2), (3, 8, 32, 32))
    with pytest.raises(ValueError, match="layer is 'fc', but the features of model are fixed"):
        explain(own, "fc", some, 0, **SMALL)
    with pytest.raises(ValueError, match="'pooled', but model is features of your own"):
        explain(own, None, some, 0, features="pooled", **SMALL)
    network = models.build("c3d", 2, 0.125, input_size=(16, 32, 32))
    with pytest.raises(ValueError, match=r"clips have .* but the model takes \(3, 16, 32, 32\)"):
        explain(network, None, some, 0, **SMALL)


# ----- Defaults follow the size of the pictures.


@pytest.mark.parametrize("wrong", [np.array(["clips", "pooled"]), np.array([]), torch.ones(2), [1]])
def test_a_word_or_a_truth_that_is_an_array_is_named(some, wrong):
    own = Functions(redness, nn.Linear(3, 2), (3, 8, 32, 32))
    words = ("layer", "concept_layer", "target", "features", "random_from", "stretch", "pool")
    for name in (*words, "seed", "progress"):
        with pytest.raises(ValueError, match=f"^{name} (must be .*, not|is .*; choose one of) "):
            explain(
                **{"model": own, "layer": None, "clips": some, "target_class": 0} | {name: wrong}
            )
    for wrong in (3, torch.tensor(1), np.array("a"), object()):
        with pytest.raises(ValueError, match="classes has 1 names, but the model has 2 logits"):
            explain(own, None, some, 0, classes=wrong, **SMALL)


@pytest.mark.parametrize(
    ("side", "several", "given", "layer", "pooled"),
    [
        (112, True, {}, "layer4", True),
        (112, True, {}, "avgpool", True),  # the mean over what layer4 gives
        (112, True, {"random": "others"}, "layer4", True),
        (112, True, {"random_from": "supervoxels"}, "layer4", True),
        (112, True, {"features": "supervoxels"}, "layer4", False),
        (112, True, {"random": 12}, "layer4", False),
        (112, False, {}, "layer4", False),
        (96, True, {}, "layer4", False),
    ],
)
def test_large_pictures_of_several_classes_are_explained_as_was_confirmed(
    monkeypatch, side, several, given, layer, pooled
):
    frames = textures(8, n_frames=8, size=(side, side)).frames
    labels = np.arange(8) % 2 if several else np.zeros(8, int)
    names = np.arange(8).astype(str)
    clips = Clips(frames, labels, names, names, ("walk", "run"))
    network = models.build("r3d18", 2, 0.125, 1, (8, side, side))
    cut = {}

    def find(seen_at, finder, mine, random, names, settings, *rest):
        cut.update(
            settings, at=seen_at.layer, grid=seen_at.grid, finder=finder.layer, n=len(random)
        )
        raise StopIteration

    monkeypatch.setattr("stce.explanation.gather", find)
    how = {"n_groups": 2, "n_keep": 3, "progress": False} | given
    with pytest.raises(StopIteration):
        explain(network, layer, clips, "walk", **how)
    paper = {"features": "supervoxels", "n_segments": [15, 50, 80], "random_from": "clips"}
    confirmed = {"features": "pooled", "n_segments": [50, 150, 300], "random_from": "matched"}
    wanted = (confirmed if pooled else paper) | given
    wanted.pop("random", None)
    assert {key: cut[key] for key in wanted} == wanted
    assert (cut["grid"] is not None) == pooled
    if pooled:
        assert (cut["at"], cut["finder"], cut["n"]) == ("layer4", "layer3", 4)
    else:
        assert (cut["at"], cut["finder"], cut["n"]) == (layer, layer, given.get("random", 6))


def test_large_pictures_at_a_layer_without_positions_are_explained_as_in_the_paper():
    labels, names = np.arange(12) % 2, np.arange(12).astype(str)
    clips = Clips(coloured(12, side=112), labels, names, names, ("red", "other"))
    few = {"n_segments": (4, 8), "n_concepts": 3, "n_keep": 6, "n_groups": 2, "progress": False}
    found = explain(Own((3, 8, 112, 112)), None, clips, "red", **few)
    assert found.settings["features"] == "supervoxels" and found.settings["n_random"] == 12
    with pytest.raises(ValueError, match="random is 'otherz'"):
        explain(Own((3, 8, 112, 112)), None, clips, "red", **few, random="otherz")


# ----- Real films.


@pytest.mark.skipif(not FILMS.is_dir(), reason="the real films are not here")
def test_real_films_of_a_folder(tmp_path):
    options = {"folder": FILMS / "arm_actions", "test_groups": ["person3"]}
    made = {}
    for split in ("train", "test"):
        found = datasets.load("folder", split, **options)
        found = found.select(found.table["class"].to_numpy() == "wave_one_hand")
        cached = videos.cache(found, tmp_path / split, (40, 40), min_frames=8, progress=False)
        made[split] = clips_module.middle_clips(cached, n_frames=8, crop=(32, 32))
    torch.manual_seed(0)
    found = explain(
        r3d_18(num_classes=3),
        "layer3",
        made["train"],
        "wave_one_hand",
        test_clips=made["test"],
        mean=(0.43216, 0.394666, 0.37645),
        std=(0.22803, 0.22145, 0.216989),
        classes=made["train"].classes,
        **SMALL,
    )
    assert len(found.clips) == 6 and found.class_name == "wave_one_hand"
    assert len(found.scores) == 3 and found.outcomes["video"].nunique() == 3


@pytest.mark.skipif(not FILMS.is_dir(), reason="the real films are not here")
def test_films_in_odd_formats(model):
    frames = []
    for path in sorted((FILMS / "formats").iterdir()):
        film = videos.frames.resize(videos.decode(path)[:64], (32, 32))
        frames.append(film[np.linspace(0, len(film) - 1, 8).astype(int)])
    found = explain(model, "relu", np.stack(frames), 1, **SMALL)
    assert len(found.clips) == len(frames) > 3 and len(found.scores) == 3


# ----- The chapter: every block is run as it stands, with smaller numbers.

CHAPTER = ROOT / "book" / "your_own.md"
SMALLER = {
    "size=(128, 171)": "size=(40, 48)",
    "crop=(112, 112)": "crop=(32, 32)",
    "clip_shape=(3, 16, 112, 112)": "clip_shape=(3, 8, 32, 32)",
    "n_frames=16": "n_frames=8",
    "min_frames=16": "min_frames=8",
    "((4, 4, 4), (16, 4, 4))": "((2, 1, 1), (8, 1, 1))",
    "random=400": "random=12",
    "MViT((112, 112), 16,": "MViT((32, 32), 8,",
    "grid=(8, 14, 14)": "grid=(4, 4, 4)",
    "found.check()": "found.check(n_clips=1, n_null=20, n_randomised=1)",
    "n_groups=50": "n_groups=3, n_keep=6, n_concepts=6, n_segments=(4, 8), n_random_orders=2",
}


def test_every_block_of_the_chapter_runs(films, tmp_path, monkeypatch):
    for person in ("anna", "ben"):
        for action in ("boxing", "handwaving"):
            for take in (1, 2, 3, 4, 5):
                path = tmp_path / "my-videos" / action / f"{person}_{take}.avi"
                films.write(path, films.frames(action, 20, person=take + 3 * (person == "ben")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STCE_PROGRESS", "0")
    coarse = functools.partial(saliency.occlusion, window=(4, 16, 16), stride=(4, 16, 16))
    coarse.__name__ = "occlusion"
    monkeypatch.setattr(saliency, "occlusion", coarse)
    text = CHAPTER.read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert len(blocks) >= 8
    names = {}
    torch.manual_seed(0)
    for block in blocks:
        for old, new in SMALLER.items():
            block = block.replace(old, new)
        exec(compile(block, str(CHAPTER), "exec"), names)
    assert (tmp_path / "explained" / "explanation.json").is_file()
    assert all(old in text for old in SMALLER)
