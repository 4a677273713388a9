"""The results of the bench as two figures and a table."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

__all__ = ["growth", "ratios", "table"]


def table(results: dict) -> pd.DataFrame:
    """List the comparisons.

    Parameters
    ----------
    results : dict
        What ``results.json`` holds under ``results``.

    Returns
    -------
    pandas.DataFrame
        One row a comparison and device: ``key``, ``device``, ``ratio``, ``low``, ``high``,
        ``target`` (NaN for none), ``ours_mb`` and ``theirs_mb`` (peak above the start), ``same``.
    """
    rows = []
    for key, devices in results.items():
        for device, entry in devices.items():
            if "ratio" not in entry:  # growth has no other side
                continue
            row = {"key": key, "device": device, "ratio": entry["ratio"]}
            row |= {"low": entry["ratio_low"], "high": entry["ratio_high"]}
            row["target"] = np.nan if entry["target"] is None else entry["target"]
            row |= {f"{side}_mb": entry[side]["peak_added_mb"] for side in ("ours", "theirs")}
            rows.append(row | {"same": entry["same"]})
    return pd.DataFrame(rows)


def ratios(results: dict) -> plt.Figure:
    """Draw how many times faster each step is, from the slowest pair to the fastest."""
    rows = table(results)
    figure, axes = plt.subplots(figsize=(7, 0.5 + 0.4 * len(rows)), layout="constrained")
    place = np.arange(len(rows))[::-1]
    for device, colour in (("cpu", "C0"), ("cuda", "C1")):
        mine = (rows["device"] == device).to_numpy()
        part = rows[mine]
        if part.empty:
            continue
        spread = [part["ratio"] - part["low"], part["high"] - part["ratio"]]
        axes.errorbar(part["ratio"], place[mine], xerr=spread, fmt="o", color=colour, label=device)
    axes.plot(rows["target"], place, "|", color="k", markersize=14, label="to reach")
    axes.axvline(1, color="0.7", zorder=0)
    axes.set_xscale("log")
    axes.set_xlabel("times as fast (median of the pairs; bar: slowest to fastest)")
    axes.set_yticks(place, rows["key"])
    axes.legend()
    return figure


def growth(entry: dict) -> plt.Figure:
    """Draw time and peak memory against the number of clips (``results["growth"]["cpu"]``)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.8), layout="constrained")
    count = np.array(entry["clips"])
    fastest = np.array([min(seconds) for seconds in entry["seconds"]])
    left.loglog(count, fastest, "o", label=f"exponent {entry['exponent']:.2f}")
    left.loglog(count, fastest[0] * count / count[0], color="0.7", label="linear")
    left.set_ylabel("seconds")
    left.legend()
    right.plot(count, entry["peak_mb"], "o-")
    right.set_ylim(0, 1.2 * max(entry["peak_mb"]))
    right.set_ylabel("peak memory (MB)")
    for axes in (left, right):
        axes.set_xlabel("clips")
    return figure
