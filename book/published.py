"""Published results: the small tables of finished runs, from which the book's numbers come.

One folder a run and seed::

    results/actors-small/seed-0/facts.json     what was run, where, how long, at which revision
                                outcomes.csv   was each test clip recognised, step by step
                                controls.csv   the same for as much of the clip by chance; both with
                                               the class's probability and log odds, mean over steps
                                named.csv      what clips of each class were named instead
                                scores.csv     the concepts and their scores
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import logit

from stce.engine.resampling import interval, resamples
from stce.engine.storage import replacing
from stce.study.known import Known
from stce.study.run import STAGES, Run

__all__ = [
    "MODELS",
    "Results",
    "accuracy_over_seeds",
    "controls",
    "evidence",
    "gap",
    "load",
    "named",
    "publish",
    "publish_validation",
    "tables",
]

MODELS = {"c3d": "C3D", "r3d18": "R3D", "i3d": "I3D"}  # as the paper's tables call them

KEYS = ["id", "class", "mode", "order"]
EVIDENCE = ["probability", "log_odds"]
SURE = 1e-7  # nearer to 0 or 1 a probability in float32 says nothing
SCORES = ["class", "concept", "rank", "score", "ci_low", "ci_high", "derivative", "n_members"]
SCORES += ["cav_accuracy", "p", "q_value"]


@dataclass(frozen=True)
class Results:
    """Published results of some runs.

    Attributes
    ----------
    runs : pandas.DataFrame
        One row a run and seed, with the columns of `facts.json`.
    outcomes : pandas.DataFrame
        One row a ``run``, ``seed``, test clip (``id``, ``class``), ``mode`` ("add", "remove"),
        ``order`` ("top", "random", "least") and ``q``: ``correct``, in 0 to 1; for random orders
        the mean over their repeats.
    scores : pandas.DataFrame
        One row a run, seed and concept: as :class:`stce.tcav.Tcav` has them and, where the truth
        is known, the ``lift of`` each part, see :func:`stce.evaluation.truth.composition`.
    """

    runs: pd.DataFrame
    outcomes: pd.DataFrame
    scores: pd.DataFrame

    def select(self, rows: pd.Series) -> Results:
        """Return the results of some rows of `runs`, given by a mask."""
        runs = self.runs[rows]
        keys = runs[["run", "seed"]]
        return Results(runs, keys.merge(self.outcomes), keys.merge(self.scores))

    def of(self, run: str) -> Results:
        """Return the results of one run, all seeds; empty if it was never published."""
        return self.select(self.runs["run"] == run)

    def beside(self, table: int) -> Results:
        """Return the results that stand beside one of the paper's tables."""
        return self.select(self.runs["tables"].map(lambda tables: table in tables).astype(bool))


