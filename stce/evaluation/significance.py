"""Is a concept's importance more than chance? Tests of scores, and what chance makes of them."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import scipy
import torch
from joblib import Parallel, delayed
from torch import nn

from stce import cav, tcav
from stce.engine.resampling import mean_interval, p_value
from stce.engine.storage import read_rows

# The lower end is not 0.025 in its last digit, which published tables have.
_ENDS = (1 - 0.95) / 2, 0.975


def _ladder(size: int, largest: int) -> int:
    """Round a concept's size down, so that a few null distributions serve all sizes."""
    step = largest
    while step > max(size, 1):
        step = int(step * 0.8)
    return step


def assess(
    network,
    result: tcav.Tcav,
    samples: tcav.Samples,
    *,
    strength: float = 1.0,
    n_null: int = 400,
    n_shuffles: int = 400,
    n_bootstrap: int = 1000,
    alpha: float = 0.05,
    seed: int = 0,
    n_jobs: int = 1,
    device="cpu",
) -> pd.DataFrame:
    """Test every concept's score and mean derivative, and whether its CAV separates at all.

    Two explanations by chance are tested, and a concept is significant only if it withstands
    both: ``p`` is the larger of two p-values, which is a valid test against "one or the other".

    ``p_derivative`` and ``p_score``: *the concept is a random set*. Sets of random clips of the
    concept's size are scored like concepts (:func:`random_sets`); the p-value is the share of them
    at least as far from 0 (score: from 1/2), two-sided.

    ``p_weights``: *the class output reads nothing in particular*. A cluster is a tight set and
    its direction is never that of a random set, even in features without meaning. So the weights
    of the head are shuffled, and the derivative along the difference of means, concept less its
    random clips, divided by the gradient's length, is taken again: twice one side, that of the
    concept's derivative. (Along the CAV this test is nearly blind: what separates best is far from
    what the head reads.) For a head that was never trained this p-value is exact. Where there is
    no head whose weights could be shuffled, the entries of the gradient are.

    ``q_value`` corrects `p` over all concepts and classes [1]_. The CAV's held-out accuracy has a
    null of its own, that of the random sets' CAVs, one-sided and corrected likewise: where it is
    not beaten the concept is marked as "not separable", since a derivative along its CAV says
    nothing about it. (Supervoxels of one clip may fall on both sides of the held-out split, so
    this accuracy is on the high side; the mark errs towards keeping a concept.)

    Parameters
    ----------
    network, samples, strength, device
        As they were given to :func:`stce.tcav.score`. With `slopes` of the samples, or logits that
        are a plain function, there is no head.
    result : stce.tcav.Tcav
        What it returned.
    n_null : int, default 400
        Random sets of each size. The smallest p-value is 1 / (`n_null` + 1): take at least the
        number of concepts over `alpha`, divided by the number expected to be significant.
    n_shuffles : int, default 400
        Shuffles of the head's weights, or of the gradient, for each class.
    n_bootstrap, seed : int, default 1000 and 0
        Resamples of clips and groups for the interval of the derivative; seeds all draws.
    alpha : float, default 0.05
        False discovery rate at which `verdict` is given.
    n_jobs : int, default 1
        Processes for the random sets; -1 for one a core. It does not change the result.

    Returns
    -------
    pandas.DataFrame
        The rows of ``result.scores`` with their columns but ``p``, ``p_score`` and ``q_value``,
        which come anew, and: ``derivative_low``, ``derivative_high`` (95 %), ``p_derivative``,
        ``p_weights``, ``accuracy_null`` (mean of random sets), ``p_accuracy``, ``q_accuracy``,
        ``separable`` (bool) and ``verdict``: "for" or "against" the class, "chance" or
        "not separable".

    Raises
    ------
    ValueError
        If there are too few random clips for three disjoint groups.

    References
    ----------
    .. [1] Y. Benjamini and Y. Hochberg, "Controlling the false discovery rate", JRSS B 57, 1995,
       :doi:`10.1111/j.2517-6161.1995.tb02031.x`.

    Examples
    --------
    >>> from stce.concepts import cluster
    >>> rng = np.random.default_rng(0)
    >>> z = rng.normal(size=(60, 6)).astype(np.float32)
    >>> found = cluster(z, np.zeros(60, int), np.arange(60), ("a",), n_concepts=3, n_keep=10)
    >>> import torch
    >>> from stce.models.adapt import Explainable
    >>> class Net(torch.nn.Linear, Explainable):
    ...     logits = torch.nn.Linear.forward
    >>> net, random = Net(6, 1), rng.normal(size=(80, 6)).astype(np.float32)
    >>> groups = tcav.random_groups(80, 8, 10, rng)
    >>> samples = tcav.Samples(found, z, {"a": z[:5]}, random, groups, ("a",))
    >>> table = assess(net, tcav.score(net, samples), samples, n_null=40, n_shuffles=40)
    >>> len(table), bool((table["q_value"] >= table["p"]).all())
    (3, True)
    """
    rng = np.random.default_rng(seed)
    old = ["p", "p_score", "q_value", "q_chance", "verdict"]
    table = result.scores.drop(columns=old, errors="ignore").copy()
    mean, scale = samples.scaling()
    scored = [name for name in samples.clips if name in result.cavs]
    slopes = dict(samples.gradients(network, scored, device))
    pools = {(name,): np.unique(samples.groups_of(name)) for name in slopes}
    if not isinstance(samples.groups, dict):
        pools = {tuple(slopes): slice(None)}
    n_groups, largest = samples.groups_of(scored[0]).shape[-2:]
    size = table["n_members"].map(lambda n: _ladder(n, largest))
    options = {"n_groups": n_groups, "n_null": n_null, "strength": strength, "device": device}
    standard = (samples.random - mean) / scale
    sets = delayed(partial(random_sets, **options))
    mine = {names: table["class"].isin(names) for names in pools}
    tasks = [  # the largest take longest, so they go first
        (names, step) for names in pools for step in sorted(size[mine[names]].unique())[::-1]
    ]
    found = Parallel(n_jobs)(
        sets(standard[pools[names]], scale, {n: slopes[n] for n in names}, int(step), rng=one)
        for (names, step), one in zip(tasks, rng.spawn(len(tasks)), strict=True)
    )
    for (names, step), (null, accuracy) in zip(tasks, found, strict=True):
        rows = (size == step) & mine[names]
        table.loc[rows, "accuracy_null"] = accuracy.mean()
        ours = table.loc[rows, "cav_accuracy"].to_numpy()
        table.loc[rows, "p_accuracy"] = p_value(accuracy, ours)
        for name, values in null.items():
            rows = (size == step) & (table["class"] == name)
            for column, centre in (("derivative", 0.0), ("score", 0.5)):
                far = np.abs(values[column].to_numpy() - centre)
                ours = np.abs(table.loc[rows, column].to_numpy() - centre)
                table.loc[rows, f"p_{column}"] = p_value(far, ours)
    for name, slope in slopes.items():
        vectors = result.cavs[name].astype(np.float64)
        direction = _unit_mean(slope)
        side = np.where(vectors.mean(1) @ direction > 0, 1, -1)
        shift = _shifts(samples, name, len(vectors))
        ours = shift @ direction
        if samples.slopes is None and network.behind is not None:
            shuffled = _shuffled_gradients(network, samples, name, n_shuffles, rng, device)
        else:
            shuffled = rng.permuted(np.tile(direction, (n_shuffles, 1)), axis=1)
        null = shuffled @ shift.T
        for k in range(len(vectors)):
            row = (table["class"] == name) & (table["concept"] == k)
            low, high = mean_interval(vectors[k] @ slope.T, n_bootstrap, rng, _ENDS)
            table.loc[row, ["derivative_low", "derivative_high"]] = low, high
            # Twice one side, since the side is that of the derivative, which the head has chosen.
            p = p_value(side[k] * null[:, k], side[k] * ours[k : k + 1])[0]
            table.loc[row, "p_weights"] = min(1.0, 2 * p)
    table["p"] = table[["p_derivative", "p_weights"]].max(axis=1)
    table["q_value"] = scipy.stats.false_discovery_control(table["p"])
    table["q_accuracy"] = scipy.stats.false_discovery_control(table["p_accuracy"])
    table["separable"] = table["q_accuracy"] < alpha
    side = np.where(table["derivative"] > 0, "for", "against")
    verdict = np.where(table["q_value"] < alpha, side, "chance")
    return table.assign(verdict=np.where(table["separable"], verdict, "not separable"))


