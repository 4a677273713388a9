"""What an explanation is made from, and what a sceptic asks of it, each with a yes or no."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

from stce import features, supervoxels, tcav
from stce.ablation import Subject
from stce.clips import Clips
from stce.concepts import Concepts, cluster, with_examples, with_named
from stce.curves import difference
from stce.engine.storage import read_file, write_parts
from stce.evaluation import significance, validation
from stce.evaluation.verdict import FEWEST
from stce.features import Negatives
from stce.models.adapt import Explainable
from stce.supervoxels import Supervoxels

# How thoroughly anybody's explanation is asked, see `stce.evaluation.validation.answers`.
ASKED = {"n_null": 400, "n_randomised": 3, "n_sgd": 0, "n_clips": FEWEST, "n_controls": 3}
ASKED |= {"n_changed": 24, "n_first": 63, "fills": ()}
# What the ranking is held against, and whether it has to be ahead of it.
RIVALS = {"least": True, "random supervoxels": True}
RIVALS |= dict.fromkeys(("grad-cam", "integrated gradients", "occlusion"), False)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What an explanation was made from, as :class:`stce.study.finished.Finished` has it of a run.

    Attributes
    ----------
    network, finder : stce.models.adapt.Explainable
        As it is scored, and as concepts were found and are told: the same, or an earlier layer.
    discovery : tuple of Clips and Supervoxels
        In which the concepts were found.
    concepts, tcav, samples, negatives
        See :class:`stce.concepts.Concepts`, :class:`stce.tcav.Tcav`, :class:`stce.tcav.Samples` and
        :class:`stce.features.Negatives`.
    seen : numpy.ndarray
        Features of the supervoxels for the `finder`, ``(S, D) float32``.
    given : dict
        The arguments of :func:`stce.explanation.explain`.
    tested : stce.ablation.Subject or None
        The clips that the ranking was tested on.
    outcomes : pandas.DataFrame or None
        What became of them, of :func:`stce.ablation.run`.
    named : dict of str to numpy.ndarray
        Of the concepts that were named, the rows of their examples among the supervoxels.
    """

    network: Explainable
    finder: Explainable
    discovery: tuple[Clips, Supervoxels]
    concepts: Concepts
    tcav: tcav.Tcav
    samples: tcav.Samples
    negatives: Negatives
    seen: np.ndarray
    given: dict
    tested: Subject | None = None
    outcomes: pd.DataFrame | None = None
    named: dict[str, np.ndarray] = field(default_factory=dict)
    n_jobs = 1  # processes for the random sets

    @property
    def device(self):
        """Where the network runs."""
        return self.network.device

    @property
    def settings(self) -> dict[str, dict]:
        """The arguments, as the parameters of the stages that they are those of."""
        return dict.fromkeys(("cluster", "tcav"), self.given)

    @property
    def options(self) -> dict:
        """The keyword arguments of :func:`stce.tcav.score`."""
        return {"seed": self.given["seed"]}

    @property
    def rankings(self) -> dict[str, list[int]]:
        """The concepts of each class, most important first."""
        return {name: self.tcav.ranking(name) for name in self.samples.clips}

    @property
    def test(self) -> tuple[Clips, Supervoxels]:
        """The clips on which the ranking was tested, and their supervoxels."""
        return self.tested.clips, self.tested.supervoxels

    @property
    def body(self) -> dict:
        """The names of the `parts` of the clips, of which all but the first carry the class."""
        each = [clips.parts for clips in (self.discovery[0], self.test[0])]
        most = max((int(np.max(parts)) for parts in each if parts is not None), default=1)
        names = ("background", *(f"part {n}" for n in range(1, most + 1)))
        return {"parts": names, "carriers": dict.fromkeys(self.samples.clips, names[1:])}

    def subject(self, **options) -> Subject:
        """Return what is ablated; options are those of the subject."""
        return replace(self.tested, **options)

    def tested_on(self, clips: Clips, cutting: dict, running: dict, embedded=False):
        """Return it with test clips, cut up and, if asked for, embedded once for all questions."""
        cut = supervoxels.segment(clips, **cutting)
        shown = {"stretch": self.given["stretch"], **running}
        z = features.extract(self.finder, clips, cut, **shown) if embedded else None
        given = self.finder, clips, cut, self.concepts, self.rankings
        return replace(self, tested=Subject(*given, features=z, **shown))

    def clustered(self, seed: int) -> Concepts:
        """Find the concepts again with another seed; those that are named stay."""
        given = self.named, {**self.given, "seed": seed}
        return _found(self.seen, *self.discovery, *self.samples.clips, *given)

    def grouped(self, negatives: Negatives, p: dict, rng, found: Concepts | None = None):
        """Deal negatives out in groups, as the arguments `p` say: see `stce.tcav.Samples.groups`.

        Where they are matched, they are matched to these concepts, or to those that are given.
        """
        if p["random_from"] == "matched":
            places = self.discovery[1].places()
            return tcav.matched_groups(
                found or self.concepts, places, negatives, p["n_groups"], rng
            )
        return tcav.random_groups(len(negatives), p["n_groups"], p["n_keep"], rng)


