"""The explorer of concepts as a widget, for a notebook that somebody has open."""

from __future__ import annotations

import os
import sys
from html import escape

import ipywidgets as w
import numpy as np
import pandas as pd
from IPython import get_ipython

from book.explorer import (
    ALL,
    OVERLAYS,
    by_rank,
    concept_text,
    example_text,
    overlay_text,
    panes,
)
from stce.viz import film

__all__ = ["explore", "is_live"]


def explore(clips, supervoxels, concepts, scores: pd.DataFrame, *, fps: float = 8, width=336):
    """Return the explorer as a widget for a live notebook, with every member of a concept.

    Parameters
    ----------
    clips, supervoxels, concepts, scores, fps
        See :func:`book.explorer.page`.
    width : int, default 336
        Least width of the picture in pixels; clips are enlarged by a whole number.

    Returns
    -------
    ipywidgets.VBox
        Lists for class, concept and overlay, sliders for supervoxel and frame, the picture and
        its description.

    Raises
    ------
    ValueError
        If `scores` lacks a column or does not belong to `concepts`.
    """
    parts = by_rank(scores, concepts)
    n_frames, _, pixels = clips.frames.shape[1:4]
    zoom = max(1, -(-width // pixels))
    class_name = w.Dropdown(options=list(parts), description="Class")
    concept = w.Dropdown(options=[""], description="Concept")
    number = w.IntSlider(1, 1, 1, description="Supervoxel", continuous_update=False)
    frame = w.IntSlider(1, 1, n_frames, description="Frame")
    overlay = w.Dropdown(options=[*OVERLAYS, ALL], description="Overlay")
    play = w.Play(min=1, max=n_frames, interval=round(1000 / fps), repeat=True)
    w.jslink((play, "value"), (frame, "value"))
    picture, text = w.HTML(), w.HTML()

    def choose_class(_=None):
        entries = parts[class_name.value].itertuples()
        concept.options = [(f"{e.rank}: score {e.score:.2f}", e.concept) for e in entries]
        choose_concept()  # another class's may have the same number

    def choose_concept(_=None):
        number.max = len(concepts.members(class_name.value, concept.value))
        number.value = 1
        draw()

    def draw(_=None):
        name, i = class_name.value, number.value
        rows, part = concepts.members(name, concept.value), parts[name]
        drawn = panes(clips, supervoxels, rows[i - 1])
        shown = dict(zip(OVERLAYS, drawn, strict=True)) | {ALL: np.concatenate(drawn, axis=2)}
        image = shown[overlay.value][frame.value - 1]
        entry = next(part[part["concept"] == concept.value].itertuples())
        seen = example_text(clips, supervoxels, rows[i - 1], i, len(rows))
        about = f"{concept_text(name, entry, len(part))} {seen} {overlay_text(overlay.value)}"
        text.value = escape(about)
        height, width = (zoom * n for n in image.shape[:2])
        # An HTML widget, because ipywidgets' Image has no place for an alternative text.
        picture.value = (
            f'<img src="data:image/png;base64,{film.still(image, "PNG")}" alt="{text.value}" '
            f'width="{width}" height="{height}" '
            'style="max-width: 100%; object-fit: contain; image-rendering: pixelated">'
        )

    class_name.observe(choose_class, "value")
    concept.observe(choose_concept, "value")
    for part in (number, frame, overlay):
        part.observe(draw, "value")
    choose_class()
    choices = w.VBox([class_name, concept, number, overlay, frame, play])
    layout = w.Layout(flex_flow="row wrap")
    return w.VBox([w.HBox([picture, choices], layout=layout), text])


def is_live() -> bool:
    """Tell whether somebody has the notebook open, so that a widget can answer.

    False where a program runs it, as papermill and nbval do, and outside notebooks.

    Examples
    --------
    >>> is_live()
    False
    """
    shell = get_ipython()
    # Jupyter Server names the notebook to its kernel; VS Code and Colab leave their own marks.
    marks = ("JPY_SESSION_NAME" in os.environ, "google.colab" in sys.modules)
    return shell is not None and (any(marks) or "__vsc_ipynb_file__" in shell.user_ns)
