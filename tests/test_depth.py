"""The same concepts at several layers."""

from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import torch
from test_check import HOW, world
from torch import nn

from stce import models, tcav
from stce.evaluation.effects import depth
from stce.evaluation.effects.depth import Several, seen_at
from stce.explanation import Explanation, explain
from stce.models.adapt import adapt
from stce.viz import charts

LAYERS = ["layer2", "layer3", "avgpool"]
SHAPE = (1, 8, 32, 32)


def ours():
    network = models.build("r3d18", 2, 0.125, 1, (8, 32, 32), seed=0)
    network.classes = ("no", "yes")
    return network


class Counted(nn.Module):
    """Two convolutions, and how often they ran; what follows the first writes into its output."""

    def __init__(self):
        super().__init__()
        self.first, self.act = nn.Conv3d(1, 4, 3), nn.ReLU(inplace=True)
        self.second, self.fc, self.runs = nn.Conv3d(4, 6, 3), nn.Linear(6, 2), 0

    def forward(self, x):
        self.runs += len(x)
        return self.fc(self.second(self.act(self.first(x))).mean((2, 3, 4)))


@pytest.mark.parametrize("own", [True, False])
def test_one_pass_gives_the_features_of_each_layer(own):
    torch.manual_seed(0)
    network = ours().eval() if own else adapt(Counted(), "second", clip_shape=SHAPE)
    views = seen_at(network, LAYERS if own else ["first", "second"])
    several, x = Several(views), torch.randn(3, *SHAPE)
    if not own:
        network.model.runs = 0
    with torch.no_grad():
        together = several.features(x)
        assert own or network.model.runs == 3
        apart = torch.cat([view.features(x) for view in views], 1)
    assert together.shape == (3, several.n_features)
    assert torch.allclose(together, apart, atol=1e-6)


@pytest.mark.parametrize("pooled", [False, True])
def test_each_layer_is_scored_as_if_it_were_alone(pooled, tmp_path):
    clips, _ = world()
    network, layers = ours(), LAYERS[:2] if pooled else LAYERS
    how = {**HOW, "features": "pooled" if pooled else "supervoxels"}
    found = explain(network, "layer3" if pooled else None, clips, "yes", layers=layers, **how)
    assert list(dict.fromkeys(found.layers["layer"])) == layers
    at = found.evidence
    for layer, table in found.layers.groupby("layer"):
        view = seen_at(at.network, [layer])[0]
        shown = {"stretch": False, "device": "cpu"}
        (samples,) = depth.as_seen_by([view], at.samples, *at.discovery, at.negatives, **shown)
        alone = tcav.score(view, samples, seed=0).scores
        near = {"rtol": 1e-3, "atol": 1e-4}
        table = table.drop(columns=["layer", "cosine"]).reset_index(drop=True)
        pd.testing.assert_frame_equal(table, alone[table.columns], **near)
    # At the layer of the explanation itself they are its own.
    own = found.layers.query(f"layer == {network.layer if not pooled else 'layer3'!r}")
    assert own["cosine"].abs().max() <= 1
    assert (np.sign(own["cosine"]) == np.sign(own["derivative"])).all()
    columns = ["score", "derivative", "rank"]
    mine = own.set_index("concept")[columns].sort_index()
    assert np.allclose(mine, found.scores[columns].sort_index(), atol=1e-3)
    found.save(tmp_path / "kept")
    pd.testing.assert_frame_equal(Explanation.load(tmp_path / "kept").layers, found.layers)


def test_a_module_of_ones_own_is_seen_at_several_layers():
    clips, _ = world()
    module = nn.Sequential(OrderedDict(ours().blocks()))
    found = explain(module, "avgpool", clips.frames, 1, layers=["layer3", "avgpool"], **HOW)
    assert len(found.layers) == 8
    with pytest.raises(ValueError, match="has no layer 'layer9'; near to it are"):
        explain(module, "avgpool", clips.frames, 1, layers=["layer9"], **HOW)
    for wrong in ("layer3", [], ["layer3", "layer3"], [3], 5):
        with pytest.raises(ValueError, match="layers is .*; give a list of layers, each once"):
            explain(module, "avgpool", clips.frames, 1, layers=wrong, **HOW)


def test_the_chart_has_a_line_a_concept():
    rows = [
        {"layer": layer, "concept": k, "rank": k + 1, "score": s, "cosine": s / 2, "name": name}
        for layer, s in (("a", 0.5), ("b", 0.9))
        for k, name in enumerate(("", "wheel"))
    ]
    left, right = charts.depth_chart(pd.DataFrame(rows)).axes
    assert len(left.lines) == len(right.lines) == 3  # and one of what is no effect
    assert [text.get_text() for text in right.texts] == ["wheel"]
