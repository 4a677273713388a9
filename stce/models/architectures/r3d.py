"""R3D-18: a residual network of 3x3x3 convolutions.

Blocks and weights bear torchvision's names, so the weights of its ``r3d_18`` fit.

References
----------
.. [1] D. Tran, H. Wang, L. Torresani, J. Ray, Y. LeCun, M. Paluri, "A closer look at
   spatiotemporal convolutions for action recognition", CVPR 2018,
   :doi:`10.1109/CVPR.2018.00675`.
"""

from __future__ import annotations

from torch import Tensor, nn

from stce.models.network import scaled

LAYER = "avgpool"
DROPOUT = 0.0  # the paper's R3D has none


def _unit(channels: int, out: int, kernel, stride, padding, *after: nn.Module) -> nn.Sequential:
    """Convolution, batch normalisation and what comes after it."""
    convolution = nn.Conv3d(channels, out, kernel, stride, padding, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm3d(out), *after)


class _Residual(nn.Module):
    """Two convolutions and a shortcut around them."""

    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.conv1 = _unit(channels, out, 3, stride, 1, nn.ReLU(inplace=True))
        self.conv2 = _unit(out, out, 3, 1, 1)
        self.downsample = None
        if stride != 1 or channels != out:
            self.downsample = _unit(channels, out, 1, stride, 0)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.conv2(self.conv1(x)) + shortcut)


def blocks(n_classes: int, width, in_channels, input_size, dropout) -> dict[str, nn.Module]:
    """Return the blocks of R3D-18: stem, layer1 to layer4, avgpool (global), dropout, fc.

    For its arguments see :func:`stce.models.build`; any input size is possible. For 400 classes
    the whole of it has 33,371,472 weights.
    """
    channels = scaled(64, width)
    stem = (3, 7, 7), (1, 2, 2), (1, 3, 3), nn.ReLU(inplace=True)
    chain: dict[str, nn.Module] = {"stem": _unit(in_channels, channels, *stem)}
    for number, full in enumerate((64, 128, 256, 512), start=1):
        out = scaled(full, width)
        stride = 1 if number == 1 else 2
        chain[f"layer{number}"] = nn.Sequential(
            _Residual(channels, out, stride), _Residual(out, out, 1)
        )
        channels = out
    chain["avgpool"] = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten())
    chain["dropout"] = nn.Dropout(dropout)
    chain["fc"] = nn.Linear(channels, n_classes)
    return chain
