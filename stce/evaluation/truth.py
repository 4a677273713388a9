"""Are the important concepts the right ones? Where the truth of every voxel is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from stce import curves
from stce.engine import resampling
from stce.engine.resampling import interval, p_value, rank_correlation

# The parts that tell KTH's actions apart: who boxes stands, who walks keeps the arms low.
KTH_CARRIERS = {
    **dict.fromkeys(("boxing", "handclapping", "handwaving"), ("arms",)),
    **dict.fromkeys(("jogging", "running", "walking"), ("legs",)),
}


def counts(
    concepts, supervoxels, parts: np.ndarray, names: Sequence[str], group: np.ndarray | None = None
) -> pd.DataFrame:
    """Count the voxels of each part in the supervoxels of each concept, clip by clip.

    Parameters
    ----------
    concepts, supervoxels : stce.concepts.Concepts and stce.supervoxels.Supervoxels
        The kept supervoxels of each concept, and all of the clips.
    parts, names : array_like and sequence of str
        ``(N, T, H, W) uint8``, index into the names of the parts.
    group : numpy.ndarray, optional
        ``(N,)`` what must be resampled as one, such as the person; default each clip.

    Returns
    -------
    pandas.DataFrame
        One row a class, concept, ``video`` and part: ``group``, ``members`` (supervoxels),
        ``inside`` (voxels of the part in them) and ``around`` (voxels of the part in the clip,
        once for each member).
    """
    videos = supervoxels.table["video"].to_numpy()[concepts.table["supervoxel"]]
    table = concepts.table.assign(video=videos)
    rows = []
    # Clip by clip, so that each volume is read once.
    for video, members in table.groupby("video"):
        truth = np.asarray(parts[int(video)])
        around = np.bincount(truth.ravel(), minlength=len(names))
        for (class_name, concept), some in members.groupby(["class", "concept"]):
            inside = sum(
                np.bincount(truth[supervoxels.mask(row)], minlength=len(names))
                for row in some["supervoxel"]
            )
            rows.append((class_name, concept, video, len(some), inside, len(some) * around))
    if not rows:
        raise ValueError("The concepts have no member; cluster supervoxels of these clips first.")
    columns = ["class", "concept", "video", "members", "inside", "around"]
    wide = pd.DataFrame(rows, columns=columns)
    wide["group"] = wide["video"] if group is None else np.asarray(group)[wide["video"]]
    wide["part"] = [names] * len(wide)
    long = wide.explode(["part", "inside", "around"], ignore_index=True)
    long = long.astype({"inside": np.int64, "around": np.int64})
    return long[["class", "concept", "video", "group", "part", "members", "inside", "around"]]


def _lift(inside: np.ndarray, around: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return shares of concepts, of their clips, and one over the other; parts are last."""
    share, base = (of / np.maximum(of.sum(-1, keepdims=True), 1) for of in (inside, around))
    return share, base, share / np.where(base > 0, base, np.inf)


