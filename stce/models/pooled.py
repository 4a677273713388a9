"""A network seen through its map: features are averages of a layer's channels over positions."""

from __future__ import annotations

from torch import Tensor

from stce.models.network import Network

__all__ = ["Pooled"]


class Pooled(Network):
    """A network whose supervoxels are pooled from the map of a whole clip, in one pass.

    The features of a supervoxel are the mean of the map under its mask
    (:func:`stce.pooled.weights`), those of a clip the mean over all positions, so D is the number
    of channels. To move such features along a vector is to move every position of the map along
    it: the gradient in this space is the sum over positions of the gradient by the map. Where all
    that follows the map is a global average and a linear layer (R3D at ``layer4``, I3D at its
    last mixed layer) that is exactly the gradient by the averaged features; elsewhere the head
    may also tell where in the map a feature is, of which pooled features know nothing.

    Attributes
    ----------
    grid : tuple of int
        (t, h, w) of the map.
    n_features : int
        Its channels.

    Raises
    ------
    ValueError
        If the layer has no positions, with those that have.

    Examples
    --------
    >>> import torch
    >>> from stce import models
    >>> network = models.build("r3d18", 2, 0.125, 1, (8, 24, 24), layer="layer4")
    >>> pooled = Pooled.of(network)
    >>> pooled.grid, pooled.n_features, pooled.features(torch.zeros(3, 1, 8, 24, 24)).shape
    ((1, 2, 2), 64, torch.Size([3, 64]))
    """

    def __init__(self, blocks, layer, settings, classes=None):
        super().__init__(blocks, layer, settings, classes)
        if len(self.feature_shape) != 4:
            cuts = ((name, Network(blocks, name, settings)) for name in self.layers)
            maps = [name for name, cut in cuts if len(cut.feature_shape) == 4]
            raise ValueError(
                f"layer {layer!r} of {self.name} has {self.feature_shape} features and no "
                f"positions to pool over; take a layer before it: {', '.join(maps)}."
            )
        self.n_features, *grid = self.feature_shape
        self.grid = tuple(grid)

    @classmethod
    def of(cls, network: Network) -> Pooled:
        """Return this view of a network, with the same weights (shared, not copied)."""
        return network._as(cls, network.layer)

    def maps(self, x: Tensor) -> Tensor:
        """Return the layer's map of prepared clips: ``(N, C, t, h, w) float32``."""
        return self.trunk(self._check(x))

    def features(self, x: Tensor) -> Tensor:
        """Return the mean of the map over positions, ``(N, C)``."""
        return self.maps(x).mean((2, 3, 4))

    def split(self, layer: str) -> Network:
        """Return the plain network cut at a layer; a view of that one may be taken again."""
        return self._as(Network, layer)
