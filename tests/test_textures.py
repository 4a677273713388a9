import numpy as np
import pytest

from stce.datasets.textures import textures


def test_shape_and_table():
    clips = textures(4, n_frames=5, size=(20, 30))
    assert clips.frames.shape == (4, 5, 20, 30, 1)
    assert clips.frames.dtype == np.uint8
    assert clips.classes == ("random",)
    assert not clips.labels.any()
    assert len(set(clips.groups)) == 4


def test_the_first_clips_are_the_same_for_any_number():
    few, many = textures(5, size=(24, 24)), textures(12, size=(24, 24))
    assert np.array_equal(few.frames, many.frames[:5])
    assert list(few.ids) == list(many.ids[:5])
    assert not np.array_equal(few.frames, textures(5, size=(24, 24), seed=1).frames)


def test_they_move_and_differ():
    frames = textures(120, n_frames=8, size=(32, 32)).frames[..., 0].astype(np.float32)
    contrast, brightness = frames.std((1, 2, 3)), frames.mean((1, 2, 3))
    assert contrast.min() > 4
    assert np.ptp(contrast) > 30 and np.ptp(brightness) > 70
    # Adjacent frames: alike, yet different in all clips, slow ones and fast ones.
    step = np.abs(np.diff(frames, axis=1)).mean((1, 2, 3)) / contrast
    assert step.min() > 0.005
    assert np.quantile(step, 0.1) < 0.15 and np.quantile(step, 0.9) > 0.35
    # Fine and coarse: correlation of neighbouring pixels.
    centred = frames - frames.mean((2, 3), keepdims=True)
    near = (centred[..., 1:] * centred[..., :-1]).mean((1, 2, 3)) / (centred**2).mean((1, 2, 3))
    assert near.min() < 0.6 and near.max() > 0.97


def test_colour():
    frames = textures(6, n_frames=3, size=(16, 24), channels=3).frames
    assert frames.shape == (6, 3, 16, 24, 3)
    assert np.ptp(frames.astype(int), axis=-1).max() > 20


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"n": 0}, "n must"),
        ({"n": 2.5}, "n must"),
        ({"n_frames": 0}, "n_frames"),
        ({"size": 56}, "size"),
        ({"size": (56, 4)}, "width"),
        ({"channels": 2}, "channels"),
        ({"seed": -3}, "seed"),
    ],
)
def test_errors(options, names):
    with pytest.raises(ValueError, match=names):
        textures(**{"n": 2, **options})
