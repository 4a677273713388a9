"""SLIC of many clips at once, in PyTorch on any device (paper 3.1).

scikit-image's SLIC takes one clip and one core. A GPU that embeds whole clips (pooled features)
is through with them faster than all the cores beside it can cut them; here it cuts its own. The
steps are the same ones, so that the supervoxels are, up to rounding, the same too; only the last
one, which joins what is left over to its neighbours voxel by voxel, is scikit-image's and runs on
the CPU. A network's map can be cut in place of pixels (:func:`painter`).
"""

from __future__ import annotations

import math
import warnings
from functools import partial

import numpy as np
import torch
from skimage.color import colorconv

# Nothing public gives this step without the ones before it.
from skimage.segmentation._slic import _enforce_label_connectivity_cython as connect
from skimage.util import regular_grid
from torch.nn.functional import interpolate

from stce.engine.device import resolve
from stce.engine.threads import prepared

# Colours are summed as whole multiples of this share of a clip's largest one: integers have the
# same sum in any order, and a GPU adds in another order each time.
UNIT = 2.0**-30
STEPS = 10  # of k-means
CUT_ON = ("pixels", "features")


def lab(frames: torch.Tensor) -> torch.Tensor:
    """Return the Lab colour of clips, each stretched from its darkest to its brightest value.

    Of ``(B, T, H, W, C) uint8``, C = 1 (grey) or 3 (RGB), it makes ``(B, T, H, W, C) float32``:
    L (0 to 100), a and b, for an illuminant D65; only L for grey clips, whose a and b are 0.

    Examples
    --------
    >>> grey = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 2, 1)
    >>> lab(grey).flatten().round().tolist()
    [0.0, 100.0]
    """
    x = frames.float()
    x = x - x.amin((1, 2, 3, 4), keepdim=True)
    x = x / x.amax((1, 2, 3, 4), keepdim=True).clamp_min(1)
    linear = torch.where(x > 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92)
    # Sums are written out: a matrix product may be computed with fewer digits on a GPU.
    grey = linear.shape[-1] == 1
    white = colorconv.xyz_tristimulus_values(illuminant="D65", observer="2")
    rows = colorconv.xyz_from_rgb / white[:, None]
    f = []
    for row in rows[1:2] if grey else rows:
        one = linear[..., 0] * row.sum() if grey else sum(linear[..., c] * row[c] for c in range(3))
        f.append(
            torch.where(one > 0.008856, one.clamp_min(1e-6) ** (1 / 3), 7.787 * one + 16 / 116)
        )
    if grey:
        return (116 * f[0] - 16)[..., None]
    return torch.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])], dim=-1)


def smooth(volume: torch.Tensor, sigma: tuple[float, float, float]) -> torch.Tensor:
    """Smooth clips by a Gaussian that is cut off at four sigma and mirrored at the borders.

    Of ``(B, T, H, W, C) float`` it makes the same; `sigma` is the width along time, height and
    width, in voxels, 0 for no smoothing.

    Examples
    --------
    >>> smooth(torch.eye(3).reshape(1, 1, 3, 3, 1), (0, 0, 0.5))[0, 0, 0, :, 0].round(decimals=2)
    tensor([0.8900, 0.1100, 0.0000])
    """
    for axis, width in enumerate(sigma, start=1):
        reach = int(4 * width + 0.5)
        if not reach:
            continue
        n = volume.shape[axis]
        weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
        place = torch.arange(-reach, n + reach, device=volume.device) % (2 * n)
        place = torch.where(place < n, place, 2 * n - 1 - place)
        volume = sum(
            volume.index_select(axis, place[k : k + n]) * weight
            for k, weight in enumerate((weights / weights.sum()).tolist())
        )
    return volume


def _along(position: torch.Tensor, n: int, step: int, spacing: float) -> torch.Tensor:
    """Return squared distances along one axis, ``(B, K, n)``, infinite beyond two steps."""
    at, centre = torch.arange(n, device=position.device), position[..., None]
    near = (at >= (centre - 2 * step).clamp_min(0).trunc()) & (at < (centre + 2 * step + 1).trunc())
    return torch.where(near, (spacing * (centre - at)) ** 2, math.inf)


