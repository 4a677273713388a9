"""Grad-CAM, Integrated Gradients and occlusion of whole clips, through captum."""

from __future__ import annotations

import importlib

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from stce.engine.progress import bar

__all__ = ["grad_cam", "integrated_gradients", "last_convolution", "occlusion"]


def _captum():
    """Import captum where it is used: only the baselines need it."""
    try:
        return importlib.import_module("captum.attr")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Grad-CAM, Integrated Gradients and occlusion come from captum, which is not "
            "installed; install it with: pip install captum"
        ) from error


def last_convolution(network) -> str:
    """Return the last block with a convolution whose output still has frames, rows or columns.

    Parameters
    ----------
    network : stce.models.network.Network
        Any chain of blocks.

    Returns
    -------
    str
        One of ``network.layers``: "conv5b" of c3d, "layer4" of r3d18, "Mixed_5c" of i3d.

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
    blocks = network.blocks()
    for name in reversed(network.layers):
        shape = network.split(name).feature_shape
        if any(isinstance(m, nn.Conv3d) for m in blocks[name].modules()):
            if len(shape) == 4 and max(shape[1:]) > 1:
                return name
    raise ValueError(
        f"{network.name} has no 3D convolution whose output is more than one voxel, so Grad-CAM "
        "has no map to read; name a layer, or take occlusion."
    )


def _batches(network, clips, labels, batch_size, device, progress, what):
    """Yield (rows, prepared clips that take a gradient, labels) batch by batch."""
    labels = clips.labels if labels is None else np.asarray(labels, np.int64)
    if len(labels) != len(clips):
        raise ValueError(
            f"labels has {len(labels)} entries for {len(clips)} clips; give the class index whose "
            "evidence is asked for, one a clip."
        )
    starts = range(0, len(clips), batch_size)
    for start in bar(starts, show=progress, desc=what, unit="batch"):
        rows = slice(start, min(start + batch_size, len(clips)))
        frames = torch.from_numpy(np.asarray(clips.frames[rows])).to(device)
        target = torch.from_numpy(labels[rows]).to(device)
        yield rows, network.prepare(frames).requires_grad_(), target


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

    Each channel of a convolution's output is weighted with the mean gradient of the logit, and
    the weighted sum is stretched to the clip, linearly. Where the output goes through a global
    average pool into a linear layer the weights are that layer's own, and the map is that of
    Saliency Tubes [2]_. It is as coarse as the layer: 2 x 7 x 7 for C3D of 16 x 112 x 112. The
    ReLU at the end of [1]_ is left out, so that evidence against the class ranks last and does
    not tie with no evidence.

    Parameters
    ----------
    network : stce.models.network.Network
        The network to explain.
    clips : stce.clips.Clips
        N clips.
    labels : numpy.ndarray, optional
        ``(N,) int``, the class whose logit is attributed; default the clips' own.
    layer : str, optional
        Whose output is read; default :func:`last_convolution`. An earlier one gives a finer map
        that says less.
    batch_size : int, default 16
        Clips a pass.
    device : torch.device, default "cpu"
        Where the network runs.
    progress : bool, default True
        Show a progress bar on a terminal.

    Returns
    -------
    numpy.ndarray
        ``(N, T, H, W) float32``, positive for the class.

    Raises
    ------
    ModuleNotFoundError
        If captum is not installed.
    ValueError
        If there is no such layer, or labels and clips differ in number.

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
    attr = _captum()
    network = network.to(device).eval()
    layer = layer or last_convolution(network)
    if layer not in network.layers:
        raise ValueError(
            f"{network.name} has no layer {layer!r}; its layers are {', '.join(network.layers)}."
        )
    shape = network.split(layer).feature_shape
    if len(shape) != 4:
        raise ValueError(
            f"The output of {layer!r} has shape {shape} and no place in the clip; name a layer "
            f"before it, for example {last_convolution(network)!r}."
        )
    method = attr.LayerGradCam(network, network.blocks()[layer])
    maps = np.empty(clips.frames.shape[:4], np.float32)
    for rows, x, target in _batches(
        network, clips, labels, batch_size, device, progress, "Grad-CAM"
    ):
        coarse = method.attribute(x, target=target).detach()
        fine = functional.interpolate(coarse, maps.shape[1:], mode="trilinear")
        maps[rows] = fine[:, 0].cpu().numpy()
    return maps


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
    """Attribute a class to voxels with Integrated Gradients.

    The path runs from the data set's mean, which is what the ablation puts into hidden voxels. The
    attributions of a clip sum to its logit less that of the blank clip, but for the error of
    the sum that stands for the integral.

    Parameters
    ----------
    network, clips, labels, device, progress
        See :func:`grad_cam`.
    n_steps : int, default 50
        Points on the path (Gauss-Legendre). Log scale: 25, 50, 100, 200; more where the sum is
        off by more than a hundredth.
    batch_size : int, default 16
        Points a pass.

    Returns
    -------
    numpy.ndarray
        ``(N, T, H, W) float32``, summed over channels, in units of the logit.

    Raises
    ------
    ModuleNotFoundError
        If captum is not installed.
    ValueError
        If labels and clips differ in number.

    References
    ----------
    Sundararajan, Taly and Yan, Axiomatic attribution for deep networks, ICML 2017.
    """
    method = _captum().IntegratedGradients(network.to(device).eval())
    maps = np.empty(clips.frames.shape[:4], np.float32)
    for rows, x, target in _batches(
        network, clips, labels, 1, device, progress, "integrated gradients"
    ):
        found = method.attribute(
            x, baselines=0, target=target, n_steps=n_steps, internal_batch_size=batch_size
        )
        maps[rows] = found.detach().sum(1).cpu().numpy()
    return maps


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
    """Attribute a class to voxels by hiding one box of the clip after the other.

    A voxel gets the mean fall of the logit over the boxes that hide it. Hidden voxels hold the
    data set's mean.

    Parameters
    ----------
    network, clips, labels, device, progress
        See :func:`grad_cam`.
    window : tuple of int, optional
        Frames, height and width of the box; default a quarter of the frames and a seventh of each
        side, 4 x 16 x 16 of 16 x 112 x 112.
    stride : tuple of int, optional
        Steps of the box; default half of it, which makes 1183 passes for each clip of that size.
        The whole box makes 196.
    batch_size : int, default 64
        Boxes a forward pass.

    Returns
    -------
    numpy.ndarray
        ``(N, T, H, W) float32``, in units of the logit.

    Raises
    ------
    ModuleNotFoundError
        If captum is not installed.
    ValueError
        If labels and clips differ in number, or a window or stride does not fit the clip.

    References
    ----------
    Zeiler and Fergus, Visualizing and understanding convolutional networks, ECCV 2014,
    :doi:`10.1007/978-3-319-10590-1_53`.
    """
    size = tuple(clips.frames.shape[1:4])
    window = window or tuple(max(n // k, 1) for n, k in zip(size, (4, 7, 7), strict=True))
    stride = stride or tuple(max(n // 2, 1) for n in window)
    for name, value, most in (("window", window, size), ("stride", stride, window)):
        if len(value) != 3 or not all(1 <= v <= m for v, m in zip(value, most, strict=True)):
            raise ValueError(
                f"{name} is {tuple(value)}; give frames, height and width from 1 to {most}."
            )
    method = _captum().Occlusion(network.to(device).eval())
    maps = np.empty(clips.frames.shape[:4], np.float32)
    for rows, x, target in _batches(network, clips, labels, 1, device, progress, "occlusion"):
        found = method.attribute(
            x,
            sliding_window_shapes=(x.shape[1], *window),
            strides=(x.shape[1], *stride),
            baselines=0,
            target=target,
            perturbations_per_eval=batch_size,
        )
        # A box hides all channels at once, so each of them bears the same fall.
        maps[rows] = found.detach()[:, 0].cpu().numpy()
    return maps
