"""Spatial-temporal concept-based explanation of 3D ConvNets.

The package holds one module for each step of the method; nothing is imported until it is asked for.

- `stce.explain`: all steps for one class of anybody's network, `explain(model, layer, clips, ...)`
- `stce.clips`, `stce.videos`, `stce.datasets`: clips of fixed length, videos of any, where from
- `stce.models`, `stce.training`: the paper's three networks; `stce.models.adapt` for any other
- `stce.supervoxels`, `stce.features`, `stce.concepts`: clips into pieces, vectors, concepts
- `stce.cav`, `stce.tcav`: the concepts' directions and scores
- `stce.ablation`, `stce.curves`: concepts added and removed
- `stce.viz.figures`, `stce.viz.charts`, `stce.viz.tables`, `stce.viz.explorer`: results to look at
- `stce.study.run`, `stce.study`: the notebooks as a study with parameters
"""

import os

__all__ = ["__version__", "explain"]
__version__ = "0.1.0"

# PyTorch's matrix products go through MKL on x86, whose last digits depend on where in memory the
# numbers lie and on the number of threads, unless it is told otherwise before its first product.
os.environ.setdefault("MKL_CBWR", "AUTO")


def __getattr__(name: str):
    if name == "explain":
        from stce.explanation import explain

        return explain
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