def _k_means(colour, n_segments: int, spacing) -> tuple[torch.Tensor, int]:
    """Return the nearest centre of each voxel, ``(B, T, H, W)``, and how many centres there are.

    Colours are ``(B, C, T, H, W)``, in units of the compactness.
    """
    shape, device = colour.shape[2:], colour.device
    grid = regular_grid(shape, n_segments)
    step = max(float(s.step or 1) for s in grid)
    start = np.stack([axis[grid].ravel() for axis in np.mgrid[[slice(n) for n in shape]]], axis=-1)
    count = len(start)
    steps = [int(s.step or 1) for s in regular_grid(shape, count)]
    place = torch.from_numpy(np.stack([np.ones(shape, int), *np.mgrid[[slice(n) for n in shape]]]))
    unit = UNIT * colour.abs().amax((1, 2, 3, 4)).clamp_min(1e-20)
    whole = (colour / unit[:, None, None, None, None]).round().long().flatten(2).mT
    whole = torch.cat([place.to(device).flatten(1).mT.expand(*whole.shape[:2], 4), whole], dim=-1)
    position = torch.from_numpy(start).to(device).expand(len(colour), count, 3)
    tone = colour.new_zeros(len(colour), count, colour.shape[1])
    nearest = torch.zeros(len(colour), *shape, dtype=torch.int64, device=device)
    first = count * torch.arange(len(colour), device=device)[:, None]
    for _ in range(STEPS):
        t, y, x = (_along(position[..., a], shape[a], steps[a], spacing[a]) for a in range(3))
        plane = (y[..., None] + x[..., None, :]) / step**2
        distance = t[..., None, None] / step**2 + plane[:, :, None]
        for c in range(colour.shape[1]):
            apart = colour[:, c, None] - tone[..., c, None, None, None]
            distance.addcmul_(apart, apart)
        least, index = distance.min(dim=1)
        nearest = torch.where(least.isfinite(), index, nearest)
        sums = whole.new_zeros(len(colour) * count, whole.shape[-1])
        sums.index_add_(0, (nearest.flatten(1) + first).flatten(), whole.flatten(0, 1))
        sums = sums.view(len(colour), count, -1).double()
        size, places, tones = sums.split([1, 3, tone.shape[-1]], dim=-1)
        # A centre that has lost all its voxels is out of reach from now on.
        position = torch.where(size > 0, places / size, math.inf).float()
        tone = (unit[:, None, None] * tones / size.clamp_min(1)).float()
    return nearest, count


def join(nearest: np.ndarray, n_centres: int) -> np.ndarray:
    """Make connected regions of what is nearest to each centre, ``(T, H, W) int`` from 1 up.

    Regions smaller than half of a centre's share of the clip go to a neighbour, and no region is
    larger than three shares, as in scikit-image.

    Examples
    --------
    >>> join(np.array([[[1, 1, 1, 2, 1, 2, 2, 2]]]), 2)
    array([[[1, 1, 1, 1, 1, 2, 2, 2]]])
    """
    share = nearest.size / n_centres
    return connect(nearest.astype(np.intp), int(0.5 * share), int(3 * share), start_label=1)


