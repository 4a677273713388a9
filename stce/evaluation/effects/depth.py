"""The same concepts at several layers: where in a network a class reads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


def over_layers(it, views: Sequence[Explainable]) -> pd.DataFrame:
    """Score the concepts of an explanation at several layers.

    The supervoxels of each concept stay, so that concept k is the same thing at all layers.

    Parameters
    ----------
    it : stce.evaluation.trust.Evidence
        What the explanation was made from.
    views : sequence of stce.models.adapt.Explainable
        The network at each of the layers, of :func:`seen_at`. Supervoxels shown one by one pass
        through it once for all layers; others once for each, a pass a clip.

    Returns
    -------
    pandas.DataFrame
        One row a ``layer`` and concept, of :class:`stce.tcav.Tcav`: signs are counted by ``score``,
        and how much is told by ``derivative`` (in units of that layer's features) and ``cosine``,
        of the CAV and the gradient, which can be compared between layers.
    """
    clips, cut = it.discovery
    rows = np.unique(it.concepts.table["supervoxel"])
    how, parts = {"stretch": it.given["stretch"], "device": it.device}, []
    alone = it.network.shown == "supervoxels"
    together = [views] if alone else [[view] for view in views]
    for some in together:
        network = Several(some) if len(some) > 1 else some[0]
        z = features.extract_rows(network, clips, cut, rows, **how)
        random = it.negatives.embed(network, **how)
        edges = np.cumsum([view.n_features for view in some])[:-1]
        parts += zip(some, *(np.split(of, edges, axis=1) for of in (z, random)), strict=True)
    tables = []
    for view, z, random in parts:
        every = np.zeros((len(cut), z.shape[1]), np.float32)
        every[rows] = z
        samples = replace(it.samples, features=every, random=random, slopes=None)
        samples = replace(samples, **features.whole(view, clips, samples, device=it.device))
        result = tcav.score(view, samples, device=it.device, **it.options)
        ((name, slope),) = samples.gradients(view, samples.clips, it.device)
        cosine = result.cavs[name].mean(1) @ cav.unit(slope).mean(0)
        table = result.scores.assign(cosine=lambda t, by=cosine: by[t["concept"]])
        tables.append(table.assign(layer=view.layer))
    table = pd.concat(tables, ignore_index=True)
    if "name" in it.tcav.scores:
        table = table.merge(it.tcav.scores[["class", "concept", "name"]])
    return table[["layer", *table.columns.drop("layer")]]
