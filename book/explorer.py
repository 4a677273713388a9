"""Concepts to browse: a page that needs no kernel."""

from __future__ import annotations

import base64
import importlib.resources
import json
import re
from html import escape

import numpy as np
import pandas as pd

from stce.viz import film
from stce.viz.pictures import first_of_clips, highlight, rgb
from stce.viz.tables import significant

OVERLAYS = {
    "highlight": "The supervoxel is lit, the rest of the clip dimmed.",
    "outline": "The supervoxel is outlined.",
    "raw": "The clip is shown as it is.",
}
ALL = "side by side"
NEEDED = ("class", "concept", "rank", "score", "ci_low", "ci_high")


def page(
    clips,
    supervoxels,
    concepts,
    scores: pd.DataFrame,
    n_examples: int = 2,
    *,
    overlays: tuple[str, ...] = ("highlight", "outline", "raw"),
    fps: float = 8,
    scale: int = 1,
) -> str:
    """Return the explorer as HTML with videos inside, which needs no kernel and no network.

    Class, concept, supervoxel and overlay are chosen from lists, a concept also by its bar
    among the scores of its class; frames can be stepped through. Without scripts the page shows
    the first concept.

    Parameters
    ----------
    clips, supervoxels
        See :func:`stce.viz.pictures.typical`.
    concepts : stce.concepts.Concepts
        Clusters of the supervoxels.
    scores : pandas.DataFrame
        ``scores`` of :class:`stce.tcav.Tcav`.
    n_examples : int, default 2
        Supervoxels shown of each concept: the nearest to its centre, from different clips.
    overlays : tuple of {"highlight", "outline", "raw"}
        What is on offer, all three by default. They lie side by side in one video.
    fps, scale
        See :func:`stce.viz.film.encode`; the browser enlarges the rest without smoothing. Three
        overlays of 16 frames of 56 x 56 pixels add 13 kB to the page at 1, and 27 kB at 2,
        where thin outlines keep their full colour.

    Returns
    -------
    str
        A fragment for ``IPython.display.HTML``. It follows the theme of the book or of Jupyter,
        light or dark, and several can share a page.

    Raises
    ------
    ValueError
        If `n_examples` is below 1, an overlay is unknown, or `scores` lacks a column or does not
        belong to `concepts`.

    Examples
    --------
    >>> from stce.clips import Clips
    >>> from stce.concepts import Concepts
    >>> from stce.supervoxels import Supervoxels
    >>> clips = Clips(np.zeros((1, 4, 8, 8, 1), np.uint8), [0], ["a"], ["p"], ("wave",))
    >>> cut = pd.DataFrame({"video": [0], "level": [0], "label": [1]})
    >>> supervoxels = Supervoxels(np.ones((1, 1, 4, 8, 8), np.uint8), cut)
    >>> row = pd.DataFrame({"class": ["wave"], "concept": [0], "supervoxel": [0], "rank": [0]})
    >>> score = {"score": [0.9], "ci_low": [0.8], "ci_high": [1.0], "verdict": ["for"]}
    >>> scores = row[["class", "concept"]].assign(rank=1, **score)
    >>> html = page(clips, supervoxels, Concepts(row, None, {}), scores)
    >>> "wave, concept of rank 1 of 1: score 0.90" in html
    True
    """
    if n_examples < 1:
        raise ValueError(f"n_examples is {n_examples}; show at least 1 supervoxel a concept.")
    if not overlays or not set(overlays) <= set(OVERLAYS):
        raise ValueError(f"overlays is {overlays!r}; choose some of {', '.join(OVERLAYS)}.")
    parts, classes = by_rank(scores, concepts), []
    for name, part in parts.items():
        entries = []
        for entry in part.itertuples():
            members = concepts.members(name, entry.concept)
            rows = [row for row, _ in first_of_clips(supervoxels, members, n_examples)]
            examples = [
                {
                    "text": example_text(clips, supervoxels, row, i, len(rows)),
                    "video": _film(clips, supervoxels, row, overlays, fps, scale),
                }
                for i, row in enumerate(rows, start=1)
            ]
            entries.append(
                {
                    "rank": int(entry.rank),
                    "score": round(float(entry.score), 4),
                    "low": round(float(entry.ci_low), 4),
                    "high": round(float(entry.ci_high), 4),
                    "sure": bool(entry.sure),
                    "text": concept_text(name, entry, len(part)),
                    "examples": examples,
                }
            )
        classes.append({"name": name, "concepts": entries})

    positions = np.linspace(0, 100, len(overlays)).round(4).tolist()
    offered = dict(zip(overlays, positions, strict=True)) | ({ALL: None} if overlays[1:] else {})
    name, part = next(iter(parts.items()))
    nearest = concepts.members(name, part["concept"].iloc[0])[0]
    (shown,) = panes(clips, supervoxels, nearest, overlays[:1])
    height, width = film.even(shown).shape[1:3]
    first = classes[0]["concepts"][0]
    seen = f"{first['examples'][0]['text']} {OVERLAYS[overlays[0]]}"
    data = {
        "fps": fps,
        "frames": len(shown),
        "overlays": [
            {"name": o, "text": overlay_text(o, overlays), "pane": x} for o, x in offered.items()
        ],
        "classes": classes,
    }
    return _fill(
        shape=f"{width / height:.5f}",
        panes=str(len(overlays)),
        alt=escape(f"{first['text']} {seen}"),
        about=escape(first["text"]),
        seen=escape(seen),
        video=first["examples"][0]["video"],
        strip=film.still(film.filmstrip(shown), "JPEG", quality=70),
        # A class may be called anything, even "</script>".
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
    )


def by_rank(scores: pd.DataFrame, concepts) -> dict[str, pd.DataFrame]:
    """Return the scores class by class, best concept first, once they fit the concepts."""
    missing = [c for c in NEEDED if c not in scores]
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
    scores = scores.assign(sure=significant(scores)).groupby("class", sort=False)
    return {str(n): part.sort_values("rank") for n, part in scores}


def panes(clips, supervoxels, row: int, overlays=tuple(OVERLAYS)) -> list[np.ndarray]:
    """Return one supervoxel in its clip, each ``(T, H, W, 3) uint8``, once an overlay."""
    frames = np.asarray(clips.frames[int(supervoxels.table["video"].iloc[row])])
    mask = supervoxels.mask(row)
    dim = {"highlight": 0.3, "outline": 1}
    return [rgb(frames) if o == "raw" else highlight(frames, mask, dim[o]) for o in overlays]


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


def _film(clips, supervoxels, row: int, overlays, fps, scale) -> str:
    """Return the overlays side by side as a video in base64."""
    drawn = [film.even(pane) for pane in panes(clips, supervoxels, row, overlays)]
    return base64.b64encode(film.encode(np.concatenate(drawn, axis=2), fps, scale)).decode()


def _fill(**values: str) -> str:
    """Put the values into the page, each where its name stands in double braces."""
    template = importlib.resources.files("book").joinpath("explorer.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], template)
