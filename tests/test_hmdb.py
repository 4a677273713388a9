import numpy as np
import pytest

from stce.datasets import hmdb
from stce.datasets.hmdb import random_clips

CLASSES = ("brush_hair", "clap", "Run", "shake_hands", "walk")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, films):
    """Three Xvid films of 40 frames a class, named as those of HMDB51 are."""
    root = tmp_path_factory.mktemp("hmdb51")
    for person, name in enumerate(CLASSES, 1):
        for k in range(3):
            film = films.frames("handwaving", 40, person, k + 1)
            path = root / name / f"#12_A_Film!_{name}_u_cm_np1_fr_med_{k}.avi"
            films.write(path, film, fps=30, bf="1")
    return root


def of(clips):
    """The class of each clip."""
    return [group.split("/")[0] for group in clips.groups]


def test_clips_are_balanced_middle_frames(folder, films):
    clips = random_clips(10, folder=folder, size=(60, 80))
    assert clips.frames.shape == (10, 16, 60, 80, 1) and clips.frames.dtype == np.uint8
    assert clips.classes == ("random",) and set(clips.labels) == {0}
    assert sorted(of(clips)) == sorted(CLASSES * 2)
    assert sorted(of(clips)[:5]) == sorted(CLASSES)  # the classes take turns
    assert len(set(clips.groups)) == 10  # no video twice while there are others
    for frames in clips.frames:
        assert films.numbers(frames) == list(range(13, 29))


def test_same_seed_same_clips_at_any_number_of_processes(folder):
    one, two = (random_clips(6, folder=folder, size=(24, 24), n_jobs=n) for n in (1, 2))
    assert one.ids.tolist() == two.ids.tolist()
    np.testing.assert_array_equal(one.frames, two.frames)
    other = random_clips(6, folder=folder, size=(24, 24), seed=1)
    assert set(other.ids) != set(one.ids)


def test_colour_and_length(folder):
    clips = random_clips(2, folder=str(folder), n_frames=8, size=(24, 32), channels=3)
    assert clips.frames.shape == (2, 8, 24, 32, 3)


@pytest.mark.parametrize(
    ("exclude", "left_out"),
    [
        (["walking", "jogging", "handclapping"], {"walk", "Run", "clap"}),
        (("Running", "SHAKE Hands"), {"Run", "shake_hands"}),
        (["brushhair", "diving"], {"brush_hair"}),
        ([], set()),
    ],
)
def test_classes_of_the_target_are_left_out(folder, exclude, left_out):
    clips = random_clips(6, folder=folder, size=(16, 16), exclude=exclude)
    assert set(of(clips)) == set(CLASSES) - left_out


def test_a_video_gives_further_windows_when_there_are_too_few(folder, films):
    exclude = CLASSES[1:]
    clips = random_clips(3 * 2, folder=folder, n_frames=10, size=(60, 80), exclude=exclude)
    shown = [films.numbers(frames) for frames in clips.frames]
    assert [numbers[0] for numbers in shown] == [16] * 3 + [26] * 3
    assert len(set(clips.ids)) == 6 and len(set(clips.groups)) == 3
    everything = random_clips(9, folder=folder, n_frames=10, size=(60, 80), exclude=exclude)
    starts = [films.numbers(frames)[0] for frames in everything.frames]
    assert sorted(starts) == [6] * 3 + [16] * 3 + [26] * 3  # none overlaps another
    with pytest.raises(ValueError, match="give 9 random clips of 10 frames, fewer than n=10; add"):
        random_clips(10, folder=folder, n_frames=10, size=(60, 80), exclude=exclude)


def test_broken_and_short_videos_are_skipped_and_others_take_their_place(folder, films, tmp_path):
    for k, source in enumerate(sorted(folder.glob("clap/*.avi"))):
        for name in ("clap", "wave"):
            path = tmp_path / name / f"{k}.avi"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(source.read_bytes())
    (tmp_path / "clap" / "0.avi").write_bytes(b"")
    (tmp_path / "clap" / "1.avi").write_bytes(b"no film")
    films.write(tmp_path / "clap" / "2.avi", films.frames("boxing", 12))
    (tmp_path / "wave" / "notes.txt").touch()
    with pytest.warns(UserWarning, match="3 videos of HMDB51 are skipped, broken or shorter than"):
        clips = random_clips(3, folder=tmp_path, size=(24, 24))
    assert sorted(clips.groups) == ["wave/0.avi", "wave/1.avi", "wave/2.avi"]
    with pytest.warns(UserWarning, match="skipped, broken or shorter than"):
        random_clips(3, folder=tmp_path, size=(24, 24), notes=(notes := {}))
    assert list(notes) == ["skipped_random"]
    reasons = {row["id"]: row["reason"] for row in notes["skipped_random"]}
    assert sorted(reasons) == ["clap/0.avi", "clap/1.avi", "clap/2.avi"]
    assert reasons["clap/2.avi"] == "It has 12 frames, fewer than the 16 needed."
    assert "0.avi is empty" in reasons["clap/0.avi"]
    with (
        pytest.warns(UserWarning, match="3 videos of HMDB51 are skipped"),
        pytest.raises(ValueError, match="give 3 random clips of 16 frames, fewer than n=4"),
    ):
        random_clips(4, folder=tmp_path, size=(24, 24))


def test_what_can_be_wrong(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not there .*get a copy yourself"):
        random_clips(1, folder=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no class folder with videos besides .*.none.; it must"):
        random_clips(1, folder=tmp_path)
    with pytest.raises(ValueError, match="besides the excluded classes .brush_hair, clap"):
        random_clips(1, folder=folder, exclude=CLASSES)
    for options in ({"n": 0}, {"n_frames": 0}, {"size": (0, 5)}, {"seed": -1}, {"channels": 2}):
        with pytest.raises(ValueError, match="for HMDB51, not|must be a.*, not"):
            random_clips(**{"n": 1, "folder": folder} | options)
    both = [
        random_clips(2, folder=folder, frame_size=f) for f in ((120, 160), np.array([120, 160]))
    ]
    assert np.array_equal(both[0].frames, both[1].frames)
    some, options = np.array([1, 3]), ("channels", "size", "seed", "stride", "frame_size", "n_jobs")
    for name in (*options, "exclude"):
        for wrong in (some[:0], some.astype(str), some[None], 2.5, object()):
            with pytest.raises(ValueError, match=f"{name} must be .*, not"):
                random_clips(**{"n": 1, "folder": folder, name: wrong})


def test_synonyms_know_the_actions_of_kth():
    from stce.datasets import kth

    published = {"walk", "run", "clap", "wave", "punch"}
    assert {hmdb._key(name) for name in kth.CLASSES} == published
