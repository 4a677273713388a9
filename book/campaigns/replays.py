"""Checks of finished runs: two against each other, and what campaigns repeat on them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import numpy as np
import pandas as pd

from stce import features, models, training
from stce.clips import Clips
from stce.concepts import Concepts
from stce.datasets.actors import PARTS
from stce.evaluation import sanity, stability, validation, variants
from stce.evaluation.inputs import Variant, take
from stce.study import parameters
from stce.study.evidence import Evidence
from stce.study.known import groups, known
from stce.study.run import Run
from stce.supervoxels import Supervoxels
from stce.tcav import Tcav
from stce.videos import CachedVideos

__all__ = ["REPLAYS", "between"]

GROUP, SANITY = "laptop", "actors-small"
N_SEEDS = 3

# Networks that learn shuffled labels by heart: what is added to the seed of the shuffle and to that
# of the first weights. Weights keep a trace of where training began, and one begins as the run did.
SHUFFLES = {
    "labels shuffled": (0, 1000),
    "labels shuffled again": (1000, 2000),
    "labels shuffled, same start": (0, 0),
}
FLOOR = "two shuffles, with each other"

# What it takes to learn a few hundred clips by heart: no dropout, no decay, long enough.
BY_HEART = {"epochs": 60, "batch_size": 32, "lr": 0.03, "weight_decay": 0.0, "max_norm": 1.0}
BY_HEART |= {"schedule": "onecycle", "flip": False}

# Of each network the paper's layer, the map before it, and an earlier map.
LAYERS = {
    "actors-small": ("fc7", "conv5b", "conv4b"),
    "actors-r3d": ("avgpool", "layer4", "layer3"),
    "actors-i3d": ("avgpool", "Mixed_5c", "Mixed_4f"),
}


def _runs(seed: int) -> dict[str, Run]:
    """Return the finished runs of the group with this seed."""
    runs = {name: Run(known()[name].folder(seed)) for name in groups()[GROUP]}
    for run in runs.values():
        if run.missing():
            raise FileNotFoundError(
                f"{run.folder} is not finished. Make the runs first: "
                f"`python -m stce.study run {GROUP} --seeds {seed}`."
            )
    return runs


def carriers(seed: int) -> list[dict]:
    """Ask of each run whether its ranking finds the limbs that carry the class."""
    rows = []
    for name, run in _runs(seed).items():
        clips = Clips.load(run.path("segment") / "train-clips")
        cut = Supervoxels.load(run.path("segment") / "train-supervoxels")
        scores = Tcav.load(run.path("tcav")).scores
        _, table = validation.carriers(Concepts.load(run.path("cluster")), cut, clips, scores)
        rows += table.assign(run=name).to_dict("records")
    return rows


def randomised(seed: int) -> list[dict]:
    """Randomise the weights of a run from the top down."""
    it = Evidence.load(Run(known()[SANITY].folder(seed)))
    tables = validation.randomised(it, validation.chance(it), seed=seed)
    found = sanity.against_trained(tables)
    for column in ("p_derivative", "p_weights"):
        found[column] = [(table[column] < 0.05).mean() for table in tables.values()]
    return found.to_dict("records")


def by_heart(seed: int) -> list[dict]:
    """Learn labels that mean nothing by heart: the explanation of the true ones must be gone."""
    run = Run(known()[SANITY].folder(seed))
    it = Evidence.load(run)
    tables, fits = {"trained": validation.chance(it)}, [np.nan]
    for name, (shuffle, start) in SHUFFLES.items():
        network, known_share = _learnt_by_heart(run, seed + shuffle, seed + start)
        tables[name] = validation.rescored(it, network.split(it.network.layer))
        fits.append(known_share)
    found = sanity.against_trained(tables).assign(fits=fits)
    # Whoever tells clips apart, by heart or by class, could do so by the figure in them.
    figure = _figure(validation.parts(it)["composition"])
    found["figure"] = [
        stability.agreement(table, figure)["correlation"].iloc[-1] for table in tables.values()
    ]
    # Two networks of which neither knows the classes: what agreement is worth nothing.
    first, second = list(SHUFFLES)[:2]
    floor = stability.agreement(tables[first], tables[second]).iloc[-1]
    floor = floor[["correlation", "ci_low", "ci_high"]].to_dict()
    return [*found.to_dict("records"), {"network": FLOOR} | floor]


def _learnt_by_heart(run: Run, shuffle: int, start: int) -> tuple[models.Network, float]:
    """Train a network from this start on shuffled labels; also the share of clips it knows."""
    p = run.manifest("train")["parameters"]
    videos = CachedVideos.load(run.path("train") / "videos-train")
    shuffled = sanity.ShuffledLabels(videos, np.random.default_rng(shuffle))
    seen = sanity.Middles(shuffled, p["n_frames"], p["crop"])
    shape = seen.clips.frames.shape
    size = len(videos.classes), p["width"], shape[-1], shape[1:4]
    network = models.build(p["network"], *size, dropout=0.0, seed=start)
    how = {"n_frames": p["n_frames"], "crop": p["crop"], "seed": shuffle, "progress": False}
    with tempfile.TemporaryDirectory() as folder:
        training.train(network, seen, folder, **BY_HEART, **how)
    return network, training.evaluate(network, seen.clips)["correct"].mean()


def _figure(lifts: pd.DataFrame) -> pd.DataFrame:
    """Return what each concept holds of the figure, relative to the clip, as a table of scores."""
    body = lifts[lifts["part"].isin(set(PARTS) - {"background", "cue"})]
    sums = body.groupby(["class", "concept"])[["share", "base"]].sum()
    return (sums["share"] / sums["base"]).rename("derivative").reset_index()


def between(
    first: Run, second: Run, *, n_clips: int = 6, value: str = "derivative", device="cpu"
) -> pd.DataFrame:
    """Match the concepts of two runs on the test clips they share, and compare their ranking.

    Parameters
    ----------
    first, second : stce.study.run.Run
        Runs with test clips in common, such as one parameter file with two seeds. Their networks,
        supervoxels and concepts may differ.
    n_clips : int, default 6
        Test clips a class on which concepts are matched.
    value : str, default "derivative"
        See :func:`stce.evaluation.stability.agreement`.
    device : torch.device, default "cpu"
        Where the supervoxels are embedded.

    Returns
    -------
    pandas.DataFrame
        Of :func:`stce.evaluation.stability.agreement`.

    Raises
    ------
    ValueError
        If the runs share no test clip.
    """
    runs = (first, second)
    tested = [Clips.load(run.path("segment") / "test-clips") for run in runs]
    shared = pd.Index(tested[0].ids).intersection(tested[1].ids, sort=True)
    if shared.empty:
        raise ValueError(
            f"{first.folder} and {second.folder} have no test clip in common; compare runs on the "
            "same data set and classes."
        )
    label = pd.Series(tested[0].labels, index=tested[0].ids)[shared]
    shared = label.groupby(label).head(n_clips).index
    sides, scores = [], []
    for run, clips in zip(runs, tested, strict=True):
        at = parameters.check("cluster", run.manifest("cluster")["parameters"])
        weights = run.path("train") / "last.safetensors"
        network = models.load(weights, at["layer"] or None, device, features=at["features"])
        cut = Supervoxels.load(run.path("segment") / "test-supervoxels")
        clips, cut = take(clips, cut, pd.Index(clips.ids).get_indexer(shared))
        how = {"stretch": at["stretch"], "progress": False, "device": device}
        z = features.extract(network, clips, cut, **how)
        sides.append((cut, z, Concepts.load(run.path("cluster")).centres))
        scores.append(Tcav.load(run.path("tcav")).scores)
    pairs = {}
    for name in set(sides[0][2]) & set(sides[1][2]):
        both = [(cut, z, centres[name]) for cut, z, centres in sides]
        pairs[name] = stability.match(stability.overlap(*both, clips.indices_of(name)))
    return stability.agreement(*scores, pairs, value=value)


def trained_again(seed: int) -> list[dict]:
    """Compare each run with the run of the next seed: another training, all else anew too."""
    rows = []
    first, second = _runs(seed), _runs((seed + 1) % N_SEEDS)
    for name, run in first.items():
        table = between(run, second[name]).set_index("class")
        rows.append({"run": name} | table.loc["all"].to_dict())
    return rows


def choices(seed: int) -> list[dict]:
    """Try other layers, class outputs and features on each network's run."""
    rows = []
    runs = _runs(seed)
    for name, (layer, feature_map, earlier_map) in LAYERS.items():
        tried = [
            Variant(layer, "log_prob", "in place"),
            Variant(layer, "logit", "stretched"),
            Variant(feature_map, "logit", "in place"),
            Variant(feature_map, "logit", "pooled"),
            Variant(earlier_map, "logit", "pooled"),
        ]
        table = variants.compare(runs[name].folder, tried, seed=seed, progress=False)
        # The seconds of a campaign are those of the whole seed.
        rows += table.rename(columns={"seconds": "embedding"}).assign(run=name).to_dict("records")
    return rows


REPLAYS: dict[str, Callable[[int], list[dict]]] = {
    "truth": carriers,
    "sanity": randomised,
    "training": trained_again,
    "variants": choices,
    "labels": by_heart,
}
