"""How every figure of the book looks: colours, matplotlib's settings, and what charts share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

# Okabe and Ito's colours, which readers with any colour vision can tell apart.
COLOURS = {"top": "#D55E00", "random": "#7A7A7A", "least": "#0072B2"}
INK, PALE = "#333333", "#BBBBBB"
DOTTED = {"color": INK, "lw": 1, "ls": ":"}  # the line of what a value is compared with
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 10}
STYLE["text.parse_math"] = False  # a class may be called "$a$"
ORDER_NAMES = {"top": "Top", "random": "Random", "least": "Least"}
VERBS = {"add": "added", "remove": "removed"}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw in the style of the book."""
    # Settles the backend: a notebook whose first figure is made inside rc_context shows no other.
    plt.draw_if_interactive()
    with plt.rc_context(STYLE):
        yield


def panels(n: int, height: float, columns: int = 2, **options) -> tuple[Figure, np.ndarray]:
    """Return a figure as wide as a page and its rows of panels, each `height` inches tall."""
    columns = min(columns, n)
    rows = -(-n // columns)
    options = {"sharey": True, "squeeze": False, "layout": "constrained"} | options
    figure, axes = plt.subplots(rows, columns, figsize=(9.5, height * rows), **options)
    for ax in axes.flat[n:]:
        ax.axis("off")
    return figure, axes


def mode_panels(height: float, noun: str) -> tuple[Figure, dict[str, plt.Axes]]:
    """Return a figure with a panel for the mode "add" and one for "remove"."""
    figure, (axes,) = panels(2, height)
    for ax, verb in zip(axes, VERBS.values(), strict=True):
        ax.set_title(f"{noun} {verb}")
    return figure, dict(zip(VERBS, axes, strict=True))


def label_rows(ax: plt.Axes, names: Sequence[str]) -> None:
    """Give a chart one row a name, the first at the top."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(axis="x", color="#E5E5E5", lw=0.8)
