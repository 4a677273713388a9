import hashlib
import http.server
import os
import pickle
import shutil
import stat
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest

from stce import datasets
from stce.clips import middle_clips
from stce.datasets import kth
from stce.datasets.__main__ import main
from stce.datasets.download import fetch, unpack
from stce.videos import cache

# (person, action, scenario) of three films, the last one of a test person.
FILMS = [(11, "boxing", 1), (11, "walking", 3), (2, "boxing", 1)]


def name(person, action, scenario):
    return f"person{person:02d}_{action}_d{scenario}_uncomp.avi"


def rows(table, person, action, scenario):
    return table[
        (table["person"] == person) & (table["class"] == action) & (table["scenario"] == scenario)
    ]


@pytest.fixture(scope="module")
def few(tmp_path_factory, films):
    """A folder with three films, long enough for their sequences: DivX and Xvid, B-frames or not.

    One lies in the folder, the others in sub-folders of their classes.
    """
    root, table = tmp_path_factory.mktemp("kth"), kth.sequences()
    places = [root, root / "walking", root / "boxing"]
    for film, place, tag, bf in zip(FILMS, places, ("DIVX", "XVID", "DX50"), "020", strict=True):
        n_frames = rows(table, *film)["last_frame"].max()
        frames = films.frames(film[1], n_frames, film[0], film[2])
        films.write(place / name(*film), frames, tag=tag, bf=bf)
    return root


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """A folder with all 599 names; the files are empty."""
    root = tmp_path_factory.mktemp("names")
    for file, action in kth.sequences()[["file", "class"]].drop_duplicates().to_numpy():
        (root / action).mkdir(exist_ok=True)
        (root / action / file).touch()
    return root


# --- the list and the split ------------------------------------------------------------------


def test_counts_and_split_are_the_papers(complete):
    train = datasets.load("kth", "train", folder=complete)
    test = datasets.load("kth", "test", folder=str(complete))
    assert (len(train), len(test)) == (1528, 863)
    assert (train.table["group"].nunique(), test.table["group"].nunique()) == (16, 9)
    assert not set(train.table["group"]) & set(test.table["group"])
    assert set(train.table["official_split"]) == {"train", "val"}
    assert train.table["path"].nunique() + test.table["path"].nunique() == 599
    assert "person13_handclapping_d3" not in " ".join(train.table["id"])


def test_classes_and_split_are_those_of_the_actors(complete):
    from stce.datasets import actors

    test = datasets.load("kth", "test", folder=complete)
    assert test.classes == actors.CLASSES
    assert set(test.table["person"]) == set(actors.TEST_PERSONS)
    expected = [actors.CLASSES.index(action) for action in test.table["class"]]
    assert test.table["label"].tolist() == expected


# --- reading ---------------------------------------------------------------------------------


@pytest.mark.parametrize("film", FILMS)
def test_a_sequence_is_exactly_its_frames(few, films, film):
    split = "test" if film[0] in (2,) else "train"
    videos = datasets.load("kth", split, folder=few, partial=True)
    table = rows(videos.table, *film)
    assert len(table) == 4
    source = films.frames(film[1], table["last_frame"].max(), film[0], film[2])
    for i, row in table.iterrows():
        frames = videos.read(i)
        assert frames.dtype == np.uint8 and frames.shape[1:] == (120, 160, 1)
        assert films.numbers(frames) == list(range(row["first_frame"], row["last_frame"] + 1))
        expected = source[row["first_frame"] - 1 : row["last_frame"]].astype(int)
        assert np.abs(frames - expected).mean() < 6


def test_a_film_is_decoded_once(few, monkeypatch):
    opened = []

    def decode(path, **options):
        opened.append(path)
        return real(path, **options)

    real = kth.decode
    monkeypatch.setattr(kth, "decode", decode)
    videos = datasets.load("kth", "train", folder=few, partial=True)
    first = videos.read(0)
    first[:] = 0
    for i in range(len(videos)):
        assert videos.read(i).any()  # a copy was handed out
    assert len(opened) == len(set(opened)) == 2
    assert len(pickle.dumps(videos)) < 100_000  # and it does not travel to the workers


