"""C3D: eight 3x3x3 convolutions and three fully connected layers, without batch normalisation.

References
----------
.. [1] D. Tran, L. Bourdev, R. Fergus, L. Torresani, M. Paluri, "Learning spatiotemporal features
   with 3D convolutional networks", ICCV 2015, :doi:`10.1109/ICCV.2015.510`.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from stce.models.network import scaled

LAYER = "fc7"
DROPOUT = 0.5

# Channels of the convolutions.
CONVOLUTIONS = {
    "conv1": 64, "conv2": 128, "conv3a": 256, "conv3b": 256,
    "conv4a": 512, "conv4b": 512, "conv5a": 512, "conv5b": 512,
}  # fmt: skip
# The pools that follow some of them: frames pooled, and padding in space.
POOLS = {"conv1": (1, 0), "conv2": (2, 0), "conv3b": (2, 0), "conv4b": (2, 0), "conv5b": (2, 1)}


def blocks(n_classes: int, width, in_channels, input_size, dropout) -> dict[str, nn.Module]:
    """Return the blocks of C3D, conv1 to fc8; each convolution and fc6, fc7 end in their ReLU.

    pool1 leaves time alone, pool5 is padded in space as in the original. Where a small clip has
    only one frame, row or column left, that axis is not pooled any more, so every size is
    possible; fc6 takes what is there.

    For its arguments see :func:`stce.models.build`. For 101 classes the whole of it has 78,409,573
    weights.
    """
    chain: dict[str, nn.Module] = {}
    size, channels = np.array(input_size), in_channels
    for name, full in CONVOLUTIONS.items():
        out = scaled(full, width)
        chain[name] = nn.Sequential(nn.Conv3d(channels, out, 3, padding=1), nn.ReLU(inplace=True))
        channels = out
        if name in POOLS:
            frames, padding = POOLS[name]
            kernel = tuple(np.minimum((frames, 2, 2), size).tolist())
            padding = (0, *(padding if k > 1 else 0 for k in kernel[1:]))
            chain[f"pool{name[4]}"] = nn.MaxPool3d(kernel, kernel, padding)
            size = (np.array(size) + 2 * np.array(padding) - kernel) // kernel + 1
    units = scaled(4096, width)
    flat = channels * int(np.prod(size))
    chain["fc6"] = nn.Sequential(nn.Flatten(), nn.Linear(flat, units), nn.ReLU(inplace=True))
    chain["dropout6"] = nn.Dropout(dropout)
    chain["fc7"] = nn.Sequential(nn.Linear(units, units), nn.ReLU(inplace=True))
    chain["dropout7"] = nn.Dropout(dropout)
    chain["fc8"] = nn.Linear(units, n_classes)
    return chain
