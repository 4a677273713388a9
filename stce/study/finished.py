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

from stce import features, models, tcav
from stce.ablation import Case, Subject
from stce.clips import Clips
from stce.concepts import Concepts
from stce.datasets.negatives import negatives
from stce.engine.device import resolve
from stce.engine.workers import connect
from stce.evaluation.verdict import Verdict, verdict
from stce.explanation import Explanation
from stce.models.network import Network
from stce.study import parameters
from stce.study.known import HOME
from stce.study.run import READS, STAGES, Run, Stage
from stce.supervoxels import Supervoxels
from stce.tcav import Samples, Tcav
from stce.videos import CachedVideos

__all__ = ["Example", "Finished", "Part", "draw_random", "embed_random", "open_stage"]


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

    def videos(self, split: str) -> CachedVideos:
        """Return the decoded videos to train on, "train", or to test on, "test"."""
        return CachedVideos.load(self.run.path("train") / f"videos-{split}")

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """What the network makes of whole test clips, of :func:`stce.training.evaluate`."""
        return pd.read_parquet(self.run.path("train") / "predictions.parquet")

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
        return pd.read_parquet(self.run.path("ablate") / "outcomes.parquet")

    @cached_property
    def controls(self) -> pd.DataFrame | None:
        """The same, of :func:`stce.ablation.matched`; None in a run that is older than they are."""
        file = self.run.path("ablate") / "controls.parquet"
        return pd.read_parquet(file) if file.exists() else None

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

    @property
    def random_clips(self) -> Clips:
        """The M random clips, drawn again with the run's seed."""
        return self._drawn[0]

    @property
    def random_kind(self) -> str:
        """What they are, see :func:`stce.datasets.negatives.negatives`."""
        return self._drawn[1]

    @cached_property
    def _drawn(self) -> tuple[Clips, str]:
        return self.draw()

    def draw(self, n: int | None = None, seed: int | None = None) -> tuple[Clips, str]:
        """Draw random clips of the run's kind, see :func:`draw_random`."""
        return draw_random(self.run.parameters("tcav"), self.discovery.clips, n, seed, self.n_jobs)

    @property
    def random(self) -> np.ndarray:
        """Features of the random clips, or of supervoxels cut from them, ``(M, D) float32``."""
        return self._embedded[0]

    @property
    def groups(self) -> np.ndarray:
        """The random groups, ``(R, m) int64``, rows of `random`."""
        return self._embedded[1]

    @cached_property
    def _embedded(self) -> tuple[np.ndarray, np.ndarray]:
        how = {"n_jobs": self.n_jobs, "device": self.device}
        return embed_random(self.network, self.random_clips, self.settings, **how)

    @cached_property
    def samples(self) -> Samples:
        """What the run's scores were computed from."""
        clips, found = self.discovery.clips, self.concepts
        whole = features.extract_layer(self.network, clips, device=self.device)
        mine = {name: whole[clips.indices_of(name)] for name in found.centres}
        given = found, self.features, mine, self.random, self.groups, clips.classes
        return Samples(*given, self.run.parameters("tcav")["target"])

    @property
    def options(self) -> dict[str, object]:
        """The keyword arguments of :func:`stce.tcav.score` that they were computed with."""
        scored = self.run.parameters("tcav")
        return {name: scored[name] for name in ("strength", "seed")}

    def subject(self, **options) -> Subject:
        """Return what is ablated: the test clips; options are those of the subject."""
        how = {"stretch": self.run.parameters("cluster")["stretch"], "device": self.device}
        return Subject(self.network, *self.test, self.concepts, self.rankings, **how, **options)

    def explanation(self, class_name: str, split: str = "train") -> Explanation:
        """Return what the run found out about one class, as `stce.explain` would.

        Parameters
        ----------
        class_name : str
            The class.
        split : {"train", "test"}, default "train"
            Whether it is shown in the discovery clips, from which the members of the concepts
            are, or in the test clips.

        Raises
        ------
        ValueError
            If the run did not explain this class.
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
            outcomes = pd.concat([self.outcomes, self.controls])
            outcomes = outcomes[outcomes["class"] == class_name]
        settings = {name: v for one in self.settings.values() for name, v in one.items()}
        it = Explanation(class_name, *shown, found, result, outcomes, settings, self.network)
        return replace(it, settings={**settings, "fill": it.fill, "split": split})

    def example(self, class_name: str) -> Example:
        """Return the test clip of a class in which the order of its ranking shows most clearly.

        Of those that hold the most important concept it stays recognised longest, and is
        recognised first: the probability of its class, averaged over the steps, differs most
        between adding and removing.

        Raises
        ------
        ValueError
            If the run did not explain this class, or added and removed no concepts of it.
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
        """Return the rows of `outcomes` of this clip, in the order of ``q``.

        Parameters
        ----------
        mode : {"add", "remove"}
            Whether concepts are added to a blank clip or removed from the whole one.
        """
        mine = self.outcomes
        return mine[(mine["video"] == self.clip) & (mine["mode"] == mode)].sort_values("q")

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


