"""What a finished run computed its scores from, and tested them on, to be looked at again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stce import features, models, tcav
from stce.clips import Clips
from stce.concepts import Concepts
from stce.datasets.negatives import negatives
from stce.models.network import Network
from stce.study import parameters
from stce.supervoxels import Supervoxels

__all__ = ["Evidence"]


@dataclass(frozen=True)
class Evidence:
    """The inputs and the result of a run's stage tcav, and what they are tested on.

    Attributes
    ----------
    network : stce.models.network.Network
        The network explained, cut at the layer of the run.
    clips : stce.clips.Clips
        The discovery clips, N of them.
    supervoxels : stce.supervoxels.Supervoxels
        Of these clips, S of them.
    concepts : stce.concepts.Concepts
        Found in them.
    features : array_like
        ``(S, D) float32``, of the supervoxels.
    whole : numpy.ndarray
        The discovery clips at layer l, see :func:`stce.features.extract_layer`.
    random_clips : stce.clips.Clips
        The random clips, M of them.
    random : numpy.ndarray
        ``(M, D) float32``, what the CAVs tell the concepts from.
    groups : numpy.ndarray
        ``(R, m) int64``, the groups of them.
    result : stce.tcav.Tcav
        The scores.
    test_clips : stce.clips.Clips
        The test clips.
    test_supervoxels : stce.supervoxels.Supervoxels
        Of these clips.
    settings : dict
        Parameters of the stages, by stage.
    """

    network: Network
    clips: Clips
    supervoxels: Supervoxels
    concepts: Concepts
    features: object
    whole: np.ndarray
    random_clips: Clips
    random: np.ndarray
    groups: np.ndarray
    result: tcav.Tcav
    test_clips: Clips
    test_supervoxels: Supervoxels
    settings: dict[str, dict]

    @classmethod
    def load(cls, run, *, device="cpu", n_jobs: int = 1) -> Evidence:
        """Read it from a run; random clips are drawn and embedded again, with the run's seed.

        Parameters
        ----------
        run : stce.study.run.Run
            With the stages train, segment, cluster and tcav.
        device : torch.device, default "cpu"
            Where clips are embedded.
        n_jobs : int, default 1
            Processes.

        Raises
        ------
        FileNotFoundError
            If a stage is missing.
        """
        # A run may be older than a parameter, which then had its default.
        stages = ("segment", "cluster", "tcav")
        settings = {s: parameters.check(s, run.manifest(s)["parameters"]) for s in stages}
        embedded, scored = settings["cluster"], settings["tcav"]
        clips = Clips.load(run.path("segment") / "train-clips")
        weights = run.path("train") / "last.safetensors"
        how = {"layer": embedded["layer"] or None, "features": embedded["features"]}
        network = models.load(weights, device=device, **how)
        _, n_frames, height, width, channels = clips.frames.shape
        random_clips, _ = negatives(
            scored["random_source"],
            scored["n_random_clips"],
            folder=scored["random_folder"],
            exclude=clips.classes,
            n_frames=n_frames,
            size=(height, width),
            channels=channels,
            seed=scored["seed"],
            n_jobs=n_jobs,
        )
        rng = np.random.default_rng(scored["seed"])
        if scored["random_from"] == "clips":
            random = features.extract_clips(network, random_clips, device=device)
        else:
            slic = {n: settings["segment"][n] for n in ("n_segments", "compactness")}
            slic |= {n: settings["segment"][n] for n in ("sigma", "spacing")}
            how = {"stretch": embedded["stretch"], "n_jobs": n_jobs, "device": device}
            random = features.extract_random(network, random_clips, rng, **slic, **how)
        return cls(
            network,
            clips,
            Supervoxels.load(run.path("segment") / "train-supervoxels"),
            Concepts.load(run.path("cluster")),
            features.stored(run.path("cluster")),
            features.extract_layer(network, clips, device=device),
            random_clips,
            random,
            tcav.random_groups(len(random), scored["n_groups"], embedded["n_keep"], rng),
            tcav.Tcav.load(run.path("tcav")),
            Clips.load(run.path("segment") / "test-clips"),
            Supervoxels.load(run.path("segment") / "test-supervoxels"),
            settings,
        )

    def given(self, concepts: Concepts | None = None, groups: np.ndarray | None = None) -> tuple:
        """Return the positional arguments of :func:`stce.tcav.score`.

        Parameters
        ----------
        concepts : stce.concepts.Concepts, optional
            Other concepts than the run's, from the same features.
        groups : numpy.ndarray, optional
            Other random groups.
        """
        concepts = self.concepts if concepts is None else concepts
        groups = self.groups if groups is None else groups
        mine = {name: self.whole[self.clips.indices_of(name)] for name in concepts.centres}
        inputs = concepts, self.features, mine, self.random, groups
        return (self.network, *inputs, self.clips.classes)

    @property
    def rankings(self) -> dict[str, list[int]]:
        """The concepts of each class, most important first."""
        return {name: self.result.ranking(name) for name in self.concepts.centres}

    @property
    def options(self) -> dict:
        """The keyword arguments that the run's scores were made with."""
        names = ("target", "strength", "seed")
        return {name: self.settings["tcav"][name] for name in names}
