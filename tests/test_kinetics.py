import csv
import shutil
import warnings

import pandas as pd
import pytest

from stce import datasets
from stce.datasets import kinetics
from stce.datasets.__main__ import main
from stce.videos import cache

CLASSES = ("bending back", "checking watch", "cooking sausages", "delivering mail")
# Ids of 11 characters as YouTube's: with underscores and hyphens, and like a number.
IDS = ("-0vWdKJKqTc", "a_b_000001c", "__________0", "00000000123", "zZ9_000010_")
N_VALIDATION = 2


def stem(youtube_id, start=7):
    return f"{youtube_id}_{start:06d}_{start + 10:06d}"


@pytest.fixture(scope="module")
def video(tmp_path_factory, films):
    """One H.264 video; the copies of Kinetics below consist of it."""
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    return films.write(path, films.frames("walking", 20), codec="libx264", fps=30)


def ids(name):
    """The ids of a class: no two classes share one."""
    return [f"{CLASSES.index(name)}{youtube_id[1:]}" for youtube_id in IDS]


def place(video, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(video, path)


def annotate(path, names=CLASSES, part=None):
    """Write annotations as they are published; the last two ids of a class are for validation."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "youtube_id", "time_start", "time_end", "split"])
        for name in names:
            for i, youtube_id in enumerate(ids(name)):
                own = "validate" if i >= len(IDS) - N_VALIDATION else "train"
                if part in (None, own):
                    writer.writerow([name, youtube_id, 7, 17, own])
        writer.writerow(["", "unlabelled0", 0, 10, "test"])


@pytest.fixture(
    params=["parts", "parts with underscores", "flat", "flat parts", "annotated classes"]
)
def copy(request, video, tmp_path):
    """A copy of Kinetics in each layout, all with the same videos."""
    root = tmp_path / "kinetics"
    for name in CLASSES:
        for i, youtube_id in enumerate(ids(name)):
            part = "val" if i >= len(IDS) - N_VALIDATION else "train"
            folder = {
                "parts": root / part / name,
                "parts with underscores": root / part / name.replace(" ", "_"),
                "flat": root,
                "flat parts": root / part,
                "annotated classes": root / name,
            }[request.param]
            place(video, folder / f"{stem(youtube_id)}.mp4")
    if request.param.startswith("flat"):
        annotate(root / "train.csv", part="train")
        annotate(root / "validate.csv", part="validate")
        (root / "other.csv").write_text("a,b\n1,2\n")
    elif request.param == "annotated classes":
        (root / "annotations").mkdir()
        annotate(root / "annotations" / "kinetics700.csv")
    return root


def load(split, folder, **options):
    chosen = options if "classes" in options else {"n_classes": 4} | options
    return datasets.load("kinetics", split, folder=folder, **chosen)


def test_all_layouts_give_the_same_videos(copy):
    train, test = load("train", copy), load("test", copy)
    assert train.classes == test.classes == CLASSES
    for videos, chosen in ((train, slice(None, -N_VALIDATION)), (test, slice(-N_VALIDATION, None))):
        expected = [f"{name}/{stem(i)}" for name in CLASSES for i in sorted(ids(name)[chosen])]
        assert videos.table["id"].tolist() == expected
        groups = [i for name in CLASSES for i in sorted(ids(name)[chosen])]
        assert videos.table["group"].tolist() == groups
        assert videos.table["label"].tolist() == [CLASSES.index(n) for n in videos.table["class"]]


def test_named_classes_keep_their_order(copy):
    videos = load("test", copy, classes=["Delivering_Mail", "bending back"])
    assert videos.classes == ("delivering mail", "bending back")
    assert videos.table["label"].tolist() == [0, 0, 1, 1]


def test_read_and_cache(copy, films, tmp_path):
    videos = load("test", copy, classes=["bending back"])
    frames = videos.read(0)
    assert frames.shape == (20, 120, 160, 3) and films.numbers(frames) == list(range(1, 21))
    assert load("test", copy, classes=["bending back"], fps=15.0).read(0).shape[0] == 10
    cached = cache(videos, tmp_path / "cache", (128, 171), progress=False)
    assert cached.read(1).shape == (20, 128, 171, 3)


@pytest.fixture
def root(video, tmp_path):
    """Class folders without parts or annotations."""
    for name in CLASSES:
        for youtube_id in ids(name):
            place(video, tmp_path / "kinetics" / name / f"{stem(youtube_id)}.mp4")
    return tmp_path / "kinetics"


def test_without_parts_a_share_is_held_out_by_id(root, video):
    for start in (20, 40):
        place(video, root / "bending back" / f"{stem(ids('bending back')[0], start)}.mp4")
    seen = set()
    for seed in range(6):
        train = load("train", root, seed=seed, test_share=0.4)
        test = load("test", root, seed=seed, test_share=0.4)
        assert len(train) + len(test) == 4 * 5 + 2
        assert not set(train.table["group"]) & set(test.table["group"])
        assert test.table.groupby("class")["group"].nunique().tolist() == [2, 2, 2, 2]
        seen.add(tuple(test.table["id"]))
        again = load("test", root, seed=seed, test_share=0.4, classes=["checking watch"])
        chosen = test.table["class"] == "checking watch"
        assert again.table["id"].tolist() == test.table["id"][chosen].tolist()
    assert len(seen) > 1


def test_classes_and_videos_are_drawn_with_the_seed(root):
    drawn = {load("train", root, n_classes=2, seed=seed).classes for seed in range(10)}
    assert len(drawn) > 2 and all(list(names) == sorted(names) for names in drawn)
    assert load("train", root, n_classes=2).classes == load("test", root, n_classes=2).classes
    few, more = (load("train", root, max_train=n).table for n in (1, 3))
    assert few.groupby("class").size().tolist() == [1] * 4
    assert more.groupby("class").size().tolist() == [3] * 4
    assert set(few["id"]) < set(more["id"])
    assert len(load("test", root, max_test=1)) == 4
    draws = {tuple(load("train", root, max_train=1, seed=s).table["id"]) for s in range(5)}
    assert len(draws) > 1


def test_named_classes_come_first_and_the_rest_is_drawn(root):
    (first, *_) = load("train", root).classes
    chosen = load("train", root, classes=[first.upper()], n_classes=3).classes
    assert chosen[0] == first and len(set(chosen)) == 3
    assert load("train", root, classes=[first], n_classes=0).classes == (first,)


def test_missing_videos_are_counted_listed_and_skipped(video, tmp_path, capsys):
    root = tmp_path / "kinetics"
    for name in CLASSES[:2]:
        for youtube_id in ids(name):
            place(video, root / f"{stem(youtube_id)}.mp4")
    annotate(tmp_path / "all.csv", CLASSES[:2])
    gone = [stem(ids(CLASSES[0])[i]) for i in (0, 1)]
    for name in gone:
        (root / f"{name}.mp4").unlink()
    options = {"n_classes": 2, "annotations": str(tmp_path / "all.csv")}
    with pytest.warns(UserWarning, match=r"^2 videos .*'bending back/0.*missing.*kinetics --check"):
        train = load("train", root, **options)
    assert len(train) == 2 * 3 - 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load("test", root, **options)
    command = ["kinetics", "--check", "--folder", str(root), "--annotations"]
    command.append(str(tmp_path / "all.csv"))
    assert main([*command, "--n-classes", "2"]) == 0  # a class of each part is left
    out = capsys.readouterr().out
    assert "10 files, 8 good" in out and f"bending back/{gone[1]}: missing" in out
    (root / f"{stem(ids(CLASSES[1])[0])}.mp4").write_bytes(b"")
    for i in (1, 2):
        (root / f"{stem(ids(CLASSES[1])[i])}.mp4").write_bytes(b"broken")
    assert main([*command, "--classes", "checking_watch"]) == 1  # none is left to train on
    assert "cannot be read as a video" in capsys.readouterr().out


def test_broken_videos_are_skipped_by_the_cache(root, tmp_path):
    path = root / "bending back" / f"{stem(ids('bending back')[0])}.mp4"
    path.write_bytes(path.read_bytes()[:2000])
    videos = [load(split, root, classes=["bending back"]) for split in ("train", "test")]
    (videos,) = (v for v in videos if str(path) in set(v.table["path"]))
    with pytest.warns(UserWarning, match="is skipped"):
        cached = cache(videos, tmp_path / "cache", (16, 16), progress=False)
    assert [row["id"] for row in cached.skipped] == [f"bending back/{path.stem}"]
    table = kinetics.check_videos(root, classes=["bending back"])
    assert table["file"][table["problem"] != ""].tolist() == [f"bending back/{path.stem}"]


def test_other_names_are_left_out_with_a_warning(root, video):
    place(video, root / "bending back" / "holiday.mp4")
    (root / "bending back" / "notes.txt").touch()
    with pytest.warns(UserWarning, match="1 videos .*'bending back/holiday' .its name is not ID_"):
        train = load("train", root)
    assert "bending back/holiday" not in set(train.table["id"])


# --- what can be wrong -----------------------------------------------------------------------


def test_missing_folder_and_annotations(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not there .*get a copy yourself"):
        load("train", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="all.csv is not there .*correct `annotations`"):
        load("train", tmp_path, annotations=str(tmp_path / "all.csv"))
    (tmp_path / "all.csv").write_text("label,youtube_id,start\na,b,0\n")
    with pytest.raises(ValueError, match="lack the column time_start, time_end, split"):
        load("train", tmp_path, annotations=str(tmp_path / "all.csv"))
    (tmp_path / "all.csv").write_text("weather,mood\nfine,good\n")
    with pytest.raises(ValueError, match="no class folders with videos and no annotations; put"):
        load("train", tmp_path)
    assert main(["kinetics", "--check", "--folder", str(tmp_path / "nowhere")]) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "all.csv cannot be read as annotations"),
        ("label,youtube_id\nd\xe9j\xe0,a\n".encode("latin-1"), "all.csv cannot be read as ann"),
        (b"label,youtube_id\na,b\nc,d,e,f\n", "all.csv cannot be read as annotations"),
        (b"label;youtube_id;time_start;time_end;split\na;b;1;2;train\n", "with commas between"),
        (b"label,youtube_id,time_start\na,b,1\n", "all.csv lack the column time_end, split"),
    ],
)
def test_annotations_that_cannot_be_read_are_not_passed_over(tmp_path, content, message):
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "all.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load("train", tmp_path)


@pytest.mark.parametrize("copy", ["parts"], indirect=True)
def test_a_part_without_annotations_is_what_its_folders_say(copy):
    wanted = [load(split, copy).table for split in ("train", "test")]
    annotate(copy / "train.csv", part="train")
    for split, table in zip(("train", "test"), wanted, strict=True):
        assert load(split, copy).table["id"].tolist() == table["id"].tolist()


def test_spaces_after_commas_are_no_part_of_the_annotations(root, tmp_path):
    annotate(tmp_path / "all.csv")
    plain = load("train", root, annotations=str(tmp_path / "all.csv"), n_classes=2).table
    text = (tmp_path / "all.csv").read_text()
    (tmp_path / "all.csv").write_text("\ufeff" + text.replace(",", ", "), encoding="utf-8")
    spaced = load("train", root, annotations=str(tmp_path / "all.csv"), n_classes=2).table
    pd.testing.assert_frame_equal(plain, spaced)


def test_bad_time_in_the_annotations(tmp_path):
    annotate(tmp_path / "all.csv")
    text = (tmp_path / "all.csv").read_text()
    (tmp_path / "all.csv").write_text(text.replace(",7,17,", ",7,late,", 1))
    with pytest.raises(ValueError, match="time of '0.* that is not a number of seconds; repair"):
        load("train", tmp_path)


def test_only_one_part(root, video):
    shutil.move(root / CLASSES[0], root / "train" / CLASSES[0])
    with pytest.raises(ValueError, match="only one of its parts train/ and val/; add the other"):
        load("train", root)


def test_classes_that_are_not_there(root):
    with pytest.raises(ValueError, match="no class 'cooking sausage'; nearest are cooking sausa"):
        load("train", root, classes=["cooking sausage"])
    with pytest.raises(ValueError, match="names a class twice: bending back, bending_back"):
        load("train", root, classes=["bending back", "bending_back"])
    with pytest.raises(ValueError, match="n_classes=10 classes cannot be drawn: only 4"):
        load("train", root, n_classes=10)
    for path in sorted((root / "bending back").iterdir())[1:]:
        path.unlink()
    with pytest.raises(ValueError, match="'bending back' has no video to train on"):
        load("train", root, classes=["bending back"])


def test_options_are_checked():
    fine = {"folder": "x", "classes": [], "n_classes": 10, "seed": 1, "max_train": 5, "fps": 0}
    datasets.check_options("kinetics", fine)
    with pytest.raises(ValueError, match="Option 'classes' .* must be list"):
        datasets.check_options("kinetics", {"classes": "checking watch"})


@pytest.mark.parametrize(
    "option", [{"max_train": -1}, {"n_classes": -1}, {"test_share": 1.0}, {"fps": -1.0}]
)
def test_options_out_of_range(root, option):
    (name,) = option
    with pytest.raises(ValueError, match=f"{name} must be .*, not {option[name]}"):
        load("train", root, **option)
    with pytest.raises(ValueError, match="'train' or 'test' for Kinetics"):
        kinetics.load("val", folder=root)
