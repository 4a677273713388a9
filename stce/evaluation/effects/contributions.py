"""One clip: what each of its supervoxels adds to the logit, and which of its frames count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from stce.ablation import Case, Subject
from stce.clips import Clips
from stce.concepts import EXAMPLES
from stce.engine.slic import painter
from stce.engine.threads import forward
from stce.masking import reached, visible
from stce.models.adapt import lent, seen
from stce.supervoxels import segment


@dataclass(frozen=True, eq=False)
class Contributions:
    """What the supervoxels of a clip add to a class's logit, from a blank clip to this one.

    A video that is longer than a clip is told clip by clip.

    Attributes
    ----------
    class_name, frames : str and numpy.ndarray
        Whose logit, and the clip or video, ``(T, H, W, C) uint8``.
    supervoxels : pandas.DataFrame
        One row a kept supervoxel: the ``start`` of its clip, ``level``, ``label``, where it lies in
        it (``t0`` to ``x1``), ``size`` in voxels, the ``concept`` nearest to it, its signed
        ``contribution`` in logits and the standard ``error`` of that.
    logits : pandas.DataFrame
        One row a clip: its ``start``, and the logit of the ``blank`` clip, of all supervoxels and
        nothing else (``shown``), and of the ``whole`` clip. The contributions add up to ``shown -
        blank``; ``residual`` is the rest, which voxels add that no kept supervoxel holds.
    voxels : numpy.ndarray
        ``(T, H, W) float32``, the contributions spread evenly over the voxels of each supervoxel;
        the mean where clips overlap.
    """

    class_name: str
    frames: np.ndarray
    supervoxels: pd.DataFrame
    logits: pd.DataFrame
    voxels: np.ndarray

    @property
    def concepts(self) -> pd.DataFrame:
        """One row a ``concept``, the largest ``contribution`` first, and its ``supervoxels``.

        A concept's contribution is the sum over its supervoxels, a clip on average.
        """
        each = self.supervoxels.groupby("concept")["contribution"].agg(["sum", "size"])
        each = each.rename(columns={"sum": "contribution", "size": "supervoxels"})
        each["contribution"] /= len(self.logits)
        return each.sort_values("contribution", ascending=False).reset_index()

    @property
    def profile(self) -> np.ndarray:
        """What the voxels of each frame add to the logit, ``(T,) float64``."""
        return self.voxels.sum((1, 2), dtype=np.float64)


def contributions(case: Case, *, n_orders: int = 8, seed: int = 0) -> Contributions:
    """Tell what each supervoxel of a clip adds to the logit of the class it is explained with.

    The supervoxels are added to a blank clip one by one, in orders drawn by chance of which every
    second is the reverse of the one before; what the logit gains at a supervoxel's turn, on
    average, is its contribution. So Shapley's values [1]_ are sampled [2]_; they add up exactly.

    Parameters
    ----------
    case : stce.ablation.Case
        The clip, of :meth:`stce.ablation.Subject.case`.
    n_orders, seed : int, default 8 and 0
        Orders, an even number from 4, each at most one forward pass a supervoxel; and their seed.

    Raises
    ------
    ValueError
        If `n_orders` is odd or less than 4.

    References
    ----------
    .. [1] L. S. Shapley, "A value for n-person games", Contributions to the Theory of Games II,
       1953, :doi:`10.1515/9781400881970-018`.
    .. [2] E. Strumbelj and I. Kononenko, "Explaining prediction models and individual predictions
       with feature contributions", Knowledge and Information Systems 41, 2014,
       :doi:`10.1007/s10115-013-0679-x`.
    """
    if n_orders < 4 or n_orders % 2:
        raise ValueError(f"n_orders is {n_orders}; it takes even numbers from 4.")
    rng, n = np.random.default_rng(seed), len(case.table)
    ways = [
        order[::way]
        for order in (rng.permutation(n) for _ in range(n_orders // 2))
        for way in (1, -1)
    ]
    added = np.zeros((n_orders, n))
    for gains, order in zip(added, ways, strict=True):
        place = reached(case.labels, case.table, np.argsort(order).astype(np.int32), n)
        # A supervoxel that those before it cover adds nothing, and need not be shown.
        turns = np.unique(place[place < n])
        logits = _logits(case, place, [0, *(turns + 1), n + 1])
        gains[order[turns]] = np.diff(logits)[:-1]
    blank, shown, whole = logits[0], logits[-2], logits[-1]
    pairs = added.reshape(-1, 2, n).mean(1)  # an order and its reverse are not independent
    error = pairs.std(0, ddof=1) / np.sqrt(len(pairs))
    table = case.table.reset_index(drop=True).drop(columns="video")
    table = table.assign(concept=case.concept, contribution=added.mean(0), error=error)
    spread = painted(case, table["contribution"] / table["size"]).astype(np.float32)
    facts = {"start": 0, "blank": blank, "shown": shown, "whole": whole, "residual": whole - shown}
    table.insert(0, "start", 0)
    frames = np.asarray(case.subject.clips.frames[case.video])
    return Contributions(case.owner, frames, table, pd.DataFrame([facts]), spread)


def painted(case: Case, values) -> np.ndarray:
    """Give each voxel of a clip the sum of the values of the supervoxels that hold it.

    Takes ``(s,)`` values of the kept supervoxels; returns ``(T, H, W) float64``.
    """
    sums, values = np.zeros(case.labels.shape[1:]), np.asarray(values)
    level, label = case.table["level"].to_numpy(), case.table["label"].to_numpy()
    for i, volume in enumerate(case.labels):
        dense = np.zeros(int(volume.max()) + 1)
        dense[label[level == i]] = values[level == i]
        sums += dense[volume]
    return sums


def _logits(case: Case, place: np.ndarray, steps: list[int]) -> np.ndarray:
    """Return the logit of the clip's class while voxels of a place below each step are shown."""
    subject, device = case.subject, case.clip.device
    places = torch.from_numpy(place)[None].to(device)
    wanted = [("add", 0, int(step)) for step in steps]

    def answer(few: slice) -> torch.Tensor:
        masked = case.clip * visible(places, wanted[few])[:, None]
        return subject.network(masked.contiguous(memory_format=torch.channels_last_3d))

    with torch.inference_mode():
        told = forward(subject.network, answer, len(wanted), device, subject.batch_size)
    own = subject.clips.classes.index(case.owner)
    return told[:, own].double().cpu().numpy()


