"""What pages of this book alone draw: concepts at full size, two settings, two groups of runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from stce.videos.frames import cut_and_inner
from stce.videos.sources import central
from stce.viz.charts import KINDS, draw_curves
from stce.viz.figures import clip_sheet, concept_frames
from stce.viz.pictures import highlight, rgb
from stce.viz.style import (
    COLOURS,
    DOTTED,
    ORDER_NAMES,
    PALE,
    VERBS,
    label_rows,
    mode_panels,
    panels,
    styled,
)

__all__ = ["class_curves", "faithful", "gains", "high_resolution", "kinds", "lift", "middle"]
__all__ += ["choices", "halfway", "settings", "shortcut"]

OFFSET = {"textcoords": "offset points"}


def middle(frames: np.ndarray, n_frames: int, longest: int = 0) -> np.ndarray:
    """Take the middle frames of a video, those that :func:`stce.clips.middle_clips` takes.

    Parameters
    ----------
    frames : numpy.ndarray
        ``(T_i, H, W, C)``, a video.
    n_frames : int
        T, frames of a clip.
    longest : int, default 0
        If not 0, the video was first shortened to its middle `longest` frames, see
        :func:`stce.videos.cache`.

    Returns
    -------
    numpy.ndarray
        ``(T, H, W, C)``, a view.

    Examples
    --------
    >>> middle(np.arange(9), 2).tolist(), middle(np.arange(9), 2, longest=4).tolist()
    ([3, 4], [3, 4])
    """
    frames = frames[central(len(frames), longest)]
    return frames[central(len(frames), n_frames)]


def lift(
    mask: np.ndarray, frame_size: tuple[int, int], size: tuple[int, int], fit: str = "squash"
) -> np.ndarray:
    """Lift a mask from the network's input to the video's own frames (Figure 9).

    Undoes the crops and the resize by which the clip was made: a pixel of the video takes the
    voxel in which its centre came to lie (nearest neighbour), or none, where it was cropped.

    Parameters
    ----------
    mask : numpy.ndarray
        ``(T, h, w) bool`` at the network's input size.
    frame_size : tuple of int
        (height, width) to which frames were resized before the crop.
    size : tuple of int
        (height, width) of the video itself.
    fit : {"squash", "crop", "pad"}, default "squash"
        How frames were brought to `frame_size`, see :func:`stce.videos.frames.fitted`.

    Returns
    -------
    numpy.ndarray
        ``(T, height, width) bool``.

    Raises
    ------
    ValueError
        If the mask is larger than `frame_size`, so that it cannot be a crop of such frames.

    Examples
    --------
    >>> lift(np.ones((1, 2, 2), bool), (4, 4), (8, 8))[0].sum(0)
    array([0, 0, 4, 4, 4, 4, 0, 0])
    >>> lift(np.ones((1, 4, 4), bool), (4, 4), (4, 8), "crop")[0].sum(0)
    array([0, 0, 4, 4, 4, 4, 0, 0])
    """
    crop = mask.shape[1:]
    if crop[0] > frame_size[0] or crop[1] > frame_size[1]:
        raise ValueError(
            f"frame_size is {tuple(frame_size)}, smaller than the mask's {crop}; give the size "
            "to which frames were resized before they were cropped."
        )
    lifted = mask
    for axis, middle, inner in zip((1, 2), *cut_and_inner(size, frame_size, fit), strict=True):
        new, resized, shown = size[axis - 1], frame_size[axis - 1], crop[axis - 1]
        place = np.arange(new) - (new - middle) // 2
        index = (place * 2 + 1) * inner // (2 * middle)
        index += (resized - inner) // 2 - (resized - shown) // 2
        lifted = np.take(lifted, index.clip(0, shown - 1), axis)
        seen = (index >= 0) & (index < shown) & (place >= 0) & (place < middle)
        lifted = lifted & seen.reshape((1, -1, 1) if axis == 1 else (1, 1, -1))
    return lifted


def high_resolution(
    clips: list[np.ndarray],
    masks: list[np.ndarray],
    titles: list[str],
    frame_size: tuple[int, int],
    fit: str = "squash",
    n_frames: int = 4,
) -> Figure:
    """Show concepts on the videos themselves, at their own resolution (Figure 9).

    Two concepts a row, highlighted above raw.

    Parameters
    ----------
    clips : list of numpy.ndarray
        For each concept the frames of one video, ``(T, H, W, C) uint8``, as they were before
        they were resized and cropped; see :func:`middle`.
    masks : list of numpy.ndarray
        For each a supervoxel ``(T, h, w) bool`` at the network's resolution.
    titles, n_frames
        See :func:`stce.viz.figures.concept_frames`.
    frame_size, fit
        To which size, and how, frames were brought before the crop, see :func:`lift`.
    """
    pairs = []
    for frames, mask in zip(clips, masks, strict=True):
        own = lift(mask, frame_size, frames.shape[1:3], fit)
        # A border of one pixel would be lost where large frames are drawn small.
        pairs.append((highlight(frames, own, width=max(1, round(len(frames[0]) / 120))), frames))
    return concept_frames(pairs, titles, n_frames)


def settings(
    frames: np.ndarray, masks: list[np.ndarray], titles: list[str], n_frames: int = 8
) -> Figure:
    """Show the most important concept that each setting of the method finds in a clip (Figure 8).

    A row for the raw clip and one a setting, highlighted.

    Parameters
    ----------
    frames : numpy.ndarray
        ``(T, H, W, C) uint8``.
    masks : list of numpy.ndarray
        The concept's voxels in this clip, ``(T, H, W) bool``, one a setting.
    titles, n_frames
        One title a setting; see :func:`stce.viz.figures.clip_sheet`.
    """
    rows = [rgb(frames), *(highlight(frames, mask) for mask in masks)]
    return clip_sheet(np.stack(rows), ["raw", *titles], n_frames)


def class_curves(standard: pd.DataFrame, small: pd.DataFrame, mode: str, name: str) -> Figure:
    """Plot one class's accuracy in two settings of the method (Figures 6 and 7).

    Two panels; bands are 95 % intervals over clips, the dotted line is the intact clip.

    Parameters
    ----------
    standard, small : pandas.DataFrame
        What :func:`stce.curves.accuracy_table` returns for the clips of one class, in the
        paper's standard and small settings.
    mode : {"add", "remove"}
        Adding (Figure 6) or removing (Figure 7).
    name : str
        The class.

    Raises
    ------
    ValueError
        If the mode is neither of the two, or there are no results of the class.
    """
    if mode not in VERBS:
        raise ValueError(f"mode is {mode!r}; choose 'add' or 'remove'.")
    if not (len(standard) and len(small)):
        raise ValueError(f"There are no results of class {name!r}; is its name misspelt?")
    with styled():
        figure, (axes,) = panels(2, 4)
        settings = (("(a) standard setting", standard), ("(b) small setting", small))
        for ax, (title, table) in zip(axes, settings, strict=True):
            baseline = draw_curves(ax, table, mode, ORDER_NAMES)
            steps = sorted(table["q"].unique())
            ax.set(xlabel=f"number of concepts {VERBS[mode]}", xticks=steps, ylim=(0, 104))
            ax.set_title(f"{title}: {name}, intact {baseline:.1f} %", fontsize=10)
        axes[0].set_ylabel("accuracy (%)")
        handles, labels = axes[0].get_legend_handles_labels()
        intact, text = axes[0].lines[0], "intact clips"
        # Curves may run anywhere in the panels, so the legend stands below them.
        place = {"loc": "outside lower center", "ncols": 4, "frameon": False}
        figure.legend([*handles, intact], [*labels, text], **place)
    return figure


def gains(table: pd.DataFrame) -> Figure:
    """Plot how far the most important concepts are ahead of the least, run by run.

    One row a run and two panels, adding and removing; a dot is a seed, its bar the 95 %
    interval over clips.

    Parameters
    ----------
    table : pandas.DataFrame
        Of :func:`book.verdict.by_seed`: ``run``, ``seed``, ``mode``, ``gain``, ``ci_low`` and
        ``ci_high`` in percentage points.
    """
    runs = list(dict.fromkeys(table["run"]))
    with styled():
        figure, axes = mode_panels(1.1 + 0.55 * max(len(runs), 1), "Concepts")
        for mode, ax in axes.items():
            ax.axvline(0, **DOTTED)
            for row, run in enumerate(runs):
                part = table[(table["run"] == run) & (table["mode"] == mode)]
                place = row + 0.16 * (np.arange(len(part)) - (len(part) - 1) / 2)
                ax.hlines(place, part["ci_low"], part["ci_high"], color=COLOURS["top"], lw=2)
                ax.plot(part["gain"], place, "o", color=COLOURS["top"], ms=5)
            ax.set_xlabel("top against least (points)")
            label_rows(ax, runs)
    return figure


def shortcut(with_cue: pd.DataFrame, without: pd.DataFrame) -> Figure:
    """Plot how much of a planted cue the first concept holds, seed by seed.

    One line a seed, with its 95 % interval over clips; 1 is as much as any place holds.

    Parameters
    ----------
    with_cue, without : pandas.DataFrame
        Rows of the campaigns "shortcut" and "no-shortcut": ``first_lift``, ``first_ci_low``,
        ``first_ci_high``.
    """
    with styled():
        figure, (axes,) = panels(2, 3.4, sharex=True)
        titles = ("trained with the cue", "trained without it")
        for ax, part, title in zip(axes, (with_cue, without), titles, strict=True):
            part = part.sort_values("first_lift", ascending=False)
            place = np.arange(len(part)) + 1
            ax.axhline(1, **DOTTED)
            ax.vlines(place, part["first_ci_low"], part["first_ci_high"], color=PALE, lw=2)
            ax.plot(place, part["first_lift"], "o", color=COLOURS["top"], ms=5)
            ax.set(xlabel="seeds, in order", title=title)
            ax.xaxis.get_major_locator().set_params(integer=True)
        axes[0].set_ylabel("cue in the first concept,\nrelative to the clip")
    return figure


def kinds(table: pd.DataFrame) -> Figure:
    """Plot what concepts of known truth are called, one bar a truth.

    Takes what :func:`book.campaigns.effects.called` returns.
    """
    with styled():
        figure, ((ax,),) = panels(1, 2.6)
        place, left = np.arange(len(table)), np.zeros(len(table))
        looks = {"unseen": {"color": "white", "edgecolor": PALE, "hatch": "///", "lw": 0}}
        for kind in [kind for kind in KINDS if table[kind].any()]:
            width = 100 * table[kind].to_numpy(float)
            ax.barh(place, width, left=left, label=kind, **looks.get(kind, {"color": KINDS[kind]}))
            for y, x, w in zip(place, left, width, strict=True):
                if w >= 4:
                    ax.text(x + w / 2, y, f"{w:.0f}", ha="center", va="center", fontsize=9)
            left = left + width
        label_rows(ax, [f"{truth} ({n:.0f})" for truth, n in table["concepts"].items()])
        ax.grid(visible=False)
        ax.set(xlabel="called (% of concepts)", ylabel="truth (concepts)", xlim=(0, 100))
        figure.legend(loc="outside upper center", ncols=6, frameon=False)
    return figure


def faithful(table: pd.DataFrame) -> Figure:
    """Plot how well methods tell the true effects of parts, beside their insertion and deletion.

    One row a method. Takes what :func:`book.campaigns.effects.methods` returns.
    """
    titles = {"correlation": "rank correlation with the true effects"}
    titles |= {"gap": "insertion less deletion"}
    with styled():
        figure, (axes,) = panels(2, 1.1 + 0.33 * len(table))
        place = np.arange(len(table))
        for ax, (value, title) in zip(axes, titles.items(), strict=True):
            ax.axvline(0, **DOTTED)
            ends = table[f"{value}_low"], table[f"{value}_high"]
            ax.hlines(place, *ends, color=COLOURS["top"], lw=2)
            ax.plot(table[value], place, "o", color=COLOURS["top"], ms=6)
            label_rows(ax, table["method"])
            ax.set_xlabel(title)
    return figure


def choices(tried: pd.DataFrame, by: str, measures: dict[str, str]) -> Figure:
    """Plot what choices come to on the same runs: a pale dot a run, the mean on top.

    Parameters
    ----------
    tried : pandas.DataFrame
        One row a run, seed and choice.
    by : str
        Column of the choice.
    measures : dict of str to str
        Columns, one panel each, and the names of their axes.
    """
    names = list(tried[by].unique())
    with styled():
        figure, axes = panels(len(measures), 1.3 + 0.4 * len(names))
        for ax, (measure, title) in zip(axes.flat, measures.items(), strict=False):
            ax.axvline(0, **DOTTED)
            for place, name in enumerate(names):
                values = tried.loc[tried[by] == name, measure]
                ax.plot(values, np.full(len(values), place), "o", color=PALE, ms=5)
                ax.plot(values.mean(), place, "o", color=COLOURS["top"], ms=7)
            label_rows(ax, names)
            ax.set_xlabel(title)
    return figure


def halfway(table: pd.DataFrame) -> Figure:
    """Plot what hiding supervoxels inside a network keeps of the effect, by how fast it is.

    One line a network, from the clip to the last layer. Takes what
    :func:`book.campaigns.summary.inside` returns.
    """
    with styled():
        figure, (axes,) = panels(2, 3.8, sharex=True, sharey=False)
        titles = {"share": "gain, share of that in place", "agreement": "agreement of the ranking"}
        for ax, (value, title) in zip(axes, titles.items(), strict=True):
            for (run, part), mark in zip(table.groupby("run", sort=False), "osD^", strict=False):
                ax.plot(part["speed"], part[value], marker=mark, label=run, lw=1, ms=6)
                for (_, layer), row in part.iloc[1:].iterrows():
                    if ax is axes[0]:  # in the same places on the right
                        ax.annotate(layer, (row["speed"], row[value]), (4, 5), fontsize=7, **OFFSET)
            ax.axhline(1, **DOTTED)
            ax.set(xscale="log", xlabel="times as fast as in place", ylabel=title)
            ax.set_xticks(ticks := [0.5, 1, 2, 5, 10], [f"{tick:g}" for tick in ticks])
            ax.minorticks_off()
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure
