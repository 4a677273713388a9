"""Spatial-temporal concept-based explanation of 3D ConvNets.

The package holds one module for each step of the method; nothing is imported until it is asked for.

- `stce.explain`: all steps for one class of anybody's network, `explain(model, layer, clips, ...)`
- `stce.clips`, `supervoxels`, `features`, `concepts`: clips into pieces, vectors and concepts
- `stce.cav`, `tcav`: the concepts' directions and scores
- `stce.masking`, `ablation`, `curves`: concepts added and removed, and what comes of it
- `stce.videos`, `datasets`, `models`, `training`: what it stands on; `models.adapt`: your network
- `stce.evaluation`, `viz`: is it true, and what does it look like
- `stce.study`: the notebooks as a study with parameters; `stce.engine`: how it is fast
"""

import os

__all__ = ["__version__", "explain"]
__version__ = "0.2.0"

# PyTorch's matrix products go through MKL on x86, whose last digits depend on where in memory the
# numbers lie and on the number of threads, unless it is told otherwise before its first product.
os.environ.setdefault("MKL_CBWR", "AUTO")


def __getattr__(name: str):
    if name == "explain":
        from stce.explanation import explain

        return explain
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
