"""I3D: Inception-v1 with its filters inflated to three dimensions, the RGB stream.

Blocks bear the names of the paper's figure 3 as its authors wrote them (``Mixed_3b`` is the first
inception module). Padding is TensorFlow's "SAME": as even as possible, the odd one at the end.

References
----------
.. [1] J. Carreira, A. Zisserman, "Quo vadis, action recognition? A new model and the Kinetics
   dataset", CVPR 2017, :doi:`10.1109/CVPR.2017.502`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from stce.models.network import scaled

LAYER = "avgpool"
DROPOUT = 0.5

# Channels: 1x1x1; reduction before 3x3x3, 3x3x3; the same again; 1x1x1 after the pool.
INCEPTION = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


def _same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Pad with zeros so that the output has ceil(size / stride) entries on each axis."""
    padding: list[int] = []
    for n, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        padding = [total // 2, total - total // 2, *padding]
    return functional.pad(x, padding) if any(padding) else x


class _Pointwise(nn.Conv3d):
    """A 1x1x1 convolution as the product of matrices that it is.

    For a few clips on one thread, PyTorch has a slow way to convolve by 1x1x1, and what comes out
    has lost ``channels_last_3d``, which slows down all that follows.
    """

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x.movedim(1, -1), self.weight.flatten(1)).movedim(-1, 1)


class _Unit(nn.Module):
    """Convolution, batch normalisation and ReLU."""

    def __init__(self, channels: int, out: int, kernel: int = 1, stride: int = 1):
        super().__init__()
        convolution = _Pointwise if kernel == 1 else nn.Conv3d
        self.conv3d = convolution(channels, out, kernel, stride, bias=False)
        if stride == 1:
            self.conv3d.padding = (kernel // 2,) * 3  # "SAME" without a copy of the input
        # The authors' epsilon; their running averages (momentum 0.01) are far too slow for a
        # small data set, where a whole training may be a few hundred steps.
        self.bn = nn.BatchNorm3d(out, eps=1e-3, momentum=0.1)

    def forward(self, x: Tensor) -> Tensor:
        if self.conv3d.stride != (1, 1, 1):
            x = _same(x, self.conv3d.kernel_size, self.conv3d.stride)
        return functional.relu(self.bn(self.conv3d(x)), inplace=True)


class _Pool(nn.MaxPool3d):
    """Maximum pooling after a ReLU, where padding with zeros changes no maximum."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_same(x, self.kernel_size, self.stride))


class _Inception(nn.Module):
    """Four branches side by side, their channels joined."""

    def __init__(self, channels: int, widths: tuple[int, ...]):
        super().__init__()
        one, reduce_a, three_a, reduce_b, three_b, pooled = widths
        self.b0 = _Unit(channels, one)
        self.b1a = _Unit(channels, reduce_a)
        self.b1b = _Unit(reduce_a, three_a, 3)
        self.b2a = _Unit(channels, reduce_b)
        self.b2b = _Unit(reduce_b, three_b, 3)
        self.b3a = nn.MaxPool3d(3, 1, 1)
        self.b3b = _Unit(channels, pooled)
        self.channels = one + three_a + three_b + pooled

    def forward(self, x: Tensor) -> Tensor:
        branches = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))
        return torch.cat(branches, dim=1)


def blocks(n_classes: int, width, in_channels, input_size, dropout) -> dict[str, nn.Module]:
    """Return the blocks of I3D: Conv3d_1a_7x7 to Mixed_5c, avgpool (global), dropout, logits.

    For clips of 16 frames of 224 x 224 the global pool is the paper's 2 x 7 x 7 pool. The logits
    are a fully connected layer, which after that pool is the paper's 1x1x1 convolution.

    For its arguments see :func:`stce.models.build`; any input size is possible. For 400 classes
    the whole of it has 12,697,264 weights.
    """
    first, second = scaled(64, width), scaled(192, width)
    chain: dict[str, nn.Module] = {
        "Conv3d_1a_7x7": _Unit(in_channels, first, 7, 2),
        "MaxPool3d_2a_3x3": _Pool((1, 3, 3), (1, 2, 2)),
        "Conv3d_2b_1x1": _Unit(first, first),
        "Conv3d_2c_3x3": _Unit(first, second, 3),
        "MaxPool3d_3a_3x3": _Pool((1, 3, 3), (1, 2, 2)),
    }
    channels = second
    for name, widths in INCEPTION.items():
        if name == "Mixed_4b":
            chain["MaxPool3d_4a_3x3"] = _Pool((3, 3, 3), (2, 2, 2))
        if name == "Mixed_5b":
            chain["MaxPool3d_5a_2x2"] = _Pool((2, 2, 2), (2, 2, 2))
        chain[name] = _Inception(channels, tuple(scaled(c, width) for c in widths))
        channels = chain[name].channels
    chain["avgpool"] = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten())
    chain["dropout"] = nn.Dropout(dropout)
    chain["logits"] = nn.Linear(channels, n_classes)
    return chain
