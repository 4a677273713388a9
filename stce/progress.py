"""Progress bars: on a terminal and in a live notebook, but not in a stored one."""

from __future__ import annotations

import os

from tqdm.auto import tqdm

__all__ = ["bar"]


def bar(iterable=None, *, show: bool = True, **options) -> tqdm:
    """Return a tqdm bar; silent if not wanted, off a terminal, or where STCE_PROGRESS is 0.

    Parameters
    ----------
    iterable : iterable, optional
        What to loop over.
    show : bool, default True
        Whether a bar is wanted.
    **options
        Passed to tqdm: ``total``, ``desc``, ``unit``.

    Returns
    -------
    tqdm.tqdm
        To loop over, or to ``update`` by hand.

    Examples
    --------
    >>> list(bar([1, 2], show=False))
    [1, 2]
    """
    quiet = not show or os.environ.get("STCE_PROGRESS") == "0"
    return tqdm(iterable, disable=True if quiet else None, **options)
