"""The campaign on real films: what was computed once is not computed again."""

import numpy as np
import pytest
import torch

from book.campaigns import causes, interactions
from book.campaigns.interactions import Films
from stce import features, models

SIZE, NAMES = (16, 32, 32), ("hug", "kick")


@pytest.fixture
def given(tmp_path, films, monkeypatch):
    """Films of two classes and two scenes, others, and a small network that sees them."""
    rng = np.random.default_rng(0)
    for group in ("seq1", "seq2"):
        for i, name in enumerate(NAMES):
            for take in range(2):
                frames = rng.integers(0, 120 + 100 * i, (36, 40, 48, 3), np.uint8)
                films.write(tmp_path / "films" / name / f"{group}_{take}.avi", frames)
    films.write(tmp_path / "others" / "any.avi", rng.integers(0, 255, (36, 40, 48, 3), np.uint8))
    network = models.build("i3d", 4, 0.125, 3, SIZE).eval()
    monkeypatch.setattr(interactions, "SIZE", SIZE)
    monkeypatch.setattr(models, "load", lambda *_, **__: network)
    return tmp_path / "films", tmp_path / "others", tmp_path / "kept", r"^(seq\d+)_", ["seq2"]


def test_a_campaign_that_was_stopped_goes_on(given, monkeypatch):
    first, second = Films.load(*given)
    assert [set(f.clips.groups) for f in (first, second)] == [{"seq1"}, {"seq2"}]
    made = first.pool("hug", first.of("hug"), "colour", "pooled", "Mixed_4f")
    again, _ = Films.load(*given)  # what was kept meanwhile spoils nothing that was sealed
    np.testing.assert_array_equal(again.clips.frames, first.clips.frames)
    monkeypatch.setattr(causes, "pool", lambda *_, **__: pytest.fail("embedded again"))
    monkeypatch.setattr(causes, "pieces", lambda *_, **__: pytest.fail("cut again"))
    read = again.pool("hug", again.of("hug"), "colour", "pooled", "Mixed_4f")
    for name, values in vars(made).items():
        np.testing.assert_array_equal(getattr(read, name), values)


def test_heads_are_judged_by_clips_that_they_were_not_fitted_to(given):
    both = Films.load(*given)
    found = interactions.heads(both, n_folds=3).set_index("split")
    assert found["held_out"].tolist() == ["seq1", "seq2"] * 2  # two groups, two folds
    assert found["n_clips"].tolist() == [4] * 4
    for n, f in enumerate(both):  # a head that was fitted to the other scene, as `load` fits it
        z = features.extract_clips(f.network.split("avgpool"), f.clips)
        with torch.inference_mode():
            told = both[1 - n].network.split("avgpool").logits(torch.from_numpy(z)).argmax(1)
        assert found["accuracy"][f"scene {n + 1}"] == (told.numpy() == f.clips.labels).mean()


@pytest.mark.parametrize("how", causes.REPRESENTATIONS)
def test_supervoxels_are_embedded_in_every_way(given, how):
    first, _ = Films.load(*given)
    layer = "Mixed_4f" if how == "pooled" else "avgpool"
    made = first.pool("kick", first.of("kick"), "colour", how, layer, few=5)
    assert made.z.shape == (5, made.whole.shape[1]) and np.isfinite(made.z).all()
    assert len(np.unique(made.z.round(4), axis=0)) == 5  # each supervoxel by itself