def explain_clip(
    found, clip, *, network=None, n_orders: int = 8, seed: int = 0, batch_size: int = 64
) -> Contributions:
    """Explain one clip, or a longer video clip by clip, with the concepts of an explanation.

    Parameters
    ----------
    found : stce.explanation.Explanation
        Of the class whose logit is explained; its settings cut the clip up.
    clip : array_like
        ``(T, H, W, C)`` or ``(C, T, H, W)``, as of :meth:`stce.clips.Clips.of_array`; at least as
        many frames as the network takes, of its height and width.
    network : stce.models.adapt.Explainable, optional
        What was explained, for an explanation that was loaded; default the explanation's own.
    n_orders, seed, batch_size
        See :func:`contributions` and :class:`stce.ablation.Subject`.

    Raises
    ------
    ValueError
        If there is no network, or the clip is shorter or of another size than it takes.
    """
    network = found.network if network is None else network
    if network is None:
        raise ValueError("an explanation that was loaded has no network; pass it as network.")
    frames = Clips.of_array(np.asarray(clip)[None], "clip").frames[0]
    length = network.clip_shape[1]
    if len(frames) < length:
        raise ValueError(f"clip has {len(frames)} frames; the network takes {length}, give more.")
    begins = starts(len(frames), length)
    classes = tuple(name for name in found.clips.classes if name != EXAMPLES)
    ids = [f"frame {start}" for start in begins]
    labels = np.full(len(begins), classes.index(found.class_name))
    parts = np.stack([frames[start : start + length] for start in begins])
    clips, given = Clips(parts, labels, ids, ids, classes), found.settings
    # Of a run's explanation all that it was cut by, and "" for no layer of its own.
    known = {key: key for key in ("n_segments", "compactness", "sigma", "spacing", "min_fraction")}
    known["jaccard"] = "threshold"
    cutting = {name: given[key] for key, name in known.items() if key in given}
    how = {"clip_shape": clips.clip_shape}
    with lent(network, None, given["features"], **how) as seen_whole:
        finder = seen(seen_whole, given["concept_layer"] or None, given["features"])
        on = painter(finder, given.get("segment_on", "pixels"), network.device)
        cut = segment(clips, on=on, progress=False, **cutting)
        rankings = {found.class_name: found.ranking}
        how = {"stretch": given["stretch"], "batch_size": batch_size, "device": network.device}
        subject = Subject(finder, clips, cut, found.concepts, rankings, **how)
        told = [
            contributions(subject.case(i), n_orders=n_orders, seed=seed) for i in range(len(clips))
        ]
    return joined(frames, dict(zip(begins, told, strict=True)))


def starts(n_frames: int, length: int) -> list[int]:
    """Return where clips of a length begin that cover a video, the last one up to its end.

    Examples
    --------
    >>> starts(20, 8)
    [0, 8, 12]
    """
    return sorted({*range(0, n_frames - length + 1, length), n_frames - length})


def joined(frames: np.ndarray, parts: Mapping[int, Contributions]) -> Contributions:
    """Put the clips of a video ``(T, H, W, C)`` together, each by the frame where it begins."""
    spread, count = (
        np.zeros(frames.shape[:3], np.float32),
        np.zeros((len(frames), 1, 1), np.float32),
    )
    for start, part in parts.items():
        rows = slice(start, start + len(part.frames))
        spread[rows] += part.voxels
        count[rows] += 1
    tables = [
        pd.concat([getattr(part, name).assign(start=start) for start, part in parts.items()])
        for name in ("supervoxels", "logits")
    ]
    tables = [table.reset_index(drop=True) for table in tables]
    name = next(iter(parts.values())).class_name
    return Contributions(name, frames, *tables, spread / np.maximum(count, 1))