def test_the_sequences_go_through_the_cache_to_clips(few, films, tmp_path):
    videos = datasets.load("kth", "train", folder=few, partial=True)
    cached = cache(videos, tmp_path / "cache", (120, 120), progress=False)
    assert cached.skipped == [] and len(cached) == 8
    clips = middle_clips(cached, crop=(112, 112))
    assert clips.frames.shape == (8, 16, 112, 112, 1)
    row = videos.table.iloc[0]
    middle = row["first_frame"] + (row["last_frame"] - row["first_frame"] + 1 - 16) // 2
    assert films.numbers(cached.read(0))[middle - row["first_frame"]] == middle


def test_a_film_that_is_too_short_is_named(few, films, tmp_path):
    own = shutil.copytree(few, tmp_path / "kth")
    films.write(own / name(*FILMS[0]), films.frames("boxing", 150))
    videos = datasets.load("kth", "train", folder=own, partial=True)
    last = videos.table.index[videos.table["class"] == "boxing"][-1]
    with pytest.raises(ValueError, match="has 150 frames, but sequence 4 is frames .*; fetch it"):
        videos.read(last)
    films.write(own / name(*FILMS[0]), films.frames("boxing", videos.table["last_frame"][last] - 2))
    videos = datasets.load("kth", "train", folder=own, partial=True)
    n_frames = videos.table["last_frame"][last] - videos.table["first_frame"][last] + 1
    assert len(videos.read(last)) == n_frames - 2  # a decoder may lose the last ones


# --- what is missing -------------------------------------------------------------------------


def test_missing_folder_names_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not there .*datasets kth --download"):
        datasets.load("kth", "train", folder=tmp_path / "nowhere")


def test_missing_films_are_counted(complete, few, tmp_path):
    own = shutil.copytree(complete, tmp_path / "kth")
    for film in (FILMS[0], FILMS[1]):
        (own / film[1] / name(*film)).unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"2 of the 383 films to train on .* person11_boxing_d1.*kth --check --folder",
    ):
        datasets.load("kth", "train", folder=own)
    assert len(datasets.load("kth", "train", folder=own, partial=True)) == 1528 - 8
    assert len(datasets.load("kth", "test", folder=own)) == 863
    with pytest.raises(FileNotFoundError, match="216 of the 216 films to test on"):
        (own / "empty").mkdir()
        datasets.load("kth", "test", folder=own / "empty", partial=True)


def test_options_are_checked():
    datasets.check_options("kth", {"folder": "x", "partial": True})
    with pytest.raises(ValueError, match="'partial' of the data set 'kth' must be bool"):
        datasets.check_options("kth", {"partial": "yes"})
    with pytest.raises(ValueError, match="'train' or 'test' for KTH, not 'val'"):
        kth.load("val")


def test_check_lists_missing_short_broken_and_resized_films(few, films, tmp_path):
    own = shutil.copytree(few, tmp_path / "kth")
    films.write(own / "walking" / name(11, "walking", 1), films.frames("walking", 40))
    small = films.frames("walking", 16)[:, ::2, ::2]
    films.write(own / "walking" / name(11, "walking", 2), small)
    (own / "walking" / name(11, "walking", 4)).write_bytes(b"RIFF")
    table = kth.check_films(own).set_index("file")["problem"]
    assert len(table) == 599
    assert [table[name(*film)] for film in FILMS] == ["", "", ""]
    assert "has 40 frames, but its last sequence ends at frame" in table[name(11, "walking", 1)]
    assert "is 80 x 60 pixels, not 160 x 120" in table[name(11, "walking", 2)]
    assert "cannot be read as a video" in table[name(11, "walking", 4)]
    assert (table == "missing").sum() == 599 - 6


def test_check_command(few):
    command = [sys.executable, "-m", "stce.datasets", "kth", "--check", "--folder", str(few)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1, result.stderr
    lines = result.stdout.splitlines()
    assert "599 files, 3 good" in lines[0]
    assert "boxing          100     2" in lines
    assert f"{name(25, 'walking', 4)}: missing" in lines and len(lines) == 1 + 8 + 596


def test_check_command_is_content_with_all(complete, capsys, monkeypatch):
    monkeypatch.setattr(kth, "header", lambda path: (0, *kth.SHAPE))  # the films here are empty
    assert main(["kth", "--check", "--folder", str(complete)]) == 0
    assert "599 files, 599 good" in capsys.readouterr().out


# --- the download ----------------------------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder from this machine; says what it was asked for, and misbehaves on demand."""

    daemon_threads = True

    def __init__(self, root):
        super().__init__(("127.0.0.1", 0), Handler)
        self.root, self.asked = root, []
        self.ranges = True  # whether Range is understood
        self.stop_after = None  # close the connection after so many bytes
        self.state_length = True
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, path = self.server, self.server.root / self.path.lstrip("/")
        server.asked.append((path.name, self.headers.get("Range")))
        if not path.is_file():
            return self.send_error(404)
        data, start = path.read_bytes(), 0
        if server.ranges and self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                return self.end_headers()
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        if server.state_length:
            self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        stop = None if server.stop_after is None else start + server.stop_after
        self.wfile.write(data[start:stop])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, no_proxy):
    (tmp_path / "server").mkdir()
    with Server(tmp_path / "server") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()


