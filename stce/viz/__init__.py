"""Results to look at: arrays and tables in, figures, films and pages out."""

import os
import sys

_INLINE = "module://matplotlib_inline.backend_inline"

# Below its cell a notebook shows a figure of this backend alone; on clusters and in CI the
# environment asks for agg, or for a window.
if "ipykernel.kernelapp" in sys.modules and os.environ.get("MPLBACKEND", _INLINE) != _INLINE:
    os.environ["MPLBACKEND"] = _INLINE
    if "matplotlib" in sys.modules:
        sys.modules["matplotlib"].use(_INLINE)
