"""What campaigns and validations have taught: published tables in, sentences out."""

from __future__ import annotations

import pandas as pd
from scipy import stats

__all__ = [
    "came_back",
    "false_discoveries",
    "gone",
    "rivals",
    "sanity",
    "shortcut",
    "significance",
    "stability",
    "truth",
    "validation",
]

ALPHA = 0.05


def shortcut(cued: pd.DataFrame, control: pd.DataFrame) -> str:
    """Tell whether the concept that holds a planted badge comes first.

    Parameters
    ----------
    cued, control : pandas.DataFrame
        Of the campaigns "shortcut", and "no-shortcut" where the cue is shown.
    """
    learnt = 100 * cued[["cue_there", "cue_removed", "cue_pasted"]].mean()
    return (
        f"- **Shortcut.** The class is recognised in {learnt['cue_there']:.0f} % of clips with the "
        f"badge and in {learnt['cue_removed']:.0f} % without it; pasted into other classes, it "
        f"takes over {learnt['cue_pasted']:.0f} % of clips. The first concept holds the badge "
        f"(interval above 1) in **{cued['first_holds'].sum()} of {len(cued)}** seeds, and in "
        f"{control['first_holds'].sum()} of {len(control)} where it was not learnt. The badge is "
        f"spread over {cued['holding'].mean():.1f} concepts on average; the one with the highest "
        f"share of it is first in {(cued['most_rank'] == 1).sum()} seeds, and first or second in "
        f"{(cued['most_rank'] <= 2).sum()}. Corrected over all concepts the first one is "
        f"significant in {(cued['first_q_value'] < ALPHA).sum()} seeds (uncorrected in "
        f"{(cued['first_p'] < ALPHA).sum()}): with 256 features and eight concepts a class the "
        "test below cannot certify all that the ranking finds."
    )


WORLDS = {"p_derivative": "random sets", "p": "both", "q_value": "corrected"}


def false_discoveries(null: pd.DataFrame) -> pd.DataFrame:
    """Count what is significant where nothing has a meaning.

    Parameters
    ----------
    null : pandas.DataFrame
        Of the campaign "null".

    Returns
    -------
    pandas.DataFrame
        One row a world and test: ``share`` of the concepts with ``ci_low``, ``ci_high`` (95 %,
        exact), in 0 to 1.
    """
    found = null[null["world"] != "planted"].groupby("world", sort=False).sum(numeric_only=True)
    rows = []
    for world, row in found.iterrows():
        for column, test in WORLDS.items():
            held = stats.binomtest(int(row[column]), int(row["concepts"]))
            rows.append((world, test, held.statistic, *held.proportion_ci()))
    return pd.DataFrame(rows, columns=["world", "test", "share", "ci_low", "ci_high"])


def significance(null: pd.DataFrame, tested: pd.DataFrame) -> str:
    """Tell how often the test finds what is not there, and what is.

    Parameters
    ----------
    null : pandas.DataFrame
        Of the campaign "null".
    tested : pandas.DataFrame
        Of :func:`stce.evaluation.validation.chance`, of the run that is shown.
    """
    share = false_discoveries(null).set_index(["test", "world"])["share"] * 100
    studies = null["seed"].nunique()
    power = 100 * null.loc[null["world"] == "planted", "found"].sum() / studies
    real = tested["verdict"].isin(["for", "against"])
    first = tested["rank"] <= 3
    return (
        f"- **Significance.** Over {studies} studies without signal at most "
        f"{share['corrected'].max():.1f} % of concepts are significant after correction; against "
        f"random sets alone, uncorrected, {share['random sets', 'clusters of noise']:.1f} % of "
        f"clusters of noise. A planted concept of ten samples is found in {power:.0f} % of "
        f"studies. Of the {len(tested)} concepts of the default run **{real.sum()}** are "
        f"significant, {(real & first).sum()} of them among the first three of their class; "
        f"{(tested['score'] == 1).sum()} concepts have the score 1: a score alone is no evidence."
    )


