"""What the bench works on: rendered actors, and features with planted concepts, all seeded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from stce import features, models
from stce.clips import Clips
from stce.datasets.actors import CLASSES, render
from stce.models.adapt import Explainable
from stce.videos.frames import center_crop, resize, resize_parts

__all__ = ["Directions", "actors", "directions", "trained"]


def actors(n: int, size: int = 112, channels: int = 1, n_frames: int = 16) -> Clips:
    """Return n clips ``(n, T, size, size, C) uint8`` and their parts, the six classes in turn."""
    frames = np.empty((n, n_frames, size, size, channels), np.uint8)
    parts = np.empty(frames.shape[:4], np.uint8)
    larger = round(size * 120 / 112)
    for i in range(n):
        label, person, take = i % 6, 1 + i // 6 % 25, i // 150
        film, mask = render(0, person, 1 + i % 4, label, take, n_frames=n_frames)
        frames[i] = center_crop(resize(film, (larger, larger)), (size, size))
        parts[i] = center_crop(resize_parts(mask, (larger, larger)), (size, size))
    names = [f"clip{i:05d}" for i in range(n)]
    return Clips(frames, np.arange(n) % 6, names, names, tuple(CLASSES), parts)


def trained(name: str, width: float, clips: Clips, device: str = "cpu"):
    """Return a network whose last layer tells the classes of some clips apart.

    The trunk keeps its seeded random weights and the last layer is a ridge regression on what it
    gives: this takes seconds, costs as much to run as a trained network, and is not undecided.
    """
    _, *shape, channels = clips.frames.shape
    network = models.build(name, len(clips.classes), width, channels, shape).eval()
    network.set_moments(*(f(clips.frames / 255.0, axis=(0, 1, 2, 3)) for f in (np.mean, np.std)))
    z = features.extract_clips(network, clips, device=device).astype(np.float64)
    middle = z.mean(0)
    z -= middle
    goal = 10 * (np.eye(len(clips.classes))[clips.labels] - 1 / len(clips.classes))
    inner = z @ z.T
    ridge = 0.1 * np.trace(inner) / len(z)
    weights = z.T @ np.linalg.solve(inner + ridge * np.eye(len(z)), goal)
    last = list(network.head.modules())[-1]
    with torch.no_grad():
        last.weight.copy_(torch.from_numpy(weights.T))
        last.bias.copy_(torch.from_numpy(-middle @ weights))
    return network


class Head(nn.Module, Explainable):
    """A head h_l with one hidden layer, so that the gradient differs from clip to clip."""

    def __init__(self, n_features: int):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.entry = nn.Identity()
        self.hidden, self.last = nn.Linear(n_features, 32), nn.Linear(32, 2)
        with torch.no_grad():
            for part in (self.hidden, self.last):
                part.weight.normal_(0, part.in_features**-0.5, generator=generator)
                part.bias.zero_()

    def forward(self, z):
        """Return the logits ``(N, 2)`` of features ``(N, D)``."""
        return self.last(torch.tanh(self.hidden(self.entry(z))))

    logits = forward


@dataclass(frozen=True)
class Directions:
    """Features at layer l: K concepts of m supervoxels, R groups of m random clips, N clips."""

    positives: np.ndarray  # (K, m, D) float32
    negatives: np.ndarray  # (R, m, D) float32
    clips: np.ndarray  # (N, D) float32
    head: Head


def directions(quick: bool) -> Directions:
    """Return planted concepts of the paper's size, or few and small ones."""
    n_concepts, n_groups, size, width, n_clips = (6, 4, 10, 96, 12) if quick else (
        25, 50, 40, 4096, 40,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    middles = 0.3 * rng.normal(size=(n_concepts, 1, width))

    def rectified(shape, middle=0.0):
        return np.maximum(rng.normal(size=(*shape, width)) + middle, 0).astype(np.float32)

    return Directions(
        rectified((n_concepts, size), middles),
        rectified((n_groups, size)),
        rectified((n_clips,)),
        Head(width).eval(),
    )