@pytest.fixture
def archive(server):
    """A published archive of a megabyte: its content and its SHA-1."""
    data = np.random.default_rng(0).bytes(1_000_000)
    (server.root / "boxing.zip").write_bytes(data)
    return data, hashlib.sha1(data).hexdigest()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_fetch_takes_a_whole_file_once(server, archive, tmp_path):
    data, sha1 = archive
    for _ in range(2):
        path = fetch(f"{server.url}/boxing.zip", tmp_path / "archives", sha1)
        assert path == tmp_path / "archives" / "boxing.zip" and path.read_bytes() == data
    assert server.asked == [("boxing.zip", None)]
    assert names(path.parent) == ["boxing.zip"]


def test_truncated_download_is_kept_aside_and_resumed(server, archive, tmp_path):
    data, sha1 = archive
    url, folder = f"{server.url}/boxing.zip", tmp_path / "archives"
    server.stop_after = 400_000
    for kept in (400_000, 800_000):
        with pytest.raises(OSError, match=f"failed after {kept} bytes: it has 1000000 .*run the"):
            fetch(url, folder, sha1)
        assert names(folder) == ["boxing.zip.part"]
        assert (folder / "boxing.zip.part").read_bytes() == data[:kept]
    assert fetch(url, folder, sha1).read_bytes() == data
    assert [ask for _, ask in server.asked] == [None, "bytes=400000-", "bytes=800000-"]
    assert names(folder) == ["boxing.zip"]


def test_server_without_ranges_starts_again(server, archive, tmp_path):
    data, sha1 = archive
    server.ranges = False
    (tmp_path / "boxing.zip.part").write_bytes(data[:300_000])
    assert fetch(f"{server.url}/boxing.zip", tmp_path, sha1).read_bytes() == data
    assert server.asked == [("boxing.zip", "bytes=300000-")]


@pytest.mark.parametrize("kept", ["whole", "longer"])
def test_part_that_is_whole_or_of_another_file(server, archive, tmp_path, kept):
    data, sha1 = archive
    (tmp_path / "boxing.zip.part").write_bytes(data if kept == "whole" else data * 2)
    assert fetch(f"{server.url}/boxing.zip", tmp_path, sha1).read_bytes() == data
    assert len(server.asked) == (1 if kept == "whole" else 2)


@pytest.mark.parametrize("stated", [True, False])
def test_tampered_download_is_refused_and_deleted(server, archive, tmp_path, stated):
    data, sha1 = archive
    folder = tmp_path / "archives"
    changed = bytearray(data)
    changed[500_000] ^= 1
    (server.root / "boxing.zip").write_bytes(changed)
    server.state_length = stated
    with pytest.raises(ValueError, match=f"not the published one: its SHA-1 is not {sha1}"):
        fetch(f"{server.url}/boxing.zip", folder, sha1)
    assert names(folder) == []
    (server.root / "boxing.zip").write_bytes(data)
    assert fetch(f"{server.url}/boxing.zip", folder, sha1).read_bytes() == data


def test_tampered_part_is_refused_and_the_next_try_is_whole(server, archive, tmp_path):
    data, sha1 = archive
    (tmp_path / "boxing.zip.part").write_bytes(b"x" * 300_000)
    with pytest.raises(ValueError, match="not the published one"):
        fetch(f"{server.url}/boxing.zip", tmp_path, sha1)
    assert fetch(f"{server.url}/boxing.zip", tmp_path, sha1).read_bytes() == data


