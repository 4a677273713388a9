"""The parameters of notebooks that only show what was found: tables, figures, the explorer."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

from stce.study import parameters
from stce.study.parameters import NOTEBOOKS, PARAMETERS, Parameter

__all__ = ["PAGES", "check", "read"]

_RUN = {"run_folder": PARAMETERS["train"]["run_folder"]}
_CLASS = {"class_name": Parameter("boxing", "Class shown.")}
_MODE = {"mode": Parameter("add", "Are concepts added or removed?", choices=("add", "remove"))}
_RESULTS = {"results_folder": Parameter("../book/results", "Folder of published results.")}
_BENCH = {"bench": Parameter("../benchmarks/results.json", "What `python -m benchmarks` wrote.")}

PAGES: dict[str, dict[str, Parameter]] = {
    **NOTEBOOKS,
    **{f"figure_{n}": {**_RUN, **_CLASS} for n in ("method", "cav", "concepts", "resolution")},
    "figure_steps": {**_RUN, **_CLASS, **_MODE},
    "figure_curves": {**_RESULTS, "class_name": Parameter("jogging", "Class."), **_MODE},
    "figure_settings": {
        "run_folder": Parameter("../data/runs/actors-standard/seed-0", "Run, standard setting."),
        "small_folder": Parameter("../data/runs/actors-small/seed-0", "Run, small setting."),
        **_CLASS,
    },
    "trust": {
        **_RESULTS,
        "validated": Parameter("validate", "Run whose validation is shown."),
        "seed": Parameter(0, "Of the network that is shown.", low=0),
    },
    "choices": _RESULTS,
    "motion": {
        **_RESULTS,
        **_RUN,
        "seed": Parameter(0, "Of the clip that is shown.", low=0),
    },
    "speed": {**_BENCH, **_RESULTS},
    "scale": {
        **_BENCH,
        "world": Parameter("kinetics-r3d", "Network and clips whose unit costs are taken."),
        "n_classes": Parameter([10, 700], "Classes of the studies predicted.", 1),
        "devices": Parameter([1, 8, 64, 512], "GPUs.", 1),
        "cores": Parameter(16, "CPU cores of each GPU.", 1),
        "gpu_tflops": Parameter(40.0, "Assumed for a GPU that was not measured, sustained.", 0.01),
        "n_discovery": Parameter(200, "Clips a class to find concepts in.", 1),
        "n_test": Parameter(50, "Test clips a class.", 1),
        "n_random_clips": Parameter(2000, "Random clips.", 2),
        "n_concepts": Parameter(25, "Clusters a class.", 1, 63),
    },
    "tables": _RESULTS,
    "wild": _RESULTS,
    "soak": _RESULTS,
    "table": {"number": Parameter(1, "Which of the paper's tables.", 1, 6), **_RESULTS},
}


def check(page: str, values: Mapping[str, object]) -> dict[str, object]:
    """Check the parameters of a page, see :func:`stce.study.parameters.check`.

    Examples
    --------
    >>> check("table", {"number": 3})["number"]
    3
    """
    return parameters.check(page, values, PAGES[page])


def read(page: str, namespace: Mapping[str, object]) -> SimpleNamespace:
    """Collect the parameters that a page has set, see :func:`stce.study.parameters.read`."""
    return parameters.read(page, namespace, PAGES[page])
