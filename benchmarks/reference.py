"""Each step the plain way: one level, one supervoxel, one classifier, one clip at a time.

This is how the authors' public code goes about it, as far as its facts are known (page
"Decisions"); it is written anew, and computes what stce computes, so that times can be compared.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from joblib import Parallel, delayed
from skimage.color import rgb2lab
from skimage.filters import gaussian
from skimage.segmentation import slic
from skimage.util import img_as_float
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import interpolate

__all__ = ["ablate", "cavs", "cluster", "embed", "embed_clips", "plain", "score", "segment"]
__all__ += ["simpleitk", "vtcd"]


def plain(network):
    """Return a copy of a network in the memory format that PyTorch has by default."""
    return copy.deepcopy(network).to(memory_format=torch.contiguous_format).eval()


def _segment_clip(frames, n_segments, compactness, sigma, min_fraction, threshold):
    colour = frames.repeat(3, axis=-1) if frames.shape[-1] == 1 else frames
    volumes, masks, kept = [], [], []
    for level, n in enumerate(n_segments):
        volume = slic(colour, n, compactness, sigma=sigma, start_label=1)
        mine = []
        for label in range(1, volume.max() + 1):
            mask = volume == label
            if not mask.any():
                continue
            if any((mask & other).sum() / (mask | other).sum() > threshold for other in masks):
                continue
            mine.append(mask)
            if mask.mean() >= min_fraction:
                kept.append((level, label))
        masks += mine
        volumes.append(volume)
    return np.stack(volumes), kept


def segment(
    clips,
    n_segments=(15, 50, 80),
    compactness=20.0,
    sigma=1.0,
    min_fraction=0.001,
    threshold=0.5,
    n_jobs=-1,
):
    """Cut clips up: SLIC once a level, every pair of masks compared.

    Returns
    -------
    list of (numpy.ndarray, list of (int, int))
        For each clip the label volumes ``(L, T, H, W)`` and the (level, label) that are kept.
    """
    options = n_segments, compactness, sigma, min_fraction, threshold
    frames = (np.asarray(clips.frames[i]) for i in range(len(clips)))
    return Parallel(n_jobs=n_jobs)(delayed(_segment_clip)(f, *options) for f in frames)


def _grid(clip: np.ndarray, levels) -> np.ndarray:
    import SimpleITK as sitk

    found, (frames, height, width) = [], clip.shape[:3]
    colour = rgb2lab(gaussian(img_as_float(clip), 1.0, channel_axis=-1))  # as scikit-image does
    for n in levels:
        side = (frames * height * width / n) ** (1 / 3)
        if side > frames:
            side = (height * width / n) ** 0.5
        step = [max(1, round(side))] * 2 + [min(frames, max(1, round(side)))]
        image = sitk.GetImageFromArray(colour.astype(np.float32), isVector=True)
        found.append(sitk.GetArrayFromImage(sitk.SLIC(image, step, 20.0, 10)) + 1)
    return np.stack(found)


def simpleitk(clips, levels, n_jobs=-1) -> list[np.ndarray]:
    """Cut clips by SimpleITK's SLIC, label volumes ``(L, T, H, W)`` each; 10 rounds, as ours."""
    return Parallel(n_jobs=n_jobs)(delayed(_grid)(frames, levels) for frames in clips.frames)


def _tubelets(layer: np.ndarray, size) -> np.ndarray:
    found = slic(layer, 12, 0.01, start_label=1, channel_axis=-1)
    found = torch.from_numpy(found.astype(np.float32))[None, None]
    return interpolate(found, size)[0].numpy().astype(int)


@torch.inference_mode()
def vtcd(network, clips, levels=None, n_jobs=-1) -> list[np.ndarray]:
    """Cut clips by their map at a layer as VTCD does, label volumes ``(1, T, H, W)`` each.

    Kowal et al., Understanding video transformers via universal concept discovery, CVPR 2024,
    :doi:`10.1109/CVPR52733.2024.01041`; its public code sets 12 segments and compactness 0.01.
    """
    maps = []
    for frames in np.asarray(clips.frames):
        layer = network.trunk(_prepare(network, frames)[None].to(network.device))[0]
        maps.append(layer.movedim(0, -1).cpu().double().numpy())
    size = clips.frames.shape[1:4]
    return Parallel(n_jobs=n_jobs)(delayed(_tubelets)(layer, size) for layer in maps)


def _prepare(network, frames: np.ndarray) -> torch.Tensor:
    """Normalise one clip on the CPU: ``(C, T, H, W) float32``."""
    mean, std = network.mean.cpu().numpy(), network.std.cpu().numpy()
    return torch.from_numpy(((frames / np.float32(255) - mean) / std).transpose(3, 0, 1, 2).copy())


