"""How every figure of the book looks: colours, and matplotlib's settings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import matplotlib.pyplot as plt

# Okabe and Ito's colours, which readers with any colour vision can tell apart.
COLOURS = {"top": "#D55E00", "random": "#7A7A7A", "least": "#0072B2"}
ORDER_NAMES = {"top": "Top", "random": "Random", "least": "Least"}
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 10}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw in the style of the book."""
    # Settles the backend: a notebook whose first figure is made inside rc_context shows no other.
    plt.draw_if_interactive()
    with plt.rc_context(STYLE):
        yield