def test_truncated_without_a_stated_length_is_refused(server, archive, tmp_path):
    server.state_length, server.stop_after = False, 400_000
    with pytest.raises(ValueError, match="not the published one"):
        fetch(f"{server.url}/boxing.zip", tmp_path / "archives", archive[1])
    assert names(tmp_path / "archives") == []


def test_no_such_file_and_no_server(server, tmp_path):
    with pytest.raises(OSError, match="Cannot fetch .*404.*check the address"):
        fetch(f"{server.url}/walking.zip", tmp_path, "0" * 40)
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as gone:
        port = gone.server_port
    with pytest.raises(OSError, match="failed after 0 bytes: .*refused.*run the command again"):
        fetch(f"http://127.0.0.1:{port}/boxing.zip", tmp_path, "0" * 40)
    with pytest.raises(ValueError, match="must begin with http:// or https://, not 'boxing.zip'"):
        fetch("boxing.zip", tmp_path, "0" * 40)


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for member, data in members.items():
            target.writestr(member, data)
    return path


@pytest.mark.parametrize(
    "evil", ["../person.avi", "/person.avi", "a/../../person.avi", "..\\person.avi", "C:\\p.avi"]
)
def test_no_path_leaves_the_folder(tmp_path, evil):
    archive = zipped(tmp_path / "a.zip", {"good.avi": b"film", evil: b"evil"})
    with pytest.raises(ValueError, match="leads out of the folder; nothing was unpacked"):
        unpack(archive, tmp_path / "sub" / "films", ["good.avi", "person.avi", "p.avi"])
    assert names(tmp_path) == ["a.zip"]


def test_no_link_is_unpacked(tmp_path):
    link = zipfile.ZipInfo("good.avi")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive = zipped(tmp_path / "a.zip", {link: "/etc/hostname"})
    with pytest.raises(ValueError, match="leads out of the folder"):
        unpack(archive, tmp_path / "films", ["good.avi"])
    assert names(tmp_path) == ["a.zip"]


def test_unpack_takes_only_what_is_asked_for(tmp_path):
    members = {"boxing/good.avi": b"film", "boxing/": b"", "readme.txt": b"text"}
    unpack(zipped(tmp_path / "a.zip", members), tmp_path / "films", ["good.avi", "other.avi"])
    assert names(tmp_path / "films") == ["good.avi"]
    assert (tmp_path / "films" / "good.avi").read_bytes() == b"film"


def test_damaged_archive_leaves_no_half_film(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"good.avi": os.urandom(100_000)})
    data = bytearray(archive.read_bytes())
    data[50_000] ^= 1
    archive.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged .*; delete it and fetch it again"):
        unpack(archive, tmp_path / "films", ["good.avi"])
    assert names(tmp_path / "films") == []
    archive.write_text("no zip")
    with pytest.raises(ValueError, match="is damaged"):
        unpack(archive, tmp_path / "films", ["good.avi"])


def test_download_fetches_and_unpacks_what_is_missing(server, few, complete, tmp_path, monkeypatch):
    own = shutil.copytree(complete, tmp_path / "kth")
    gone = own / "boxing" / name(*FILMS[0])
    gone.unlink()
    film = (few / gone.name).read_bytes()
    archive = zipped(server.root / "boxing.zip", {f"boxing/{gone.name}": film})
    archives = kth.ARCHIVES | {"boxing": hashlib.sha1(archive.read_bytes()).hexdigest()}
    kth.download(own, url=server.url + "/", archives=archives)
    assert gone.read_bytes() == film
    assert server.asked == [("boxing.zip", None)]  # nothing else was missing
    gone.unlink()
    monkeypatch.setattr(kth, "ARCHIVES", archives)
    main(["kth", "--download", "--url", server.url, "--folder", str(own)])
    assert gone.read_bytes() == film and len(server.asked) == 1
    (own / "boxing" / name(2, "boxing", 1)).unlink()
    with pytest.raises(ValueError, match="lacks 1 of the 100 films of boxing, such as person02_"):
        kth.download(own, url=server.url, archives=archives)


def test_download_command_explains_an_archive_that_is_not_the_published_one(
    server, archive, tmp_path, capsys
):
    assert main(["kth", "--download", "--url", server.url, "--folder", str(tmp_path / "k")]) == 1
    assert "error: The archive http://127.0.0.1" in capsys.readouterr().err
    assert names(tmp_path / "k" / "archives") == []
