"""SLIC in PyTorch against scikit-image's, which cuts one clip at a time on the CPU."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.color import rgb2lab
from sklearn.metrics import adjusted_rand_score

from benchmarks import worlds
from benchmarks.cutting import boundary_recall
from stce.datasets.textures import textures
from stce.engine.slic import clips_at_once, lab, slic, smooth
from stce.supervoxels import segment, segment_clip

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    ),
]


@pytest.mark.parametrize("device", DEVICES)
def test_actors_are_cut_as_by_scikit_image(device):
    clips = worlds.actors(6, size=56)
    ours = slic(clips.frames, sigma=0.5, device=device)
    for mine, clip, part in zip(ours, clips.frames, clips.parts, strict=True):
        theirs, _ = segment_clip(clip, sigma=0.5)
        for a, b in zip(mine, theirs, strict=True):
            assert adjusted_rand_score(a.ravel(), b.ravel()) >= 0.95
            assert abs(boundary_recall(a, part) - boundary_recall(b, part)) <= 0.01


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 1.0)])
@pytest.mark.parametrize("compactness", [0.5, 5.0, 200.0])
def test_other_clips_and_settings_too(channels, spacing, compactness):
    frames = np.asarray(textures(2, n_frames=9, size=(33, 40), channels=channels).frames)
    how = {"n_segments": (5, 20), "compactness": compactness, "spacing": spacing}
    for mine, clip in zip(slic(frames, **how), frames, strict=True):
        theirs, _ = segment_clip(clip, **how)
        for a, b in zip(mine, theirs, strict=True):
            assert adjusted_rand_score(a.ravel(), b.ravel()) > 0.99


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_are_those_of_scikit_image(channels):
    frames = np.random.default_rng(0).integers(20, 200, (2, 3, 8, 9, channels), np.uint8)
    found = lab(torch.from_numpy(frames)).numpy()
    for mine, clip in zip(found, frames, strict=True):
        stretched = (clip - float(clip.min())) / (clip.max() - float(clip.min()))
        theirs = rgb2lab(stretched.repeat(3 // channels, axis=-1))[..., :channels]
        assert np.abs(mine - theirs).max() < 1e-3


@pytest.mark.parametrize("sigma", [(0, 0.5, 2), (3, 1, 0)])
def test_smoothing_is_that_of_scipy_mirrored_more_than_once_too(sigma):
    volume = np.random.default_rng(1).normal(size=(2, 4, 5, 6, 3))
    expected = [ndimage.gaussian_filter(v, (*sigma, 0), mode="reflect") for v in volume]
    np.testing.assert_allclose(smooth(torch.from_numpy(volume), sigma).numpy(), expected)


def test_a_clip_does_not_depend_on_those_cut_with_it():
    frames = np.asarray(textures(3, n_frames=6, size=(24, 28)).frames)
    together = slic(frames, n_segments=(4, 9))
    for one, labels in zip(frames, together, strict=True):
        assert np.array_equal(slic(one[None], n_segments=(4, 9))[0], labels)


@pytest.mark.parametrize("value", [0, 7, 255])
def test_a_clip_of_one_colour_is_cut_into_boxes(value):
    frames = np.full((1, 8, 24, 24, 1), value, np.uint8)
    labels = slic(frames, n_segments=(8,))[0, 0]
    theirs, _ = segment_clip(frames[0], n_segments=(8,))
    assert np.array_equal(labels, theirs[0])


def test_many_clips_on_a_device_give_the_table_of_scikit_image(tmp_path):
    clips = textures(5, n_frames=6, size=(24, 28))
    options = {"n_segments": (4, 9), "min_fraction": 0.01, "progress": False}
    here = segment(clips, **options)
    there = segment(clips, tmp_path, device="cpu", n_jobs=2, **options)
    assert np.array_equal(here.labels, there.labels[:])
    assert here.table.equals(there.table)


def test_bad_frames_are_refused_on_a_device_too():
    class Floats:
        frames = np.zeros((2, 4, 8, 8, 1))

        def __len__(self):
            return 2

    with pytest.raises(ValueError, match="frames is float64"):
        segment(Floats(), device="cpu", progress=False)


def test_a_gpu_is_given_many_small_clips_at_once_and_one_large_one():
    assert clips_at_once((16, 112, 112), (15, 50, 80), "cpu") == 1
    few, many = (clips_at_once((16, n, n), (15, 50, 80), "cuda") for n in (112, 56))
    assert 1 < few < many
    assert clips_at_once((64, 1000, 1000), (500,), "cuda") == 1


def test_colours_far_apart_are_summed_without_overflow():
    frames = np.zeros((1, 4, 16, 16, 1), np.uint8)
    frames[:, :, :, 8:] = 255
    (labels,) = slic(frames, n_segments=(4,), compactness=1e-6, sigma=0.0)[0]
    assert not set(labels[:, :, :8].ravel()) & set(labels[:, :, 8:].ravel())
