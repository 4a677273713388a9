"""The same concepts at several layers: where in a network a class reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from stce import cav, features, tcav
from stce.models.adapt import Explainable, seen


class Several(Explainable):
    """One network seen at several layers at once: features are those of all, side by side.

    They come from one forward pass; `views` are the network at each of the layers.
    """

    def __init__(self, views: Sequence[Explainable]):
        first = views[0]
        super().__init__(first.clip_shape, first.mean.tolist(), first.std.tolist())
        self.views, self.name, self.threadsafe = list(views), first.name, first.threadsafe
        self.n_features = sum(view.n_features for view in views)

    def features(self, x: Tensor) -> Tensor:
        """Return the features of all layers, ``(N, D) float32``."""
        return torch.cat(self.views[0].features_at(self.views, x), dim=1)


def seen_at(network: Explainable, layers: Sequence[str]) -> list[Explainable]:
    """Return a network at each of some layers, seen as it is; ValueError if one is twice."""
    listed = list(layers) if isinstance(layers, Iterable) and not isinstance(layers, str) else []
    if not all(isinstance(one, str) for one in listed) or not 0 < len(listed) == len(set(listed)):
        raise ValueError(f"layers is {layers!r:.99}; give a list of layers, each once.")
    return [seen(network, layer, network.shown) for layer in listed]


def as_seen_by(
    views: Sequence, samples: tcav.Samples, clips, supervoxels, negatives, *, stretch, device="cpu"
) -> Iterator[tcav.Samples]:
    """Yield what given concepts are scored from with another network, or at layers of one.

    The supervoxels of each concept stay, so concept k is the same thing to all; their features, and
    those of the clips, are those of each view.

    Parameters
    ----------
    views : sequence of stce.models.adapt.Explainable
        One of the clips' classes and size, or one a layer, of :func:`seen_at`. Supervoxels shown
        one by one pass through it once for all layers; others once for each, a pass a clip.
    samples : stce.tcav.Samples
        Of the explained network.
    clips, supervoxels, negatives, stretch, device
        The discovery clips, see :func:`stce.features.extract`, and `stce.features.Negatives`.
    """
    rows = np.unique(samples.concepts.table["supervoxel"])
    how = {"stretch": stretch, "device": device}
    alone = views[0].shown == "supervoxels"
    for some in [views] if alone else [[view] for view in views]:
        network = Several(some) if len(some) > 1 else some[0]
        z = features.extract_rows(network, clips, supervoxels, rows, **how)
        random = negatives.embed(network, **how)
        edges = np.cumsum([view.n_features for view in some])[:-1]
        parts = (np.split(of, edges, axis=1) for of in (z, random))
        for view, z, random in zip(some, *parts, strict=True):
            every = np.zeros((len(supervoxels), z.shape[1]), np.float32)
            every[rows] = z
            given = replace(samples, features=every, random=random, slopes=None)
            yield replace(given, **features.whole(view, clips, given, device=device))


def over_layers(it, views: Sequence[Explainable]) -> pd.DataFrame:
    """Score the concepts of an explanation at several layers.

    Parameters
    ----------
    it : stce.evaluation.trust.Evidence
        What the explanation was made from.
    views : sequence of stce.models.adapt.Explainable
        The network at each of the layers, of :func:`seen_at`; see :func:`as_seen_by`.

    Returns
    -------
    pandas.DataFrame
        One row a ``layer`` and concept, of :class:`stce.tcav.Tcav`: signs are counted by ``score``,
        and how much is told by ``derivative`` (in units of that layer's features) and ``cosine``,
        of the CAV and the gradient, which can be compared between layers.
    """
    tables, how = [], {"stretch": it.given["stretch"], "device": it.device}
    given = as_seen_by(views, it.samples, *it.discovery, it.negatives, **how)
    for view, samples in zip(views, given, strict=True):
        result = tcav.score(view, samples, device=it.device, **it.options)
        ((name, slope),) = samples.gradients(view, samples.clips, it.device)
        cosine = result.cavs[name].mean(1) @ cav.unit(slope).mean(0)
        table = result.scores.assign(cosine=lambda t, by=cosine: by[t["concept"]])
        tables.append(table.assign(layer=view.layer))
    table = pd.concat(tables, ignore_index=True)
    if "name" in it.tcav.scores:
        table = table.merge(it.tcav.scores[["class", "concept", "name"]])
    return table[["layer", *table.columns.drop("layer")]]