def draw_random(
    chosen: Mapping, like: Clips, n: int | None = None, seed: int | None = None, n_jobs: int = 1
) -> tuple[Clips, str]:
    """Draw random clips of the form of others, see :func:`stce.datasets.negatives.negatives`.

    Parameters
    ----------
    chosen : mapping
        Parameters of the stage tcav. A relative ``random_folder`` is meant from where the
        notebooks lie.
    like : stce.clips.Clips
        Their size is taken; their classes are excluded.
    n, seed : int, optional
        How many, and with which seed, instead of those of `chosen`.
    n_jobs : int, default 1
        Processes that decode.
    """
    _, n_frames, height, width, channels = like.frames.shape
    folder = Path(chosen["random_folder"])
    if not folder.is_absolute():
        folder = Path(os.path.relpath(HOME / "notebooks" / folder))
    how = {"n_frames": n_frames, "size": (height, width), "channels": channels, "n_jobs": n_jobs}
    how |= {"seed": chosen["seed"] if seed is None else seed, "exclude": like.classes}
    n = chosen["n_random_clips"] if n is None else n
    return negatives(chosen["random_source"], n, folder=folder, **how)


def embed_random(
    network: Network, clips: Clips, settings: Mapping[str, Mapping], *, n_jobs: int = 1, device
) -> tuple[np.ndarray, np.ndarray]:
    """Embed random clips, or supervoxels cut from them, and draw the random groups.

    Parameters
    ----------
    network, clips, n_jobs, device
        See :func:`stce.features.extract_random`; `clips` are the random clips.
    settings : mapping
        Parameters of the stages segment, cluster and tcav.

    Returns
    -------
    random, groups : numpy.ndarray
        ``(M, D) float32`` and ``(R, m) int64``.
    """
    made, scored = settings["cluster"], settings["tcav"]
    rng = np.random.default_rng(scored["seed"])
    if scored["random_from"] == "clips":
        random = features.extract_clips(network, clips, device=device)
    else:
        names = ("n_segments", "compactness", "sigma", "spacing")
        how = {name: settings["segment"][name] for name in names} | {"stretch": made["stretch"]}
        random = features.extract_random(network, clips, rng, n_jobs=n_jobs, device=device, **how)
    return random, tcav.random_groups(len(random), scored["n_groups"], made["n_keep"], rng)


def open_stage(name: str, namespace: Mapping) -> tuple[SimpleNamespace, Stage, Finished]:
    """Open the stage of a notebook, right after the cell with its parameters.

    Parameters
    ----------
    name : str
        The stage.
    namespace : mapping
        The notebook's ``globals()``, see :func:`stce.study.parameters.read`.

    Returns
    -------
    p : types.SimpleNamespace
        Its parameters, one attribute each.
    stage : stce.study.run.Stage
        The stage itself, which says whether it has to be computed.
    run : Finished
        The stages before it.
    """
    p = parameters.read(name, namespace)
    connect(p.scheduler)
    run = Run(p.run_folder)
    stage = run.stage(name, vars(p), READS[name])
    return p, stage, Finished(run, device=p.device, n_jobs=p.n_jobs)
