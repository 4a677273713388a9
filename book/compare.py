"""Set runs side by side: ``python -m book.compare data/runs/A data/runs/B ...``.

Writes ``book/results/comparison.csv``, which the chapter on open points shows.
"""

import argparse
from pathlib import Path

import pandas as pd

from stce.curves import difference
from stce.study.run import Run

ROOT = Path(__file__).resolve().parents[1]


def rows(run: Run) -> list[dict]:
    """Return one row for adding and one for removing, in per cent, means over q >= 1."""
    outcomes = pd.read_parquet(run.path("ablate") / "outcomes.parquet")
    steps = outcomes[outcomes["q"] > 0]
    means = 100 * steps.groupby(["mode", "order"])["correct"].mean().unstack()
    table = []
    for mode, verb in (("add", "added"), ("remove", "removed")):
        row = {
            "supervoxels": "stretched" if run.parameters("cluster")["stretch"]
            else "in place",
            "negatives": run.parameters("tcav")["random_from"],
            "concepts": verb,
        }  # fmt: skip
        row |= {order: f"{means.loc[mode, order]:.1f}" for order in ("top", "random", "least")}
        for other in ("least", "random"):
            gain = difference(outcomes, "top", other).set_index("mode").loc[mode]
            low, high = 100 * gain["ci_low"], 100 * gain["ci_high"]
            row[f"gain over {other}"] = f"{100 * gain['gain']:.1f} ({low:.1f} to {high:.1f})"
        table.append(row)
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs")
    chosen = parser.parse_args().runs
    target = ROOT / "book" / "results" / "comparison.csv"
    target.parent.mkdir(exist_ok=True)
    pd.DataFrame([r for run in chosen for r in rows(Run(run))]).to_csv(target, index=False)
    print(target.relative_to(ROOT))
