"""Explain one class of anybody's network: all steps of the method in one call."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import zarr
from torch import nn

from stce import __version__, ablation, curves, features, supervoxels, tcav
from stce import _explanation_inputs as inputs
from stce import concepts as concepts_module
from stce.clips import Clips
from stce.concepts import Concepts
from stce.datasets.textures import textures
from stce.models.adapt import Adapted, Explainable, adapt, is_explainable
from stce.models.borrow import borrowed
from stce.supervoxels import Supervoxels
from stce.tcav import Tcav

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True)
class Explanation:
    """What :func:`explain` found out about one class.

    Attributes
    ----------
    class_name : str
        The class.
    clips : stce.clips.Clips
        The discovery clips.
    supervoxels : stce.supervoxels.Supervoxels
        Of these clips.
    concepts : stce.concepts.Concepts
        Of this class.
    tcav : stce.tcav.Tcav
        Scores, CAVs and sensitivities; ``tcav.scores`` is what `stce.viz.charts.score_chart` draws.
    outcomes : pandas.DataFrame or None
        Rows of :func:`stce.ablation.run` where test clips were given.
    settings : dict
        The arguments, as JSON can hold them, and the versions of stce and torch.
    network : stce.models.adapt.Explainable or None
        What was explained; None after :meth:`load`.
    """

    class_name: str
    clips: Clips
    supervoxels: Supervoxels
    concepts: Concepts
    tcav: Tcav
    outcomes: pd.DataFrame | None
    settings: dict
    network: Explainable | None = field(default=None, repr=False, compare=False)

    @property
    def scores(self) -> pd.DataFrame:
        """One row a concept, indexed by ``concept``, the most important first.

        The columns are those of :class:`stce.tcav.Tcav`; `stce.viz.charts.score_chart` draws them.
        """
        table = self.tcav.scores
        mine = table[table["class"] == self.class_name]
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
        """Grey value of hidden voxels from 0 to 255: the mean that the network was given."""
        return int(255 * float(self.network.mean.mean()))

    @property
    def accuracy(self) -> pd.DataFrame | None:
        """Accuracy while concepts are added and removed, as `charts.accuracy_curves` draws it."""
        seed = self.settings["seed"]
        return None if self.outcomes is None else curves.accuracy_table(self.outcomes, seed=seed)

    def ends(self, n: int = 2) -> list[int]:
        """Return the n most and the n least important concepts, in the order of their rank."""
        return self.ranking[:n] + self.ranking[n:][-n:]

    def title(self, concept: int) -> str:
        """Return rank and score of a concept in words."""
        row = self.scores.loc[concept]
        return f"rank {row['rank']} of {len(self.scores)}, score {row['score']:.2f}"

    def members(self, concept: int) -> np.ndarray:
        """Return the supervoxels of a concept, nearest to its centre first, ``(m,) int64``."""
        return self.concepts.members(self.class_name, concept)

    def save(self, folder: str | Path) -> None:
        """Write everything but the network into a new folder, which appears complete or not at all.

        Raises
        ------
        FileExistsError
            If the folder is there already.
        """
        folder = Path(folder)
        if folder.exists():
            raise FileExistsError(f"{folder} is there already; delete it or save to a new folder.")
        partial = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        try:
            partial.mkdir(parents=True)
            self.clips.save(partial / "clips")
            labels = np.asarray(self.supervoxels.labels)
            zarr.create_array(partial / "labels.zarr", data=labels, chunks=(1, *labels.shape[1:]))
            self.supervoxels.table.to_parquet(partial / "supervoxels.parquet")
            self.concepts.save(partial)
            self.tcav.save(partial)
            if self.outcomes is not None:
                self.outcomes.to_parquet(partial / "outcomes.parquet")
            (partial / "explanation.json").write_text(
                json.dumps({"class_name": self.class_name, "settings": self.settings}, indent=1)
            )
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    @classmethod
    def load(cls, folder: str | Path) -> Explanation:
        """Read what :meth:`save` wrote; FileNotFoundError if it is not there."""
        folder = Path(folder)
        if not (folder / "explanation.json").is_file():
            raise FileNotFoundError(
                f"There is no explanation in {folder}; write one with Explanation.save."
            )
        facts = json.loads((folder / "explanation.json").read_text())
        outcomes = folder / "outcomes.parquet"
        return cls(
            facts["class_name"],
            Clips.load(folder / "clips"),
            Supervoxels.load(folder),
            Concepts.load(folder),
            Tcav.load(folder),
            pd.read_parquet(outcomes) if outcomes.exists() else None,
            facts["settings"],
        )


def explain(
    model: nn.Module | Explainable,
    layer: str | None,
    clips,
    target_class: str | int,
    *,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    classes: Sequence[str] | None = None,
    random=None,
    test_clips=None,
    n_segments: tuple[int, ...] = (15, 50, 80),
    n_concepts: int = 25,
    n_keep: int = 40,
    n_groups: int = 50,
    compactness: float = 20.0,
    sigma: float = 1.0,
    target: str = "logit",
    features: str = "supervoxels",
    stretch: bool = False,
    pool: bool = True,
    q_max: int = 5,
    n_random_orders: int = 10,
    seed: int = 0,
    batch_size: int = 64,
    device=None,
    n_jobs: int = 1,
    progress: bool = True,
) -> Explanation:
    """Find the concepts of a class in a network and rank them (the method of the paper).

    Parameters
    ----------
    model : torch.nn.Module or Explainable
        Any module that takes ``(N, C, T, H, W)`` and returns logits ``(N, Y)``, a `Network`, or
        features of your own (`stce.models.adapt.Functions`). A module comes back as it was.
    layer : str or None
        A name in ``dict(model.named_modules())``; for a `Network` one of its ``layers``. None
        where `model` has its own: a `Network`, `Adapted` or `Functions`.
    clips : Clips or array_like
        Of the class to explain: ``(N, C, T, H, W)`` or ``(N, T, H, W, C)``, ``uint8`` or floats
        in 0..1, not yet normalised. Of `Clips` with several classes those of `target_class` are
        taken.
    target_class : str or int
        A name in `classes`, or the index of the logit.
    mean, std : float or sequence of float, default 0 and 1
        The model's own normalisation, ``(pixel / 255 - mean) / std``; for `Network` and
        `Functions` theirs is used. Hidden voxels show `mean`, so that 0 means black.
    classes : sequence of str, optional
        Names of the logits; default those of the clips where there are as many.
    random : Clips, array_like or int, optional
        The clips that concepts are told apart from; a number makes so many moving textures.
        Default: ``n_groups * n_keep`` textures.
    test_clips : Clips or array_like, optional
        Clips of the class that the ranking is tested on; without them it is not.
    n_segments, compactness, sigma
        See :func:`stce.supervoxels.segment_clip`.
    n_concepts, n_keep
        See :func:`stce.concepts.cluster`.
    n_groups, target
        See :func:`stce.tcav.random_groups` and :func:`stce.tcav.score`.
    q_max, n_random_orders
        See :func:`stce.ablation.run`, whose `n_random` the second is.
    features : {"supervoxels", "pooled"}, default "supervoxels"
        Show the supervoxels to the model one by one as the paper does, or pool their features from
        the layer's map of the whole clip: one forward pass a clip, about a hundredth of the cost.
    stretch : bool, default False
        Stretch supervoxels to the input size as the paper does, or leave them in place; without
        effect where they are pooled.
    pool : bool, default True
        See :func:`stce.models.adapt.adapt`.
    seed : int, default 0
        Seeds everything random.
    batch_size : int, default 64
        Clips or supervoxels a forward pass. Lower it if memory runs out.
    device : torch.device, optional
        Where the model runs; it is moved there and back. Default: where it is.
    n_jobs : int, default 1
        Processes that segment; -1 for one a core.
    progress : bool, default True
        Show progress bars on a terminal.

    Returns
    -------
    Explanation
        Concepts, scores and, with `test_clips`, the outcome of every masked clip.

    Raises
    ------
    ValueError
        If an argument does not fit: the message names it and the remedy.

    Notes
    -----
    With a single class the random-against-random scores, by which `p` is told, are `n_groups` in
    number, so `p` is at least ``1 / (1 + n_groups)``.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv3d(1, 4, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
    ...                       nn.Linear(4, 2))
    >>> clips = textures(4, n_frames=4, size=(24, 24)).frames
    >>> found = explain(model, "0", clips, 1, random=10, n_segments=(4, 8), n_concepts=3,
    ...                 n_keep=5, n_groups=3)
    >>> sorted(found.ranking)
    [0, 1, 2]
    """
    inputs.check_numbers(n_segments=n_segments, n_concepts=n_concepts, n_keep=n_keep, seed=seed)
    inputs.check_numbers(n_groups=n_groups, compactness=compactness, sigma=sigma, target=target)
    inputs.check_numbers(q_max=q_max, batch_size=batch_size)
    settings = {"layer": layer, "n_segments": list(n_segments), "n_concepts": n_concepts}
    settings |= {"n_keep": n_keep, "n_groups": n_groups, "target": target}
    settings |= {"features": features, "stretch": stretch}
    settings |= {"q_max": min(q_max, n_concepts), "n_random_orders": n_random_orders, "seed": seed}
    settings |= {"compactness": compactness, "sigma": sigma, "pool": pool}
    clips = inputs.as_clips(clips, "clips")
    shape = (clips.frames.shape[-1], *clips.frames.shape[1:4])
    network = inputs.as_network(model, layer, shape) if is_explainable(model) else None
    module = (
        network.model if isinstance(network, Adapted) else model if network is None else network
    )
    with borrowed(module, device) if isinstance(module, nn.Module) else nullcontext():
        how = {"clip_shape": shape, "mean": mean, "std": std, "pool": pool, "classes": classes}
        network = adapt(model, layer, **how) if network is None else network
        network = inputs.view(network, features)
        device = network.mean.device if device is None else torch.device(device)
        network.to(device)
        names = inputs.names(network, classes, clips)
        name = inputs.one_name(target_class, names)
        mine = inputs.of_class(clips, name, names, "clips")
        tests = None
        if test_clips is not None:
            tests = inputs.as_clips(test_clips, "test_clips", shape)
            tests = inputs.of_class(tests, name, names, "test_clips")
        random = n_groups * n_keep if random is None else random
        if isinstance(random, (int, np.integer)):
            like = {"n_frames": shape[1], "size": shape[2:], "channels": shape[0], "seed": seed}
            random = textures(int(random), **like)
        random = inputs.as_clips(random, "random", shape)
        if len(random) < n_keep:
            raise ValueError(
                f"random has {len(random)} clips, fewer than one group of n_keep={n_keep}; give "
                "more, or lower n_keep."
            )
        settings |= {"n_random": len(random), "stce": __version__, "torch": torch.__version__}
        segmenting = {"n_jobs": n_jobs, "progress": progress, "n_segments": tuple(n_segments)}
        segmenting |= {"compactness": compactness, "sigma": sigma}
        running = {"batch_size": batch_size, "device": device}
        cut, found, result = _find(network, mine, random, names, settings, segmenting, running)
        outcomes = None
        if tests is not None:
            parts = ablation.run(
                network,
                tests,
                supervoxels.segment(tests, **segmenting),
                found,
                {name: result.ranking(name)},
                q_max=settings["q_max"],
                n_random=n_random_orders,
                stretch=stretch,
                seed=seed,
                progress=progress,
                **running,
            )
            outcomes = pd.concat(parts, ignore_index=True)
    if isinstance(network, Adapted):
        network.to(network.device)  # where its module is back now
    return Explanation(name, mine, cut, found, result, outcomes, settings, network)


def _find(network, clips, random, names, settings, segmenting, running):
    """Return the supervoxels, the concepts and their scores (paper 3.1 and 3.2)."""
    seed, name = settings["seed"], names[clips.labels[0]]
    cut = supervoxels.segment(clips, **segmenting)
    shown = {"stretch": settings["stretch"], "progress": segmenting["progress"]}
    z = features.extract(network, clips, cut, **shown, **running)
    rows = cut.table["video"].to_numpy()
    number = {"n_concepts": settings["n_concepts"], "n_keep": settings["n_keep"], "seed": seed}
    found = concepts_module.cluster(z, clips.labels[rows], rows, names, **number)
    rng = np.random.default_rng(seed)
    result = tcav.score(
        network,
        found,
        z,
        {name: features.extract_layer(network, clips, **running)},
        features.extract_clips(network, random, **running),
        tcav.random_groups(len(random), settings["n_groups"], settings["n_keep"], rng),
        names,
        target=settings["target"],
        seed=seed,
        device=running["device"],
        gradient=_gradient(network, clips, name, names, settings["target"], running),
    )
    return cut, found, result


def _gradient(network, clips, name, names, target, running) -> dict[str, np.ndarray] | None:
    """Return the gradient at each clip, or None where the features decide on it alone."""
    if getattr(network, "splits", "") != "no":
        return None
    parts = []
    step = max(1, running["batch_size"] // 4)  # a backward pass keeps what a forward pass forgets
    for start in range(0, len(clips), step):
        frames = torch.from_numpy(np.asarray(clips.frames[start : start + step]))
        x = network.prepare(frames.to(running["device"]))
        parts.append(network.gradient(x, names.index(name), target).cpu().numpy())
    return {name: np.concatenate(parts)}
