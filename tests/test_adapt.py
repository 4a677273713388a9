"""Anybody's network: real architectures, numerical derivatives, and what is left behind."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from stce import tcav
from stce.videos import compat  # noqa: F401

# isort: split
from pytorchvideo.models import resnet, slowfast, x3d
from torchvision.models import resnet18
from torchvision.models.video import mc3_18, r3d_18

from stce import models
from stce.models.adapt import Explainable, Functions, adapt
from stce.models.borrow import borrowed

SHAPE = (3, 8, 32, 32)


class Frames(nn.Module):
    """A two-dimensional CNN over frames, averaged in time."""

    def __init__(self, clip_major=True):
        super().__init__()
        self.cnn, self.clip_major = resnet18(num_classes=5), clip_major

    def forward(self, x):
        n, t = x.shape[0], x.shape[2]
        if self.clip_major:
            return self.cnn(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (n, t)).mean(1)
        return self.cnn(x.permute(2, 0, 1, 3, 4).flatten(0, 1)).unflatten(0, (t, n)).mean(0)


class Pathways(nn.Module):
    """Makes the two pathways of a SlowFast network from one clip."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model([x[:, :, ::4], x])


def two_pathways():
    return slowfast.create_slowfast(
        model_num_class=5,
        slowfast_fusion_conv_stride=(4, 1, 1),
        head_pool_kernel_sizes=((2, 1, 1), (8, 1, 1)),
    )


def x3d_xs():
    return x3d.create_x3d(
        input_clip_length=8, input_crop_size=32, model_num_class=5, head_activation=None
    )


def slow_r50():
    return resnet.create_resnet(model_num_class=5, head_pool_kernel_size=(8, 1, 1))


class Small(nn.Module):
    """A residual network with steps in place, in a forward of its own."""

    def __init__(self, n_classes=3, channels=3):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv3d(channels, 6, 3, 2, 1), nn.BatchNorm3d(6), nn.ReLU(inplace=True)
        )
        self.block = nn.Sequential(nn.Conv3d(6, 6, 3, 1, 1), nn.Tanh())
        self.hidden, self.fc = nn.Linear(6, 7), nn.Linear(7, n_classes)
        self.calls, self.fail_at = 0, -1
        with torch.no_grad():
            self.stem[1].running_mean.uniform_(-0.2, 0.2)

    def forward(self, x):
        self.calls += 1
        if self.calls == self.fail_at:
            raise RuntimeError("out of luck")
        x = self.stem(x)
        x = (x + self.block(x)).mean((2, 3, 4))
        return self.fc(torch.relu_(self.hidden(x)))


@pytest.fixture
def small():
    torch.manual_seed(0)
    return Small()


def clips(n=2, shape=SHAPE, seed=1):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


REAL = [
    (lambda: r3d_18(num_classes=5), "avgpool", 512, "chain"),
    (lambda: mc3_18(num_classes=5), "layer2.0.conv1.0", 128, "no"),
    (x3d_xs, "blocks.5.pool", 2048, "replay"),
    (slow_r50, "blocks.4.res_blocks.0", 2048, "no"),
    (lambda: Pathways(two_pathways()), "model.blocks.5", 2304, "chain"),
    (Frames, "cnn.layer4", 512, "no"),
    (Frames, "cnn.avgpool", 512, "no"),
]


