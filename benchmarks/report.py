"""How fast: the results of the bench in, tables and charts out."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from stce.viz.style import COLOURS, styled

__all__ = [
    "WORDS",
    "findings",
    "growth",
    "limits",
    "machine",
    "ratios",
    "read",
    "scaling",
    "stages",
    "table",
]

# How a table's sentences are laid out; and a comparison that misses its target is red.
WORDS = {"text-align": "left", "white-space": "normal", "min-width": "9rem"}
MISSED, REACHED = COLOURS["top"], COLOURS["least"]


def read(path: str | Path) -> dict:
    """Read the file of results.

    Raises
    ------
    FileNotFoundError
        If the bench has not been run.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no {path}; measure first: `python -m benchmarks`.")
    return json.loads(path.read_text(encoding="utf-8"))


def machine(bench: dict) -> str:
    """Say on what it was measured."""
    hardware = bench["hardware"]
    versions = ", ".join(f"{name} {version}" for name, version in bench["versions"].items())
    gpu = f" and one {hardware['gpu']}" if hardware["gpu"] else ""
    return (
        f"Measured on {hardware['cores']} cores ({hardware['processor']}, "
        f"{hardware['memory_gb']} GB){gpu}, revision {bench['revision']}; {versions}."
    )


def table(results: dict) -> pd.DataFrame:
    """List the comparisons.

    Parameters
    ----------
    results : dict
        What ``benchmarks/results.json`` holds under ``results``.

    Returns
    -------
    pandas.DataFrame
        One row a comparison and device: ``key``, ``device``, ``ratio``, ``low``, ``high``,
        ``target`` (NaN for none), ``reached``, ``ours_mb`` and ``theirs_mb`` (peak above the
        start), ``same``, ``work`` and ``against``.
    """
    rows = []
    for key, devices in results.items():
        for device, entry in devices.items():
            if "ratio" not in entry:  # no other side
                continue
            row = {"key": key, "device": device, "ratio": entry["ratio"]}
            row |= {"low": entry["ratio_low"], "high": entry["ratio_high"]}
            row["target"] = np.nan if entry["target"] is None else entry["target"]
            row |= {f"{side}_mb": entry[side]["peak_added_mb"] for side in ("ours", "theirs")}
            rows.append(row | {k: entry[k] for k in ("reached", "same", "work", "against")})
    return pd.DataFrame(rows)


def findings(results: dict) -> str:
    """Say what the bench found: targets, what differs, the whole study, the network alone, growth.

    Parameters
    ----------
    results : dict
        See :func:`table`.

    Returns
    -------
    str
        One item of a Markdown list each.
    """
    aimed = table(results).dropna(subset="target")
    missed = [
        f"`{row.key}` {row.ratio:.2g} times ({row.target:g} asked)"
        for row in aimed[~aimed["reached"]].itertuples()
    ]
    apart = [
        f"`{key}`, {check['name']} {check['value'] or np.nan:.2g} ({check['limit']:g} allowed)"
        for key, devices in results.items()
        for entry in devices.values()
        for check in (entry["checks"] if "ratio" in entry else [])
        if check["value"] is None or check["value"] > check["limit"]
    ]
    whole, small, large = (
        results[f"study_vs_{side}"]["cpu"]["ratio"] for side in ("reference", "bare", "bare_i3d")
    )
    grown = [results[key]["cpu"] for key in ("growth", "growth_pooled")]
    exponent = max(entry["exponent"] for entry in grown)
    checks = [check for entry in grown for check in entry["checks"]]
    more = max((c for c in checks if "memory" in c["name"]), key=lambda c: c["value"])
    files, opened = (max(entry[k][-1] for entry in grown) for k in ("files", "open_s"))
    return f"""\
- **{len(aimed) - len(missed)} of {len(aimed)}** targets are reached; missed:
  {", ".join(missed) or "none"}.
- Not the same on both sides: {"; ".join(apart) or "none"}.
- The study after training runs **{whole:.1f} times** as fast as the plain way.
- Beside the bare network's own passes, which no study can do without, it runs at **{small:.2f}**
  of their speed at laptop size, and at {large:.2f} with I3D at 224 x 224.
- Time grows with the number of clips to the power of {exponent:.2f} or less, and peak memory by
  {more["value"]:.0%} at most ({more["limit"]:.0%} allowed), up to {grown[0]["clips"][-1]:,} clips.
  Of these {files} files are left, opened in {opened:.2f} s."""


def limits(results: dict) -> Styler:
    """Style the table of comparisons; a target that was missed is red."""
    rows = table(results)
    shown = rows.set_index(["key", "device"])[["ratio", "low", "high", "target"]]
    red = ["" if reached else f"color: {MISSED}; font-weight: bold" for reached in rows["reached"]]
    style = shown.style.format(precision=2, na_rep="", thousands=",")
    style = style.apply(lambda _: red, subset=["ratio"])
    return style.set_caption("Times as fast as the other side (median of the pairs, extremes)")


