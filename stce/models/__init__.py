"""Networks: the paper's three, and anybody's, each cut into a trunk and a head.

`build`, `load` and `save` are for the paper's, `adopt` for weights that others have trained for
them; `stce.models.adapt` takes any other module.
"""

from stce.models.foreign import adopt
from stce.models.network import Network, Pooled
from stce.models.store import load, save
from stce.models.zoo import NETWORKS, build

__all__ = ["FEATURES", "NETWORKS", "Network", "Pooled", "adopt", "build", "load", "save"]
