"""Two repairs without which pytorchvideo 0.1.5 cannot be imported; import this module before it.

1. pytorchvideo imports ``torchvision.transforms.functional_tensor``, which torchvision has called
   ``_functional_tensor`` since 0.17 (facebookresearch/pytorchvideo issues 258, 269 and 271).
2. torchvision's compiled library asks for CUDA. Beside a CPU-only torch it does not load, and
   ``import torchvision`` ends in ``operator torchvision::nms does not exist``. The operators are
   not used here, so declaring the two that it looks up is enough.
"""

import importlib
import sys


def _import_torchvision():
    """Import torchvision; where it lacks its operators, and only there, declare them."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    else:
        return None
    import torch

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    importlib.import_module("torchvision")
    return library


_LIBRARY = _import_torchvision()  # the declarations last as long as this object
try:
    importlib.import_module("torchvision.transforms.functional_tensor")
except ModuleNotFoundError:
    sys.modules["torchvision.transforms.functional_tensor"] = importlib.import_module(
        "torchvision.transforms._functional_tensor"
    )
