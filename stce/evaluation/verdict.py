"""Can this explanation be believed? What speaks against it, one line a reason, with its number."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import scipy

from stce.ablation import MATCHED
from stce.concepts import EXAMPLES
from stce.curves import difference
from stce.evaluation.truth import composition, counts

FEWEST = 6  # with fewer clips no paired test reaches 5 %, even if all of them agree


@dataclass(frozen=True)
class Verdict:
    """Why an explanation cannot be believed, if anything speaks against it, and what holds.

    As text it is one line a reason; without any, a sentence with the facts.
    """

    reasons: dict[str, str]
    facts: dict[str, str]

    def __str__(self):
        if self.reasons:
            lines = (f"\n- {text}." for text in self.reasons.values())
            return "Do not believe this explanation yet:\n" + "".join(lines)
        facts = "; ".join(self.facts.values())
        return f"Nothing that was looked at speaks against this explanation: {facts}."

    _repr_markdown_ = __str__


def verdict(
    scores: pd.DataFrame,
    concepts,
    clips,
    supervoxels,
    *,
    answers: pd.DataFrame | None = None,
    outcomes: pd.DataFrame | None = None,
    seed: int = 0,
) -> Verdict:
    """Tell what speaks against an explanation, from what its steps left.

    - *unknown*: the network does not name more of the clips rightly than chance would (exact
      binomial test, 5 %): one class in all, or what the same answers would get if they were dealt
      out blindly, where there are clips of several classes.
    - *chance*: no concept is more, by :func:`stce.evaluation.significance.against_chance`.
    - *few*: with so few test clips no paired test can tell.
    - *area*: top beats least, but in no mode, clear of zero over clips, as many voxels of random
      supervoxels. *order*: nor does it beat least. *mixed*: ahead of them in one mode, it is behind
      in the other. With these it is said if most clips are named rightly whatever is shown.
    - *background*: it is not clear over clips that the upper half of the ranking holds what stands
      out from the background more than any place does, and more than the lower half.

    Parameters
    ----------
    scores : pandas.DataFrame
        One row a concept, of :class:`stce.tcav.Tcav`.
    concepts, clips, supervoxels : Concepts or None, Clips, and Supervoxels
        In which the concepts were found. Where the clips have parts, part 0 is the background.
    answers : pandas.DataFrame, optional
        Of whole clips: ``class``, ``correct`` and, with several classes, ``predicted``. Default,
        those of the intact clips in `outcomes`.
    outcomes : pandas.DataFrame, optional
        Of :func:`stce.ablation.run`, with the orders of ``ranked`` and, to tell area, ``matched``.
    seed : int, default 0
        Seeds the resamples of clips.

    Examples
    --------
    >>> from stce.datasets.textures import textures
    >>> scores = pd.DataFrame({"q_chance": [0.3, 0.9], "verdict": "chance"})
    >>> print(verdict(scores, None, textures(1, n_frames=2, size=(8, 8)), None))
    Do not believe this explanation yet:
    <BLANKLINE>
    - No concept is more than chance: the smallest of 2 corrected p-values is 0.30.
    """
    found = {}
    if answers is None and outcomes is not None:
        answers = outcomes.query("mode == 'remove' and order == 'top' and q == 0")
    n_classes = len(set(clips.classes) - {EXAMPLES})
    if answers is not None and len(answers) and n_classes > 1:
        found["unknown"] = _known(answers, 1 / n_classes)
    found["chance"] = _beyond_chance(scores)
    if outcomes is None or outcomes.empty:
        found["order"] = True, "the ranking was not tested on other clips"
    else:
        if (n := outcomes["video"].nunique()) < FEWEST:
            found["few"] = False, f"Too few clips to tell: {n} test clips, fewer than {FEWEST}"
        found |= _gaps(outcomes, seed)
    if concepts is not None and clips.parts is not None:
        mine = concepts.table[concepts.table["class"].isin(scores["class"])]
        parts = (np.asarray(clips.parts) > 0).astype(np.uint8)
        held = counts(replace(concepts, table=mine), supervoxels, parts, ("ground", "figure"))
        found |= _figure(scores, held, seed)
    sides = ({k: text for k, (fine, text) in found.items() if fine == side} for side in (0, 1))
    return Verdict(*sides)


def _known(answers: pd.DataFrame, chance: float) -> tuple[bool, str]:
    n, right = len(answers), int(answers["correct"].sum())
    if answers["class"].nunique() > 1:
        sides = [answers[c].value_counts(normalize=True) for c in ("class", "predicted")]
        chance = min(1.0, float(sides[0].mul(sides[1], fill_value=0).sum()))
    p = scipy.stats.binomtest(right, n, chance, alternative="greater").pvalue
    named = f"names {100 * right / n:.0f} % of {n} clips rightly, by chance {100 * chance:.0f} %"
    if p < 0.05:
        return True, f"the network {named}"
    few = "Nothing shows that the network knows" if right > chance * n else ""
    return False, f"{few or 'The network does not know'} these clips: it {named} (p = {p:.2f})"


def _beyond_chance(scores: pd.DataFrame) -> tuple[bool, str]:
    if "verdict" not in scores or (scores["verdict"] == "untested").all():
        return True, "its scores were not tested against chance"
    if n := scores["verdict"].isin(["for", "against"]).sum():
        return True, f"{n} of {len(scores)} concepts are more than chance"
    least = f"the smallest of {len(scores)} corrected p-values is {scores['q_chance'].min():.2f}"
    return False, f"No concept is more than chance: {least}"


def _gaps(outcomes: pd.DataFrame, seed: int) -> dict:
    others = {"least": "the least", MATCHED[1]: "as many voxels of random supervoxels"}
    clear, behind, said = False, False, []
    for other, name in others.items():
        if other not in set(outcomes["order"]):
            continue
        rows = difference(outcomes, "top", other, seed=seed)
        rows[["gain", "ci_low", "ci_high"]] *= 100
        gains = [
            f"{g.gain:+.0f} ({g.ci_low:.0f} to {g.ci_high:.0f}) points when {g.mode.rstrip('e')}ed"
            for g in rows.itertuples()
        ]
        before, clear, behind = clear, (rows["ci_low"] > 0).any(), (rows["ci_high"] < 0).any()
        said.append(f"{name} by {', '.join(gains)}")
    text = f"the most important concepts beat {'; '.join(said)}"
    if clear and not behind:
        return {"order": (True, text)}
    named = outcomes.query("order == @MATCHED[0] and q > 0")["correct"].mean()
    if named > 0.5:
        text += f"; of clips with random voxels shown or hidden it names {100 * named:.0f} % too"
    if clear:
        return {"mixed": (False, f"Adding and removing disagree: {text}")}
    if before:
        return {"area": (False, f"The gap between the orders is area: {text}")}
    return {"order": (False, f"The ranking does not hold: {text}")}


def _figure(scores: pd.DataFrame, held: pd.DataFrame, seed: int) -> dict:
    place = scores[["class", "concept", "rank"]]
    late = place["rank"] > place.groupby("class")["rank"].transform("max") / 2
    halves = held.merge(place.assign(late=late)).assign(concept=lambda rows: rows["late"])
    lifts = composition(halves.assign(**{"class": "all"}), seed=seed).query("part == 'figure'")
    if len(lifts) < 2 or not lifts["base"].any():
        return {}  # a single concept, or nothing that stands out
    (upper, lower), (low, high) = lifts["lift"], lifts[["ci_low", "ci_high"]].iloc[0]
    text = f"the upper half of the ranking holds {upper:.1f} times ({low:.1f} to {high:.1f}) the "
    text += f"clips' share of what stands out from the background, the lower half {lower:.1f} times"
    if low > max(1, lower):
        return {"background": (True, text)}
    worth = "" if low <= 1 else "no less than the others "
    return {"background": (False, f"The important concepts are {worth}background: {text}")}
