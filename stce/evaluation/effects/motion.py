"""Object or motion? The voxels of one concept changed in a clip, all else going on."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy
import torch
from joblib import Parallel, delayed

from stce.ablation import Case, Subject
from stce.engine.progress import bar
from stce.engine.resampling import mean_interval
from stce.engine.threads import forward
from stce.engine.workers import spread
from stce.evaluation.paired import holm

# What is done to a concept, and what of it tells of its motion.
CHANGES = ("remove", "freeze", "reverse", "shuffle", "flat", "freeze, flat")
MOTION = ("freeze", "reverse", "shuffle")
CHANGED = ["class", "concept", "video", "id", "change", "drop", "lost", "area"]


@dataclass(frozen=True)
class Assessment:
    """How much the motion of each concept counts, and how much its look.

    Attributes
    ----------
    concepts : pandas.DataFrame
        One row a ``class`` and ``concept``, in the order of the ranking: ``n_clips`` that have it;
        by how much the class's logit falls without its motion (``motion``, the mean over
        `MOTION`), by how much more without its look too, once it is held still (``look``, "freeze,
        flat" beyond "freeze"), and without it (``remove``), each with a 95 % interval over clips
        (``motion_low``, ``motion_high``, ...); ``p_motion``, ``p_look`` and ``p_remove``, corrected
        over all of a class; and its ``kind``: "motion", "look" or "both"; "presence" where it
        counts by neither (but by its place, size or colour); "unsure" where not even its removal
        surely costs something; "unseen" where no clip has it.
    outcomes : pandas.DataFrame
        One row a class, concept, ``video`` (with its ``id``) and ``change``: the ``drop`` of the
        class's logit, ``lost`` (1 if the clip is recognised no more, -1 if only now) and ``area``,
        the concept's share of the clip's voxels.
    """

    concepts: pd.DataFrame
    outcomes: pd.DataFrame


def behind(frames: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Uncover what a mask hides: each place from the frame nearest in time that shows it.

    Takes ``(T, H, W, C)`` frames and ``(T, H, W) bool``; a place that is always hidden stays.

    Examples
    --------
    >>> behind(np.arange(3).reshape(3, 1, 1, 1), np.array([0, 1, 1], bool).reshape(3, 1, 1)).ravel()
    array([0, 0, 0])
    """
    never, t = 3 * len(mask), np.arange(len(mask))[:, None, None]
    before = np.maximum.accumulate(np.where(mask, -never, t), axis=0)
    after = np.minimum.accumulate(np.where(mask, never, t)[::-1], axis=0)[::-1]
    nearest = np.where(t - before <= after - t, before, after)
    nearest = np.where(mask.all(0), t, nearest)
    return np.take_along_axis(frames, nearest[..., None], axis=0)


def altered(
    frames: np.ndarray, mask: np.ndarray, change: str, *, fill: float = 0, seed: int = 0
) -> np.ndarray:
    """Return a clip in which the voxels of a mask are changed and all else goes on.

    Parameters
    ----------
    frames, mask : numpy.ndarray
        ``(T, H, W, C)`` of any dtype, and ``(T, H, W) bool``.
    change : str
        - "remove": they hold `fill`, as in the ablation.
        - "freeze": what they show in the middle one of their frames, where they are then, is held
          through the whole clip; what they covered is uncovered (:func:`behind`).
        - "reverse", "shuffle": their frames come last to first, or in an order drawn by chance.
        - "flat": their silhouette moves as it did, in its mean colour; "freeze, flat": it is held.
    fill, seed : float, default 0, and int, default 0
        Value of what is removed; seeds the shuffled order.

    Raises
    ------
    ValueError
        If the change is unknown, the clip has one frame or the mask is empty.

    Examples
    --------
    >>> clip = np.array([9, 1, 1, 1, 9, 1, 1, 1, 9]).reshape(3, 1, 3, 1)
    >>> altered(clip, clip[..., 0] == 9, "freeze")[:, 0, :, 0].tolist()
    [[1, 9, 1], [1, 9, 1], [1, 9, 1]]
    """
    if change not in CHANGES:
        raise ValueError(f"change is {change!r}; choose one of {', '.join(CHANGES)}.")
    if len(frames) < 2:
        raise ValueError("the clip has one frame, in which nothing moves; take longer clips.")
    if not mask.any():
        raise ValueError("the mask is empty: there is nothing to change in this clip.")
    there = np.flatnonzero(mask.any((1, 2)))
    flat = np.asarray(fill if change == "remove" else frames[mask].mean(0)).astype(frames.dtype)
    if change in ("remove", "flat"):
        return np.where(mask[..., None], flat, frames)
    if change == "freeze, flat":
        held = mask[there[len(there) // 2]]
        return np.where(held[..., None], flat, behind(frames, mask))
    source = {
        "freeze": np.full(len(frames), there[len(there) // 2]),
        "reverse": np.arange(len(frames))[::-1],
        "shuffle": np.random.default_rng(seed).permutation(len(frames)),
    }[change]
    return np.where(mask[source][..., None], frames[source], behind(frames, mask))


def assess(
    subject: Subject,
    concepts: Mapping[str, Sequence[int]] | None = None,
    *,
    margin: float = 0.25,
    alpha: float = 0.05,
    n_bootstrap: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> Assessment:
    """Tell of each concept whether the network relies on how it moves or on how it looks.

    On clips that the concepts were not found in, each concept is changed by itself
    (:func:`altered`) and the class's logit is compared with that of the clip as it is. Its motion
    counts if the clips lose more by the loss of its motion than `margin` of what they lose (or
    gain) when it is removed; its look likewise. What the changes do to the picture beside, such as
    edges, costs something too, which the margin allows for. A supervoxel is larger than what moves
    in it, so that a flat one hides its motion too: its look is what is lost when it is made flat
    once it stands still.

    Parameters
    ----------
    subject : stce.ablation.Subject
        The network, its concepts and the clips; those of other classes than the concepts' own are
        left out.
    concepts : mapping of str to sequence of int, optional
        Concepts of each class; default all of the rankings.
    margin, alpha : float, default 0.25 and 0.05
        Share of the effect of removal that does not count, and the level of the tests: the sign of
        each clip's excess dealt anew (exact up to 13 clips), corrected by Holm's method.
    n_bootstrap, seed : int, default 1000 and 0
        Resamples of the clips; seeds them, the tests and the shuffled orders.
    progress : bool, default True
        Show a bar on a terminal.

    Raises
    ------
    ValueError
        If a concept that was named does not exist or no clip has it, or clips have one frame.
    """
    wanted = subject.rankings if concepts is None else concepts
    for name, chosen in wanted.items():
        if unknown := set(chosen) - set(subject.rankings.get(name, ())):
            raise ValueError(
                f"concepts names {sorted(unknown)} of class {name!r}, whose concepts are "
                f"{sorted(subject.rankings.get(name, ()))}."
            )
    clips = subject.clips
    if clips.clip_shape[1] < 2:
        raise ValueError("the clips have one frame, in which nothing moves; take longer clips.")
    todo = [n for n, y in enumerate(clips.labels) if clips.classes[y] in wanted]

    def answer(n: int) -> pd.DataFrame:
        return _changed(subject.case(n), wanted, seed)

    shared = spread(answer)
    made = Parallel(return_as="generator")(delayed(operator.call)(shared, n) for n in todo)
    tables = list(bar(made, show=progress, total=len(todo), desc="change", unit="clip"))
    outcomes = pd.concat([pd.DataFrame(columns=CHANGED), *filter(len, tables)], ignore_index=True)
    outcomes = outcomes.astype({"concept": int, "video": int, "drop": float, "lost": int})
    seen = set(zip(outcomes["class"], outcomes["concept"], strict=True))
    if concepts and (missing := [(c, k) for c in wanted for k in wanted[c] if (c, k) not in seen]):
        name, concept = missing[0]
        raise ValueError(f"no clip of class {name!r} has its concept {concept}; give more clips.")
    return Assessment(_judged(outcomes, wanted, margin, alpha, n_bootstrap, seed), outcomes)


def _changed(case: Case, wanted: Mapping[str, Sequence[int]], seed: int) -> pd.DataFrame:
    """Change each concept that a clip has in each way, and ask the network."""
    subject, n, device = case.subject, case.video, case.clip.device
    label, network = int(subject.clips.labels[n]), subject.network
    name = subject.clips.classes[label]
    has = set(case.concept.tolist()) if case.owner == name else ()
    masks = {k: case.order("", 0, [k]).place < 1 for k in wanted[name] if k in has}
    asked = [(k, change) for k in masks for change in CHANGES]
    frames = case.clip[0].movedim(0, -1).cpu().numpy()

    def answer(few: slice) -> torch.Tensor:
        some = [altered(frames, masks[k], change, seed=(seed, n)) for k, change in asked[few]]
        shown = torch.from_numpy(np.stack(some)).to(device).movedim(-1, 1)
        return network(shown.contiguous(memory_format=torch.channels_last_3d))

    with torch.inference_mode():
        told = [network(case.clip)]
        if asked:
            told.append(forward(network, answer, len(asked), device, subject.batch_size))
    logits = torch.cat(told).cpu().numpy()
    right = (logits.argmax(1) == label).astype(int)
    sides = {"drop": logits[0, label] - logits[1:, label], "lost": right[0] - right[1:]}
    table = pd.DataFrame(asked, columns=["concept", "change"]).assign(**sides)
    table = table.assign(video=n, id=str(subject.clips.ids[n]), **{"class": name})
    return table.assign(area=[float(masks[k].mean()) for k in table["concept"]])[CHANGED]


def _judged(outcomes, wanted, margin, alpha, n_bootstrap, seed) -> pd.DataFrame:
    rng, rows = np.random.default_rng(seed), []
    for name, chosen in wanted.items():
        for concept in chosen:
            mine = outcomes[(outcomes["class"] == name) & (outcomes["concept"] == concept)]
            drops = mine.pivot(index="video", columns="change", values="drop")
            row = {"class": name, "concept": concept, "n_clips": len(drops)}
            if len(drops):
                look = drops["freeze, flat"] - drops["freeze"]
                sides = {"motion": drops[list(MOTION)].mean(axis=1), "look": look}
                for what, values in (sides | {"remove": drops["remove"]}).items():
                    low, high = mean_interval(values.to_numpy(), n_bootstrap, rng)
                    row |= {what: values.mean(), f"{what}_low": low, f"{what}_high": high}
                    beside = margin * drops["remove"].abs() if what in sides else 0.0
                    row[f"p_{what}"] = _flipped((values - beside).to_numpy(), rng)
            rows.append(row)
    table, tested = pd.DataFrame(rows), ["p_motion", "p_look", "p_remove"]
    table[tested] = table[tested].fillna(1.0)
    for _, part in table.groupby("class"):
        table.loc[part.index, tested] = holm(part[tested].to_numpy().ravel()).reshape(-1, 3)
    sure = (table[tested] < alpha).to_numpy() @ [1, 2, 4]
    kinds = np.array(["unsure", "motion", "look", "both", "presence", "motion", "look", "both"])
    return table.assign(kind=np.where(table["n_clips"] > 0, kinds[sure], "unseen"))


def _flipped(values: np.ndarray, rng: np.random.Generator) -> float:
    """Test whether a mean is above 0, dealing the signs of the values anew, one-sided."""
    if len(values) < 2:
        return 1.0
    how = {"vectorized": True, "n_resamples": 9999, "alternative": "greater", "rng": rng}
    how |= {"permutation_type": "samples", "statistic": np.mean}
    return float(scipy.stats.permutation_test((values,), **how).pvalue)