def gather(
    network, finder, clips, random, names, settings, cutting, running, concepts=None
) -> Evidence:
    """Find the concepts of one class and score them (paper 3.1 and 3.2), and keep what it took.

    Parameters
    ----------
    network, finder
        See :class:`Evidence`.
    clips, random : stce.clips.Clips
        Of the class to explain, and what its concepts are told apart from.
    names : tuple of str
        Of the logits.
    settings, cutting, running : dict
        The arguments of :func:`stce.explanation.explain`; those of them for cutting clips up
        (:func:`stce.supervoxels.segment`), and for the network (``batch_size``, ``device``).
    concepts : mapping of str to Clips or numpy.ndarray, optional
        Those that are named, see :func:`stce.concepts.with_examples`.
    """
    named: dict[str, np.ndarray] = {}
    seed, name = settings["seed"], names[clips.labels[0]]
    n_groups, n_keep, rng = settings["n_groups"], settings["n_keep"], np.random.default_rng(seed)
    negatives, matched = Negatives(random), settings["random_from"] == "matched"
    if settings["random_from"] != "clips":
        n = (5 if matched else 1) * n_groups * n_keep  # the more, the liker
        negatives = features.random_supervoxels(random, n, n_keep, rng, **cutting)
    if not matched:
        groups = tcav.random_groups(len(negatives), n_groups, n_keep, rng)
    cut, own = supervoxels.segment(clips, **cutting), clips
    if concepts:
        clips, cut, named = with_examples(clips, cut, concepts)
    shown = {"stretch": settings["stretch"], "progress": cutting["progress"], **running}
    z = features.extract(network, clips, cut, **shown)
    at = z if finder is network else features.extract(finder, clips, cut, **shown)
    found = _found(at, clips, cut, name, named, settings)
    number = len(found.centres[name])
    if matched:
        groups = tcav.matched_groups(found, cut.places(), negatives, n_groups, rng)
    others = negatives.embed(network, stretch=settings["stretch"], **running)
    samples = tcav.Samples(found, z, {name: z[:0]}, others, groups, names, settings["target"])
    samples = replace(samples, **features.whole(network, own, samples, **running))
    how = {"seed": seed, "device": running["device"]}
    result = tcav.score(network, samples, **how)
    # The test shuffles known slopes, so that no network is copied; with so many draws one concept
    # alone can pass it.
    known = replace(samples, slopes=dict(samples.gradients(network, [name], running["device"])))
    draws = {"n_null": 25 * number, "n_shuffles": 100 * number}
    result = significance.against_chance(None, result, known, **draws, **how)
    if named:
        names = ["", *named]
        place = (result.scores["concept"] - number + len(named) + 1).clip(lower=0)
        result = replace(result, scores=result.scores.assign(name=[names[i] for i in place]))
    given = found, result, samples, negatives, at, settings
    return Evidence(network, finder, (clips, cut), *given, named=named)