@pytest.mark.parametrize(("build", "layer", "width", "splits"), REAL)
def test_features_logits_and_gradients_of_real_architectures(build, layer, width, splits):
    torch.manual_seed(0)
    model = build()
    seen = adapt(model, layer, clip_shape=SHAPE)
    assert isinstance(seen, Explainable)
    assert (seen.n_features, seen.splits) == (width, splits)
    x = clips()
    kept = []
    handle = dict(model.named_modules())[layer].register_forward_hook(lambda *a: kept.append(a[2]))
    with torch.no_grad():
        wanted = copy.deepcopy(model).eval()(x)  # the copied hook fills the same list
    handle.remove()
    (a,) = kept
    z = seen.features(x)
    peer = a.reshape(2, -1, *a.shape[1:]).movedim(2, 1).flatten(2).mean(2)
    torch.testing.assert_close(z, peer, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(seen(x), wanted, rtol=1e-3, atol=1e-4)
    slope = seen.gradient(x, 2)
    assert slope.shape == z.shape and slope.abs().max() > 0
    if splits != "no":
        torch.testing.assert_close(seen.logits(z), wanted, rtol=1e-3, atol=1e-4)
        by_head = torch.from_numpy(tcav.slopes(seen, z.numpy(), 2))
        torch.testing.assert_close(slope, by_head, rtol=1e-3, atol=1e-5)


def shifted(model, layer, x, step):
    """Return the logits with `step` added to the layer's output."""
    handle = dict(model.named_modules())[layer].register_forward_hook(lambda m, i, out: out + step)
    try:
        with torch.no_grad():
            return model.eval()(x)
    finally:
        handle.remove()


@pytest.mark.parametrize("target", ["logit", "log_prob"])
@pytest.mark.parametrize("layer", ["stem.0", "block.0", "block", "hidden"])
def test_gradient_is_the_derivative_along_a_vector_at_every_position(small, layer, target):
    small.double()
    seen = adapt(small, layer, clip_shape=SHAPE)
    x = clips(3).double()
    v = torch.randn(seen.n_features, generator=torch.Generator().manual_seed(2)).double()
    step = 1e-6 * (v if layer == "hidden" else v[:, None, None, None])
    sides = [shifted(copy.deepcopy(small), layer, x, s) for s in (step, -step)]
    if target == "log_prob":
        sides = [side.log_softmax(1) for side in sides]
    wanted = (sides[0] - sides[1])[:, 1] / 2e-6
    got = seen.gradient(x, 1, target).double() @ v
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_gradient_of_frames_moves_all_frames():
    torch.manual_seed(0)
    model = Frames().double()
    seen = adapt(model, "cnn.layer3", clip_shape=SHAPE)
    v = torch.randn(256, generator=torch.Generator().manual_seed(2)).double()
    step = 1e-6 * v[:, None, None]
    sides = [
        shifted(copy.deepcopy(model), "cnn.layer3", clips().double(), s) for s in (step, -step)
    ]
    got = seen.gradient(clips(), 1).double() @ v
    torch.testing.assert_close(got, (sides[0] - sides[1])[:, 1] / 2e-6, rtol=1e-4, atol=1e-5)


def test_flat_features_keep_positions_and_a_way_around_the_layer_is_found(small):
    seen = adapt(small, "stem", clip_shape=SHAPE, pool=False)
    assert (seen.n_features, seen.splits) == (6 * 4 * 16 * 16, "replay")
    x = clips()
    torch.testing.assert_close(seen.logits(seen.features(x)), seen(x))
    by_head = torch.from_numpy(tcav.slopes(seen, seen.features(x).numpy(), 0))
    torch.testing.assert_close(seen.gradient(x, 0), by_head)
    # The block's output is added to its input, so it does not decide on the logits alone.
    around = adapt(small, "block", clip_shape=SHAPE, pool=False)
    assert around.splits == "no"
    with pytest.raises(ValueError, match="do not decide on its logits"):
        around.logits(around.features(x))
    assert around.gradient(x, 0).abs().max() > 0


def test_a_chain_is_not_believed_when_the_forward_does_more():
    class Rectified(nn.Sequential):
        def forward(self, x):
            return self[3](torch.relu(self[2](self[1](self[0](x)).abs())))

    torch.manual_seed(0)
    model = Rectified(nn.Conv3d(3, 4, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2))
    assert adapt(model, "1", clip_shape=SHAPE).splits == "replay"
    plain = nn.Sequential(*model)
    assert adapt(plain, "1", clip_shape=SHAPE).splits == "chain"


def test_tokens_have_their_channels_last():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch = nn.Conv3d(3, 10, 8, 8)
            self.mix = nn.TransformerEncoderLayer(10, 2, 16, batch_first=True)
            self.fc = nn.Linear(10, 4)

        def forward(self, x):
            return self.fc(self.mix(self.patch(x).flatten(2).mT).mean(1))

    torch.manual_seed(0)
    seen = adapt(Tokens(), "mix", clip_shape=SHAPE)
    assert (seen.findings.shape, seen.n_features) == ((16, 10), 10)
    last = adapt(Tokens(), "patch", clip_shape=SHAPE, channel_axis=-1)
    assert last.n_features == 4


def test_a_model_that_needs_the_usual_memory_layout_gets_it():
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv3d(3, 4, 3, 4), nn.Linear(4 * 2 * 8 * 8, 2)

        def forward(self, x):
            return self.fc(self.conv(x).view(x.shape[0], -1))

    torch.manual_seed(0)
    seen = adapt(Views(), "conv", clip_shape=SHAPE, pool=False)
    x = seen.prepare(torch.zeros(3, 8, 32, 32, 3, dtype=torch.uint8))
    assert x.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(seen.logits(seen.features(x)), seen(x))


def test_normalisation_is_the_models_own():
    seen = adapt(Small(), "stem", clip_shape=SHAPE, mean=(0.5, 0.25, 0), std=(0.5, 0.25, 1))
    frames = torch.full((1, 8, 32, 32, 3), 255, dtype=torch.uint8)
    assert seen.prepare(frames)[0, :, 0, 0, 0].tolist() == pytest.approx([1, 3, 1])
    assert (seen.std > 0).all() and seen.to("cpu") is seen.eval() is seen


# ----- The module is returned as it was.


def remarks(model):
    """Return everything of a module that must not change."""
    return {
        "mode": [m.training for m in model.modules()],
        "flags": [p.requires_grad for p in model.parameters()],
        "weights": [p.detach().clone() for p in model.parameters()],
        "places": [t.data_ptr() for t in [*model.parameters(), *model.buffers()]],
        "grad": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "buffers": [b.clone() for b in model.buffers()],
        "types": [t.dtype for t in [*model.parameters(), *model.buffers()]],
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in model.modules()
        ],
    }