def truth(found: pd.DataFrame) -> str:
    """Tell whether rankings find the limbs that carry the classes.

    Parameters
    ----------
    found : pandas.DataFrame
        Of the campaign "truth".
    """
    every = found[found["class"] == "all"]
    return (
        f"- **Truth.** The first five concepts hold {every['top'].mean():.1f} times the clip's "
        f"share of the carrying limbs, five drawn at random {every['random'].mean():.1f} times; "
        f"the gain is above zero in **{(every['gain'] > 0).sum()} of {len(every)}** runs, beyond "
        f"chance (p < {ALPHA}) in {(every['p'] < ALPHA).sum()}. Rank correlation of a concept's "
        f"derivative with what it holds of these limbs: {every['correlation'].mean():.2f}."
    )


def gone(randomised: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Average the sanity checks over seeds.

    Parameters
    ----------
    randomised, labels : pandas.DataFrame
        Of the campaigns "sanity" and "labels".

    Returns
    -------
    pandas.DataFrame
        One row a ``network``: ``significant``, ``correlation``, ``ci_low``, ``ci_high``, ``seeds``.
    """
    other = labels[labels["network"] != "trained"]
    groups = pd.concat([randomised, other]).groupby("network", sort=False)
    columns = ["significant", "correlation", "ci_low", "ci_high"]
    return groups[columns].mean().assign(seeds=groups["seed"].nunique()).reset_index()


def sanity(randomised: pd.DataFrame, labels: pd.DataFrame) -> str:
    """Tell what is left of an explanation of a network that knows nothing.

    Parameters
    ----------
    randomised, labels : pandas.DataFrame
        Of the campaigns "sanity" and "labels".
    """
    table = gone(randomised, labels).set_index("network")
    real, weights = table.loc["trained"], table.loc[table.index.str.endswith("random")]
    heart = labels[labels["network"].str.startswith("labels shuffled")]
    same = heart["network"].str.endswith("same start")
    other = heart.loc[~same, "correlation"]
    low, high = stats.t.interval(0.95, len(other) - 1, other.mean(), other.sem())
    floor = labels.loc[labels["network"].str.startswith("two shuffles"), "correlation"]
    trained = labels["network"] == "trained"
    looks = labels.loc[trained, "figure"].mean(), heart.loc[~same, "figure"].mean()
    return (
        f"- **Sanity.** {real['seeds']:.0f} seeds: {100 * real['significant']:.0f} % of concepts "
        "are significant in the trained networks, at most "
        f"{100 * weights['significant'].max():.1f} % in those with shuffled weights (nominal: "
        f"{100 * ALPHA:.0f}); rank agreement with the trained network runs from "
        f"{weights['correlation'].min():+.2f} to {weights['correlation'].max():+.2f}. Networks "
        f"that learnt shuffled labels by heart know {100 * heart['fits'].mean():.0f} % of their "
        f"clips: {100 * heart['significant'].mean():.1f} % of concepts significant, rank agreement "
        f"{other.mean():+.2f} ({len(other)} networks, {other.min():+.2f} to {other.max():+.2f}; "
        f"95 % interval of the mean {low:+.2f} to {high:+.2f}). "
        f"Two of them, of which neither knows the classes, agree with each other at "
        f"{floor.mean():+.2f}; one that began from the first weights of the trained network agrees "
        f"with it at {heart.loc[same, 'correlation'].mean():+.2f}: a trace of the start, not of "
        f"the classes. They do not look at the figure: rank correlation of the derivative with "
        f"what a concept holds of it {looks[1]:+.2f}, in the trained networks "
        f"{looks[0]:+.2f}."
    )


def came_back(small: pd.DataFrame, whole: pd.DataFrame) -> pd.DataFrame:
    """Average the agreement of rankings over seeds, by what was changed.

    Parameters
    ----------
    small, whole : pandas.DataFrame
        Of the campaigns "stability" and "training".

    Returns
    -------
    pandas.DataFrame
        ``changed``, ``correlation``, ``ci_low``, ``ci_high`` (the middle 95 % of seeds), best
        first.
    """
    steps = small[(small["value"] == "derivative") & (small["changed"] != "none")]
    large = whole.assign(classifier="ours", changed="whole run: " + whole["run"])
    both = pd.concat([steps, large])
    names = both["changed"] + both["classifier"].map({"ours": "", "SGD": " (SGD)"})
    ends = both.groupby(names)["correlation"].quantile([0.025, 0.975]).unstack()
    table = pd.DataFrame(
        {
            "correlation": both.groupby(names)["correlation"].mean(),
            "ci_low": ends[0.025],
            "ci_high": ends[0.975],
        }
    )
    table = table.rename_axis("changed").reset_index()
    return table.sort_values("correlation", ascending=False, ignore_index=True)


def stability(small: pd.DataFrame, whole: pd.DataFrame) -> str:
    """Tell which step makes rankings differ.

    Parameters
    ----------
    small, whole : pandas.DataFrame
        Of the campaigns "stability" and "training".
    """
    mean = came_back(small, whole).set_index("changed")["correlation"]
    large = mean[mean.index.str.startswith("whole run")]
    return (
        f"- **Stability.** Seeds: {small['seed'].nunique()} of the small networks, "
        f"{whole['seed'].nunique()} of the whole runs. Other random groups change the ranking "
        f"little (rank correlation {mean['groups']:.2f}), other clusters and other supervoxels "
        f"more ({mean['k-means']:.2f}, {mean['slic']:.2f}), another training most "
        f"({mean['training']:.2f}; whole runs {large.min():.2f} to {large.max():.2f}). The "
        f"reference code's SGD classifier agrees with itself at {mean['classifier (SGD)']:.2f}: "
        "the seed of the classifier is not what makes rankings unstable, the network is."
    )


def rivals(areas: pd.DataFrame, fills: pd.DataFrame, pointed: pd.DataFrame) -> str:
    """Tell what the concepts' order is ahead of, and what is ahead of it.

    Parameters
    ----------
    areas, fills, pointed : pandas.DataFrame
        Of a run's validation, see :mod:`stce.evaluation.validation`.
    """
    words = []
    for mode, verb in (("add", "adding"), ("remove", "removing")):
        part = areas[(areas["mode"] == mode) & (areas["order"] != "top")].set_index("order")
        ahead, behind = part.index[part["gain_low"] > 0], part.index[part["gain_high"] < 0]
        words.append(
            f"when {verb} it is ahead of {', '.join(ahead) or 'none'}, behind "
            f"{', '.join(behind) or 'none'}, and not told apart from the rest"
        )
    held = pointed.set_index("order")["lift"].drop(["random", "least"])
    order = ", ".join(f"{n} {x:.1f}" for n, x in held.sort_values(ascending=False).items())
    gain = fills.pivot(index="fill", columns="mode", values="gain") * 100
    lost = gain.index[gain["add"] <= 0]
    remark = ""
    if len(lost):
        remark = (
            f" With {', '.join(lost)} the lead is gone: what hides voxels must not be something "
            "that the network never saw, or it tells of that instead."
        )
    return (
        f"- **Controls and baselines.** By area over all concepts ({areas['n_clips'].iloc[0]} "
        f"clips), {'; '.join(words)}. What the first five steps show of the carrying limbs, "
        f"relative to the clip: {order}. Top against least, by what hidden voxels hold: "
        + ", ".join(f"{f} {g['add']:+.0f} and {g['remove']:+.0f}" for f, g in gain.iterrows())
        + f" points, adding and removing.{remark}"
    )


def validation(told: dict[str, pd.DataFrame]) -> str:
    """Sum up the validation of one run.

    Parameters
    ----------
    told : dict of str to pandas.DataFrame
        The tables of the stage validate.
    """
    tested, areas = told["significance"], told["areas"].set_index(["mode", "order"])["area"]
    sure = tested["verdict"].isin(["for", "against"]).sum()
    robust = 100 * told["sanity"].set_index("network")["significant"].drop("trained").max()
    lines = [
        f"- **{sure}** of {len(tested)} concepts are more than chance.",
        f"- With random weights at most {robust:.0f} % are.",
        f"- Insertion area {areas['add', 'top']:.2f}, against "
        f"{areas['add', 'random supervoxels']:.2f} for random supervoxels and "
        f"{areas['add', 'integrated gradients']:.2f} for Integrated Gradients.",
    ]
    if "truth" in told:
        every = told["truth"].iloc[-1]
        held = told["pointed"].set_index("order")["lift"]
        lines += [
            f"- The first five concepts hold {every['top']:.1f} times the clip's share of the "
            f"carrying limbs; five drawn at random {every['random']:.1f} times (p = "
            f"{every['p']:.4f}).",
            f"- On test clips the first five steps show {held['top']:.1f} times that share, as "
            f"many voxels by Integrated Gradients {held['integrated gradients']:.1f} times.",
        ]
    return "\n".join(lines)