def against_chance(network, result: tcav.Tcav, samples: tcav.Samples, **options) -> tcav.Tcav:
    """Return a result whose scores say what is significant: ``q_chance`` and ``verdict``.

    They are ``q_value`` and ``verdict`` of :func:`assess`, whose arguments are taken. The
    ``q_value`` of the scores themselves compares with random sets alone, which clusters of noise
    are not. Where the random clips make fewer than three groups they are NaN and "untested".
    """
    told = pd.DataFrame({"q_value": np.nan, "verdict": "untested"}, result.scores.index)
    if testable(samples):
        told = assess(network, result, samples, **options)
    new = result.scores.assign(q_chance=told["q_value"], verdict=told["verdict"])
    return replace(result, scores=new)


def testable(samples: tcav.Samples) -> bool:
    """Tell whether the random clips of every class make three disjoint groups, as a test needs."""
    drawn = [samples.groups_of(name) for name in samples.clips]
    return all(len(np.unique(groups)) >= 3 * groups.shape[-1] for groups in drawn)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Count the verdicts of :func:`assess`, one row a class and one column a verdict.

    Examples
    --------
    >>> rows = pd.DataFrame({"class": ["a", "a"], "verdict": ["for", "chance"]})
    >>> summary(rows).loc["a"].tolist()
    [1, 0, 1, 0]
    """
    counts = pd.crosstab(table["class"], table["verdict"])
    names = ["for", "against", "chance", "not separable"]
    return counts.reindex(columns=names, fill_value=0)


def shuffle_weights(module: nn.Module, rng: np.random.Generator) -> None:
    """Shuffle the entries within each parameter and each floating-point buffer, in place.

    Sizes and spread of the weights stay, what they say is gone. If the weights were drawn at
    random to begin with, the shuffled ones are as likely as they were. Pass a copy of the module
    to keep the original.
    """
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                order = torch.from_numpy(rng.permutation(tensor.numel())).to(tensor.device)
                tensor.copy_(tensor.reshape(-1)[order].reshape(tensor.shape))


def _pairs(n: int, n_opponents: int) -> tuple[np.ndarray, np.ndarray]:
    """Pair each of n groups with as many others, each pair once: its neighbours in a circle."""
    if n <= n_opponents + 1:
        return np.triu_indices(n, 1)
    first = np.arange(n).repeat(n_opponents // 2)
    return first, (first + np.tile(np.arange(n_opponents // 2) + 1, n)) % n


def random_sets(
    random: np.ndarray,
    scale: np.ndarray,
    gradients: dict[str, np.ndarray],
    size: int,
    *,
    n_groups: int = 50,
    n_null: int = 400,
    n_opponents: int = 12,
    strength: float = 1.0,
    rng: np.random.Generator,
    device="cpu",
) -> tuple[dict[str, pd.DataFrame], np.ndarray]:
    """Score sets of random clips as if they were concepts: the random-against-random CAVs.

    The random clips are dealt into disjoint groups, and each group is scored against others of its
    deal, exactly as a concept is scored against the random groups. A mean over fewer opponents than
    the concept has spreads wider, by a factor of sqrt(1 + 1 / `n_opponents`): p-values err upwards.

    Parameters
    ----------
    random, scale : numpy.ndarray
        Random clips, standardised, ``(M, D) float64``, and by what they were divided, ``(D,)``.
    gradients : dict of str to numpy.ndarray
        For each class ``(N_y, D)``, see :func:`stce.tcav.slopes`.
    size : int
        Members of a set, as many as the concept has.
    n_groups : int, default 50
        Groups a deal; fewer where the clips do not suffice.
    n_null : int, default 400
        At least so many sets are scored. The smallest p-value is 1 / (`n_null` + 1).
    n_opponents : int, default 12
        Groups that each is scored against, an even number; all others of a deal if it has no more.
    rng : numpy.random.Generator
        Deals the groups.
    strength, device
        See :func:`stce.cav.classifiers`.

    Returns
    -------
    by_class : dict of str to pandas.DataFrame
        One row a set: ``score`` and ``derivative``.
    accuracy : numpy.ndarray
        ``(B,)`` held-out accuracy of the sets' CAVs.

    Raises
    ------
    ValueError
        If there are too few random clips for three groups.
    """
    gram, sign = random @ random.T, np.repeat([1, -1], size)
    options = {"strength": strength, "device": device}
    n = min(n_groups, len(random) // size)
    if n < 3:
        raise ValueError(
            f"{len(random)} random clips make {n} disjoint groups of {size}; a test needs 3 or "
            "more. Raise n_random_clips (of other classes' clips: n_discovery) or lower n_keep."
        )
    deals = [tcav.random_groups(len(random), n, size, rng) for _ in range(-(-n_null // n))]
    first, second = _pairs(n, n_opponents)
    together = max(1, 2000 // len(first))
    rows, accuracies = {name: [] for name in gradients}, []
    for start in range(0, len(deals), together):  # bounds the memory, and many fits are faster
        part = deals[start : start + together]
        problems = np.concatenate([np.hstack([deal[first], deal[second]]) for deal in part])
        weights, _ = cav.classifiers(random, gram, problems, sign, **options)
        vectors = cav.unit(weights / scale)
        blocks = np.array_split(problems, -(-len(problems) // 256))
        right = np.concatenate(
            [cav.held_out_accuracy(gram, block, sign, **options) for block in blocks]
        )
        # Swapping the two groups of a problem turns its CAV round, so each is fitted once.
        accuracies.append(_means(n, first, second, right, right))
        for name, gradient in gradients.items():
            derivative = vectors @ gradient.T.astype(np.float64)
            mean, above, below = derivative.mean(1), derivative > 0, derivative < 0
            score = _means(n, first, second, above.mean(1), below.mean(1))
            table = {"score": score, "derivative": _means(n, first, second, mean, -mean)}
            rows[name].append(pd.DataFrame(table))
    tables = {name: pd.concat(parts, ignore_index=True) for name, parts in rows.items()}
    return tables, np.concatenate(accuracies)


def _means(n: int, first, second, forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """Average values of pairs of n groups, deal by deal, at both ends of the pairs."""
    sums = np.zeros((len(forward) // len(first), n))
    for end, values in ((first, forward), (second, backward)):
        for deal, part in zip(sums, values.reshape(len(sums), -1), strict=True):
            deal += np.bincount(end, part, n)
    return (sums * n / (2 * len(first))).ravel()


def _shifts(samples: tcav.Samples, name: str, n_concepts: int) -> np.ndarray:
    """Return the directions from the random clips to each concept, ``(K, D)`` of length 1."""
    groups = samples.groups_of(name)
    dealt = map(np.unique, groups[None] if groups.ndim == 2 else groups)  # once, or once a concept
    random = np.stack([samples.random[rows].mean(0, dtype=np.float64) for rows in dealt])
    members = (samples.concepts.members(name, k) for k in range(n_concepts))
    own = [read_rows(samples.features, rows).mean(0, dtype=np.float64) for rows in members]
    return cav.unit(np.stack(own) - random)


def _unit_mean(gradient: np.ndarray) -> np.ndarray:
    """Return the mean over clips of gradients ``(N, D)`` brought to length 1, ``(D,)``."""
    return cav.unit(gradient.astype(np.float64)).mean(0)


def _shuffled_gradients(
    network, samples: tcav.Samples, name: str, n: int, rng: np.random.Generator, device="cpu"
) -> np.ndarray:
    """Return the mean directions of a class gradient under n shuffled heads, ``(n, D) float64``.

    The network stays as it is; see :func:`_unit_mean` and :func:`shuffle_weights`. Of an adapted
    module all weights are shuffled; the features are given, so only those behind the layer matter.
    """
    network = copy.deepcopy(network)
    head, y = network.behind, samples.classes.index(name)
    found = []
    for _ in range(n):
        shuffle_weights(head, rng)
        slope = tcav.slopes(network, samples.clips[name], y, samples.target, device=device)
        found.append(_unit_mean(slope))
    return np.stack(found)
