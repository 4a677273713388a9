"""Networks as their owners have them: what they return, wrap, freeze, leave on and switch off."""

import warnings
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import pytest
import torch
from gradients import OFF
from test_saliency import METHODS, noise
from test_saliency import small as built
from test_training import Lamps, fit, same, weights
from torch import nn
from torch.nn import functional

from stce import models, training
from stce.datasets.textures import textures
from stce.explanation import explain
from stce.models.adapt import Functions, adapt

SHAPE = (1, 4, 24, 24)
HOW = {
    "random": 10, "n_segments": (4, 8), "n_concepts": 3, "n_keep": 5, "n_groups": 3, "q_max": 2,
    "progress": False,
}  # fmt: skip


class Ends(nn.Module):
    """A small network, and what its owner does with the logits, and with clips before."""

    def __init__(self, last=lambda y: y, first=lambda x: x):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.drop, self.fc = nn.Conv3d(1, 4, 3), nn.Dropout(0.5), nn.Linear(4, 2)
        self.last, self.first = last, first

    def forward(self, x):
        x = self.drop(self.conv(self.first(x))).mean((2, 3, 4))
        return self.last(self.fc(x))


@pytest.fixture(scope="module")
def clips():
    return textures(4, n_frames=4, size=(24, 24)).frames


def scores(model, clips, **how):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return explain(model, "conv", clips, 1, **HOW | how).scores.sort_index()


# ----- What they return.

SIGMOIDS = {
    "function": torch.sigmoid,
    "method": lambda y: y.sigmoid(),
    "in place": lambda y: y.sigmoid_(),
    "module": nn.Sigmoid(),
    "functional": functional.sigmoid,
    "hard": functional.hardsigmoid,
    "reshaped": lambda y: y[:, None].sigmoid().squeeze(1),
    "rounded to floats": lambda y: y.double().sigmoid().float(),
}


@pytest.mark.parametrize("how", SIGMOIDS)
def test_a_sigmoid_at_the_end_is_said(how, clips):
    with pytest.warns(UserWarning, match="Ends seems to return probabilities; .*last sigmoid out"):
        adapt(Ends(SIGMOIDS[how]), "conv", clip_shape=SHAPE)
    with pytest.warns(UserWarning, match="last sigmoid out"):
        explain(Ends(SIGMOIDS[how]), "conv", clips, 1, **HOW)


def test_a_sigmoid_of_features_of_ones_own_is_said(clips):
    own = Functions(lambda x: x.mean((2, 3, 4)), lambda z: torch.cat([z, -z], 1).sigmoid(), SHAPE)
    with pytest.warns(UserWarning, match="the model seems to return .*last sigmoid out"):
        explain(own, None, clips, 0, **HOW)


def test_a_sigmoid_on_the_way_is_none(clips):
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv3d(1, 2, 3), nn.Linear(2, 2)

        def forward(self, x):
            x = functional.silu(self.conv(x)).sigmoid().mean((2, 3, 4))
            return self.fc(x * x.sigmoid())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapt(Gate(), "conv", clip_shape=SHAPE)
        adapt(Ends(lambda y: y / 1000 + 0.4), "conv", clip_shape=SHAPE)  # in 0..1 by chance


class ModelOutput(OrderedDict):
    """As that of HuggingFace: a dict with attributes."""

    def __getattr__(self, name):
        return self[name]


class Pair(NamedTuple):
    logits: torch.Tensor
    hidden: torch.Tensor


ANSWERS = {
    "a dict with 'logits', 'hidden'": lambda y: ModelOutput(logits=y, hidden=y),
    "a Pair of 2": lambda y: Pair(y, y),
    "a tuple of 2": lambda y: (y, y),
    "a list of 1": lambda y: [y],
    "a NoneType": lambda y: None,
}


@pytest.mark.parametrize("said", ANSWERS)
def test_answers_that_are_no_tensor_are_named_and_the_remedy_is_right(said, clips):
    with pytest.raises(ValueError, match=f"Ends returns {said}.*forward returns the logits"):
        explain(Ends(ANSWERS[said]), "conv", clips, 1, **HOW)


def test_the_remedy_for_an_answer_gives_the_same_scores(clips):
    class Logits(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x).logits

    wrapped = Logits(Ends(ANSWERS["a dict with 'logits', 'hidden'"]))
    found = explain(wrapped, "model.conv", clips, 1, **HOW).scores.sort_index()
    assert found.equals(scores(Ends(), clips))


@pytest.mark.parametrize(
    "broken",
    [
        lambda: Ends(lambda y: y * float("nan")),
        lambda: Ends(lambda y: y / 0),
        lambda: poisoned("fc.weight"),
        lambda: poisoned("conv.bias"),
    ],
)
def test_no_numbers_are_told_in_a_sentence(broken, clips):
    said = "Ends gives logits that are not finite; look for NaN in its weights"
    with pytest.raises(ValueError, match=said):
        explain(broken(), "conv", clips, 1, **HOW)


def poisoned(name):
    model = Ends()
    with torch.no_grad():
        model.get_parameter(name).view(-1)[0] = float("nan")
    return model


# ----- What they take.


class Frames(nn.Module):
    """Takes (N, T, C, H, W), as many networks of frames do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4, 2)

    def forward(self, x):
        n, t = x.shape[:2]
        return self.fc(self.conv(x.flatten(0, 1)).mean((2, 3)).unflatten(0, (n, t)).mean(1))


class Turned(nn.Module):
    """The remedy that the message names."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x.transpose(1, 2))


def test_frames_before_channels_are_told_with_the_remedy(clips):
    remedy = r"if it takes \(N, T, C, H, W\): .* model\(x.transpose\(1, 2\)\)"
    with pytest.raises(ValueError, match=f"Frames cannot take clips .*{remedy}"):
        adapt(Frames(), "conv", clip_shape=SHAPE)
    seen = adapt(Turned(Frames()), "model.conv", clip_shape=SHAPE)
    x = torch.randn(2, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(seen(x), Frames()(x.transpose(1, 2)))


@pytest.mark.parametrize(
    "change", [lambda x: x.mul_(2).add_(1), lambda x: x.clamp_(min=0), lambda x: x.neg_()]
)
def test_a_network_that_changes_its_input_in_place_changes_nothing_else(change, clips):
    def apart(x):  # the same, without changing its input
        return change(x.clone())

    kept = clips.copy()
    assert scores(Ends(first=change), clips).equals(scores(Ends(first=apart), clips))
    assert np.array_equal(clips, kept)


def test_a_part_without_values_is_named(clips):
    model = Ends()
    model.fc.to("meta")
    with pytest.raises(ValueError, match="weight of a Linear in Ends has no values yet"):
        explain(model, "conv", clips, 1, **HOW)


# ----- What they leave on and off.


def test_frozen_weights_are_scored_as_others_and_stay_frozen(clips):
    model = Ends().requires_grad_(False)
    assert scores(model, clips).equals(scores(Ends(), clips))
    assert not any(p.requires_grad for p in model.parameters())
    half = Ends()
    half.conv.requires_grad_(False)
    assert scores(half, clips).equals(scores(Ends(), clips))
    assert [p.requires_grad for p in half.parameters()] == [False, False, True, True]


def test_dropout_is_off_while_a_network_is_explained_and_on_again_after(clips):
    model = Ends().train()
    model.conv.eval()
    assert scores(model, clips).equals(scores(Ends().eval(), clips))
    assert [part.training for part in model.modules()] == [True, False, True, True]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_nearly_the_scores_of_single(dtype, clips):
    model = Ends().to(dtype)
    slopes = [scores(m, clips)["derivative"].to_numpy() for m in (model, Ends())]
    assert np.abs(slopes[0] - slopes[1]).max() < 0.05 * np.abs(slopes[1]).max()
    assert {p.dtype for p in model.parameters()} == {dtype}


# ----- Gradients that the caller has switched off, elsewhere than in explain.


@pytest.mark.parametrize("how", OFF)
@pytest.mark.parametrize("made_inside", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_saliency_is_equal_where_gradients_are_switched_off(name, how, made_inside):
    clips, method = noise(2, (8, 32, 32)), METHODS[name]
    box = {"window": (8, 16, 16), "stride": (8, 16, 16)}
    how_much = {"grad-cam": {}, "occlusion": box}.get(name, {"n_steps": 5}) | {"progress": False}
    wanted = method(built("r3d18"), clips, **how_much)
    assert np.abs(wanted).max() > 0
    network = built("r3d18").train()
    with OFF[how]():
        network = built("r3d18").train() if made_inside else network
        got = method(network, clips, **how_much)
        assert not torch.is_grad_enabled()
    np.testing.assert_array_equal(got, wanted)
    assert network.training and all(part.training for part in network.modules())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())


@pytest.mark.parametrize("how", OFF)
@pytest.mark.parametrize("made_inside", [False, True])
def test_training_is_equal_where_gradients_are_switched_off(tmp_path, how, made_inside):
    def made():
        return models.build("r3d18", 3, 0.125, 1, (8, 16, 16), dropout=0.3)

    history = fit(Lamps(), tmp_path / "on", made(), epochs=2)
    network = made()
    with OFF[how]():
        network = made() if made_inside else network
        again = fit(Lamps(), tmp_path / "off", network, epochs=2)
        assert not torch.is_grad_enabled()
    assert again.equals(history)
    files = [weights(tmp_path / name / "last.safetensors") for name in ("on", "off")]
    assert same(*files)
    network(torch.zeros(2, 1, 8, 16, 16)).sum().backward()  # it can be trained on


def test_an_evaluation_leaves_the_mode_of_every_part():
    network = built("c3d").train()
    network.head.eval()
    before = [part.training for part in network.modules()]
    training.evaluate(network, noise(2, (8, 32, 32)))
    assert [part.training for part in network.modules()] == before


# ----- Networks that are wrapped when they are saved.

WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "compiled": lambda net: torch.compile(net, backend="eager"),
    "both": lambda net: nn.DataParallel(torch.compile(net, backend="eager")),
    "averaged": torch.optim.swa_utils.AveragedModel,
    "in a chain": nn.Sequential,
}


@pytest.mark.parametrize("how", WRAPPERS)
def test_a_wrapped_network_is_saved_as_what_is_inside(how, tmp_path):
    network = built("r3d18")
    models.save(tmp_path / "net.safetensors", WRAPPERS[how](network), epoch=3)
    again, x = models.load(tmp_path / "net.safetensors"), torch.randn(2, 1, 8, 32, 32)
    assert again.metadata == {"epoch": 3} and torch.equal(again(x), network(x))
    assert same(again.state_dict(), network.state_dict())


def test_what_is_no_network_of_ours_is_refused_with_the_remedy(tmp_path):
    for other in (Ends(), nn.Sequential(Ends()), {"weight": torch.ones(1)}):
        with pytest.raises(TypeError, match="save takes a Network, no .*; use torch.save"):
            models.save(tmp_path / "net.safetensors", other)
    assert not list(tmp_path.iterdir())