def assert_same(before, after):
    for name, values in before.items():
        for a, b in zip(values, after[name], strict=True):
            same = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
            assert same, name


@pytest.fixture
def used(small):
    """A module in the middle of its owner's work."""
    small.train()
    small.block.eval()
    small.fc.weight.requires_grad_(False)
    small(clips(4)).sum().backward()
    small.stem[0].register_forward_hook(lambda m, args, output: None)
    return small


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("layer", ["block", "hidden"])
def test_module_is_as_it_was(used, layer, dtype):
    used.to(getattr(torch, dtype))
    before = remarks(used)
    seen = adapt(used, layer, clip_shape=SHAPE)
    x = clips()
    z = seen.features(x)
    results = [z, seen(x), seen.gradient(x, 0)]
    if layer == "hidden":
        results.append(seen.logits(z))
    assert {r.dtype for r in results} == {torch.float32}
    assert all(r.isfinite().all() for r in results)
    assert_same(before, remarks(used))


@pytest.mark.parametrize("method", ["features", "logits", "gradient", "__call__"])
def test_module_is_as_it_was_after_an_exception(used, method):
    seen = adapt(used, "hidden", clip_shape=SHAPE)
    x = clips()
    arguments = {"logits": (seen.features(x),), "gradient": (x, 0)}.get(method, (x,))
    before = remarks(used)
    used.fail_at = used.calls + 1
    with pytest.raises(RuntimeError, match="out of luck"):
        getattr(seen, method)(*arguments)
    assert_same(before, remarks(used))


def test_buffers_that_a_forward_pass_writes_to_are_put_back():
    class Counting(Small):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))
            self.register_buffer("last", torch.zeros(2))

        def forward(self, x):
            self.seen += len(x)
            self.last = x.flatten()[:2].clone()
            return super().forward(x)

    model = Counting()
    before, last = remarks(model), model.last
    adapt(model, "block", clip_shape=SHAPE).gradient(clips(), 1)
    assert_same(before, remarks(model))
    assert model.last is last


def test_owners_own_backward_pass_survives(small):
    loss = small(clips()).square().sum()
    seen = adapt(small, "block", clip_shape=SHAPE)
    seen.gradient(clips(), 1)
    loss.backward()
    assert all(p.grad is not None for p in small.parameters())


def test_a_tensor_kept_by_the_module_can_still_be_trained_with(small):
    class Keeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.kept = small, None

        def forward(self, x):
            if self.kept is None:
                self.kept = torch.ones_like(x[:1])
            return self.inner(x * self.kept)

    model = Keeping()
    seen = adapt(model, "inner.block", clip_shape=SHAPE)
    model.kept = None
    with torch.inference_mode():  # as stce.features runs it
        x = seen.prepare(torch.zeros(2, 8, 32, 32, 3, dtype=torch.uint8))
        seen.features(x)
    x = clips().requires_grad_()
    model(x).sum().backward()
    assert x.grad is not None


def test_the_models_input_is_a_copy():
    class Greedy(Small):
        def forward(self, x):
            return super().forward(x.mul_(0))

    x = clips().contiguous(memory_format=torch.channels_last_3d)
    kept = x.clone()
    seen = adapt(Greedy(), "block", clip_shape=SHAPE)
    seen(x), seen.features(x), seen.gradient(x, 0)
    assert torch.equal(x, kept)


def test_borrowed_restores_a_module_that_was_moved(used):
    before = remarks(used)
    with pytest.raises(RuntimeError, match="half way"):
        with borrowed(used, torch.device("meta")) as model:
            assert next(model.parameters()).is_meta
            raise RuntimeError("half way")
    assert_same(before, remarks(used))


# ----- Errors say what to do.


class Returns(Small):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        return self.how(super().forward(x))


class Shared(Small):
    def forward(self, x):
        return super().forward(x) + super().forward(x)


