"""Clips with some voxels hidden: what fills the gaps, and what the network says, clip by clip."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from torch import Tensor

from stce.engine.progress import bar
from stce.engine.threads import forward
from stce.engine.workers import spread

__all__ = ["FILLS", "check", "each_clip", "explained", "filling", "outcomes", "predict", "voxels"]

FILLS = ("mean", "blur", "noise")

# The width of the blur, as a share of each axis: 2 frames and 7 of 56 pixels.
BLUR = 1 / 8


def check(network, clips, supervoxels, rankings, q_max, assign, fill, features) -> None:
    """Refuse what does not belong together, choices that do not exist and steps there are not."""
    network.check_classes(clips.classes)
    if features is not None and len(features) != len(supervoxels):
        raise ValueError(
            f"features has {len(features)} rows for {len(supervoxels)} supervoxels; embed the "
            "supervoxels of these test clips."
        )
    if assign not in ("true", "predicted"):
        raise ValueError(f"assign is {assign!r}; choose 'true' or 'predicted'.")
    if fill not in FILLS:
        raise ValueError(f"fill is {fill!r}; choose one of {', '.join(FILLS)}.")
    for name, ranking in rankings.items():
        if q_max > len(ranking):
            raise ValueError(
                f"q_max is {q_max}, but class {name!r} has {len(ranking)} concepts. "
                "Lower q_max or raise n_concepts."
            )


def explained(clips, rankings: dict[str, list[int]], videos) -> list[int]:
    """Return which of the clips (None for all of them) are of a class that has a ranking."""
    videos = range(len(clips)) if videos is None else videos
    return [int(n) for n in videos if clips.classes[clips.labels[n]] in rankings]


def filling(clip: Tensor, fill: str, seed: int, video: int) -> Tensor | None:
    """Return what stands in the hidden voxels of a prepared clip ``(1, C, T, H, W)``.

    None stands for zeros: the data set's mean, after normalisation. "blur" is the clip itself
    under a Gaussian of an eighth of each axis. "noise" is white and standard normal, since the
    normalised data have mean 0 and deviation 1; it is drawn from `seed` and `video` alone, the
    same for every mask of a clip and on every device.
    """
    if fill == "mean":
        return None
    if fill == "noise":
        noise = np.random.default_rng([seed, video]).standard_normal(clip.shape, np.float32)
        return torch.from_numpy(noise).to(clip.device)
    blurred = clip
    for axis in (2, 3, 4):
        place = torch.arange(clip.shape[axis], device=clip.device, dtype=torch.float32)
        distance = (place[:, None] - place) / (BLUR * len(place))
        # Each row sums to 1, at the border too.
        weights = (-(distance**2) / 2).softmax(1)
        blurred = (blurred.movedim(axis, -1) @ weights.T).movedim(-1, axis)
    return blurred


def voxels(region: np.ndarray | None, n: int, device) -> Tensor | None:
    """Return the voxels of interest of clip `n`, ``(T, H, W) bool``; None without a region."""
    if region is None:
        return None
    return torch.from_numpy(np.asarray(region[n]).astype(bool)).to(device)


@torch.inference_mode()
def predict(
    network,
    clip: Tensor,
    wanted: list[Hashable],
    visible: Callable[[list], Tensor],
    fill: Tensor | None,
    batch_size: int,
    region: Tensor | None = None,
) -> dict[Hashable, tuple]:
    """Return (probabilities, visible share) of one clip under each mask that is wanted.

    Parameters
    ----------
    network : stce.models.network.Network
        In evaluation mode, where the clip is.
    clip : torch.Tensor
        ``(1, C, T, H, W) float32``, prepared.
    wanted : list
        What names the masks.
    visible : callable
        Makes the masks ``(B, T, H, W) bool`` of a part of `wanted`, on the clip's device.
    fill : torch.Tensor or None
        See :func:`filling`.
    batch_size : int
        Masked clips a forward pass; on a CPU they are split further.
    region : torch.Tensor, optional
        ``(T, H, W) bool``, where the clip is: the visible share of these voxels comes third, NaN
        if there are none.
    """
    answers = {}
    for start in range(0, len(wanted), batch_size):
        part = wanted[start : start + batch_size]

        def answer(few: slice, part=part) -> Tensor:
            seen = visible(part[few])
            mask = seen[:, None]
            masked = clip * mask if fill is None else torch.where(mask, clip, fill)
            masked = masked.contiguous(memory_format=torch.channels_last_3d)
            shares = [seen.flatten(1).float().mean(1)]
            if region is not None:
                shares.append(seen[:, region].float().mean(1))
            return torch.cat([torch.stack(shares, dim=1), network(masked).softmax(1)], dim=1)

        told = forward(network, answer, len(part), clip.device).cpu().numpy()
        n_shares = 1 if region is None else 2
        for key, row in zip(part, told, strict=True):
            answers[key] = (row[n_shares:], *row[:n_shares].tolist())
    return answers


def each_clip(
    videos: list[int],
    answer: Callable[[int], pd.DataFrame],
    folder: str | Path | None,
    progress: bool,
    what: str,
) -> Iterator[pd.DataFrame]:
    """Yield the table of each clip; those in `folder`, from a run that was stopped, are read."""
    kept = {n: None if folder is None else Path(folder) / f"{n:06d}.parquet" for n in videos}
    todo = [n for n, path in kept.items() if path is None or not path.exists()]
    waiting, shared = set(todo), spread(answer)
    new = Parallel(return_as="generator")(delayed(_answer)(shared, n) for n in todo)
    for n in bar(videos, show=progress, desc=what, unit="clip"):
        path = kept[n]
        if n not in waiting:
            yield pd.read_parquet(path)
            continue
        table = next(new)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            table.to_parquet(path.with_suffix(".partial"))
            path.with_suffix(".partial").rename(path)
        yield table


def _answer(answer: Callable[[int], pd.DataFrame], n: int) -> pd.DataFrame:
    return answer(n)


def outcomes(clips, n: int, steps, answers: list[tuple]) -> pd.DataFrame:
    """Return the rows of one clip, from (mode, order, repeat, q) and an answer for each."""
    label = int(clips.labels[n])
    rows = []
    for step, (probability, *shares) in zip(steps, answers, strict=True):
        rows.append((*step, int(probability.argmax()), probability[label], *shares))
    columns = ["mode", "order", "repeat", "q", "predicted", "probability", "revealed", "held"]
    table = pd.DataFrame(rows, columns=columns[: len(rows[0])])
    table.insert(0, "class", clips.classes[label])
    table.insert(0, "id", clips.ids[n])
    table.insert(0, "video", n)
    table.insert(8, "correct", table["predicted"] == label)
    table["predicted"] = [clips.classes[p] for p in table["predicted"]]
    return table
