"""Saliency baselines: 3-D Grad-CAM, Integrated Gradients and occlusion, judged as concepts are.

The last two come from captum. All tell for every voxel of a clip how much it speaks for a class.
Averaged over supervoxels they rank the supervoxels of a clip, which are then shown and hidden in
that order, at each step as many voxels as the most important concepts show. They explain one clip
at a time and see the very clip that they are tested on; a ranking of concepts is one for the whole
class.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from torch import nn
from torch.nn import functional

from stce.ablation import Case, Order
from stce.engine.progress import bar
from stce.masking import voxel_order
from stce.models.adapt import lent, seen


def _captum():
    """Import captum where it is used: only the baselines need it."""
    try:
        return importlib.import_module("captum.attr")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Integrated Gradients and occlusion come from captum, which is not installed; install "
            "it with: pip install captum"
        ) from error


def last_convolution(network) -> str:
    """Return the last block with a convolution whose output still has frames, rows or columns.

    It is one of the ``layers`` of any :class:`stce.models.network.Network`: "conv5b" of c3d,
    "layer4" of r3d18, "Mixed_5c" of i3d. Of what is no chain of layers it is the layer that it is
    seen at.

    Raises
    ------
    ValueError
        If there is no such block.

    Examples
    --------
    >>> from stce import models
    >>> last_convolution(models.build("r3d18", 2, 0.125, input_size=(8, 32, 32)))
    'layer4'
    """
    if not network.layers:
        return network.layer
    blocks = network.blocks()
    for name in reversed(network.layers):
        shape, inside = network.split(name).feature_shape, blocks[name].modules()
        if len(shape) == 4 and max(shape[1:]) > 1 and any(isinstance(m, nn.Conv3d) for m in inside):
            return name
    raise ValueError(
        f"{network.name} has no 3D convolution whose output is more than one voxel, so Grad-CAM "
        "has no map to read; name a layer, or take occlusion."
    )


def _maps(method, network, clips, labels, batch_size, device, progress, what) -> np.ndarray:
    """Return the maps of all clips; `method` gives those of some prepared clips and labels."""
    labels = clips.labels if labels is None else np.asarray(labels, np.int64)
    if len(labels) != len(clips):
        raise ValueError(
            f"labels has {len(labels)} entries for {len(clips)} clips; give the class index whose "
            "evidence is asked for, one a clip."
        )
    maps = np.empty(clips.frames.shape[:4], np.float32)
    starts = range(0, len(clips), batch_size)
    with lent(network, None, "supervoxels", device, clip_shape=tuple(network.clip_shape)):
        for start in bar(starts, show=progress, desc=what, unit="block"):
            rows = slice(start, min(start + batch_size, len(clips)))
            x = network.prepare(torch.from_numpy(np.asarray(clips.frames[rows])))
            found = method(x.requires_grad_(), torch.from_numpy(labels[rows]).to(x.device))
            maps[rows] = found.detach().cpu().numpy()
    return maps


def grad_cam(
    network,
    clips,
    labels: np.ndarray | None = None,
    *,
    layer: str | None = None,
    batch_size: int = 16,
    device="cpu",
    progress: bool = True,
) -> np.ndarray:
    """Attribute a class to voxels with 3-D Grad-CAM.

    Each channel of a layer's map is weighted with the mean gradient of the logit, and
    the weighted sum is stretched to the clip, linearly. Where the output goes through a global
    average pool into a linear layer the weights are that layer's own, and the map is that of
    Saliency Tubes [2]_. It is as coarse as the layer: 2 x 7 x 7 for C3D of 16 x 112 x 112. The
    ReLU at the end of [1]_ is left out, so that evidence against the class ranks last and does
    not tie with no evidence.

    Parameters
    ----------
    network, clips : stce.models.adapt.Explainable and stce.clips.Clips
        The network to explain, and N clips.
    labels : numpy.ndarray, optional
        ``(N,) int``, the class whose logit is attributed; default the clips' own.
    layer : str, optional
        Whose output is read; default :func:`last_convolution`. An earlier one gives a finer map
        that says less.
    batch_size : int, default 16
        Clips a pass.
    device, progress
        See :func:`stce.features.extract`.

    Returns
    -------
    numpy.ndarray
        ``(N, T, H, W) float32``, positive for the class.

    Raises
    ------
    ValueError
        If there is no such layer or it has no positions, or labels and clips differ in number.

    References
    ----------
    .. [1] R. Selvaraju et al., "Grad-CAM: visual explanations from deep networks via
       gradient-based localization", ICCV 2017, :doi:`10.1109/ICCV.2017.74`.
    .. [2] A. Stergiou et al., "Saliency Tubes: visual explanations for spatio-temporal
       convolutions", ICIP 2019, :doi:`10.1109/ICIP.2019.8803153`.

    Examples
    --------
    >>> from stce import models
    >>> from stce.datasets.textures import textures
    >>> network = models.build("c3d", 2, 0.125, in_channels=1, input_size=(8, 32, 32))
    >>> grad_cam(network, textures(2, n_frames=8, size=(32, 32))).shape
    (2, 8, 32, 32)
    """
    layer = layer or last_convolution(network)
    if network.layers and layer not in network.layers:
        raise ValueError(
            f"{network.name} has no layer {layer!r}; its layers are {', '.join(network.layers)}."
        )
    shape = network.split(layer).feature_shape if network.layers else (1, 1, 1, 1)
    if len(shape) != 4:
        raise ValueError(
            f"The output of {layer!r} has shape {shape} and no place in the clip; name a layer "
            f"before it, for example {last_convolution(network)!r}."
        )

    def attribute(x, target):
        view, weights = seen(network, layer, "pooled"), {}
        for y in target.unique().tolist():
            weights[y] = view.gradient(x[target == y], y).detach()  # summed over positions
        coarse = view.maps(x.detach())
        for y, weight in weights.items():
            coarse[target == y] *= weight[:, :, None, None, None] / coarse[0, 0].numel()
        coarse = coarse.sum(1, keepdim=True)
        return functional.interpolate(coarse, x.shape[2:], mode="trilinear")[:, 0]

    return _maps(attribute, network, clips, labels, batch_size, device, progress, "Grad-CAM")


def integrated_gradients(
    network,
    clips,
    labels: np.ndarray | None = None,
    *,
    n_steps: int = 50,
    batch_size: int = 16,
    device="cpu",
    progress: bool = True,
) -> np.ndarray:
    """Attribute a class to voxels with Integrated Gradients, ``(N, T, H, W) float32``.

    The path runs from the data set's mean, which is what the ablation puts into hidden voxels. The
    attributions, in units of the logit, are summed over channels; those of a clip sum to its logit
    less that of the blank clip, but for the error of the sum that stands for the integral.

    Parameters
    ----------
    network, clips, labels, device, progress
        See :func:`grad_cam`.
    n_steps : int, default 50
        Points on the path (Gauss-Legendre). Log scale: 25, 50, 100, 200; more where the sum is
        off by more than a hundredth.
    batch_size : int, default 16
        Points a pass.

    References
    ----------
    Sundararajan, Taly and Yan, Axiomatic attribution for deep networks, ICML 2017.
    """
    method = _captum().IntegratedGradients(network)
    how = {"baselines": 0, "n_steps": n_steps, "internal_batch_size": batch_size}

    def attribute(x, target):
        return method.attribute(x, target=target, **how).detach().sum(1)

    return _maps(attribute, network, clips, labels, 1, device, progress, "integrated gradients")


def occlusion(
    network,
    clips,
    labels: np.ndarray | None = None,
    *,
    window: tuple[int, int, int] | None = None,
    stride: tuple[int, int, int] | None = None,
    batch_size: int = 64,
    device="cpu",
    progress: bool = True,
) -> np.ndarray:
    """Attribute a class to voxels by hiding boxes of the clip, ``(N, T, H, W) float32``.

    A voxel gets the mean fall of the logit over the boxes that hide it, one after the other.
    Hidden voxels hold the data set's mean.

    Parameters
    ----------
    network, clips, labels, device, progress
        See :func:`grad_cam`.
    window : tuple of int, optional
        Frames, height and width of the box; default a quarter of the frames and a seventh of each
        side, 4 x 16 x 16 of 16 x 112 x 112.
    stride : tuple of int, optional
        Steps of the box; default half of it, which makes 1183 passes for each clip of that size,
        and of larger clips the whole box, which makes 196.
    batch_size : int, default 64
        Boxes a forward pass.

    Raises
    ------
    ValueError
        If a window or stride does not fit the clip; and see :func:`grad_cam`.

    References
    ----------
    Zeiler and Fergus, Visualizing and understanding convolutional networks, ECCV 2014,
    :doi:`10.1007/978-3-319-10590-1_53`.
    """
    *size, channels = clips.frames.shape[1:]
    window = window or tuple(max(n // k, 1) for n, k in zip(size, (4, 7, 7), strict=True))
    dear = np.prod(size) > 16 * 112 * 112
    stride = stride or (window if dear else tuple(max(n // 2, 1) for n in window))
    for name, value, most in (("window", window, tuple(size)), ("stride", stride, window)):
        if len(value) != 3 or not all(1 <= v <= m for v, m in zip(value, most, strict=True)):
            raise ValueError(
                f"{name} is {tuple(value)}; give frames, height and width from 1 to {most}."
            )
    method = _captum().Occlusion(network)
    how = {"sliding_window_shapes": (channels, *window), "strides": (channels, *stride)}
    how |= {"baselines": 0, "perturbations_per_eval": batch_size}

    def attribute(x, target):
        # A box hides all channels at once, so each of them bears the same fall.
        return method.attribute(x, target=target, **how)[:, 0]

    return _maps(attribute, network, clips, labels, 1, device, progress, "occlusion")


def rank_supervoxels(
    attribution: np.ndarray, labels: np.ndarray, table: pd.DataFrame
) -> np.ndarray:
    """Order the supervoxels of one clip by their mean attribution, highest first.

    Returns positions in `table`, ``(s,) int64``, equal ones in its order.

    Parameters
    ----------
    attribution : numpy.ndarray
        ``(T, H, W)``, of the clip.
    labels, table
        See :func:`stce.masking.reached`.

    Examples
    --------
    >>> labels = np.array([[[[1, 1, 2, 3]]]])
    >>> table = pd.DataFrame({"level": [0, 0, 0], "label": [1, 2, 3]})
    >>> rank_supervoxels(np.array([[[4.0, 0.0, 3.0, 1.0]]]), labels, table)
    array([1, 0, 2])
    """
    mean = np.empty(len(table))
    level, label = table["level"].to_numpy(), table["label"].to_numpy()
    for i, volume in enumerate(labels):
        chosen = level == i
        mean[chosen] = ndimage.mean(attribution, volume, label[chosen])
    return np.argsort(-mean, kind="stable")


def along(
    attributions: Mapping[str, np.ndarray], videos: np.ndarray | None = None
) -> Callable[[Case, int], list[Order]]:
    """Give the order of each clip's supervoxels along saliency maps.

    At each step as many voxels of a clip are chosen as by the most important concepts; the last
    supervoxel is cut to that, see :func:`stce.masking.voxel_order`. The concepts'
    own curve is the order "top" of :func:`stce.ablation.ranked`. Returns what
    :func:`stce.ablation.run` takes; a ValueError tells if there is not one map for each clip.

    Parameters
    ----------
    attributions : mapping of str to array_like
        Maps ``(n, T, H, W)`` by the name of the order, for example ``{"grad-cam": maps}``: one
        for each of `videos`, of the class whose concepts explain the clip.
    videos : numpy.ndarray, optional
        Indices of the clips that the maps are of, default all.
    """

    def orders(case: Case, q_max: int) -> list[Order]:
        of = list(range(len(case.subject.clips)) if videos is None else videos)
        shape = (len(of), *case.labels.shape[1:])
        areas, listed = case.areas(q_max), []
        for name, maps in attributions.items():
            if tuple(maps.shape) != shape or case.video not in of:
                raise ValueError(
                    f"The maps {name!r} are of shape {tuple(maps.shape)}, but {shape} is needed: "
                    f"one map for each of the clips named by videos, {case.video} among them."
                )
            one = np.asarray(maps[of.index(case.video)])
            order = rank_supervoxels(one, case.labels, case.table)
            listed.append(Order(name, 0, voxel_order(case.labels, case.table, order), areas))
        return listed

    return orders
