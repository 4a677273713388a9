from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from stce.datasets import actors
from stce.datasets.render import motion
from stce.datasets.render.people import person_body, person_look

KTH = Path(__file__).parents[1] / "data" / "kth" / "sequences.csv"
HEAD, TORSO, ARMS, LEGS, CUE = range(1, 6)


@pytest.fixture(scope="module")
def sample():
    """Middle frames of one test video of each (person, action, scenario): frames, parts, table."""
    videos = actors.load("test", takes=1, n_frames=5)
    frames = np.stack([videos.read(i) for i in range(len(videos))])
    parts = np.stack([videos.parts(i) for i in range(len(videos))])
    return frames[..., 0], parts, videos.table


def test_split_is_that_of_kth():
    official = pd.read_csv(KTH).groupby("person")["official_split"].first()
    for split, names in (("test", ["test"]), ("train", ["train", "val"])):
        table = actors.load(split, takes=1).table
        assert set(table["person"]) == set(official.index[official.isin(names)])
    assert len(pd.read_csv(KTH)) == 2391


def test_tables():
    train, test = (actors.load(split) for split in ("train", "test"))
    assert (len(train), len(test)) == (768, 432)
    assert not set(train.table["group"]) & set(test.table["group"])
    for videos in (train, test):
        assert videos.classes == actors.CLASSES
        assert videos.table["id"].is_unique
        assert videos.table["class"].value_counts().nunique() == 1
        assert [videos.classes[k] for k in videos.table["label"]] == list(videos.table["class"])
    assert "person02_boxing_d3_t1" in set(test.table["id"])


def test_same_bits_and_independent_takes():
    first, second = (actors.load("test", takes=2, n_frames=6) for _ in range(2))
    _ = second.read(9)  # what was read before makes no difference
    for i in (0, 1, 100):
        assert np.array_equal(first.read(i), second.read(i))
        assert np.array_equal(first.parts(i), second.parts(i))
    assert np.array_equal(first.select([7]).read(0), first.read(7))
    # More takes add videos and leave the others as they are.
    alone = actors.load("test", takes=1, n_frames=6)
    assert alone.table["id"][3] == first.table["id"][6]
    assert np.array_equal(alone.read(3), first.read(6))
    assert not np.array_equal(first.read(0), first.read(1))
    other = actors.load("test", takes=2, n_frames=6, seed=1)
    assert not np.array_equal(first.read(0), other.read(0))


def test_reading_gives_copies():
    videos = actors.load("test", takes=1, n_frames=2)
    videos.read(0)[:] = 0
    videos.parts(0)[:] = 9
    assert videos.read(0).any() and videos.parts(0).max() < CUE


def test_frames_and_masks(sample):
    frames, parts, table = sample
    assert frames.dtype == parts.dtype == np.uint8
    assert frames.shape == parts.shape == (216, 5, 120, 160)
    assert set(np.unique(parts)) == {0, HEAD, TORSO, ARMS, LEGS}
    middle = parts[:, 2]
    share = {k: (middle == k).mean((1, 2)) for k in (HEAD, TORSO, ARMS, LEGS)}
    for name, low, high in ((HEAD, 0.004, 0.02), (TORSO, 0.001, 0.05), (LEGS, 0.013, 0.06)):
        assert low < share[name].min() and share[name].max() < high
    assert share[ARMS].min() > 0.008  # at least 150 pixels; 25 of 56 x 56
    rows = middle.any(2)
    tall = 120 - rows.argmax(1) - rows[:, ::-1].argmax(1)
    assert 0.5 < tall.min() / 120 and tall.max() / 120 < 0.98  # raised hands included
    heads = [np.nonzero(m == HEAD)[0].mean() for m in middle]
    legs = [np.nonzero(m == LEGS)[0].mean() for m in middle]
    assert np.all(np.array(heads) + 25 < legs)


def test_the_picture_moves_where_the_parts_do(sample):
    frames, parts, table = sample
    steps = np.abs(np.diff(frames.astype(np.float32), axis=1)).mean(1)
    moving = parts.max(1) > 0
    inside = (steps * moving).sum((1, 2)) / moving.sum((1, 2))
    outside = (steps * ~moving).sum((1, 2)) / (~moving).sum((1, 2))
    assert np.median(inside / outside) > 1.3
    changes = (np.diff(parts, axis=1) != 0).mean((1, 2, 3))
    by_class = pd.Series(changes).groupby(table["class"]).median()
    assert by_class["walking"] < by_class["jogging"] < by_class["running"]


