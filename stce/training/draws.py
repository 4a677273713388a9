"""Random clips of videos, for training (paper 4.1)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor


class RandomClips:
    """Random clips of videos, one a video and epoch, in batches.

    Parameters
    ----------
    videos : stce.videos.Videos
        With a cheap `read`, such as the memory-mapped one of cached videos.
    size : tuple of int
        Frames, height and width of a clip.
    flip, batch_size
        See :func:`stce.training.train`.
    seed : int
        With the epoch's number it fixes order, places and flips of that epoch.
    part : tuple of int, default (0, 1)
        Which share of each batch is wanted, and how many there are: one for each process.
    """

    def __init__(
        self, videos, size: tuple[int, ...], flip: bool, batch_size: int, seed: int, part=(0, 1)
    ):
        self.videos, self.size, self.flip, self.seed = videos, tuple(size), bool(flip), seed
        self.labels = videos.table["label"].to_numpy(np.int64)
        self.steps, self.part = -(-len(videos) // batch_size), part
        if len(videos) // self.steps < part[1]:
            raise ValueError(
                f"batch_size is {batch_size} for {part[1]} processes; give each at least one clip."
            )

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Yield frames ``(B, T, H, W, C) uint8``, labels ``(B,) int64`` and weight, one ahead.

        With the weight the mean over the clips of one part is a term of the mean over all parts
        of the mean over the batch; it is 1 where the parts are of one size.
        """
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.videos))
        places, mirrored = rng.random((len(order), 3)), rng.random(len(order)) < 0.5
        number, parts = self.part
        with ThreadPoolExecutor(1) as reader:
            ahead = None
            # Evenly dealt: a last step of one or two clips would be mostly noise.
            for batch in np.array_split(order, self.steps):
                rows = batch[number::parts]
                how = places[rows], mirrored[rows] & self.flip, len(rows) * parts / len(batch)
                coming = reader.submit(self._batch, rows, *how)
                if ahead is not None:
                    yield ahead.result()
                ahead = coming
            yield ahead.result()

    def _batch(self, rows, places, mirrored, weight):
        frames = np.stack([self._clip(i, place) for i, place in zip(rows, places, strict=True)])
        frames[mirrored] = frames[mirrored, :, :, ::-1]
        return torch.from_numpy(frames), torch.from_numpy(self.labels[rows]), weight

    def _clip(self, i, place):
        video = self.videos.read(int(i))
        room = np.array(video.shape[:3]) - self.size
        if room.min() < 0:
            raise ValueError(
                f"video {self.videos.table['id'].iloc[i]!r} is {video.shape[:3]} (frames, height, "
                f"width), smaller than the clips {self.size}; cache the videos at a larger size "
                "and with min_frames, or leave it out."
            )
        window = zip((place * (room + 1)).astype(int), self.size, strict=True)
        return video[tuple(slice(start, start + length) for start, length in window)]