def _found(z, clips: Clips, cut: Supervoxels, name: str, named: dict, given: dict) -> Concepts:
    """Return the concepts of a class that are found, and behind them those that are named."""
    rows, how = cut.table["video"].to_numpy(), ("n_concepts", "n_keep", "seed", "discover")
    n = len(rows) - sum(map(len, named.values()))
    found = None
    if given["n_concepts"]:
        mine = z, clips.labels[rows[:n]], rows[:n], clips.classes
        found = cluster(*mine, **{key: given[key] for key in how})
    return with_named(found, z, rows, name, named) if named else found


@dataclass(frozen=True, eq=False)
class Trust:
    """How far an explanation can be trusted; printed, it is a verdict in words.

    Attributes
    ----------
    table : pandas.DataFrame
        One row a question: ``question``, ``value`` with its 95 % interval ``low`` and ``high`` (NaN
        where there is none), ``passes`` (True or False; None where it is told, not judged) and
        ``answer``, a sentence. `stce.viz.charts.trust_chart` draws it.
    tables : dict of str to pandas.DataFrame
        What it was told from, of :func:`stce.evaluation.validation.answers`.
    """

    table: pd.DataFrame
    tables: dict[str, pd.DataFrame]

    def __str__(self):
        judged = self.table[self.table["passes"].notna()]
        failed = judged[~judged["passes"].astype(bool)]
        head = f"It passes {len(judged) - len(failed)} of {len(judged)} tests"
        if failed.empty:
            return f"{head}: {'; '.join(judged['answer'])}."
        return f"{head}; not these:\n" + "".join(f"\n- {text}." for text in failed["answer"])

    _repr_markdown_ = __repr__ = __str__

    def save(self, folder: str | Path) -> None:
        """Write each table as ``NAME.parquet``, and ``table.parquet`` itself."""
        Path(folder).mkdir()
        write_parts(folder, table=self.table, **self.tables)

    @classmethod
    def load(cls, folder: str | Path) -> Trust:
        """Read what :meth:`save` wrote."""
        tables = {file.stem: read_file(file) for file in sorted(Path(folder).glob("*.parquet"))}
        return cls(tables.pop("table"), tables)


def examine(it, *, seed: int = 0, **asked) -> Trust:
    """Ask everything of an explanation, and sum it up.

    Parameters
    ----------
    it : Evidence or stce.study.finished.Finished
        What it was made from.
    seed : int, default 0
        Of all that is drawn.
    **asked
        How thoroughly, instead of `ASKED`: parameters of the stage validate, but `tried`.

    Raises
    ------
    ValueError
        If the ranking was tested on no clips.
    """
    if getattr(it, "tested", it) is None:
        raise ValueError(
            "the ranking was tested on no clips, on which it could be held against others; give "
            "test_clips to explain."
        )
    asked = ASKED | {"seed": seed} | asked
    least = dict.fromkeys(("n_clips", "n_null", "n_randomised", "n_controls", "n_changed"), 1)
    for name, value in asked.items():
        if name not in {**ASKED, "seed": seed}:
            raise ValueError(f"check takes no {name!r}; it takes {', '.join(ASKED)} and seed.")
        number = isinstance(value, Integral) and value >= least.get(name, 0)
        if name != "fills" and not number:
            raise ValueError(f"{name} is {value!r}; it takes int, at least {least.get(name, 0)}.")
    told = validation.answers(it, SimpleNamespace(**asked, tried=()))
    return Trust(summed_up(told, it.tcav.scores, it.outcomes, seed), told)