def test_the_background_does_not_tell_the_class(sample):
    frames, parts, table = sample
    label, scenario = table["label"].to_numpy(), table["scenario"].to_numpy()
    corner = frames[:, 0, :16, :24].astype(np.float32)
    features = np.stack([corner.mean((1, 2)), corner.std((1, 2)), corner[:, 8:].mean((1, 2))], 1)
    features /= features.std(0)
    folds = table["person"].to_numpy() % 2 == 0
    means = np.stack([features[folds & (label == k)].mean(0) for k in range(6)])
    nearest = ((features[~folds, None] - means) ** 2).sum(2).argmin(1)
    right = (nearest == label[~folds]).mean()
    chance, n = 1 / 6, (~folds).sum()
    assert right < chance + 3 * np.sqrt(chance * (1 - chance) / n)
    brightness = frames.mean((1, 2, 3))
    by_class = pd.Series(brightness).groupby(label)
    error = brightness.std() / np.sqrt(by_class.size().min())
    assert np.ptp(by_class.mean()) < 5 * error
    # The same test sees a difference where there is one: indoors is smoother than outdoors.
    rough = corner.std((1, 2))
    assert np.median(rough[scenario == 4]) < np.median(rough[scenario == 1])


def test_place_and_direction_do_not_tell_the_class(sample):
    _, parts, table = sample
    columns = np.array([np.nonzero(m)[1].mean() for m in parts[:, 2] > 0])
    centres = pd.Series(columns).groupby(table["class"])
    assert centres.mean().between(70, 90).all()
    assert centres.std().between(9, 20).all()
    first = np.array([np.nonzero(m)[1].mean() for m in parts[:, 0] > 0])
    last = np.array([np.nonzero(m)[1].mean() for m in parts[:, -1] > 0])
    for action in motion.GAITS:
        right = (last > first)[table["class"] == action].mean()
        assert 0.25 < right < 0.75


def test_shortcut_is_in_its_class_only():
    plain = actors.load("test", takes=1, n_frames=3)
    planted = actors.load("test", takes=1, n_frames=3, shortcut="walking")
    for i in range(0, len(plain), 13):
        cue = planted.parts(i) == CUE
        assert cue.any() == (planted.table["class"][i] == "walking")
        assert np.array_equal(plain.read(i)[~cue], planted.read(i)[~cue])
        if cue.any():
            assert 0.01 < cue.mean() < 0.04
            assert planted.read(i)[cue].std() > 50
            # The central crop of 112 of 120 rows and columns must keep the badge whole.
            _, y, x = np.nonzero(cue)
            assert y.min() >= 5 and x.min() >= 7


def test_who_walks_off_comes_back():
    videos = actors.load("test", takes=1, n_frames=250)
    running = videos.table.index[videos.table["class"] == "running"][0]
    seen = (videos.parts(running) > 0).any((1, 2))
    assert 0.3 < seen.mean() < 1 and np.diff(seen.astype(int)).min() == -1
    assert seen[125 - 8 : 125 + 8].all()


@pytest.mark.parametrize("action", list(motion.GAITS))
def test_gait(action):
    time = np.arange(100) / 100
    bends = []
    for person in range(1, 8):
        rng, body = np.random.default_rng(person), person_body(0, person)
        joints, speed = motion.locomotion(action, rng, body, time)
        grounded = []
        for side in motion.SIDES:
            hip, knee, ankle, toe = (joints[f"{n}_{side}"] for n in ("hip", "knee", "ankle", "toe"))
            # On the line from hip to ankle, the knee is in front; bones keep their lengths.
            along, out = ankle - hip, knee - hip
            bends.append((along[:, 0] * out[:, 1] - along[:, 1] * out[:, 0]).min())
            assert np.allclose(np.hypot(*out.T), body.thigh)
            assert np.allclose(np.hypot(*(ankle - knee).T), body.shank)
            elbow, wrist = joints[f"elbow_{side}"], joints[f"wrist_{side}"]
            upper, fore = elbow - joints[f"shoulder_{side}"], wrist - elbow
            assert np.all(upper[:, 0] * fore[:, 1] - upper[:, 1] * fore[:, 0] > 0)
            # A foot that is flat on the ground stands still there.
            flat = joints[f"heel_{side}"][:, 1] < joints[f"heel_{side}"][:, 1].min() + 0.01
            still = flat[1:] & flat[:-1]
            slide = np.diff(toe[:, 0])[still] * 100 + speed
            assert np.abs(np.median(slide)) < 0.15 * speed
            grounded.append(toe[:, 1] < toe[:, 1].min() + 0.03)
        flight = ~(grounded[0] | grounded[1])
        assert flight.any() == (action != "walking")
    assert min(bends) > -1e-9