@torch.inference_mode()
def embed(network, clips, labels, kept, *, stretch=True, device="cpu") -> np.ndarray:
    """Embed the supervoxels of some clips, each cut and resized on the CPU, in a batch of one.

    Parameters
    ----------
    network : stce.models.network.Network
        As :func:`plain` returns it.
    clips : stce.clips.Clips
        N clips.
    labels : sequence of numpy.ndarray
        For each clip ``(L, T, H, W)``.
    kept : sequence of list of (int, int)
        For each clip the (level, label) to embed.
    stretch, device
        See :func:`stce.features.batches`.

    Returns
    -------
    numpy.ndarray
        ``(S, D) float32``.
    """
    network.to(device)
    rows = []
    for n, chosen in enumerate(kept):
        for level, label in chosen:
            clip = _prepare(network, np.asarray(clips.frames[n]))
            inside = np.asarray(labels[n][level]) == label
            patch = clip * torch.from_numpy(inside)
            if stretch:
                where = np.argwhere(inside)
                low, high = where.min(0), where.max(0) + 1
                box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
                size = inside.shape
                patch = interpolate(patch[(None, slice(None), *box)], size, mode="trilinear")[0]
            rows.append(network.features(patch[None].to(device))[0].cpu().numpy())
    return np.stack(rows)


@torch.inference_mode()
def embed_clips(network, clips, *, device="cpu") -> np.ndarray:
    """Embed whole clips, in batches of one: ``(N, D) float32``."""
    network.to(device)
    prepared = (_prepare(network, np.asarray(frames)) for frames in clips.frames)
    return np.stack([network.features(x[None].to(device))[0].cpu().numpy() for x in prepared])


def cluster(features: np.ndarray, n_concepts: int, n_keep: int, seed: int = 0, n_init: int = 4):
    """Cluster one class: centres ``(K, D)`` and for each the rows of its nearest members."""
    found = KMeans(n_concepts, n_init=n_init, random_state=seed).fit(features)
    members = []
    for k, centre in enumerate(found.cluster_centers_):
        rows = np.flatnonzero(found.labels_ == k)
        distance = [np.linalg.norm(features[row] - centre) for row in rows]
        members.append(rows[np.argsort(distance, kind="stable")][:n_keep])
    return found.cluster_centers_, members


def cavs(positives: np.ndarray, groups, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Fit one classifier after the other: unit CAVs ``(R, D)`` of one concept.

    Parameters
    ----------
    positives : numpy.ndarray
        ``(m, D)``, the concept's supervoxels.
    groups : sequence of numpy.ndarray
        R groups of random clips, each ``(m', D)``; the first m are taken.
    mean, scale : numpy.ndarray
        ``(D,)``, by which the features are standardised.
    """
    vectors = []
    for group in groups:
        negatives = group[: len(positives)]
        x = (np.concatenate([positives, negatives]).astype(np.float64) - mean) / scale
        sign = np.repeat([1, -1], [len(positives), len(negatives)])
        fitted = LogisticRegression(tol=1e-5, max_iter=1000).fit(x, sign)
        vector = fitted.coef_[0] / scale
        vectors.append(vector / np.linalg.norm(vector))
    return np.stack(vectors)


def score(network, vectors: np.ndarray, features: np.ndarray, class_index: int, *, device="cpu"):
    """Score one concept: the gradient clip by clip, the dot product CAV by CAV."""
    network.to(device)
    gradients = []
    for z in features:
        z = torch.from_numpy(z[None]).to(device).requires_grad_()
        (slope,) = torch.autograd.grad(network.logits(z)[0, class_index], z)
        gradients.append(slope[0].cpu().numpy())
    return float(np.mean([[np.dot(v, g) > 0 for g in gradients] for v in vectors]))


@torch.inference_mode()
def ablate(network, clips, labels, kept, centres, listed, q_max, *, stretch=True, device="cpu"):
    """Add and remove concepts: one clip, one order, one q, one forward pass at a time.

    Parameters
    ----------
    network, clips, labels, kept, stretch, device
        See :func:`embed`.
    centres : dict of str to numpy.ndarray
        For each class the concept centres ``(K, D)``.
    listed : dict of str to list of (str, int, list of int)
        For each class the orders, see :func:`stce.ablation.concept_orders`.
    q_max : int
        Concepts added or removed.

    Returns
    -------
    list of tuple
        Clip, mode, order, repeat, q, predicted class, probability of the true class, revealed
        share of the voxels.
    """
    network.to(device)
    rows = []
    for n in range(len(clips)):
        owner = clips.classes[clips.labels[n]]
        options = {"stretch": stretch, "device": device}
        z = embed(network, clips.select([n]), [labels[n]], [kept[n]], **options)
        concept = [int(np.linalg.norm(centres[owner] - row, axis=1).argmin()) for row in z]
        clip = _prepare(network, np.asarray(clips.frames[n]))
        for mode in ("add", "remove"):
            for order, repeat, sequence in listed[owner]:
                for q in range(q_max + 1):
                    union = np.zeros(labels[n].shape[1:], bool)
                    for (level, label), c in zip(kept[n], concept, strict=True):
                        if c in sequence[:q]:
                            union |= np.asarray(labels[n][level]) == label
                    visible = union if mode == "add" else ~union
                    masked = clip * torch.from_numpy(visible)
                    chance = network(masked[None].to(device)).softmax(1)[0].cpu().numpy()
                    told = int(chance.argmax()), float(chance[clips.labels[n]])
                    rows.append((n, mode, order, repeat, q, *told, float(visible.mean())))
    return rows