class Gru(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.fc = nn.GRU(3 * 32 * 32, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.gru(x.transpose(1, 2).flatten(2))[0].mean(1))


ERRORS = [
    (Small, "block.conv", "no layer 'block.conv'; near to it are block"),
    (Small, "", "no layer ''"),
    (two_pathways, "blocks.5", r"list of pathways: wrap it .* model\(\[x\[:, :, ::4\], x\]\)"),
    (lambda: Pathways(two_pathways()), "model.blocks.3", "gives a list of 2 .* a layer inside it"),
    (lambda: Small(channels=1), "block", r"cannot take clips \(2, 3, 8, 32, 32\) .*channels"),
    (lambda: Returns(lambda y: (y, y)), "block", "returns a tuple of 2, not a tensor of logits"),
    (lambda: Returns(lambda y: {"logits": y}), "block", "returns a dict with 'logits'"),
    (lambda: Returns(lambda y: y[:, 0]), "block", r"gives \(2,\) for two clips"),
    (lambda: Returns(lambda y: y / 0), "block", "not finite"),
    (Shared, "block", "runs 2 times in a forward pass"),
    (lambda: nn.Sequential(Small(), nn.ModuleList([nn.ReLU()])[0:0]), "0.stem", "cannot take"),
    (Gru, "gru", "layer 'gru' of Gru gives a tuple of 2"),
    (lambda: Frames(clip_major=False), "cnn.layer4", "depends on the other clips of the batch"),
]


@pytest.mark.parametrize(("build", "layer", "message"), ERRORS)
def test_errors(build, layer, message):
    with pytest.raises(ValueError, match=message):
        adapt(build(), layer, clip_shape=SHAPE)


def test_a_layer_that_does_not_run():
    model = Small()
    model.spare = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="'spare' of Small is not run by a forward pass"):
        adapt(model, "spare", clip_shape=SHAPE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_shape": (8, 32, 32)}, r"clip_shape is \(8, 32, 32\); give \(C, T, H, W\)"),
        ({"mean": 117}, "mean is 117; give it for pixels in 0..1"),
        ({"mean": (0.5, 0.5)}, r"one a channel \(3\)"),
        ({"std": 0}, "std is 0; give values above 0"),
        ({"std": 58}, "std is 58; give values above 0, in units of 0..1"),
        ({"classes": ["a"]}, "classes has 1 names, but Small has 3 logits"),
        ({"classes": torch.tensor(2)}, "classes has 1 names, but Small has 3 logits"),
        ({"classes": np.array("a")}, "classes has 1 names, but Small has 3 logits"),
        ({"classes": ["a", "b", "a"]}, "classes has 'a' twice; give each logit a name of its own"),
    ],
)
def test_wrong_options(small, options, message):
    with pytest.raises(ValueError, match=message):
        adapt(small, "block", **{"clip_shape": SHAPE, **options})
    with pytest.raises(TypeError, match="model is a function; give a torch.nn.Module"):
        adapt(lambda x: x, "block", clip_shape=SHAPE)


def test_wrong_calls(small):
    seen = adapt(small, "hidden", clip_shape=SHAPE, classes="abc")
    assert seen.classes == ("a", "b", "c")
    with pytest.raises(ValueError, match=r"takes clips \(N, 3, 8, 32, 32\), got"):
        seen.features(torch.zeros(2, 3, 8, 16, 16))
    with pytest.raises(ValueError, match=r"are \(N, 7\), got \(2, 9\)"):
        seen.logits(torch.zeros(2, 9))
    with pytest.raises(ValueError, match="is on cpu, but device is cuda:1; pass device='cpu'"):
        seen.to("cuda:1")
    with pytest.raises(ValueError, match=r"prepares frames \(N, T, H, W, 3\) uint8"):
        seen.prepare(torch.zeros(1, 8, 32, 32, 1, dtype=torch.uint8))
    blind = adapt(Returns(lambda y: y.detach()), "block", clip_shape=SHAPE)
    with pytest.raises(ValueError, match="have no gradient at 'block'"):
        blind.gradient(clips(), 0)


def test_probabilities_are_remarked_upon():
    with pytest.warns(UserWarning, match="seems to return probabilities"):
        adapt(Returns(lambda y: y.softmax(1)), "block", clip_shape=SHAPE)


def test_functions_and_networks_are_explainable_too():
    own = Functions(
        lambda x: x.mean((3, 4)).flatten(1), lambda z: torch.stack([z[:, 0], z[:, 1]], 1), SHAPE
    )
    network = models.build("c3d", 2, 0.125, input_size=(16, 32, 32))
    assert isinstance(own, Explainable) and isinstance(network, Explainable)
    assert not isinstance(nn.Linear(2, 2), Explainable)
    assert own.n_features == 24
    slope = tcav.slopes(own, np.zeros((2, 24), np.float32), 1)
    assert slope[:, 1].tolist() == [1, 1] and slope.sum() == 2
    with pytest.raises(ValueError, match=r"features gives \(1, 3, 8\) for one clip"):
        Functions(lambda x: x.mean((3, 4)), lambda z: z, SHAPE)