def _wide(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Count the repeats in which a clip was recognised, one column a q; and how sure that was."""
    counted = outcomes.groupby([*KEYS, "q"], sort=False)["correct"].sum().unstack("q")
    repeats = outcomes.groupby(KEYS, sort=False)["repeat"].nunique()
    counted.columns = [f"q{q}" for q in counted.columns]
    steps = outcomes[outcomes["q"] > 0]
    steps = steps.assign(log_odds=logit(steps["probability"].astype(float).clip(SURE, 1 - SURE)))
    sure = steps.groupby(KEYS, sort=False)[EVIDENCE].mean().round(4)
    return counted.astype(int).assign(repeats=repeats).join(sure).reset_index()


def _named(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Count what clips of each class are named under each order, and ``whole`` and ``blank``."""
    ends = outcomes["mode"].map({"add": "blank", "remove": "whole"})
    outcomes = outcomes.assign(order=outcomes["order"].where(outcomes["q"] > 0, ends))
    shares = outcomes.groupby(KEYS[1:])["predicted"].value_counts(normalize=True)
    return shares.rename("share").round(4).reset_index()


def _long(counted: pd.DataFrame) -> pd.DataFrame:
    steps = [c for c in counted if c.startswith("q") and c[1:].isdigit()]
    table = counted.melt([*KEYS, "repeats"], steps, "q", "correct")
    table["q"] = table["q"].str[1:].astype(int)
    table["correct"] = table["correct"] / table.pop("repeats")
    return table


def _facts(run: Run, known: Known, seed: int) -> dict:
    manifests = {stage: run.manifest(stage) for stage in STAGES}
    settings = {stage: run.parameters(stage) for stage in STAGES}
    predictions = pd.read_parquet(run.path("train") / "predictions.parquet")
    revisions = {m["revision"] or "unknown" for m in manifests.values()}
    hardware = manifests["ablate"]["hardware"]
    train = settings["train"]
    # Runs from before it was noted; with amp they were made where that is bfloat16.
    unnoted = "bfloat16" if settings["ablate"].get("amp") else "float32"
    return {
        "run": known.name,
        "seed": seed,
        "groups": known.groups,
        "tables": known.tables,
        "dataset": train["dataset"],
        "network": train["network"],
        "width": train["width"],
        "input": [train["n_frames"], *train["crop"]],
        "epochs": train["epochs"],
        "n_segments": settings["segment"]["n_segments"],
        "n_concepts": settings["cluster"]["n_concepts"],
        "features": settings["cluster"]["features"],
        "stretch": settings["cluster"]["stretch"],
        "n_groups": settings["tcav"]["n_groups"],
        "precision": manifests["ablate"]["notes"].get("precision", unnoted),
        "random_clips": manifests["tcav"]["notes"].get("random_clips", "textures"),
        "n_discovery": settings["segment"]["n_discovery"],
        "n_trained_on": len(pd.read_parquet(run.path("train") / "videos-train" / "table.parquet")),
        "n_test": len(predictions),
        "test_accuracy": float(predictions["correct"].mean()),
        "device": hardware["gpu"] or f"{hardware['cores']} CPU cores",
        "seconds": {stage: manifest["seconds"] for stage, manifest in manifests.items()},
        "revision": ", ".join(sorted(revisions)),
        "finished": manifests["visualize"]["finished"],
        "versions": manifests["ablate"]["versions"],
        "outputs": {stage: manifest["outputs"] for stage, manifest in manifests.items()},
    }


def publish(known: Known, folder: str | Path, target: str | Path) -> Path | None:
    """Write the small tables of one finished run; whatever was there before is replaced.

    Parameters
    ----------
    known : stce.study.known.Known
        Its parameter file.
    folder : path
        Of the run with one seed.
    target : path
        Folder of all published results.

    Returns
    -------
    pathlib.Path or None
        Where they are; None if the run is not finished, and then nothing is written.
    """
    run = Run(folder)
    if run.missing():
        return None
    seed = run.parameters("train")["seed"]
    place = Path(target) / known.name / f"seed-{seed}"
    with replacing(place, folder=True) as partial:
        outcomes = pd.read_parquet(run.path("ablate") / "outcomes.parquet")
        _wide(outcomes).to_csv(partial / "outcomes.csv", index=False)
        if (file := run.path("ablate") / "controls.parquet").exists():
            controls = pd.read_parquet(file)
            _wide(controls).to_csv(partial / "controls.csv", index=False)
            _named(pd.concat([outcomes, controls])).to_csv(partial / "named.csv", index=False)
        scores = pd.read_parquet(run.path("tcav") / "scores.parquet")[SCORES]
        if (truth := run.path("visualize") / "composition.parquet").exists():
            lifts = pd.read_parquet(truth).drop(columns="rank").set_index(["class", "concept"])
            scores = scores.join(lifts.add_prefix("lift of "), on=["class", "concept"])
        scores.to_csv(partial / "scores.csv", index=False, float_format="%.6g")
        (partial / "facts.json").write_text(
            json.dumps(_facts(run, known, seed), indent=1) + "\n", "utf-8"
        )
    return place


def publish_validation(folder: str | Path, target: str | Path) -> Path | None:
    """Write the tables of a run's stage validate; whatever was there before is replaced.

    Parameters
    ----------
    folder : path
        Of the run.
    target : path
        Folder of all published results; the tables go to ``validation/NAME`` in it.

    Returns
    -------
    pathlib.Path or None
        Where they are; None if the stage is not finished, and then nothing is written.
    """
    run = Run(folder)
    if not run.holds("validate"):
        return None
    seed = f"-{run.folder.name}" if run.folder.name.startswith("seed-") else ""
    place = Path(target) / "validation" / f"{run.name}{seed}"
    with replacing(place, folder=True) as partial:
        for file in sorted(run.path("validate").glob("*.parquet")):
            if file.stem != "outcomes":  # large, and summed up in the others
                table = pd.read_parquet(file)
                table.to_csv(partial / f"{file.stem}.csv", index=False, float_format="%.6g")
        manifest = run.manifest("validate")
        kept = ("parameters", "revision", "hardware", "finished")
        facts = {name: manifest[name] for name in kept}
        (partial / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    return place


def tables(folder: str | Path, wanted: Iterable[str] = ()) -> dict[str, pd.DataFrame]:
    """Read all published tables of one folder, by name.

    Parameters
    ----------
    folder : path
        For example ``book/results/campaigns`` or ``book/results/validation/validate``.
    wanted : iterable of str, optional
        Tables that must be there.

    Returns
    -------
    dict of str to pandas.DataFrame
        Empty if nothing was published.

    Raises
    ------
    FileNotFoundError
        If one of `wanted` was never published.
    """
    found = {file.stem: pd.read_csv(file) for file in sorted(Path(folder).glob("*.csv"))}
    if missing := sorted(set(wanted) - set(found)):
        raise FileNotFoundError(
            f"{Path(folder)} has no table {', '.join(missing)}. Campaigns are run with "
            "`python -m book.campaigns NAME`, validations with `nox -s study -- validate`, and "
            "`python -m book.publish` publishes both."
        )
    return found


def load(folder: str | Path, run: str = "*") -> Results:
    """Read published results below a folder.

    Parameters
    ----------
    folder : path
        For example ``book/results``.
    run : str, default all
        A run, or several by a pattern such as ``name-*``.

    Returns
    -------
    Results
        Empty tables if nothing was published.
    """
    facts, outcomes, scores = [], [], []
    for file in sorted(Path(folder).glob(f"{run}/seed-*/facts.json")):
        facts.append(json.loads(file.read_text("utf-8")))
        keys = {"run": facts[-1]["run"], "seed": facts[-1]["seed"]}
        outcomes.append(_long(pd.read_csv(file.with_name("outcomes.csv"))).assign(**keys))
        scores.append(pd.read_csv(file.with_name("scores.csv")).assign(**keys))
    if not facts:
        about = ["groups", "tables", "dataset", "network", "model", "setting"]
        columns = (about, [*KEYS, "q", "correct"], SCORES)
        return Results(*(pd.DataFrame(columns=["run", "seed", *c], dtype=object) for c in columns))
    runs = pd.DataFrame(facts)
    runs["model"] = runs["network"].map(MODELS)
    runs["minutes"] = [round(sum(f["seconds"].values()) / 60, 1) for f in facts]
    # As the paper's tables list them.
    rank = {model: i for i, model in enumerate(MODELS.values())}
    runs = runs.sort_values("model", key=lambda m: m.map(rank), kind="stable", ignore_index=True)
    runs["setting"] = np.where(runs["n_concepts"] == 25, "standard", "small")
    return Results(
        runs,
        pd.concat(outcomes, ignore_index=True),
        pd.concat(scores, ignore_index=True),
    )


def controls(folder: str | Path, run: str) -> pd.DataFrame:
    """Read what a run's area-matched orders did, all seeds, as ``outcomes`` of :class:`Results`."""
    tables = [_long(t).assign(seed=t["seed"].iloc[0]) for t in _seeds(folder, run, "controls")]
    return pd.concat(tables, ignore_index=True).assign(run=run) if tables else pd.DataFrame()


def named(folder: str | Path, run: str) -> pd.DataFrame:
    """Read what the clips of a run were named while some of them was hidden, all seeds.

    Returns one row a ``seed``, ``class``, ``mode``, ``order`` (of the steps q >= 1; and "blank" and
    "whole") and ``predicted`` class: its ``share``, 0 to 1. Empty without area-matched orders.
    """
    tables = list(_seeds(folder, run, "named"))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _seeds(folder: str | Path, run: str, table: str) -> Iterator[pd.DataFrame]:
    for file in sorted(Path(folder).glob(f"{run}/seed-*/{table}.csv")):
        yield pd.read_csv(file).assign(seed=int(file.parent.name[5:]))


def evidence(folder: str | Path, run: str) -> pd.DataFrame:
    """Read how sure a run's network was of the class while each order was shown, all seeds.

    Returns one row a ``seed``, test clip (``id``, ``class``), ``mode`` and ``order``: the class's
    ``probability`` and ``log_odds`` (in nats), means over the steps q >= 1. What was published
    without them has none.
    """
    tables = [t for name in ("outcomes", "controls") for t in _seeds(folder, run, name)]
    columns = ["seed", *KEYS, *EVIDENCE]
    tables = [t[columns] for t in tables if set(EVIDENCE) <= set(t)]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def accuracy_over_seeds(
    outcomes: pd.DataFrame, by: tuple[str, ...] = (), n_bootstrap: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Average outcomes of several seeds, with intervals over seeds and clips.

    Parameters
    ----------
    outcomes : pandas.DataFrame
        Columns of `by`, ``seed``, ``id``, ``mode``, ``order``, ``q`` and ``correct`` (0 to 1), as
        of :class:`Results`.
    by, n_bootstrap, seed
        See :func:`stce.curves.accuracy_table`; first the seeds are resampled, then
        the clips of each.

    Returns
    -------
    pandas.DataFrame
        One row a (`by`, mode, order, q): ``accuracy``, ``ci_low``, ``ci_high`` (in 0 to 1, 95 %),
        ``n_clips`` (of one seed) and ``n_seeds``. A few seeds say little about the spread between
        trainings: the interval is then rather too narrow than too wide.

    Examples
    --------
    >>> rows = [(s, str(v), "add", "top", 1, v < 3) for s in (0, 1) for v in range(4)]
    >>> columns = ["seed", "id", "mode", "order", "q", "correct"]
    >>> accuracy_over_seeds(pd.DataFrame(rows, columns=columns))[["accuracy", "n_seeds"]].squeeze()
    accuracy    0.75
    n_seeds     2.00
    Name: 0, dtype: float64
    """
    rng = np.random.default_rng(seed)
    rows = []
    for key, part in outcomes.groupby([*by, "mode", "order", "q"], sort=False):
        seeds = [one.to_numpy(float) for _, one in part.groupby("seed")["correct"]]
        draws = [resamples(len(v), n_bootstrap, rng) @ v / len(v) for v in seeds]
        chosen = rng.integers(len(seeds), size=(n_bootstrap, len(seeds)))
        means = np.take_along_axis(np.stack(draws, axis=1), chosen, axis=1).mean(axis=1)
        low, high = interval(means)
        mean = np.mean([v.mean() for v in seeds])
        rows.append((*key, mean, low, high, len(seeds[0]), len(seeds)))
    names = [*by, "mode", "order", "q", "accuracy", "ci_low", "ci_high", "n_clips", "n_seeds"]
    return pd.DataFrame(rows, columns=names)


def gap(table: pd.DataFrame, first: str = "top", second: str = "least") -> float:
    """Return the area between the curves of two orders, the mean of adding and removing.

    Parameters
    ----------
    table : pandas.DataFrame
        Of :func:`stce.curves.accuracy_table` or :func:`accuracy_over_seeds`.
    first, second : str, default "top", "least"
        The orders.

    Returns
    -------
    float
        Mean over q = 1, 2, ... of accuracy, -1 to 1: positive where `first` keeps more when adding
        and loses more when removing.

    Examples
    --------
    >>> rows = [("add", "top", 1, 0.9), ("add", "least", 1, 0.3)]
    >>> rows += [("remove", "top", 1, 0.5), ("remove", "least", 1, 0.7)]
    >>> table = pd.DataFrame(rows, columns=["mode", "order", "q", "accuracy"])
    >>> round(gap(table), 3)
    0.4
    """
    steps = table[table["q"] > 0].groupby(["mode", "order"])["accuracy"].mean()
    apart = {mode: steps[mode, first] - steps[mode, second] for mode in ("add", "remove")}
    return float(apart["add"] - apart["remove"]) / 2
