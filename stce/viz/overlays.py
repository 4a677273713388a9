"""What both explorers share: a supervoxel seen in its clip, and the words for it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from stce.viz.pictures import highlight, rgb

OVERLAYS = {
    "highlight": "The supervoxel is lit, the rest of the clip dimmed.",
    "outline": "The supervoxel is outlined.",
    "raw": "The clip is shown as it is.",
}
ALL = "side by side"
COLUMNS = ("class", "concept", "rank", "score", "ci_low", "ci_high", "q_value")


def ranked(scores: pd.DataFrame, concepts) -> dict[str, pd.DataFrame]:
    """Return the scores class by class, best concept first, once they fit the concepts."""
    missing = [c for c in COLUMNS if c not in scores]
    if missing or scores.empty:
        raise ValueError(
            f"scores has {len(scores)} rows and lacks the columns {missing}; "
            "pass the table that stce.tcav.score returns."
        )
    known = set(zip(concepts.table["class"], concepts.table["concept"], strict=True))
    unknown = set(zip(scores["class"], scores["concept"], strict=True)) - known
    if unknown:
        name, concept = min(unknown)
        raise ValueError(
            f"scores names concept {concept} of class {name!r}, which has no supervoxels; "
            "pass scores and concepts of the same run."
        )
    return {str(n): part.sort_values("rank") for n, part in scores.groupby("class", sort=False)}


def one_a_clip(supervoxels, rows: np.ndarray, n: int) -> list[int]:
    """Return the first n rows that lie in different clips."""
    nearest = {}
    for row, clip in zip(rows, supervoxels.table["video"].to_numpy()[rows], strict=True):
        nearest.setdefault(clip, int(row))
    return list(nearest.values())[:n]


def panes(clips, supervoxels, row: int, overlays=tuple(OVERLAYS)) -> list[np.ndarray]:
    """Return one supervoxel in its clip, each ``(T, H, W, 3) uint8``, once an overlay."""
    frames = np.asarray(clips.frames[int(supervoxels.table["video"].iloc[row])])
    mask = supervoxels.mask(row)
    draw = {
        "highlight": lambda: highlight(frames, mask),
        "outline": lambda: highlight(frames, mask, dim=1),
        "raw": lambda: rgb(frames),
    }
    return [draw[overlay]() for overlay in overlays]


def concept_text(name: str, entry, n: int) -> str:
    """Name a concept, its rank and its score; `entry` is its row of the scores."""
    return (
        f"{name}, concept of rank {entry.rank} of {n}: score {entry.score:.2f} "
        f"(95 % interval {entry.ci_low:.2f} to {entry.ci_high:.2f})."
    )


def example_text(clips, supervoxels, row: int, i: int, n: int) -> str:
    """Say which supervoxel of n it is, and where it lies in its clip."""
    mask = supervoxels.mask(row)
    t, y, x = np.nonzero(mask)
    vertical = ("upper", "middle", "lower")[int(3 * y.mean() / mask.shape[1])]
    horizontal = ("left", "centre", "right")[int(3 * x.mean() / mask.shape[2])]
    clip = clips.ids[int(supervoxels.table["video"].iloc[row])]
    return (
        f"Supervoxel {i} of {n}: clip {clip}, {vertical} {horizontal}, frames {t.min() + 1} to "
        f"{t.max() + 1}, {100 * mask.mean():.1f} % of the clip."
    )


def overlay_text(overlay: str, overlays=tuple(OVERLAYS)) -> str:
    """Say what an overlay does."""
    return OVERLAYS.get(overlay) or f"From left to right: {', '.join(overlays)}."
