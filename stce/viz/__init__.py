"""Results to look at: arrays and tables in, figures, films and pages out."""

import os
import sys

_INLINE = "module://matplotlib_inline.backend_inline"

# Clusters and CI ask for agg, of which a notebook shows nothing.
if "ipykernel.kernelapp" in sys.modules and os.environ.get("MPLBACKEND", _INLINE) != _INLINE:
    os.environ["MPLBACKEND"] = _INLINE
    if "matplotlib" in sys.modules:
        sys.modules["matplotlib"].use(_INLINE)
