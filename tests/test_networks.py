"""What people have: channels anywhere, one logit, wrappers, gradients that are switched off."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from gradients import OFF
from torch import nn

from stce.videos import compat  # noqa: F401

# isort: split
from torchvision.models.video import mvit, r3d_18, s3d, swin3d_t

from stce import models, tcav
from stce.datasets.textures import textures
from stce.explanation import explain
from stce.models.adapt import Explainable, Functions, adapt
from stce.models.borrow import hooked

SHAPE = (1, 8, 24, 24)
HOW = {
    "random": 10, "n_segments": (4, 8), "n_concepts": 3, "n_keep": 5, "n_groups": 3, "q_max": 2,
    "progress": False,
}  # fmt: skip


class Chain(nn.Sequential):
    """A layer in front, one in the middle, and a head of averages."""

    def __init__(self, middle, width=6, front=None, classes=2):
        super().__init__()
        self.front = nn.Conv3d(1, 6, 3, padding=1) if front is None else front
        self.middle, self.fc = middle, nn.Linear(width, classes)
        self.width = width

    def forward(self, x):
        x = self.middle(self.front(x))
        axis = list(x.shape[1:]).index(self.width) + 1
        return self.fc(x.movedim(axis, 1).flatten(2).mean(2))


class Then(nn.Module):
    """A function as a layer."""

    def __init__(self, function, *parts):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x):
        return self.function(x, *self.parts)


class Tcn(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.tcn = nn.Conv3d(1, 6, 3, padding=1), nn.Conv1d(6, 5, 3, padding=1)
        self.act, self.fc = nn.ReLU(inplace=True), nn.Linear(5, 2)

    def forward(self, x):
        return self.fc(self.act(self.tcn(self.stem(x).mean((3, 4)))).mean(2))


class Vit(nn.Module):
    """Tokens of a size that is learnt, with one for the class."""

    def __init__(self, dim=12):
        super().__init__()
        self.patch = nn.Conv3d(1, dim, (2, 12, 12), (2, 12, 12))
        self.cls = nn.Parameter(torch.randn(1, 1, dim))
        self.place = Then(lambda x, p: x + p.weight, nn.Embedding(17, dim))
        self.norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 20), nn.GELU(), nn.Linear(20, dim))
        self.block = Then(lambda x, norm, mlp: x + mlp(norm(x)), self.norm, self.mlp)
        self.fc = nn.Linear(dim, 2)

    def forward(self, x):
        x = self.patch(x).flatten(2).mT
        x = self.place(torch.cat([self.cls.expand(len(x), -1, -1), x], 1))
        return self.fc(self.block(x)[:, 0])


def heads(x):
    """Return what no layer says anything about: two axes that stay."""
    return x.unflatten(1, (2, 3))


LAST = Then(lambda x: x.movedim(1, -1))
AXES = [
    (Tcn, "tcn", 5, 1),
    (Tcn, "act", 5, 1),
    (Vit, "patch", 12, 1),
    (Vit, "mlp.1", 20, 2),
    (lambda: Chain(LAST), "middle", 6, 4),
    (lambda: Chain(nn.Identity(), front=nn.Conv3d(1, 6, 3)), "middle", 6, 1),
    (lambda: Chain(nn.Sequential(LAST, nn.LayerNorm(6))), "middle.1", 6, 4),
    (lambda: Chain(nn.Sequential(nn.ReLU(), LAST, nn.ReLU())), "middle", 6, 4),
    (lambda: Chain(Then(lambda x: x.movedim(1, 2))), "middle", 6, 2),  # (N, T, C, H, W)
    (lambda: Chain(nn.Flatten(2)), "middle", 6, 1),
    (lambda: Chain(Then(lambda x: x.flatten(2).mT)), "middle", 6, 2),
    (lambda: Chain(nn.Sequential(nn.AdaptiveAvgPool3d(2), nn.Tanh())), "middle", 6, 1),
    (lambda: Chain(nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Tanh())), "middle", 6, 1),
    (lambda: Chain(nn.GroupNorm(2, 6)), "middle", 6, 1),
    (lambda: Chain(nn.LayerNorm((6, 8, 24, 24))), "middle", 6, 1),
    (lambda: Chain(Then(lambda x, f: f(x.movedim(1, -1)), nn.Linear(6, 9)), 9), "middle", 9, 4),
]


@pytest.mark.parametrize(("build", "layer", "width", "axis"), AXES)
def test_the_channels_are_where_the_module_has_them(build, layer, width, axis):
    torch.manual_seed(0)
    model, x, kept = build().eval(), torch.randn(3, *SHAPE), []
    seen = adapt(model, layer, clip_shape=SHAPE)
    assert (seen.n_features, seen.findings.channel_axis) == (width, axis)
    part = dict(model.named_modules())[layer]
    with part.register_forward_hook(lambda *a: kept.append(a[2].clone())), torch.no_grad():
        model(x)
    torch.testing.assert_close(seen.features(x), kept[0].movedim(axis, 1).flatten(2).mean(2))
    asked = adapt(model, layer, clip_shape=SHAPE, channel_axis=axis - kept[0].ndim)
    assert torch.equal(asked.features(x), seen.features(x))


def test_a_subclass_that_has_its_channels_elsewhere_is_not_taken_for_its_base():
    class First(nn.LayerNorm):
        def forward(self, x):
            return super().forward(x.movedim(1, -1)).movedim(-1, 1)

    class Later(nn.Conv1d):
        def forward(self, x):
            return super().forward(x.mT).mT

    assert adapt(Chain(First(6)), "middle", clip_shape=SHAPE).n_features == 6
    later = Chain(nn.Sequential(Then(lambda x: x.mean((3, 4)).mT), Later(6, 7, 1)), 7)
    assert adapt(later, "middle.1", clip_shape=SHAPE).n_features == 7


def test_where_nothing_tells_the_channels_they_are_asked_for():
    model = Chain(nn.Identity(), front=nn.Sequential(nn.Conv3d(1, 6, 3), Then(heads)), width=3)
    message = r"nothing tells where .* which gives \(2, 2, 3, 6, 22, 22\) for two clips; say it"
    with pytest.raises(ValueError, match=message):
        adapt(model, "middle", clip_shape=SHAPE)
    assert adapt(model, "middle", clip_shape=SHAPE, channel_axis=2).n_features == 3
    assert adapt(model, "middle", clip_shape=SHAPE, channel_axis=-5).n_features == 2
    flat = adapt(model, "middle", clip_shape=SHAPE, pool=False)
    assert flat.n_features == 2 * 3 * 6 * 22 * 22
    for wrong in (0, 6, -6, "last", 0.5):
        with pytest.raises(ValueError, match=f"channel_axis is {wrong!r} for layer"):
            adapt(model, "middle", clip_shape=SHAPE, channel_axis=wrong)


def test_an_axis_that_was_asked_for_is_not_another_layers():
    seen = adapt(Chain(LAST), "middle", clip_shape=SHAPE, channel_axis=-1)
    assert seen.split("front").n_features == 6


@pytest.mark.parametrize(
    ("build", "layer", "width", "shape"),
    [
        (swin3d_t, "patch_embed", 96, (3, 16, 64, 64)),
        (swin3d_t, "features.0", 96, (3, 16, 64, 64)),
        (swin3d_t, "features.1", 192, (3, 16, 64, 64)),
        (swin3d_t, "features.6", 768, (3, 16, 64, 64)),
        (swin3d_t, "features.6.0.mlp", 768, (3, 16, 64, 64)),
        (swin3d_t, "features.6.0.mlp.1", 3072, (3, 16, 64, 64)),
        (swin3d_t, "norm", 768, (3, 16, 64, 64)),
        (swin3d_t, "avgpool", 768, (3, 16, 64, 64)),
        (s3d, "features.2", 64, (3, 16, 224, 224)),
    ],
)
def test_real_networks(build, layer, width, shape):
    torch.manual_seed(0)
    seen = adapt(build(num_classes=2), layer, clip_shape=shape)
    assert seen.n_features == width
    if seen.findings.channel_axis == 4:
        assert seen.pooled().maps(torch.zeros(1, *shape)).shape[1] == width


@pytest.mark.parametrize(
    ("layer", "width"),
    [
        ("conv_proj", 16),
        ("pos_encoding", 16),
        ("blocks.0.mlp", 32),
        ("blocks.0.mlp.1", 64),
        ("blocks.0", 32),
    ],
)
def test_tokens_of_mvit(layer, width):
    model = small_mvit()
    seen = adapt(model, layer, clip_shape=(3, 8, 32, 32))
    assert seen.n_features == width
    x = torch.randn(2, 3, 8, 32, 32)
    maps = seen.pooled().maps(x)
    assert maps.shape == (2, width, 4, 8, 8)
    assert torch.allclose(seen.features(x), maps.mean((2, 3, 4)), atol=1e-5)
    given = []
    with hooked(seen.module, given.append), torch.no_grad():
        model.eval()(x)
    tokens = given[0][0] if layer == "blocks.0" else given[0]
    if layer == "conv_proj":
        assert torch.allclose(maps, tokens, atol=1e-5)
        return
    # The class token comes first and has no place; then frames, rows and columns.
    byhand = [maps[1, :, 2, 3, 5], tokens[1, 1 + 2 * 64 + 3 * 8 + 5]]
    assert seen.findings.n_before == 1
    assert torch.allclose(*byhand, atol=1e-5)


def small_mvit():
    torch.manual_seed(0)
    how = {"kernel_q": [], "kernel_kv": [3, 3, 3], "stride_q": [], "stride_kv": [1, 2, 2]}
    blocks = [mvit.MSBlockConfig(1, 16, 32, **how), mvit.MSBlockConfig(2, 32, 32, **how)]
    flags = dict.fromkeys(("residual_pool", "rel_pos_embed", "proj_after_attn"), False)
    return mvit.MViT((32, 32), 8, blocks, residual_with_cls_embed=True, num_classes=2, **flags)


@pytest.mark.parametrize("layer", ["blocks.1.mlp", "blocks.1", "norm"])
def test_tokens_that_the_logits_do_not_read_are_refused(layer):
    with pytest.raises(ValueError, match=f"read no token of the grid at '{layer}'"):
        adapt(small_mvit(), layer, clip_shape=(3, 8, 32, 32))
    # What the class token says is found where it stands alone.
    assert adapt(small_mvit(), "head.0", clip_shape=(3, 8, 32, 32)).n_features == 32


class Tokens(nn.Module):
    """Logits from the mean of the tokens `read`; each is moved by what all the others say."""

    def __init__(self, n_before=1, conv=True):
        super().__init__()
        self.patch = nn.Conv3d(1, 6, (2, 12, 12), (2, 12, 12))
        self.before = nn.Parameter(torch.randn(1, n_before, 6))
        self.mix, self.fc, self.conv = nn.Linear(6, 6), nn.Linear(6, 2), conv

    def forward(self, x):
        if self.conv:
            x = self.patch(x).flatten(2).mT
        else:  # the same, but no layer that tells it
            weights = self.patch.weight, self.patch.bias, (2, 12, 12)
            x = nn.functional.conv3d(x, *weights).flatten(2).mT
        x = self.mix(torch.cat([self.before.expand(len(x), -1, -1), x], 1))
        return self.fc((x * x.mean(1, keepdim=True).sigmoid()).mean(1))


def test_the_grid_of_tokens_is_told_or_asked_for():
    torch.manual_seed(0)
    shape, x = (1, 8, 24, 24), torch.randn(2, 1, 8, 24, 24)
    seen = adapt(Tokens(), "mix", clip_shape=shape)
    assert (seen.findings.grid, seen.findings.n_before) == ((4, 2, 2), 1)
    # By hand: the gradient of a logit by the mean of the tokens in the grid, summed over these.
    model = seen.model
    z = model.patch(x).flatten(2).mT
    z = model.mix(torch.cat([model.before.expand(2, -1, -1), z], 1)).detach().requires_grad_()
    logit = model.fc((z * z.mean(1, keepdim=True).sigmoid()).mean(1))[:, 1]
    (slope,) = torch.autograd.grad(logit.sum(), z)
    assert torch.allclose(seen.gradient(x, 1), slope[:, 1:].sum(1), atol=1e-6)
    assert torch.allclose(seen.features(x), z[:, 1:].mean(1), atol=1e-6)
    for n_before, told in ((1, True), (2, 2), (0, False), (0, None)):
        hidden, grid = Tokens(n_before, conv=False), (4, 2, 2)
        again = adapt(hidden, "mix", clip_shape=shape, grid=grid, class_token=told)
        assert (again.findings.grid, again.findings.n_before) == ((4, 2, 2), n_before)
        assert again.pooled().grid == (4, 2, 2)
    # Two tokens before the grid: nothing says that these are what they are.
    plain = adapt(Tokens(2), "mix", clip_shape=shape)
    assert plain.findings.grid is None
    with pytest.raises(ValueError, match="tell adapt the grid of its tokens"):
        plain.pooled()
    asked = adapt(Tokens(2), "mix", clip_shape=shape, class_token=2)
    assert asked.findings.grid == (4, 2, 2)
    # At another layer of the same tokens they are what they were said to be; a map has none.
    model = asked.model
    model.mix = nn.Sequential(model.mix, nn.Identity())
    there = adapt(model, "mix.0", clip_shape=shape, class_token=2, mean=0.5).split("mix.1")
    assert (there.findings.grid, there.findings.n_before) == ((4, 2, 2), 2)
    assert there.mean.tolist() == [0.5]
    assert there.split("patch").findings.shape == (6, 4, 2, 2)


class FirstToken(Tokens):
    """Logits from the class token, which hears of the others in the middle of `mix` alone."""

    def __init__(self):
        super().__init__(conv=False)
        self.mix = nn.Sequential(self.mix, Hears(), nn.Identity())

    def forward(self, x):
        seen = []
        with hooked(self.mix, seen.append):
            super().forward(x)
        return self.fc(seen[0][:, 0])


class Hears(nn.Module):
    """Each token is moved by the mean of all."""

    def forward(self, x):
        return x + x.mean(1, keepdim=True)


def test_tokens_that_are_not_read_at_another_layer_are_refused_there_too():
    torch.manual_seed(0)
    told = {"grid": (4, 2, 2), "class_token": True}
    seen = adapt(FirstToken(), "mix.0", clip_shape=(1, 8, 24, 24), **told)
    with pytest.raises(ValueError, match="read no token of the grid at 'mix.2'"):
        seen.split("mix.2")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"grid": (4, 2, 3)}, r"grid is \(4, 2, 3\), 24 positions.* make the 17 tokens of layer"),
        ({"grid": (4, 2, 2), "class_token": False}, "class_token False, which do not make the 17"),
        ({"grid": (4, 2, 2), "class_token": 3}, "class_token 3, which do not make the 17"),
        ({"class_token": 2}, "nothing tells the grid of layer 'mix'"),
        ({"grid": (4, 2)}, r"grid is \(4, 2\) and class_token None; give the frames, rows and"),
        ({"grid": "abc"}, "grid is 'abc' and class_token None; give the frames"),
        ({"grid": (-4, -2, 2)}, "give the frames, rows and columns"),
        ({"grid": (4, 2, 2), "class_token": "one"}, "class_token 'one'; give the frames"),
    ],
)
def test_a_grid_that_does_not_fit_is_refused(asked, said):
    with pytest.raises(ValueError, match=said):
        adapt(Tokens(), "mix", clip_shape=(1, 8, 24, 24), **asked)
    with pytest.raises(ValueError, match=r"of tokens \(N, L, D\), not for layer 'patch'"):
        adapt(Tokens(), "patch", clip_shape=(1, 8, 24, 24), grid=(4, 2, 2))


# ----- What comes out of it.


def one_logit():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 4, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 1))


class Two(nn.Module):
    """The remedy that the message names."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        z = self.model(x)
        return torch.cat([-z, z], 1)