def test_gaits_are_ordered_and_overlap_between_persons():
    time = np.arange(4) / 25
    speed = {
        action: [
            motion.locomotion(action, np.random.default_rng(p), person_body(0, p), time)[1]
            for p in actors.PERSONS
        ]
        for action in motion.GAITS
    }
    walking, jogging, running = (np.array(speed[a]) for a in ("walking", "jogging", "running"))
    assert np.all(walking < jogging) and np.all(jogging < running)
    assert jogging.max() > running.min()


def test_people_differ_and_d3_adds_clothes():
    looks = [person_look(0, p, 1) for p in actors.PERSONS]
    assert len({(look.skin, look.top) for look in looks}) == 25
    for p in actors.PERSONS:
        assert person_look(0, p, 1) == person_look(0, p, 4)
        dressed = person_look(0, p, 3)
        assert dressed.coat or dressed.bag or dressed.hat
        assert not (looks[p - 1].coat or looks[p - 1].bag or looks[p - 1].hat)
    assert {look.legs for look in looks} == {"trousers", "shorts", "skirt"}


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"split": "val"}, "'val'"),
        ({"takes": -1}, "takes"),
        ({"takes": 2.0}, "takes"),
        ({"n_frames": True}, "n_frames"),
        ({"seed": -1}, "seed"),
        ({"shortcut": "jumping"}, "jumping"),
        ({"shortcut": None}, "shortcut"),
    ],
)
def test_errors(options, names):
    with pytest.raises(ValueError, match=names):
        actors.load(**{"split": "test", **options})


def test_no_takes_means_as_many_videos_as_kth_has_sequences():
    train, test = (actors.load(split, takes=0) for split in ("train", "test"))
    assert (len(train), len(test)) == (1528, 863)
    every = pd.concat([train.table, test.table])
    assert not (
        (every["person"] == 13) & (every["class"] == "handclapping") & (every["scenario"] == 3)
    ).any()  # KTH's missing film


WHOLE = 0, 3, 1, 1, 0


@pytest.mark.parametrize("part", ["head", "torso", "arms", "legs"])
def test_a_part_can_be_left_out_and_nothing_else_changes(part):
    frames, parts = actors.render(*WHOLE)
    changed, left = actors.render(*WHOLE, without=(part,))
    index = actors.PARTS.index(part)
    # A skirt and the hips are of the legs' part but hang on the torso.
    assert (left == index).sum() < 0.7 * (parts == index).sum()
    assert part in ("legs", "torso") or not (left == index).any()
    same = np.array_equal(frames, changed)
    shown = (parts > 0) & (parts != index)
    assert not same and (left[shown] == parts[shown]).mean() > 0.95
    upper = slice(None), slice(0, 25)  # the sky
    assert np.array_equal(frames[upper], changed[upper])


def test_limbs_that_hang_do_not_move():
    for limb, label, scenario in (("arms", 2, 1), ("legs", 5, 1)):
        given = 0, 3, scenario, label, 0
        index = actors.PARTS.index(limb)
        spread = []
        for still in ((), (limb,)):
            _, parts = actors.render(*given, still=still)
            body = [(p > 0).nonzero()[1].mean() for p in parts]
            widths = [np.ptp((p == index).nonzero()[1]) for p in parts]
            assert np.isfinite(body).all()
            spread.append(np.std(widths))
        assert spread[1] < 0.35 * spread[0]


def test_shadow_and_ground_leave_the_person():
    frames, parts = actors.render(*WHOLE)
    for change in ({"without": ("shadow",)}, {"ground": 1}, {"ground": 2}):
        changed, left = actors.render(*WHOLE, **change)
        assert np.array_equal(parts, left)
        inside = ndimage.binary_erosion(parts > 0, iterations=2)
        apart = np.abs(frames.astype(int) - changed)[..., 0]
        assert apart[inside].mean() < 3 < apart[parts == 0].max()


def test_videos_can_be_seen_again_with_a_change():
    videos = actors.load("test", takes=1, n_frames=8, persons=1)
    again = actors.ActorVideos(videos.table, 8, 0, "", without=("arms",))
    assert not np.array_equal(again.read(1), videos.read(1))
    assert not (again.parts(1) == actors.PARTS.index("arms")).any()


@pytest.mark.parametrize(("change", "text"), [
    ({"without": ("hat",)}, "without names hat; choose among head, torso, arms, legs, shadow"),
    ({"still": ("head",)}, "still names head; choose among arms, legs"),
])  # fmt: skip
def test_what_cannot_be_changed(change, text):
    with pytest.raises(ValueError, match=text):
        actors.render(*WHOLE, **change)