def composition(table: pd.DataFrame, n_bootstrap: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Tell what each concept consists of, as lift over its clips' base rate.

    The lift is a part's share of the concept's voxels over its share of the same clips' voxels: 1
    says that the concept holds as much of it as any place would, above 1 that it looks for it.
    Raw shares would say "background" of nearly every concept.

    Parameters
    ----------
    table : pandas.DataFrame
        Of :func:`counts`.
    n_bootstrap, seed : int, default 1000 and 0
        Resamples of the groups (clips or persons) of a concept.

    Returns
    -------
    pandas.DataFrame
        One row a class, concept and part: ``share`` (of the concept's voxels), ``base`` (its share
        of their clips), ``lift`` with its 95 % interval ``ci_low``, ``ci_high``.

    Examples
    --------
    >>> rows = [("a", 0, 0, 0, "legs", 1, 8, 10), ("a", 0, 0, 0, "background", 1, 2, 90)]
    >>> columns = ["class", "concept", "video", "group", "part", "members", "inside", "around"]
    >>> composition(pd.DataFrame(rows, columns=columns), 10)["lift"].round(2).tolist()
    [8.0, 0.22]
    """
    rng = np.random.default_rng(seed)
    keys = ["class", "concept", "group", "part"]
    voxels = table.groupby(keys, sort=False)[["inside", "around"]].sum().unstack("part")
    names, rows = list(voxels["inside"]), []
    for key, part in voxels.groupby(level=["class", "concept"], sort=True):
        held, base = (part[side].to_numpy(float) for side in ("inside", "around"))
        draws = resampling.resamples(len(held), n_bootstrap, rng)
        low, high = np.quantile(_lift(draws @ held, draws @ base)[2], resampling.ENDS, axis=0)
        told = zip(names, *_lift(held.sum(0), base.sum(0)), low, high, strict=True)
        rows += [(*key, *one) for one in told]
    columns = ["class", "concept", "part", "share", "base", "lift", "ci_low", "ci_high"]
    return pd.DataFrame(rows, columns=columns)


def found(
    lifts: pd.DataFrame,
    scores: pd.DataFrame,
    carriers: Mapping[str, Sequence[str]],
    *,
    n_top: int = 5,
    n_random: int = 10_000,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure how far a ranking finds the parts that carry the class, against a random one.

    A concept is worth the lift of the carriers in it, taken together. The ranking is judged by the
    mean worth of its first `n_top` concepts, and by the rank correlation of worth and derivative.

    Parameters
    ----------
    lifts, scores : pandas.DataFrame
        Of :func:`composition`, and of :class:`stce.tcav.Tcav`.
    carriers : mapping of str to sequence of str
        For each class the parts that carry it, such as `KTH_CARRIERS`; other classes are left out.
    n_top : int, default 5
        Concepts at the head of the ranking.
    n_random : int, default 10000
        Random rankings; the smallest p-value is 1 / (`n_random` + 1).
    n_bootstrap, seed : int, default 1000 and 0
        Resamples of the concepts, for the intervals.

    Returns
    -------
    pandas.DataFrame
        One row a class and one, "all", for their mean: ``top`` (mean lift of the carriers in the
        first `n_top` concepts), ``random`` (expected of a random ranking), ``gain`` (their
        difference) with ``ci_low``, ``ci_high`` and ``p`` (one-sided, random rankings that do as
        well), ``correlation`` (Spearman, of lift and derivative) with its interval
        ``correlation_low``, ``correlation_high``.

    Raises
    ------
    ValueError
        If no class has a carrier that occurs.
    """
    rng = np.random.default_rng(seed)
    rows, chance, again = [], [], []
    for name, wanted in carriers.items():
        mine = lifts[(lifts["class"] == name) & lifts["part"].isin(wanted)]
        ranked = scores[scores["class"] == name].sort_values("rank").set_index("concept")
        if mine.empty or ranked.empty:
            continue
        both = mine.groupby("concept")[["share", "base"]].sum()
        lift = both["share"] / both["base"].where(both["base"] > 0, np.inf)
        values = lift.reindex(ranked.index, fill_value=0.0).to_numpy(float)
        derivative = ranked["derivative"].to_numpy(float)
        k, n = min(n_top, len(values)), len(values)
        orders = rng.permuted(np.tile(np.arange(n), (n_random, 1)), axis=1)[:, :k]
        chance.append(values[orders].mean(1))
        draws = rng.integers(0, n, (n_bootstrap, n))
        draws.sort(axis=1)  # rows are in the order of the ranking, so a resample is ranked too
        gains = values[draws[:, :k]].mean(1) - values[draws].mean(1)
        again.append((gains, rank_correlation(values[draws], derivative[draws])))
        top, random = values[:k].mean(), values.mean()
        rows.append((name, top, random, float(rank_correlation(values, derivative))))
    if not rows:
        raise ValueError(
            f"None of the classes {', '.join(carriers) or '(none)'} with their carriers occurs in "
            f"the concepts of {', '.join(sorted(set(lifts['class'])))} and has scores; give "
            "`carriers` for them."
        )
    table = pd.DataFrame(rows, columns=["class", "top", "random", "correlation"])
    means = table[["top", "random", "correlation"]].mean()
    table.loc[len(table)] = {"class": "all", **means}
    chance.append(np.mean(chance, axis=0))
    known = (np.ma.masked_invalid(one).mean(0) for one in zip(*again, strict=True))
    again.append(tuple(mean.filled(np.nan) for mean in known))
    table["gain"] = table["top"] - table["random"]
    table["p"] = np.concatenate(list(map(p_value, chance, table[["top"]].to_numpy())))
    ends = [[*interval(gains), *interval(related)] for gains, related in again]
    table[["ci_low", "ci_high", "correlation_low", "correlation_high"]] = ends
    return table


def region(clips, carriers: Mapping[str, Sequence[str]], names: Sequence[str]) -> np.ndarray:
    """Mark the voxels of the parts that carry each clip's class, ``(N, T, H, W) bool``.

    Takes N clips with ``parts``, the `carriers` of :func:`found`, and the `names` of
    :func:`counts`; of a class that has no carriers nothing is marked.

    Examples
    --------
    >>> from stce.clips import Clips
    >>> parts = np.array([[[[0, 1, 2]]]], np.uint8)
    >>> who = np.array([0]), np.array(["v"]), np.array(["p"])
    >>> clips = Clips(np.zeros((1, 1, 1, 3, 1), np.uint8), *who, ("walking",), parts)
    >>> region(clips, KTH_CARRIERS, ("background", "arms", "legs"))
    array([[[[False, False,  True]]]])
    """
    wanted = [np.isin(names, carriers.get(name, ())) for name in clips.classes]
    parts = np.asarray(clips.parts)
    return np.stack([wanted[y][one] for y, one in zip(clips.labels, parts, strict=True)])


def pointed(outcomes: pd.DataFrame, q_max: int = 5, seed: int = 0) -> pd.DataFrame:
    """Measure how far each order shows the voxels of interest before others.

    While voxels are added, the lift of a step is the share of the region that is visible over the
    share of the clip that is: 1 if places were chosen blindly. A step at which nothing is visible
    yet does not count.

    Parameters
    ----------
    outcomes : pandas.DataFrame
        Rows of :func:`stce.ablation.run`, of any orders, with ``held``.
    q_max, seed : int, default 5 and 0
        Lifts are averaged over steps 1 to `q_max`; seeds the resampling of clips.

    Returns
    -------
    pandas.DataFrame
        One row an ``order``: ``lift`` with ``ci_low``, ``ci_high``, ``gain`` (by how much the
        order "top" is ahead, paired over clips) with ``gain_low``, ``gain_high``, ``n_clips``.

    Examples
    --------
    >>> rows = [(v, "add", o, 1, 0.1, 0.4 if o == "top" else 0.1)
    ...         for v in range(5) for o in ("top", "least")]
    >>> columns = ["video", "mode", "order", "q", "revealed", "held"]
    >>> pointed(pd.DataFrame(rows, columns=columns))[["order", "lift", "gain"]].to_numpy().tolist()
    [['least', 1.0, 3.0], ['top', 4.0, 0.0]]
    """
    steps = outcomes[(outcomes["mode"] == "add") & outcomes["q"].between(1, q_max)]
    seen = steps["revealed"].where(steps["revealed"] > 0)
    table = curves.areas(steps.assign(lift=steps["held"] / seen), value="lift", seed=seed)
    return table.drop(columns="mode").rename(columns={"area": "lift"})


def recovery(labels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Tell how well an object could be put together from the segments of each level.

    Takes labels ``(L, T, H, W)`` from 1 up, and the object, ``(T, H, W) bool``; returns
    ``(L,) float64``, 0 to 1: the Jaccard index of the object and of the union of all segments that
    lie in it by more than half.

    Examples
    --------
    >>> recovery(np.array([[1, 1, 1, 2]]), np.array([True, True, False, False])).round(2)
    array([0.67])
    """
    scores = []
    for volume in labels:
        inside = np.bincount(volume[truth], minlength=int(volume.max()) + 1)
        found = (inside > np.bincount(volume.ravel()) / 2)[volume]
        scores.append((found & truth).sum() / max((found | truth).sum(), 1))
    return np.array(scores)
