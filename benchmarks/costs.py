"""What a study takes: unit costs and its size in, seconds and bytes of each step out."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

import pandas as pd

from stce.features import ROWS_PER_CHUNK

__all__ = [
    "Rates",
    "Size",
    "bends",
    "compare",
    "feeding",
    "predict",
    "speed_up",
    "throughput",
    "used",
]

# As the stages deal them out; a step whose last round leaves a third of the time idle is uneven.
CLIPS_PER_TASK, CLIPS_PER_BATCH, UNEVEN = 4, 32, 1.5


@dataclass(frozen=True)
class Rates:
    """What one unit of each kind of work costs, as ``python -m benchmarks stages`` measures it.

    Attributes
    ----------
    train : float
        Seconds of one device for a clip of a training step.
    segment : float
        Seconds of one core for the supervoxels of a clip.
    embed : float
        Seconds of one device for a supervoxel.
    cluster : float
        Seconds of one core for a supervoxel, in the k-means of its class.
    draw, forward : float
        Seconds for a random clip, of the process that runs the study, and for its pass through
        the network, of one device.
    null : float
        Seconds for the random groups against each other, once a study.
    fit, judge : float
        Seconds for the CAVs of a concept, of one device, and for its score with interval, of the
        process that runs the study.
    mask : float
        Seconds of one device for a masked clip.
    write : float
        Seconds a byte, of the one process that writes the run's arrays.
    supervoxels, masks : float
        Of a clip; masks that differ, over all orders and steps of the ablation.
    label_bytes, feature_bytes : float
        Bytes on disk of the labels of a clip, and of the features of a supervoxel.
    """

    train: float
    segment: float
    embed: float
    cluster: float
    draw: float
    forward: float
    null: float
    fit: float
    judge: float
    mask: float
    write: float
    supervoxels: float
    masks: float
    label_bytes: float
    feature_bytes: float

    def __post_init__(self):
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value!r}; give what was measured, zero or more.")

    def on(self, flop: float, tflops: float) -> Rates:
        """Return the rates on another device, from its speed alone.

        Parameters
        ----------
        flop : float
            Floating-point operations of one pass of a clip through the network.
        tflops : float
            What the device sustains, in 10^12 operations a second. Cutting, masking and moving
            data are taken to be hidden behind them, and a training step to be three passes.

        Returns
        -------
        Rates
        """
        one = flop / (tflops * 1e12)
        return replace(self, train=3 * one, embed=one, forward=one, mask=one)


@dataclass(frozen=True)
class Size:
    """How large a study is.

    Attributes
    ----------
    n_classes : int
        Classes.
    n_discovery, n_test : int
        Clips a class in which concepts are found, and on which they are tested.
    n_train, epochs : int, default 0
        Training videos a class, and passes over them; 0 for a network that is trained.
    n_random : int, default 2000
        Random clips.
    n_concepts : int, default 25
        A class.
    """

    n_classes: int
    n_discovery: int
    n_test: int
    n_train: int = 0
    epochs: int = 0
    n_random: int = 2000
    n_concepts: int = 25

    def __post_init__(self):
        for name, value in asdict(self).items():
            least = 0 if name in ("n_train", "epochs") else 1
            if value < least:
                raise ValueError(f"{name} is {value!r}; it has to be at least {least}.")


def predict(rates: Rates, size: Size, n_devices: int = 1, cores: int = 2) -> pd.DataFrame:
    """Predict the seconds and bytes of each step of a study.

    Work is dealt in tasks, as the stages deal it (clips, chunks of supervoxels, classes), to all
    devices or to all their cores. The tasks of a step end together only if there are many: the
    last round counts whole. One process writes what they return, while they work; a step takes
    the longer of both.

    Parameters
    ----------
    rates : Rates
        Unit costs.
    size : Size
        Of the study.
    n_devices : int, default 1
        GPUs, or machines without one.
    cores : int, default 2
        Of each device.

    Returns
    -------
    pandas.DataFrame
        One row a step: ``stage``, ``step``, ``work`` (seconds of one worker), ``workers`` (that
        share it), ``seconds`` on the clock, ``megabytes`` written, and what it waits for,
        ``bound``: "work" where more workers help, "tasks" where there are too few of them for all
        workers, "writer", or "one process".

    Raises
    ------
    ValueError
        If there is no device or no core.

    Examples
    --------
    >>> sizes = {"supervoxels": 100, "masks": 99, "label_bytes": 1e5, "feature_bytes": 2e3}
    >>> rates = Rates(*[0.01] * 10, write=1e-8, **sizes)
    >>> table = predict(rates, Size(n_classes=6, n_discovery=20, n_test=36))
    >>> table.loc[table["step"] == "segment", ["work", "seconds"]].values.round(2).tolist()
    [[3.36, 1.68]]
    """
    if n_devices < 1 or cores < 1:
        raise ValueError(f"n_devices is {n_devices}, cores is {cores}; both have to be at least 1.")
    found, tested = size.n_classes * size.n_discovery, size.n_classes * size.n_test
    rows, whole = found * rates.supervoxels, size.n_random + found
    concepts, videos = size.n_classes * size.n_concepts, size.n_classes * size.n_train
    all_cores, labels = n_devices * cores, (found + tested) * rates.label_bytes
    one, each = None, size.n_classes
    # Stage, step, seconds of work, tasks, who shares them, bytes written.
    steps = [
        ("train", "steps", size.epochs * videos * rates.train, None, n_devices, 0),
        ("segment", "segment", (found + tested) * rates.segment)
        + ((found + tested) / CLIPS_PER_TASK, all_cores, labels),
        ("cluster", "embed", rows * rates.embed)
        + (rows / ROWS_PER_CHUNK, n_devices, rows * rates.feature_bytes),
        ("cluster", "k-means", rows * rates.cluster, each, all_cores, 0),
        ("tcav", "draw random clips", size.n_random * rates.draw, None, one, 0),
        ("tcav", "embed clips", whole * rates.forward, whole / CLIPS_PER_BATCH, n_devices, 0),
        ("tcav", "random directions", rates.null, None, one, 0),
        ("tcav", "fit CAVs", concepts * rates.fit, each, n_devices, 0),
        ("tcav", "score", concepts * rates.judge, None, one, 0),
        ("ablate", "embed", tested * rates.supervoxels * rates.embed, tested, n_devices, 0),
        ("ablate", "predict", tested * rates.masks * rates.mask, tested, n_devices, 0),
    ]
    made = [_clock(*step, rates.write) for step in steps if step[2] > 0]
    columns = ["stage", "step", "work", "workers", "seconds", "megabytes", "bound"]
    return pd.DataFrame(made, columns=columns)


def _clock(stage, step, work, tasks, workers, size, write) -> tuple:
    """Return the row of one step; `tasks` is None where work can be cut at will."""
    shared, bound = work, "one process"
    if workers:
        count = workers if tasks is None else math.ceil(tasks)
        rounds = math.ceil(count / workers) * workers / count
        shared, bound = work / workers * rounds, "tasks" if rounds > UNEVEN else "work"
    if size * write > shared:
        shared, bound = size * write, "writer"
    return stage, step, work, workers or 1, shared, size / 1e6, bound


def throughput(rates: Rates, flop: float, peak: float) -> pd.DataFrame:
    """Return what a device does in a second, and how much of what it could do.

    Parameters
    ----------
    rates : Rates
        Unit costs, as measured on the device.
    flop : float
        Floating-point operations of one pass of a clip through the network.
    peak : float
        Operations a second that the device reaches in a large matrix product.

    Returns
    -------
    pandas.DataFrame
        Indexed by step, "segment" (one core), "embed", "forward", "mask" and "train":
        ``per_second`` (clips, supervoxels, clips, masked clips and training clips) and ``share``
        of the peak, NaN where no network runs. A training step counts as three passes, and a
        supervoxel as one, also if it is left in place and takes less (:mod:`stce.engine.windows`).

    Examples
    --------
    >>> counts = {"supervoxels": 100, "masks": 99, "label_bytes": 1e5, "feature_bytes": 2e3}
    >>> found = throughput(Rates(*[0.01] * 10, write=1e-8, **counts), flop=1e9, peak=4e11)
    >>> found.loc["embed"].round(2).tolist(), found.loc["train"].round(2).tolist()
    ([100.0, 0.25], [100.0, 0.75])
    """
    passes = {"segment": math.nan, "embed": 1, "forward": 1, "mask": 1, "train": 3}
    found = pd.DataFrame({"per_second": {step: 1 / getattr(rates, step) for step in passes}})
    found["share"] = found["per_second"] * pd.Series(passes) * flop / peak
    return found


def used(stages: dict) -> pd.DataFrame:
    """Return :func:`throughput` of all devices and networks that were measured.

    Parameters
    ----------
    stages : dict
        ``results["stages"]`` of the bench: by device its ``peak`` and its ``worlds``.

    Returns
    -------
    pandas.DataFrame
        Rows (device, network), columns (step, what).
    """
    found = {
        (device, name): throughput(Rates(**world["rates"]), world["flop"], measured["peak"])
        for device, measured in stages.items()
        for name, world in measured["worlds"].items()
    }
    table = pd.concat(found, names=["device", "network"]).unstack().swaplevel(axis=1)
    table = table[["segment", "embed", "forward", "mask", "train"]]
    return table.drop(columns=("segment", "share")).rename(columns={"per_second": "per s"})


def speed_up(rates: Rates, size: Size, devices: list[int], cores: int) -> pd.DataFrame:
    """Predict a study on several numbers of devices.

    Parameters
    ----------
    rates, size, cores
        See :func:`predict`.
    devices : list of int
        Numbers of devices.

    Returns
    -------
    pandas.DataFrame
        One row a number of devices: ``hours``, ``times`` (as fast as one device), ``efficiency``
        (of linear, 0 to 1), the ``step`` that is furthest behind linear, with the ``share`` of all
        the time that this costs, and its ``bound``, as in :func:`predict`.
    """
    one = predict(rates, size, 1, cores)
    rows = []
    for n in devices:
        table = predict(rates, size, n, cores)
        total, times = table["seconds"].sum(), one["seconds"].sum() / table["seconds"].sum()
        behind = table["seconds"] - one["seconds"] / n
        worst = table.loc[behind.idxmax()]
        step = f"{worst['stage']}: {worst['step']}" if behind.max() > 0 else ""
        share, bound = max(behind.max(), 0) / total, worst["bound"] if step else ""
        rows.append((n, total / 3600, times, times / n, step, share, bound))
    columns = ["devices", "hours", "times", "efficiency", "step", "share", "bound"]
    return pd.DataFrame(rows, columns=columns)


def bends(grown: dict[str, pd.DataFrame], least: float = 0.9) -> pd.DataFrame:
    """Tell where studies stop getting faster with more devices.

    Parameters
    ----------
    grown : dict of str to pandas.DataFrame
        Of :func:`speed_up`, by study.
    least : float, default 0.9
        Efficiency that still counts as linear.

    Returns
    -------
    pandas.DataFrame
        One row a study: ``hours`` on the fewest and on the most devices, the number of devices at
        which it ``bends`` (the largest, if it never does), the ``efficiency`` there, and the
        ``step`` that is the first reason, with its ``bound``.
    """
    rows = {}
    for name, table in grown.items():
        few, most = table.iloc[0], table.iloc[-1]
        bent = table.iloc[(table["efficiency"] < least).argmax() or -1]
        hours = {f"hours on {int(t['devices'])}": t["hours"] for t in (few, most)}
        rows[name] = hours | {"bends at": bent["devices"], **bent[["efficiency", "step", "bound"]]}
    return pd.DataFrame(rows.values(), index=pd.Index(rows, name="study"))


def compare(checked: dict, rates: Rates, cores: int) -> pd.DataFrame:
    """Set the seconds of a whole run beside those predicted for it.

    Parameters
    ----------
    checked : dict
        What ``python -m benchmarks check`` measured: the run's ``size`` and its ``seconds``.
    rates : Rates
        Unit costs of its network and clips.
    cores : int
        Of the machine.

    Returns
    -------
    pandas.DataFrame
        One row a stage, and "all": ``predicted``, ``measured`` and their ``ratio``.
    """
    steps = predict(rates, Size(**checked["size"]), 1, cores)
    both = pd.DataFrame({"predicted": steps.groupby("stage", sort=False)["seconds"].sum()})
    both["measured"] = pd.Series(checked["seconds"])
    both.loc["all"] = both.sum()
    return both.assign(ratio=both["measured"] / both["predicted"])


def feeding(rates: dict[str, Rates], left_to_cpu: float) -> pd.DataFrame:
    """Count the cores that cut clips as fast as one device does its part.

    Parameters
    ----------
    rates : dict of str to Rates
        Unit costs, by what to call the device.
    left_to_cpu : float
        Seconds of a core for a clip where SLIC runs on the device.

    Returns
    -------
    pandas.DataFrame
        One row a device: cores where it takes a pass a supervoxel, a pass a clip (pooled
        features), and the same with SLIC on the device.
    """
    cores = {
        name: {
            "a pass a supervoxel": r.segment / (r.supervoxels * r.embed),
            "a pass a clip (pooled)": r.segment / r.forward,
            "pooled, SLIC on the GPU": left_to_cpu / r.forward,
        }
        for name, r in rates.items()
    }
    return pd.DataFrame(cores).T.rename_axis("GPU")
