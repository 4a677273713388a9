"""Sanity checks of explanations (Adebayo et al. 2018): random weights, random labels."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pandas as pd

from stce.evaluation.significance import shuffle_weights
from stce.evaluation.stability import agreement


def cascade(network, rng: np.random.Generator, n_networks: int | None = None) -> Iterator:
    """Yield copies of a network whose weights are randomised from the top down [1]_.

    The weights of the last block are shuffled, then those of the last two, and so on to the first:
    each copy is less of the trained network than the one before. Each comes with the name of its
    lowest block that is randomised; see :func:`stce.evaluation.significance.shuffle_weights`. The
    network itself stays as it is.

    Parameters
    ----------
    network : stce.models.adapt.Explainable
        One that knows its weights (`blocks`); a ValueError tells if it has none.
    rng : numpy.random.Generator
        Shuffles the weights.
    n_networks : int, optional
        Yield so many, evenly spaced over the blocks, the last one wholly random; default all.

    References
    ----------
    .. [1] J. Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018.

    Examples
    --------
    >>> from stce import models
    >>> network = models.build("r3d18", 2, 0.125, in_channels=1, input_size=(8, 16, 16))
    >>> [name for name, _ in cascade(network, np.random.default_rng(0))][:2]
    ['fc', 'layer4']
    """
    current = copy.deepcopy(network)
    blocks = [pair for pair in current.blocks().items() if any(True for _ in pair[1].parameters())]
    if not blocks:
        raise ValueError(
            f"{network.name} has no weights that are known; give a torch.nn.Module, or let logits "
            "of your own features be one."
        )
    shown = np.linspace(len(blocks) - 1, 0, n_networks or len(blocks)).round()
    for i, (name, block) in enumerate(reversed(blocks)):
        shuffle_weights(block, rng)
        if i in shown:
            yield name, copy.deepcopy(current)


def against_trained(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Compare networks that should say nothing with the trained one.

    Parameters
    ----------
    tables : dict of str to pandas.DataFrame
        Of :func:`stce.evaluation.significance.assess`, by network, on the same concepts. One of
        them is "trained".

    Returns
    -------
    pandas.DataFrame
        One row a network: ``significant`` (share of concepts with ``q_value`` below the nominal
        rate, 0.05), ``uncorrected`` (share with ``p`` below it), and the rank agreement of its
        derivatives with those of the trained network: ``correlation``, ``ci_low``, ``ci_high``.

    Examples
    --------
    >>> table = pd.DataFrame({"class": "a", "concept": range(5), "derivative": range(5)})
    >>> table = table.assign(p=0.01, q_value=0.02)
    >>> found = against_trained({"trained": table, "random": table.assign(p=1.0, q_value=1.0)})
    >>> found["significant"].tolist()
    [1.0, 0.0]
    """
    if "trained" not in tables:
        raise ValueError(f"There is no network 'trained' among {', '.join(tables)}; name it.")
    rows = []
    for name, table in tables.items():
        agreed = agreement(tables["trained"], table).set_index("class").loc["all"]
        shares = [(table[column] < 0.05).mean() for column in ("q_value", "p")]
        rows.append((name, *shares, *agreed[["correlation", "ci_low", "ci_high"]]))
    columns = ["network", "significant", "uncorrected", "correlation", "ci_low", "ci_high"]
    return pd.DataFrame(rows, columns=columns)
