"""What a finished run found out about one class: all that a figure of it needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from stce import models
from stce.clips import Clips
from stce.concepts import Concepts
from stce.models.network import Network
from stce.study import parameters
from stce.supervoxels import Supervoxels
from stce.tcav import Tcav

__all__ = ["Finding"]


@dataclass(frozen=True)
class Finding:
    """One class as a run explains it.

    Attributes
    ----------
    class_name : str
        The class.
    clips : stce.clips.Clips
        The discovery clips, or the test clips, of all classes.
    supervoxels : stce.supervoxels.Supervoxels
        Of these clips.
    concepts : stce.concepts.Concepts
        Found in the discovery clips, of all classes.
    scores : pandas.DataFrame
        One row a concept of this class, indexed by ``concept``, the most important first; columns
        as in :class:`stce.tcav.Tcav`.
    cavs : numpy.ndarray
        ``(K, R, D) float32``, the CAVs of this class.
    network : stce.models.network.Network
        The network explained, cut at the layer of the run.
    """

    class_name: str
    clips: Clips
    supervoxels: Supervoxels
    concepts: Concepts
    scores: pd.DataFrame
    cavs: np.ndarray
    network: Network

    @classmethod
    def load(cls, run, class_name: str, split: str = "train") -> Finding:
        """Read it from a run.

        Parameters
        ----------
        run : stce.study.run.Run
            With the stages train, segment, cluster and tcav.
        class_name : str
            The class.
        split : {"train", "test"}, default "train"
            Discovery clips or test clips.

        Raises
        ------
        ValueError
            If the run did not explain this class.
        FileNotFoundError
            If a stage is missing.
        """
        concepts, found = Concepts.load(run.path("cluster")), Tcav.load(run.path("tcav"))
        if class_name not in found.cavs:
            raise ValueError(
                f"class_name is {class_name!r}, which {run.folder} does not explain; choose one of "
                f"{', '.join(sorted(found.cavs))}."
            )
        scores = found.scores[found.scores["class"] == class_name]
        embedded = parameters.check("cluster", run.manifest("cluster")["parameters"])
        how = {"layer": embedded["layer"] or None, "features": embedded["features"]}
        return cls(
            class_name,
            Clips.load(run.path("segment") / f"{split}-clips"),
            Supervoxels.load(run.path("segment") / f"{split}-supervoxels"),
            concepts,
            scores.sort_values("rank").set_index("concept"),
            found.cavs[class_name],
            models.load(run.path("train") / "last.safetensors", **how),
        )

    @property
    def fill(self) -> int:
        """Grey value of hidden voxels from 0 to 255, which is the data set's mean."""
        return int(255 * float(self.network.mean.mean()))

    @property
    def ranking(self) -> list[int]:
        """The concepts, most important first."""
        return self.scores.index.tolist()

    def ends(self, n: int = 2) -> list[int]:
        """Return the n most and the n least important concepts, in the order of their rank."""
        return self.ranking[:n] + self.ranking[n:][-n:]

    def members(self, concept: int) -> np.ndarray:
        """Return the supervoxels kept for a concept, nearest to its centre first.

        They are rows of the table of the discovery clips' supervoxels, ``(m,) int64``.
        """
        return self.concepts.members(self.class_name, concept)

    def title(self, concept: int) -> str:
        """Return rank and score of a concept in words."""
        row = self.scores.loc[concept]
        return f"rank {row['rank']} of {len(self.scores)}, score {row['score']:.2f}"
