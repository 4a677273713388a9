"""One test clip to which concepts are added, or from which they are removed (Figures 3 and 4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from stce import ablation
from stce.study.finding import Finding

__all__ = ["Example"]


@dataclass(frozen=True, eq=False)
class Example:
    """The test clip of a class in which the order of its ranking shows most clearly.

    Attributes
    ----------
    finding : stce.study.finding.Finding
        The class, with the test clips.
    clip : int
        Index of the clip.
    outcomes : pandas.DataFrame
        Rows of :func:`stce.ablation.run` of all test clips of the class, most important first.
    case : stce.ablation.Case
        The clip with its concepts.
    """

    finding: Finding
    clip: int
    outcomes: pd.DataFrame
    case: ablation.Case

    @classmethod
    def load(cls, run, class_name: str) -> Example:
        """Read it from a run.

        Of all test clips in which the most important concept is seen it is the one that stays
        recognised longest, and is recognised first: the probability of its class, averaged over
        the steps, differs most between adding and removing.

        Parameters
        ----------
        run : stce.study.run.Run
            With the stages train to ablate.
        class_name : str
            The class.

        Raises
        ------
        ValueError
            If the run did not explain this class, or added and removed no concepts of it.
        FileNotFoundError
            If a stage is missing.
        """
        it = Finding.load(run, class_name, "test")
        outcomes = pd.read_parquet(run.path("ablate") / "outcomes.parquet")
        mine = outcomes[(outcomes["class"] == class_name) & (outcomes["order"] == "top")]
        if mine.empty:
            raise ValueError(
                f"class_name is {class_name!r}, of which {run.folder} added and removed no "
                f"concepts; choose one of {', '.join(sorted(outcomes['class'].unique()))}."
            )
        chance = mine.groupby(["video", "mode"])["probability"].mean().unstack()
        lead = chance["add"] - chance["remove"]
        first = mine[(mine["mode"] == "add") & (mine["q"] == 1) & (mine["revealed"] > 0)]
        clip = int((lead[first["video"]] if len(first) else lead).idxmax())
        stretch = run.manifest("cluster")["parameters"]["stretch"]
        given = it.network, it.clips, it.supervoxels, it.concepts, {class_name: it.ranking}
        return cls(it, clip, mine, ablation.Subject(*given, stretch=stretch).case(clip))

    @property
    def frames(self) -> np.ndarray:
        """The clip, ``(T, H, W, C) uint8``."""
        return self.finding.clips.frames[self.clip]

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
        order = self.finding.ranking[: self.steps(mode)["q"].max()]
        return self.case.order("top", 0, order).masks(mode)

    def titles(self, mode: str) -> list[str]:
        """Return for each step what was changed, and the probability of the class."""
        steps = self.steps(mode)
        start, sign = {"add": ("blank clip", "+"), "remove": ("whole clip", "-")}[mode]
        names = [start, *(f"{sign} rank {q}" for q in steps["q"][1:])]
        chances = [f"{chance:.0%} {self.finding.class_name}" for chance in steps["probability"]]
        return ["\n".join(both) for both in zip(names, chances, strict=True)]