def ratios(results: dict) -> Figure:
    """Plot how many times as fast each step is, with the slowest and the fastest pair.

    Parameters
    ----------
    results : dict
        See :func:`table`.

    Returns
    -------
    matplotlib.figure.Figure
        One row a comparison; red where the target, a black mark, is missed.
    """
    rows = table(results)
    names = rows["key"] + rows["device"].map({"cpu": ""}).fillna(" (GPU)")
    with styled(), plt.rc_context({"text.parse_math": True}):
        size = (8, 1.2 + 0.5 * len(rows))
        figure, ax = plt.subplots(figsize=size, layout="constrained")
        place = np.arange(len(rows))
        colour = np.where(rows["reached"], REACHED, MISSED)
        ax.hlines(place, rows["low"], rows["high"], color=colour, lw=2)
        ax.scatter(rows["ratio"], place, color=colour, s=45, zorder=3)
        ax.plot(rows["target"], place, "|", color="k", ms=16, mew=2)
        ax.axvline(1, color="#AAAAAA", lw=1, ls=":")
        for at, ratio in zip(place, rows["ratio"], strict=True):
            ax.text(ratio, at - 0.3, f"{ratio:.3g}", ha="center", va="center", fontsize=9)
        ax.set_yticks(place, names)
        ax.set(xscale="log", ylim=(len(rows) - 0.5, -0.7))
        ax.set(xlabel="times as fast; black: the target; red: missed")
        ax.grid(axis="x", color="#E5E5E5", lw=0.8)
    return figure


def stages(entry: dict) -> Figure:
    """Plot the seconds of the stages of the study on both sides.

    Parameters
    ----------
    entry : dict
        ``results["study_vs_reference"][device]``.

    Returns
    -------
    matplotlib.figure.Figure
        One group of bars a stage, on a logarithmic axis.
    """
    sides = {"ours": REACHED, "theirs": COLOURS["random"]}
    seconds = {side: entry[side]["stages_s"] for side in sides}
    names = list(seconds["ours"])
    with styled(), plt.rc_context({"text.parse_math": True}):
        figure, ax = plt.subplots(figsize=(8, 3.2), layout="constrained")
        for shift, (side, colour) in zip((-0.2, 0.2), sides.items(), strict=True):
            share = entry["theirs"]["share"] if side == "theirs" else 1
            height = [seconds[side][name] / share for name in names]
            label = {"ours": "this package", "theirs": "the plain way"}[side]
            bars = ax.bar(np.arange(len(names)) + shift, height, 0.38, color=colour, label=label)
            ax.bar_label(bars, fmt="%.2g", fontsize=9)
        ax.set_xticks(range(len(names)), names)
        ax.set(yscale="log", ylabel="seconds")
        ax.margins(y=0.15)
        ax.legend(frameon=False, loc="upper left")
    return figure


def growth(entries: dict[str, dict]) -> Figure:
    """Plot time and peak memory against the number of clips.

    Parameters
    ----------
    entries : dict of str to dict
        Such as ``results["growth"]["cpu"]``, by what to call them.
    """
    with styled(), plt.rc_context({"text.parse_math": True}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
        for (name, entry), colour in zip(entries.items(), (REACHED, MISSED), strict=False):
            count = np.array(entry["clips"])
            fastest = np.array([min(seconds) for seconds in entry["seconds"]])
            label = f"{name}, exponent {entry['exponent']:.2f}"
            left.loglog(count, fastest, "o", color=colour, label=label)
            left.loglog(count, fastest[0] * count / count[0], color="#AAAAAA", zorder=0)
            right.semilogx(count, entry["peak_mb"], "o-", color=colour)
            most = max(right.get_ylim()[1], 1.2 * max(entry["peak_mb"]))
            right.set_ylim(0, most)
        left.set(ylabel="seconds (grey: linear)")
        left.legend(frameon=False)
        right.set(ylabel="peak memory (MB)")
        for ax in (left, right):
            ax.set(xlabel="clips")
            ax.set_xticks(count, [f"{n:,}" for n in count])
            ax.minorticks_off()
    return figure


def scaling(tables: dict[str, pd.DataFrame]) -> Figure:
    """Plot how studies get faster with more devices.

    Parameters
    ----------
    tables : dict of str to pandas.DataFrame
        Of :func:`benchmarks.costs.speed_up`, by what to call them.

    Returns
    -------
    matplotlib.figure.Figure
        Left hours, right the share of linear speed, against the number of devices.
    """
    colours = [REACHED, MISSED, "#009E73", "#CC79A7"]
    with styled(), plt.rc_context({"text.parse_math": True}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
        for (name, made), colour in zip(tables.items(), colours, strict=False):
            left.loglog(made["devices"], made["hours"], "o-", color=colour, label=name)
            linear = made["hours"].iloc[0] * made["devices"].iloc[0] / made["devices"]
            left.loglog(made["devices"], linear, ":", color=colour)
            right.semilogx(made["devices"], 100 * made["efficiency"], "o-", color=colour)
        left.set(xlabel="GPUs", ylabel="hours (dotted: linear)")
        right.set(xlabel="GPUs", ylabel="share of linear speed (%)", ylim=(0, 105))
        for ax in (left, right):
            ax.set_xticks(made["devices"], made["devices"])
            ax.minorticks_off()
        left.legend(frameon=False)
    return figure