@pytest.fixture(scope="module")
def clips():
    return textures(4, n_frames=4, size=(24, 24)).frames


REMEDY = r"two classes or more: of a single logit z \(N, 1\) torch.cat\(\[-z, z\], 1\)"


def test_one_logit_is_refused_with_the_remedy(clips):
    one = one_logit()
    for target in ("logit", "log_prob"):
        with pytest.raises(ValueError, match=REMEDY):
            explain(one, "1", clips, 0, target=target, **HOW)
    with pytest.raises(ValueError, match=REMEDY):
        adapt(nn.Sequential(one, nn.Flatten(0)), "0.1", clip_shape=(1, 4, 24, 24))
    own = Functions(lambda x: x.mean((2, 3, 4)), lambda z: z, (1, 4, 24, 24))
    with pytest.raises(ValueError, match=REMEDY):
        explain(own, None, clips, 0, **HOW)


def test_the_remedy_for_one_logit_is_right(clips):
    one = one_logit()
    with torch.no_grad():
        one[3].bias -= 100  # never says yes
    found = explain(Two(one), "model.1", clips, 1, test_clips=clips, **HOW)
    assert set(found.accuracy["accuracy"]) == {0}
    never = explain(Two(one), "model.1", clips, 0, test_clips=clips, **HOW)
    assert set(never.accuracy["accuracy"]) == {1}
    mean = found.scores["derivative"].sort_index()
    assert (mean != 0).all()
    torch.testing.assert_close(
        *(torch.tensor(s.to_numpy()) for s in (mean, -never.scores["derivative"].sort_index()))
    )


