"""Embed supervoxels left in place by the maps that they change, layer by layer around them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

# A layer is run on windows that hold at most this share of its cells; cutting out is work too.
LARGEST = 0.5


@dataclass(frozen=True)
class Local:
    """A layer of a network whose every output cell depends on the cells around it alone.

    Attributes
    ----------
    module : torch.nn.Sequential
        The layer, and those behind it that look at one cell each.
    cells, stride, reach : tuple of int
        Size ``(t, h, w)`` of the map that it makes; cells of the map it is given for one of its
        own, along each axis; and how many of its own cells away a cell that it is given counts.
    """

    module: nn.Sequential
    cells: tuple[int, int, int]
    stride: tuple[int, int, int]
    reach: tuple[int, int, int]

    def changed(self, start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which of its cells differ where those from start to stop do that it is given.

        As everywhere here, both are ``(B, 3) int`` and half-open.
        """
        return self.around(start // self.stride, -(-stop // self.stride))

    def window(self, start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return windows of one size in which cells from start to stop are computed rightly.

        They are told by where they start, ``(B, 3) int`` in cells of its own map, and by their
        size ``(3,) int``. A window that ends inside the clip is wrong within `reach` of its end:
        the layer takes what lies beyond for zeros, as it does beyond the clip.
        """
        start, stop = self.around(start, stop)
        size = (stop - start).max(0)
        return np.minimum(start, self.cells - size), size

    def around(self, start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the cells within `reach` of those from start to stop."""
        return np.maximum(start - self.reach, 0), np.minimum(stop + self.reach, self.cells)


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    for child in module:
        yield from _layers(child) if isinstance(child, nn.Sequential) else (child,)


@torch.inference_mode()
def local_layers(trunk: nn.Sequential, clip_shape: tuple[int, ...], device="cpu") -> list[Local]:
    """Find out how far the layers of a trunk look.

    They are returned first to last, while cells of one map stand evenly for those of the one
    before. Each is given a blank map with one cell that is not a number: whatever depends on that
    cell is not a number either. The trunk is in evaluation mode, on the device, with any weights;
    `clip_shape` is ``(C, T, H, W)``.

    Examples
    --------
    >>> from stce import models
    >>> network = models.build("c3d", 2, 0.125, in_channels=1, input_size=(16, 56, 56)).eval()
    >>> found = local_layers(network.trunk, network.clip_shape)
    >>> [(local.stride[1], local.reach[1]) for local in found][:5]
    [(1, 1), (2, 0), (1, 1), (2, 0), (1, 1)]
    """
    x = torch.zeros(1, *clip_shape, device=device)
    found = []
    for module in _layers(trunk):
        size = np.array(x.shape[2:])
        middle = size // 4 * 2
        if not middle.all():
            break
        marked = x.repeat(3, 1, 1, 1, 1)
        marked[(0, slice(None), *middle)] = torch.nan
        marked[(1, slice(None), *(middle - 1))] = torch.nan
        y = module(marked)
        if y.ndim != 5 or (size % y.shape[2:]).any():
            break
        stride = size // y.shape[2:]
        first, second = (torch.nonzero(clip.isnan().any(0)).cpu().numpy() for clip in y[:2])
        if (middle % stride).any() or not len(first) or not len(second):
            break
        reach = np.maximum(middle // stride - first.min(0), second.max(0) - middle // stride + 1)
        x = y[2:]
        if found and (stride == 1).all() and not reach.any():  # it goes with the layer before
            found[-1].module.append(module)
            continue
        shapes = (tuple(int(n) for n in a) for a in (y.shape[2:], stride, reach))
        found.append(Local(nn.Sequential(module), *shapes))
    return found


def windows(network, boxes: np.ndarray) -> Windows | None:
    """Choose how many layers are run on windows; None where there is none, as in adapted modules.

    The boxes are those of the supervoxels to come, ``(B, 6) int``: ``t0 t1 y0 y1 x0 x1``.
    """
    start, stop, count = boxes[:, ::2], boxes[:, 1::2], 0
    for local in network.local:
        start, stop = local.changed(start, stop)
        low, high = local.around(start, stop)
        if np.prod((high - low) / local.cells, axis=1).mean() > LARGEST:
            break
        count += 1
    return Windows(network, count) if count else None


class Windows:
    """A network's trunk for supervoxels in clips that are blank elsewhere.

    The maps of such a clip differ from those of a blank clip only near the supervoxel. So each of
    the first layers is run on a window around it, beyond which lies what it makes of a blank clip,
    and the layers after them go on from a whole map. The network is in evaluation mode, and its
    weights must not change any more; `count` of its local layers are run on windows.
    """

    def __init__(self, network, count: int):
        self.locals = network.local[:count]
        done = sum(len(local.module) for local in self.locals)
        self.rest = nn.Sequential(*list(_layers(network.trunk))[done:])
        x = torch.zeros(1, *network.clip_shape, device=network.device)
        self.blanks = [x.contiguous(memory_format=torch.channels_last_3d)]
        with torch.inference_mode():
            for local in self.locals:
                self.blanks.append(local.module(self.blanks[-1].clone()))

    def order(self, boxes: np.ndarray) -> np.ndarray:
        """Return an order in which supervoxels of like boxes follow each other."""
        size = boxes[:, 1::2] - boxes[:, ::2]
        return np.lexsort((*size.T, size.prod(1)))

    def features(self, clips, labels, label: list[int], boxes: np.ndarray) -> Tensor:
        """Embed some supervoxels, ``(B, D) float32`` as of the whole clips.

        For each are given the clip it lies in, prepared, ``(C, T, H, W) float32``; the label volume
        of its level, ``(T, H, W)``; its label there; and its box, ``(6,) int``.
        """
        start, stop = boxes[:, ::2], boxes[:, 1::2]
        each = zip(clips, labels, label, boxes.tolist(), strict=True)
        x = [
            clip[:, a:b, c:d, e:f] * (volume[a:b, c:d, e:f] == one)
            for clip, volume, one, (a, b, c, d, e, f) in each
        ]
        origin = start
        for local, blank in zip(self.locals, self.blanks, strict=False):
            stride, given = np.array(local.stride), (start, stop)
            start, stop = local.changed(start, stop)
            corner, size = local.window(start, stop)
            x = local.module(_laid(blank, corner * stride, size * stride, *given, x, origin))
            origin = corner
        whole = np.array(self.blanks[-1].shape[2:])
        x = _laid(self.blanks[-1], np.zeros_like(start), whole, start, stop, x, origin)
        return self.rest(x).flatten(1)


def _laid(blank: Tensor, corner, size, start, stop, source, origin) -> Tensor:
    """Return windows of a blank map, into which the cells from start to stop are laid.

    They are taken from windows of the same map whose first cells are at `origin`.
    """
    n_t, n_y, n_x = size.tolist()
    shape = len(corner), blank.shape[1], n_t, n_y, n_x
    x = torch.empty(shape, device=blank.device, memory_format=torch.channels_last_3d)
    ends = np.hstack([corner, start - corner, stop - corner, start - origin, stop - origin])
    for i, (t, y, w, a, c, e, b, d, f, g, j, m, h, k, n) in enumerate(ends.tolist()):
        x[i] = blank[0, :, t : t + n_t, y : y + n_y, w : w + n_x]
        x[i, :, a:b, c:d, e:f] = source[i][:, g:h, j:k, m:n]
    return x
