"""Explain one class of anybody's network: all steps of the method in one call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from stce import ablation, curves, supervoxels
from stce.clips import Clips, as_clips, of_class
from stce.concepts import WAYS, Concepts
from stce.datasets.negatives import clips_against, shown_by
from stce.engine import storage
from stce.engine.device import typed
from stce.engine.progress import tell
from stce.engine.slic import CUT_ON, painter
from stce.evaluation import trust
from stce.evaluation.effects.contributions import Contributions, explain_clip
from stce.evaluation.effects.depth import over_layers, seen_at
from stce.evaluation.trust import Evidence, Trust, gather
from stce.evaluation.verdict import Verdict, verdict
from stce.features import recognised
from stce.models.adapt import Explainable, lent, seen
from stce.models.explainable import FEATURES
from stce.models.probe import logit_name, logit_names
from stce.supervoxels import Supervoxels
from stce.tcav import TARGETS, Tcav

NEGATIVES = ("clips", "supervoxels", "matched")
CHOICES = {"target": TARGETS, "features": FEATURES, "random_from": NEGATIVES, "discover": WAYS}
CHOICES |= {"segment_on": CUT_ON}  # and features may name a layer, which the network knows
# The paper's way, and what was confirmed on large pictures with other classes (book/decisions.md).
PAPER = {"n_segments": (15, 50, 80), "features": "supervoxels", "random_from": "clips"}
CONFIRMED = {"n_segments": (50, 150, 300), "features": "pooled", "random_from": "matched"}
LARGE = 112


@dataclass(frozen=True)
class Explanation:
    """What was found out about one class, by :func:`explain` or by a run; opens with its verdict.

    Attributes
    ----------
    class_name, clips, supervoxels : str, stce.clips.Clips and stce.supervoxels.Supervoxels
        The class, the clips in which its concepts were found, and theirs.
    concepts, tcav : stce.concepts.Concepts, stce.tcav.Tcav
        Of this class; those of others may be there too.
    outcomes : pandas.DataFrame or None
        Rows of :func:`stce.ablation.run` where test clips were given, of ranked and matched orders.
    layers : pandas.DataFrame or None
        The scores at other `layers`, :func:`stce.evaluation.effects.depth.over_layers`, which
        `stce.viz.charts.depth_chart` draws.
    trust : stce.evaluation.trust.Trust or None
        With ``check``: what a sceptic asks of it, and what is answered.
    settings : dict
        The arguments, the grey value of hidden voxels (``fill``), versions of stce and torch.
    network : stce.models.adapt.Explainable or None
        What was explained; None after :meth:`load`.
    evidence : stce.evaluation.trust.Evidence or None
        What it was made from; None after :meth:`load`, and of a run.
    """

    class_name: str
    clips: Clips
    supervoxels: Supervoxels
    concepts: Concepts
    tcav: Tcav
    outcomes: pd.DataFrame | None
    settings: dict
    network: Explainable | None = field(default=None, repr=False, compare=False)
    layers: pd.DataFrame | None = None
    trust: Trust | None = field(default=None, repr=False, compare=False)
    evidence: Evidence | None = field(default=None, repr=False, compare=False)

    def __repr__(self):
        ranking = ", ".join(map(str, self.ranking))
        return f"{self.verdict}\n\nConcepts of {self.class_name}, most important first: {ranking}"

    @cached_property
    def verdict(self) -> Verdict:
        """What speaks against believing it, see :func:`stce.evaluation.verdict.verdict`."""
        found = self.concepts if self.settings.get("split", "train") == "train" else None
        given = self.scores.reset_index(), found, self.clips, self.supervoxels
        if self.outcomes is not None or "recognised" not in self.settings:
            return verdict(*given, outcomes=self.outcomes)
        mine = self.clips.indices_of(self.class_name)
        right = np.arange(len(mine)) < self.settings["recognised"]
        return verdict(*given, answers=pd.DataFrame({"class": self.class_name, "correct": right}))

    @property
    def scores(self) -> pd.DataFrame:
        """One row a concept, indexed by ``concept``, the most important first.

        The columns are those of :class:`stce.tcav.Tcav`; `stce.viz.charts.score_chart` draws them.
        """
        mine = self.tcav.scores[self.tcav.scores["class"] == self.class_name]
        return mine.sort_values("rank").set_index("concept")

    @property
    def ranking(self) -> list[int]:
        """The concepts, most important first."""
        return self.tcav.ranking(self.class_name)

    @property
    def cavs(self) -> np.ndarray:
        """The CAVs of this class, ``(K, R, D) float32``."""
        return self.tcav.cavs[self.class_name]

    @property
    def fill(self) -> int:
        """The grey value of what is hidden, from 0 to 255."""
        return self.settings["fill"] if self.network is None else self.network.blank

    @property
    def accuracy(self) -> pd.DataFrame | None:
        """Accuracy while concepts are added and removed, as `charts.accuracy_curves` draws it."""
        if self.outcomes is None:
            return None
        ranked = ~self.outcomes["order"].isin(ablation.MATCHED)
        mine = self.outcomes[ranked & (self.outcomes["class"] == self.class_name)]
        return curves.accuracy_table(mine, seed=self.settings["seed"])

    @property
    def motion(self) -> pd.DataFrame | None:
        """With ``check``: whether each concept counts by its motion or its look.

        These are the ``concepts`` of :func:`stce.evaluation.effects.motion.assess`;
        `stce.viz.charts.motion_chart` draws them.
        """
        return None if self.trust is None else self.trust.tables["motion"]

    def check(self, **asked) -> Trust:
        """Ask what a sceptic asks, see :func:`stce.evaluation.trust.examine`, the `asked` too."""
        if self.evidence is None:
            raise ValueError(
                "what this explanation was made from is not at hand; call check on what explain "
                "returns (of a run: stage validate)."
            )
        return trust.examine(self.evidence, **{"seed": self.settings["seed"], **asked})

    @typed
    def ends(self, n: int = 2) -> list[int]:
        """Return the n most and the n least important concepts, in the order of their rank."""
        return self.ranking[:n] + self.ranking[n:][-n:]

    def title(self, concept: int) -> str:
        """Return rank and score of a concept in words."""
        self.members(concept)  # refuses one that there is not
        row = self.scores.loc[concept]
        name = f"{row['name']}, " if row.get("name") else ""
        return f"{name}rank {row['rank']} of {len(self.scores)}, score {row['score']:.2f}"

    def explain_clip(self, clip, **how) -> Contributions:
        """As :func:`stce.evaluation.effects.contributions.explain_clip` does."""
        return explain_clip(self, clip, **how)

    def members(self, concept: int) -> np.ndarray:
        """Return the supervoxels of a concept, nearest to its centre first, ``(m,) int64``."""
        return self.concepts.members(self.class_name, concept)

    def save(self, folder: str | Path) -> None:
        """Write all but the network into a new folder, which appears complete or not at all."""
        folder = storage.path_of(folder)
        if folder.exists():
            raise FileExistsError(f"{folder} is there already; delete it or save to a new folder.")
        with storage.replacing(folder, folder=True) as partial:
            self.clips.save(partial / "clips")
            storage.write_array(partial / "labels.zarr", self.supervoxels.labels)
            self.concepts.save(partial)
            self.tcav.save(partial)
            tables = {"outcomes": self.outcomes, "layers": self.layers}
            tables = {name: table for name, table in tables.items() if table is not None}
            storage.write_parts(partial, supervoxels=self.supervoxels.table, **tables)
            if self.trust is not None:
                self.trust.save(partial / "trust")
            facts = {"class_name": self.class_name, "settings": self.settings}
            facts = json.dumps(facts, indent=1, default=np.generic.tolist)  # numbers of numpy
            (partial / "explanation.json").write_text(facts, "utf-8")
            storage.seal(partial)

    @classmethod
    def load(cls, folder: str | Path) -> Explanation:
        """Read what :meth:`save` wrote; FileNotFoundError if it is not there."""
        folder = storage.path_of(folder)
        if not (folder / "explanation.json").is_file():
            raise FileNotFoundError(
                f"There is no explanation in {folder}; write one with Explanation.save."
            )
        storage.check_sealed(folder, "delete the folder and save the explanation again")
        facts = storage.read_file(folder / "explanation.json", "class_name", "settings")
        files = (folder / f"{name}.parquet" for name in ("outcomes", "layers"))
        outcomes, deep = (storage.read_file(f) if f.exists() else None for f in files)
        told = Trust.load(folder / "trust") if (folder / "trust").exists() else None
        found = (of.load(folder) for of in (Supervoxels, Concepts, Tcav))
        found = facts["class_name"], Clips.load(folder / "clips"), *found, outcomes
        return cls(*found, facts["settings"], layers=deep, trust=told)


@partial(typed, but=("clips",))
def explain(
    model: nn.Module | Explainable | str,
    layer: str | None,
    clips,
    target_class: str | int,
    *,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    classes: Sequence[str] | None = None,
    random=None,
    random_from: str | None = None,
    test_clips=None,
    segment_on: str = "pixels",
    n_segments: tuple[int, ...] | None = None,
    n_concepts: int = 25,
    concepts=None,
    discover: str = "kmeans",
    n_keep: int = 40,
    n_groups: int = 50,
    compactness: float = 20.0,
    sigma: float = 1.0,
    target: str = "logit",
    features: str | None = None,
    concept_layer: str | None = None,
    layers: Sequence[str] | None = None,
    stretch: bool = False,
    pool: bool = True,
    q_max: int = 5,
    n_random_orders: int = 10,
    n_matched: int = 2,
    check: bool = False,
    seed: int = 0,
    batch_size: int = 64,
    device=None,
    n_jobs: int = 1,
    progress: bool = True,
) -> Explanation:
    """Find the concepts of a class in a network and rank them (the method of the paper).

    Where `clips` are of several classes and 112 pixels or more high and wide, what was confirmed on
    such films is the default: ``features="pooled"``, ``n_segments=(50, 150, 300)``,
    ``random="others"`` and ``random_from="matched"``. Else, at a layer without positions, or if you
    give other `features` or `random`, it is the paper's: "supervoxels", (15, 50, 80), moving
    textures and "clips".

    Parameters
    ----------
    model : torch.nn.Module, Explainable or str
        Any module that takes ``(N, C, T, H, W)`` and returns logits ``(N, Y)``, a `Network`,
        features of your own (`stce.models.adapt.Functions`), or what `stce.models.load` takes, such
        as ``"i3d-kinetics400"``. A module comes back as it was.
    layer : str or None
        A name in ``dict(model.named_modules())``; for a `Network` one of its ``layers``. None
        where `model` has its own: a `Network`, `Adapted` or `Functions`.
    clips : Clips or array_like
        Of the class to explain; arrays as for :meth:`stce.clips.Clips.of_array`. Of `Clips` with
        several classes those of `target_class` are taken.
    target_class : str or int
        A name in `classes`, or the index of the logit.
    mean, std : float or sequence of float, default 0 and 1
        The model's own normalisation, ``(pixel / 255 - mean) / std``; for `Network` and
        `Functions` theirs is used. Hidden voxels show `mean`, so that 0 means black.
    classes : sequence of str, optional
        Names of the logits; default those of the clips where there are as many.
    random : Clips, array_like, int or "others", optional
        The clips that concepts are told apart from; a number makes so many moving textures, and
        "others" takes those of the other classes in `clips`. Of textures ``n_groups * n_keep``.
    random_from : {"clips", "supervoxels", "matched"}, optional
        Take them whole, supervoxels of them (:class:`stce.features.Negatives`), or those that are
        as large and lie where the concept's do (:func:`stce.tcav.matched_groups`).
    test_clips : Clips or array_like, optional
        Clips of the class that the ranking is tested on; without them it is not.
    segment_on : {"pixels", "features"}, default "pixels"
        What is cut: what is seen, or the layer's map (:func:`stce.engine.slic.painter`).
    n_segments, compactness, sigma, n_concepts, n_keep, discover
        See :func:`stce.supervoxels.segment_clip` and :func:`stce.concepts.cluster`; `n_concepts`
        may be 0 where `concepts` are given.
    concepts : mapping of str to Clips, array_like or path, optional
        Concepts of your own beside those that are found, each by five examples or more: clips (or
        a folder of films) that show it, or masks ``(N, T, H, W) bool`` of it in the N clips of the
        class (:func:`stce.concepts.with_examples`). They are the last ones by number, and the
        scores have their ``name``. One against another: give the other's clips as `random`.
    n_groups, target, pool, q_max, n_random_orders, n_matched
        See :func:`stce.tcav.random_groups`, :func:`stce.tcav.slopes`,
        :func:`stce.models.adapt.adapt`, :func:`stce.ablation.run`, ``ranked`` and ``matched``.
    check : bool, default False
        Also ask, on `test_clips`, what a sceptic asks (:func:`stce.evaluation.trust.examine`), and
        of each concept whether its motion or its look counts.
    features : str, optional
        Show the "supervoxels" to the model one by one as the paper does; or take them "pooled" from
        the layer's map of the whole clip: one forward pass a clip, about a hundredth of the cost;
        or hide them on the map of the earlier layer of this name: only what follows is run again.
    concept_layer : str, optional
        Find and tell concepts at another layer than they are scored at, such as an earlier one with
        a finer map, which what was confirmed takes of a `Network`; default the same.
    layers : sequence of str, optional
        Score the same concepts at each of these as well, see ``layers`` of the result.
    stretch, batch_size, n_jobs, progress
        See :func:`stce.features.batches`; with `progress` the verdict is printed, too.
    seed, device : int, default 0, and torch.device, optional
        Seeds everything random; where the model runs (it is moved there and back), default where it
        is.

    Returns
    -------
    Explanation
        Concepts, scores and, with `test_clips`, the outcome of every masked clip; and a verdict.
        What is significant tells the ``verdict`` in the scores, that of
        :func:`stce.evaluation.significance.against_chance`; `p` is at least ``1 / (1 + n_groups)``.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv3d(1, 4, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
    ...                       nn.Linear(4, 2))
    >>> clips = np.random.default_rng(0).integers(0, 256, (4, 4, 24, 24, 1), np.uint8)
    >>> found = explain(model, "0", clips, 1, random=10, n_segments=(4, 8), n_concepts=3,
    ...                 n_keep=5, n_groups=3)
    >>> sorted(found.ranking)
    [0, 1, 2]
    """
    given = {"n_segments": n_segments, "features": features, "random_from": random_from}
    given = {key: value for key, value in given.items() if value is not None}
    settings = PAPER | given | {
        "compactness": compactness, "sigma": sigma, "n_concepts": n_concepts, "n_keep": n_keep,
        "discover": discover, "n_groups": n_groups, "target": target, "stretch": stretch,
        "n_random_orders": n_random_orders, "n_matched": n_matched, "pool": pool, "seed": seed,
        "segment_on": segment_on,
    }  # fmt: skip
    _check({**settings, "q_max": q_max, "batch_size": batch_size}, int(not concepts))
    if check and test_clips is None:
        raise ValueError("check is True, but nothing can be changed in test_clips; give some.")
    clips = as_clips(clips, "clips")
    shape = clips.clip_shape
    how = {"clip_shape": shape, "mean": mean, "std": std, "pool": pool, "classes": classes}
    with lent(model, layer, settings["features"], device, **how) as network:
        large = min(shape[2:]) >= LARGE and len(np.unique(clips.labels)) > 1
        if large and features in (None, "pooled") and (random is None or isinstance(random, str)):
            with suppress(ValueError):  # of a layer without positions
                network = seen(network, None, "pooled")
                settings |= CONFIRMED | given
                random, concept_layer = random or "others", concept_layer or network.finer
        finder = seen(network, concept_layer, settings["features"])
        views = None if layers is None else seen_at(network, layers)
        names = logit_names(network, clips, classes)
        name = logit_name(target_class, names)
        mine = of_class(clips, name, names, "clips")
        if test_clips is not None:
            test_clips = as_clips(test_clips, "test_clips", shape)
            test_clips = of_class(test_clips, name, names, "test_clips")
        random = n_groups * n_keep if random is None else random
        random = clips_against(random, clips, name, seed)
        own = shown_by(concepts, mine, n_keep, seed)
        settings["n_segments"] = list(settings["n_segments"])
        settings |= {"layer": layer, "concept_layer": concept_layer, "concepts": list(own)}
        settings |= {"n_random": len(random), "fill": network.blank}
        settings |= {"stce": version("stce"), "torch": torch.__version__}
        cutting = {key: settings[key] for key in ("n_segments", "compactness", "sigma")}
        cutting |= {"on": painter(finder, segment_on, network.device)}
        cutting |= {"n_jobs": n_jobs, "progress": progress}
        running = {"batch_size": batch_size, "device": network.device}
        made = gather(network, finder, mine, random, names, settings, cutting, running, own)
        settings["q_max"] = min(q_max, len(made.concepts.centres[name]))
        found, result, outcomes, told = made.concepts, made.tcav, None, None
        if test_clips is None:
            settings["recognised"] = recognised(network, mine, running["device"])
        else:
            made = made.tested_on(test_clips, cutting, running, embedded=check)
            orders = ablation.ranked(n_random_orders, seed), ablation.matched(n_matched, seed)
            steps = {"q_max": settings["q_max"], "seed": seed, "progress": progress}
            outcomes = pd.concat(ablation.run(made.tested, *orders, **steps), ignore_index=True)
            made = replace(made, outcomes=outcomes)
        told = trust.examine(made, seed=seed) if check else None
        deep = None if views is None else over_layers(made, views)
    given = found, result, outcomes, settings, network, deep, told, made
    it = Explanation(name, *made.discovery, *given)
    tell(f"{it.verdict}\n\n{told}" if check else str(it.verdict), show=progress)
    return it


def _check(given: dict, n_concepts: int) -> None:
    """Refuse what a late step would stumble over, before the first one starts."""
    supervoxels.check_cut(given["n_segments"], given["compactness"], given["sigma"])
    least = dict(n_concepts=n_concepts, n_keep=1, n_groups=2, q_max=1, batch_size=1, seed=0)
    for name, low in least.items():
        if given[name] < low or name == "n_concepts" and given[name] > 63:
            most = ", at most 63" if name == "n_concepts" else ""
            raise ValueError(f"{name} is {given[name]!r}; it takes int, at least {low}{most}.")
    for name, known in CHOICES.items():
        if not isinstance(given[name], str) or name != "features" and given[name] not in known:
            raise ValueError(f"{name} is {given[name]!r}; choose one of {', '.join(known)}.")