@pytest.mark.parametrize(
    ("last", "what"),
    [
        (nn.Softmax(1), "return probabilities; .*the last softmax out"),
        (nn.LogSoftmax(1), "return log-probabilities; .*the last log_softmax out"),
        (Then(lambda y: torch.stack([y.softmax(1)] * 2).mean(0)), "the last softmax out"),
    ],
)
def test_probabilities_are_said(last, what, clips):
    model = nn.Sequential(*Chain(nn.AdaptiveAvgPool3d(1)).children())
    model = nn.Sequential(model[0], model[1], nn.Flatten(), nn.Linear(6, 3), last)
    with pytest.warns(UserWarning, match=what):
        adapt(model, "1", clip_shape=SHAPE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapt(model[:-1], "1", clip_shape=SHAPE)


def test_small_logits_that_happen_to_be_positive_are_none():
    model = nn.Sequential(
        nn.Conv3d(1, 4, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    with torch.no_grad():
        model[3].weight.mul_(1e-3)
        model[3].bias.fill_(0.4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapt(model, "1", clip_shape=SHAPE)


def test_probabilities_of_features_of_ones_own_are_said(clips):
    own = Functions(
        lambda x: x.mean((2, 3, 4)), lambda z: torch.cat([z, -z], 1).softmax(1), (1, 4, 24, 24)
    )
    with pytest.warns(UserWarning, match="the model seems to return probabilities"):
        explain(own, None, clips, 0, **HOW)


# ----- Gradients that the caller has switched off.


def example():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(1, 4, 3),
        nn.BatchNorm3d(4),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )


def table(found):
    return found.scores.sort_index()


@pytest.mark.parametrize("how", OFF)
@pytest.mark.parametrize("layer", ["0", "2"])
@pytest.mark.parametrize("made_inside", [False, True])
def test_scores_are_equal_where_gradients_are_switched_off(how, layer, made_inside, clips):
    wanted = table(explain(example(), layer, clips, 1, test_clips=clips, **HOW))
    model = example().train()
    with OFF[how]():
        model = example().train() if made_inside else model
        got = table(explain(model, layer, clips, 1, test_clips=clips, **HOW))
        assert torch.is_grad_enabled() is False
    assert got.equals(wanted)
    again = table(explain(model, layer, clips, 1, **HOW))
    assert again.equals(wanted)
    assert all(part.training and not part._forward_hooks for part in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    if not made_inside:
        model(torch.zeros(2, 1, 4, 24, 24)).sum().backward()


@pytest.mark.parametrize("how", OFF)
def test_slopes_where_gradients_are_switched_off(how):
    network = models.build("r3d18", 2, 0.125, 1, (8, 24, 24), seed=1).eval()
    pooled = network.split("layer3").pooled()

    def both():
        z = np.random.default_rng(0).normal(size=(3, network.n_features)).astype(np.float32)
        maps = np.ones((2, int(np.prod(pooled.feature_shape))), np.float32)
        return tcav.slopes(network, z, 1, "log_prob"), tcav.slopes(pooled, maps, 0)

    wanted = both()
    with OFF[how]():
        got = both()
    for a, b in zip(got, wanted, strict=True):
        assert np.array_equal(a, b) and np.abs(a).max() > 0


@pytest.mark.parametrize("how", OFF)
def test_an_explainable_of_ones_own_may_take_its_gradient_itself(how, clips):
    class Own(Explainable):
        n_features, splits = 1, "no"

        def features(self, x):
            return x.mean((2, 3, 4))

        def __call__(self, x):
            z = self.features(x)
            return torch.cat([z, -z], 1)

        def gradient(self, x, class_index, target="logit"):
            z = self.features(x.requires_grad_())
            return torch.autograd.grad(z.sum() * (1 - 2 * class_index), z)[0]

    own = Own((1, 4, 24, 24))
    wanted = table(explain(own, None, clips, 0, **HOW))
    with OFF[how]():
        assert table(explain(own, None, clips, 0, **HOW)).equals(wanted)


def test_logits_that_have_no_gradient_are_said(clips):
    blind = Functions(
        lambda x: x.mean((2, 3, 4)), lambda z: torch.cat([z, -z], 1).detach(), (1, 4, 24, 24)
    )
    with pytest.raises(ValueError, match="the logits of the model have no gradient"):
        tcav.slopes(blind, np.ones((2, 1), np.float32), 0)


# ----- Wrappers.


@pytest.mark.parametrize("layer", ["1", "0.0"])
def test_wrapped_networks_are_seen_through(layer, clips):
    def made():
        torch.manual_seed(0)
        front = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU())
        return nn.Sequential(front, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2))

    wanted = table(explain(made(), layer, clips, 1, **HOW))
    inside = made()
    inside[0] = torch.compile(inside[0], backend="eager")
    inplace = made()
    inplace.compile(backend="eager")
    inplace(torch.zeros(2, 1, 4, 24, 24))
    for model, front in [
        (nn.DataParallel(made()), "module."),
        (torch.compile(made(), backend="eager"), "_orig_mod."),
        (torch.optim.swa_utils.AveragedModel(made()), "module."),
        (nn.DataParallel(torch.compile(made(), backend="eager")), "module._orig_mod."),
        (inside, ""),
        (inplace, ""),
    ]:
        for name in {layer, front + layer}:
            found = explain(model, name, clips, 1, **HOW)
            assert table(found).equals(wanted)
            assert not any(part._forward_hooks for part in model.modules())


def test_a_layer_is_not_mistaken_for_one_in_a_part_called_module():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.module = nn.Conv3d(1, 4, 1), nn.Sequential()
            self.module.conv, self.fc = nn.Conv3d(4, 6, 1), nn.Linear(6, 2)

        def forward(self, x):
            return self.fc(self.module(self.conv(x)).mean((2, 3, 4)))

    assert adapt(Two(), "conv", clip_shape=SHAPE).n_features == 4
    assert adapt(Two(), "module.conv", clip_shape=SHAPE).n_features == 6


def test_a_compiled_network_is_saved_as_what_it_was_made_of(tmp_path):
    network = models.build("r3d18", 2, 0.125, 1, (8, 24, 24), seed=1).eval()
    x = torch.randn(2, 1, 8, 24, 24)
    models.save(tmp_path / "net.safetensors", torch.compile(network, backend="eager"), epoch=3)
    again = models.load(tmp_path / "net.safetensors")
    assert again.metadata == {"epoch": 3} and torch.equal(again(x), network(x))


def test_scripted_and_traced_modules_are_refused_with_the_remedy(clips):
    x = torch.zeros(2, 1, 4, 24, 24)
    for made in (torch.jit.script(example().eval()), torch.jit.trace(example().eval(), x)):
        with pytest.raises(ValueError, match="scripted or traced module, .* made from"):
            explain(made, "2", clips, 1, **HOW)
    # What is before or after it can be seen.
    whole = nn.Sequential(nn.Conv3d(1, 1, 1), torch.jit.script(example().eval()))
    assert adapt(whole, "0", clip_shape=(1, 4, 24, 24)).gradient(x, 1).abs().max() > 0
    traced = nn.Sequential(torch.jit.trace(example()[:3].eval(), x), nn.Flatten(), nn.Linear(4, 2))
    assert adapt(traced, "0", clip_shape=(1, 4, 24, 24)).n_features == 4


def test_a_module_without_weights_is_refused_with_the_remedy(clips):
    with torch.device("meta"):
        empty = example()
    lazy = nn.Sequential(
        nn.LazyConv3d(4, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    for model in (empty, lazy):
        for device in (None, "cpu"):
            with pytest.raises(ValueError, match="Conv3d in .* no values yet.*load_state_"):
                explain(model, "1", clips, 1, device=device, **HOW)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_on_a_cpu(dtype, clips):
    wanted = table(explain(example(), "2", clips, 1, **HOW))
    model = example().to(dtype)
    got = table(explain(model, "2", clips, 1, **HOW))
    assert np.abs(got["derivative"] - wanted["derivative"]).max() < 0.3
    assert {p.dtype for p in model.parameters()} == {dtype}


@dataclasses.dataclass
class Answer:
    logits: torch.Tensor


def test_answers_that_are_no_tensor_are_named():
    for wrap, said in ((lambda y: Answer(y), "a Answer"), (lambda y: [y], "a list of 1")):
        with pytest.raises(ValueError, match=f"returns {said}.*forward returns the logits"):
            adapt(nn.Sequential(example(), Then(wrap)), "0.2", clip_shape=(1, 4, 24, 24))


def test_r3d_is_as_it_was():
    torch.manual_seed(0)
    model = r3d_18(num_classes=2)
    for layer, width in (
        ("stem", 64),
        ("layer3", 256),
        ("layer3.0.conv1.1", 256),
        ("avgpool", 512),
    ):
        assert adapt(model, layer, clip_shape=(3, 8, 32, 32)).n_features == width


@pytest.mark.parametrize("axis", [np.array(3), 1.0, "1", [1]])
def test_an_axis_that_is_no_whole_number_is_one_sentence(axis):
    model = nn.Sequential(
        nn.Conv3d(1, 4, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    with pytest.raises(ValueError, match="channel_axis"):
        adapt(model, "0", clip_shape=(1, 4, 16, 16), channel_axis=axis)