@torch.inference_mode()
def slic(
    frames: np.ndarray,
    n_segments: tuple[int, ...] = (15, 50, 80),
    compactness: float = 20.0,
    sigma: float = 1.0,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Cut clips into supervoxels at several resolutions.

    Each label, from 1 up in ``(B, L, T, H, W) int64``, is a connected region.

    Parameters
    ----------
    frames : numpy.ndarray
        ``(B, T, H, W, C) uint8``, C = 1 (grey) or 3 (RGB).
    n_segments, compactness, sigma, spacing
        See :func:`stce.supervoxels.segment_clip`.
    device : str or torch.device, default "cpu"
        Where colours, smoothing and k-means are computed. It takes about
        ``12 B T H W max(n_segments)`` bytes there (:func:`clips_at_once`).

    Examples
    --------
    >>> clips = np.zeros((2, 4, 16, 16, 1), np.uint8)
    >>> clips[:, :, :, 8:] = 255
    >>> labels = slic(clips, n_segments=(4, 8))
    >>> labels.shape, [len(np.unique(level)) for level in labels[0]]
    ((2, 2, 4, 16, 16), [4, 6])
    """
    colour = lab(torch.from_numpy(np.ascontiguousarray(frames)).to(device))
    colour = smooth(colour, tuple(sigma / size for size in spacing))
    colour = (colour.movedim(-1, 1) / compactness).contiguous()
    levels = []
    for n in n_segments:
        nearest, n_centres = _k_means(colour, n, spacing)
        levels.append([join(volume, n_centres) for volume in (nearest + 1).cpu().numpy()])
    return np.stack(levels, axis=1)


def clips_at_once(shape: tuple[int, int, int], n_segments: tuple[int, ...], device) -> int:
    """Return how many clips of a `shape` (T, H, W) :func:`slic` is best given at once.

    On a CPU one clip at a time is as fast as many. On a GPU their distances fill a quarter of a
    GiB: enough to keep it busy, and to have several threads feed it.

    Examples
    --------
    >>> clips_at_once((16, 112, 112), (15, 50, 80), "cpu")
    1
    """
    if torch.device(device).type == "cpu":
        return 1
    return max(1, 2**26 // (math.prod(shape) * max(n_segments)))


@torch.inference_mode()
def map_colours(network, clips, i: int, *, device="cpu") -> np.ndarray:
    """Paint clip `i` so that its Lab colours differ as a layer's map does.

    Lightness and the two colours are the first three principal components of the clip's own map,
    interpolated between its positions. The ``(T, H, W, 3) uint8`` frames are what
    :func:`stce.supervoxels.segment` cuts in place of the clip. The network must be pooled.

    Examples
    --------
    >>> from stce import models
    >>> from stce.datasets.textures import textures
    >>> network = models.build("c3d", 2, 1 / 16, 1, (16, 32, 32), layer="conv3b").pooled()
    >>> map_colours(network, textures(1, n_frames=16, size=(32, 32)), 0).shape
    (16, 32, 32, 3)
    """
    device, network = resolve(device), network.to(resolve(device)).eval()
    (cells,) = network.maps(prepared(network, clips.frames[i : i + 1], device)).cpu().numpy()
    if not np.isfinite(cells).all():
        raise ValueError(
            f"The map of {network.name} at {network.layer!r} holds NaN or infinite values for "
            f"clip {i}; look for weights that diverged, or cut by pixels."
        )
    values = cells.reshape(len(cells), -1)
    values = values - values.mean(1, keepdims=True)
    _, spread, along = np.linalg.svd(values, full_matrices=False)
    colours = np.zeros((1, 3, *cells.shape[1:]), np.float32)
    colours[0, : len(spread)] = (spread[:, None] * along)[:3].reshape(-1, *cells.shape[1:])
    colours *= 60 / max(np.ptp(colours[0, 0]), 1e-12)  # nearly all such as screens can show
    colours = interpolate(torch.from_numpy(colours), clips.frames.shape[1:4], mode="trilinear")[0]
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of the others
        shown = colorconv.lab2rgb(colours.permute(1, 2, 3, 0).numpy() + [50, 0, 0])
    return np.rint(255 * shown).astype(np.uint8)


def painter(network, segment_on: str, device="cpu"):
    """Return what `on` of :func:`stce.supervoxels.segment` is: None for "pixels".

    For "features" it paints the map of the layer; of the networks of this package, whatever their
    layer, the last map that is twice as high as the last of all.
    """
    if segment_on == "pixels":
        return None
    last = network.split(network.layers[-1]) if network.layers else network
    where = last.split(last.finer) if last.finer else last
    return partial(map_colours, where if where.grid else where.pooled(), device=device)
