"""What the paper reports: the numbers of its Tables 1 to 6."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

__all__ = ["FILE", "N_TEST", "table", "tables"]

FILE = Path(__file__).resolve().parents[1] / "data" / "paper" / "tables.csv"

# Test videos behind each accuracy (section 4.1).
N_TEST = {"Kinetics": 480, "KTH": 863}


def tables() -> pd.DataFrame:
    """Return the numbers of the paper's six tables.

    Returns
    -------
    pandas.DataFrame
        One row a cell: ``table`` (1 to 6), ``dataset`` ("Kinetics", "KTH"), ``model`` ("C3D",
        "R3D", "I3D"), ``setting`` ("standard", "small"), ``mode`` ("add", "remove"), ``order``
        ("top", "random", "least", "baseline"), ``q`` (concepts added or removed, 1 to 5; 0 for
        the baseline) and ``accuracy`` (per cent).

    Raises
    ------
    FileNotFoundError
        If the package does not lie in a checkout.

    References
    ----------
    .. [1] Y. Ji, Y. Wang, J. Kato, "Spatial-temporal Concept-based Explanation of 3D ConvNets",
       CVPR 2023, Tables 1 to 6.

    Examples
    --------
    >>> cells = tables()
    >>> cells.query("table == 1 and model == 'C3D' and q == 5")["accuracy"].tolist()
    [58.54, 55.83, 52.29]
    """
    if not FILE.exists():
        raise FileNotFoundError(
            f"The paper's numbers {FILE} are not there: they are part of the checkout, so run from "
            "a clone of the project, installed with `pip install -e .`."
        )
    return pd.read_csv(FILE)


def table(number: int) -> pd.DataFrame:
    """Return the rows of one of the paper's tables, 1 to 6.

    Raises
    ------
    ValueError
        If there is no such table.

    Examples
    --------
    >>> sorted(table(1)["model"].unique())
    ['C3D', 'I3D', 'R3D']
    """
    cells = tables()
    if number not in set(cells["table"]):
        raise ValueError(f"The paper has tables 1 to 6, no table {number!r}.")
    return cells[cells["table"] == number].reset_index(drop=True)
