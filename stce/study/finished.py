"""A finished run, opened: what its stages left, and what they found out about each class."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from stce import datasets, features, models, tcav
from stce.ablation import Case, Subject
from stce.clips import Clips
from stce.concepts import Concepts, cluster
from stce.datasets.negatives import negatives as negatives_of
from stce.engine.device import resolve
from stce.engine.slic import painter
from stce.engine.storage import path_of, read_file, read_rows
from stce.engine.workers import connect
from stce.evaluation.truth import KTH_CARRIERS
from stce.evaluation.verdict import Verdict, verdict
from stce.explanation import Explanation
from stce.features import Negatives
from stce.models.network import Network
from stce.study import parameters
from stce.study.known import HOME
from stce.study.run import READS, STAGES, Run, Stage
from stce.supervoxels import Supervoxels
from stce.tcav import Samples, Tcav
from stce.videos import CachedVideos

OTHERS = "other classes"


class Part(NamedTuple):
    """Clips of a run, and the supervoxels that they were cut into."""

    clips: Clips
    supervoxels: Supervoxels


class Finished:
    """A run whose stages are finished, or some of them; each is read when it is asked for, once.

    Parameters
    ----------
    run : stce.study.run.Run or path
        The run, or its folder.
    device : torch.device or str, default "cpu"
        Where the network runs, see :func:`stce.engine.device.resolve`.
    n_jobs : int, default 1
        Processes that decode random clips and cut them.

    Raises
    ------
    FileNotFoundError
        When something is asked for whose stage is missing; the message says how to make it.
    """

    def __init__(self, run: Run | str | Path, *, device: torch.device | str = "cpu", n_jobs=1):
        self.run = run if isinstance(run, Run) else Run(run)
        self._wanted, self.n_jobs = device, n_jobs

    @cached_property
    def device(self) -> torch.device:
        """Where the network runs."""
        return resolve(self._wanted)

    @property
    def settings(self) -> dict[str, dict]:
        """The parameters of each finished stage, see :meth:`stce.study.run.Run.parameters`."""
        return {s: self.run.parameters(s) for s in STAGES if self.run.holds(s)}

    @property
    def body(self) -> dict:
        """The names of the `parts` of the clips, and the `carriers` of each class among them."""
        names = getattr(datasets.module(self.run.parameters("train")["dataset"]), "PARTS", ())
        moving = dict.fromkeys(self.discovery.clips.classes, ("moving",))
        return {"parts": names, "carriers": moving if "moving" in names else KTH_CARRIERS}

    def videos(self, split: str) -> CachedVideos:
        """Return the decoded videos to train on, "train", or to test on, "test"."""
        return CachedVideos.load(self.run.path("train") / f"videos-{split}")

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """What the network makes of whole test clips, of :func:`stce.training.evaluate`."""
        return read_file(self.run.path("train") / "predictions.parquet")

    def trained(self, layer: str = "", features: str = "supervoxels") -> Network:
        """Return the trained network, cut at a layer ("" for the paper's) and seen in one way."""
        weights = self.run.path("train") / "last.safetensors"
        return models.load(weights, layer or None, self.device, features=features)

    @cached_property
    def network(self) -> Network:
        """The network explained, cut at the layer of the run."""
        made = self.run.parameters("cluster")
        return self.trained(made["layer"], made["features"])

    @cached_property
    def finder(self) -> Network:
        """The same network cut at ``concept_layer``, where concepts are found and told."""
        made = self.run.parameters("cluster")
        return self.trained(made["concept_layer"] or made["layer"], made["features"])

    @cached_property
    def discovery(self) -> Part:
        """The N clips in which concepts were found, and their S supervoxels."""
        return self._part("train")

    @cached_property
    def test(self) -> Part:
        """The clips on which rankings are tested, and their supervoxels."""
        return self._part("test")

    def _part(self, split: str) -> Part:
        folder = self.run.path("segment")
        clips = Clips.load(folder / f"{split}-clips")
        return Part(clips, Supervoxels.load(folder / f"{split}-supervoxels"))

    @cached_property
    def concepts(self) -> Concepts:
        """The concepts of all classes."""
        return Concepts.load(self.run.path("cluster"))

    @cached_property
    def features(self):
        """Features of the supervoxels of the discovery clips, ``(S, D) float32``, on disk."""
        return features.stored(self.run.path("cluster"))

    @property
    def seen(self):
        """The same at the layer where concepts are found, which is the same one unless set."""
        folder = self.run.path("cluster") / "found"
        return features.stored(folder) if folder.exists() else self.features

    @cached_property
    def tcav(self) -> Tcav:
        """The scores of all concepts."""
        return Tcav.load(self.run.path("tcav"))

    @property
    def rankings(self) -> dict[str, list[int]]:
        """The concepts of each class, most important first."""
        return {name: self.tcav.ranking(name) for name in self.concepts.centres}

    @cached_property
    def outcomes(self) -> pd.DataFrame:
        """What became of the masked test clips, rows of :func:`stce.ablation.run`."""
        return read_file(self.run.path("ablate") / "outcomes.parquet")

    @cached_property
    def controls(self) -> pd.DataFrame | None:
        """The same, of :func:`stce.ablation.matched`; None in a run that is older than they are."""
        file = self.run.path("ablate") / "controls.parquet"
        return read_file(file) if file.exists() else None

    def verdict(self, class_name: str = "") -> Verdict:
        """Tell what speaks against believing the run, or what it says of one class.

        See :func:`stce.evaluation.verdict.verdict`. The ablation counts if it is of these scores.
        """
        tables = {"scores": self.tcav.scores, "answers": self.predictions}
        if self.run.holds("ablate") and not self.run.stale(("tcav", "ablate")):
            tables["outcomes"] = pd.concat([self.outcomes, self.controls])
        if class_name:
            tables = {name: t[t["class"] == class_name] for name, t in tables.items()}
        return verdict(tables.pop("scores"), self.concepts, *self.discovery, **tables)

    @cached_property
    def whole(self) -> dict[str, np.ndarray]:
        """For each class its discovery clips at the layer, ``(N_y, D) float32``."""
        clips = self.discovery.clips
        whole = features.extract_layer(self.network, clips, device=self.device)
        return {name: whole[clips.indices_of(name)] for name in self.concepts.centres}

    @property
    def samples(self) -> Samples:
        """What the run's scores were computed from."""
        return self._against[0]

    @property
    def negatives(self) -> Negatives:
        """What its concepts are told apart from, drawn again with the run's seed."""
        return self._against[1]

    def clustered(self, seed: int, **options) -> Concepts:
        """Find the concepts again with another seed, or other options of that function."""
        made, (clips, cut) = self.run.parameters("cluster"), self.discovery
        owner = cut.table["video"].to_numpy()
        how = {name: made[name] for name in ("n_concepts", "n_keep")} | {"seed": seed} | options
        return cluster(np.asarray(self.seen[:]), clips.labels[owner], owner, clips.classes, **how)

    @property
    def cutting(self) -> dict[str, object]:
        """The keyword arguments of :func:`stce.supervoxels.segment` that clips were cut with."""
        p = self.run.parameters("segment")
        on, threshold = painter(self.network, p["segment_on"], self.device), p["jaccard"]
        same = ("n_segments", "compactness", "sigma", "spacing", "min_fraction")
        return {name: p[name] for name in same} | {"threshold": threshold, "on": on}

    def draw(self, p: Mapping, rng: np.random.Generator, notes: dict | None = None) -> Negatives:
        """Draw what concepts are told apart from, as `p` of stage tcav says; see `against`."""
        clips, cut = self.discovery
        if p["random_source"] == "others":
            owners = np.asarray(clips.classes)[clips.labels]
            if p["random_from"] == "clips":
                return Negatives(clips, owners=owners, used=OTHERS)
            owners = owners[cut.table["video"]]
            names = np.unique(owners)
            each = -(-p["n_random_clips"] // max(1, len(names) - 1))
            each = None if p["random_from"] == "matched" else each  # the more, the liker
            rows = [rng.permutation(np.flatnonzero(owners == name))[:each] for name in names]
            rows = np.sort(np.concatenate(rows))
            return Negatives(clips, cut, rows, owners[rows], OTHERS)
        random, used = draw_random(self, p, notes=notes)
        if p["random_from"] == "clips":
            return Negatives(random, used=used)
        given = random, p["n_random_clips"], self.run.parameters("cluster")["n_keep"], rng
        return features.random_supervoxels(*given, n_jobs=self.n_jobs, used=used, **self.cutting)

    def grouped(self, negatives: Negatives, p: Mapping, rng, found: Concepts | None = None):
        """Deal negatives out in groups, as parameters `p` of stage tcav say: see `Samples.groups`.

        Where they are matched, they are matched to the run's concepts, or to those that are given.
        """
        if p["random_from"] == "matched":
            places = self.discovery.supervoxels.places()
            given = found or self.concepts, places, negatives, p["n_groups"], rng
            return tcav.matched_groups(*given)
        like = p["n_groups"], self.run.parameters("cluster")["n_keep"], rng, negatives.owners
        return tcav.random_groups(len(negatives), *like)

    def against(self, notes: dict | None = None, **chosen) -> tuple[Samples, Negatives]:
        """Return what concepts are scored from, against the run's negatives or others.

        `chosen` are parameters of stage tcav that differ from the run's, such as
        ``random_source="others"``; with ``random_from="supervoxels"`` each class then has
        ``n_random_clips`` of the others' supervoxels, with the features of stage cluster.
        For `notes` see :func:`stce.datasets.hmdb.random_clips`.
        """
        made = self.run.parameters("tcav") if self.run.holds("tcav") else {}
        p, made = parameters.check("tcav", {**made, **chosen}), self.run.parameters("cluster")
        rng = np.random.default_rng(p["seed"])
        negatives = self.draw(p, rng, notes)
        groups = self.grouped(negatives, p, rng)
        if negatives.cut is self.discovery.supervoxels:
            random = read_rows(self.features, negatives.rows)
        else:
            random = negatives.embed(self.network, stretch=made["stretch"], device=self.device)
        given = self.concepts, self.features, self.whole, random, groups
        return Samples(*given, self.discovery.clips.classes, p["target"]), negatives

    _against = cached_property(against)

    @property
    def options(self) -> dict[str, object]:
        """The keyword arguments of :func:`stce.tcav.score` that they were computed with."""
        scored = self.run.parameters("tcav")
        return {name: scored[name] for name in ("strength", "seed")}

    def subject(self, **options) -> Subject:
        """Return what is ablated: the test clips, in the precision of the run; options as there."""
        how = {"stretch": self.run.parameters("cluster")["stretch"], "device": self.device}
        how |= {"amp": self.run.holds("ablate") and self.run.parameters("ablate")["amp"]}
        how |= {"rankings": self.rankings, **options}
        return Subject(self.finder, *self.test, self.concepts, **how)

    def explanation(self, class_name: str, split: str = "train") -> Explanation:
        """Return what the run found out about one class, as `stce.explain` would.

        It is shown in the discovery clips, from which the members of the concepts are, or in the
        clips of the split "test". A class that was not explained is refused.
        """
        found, result = self.concepts, self.tcav
        if class_name not in result.cavs:
            raise ValueError(
                f"class_name is {class_name!r}, which {self.run.folder} does not explain; choose "
                f"one of {', '.join(sorted(result.cavs))}."
            )
        shown = self.discovery if split == "train" else self.test
        outcomes = None
        if self.run.holds("ablate"):
            outcomes = pd.concat([self.outcomes, self.controls]).query("`class` == @class_name")
        settings = {name: v for one in self.settings.values() for name, v in one.items()}
        it = Explanation(class_name, *shown, found, result, outcomes, settings, self.network)
        return replace(it, settings={**settings, "fill": it.fill, "split": split})

    def example(self, class_name: str) -> Example:
        """Return the test clip of a class in which the order of its ranking shows most clearly.

        Of those that hold the most important concept it stays recognised longest, and is
        recognised first: the probability of its class, averaged over the steps, differs most
        between adding and removing. A class of which no concepts were added and removed is refused.
        """
        it, every = self.explanation(class_name, "test"), self.outcomes
        mine = every[(every["class"] == class_name) & (every["order"] == "top")]
        if mine.empty:
            raise ValueError(
                f"class_name is {class_name!r}, of which {self.run.folder} added and removed no "
                f"concepts; choose one of {', '.join(sorted(every['class'].unique()))}."
            )
        chance = mine.groupby(["video", "mode"])["probability"].mean().unstack()
        lead = chance["add"] - chance["remove"]
        first = mine[(mine["mode"] == "add") & (mine["q"] == 1) & (mine["revealed"] > 0)]
        clip = int((lead[first["video"]] if len(first) else lead).idxmax())
        return Example(it, mine, self.subject().case(clip))


@dataclass(frozen=True, eq=False)
class Example:
    """One test clip to which concepts are added, or from which they are removed (Figures 3, 4).

    Attributes
    ----------
    explanation : stce.explanation.Explanation
        The class, with the test clips.
    outcomes : pandas.DataFrame
        Rows of :func:`stce.ablation.run` of all test clips of the class, most important first.
    case : stce.ablation.Case
        The clip, with the concepts of its supervoxels.
    """

    explanation: Explanation
    outcomes: pd.DataFrame
    case: Case

    @property
    def clip(self) -> int:
        """Index of the clip."""
        return self.case.video

    @property
    def frames(self) -> np.ndarray:
        """The clip, ``(T, H, W, C) uint8``."""
        return self.explanation.clips.frames[self.clip]

    def steps(self, mode: str) -> pd.DataFrame:
        """Return the rows of `outcomes` of this clip in mode "add" or "remove", sorted by ``q``."""
        return self.outcomes.query("video == @self.clip and mode == @mode").sort_values("q")

    def masks(self, mode: str) -> list[np.ndarray]:
        """Return what is visible at each step, ``(T, H, W) bool`` each."""
        order = self.explanation.ranking[: self.steps(mode)["q"].max()]
        return self.case.order("top", 0, order).masks(mode)

    def titles(self, mode: str) -> list[str]:
        """Return for each step what was changed, and the probability of the class."""
        steps = self.steps(mode)
        start, sign = {"add": ("blank clip", "+"), "remove": ("whole clip", "-")}[mode]
        names = [start, *(f"{sign} rank {q}" for q in steps["q"][1:])]
        chances = [f"{chance:.0%} {self.explanation.class_name}" for chance in steps["probability"]]
        return ["\n".join(both) for both in zip(names, chances, strict=True)]


def draw_random(it: Finished, chosen: Mapping, n=None, notes=None) -> tuple[Clips, str]:
    """Draw `n` random clips of the form of a run's, as parameters `chosen` of stage tcav say.

    Returned is also what they are, see :func:`stce.datasets.negatives.negatives`; for other classes
    stand some of the discovery clips. By default there are ``n_random_clips``.
    """
    like, n = it.discovery.clips, n or chosen["n_random_clips"]
    if chosen["random_source"] == "others":
        rows = np.linspace(0, len(like) - 1, min(n, len(like)))
        return like.select(rows.astype(int)), OTHERS
    _, n_frames, height, width, channels = like.frames.shape
    how = {"n_frames": n_frames, "size": (height, width), "channels": channels}
    how |= {"seed": chosen["seed"], "exclude": like.classes, "n_jobs": it.n_jobs, "notes": notes}
    if chosen["random_source"] == "folder":
        made, table = it.run.parameters("train"), it.videos("train").table
        known = table.loc[table["id"].isin(like.ids)].get("path", ())
        how["known"] = [HOME / "notebooks" / path for path in known]
        how["exclude"] = [like.classes[y] for y in np.unique(like.labels)]
        options, how["frame_size"] = made["dataset_options"], made["frame_size"]
        how |= {"fps": options.get("fps") or None, "stride": options.get("stride", 1)}
        # As the clips themselves: a folder's keep their shape unless it is told otherwise.
        how["fit"] = options.get("fit", "crop" if made["dataset"] == "folder" else "squash")
    how["folder"] = os.path.relpath(path_of(chosen["random_folder"], HOME / "notebooks"))
    return negatives_of(chosen["random_source"], n, **how)


def open_stage(name: str, namespace: Mapping) -> tuple[SimpleNamespace, Stage, Finished]:
    """Open the stage of a notebook, right after the cell with its parameters.

    Takes what :func:`stce.study.parameters.read` does. Returned are the parameters, one attribute
    each; the stage itself, which says whether it has to be computed; and the stages before it.
    """
    p = parameters.read(name, namespace)
    connect(p.scheduler)
    run = Run(p.run_folder)
    stage = run.stage(name, vars(p), READS[name])
    return p, stage, Finished(run, device=p.device, n_jobs=p.n_jobs)
