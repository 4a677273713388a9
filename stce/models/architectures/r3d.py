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

__all__ = ["DROPOUT", "LAYER", "blocks"]

LAYER = "avgpool"
DROPOUT = 0.0  # the paper's R3D has none


class _Residual(nn.Module):
    """Two convolutions and a shortcut around them."""

    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv3d(channels, out, 3, stride, 1, bias=False),
            nn.BatchNorm3d(out),
            nn.ReLU(inplace=True),
        )
        self.conv2 = nn.Sequential(
            nn.Conv3d(out, out, 3, padding=1, bias=False), nn.BatchNorm3d(out)
        )
        self.downsample = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(
                nn.Conv3d(channels, out, 1, stride, bias=False), nn.BatchNorm3d(out)
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.conv2(self.conv1(x)) + shortcut)


def blocks(
    n_classes: int, width=1.0, in_channels=3, input_size=(16, 112, 112), dropout=DROPOUT
) -> dict[str, nn.Module]:
    """Return the blocks of R3D-18: stem, layer1 to layer4, avgpool (global), dropout, fc.

    For its arguments see :func:`stce.models.build`; any input size is possible.

    Examples
    --------
    >>> import torch
    >>> with torch.device("meta"):
    ...     net = blocks(400)
    >>> sum(p.numel() for block in net.values() for p in block.parameters())
    33371472
    """
    channels = scaled(64, width)
    chain: dict[str, nn.Module] = {
        "stem": nn.Sequential(
            nn.Conv3d(in_channels, channels, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False),
            nn.BatchNorm3d(channels),
            nn.ReLU(inplace=True),
        )
    }
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