def summed_up(told: dict[str, pd.DataFrame], scores, outcomes=None, seed: int = 0) -> pd.DataFrame:
    """Sum up answers of :func:`stce.evaluation.validation.answers`, see `Trust.table`.

    What the `scores` of the explanation say of chance counts, and its own `outcomes`, of all test
    clips, where these have an order; so that it does not contradict its verdict.

    - *more than chance*: the share of concepts that are; one at least.
    - *random weights*: the rank agreement of a wholly random network with this one, which must not
      be clear of zero.
    - *random groups*, *k-means*: that of the same steps with another seed, which must be.
    - *ahead of least*, and of as many voxels of *random supervoxels*: the gain in accuracy, mean
      over concepts, when added and when removed, which must be clear of zero. Of fewer than
      `FEWEST` clips it is told and not judged; as is that over saliency maps, which see the clip.
    - *ahead of the background*: where the parts of the clips are known, how much more of what
      stands out the first concepts hold than concepts at random do, as a share of the larger.
    """
    rows, sure, passes = [], scores["verdict"].isin(["for", "against"]), None
    text = "too few random clips to test whether a concept is more than chance"
    if not (scores["verdict"] == "untested").all():
        passes = bool(sure.any())
        text = f"{sure.sum()} of {len(sure)} concepts are more than chance (smallest corrected "
        text += f"p-value {scores['q_chance'].min():.2g})"
    rows.append(("more than chance", sure.mean(), np.nan, np.nan, passes, text))
    if "sanity" in told:
        found, text = _agreed(told["sanity"].iloc[-1])
        gone = not found[1] > 0
        text = f"with random weights the ranking is {'gone' if gone else 'still there'} {text}"
        rows.append(("random weights", *found, gone, text))
    again = told["stability"].query("`class` == 'all'").set_index("changed")
    for changed in ("random groups", "k-means"):
        found, text = _agreed(again.loc[changed])
        back = bool(found[1] > 0)
        comes = "comes" if back else "does not come"
        text = f"with another seed of {changed} it {comes} back {text}"
        rows.append((changed, *found, back, text))
    for rival, judged in RIVALS.items():
        kinds = (told["outcomes"] if outcomes is None else outcomes), told["outcomes"]
        if shown := [table for table in kinds if rival in set(table["order"])]:
            rows += _ahead(shown[0], rival, judged, seed)
    if "truth" in told:
        row = told["truth"].iloc[-1]
        fine = bool(row["p"] < 0.05)
        text = f"the first concepts hold {row['top']:.1f} times the clips' share of what stands "
        text += f"out from the background, concepts at random {row['random']:.1f} times"
        ahead = (row["top"] - row["random"]) / max(row["top"], row["random"], 1e-9)
        rows.append(("ahead of the background", ahead, np.nan, np.nan, fine, text))
    columns = ["question", "value", "low", "high", "passes", "answer"]
    return pd.DataFrame(rows, columns=columns).astype({"passes": object})


def _agreed(row: pd.Series) -> tuple[tuple[float, float, float], str]:
    """Return a rank correlation with its interval, and the same in words."""
    value, low, high = found = tuple(row[["correlation", "ci_low", "ci_high"]])
    return found, f"(rank correlation {value:.2f}, {low:.2f} to {high:.2f})"


def _ahead(outcomes: pd.DataFrame, rival: str, judged: bool, seed: int) -> Iterator[tuple]:
    name = "the least important" if rival == "least" else rival
    for row in difference(outcomes, "top", rival, seed=seed).itertuples():
        found = row.gain, row.ci_low, row.ci_high
        points, low, high = (100 * value for value in found)
        done = {"add": "added", "remove": "removed"}[row.mode]
        text = f"{done}, the most important concepts do better than {name} by {points:+.0f} points "
        passes = bool(row.ci_low > 0) if judged and row.n_clips >= FEWEST else None
        yield f"ahead of {rival}, {done}", *found, passes, f"{text}({low:.0f} to {high:.0f})"
