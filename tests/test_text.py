"""Text is text, a path is a path: class and file names, locales, places and devices."""

import ast
import io
import os
import subprocess
import sys
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from stce import datasets, models
from stce.clips import Clips
from stce.datasets.download import unpack
from stce.datasets.hmdb import random_clips
from stce.datasets.negatives import films as films_of
from stce.engine.storage import path_of
from stce.explanation import explain
from stce.models import weights
from stce.study import jobs
from stce.study.known import Loader
from stce.study.known import _read as known_file
from stce.study.parameters import HOME, check
from stce.study.run import Run
from stce.viz import charts, figures, tables

ROOT = Path(__file__).parents[1]
ODD = ["$a_b$", r"$\frac{$ {x}", "50 %", "two\nlines", "日本 🎬", "<script>alert(1)</script>"]


def execute(folder, cells, start, **environment):
    """Execute a notebook with papermill, started in a folder; return it."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    source, target = folder / "source.ipynb", folder / "target.ipynb"
    nbformat.write(notebook, source)
    command = [sys.executable, "-m", "papermill", "-k", "python3", str(source), str(target)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run(command, cwd=start, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return nbformat.read(target, as_version=4)


@pytest.fixture
def waves(tmp_path, films):
    """A folder with two classes of two films."""
    for action in ("wave", "clap"):
        for name in ("anna_1", "ben_1"):
            films.write(
                tmp_path / "films" / action / f"{name}.avi", np.zeros((20, 48, 64, 1), "u1")
            )
    return tmp_path / "films"


@pytest.mark.parametrize("backend", ["agg", "TkAgg", "nonsense"])
def test_a_notebook_shows_its_figures_whatever_the_backend(tmp_path, backend):
    draw = "_ = figures.clip_sheet(np.zeros((1, 4, 8, 8, 1), np.uint8), ['a'])"
    cells = ["import numpy as np\nfrom stce.viz import figures", draw]
    made = execute(tmp_path, cells, tmp_path, MPLBACKEND=backend)
    assert [list(o.data) for o in made.cells[-1].outputs] == [["image/png", "text/plain"]]


@pytest.mark.parametrize("start", [ROOT, ROOT / "notebooks", ROOT / "book" / "pages", Path("/")])
def test_a_relative_folder_means_the_same_wherever_a_notebook_is_started(tmp_path, start):
    cells = [
        "run_folder = '../data/runs/none'\nfrom stce.study import parameters\nfrom stce.study.run "
        "import Run",
        "p = parameters.read('explore', globals())\nprint(Run(p.run_folder).folder.resolve())",
    ]
    made = execute(tmp_path, cells, start)
    assert made.cells[-1].outputs[0].text.strip() == str(ROOT / "data" / "runs" / "none")


@pytest.mark.parametrize("name", ODD)
def test_a_figure_shows_a_name_as_it_is_written(name, recwarn):
    import matplotlib.pyplot as plt

    row = {"class": [name], "rank": [1], "score": [0.5], "ci_low": [0.4], "ci_high": [0.6]}
    made = [
        charts.score_chart(pd.DataFrame(row)),
        charts.carriers_chart(pd.DataFrame({"class": [name], "top": [2.0], "random": [1.0]})),
        charts.part_chart(pd.DataFrame({"class": [name], "concept": [0], "rank": [1], "arm": [2]})),
        figures.clip_sheet(np.zeros((1, 4, 8, 8, 1), np.uint8), [name]),
        figures.concept_montage([[(np.zeros((4, 8, 8, 3), "u1"),) * 2]], [name]),
    ]
    for figure in made:
        figure.savefig(io.BytesIO())
        shown = [text for text in figure.findobj(plt.Text) if text.get_text() == name]
        assert shown and not any(text.get_parse_math() for text in shown)
        plt.close(figure)


def test_a_table_and_markdown_show_a_name_as_it_is_written():
    name = "<script>alert(1)</script>"
    table = pd.DataFrame({name: [name, 1.0]}, index=[name, "b"])
    page = tables.style(table, name).to_html()
    assert "<script>" not in page and page.count("&lt;script&gt;") == 4
    assert tables.literal(name) == r"\<script\>alert(1)\</script\>"
    assert tables.literal("a*b_$c$\n`d` [e]") == r"a\*b\_\$c\$ \`d\` \[e\]"
    assert tables.literal("handwaving 2") == "handwaving 2"


def test_a_file_name_that_is_not_utf8_is_named(waves):
    with open(os.fsencode(waves / "wave") + b"/anna_\xe9.avi", "wb") as file:
        file.write((waves / "wave" / "anna_1.avi").read_bytes())
    for load in (
        lambda: datasets.load("folder", "train", folder=waves, test_groups=["ben"]),
        lambda: datasets.load("kinetics", "train", folder=waves, n_classes=2),
        lambda: films_of(waves),
        lambda: random_clips(2, folder=waves),
    ):
        with pytest.raises(ValueError, match=r"anna_\\xe9.avi' is not UTF-8.*rename it"):
            load()


def test_two_forms_of_one_name_are_one_name(waves):
    composed, apart = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    (waves / "wave").rename(waves / f"wav{apart}")
    for path in (waves / f"wav{apart}").iterdir():
        path.rename(path.with_name(path.name.replace("anna", f"ann{apart}")))
    listed = waves.parent / "groups.csv"
    rows = ["file,group", f"wav{composed}/ann{composed}_1.avi,a", f"wav{composed}/ben_1.avi,b"]
    rows += ["clap/anna_1.avi,a", "clap/ben_1.avi,b"]
    listed.write_bytes("\r\n".join(rows).encode("utf-8-sig"))
    found = datasets.load("folder", "train", folder=waves, test_groups=["b"], groups_file=listed)
    assert found.classes == ("clap", f"wav{composed}")
    assert len(found.read(1)) == 20
    (waves / f"wav{composed}").mkdir()
    with pytest.raises(ValueError, match=r"wav\\xe9.* have one name .Unicode NFC.; rename"):
        datasets.load("folder", "train", folder=waves, test_groups=["b"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", "010"), ("1:30", "1:30"), ("2026-11-28", "2026-11-28"), ("1_000", 1000),
        ("-3", -3), ("0", 0), ("yes", True), ("0.5", 0.5), ("[1, 02]", [1, "02"]),
        ("a: é\r\nb: 1\r\n".encode("utf-8-sig"), {"a": "é", "b": 1}),
    ],
)  # fmt: skip
def test_yaml_is_read_as_people_read_it(text, value):
    assert yaml.load(text, Loader) == value


@pytest.mark.parametrize(
    ("stage", "values", "message"),
    [
        ("segment", {"classes": [True]}, "Text that looks like a number, or yes, no, on, off"),
        ("visualize", {"class_name": 12}, "needs quotes in YAML"),
        ("train", {"lr": "1E-3"}, "write 1.0e-3"),
        ("train", {"lr": "1e3"}, r"write 1\.0e\+3"),
        ("train", {"device": "gpu"}, "device is 'gpu'; give 'auto', 'cpu', 'cuda' or 'cuda:1'"),
        ("08_your_own", {"device": "cuda:x"}, "device is 'cuda:x'"),
    ],
)
def test_a_value_that_yaml_reads_otherwise_is_refused_in_a_sentence(stage, values, message):
    with pytest.raises(ValueError, match=message):
        check(stage, values)


def test_home_and_relative_paths_are_the_same_everywhere(waves, monkeypatch):
    monkeypatch.setenv("HOME", str(waves.parent))
    monkeypatch.chdir(waves.parent)
    (waves.parent / "$HOME").mkdir()
    assert path_of("~/films/") == waves and path_of("films", "/x") == Path("/x/films")
    assert path_of("$HOME") == Path("$HOME") and path_of("~nobody-at-all") == Path("~nobody-at-all")
    (waves.parent / "groups.csv").write_text("file,group,split\n", "utf-8")
    for folder in ("~/films", "films", waves):
        found = datasets.load("folder", "train", folder=folder, test_groups=["ben"])
        assert len(found) == 2
        assert films_of(folder).keys() == {"clap", "wave"}
        assert len(random_clips(1, folder=folder)) == 1
        with pytest.raises(ValueError, match="gives 'clap/anna_1.avi' no group"):
            given = {"test_groups": ["b"], "groups_file": "~/groups.csv"}
            datasets.load("folder", "train", folder=folder, **given)
    network = models.build("c3d", 2, width=0.125, input_size=(8, 16, 16))
    models.save("~/net.safetensors", network)
    assert models.load("~/net.safetensors").layer == network.layer
    assert Run("~/run").folder == waves.parent / "run"
    Clips(np.zeros((1, 4, 8, 8, 1), np.uint8), [0], ["a"], ["p"], ("w",)).save("~/clips")
    assert len(Clips.load("~/clips")) == 1
    stage = Run("~/run").stage("train", {"weights": "~/net.safetensors"})
    assert stage.weights == waves.parent / "net.safetensors"


def test_what_is_typed_is_meant_from_where_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    here = Path(os.path.realpath(tmp_path))
    pairs = ["dataset_options={folder: ~/a, groups_file: g.csv, annotations: ''}"]
    pairs += ["random_folder=films/", "weights=runs/net", "others=[~/b, c]", "layer=~x"]
    assert jobs.assignments(pairs) == {
        "dataset_options": dict(folder=f"{here}/a", groups_file=f"{here}/g.csv", annotations=""),
        "random_folder": f"{here}/films",
        "weights": f"{here}/runs/net",
        "others": [f"{here}/b", f"{here}/c"],
        "layer": "~x",
    }  # fmt: skip
    (job,) = jobs.plan("smoke", folder="~/mine")
    assert job.folder == tmp_path / "mine"


@pytest.mark.parametrize("name", ["gpu", "CPU", "mps", torch.device("mps"), "cuda:x"])
def test_a_device_is_resolved_by_one_function(name):
    model = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3), torch.nn.AdaptiveAvgPool3d(1))
    model.extend([torch.nn.Flatten(), torch.nn.Linear(4, 2)])
    clips = np.zeros((2, 4, 24, 24, 1), np.uint8)
    told = "device is .*; give 'auto', 'cpu', 'cuda' or 'cuda:1'"
    for use in (
        lambda: explain(model, "0", clips, 1, device=name),
        lambda: models.load("nothing.safetensors", device=name),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=told):
            use()


LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_a_parameter_file_is_read_in_any_locale(tmp_path):
    folder = tmp_path / "notebooks" / "parameters"
    folder.mkdir(parents=True)
    text = "description: Füße, 手\r\nclass_name: é\r\n"
    (folder / "own.yaml").write_bytes(text.encode("utf-8-sig"))
    command = [sys.executable, "-m", "stce.study", "list"]
    environment = os.environ | LOCALE | {"STCE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="ascii")
    assert done.returncode == 0, done.stderr
    assert r"F\xfc\xdfe, \u624b" in done.stdout


def test_films_of_any_name_are_read_in_any_locale(waves, tmp_path):
    (waves / "wave").rename(waves / "wäve 手")
    code = (
        "import sys; from stce import datasets, videos\n"
        "v = datasets.load('folder', 'train', folder=sys.argv[1], test_groups=['ben'])\n"
        "c = videos.cache(v, sys.argv[2], (16, 16))\n"
        "print(ascii(c.classes), c.read(1).shape)"
    )
    command = [sys.executable, "-c", code, str(waves), str(tmp_path / "cache")]
    environment = os.environ | LOCALE | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="ascii")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == r"('clap', 'w\xe4ve \u624b') (20, 16, 16, 3)"


def test_every_text_file_is_opened_as_utf8():
    wrong = []
    for path in [p for d in ("stce", "book", "benchmarks") for p in (ROOT / d).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            given = {k.arg: k.value for k in node.keywords}
            needed = {"read_text": 1, "write_text": 2}.get(name)
            if needed and isinstance(node.func, ast.Attribute):
                bad = len(node.args) < needed and "encoding" not in given
            else:
                bad = "text" in given and name in ("run", "Popen")
            wrong += [f"{path.name}:{node.lineno}"] if bad else []
    assert wrong == []


def test_an_archive_cannot_fill_the_disk_or_lead_elsewhere(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        with zipped.open("a.avi", "w", force_zip64=True) as file:
            for _ in range(60):
                file.write(bytes(1 << 20))
    with pytest.raises(ValueError, match="a.avi is blown up"):
        unpack(tmp_path / "bomb.zip", tmp_path / "out", ["a.avi"])
    assert list((tmp_path / "out").iterdir()) == []
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE):
        with tarfile.open(tmp_path / "net.tar.gz", "w:gz") as tar:
            member = tarfile.TarInfo(weights.CHECKPOINT)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        with pytest.raises(ValueError, match="net.tar.gz is damaged, or not"):
            weights.original("i3d-kinetics400", tmp_path, tmp_path / "net.tar.gz")


def test_home_is_this_checkout():
    assert HOME == ROOT


def zipped(path, name="a.avi", at=(), value=0):
    """Write a zip archive, and bytes into both headers of its member; return what it holds."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, b"film" * 99)
    data = bytearray(path.read_bytes())
    for mark, place in zip((b"PK\3\4", b"PK\1\2"), at, strict=False):
        data[data.rindex(mark) + place] = value
    path.write_bytes(data)
    return data


@pytest.mark.parametrize("kind", ["locked", "method", "cut off in front", "bzip2"])
def test_whatever_is_wrong_with_an_archive_it_is_named(tmp_path, kind):
    how = {"locked": ((6, 8), 1), "method": ((8, 10), 97), "bzip2": ((8, 10), 12)}
    data = zipped(tmp_path / "films.zip", "a.avi", *how.get(kind, ()))
    if kind == "cut off in front":
        (tmp_path / "films.zip").write_bytes(data[40:])
    with pytest.raises(ValueError, match=r"films\.zip is damaged \(.*; delete it and fetch"):
        unpack(tmp_path / "films.zip", tmp_path / "out", ["a.avi"])
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 3\nepochs: 300\n", "'epochs' is there twice"),
        ("lr: !!bool x\n", "KeyError"),
        ("epochs: " + "9" * 5000 + "\n", "4300 digits"),
        ("classes: " + "[" * 3000 + "]" * 3000 + "\n", "RecursionError"),
        ("{[a, b]: 3}\n", "unhashable"),
    ],
)
def test_yaml_that_cannot_be_read_is_one_sentence(tmp_path, text, message):
    (tmp_path / "own.yaml").write_text(text, "utf-8")
    said = rf"own\.yaml is not YAML .*{message}.*; write one"
    with pytest.raises(ValueError, match=said) as told:
        known_file(tmp_path / "own.yaml")
    assert "\n" not in str(told.value)
    value = text.partition(": ")[2].strip()
    if "\n" not in value and not text.startswith("{"):
        with pytest.raises(ValueError, match="The value in --set .* cannot be read") as told:
            jobs.assignments([f"lr={value}"])
        assert len(str(told.value)) < 700


def test_a_name_that_utf8_cannot_hold_is_refused_where_it_comes_in():
    frames = np.zeros((1, 4, 8, 8, 1), np.uint8)
    for wrong in ({"classes": ("caf\udce9",)}, {"ids": ["\ud800"]}, {"labels": ["x"]}):
        given = {"labels": [0], "ids": ["a"], "groups": ["p"], "classes": ("w",)} | wrong
        with pytest.raises(ValueError, match=f"Clips.{next(iter(wrong))} is .*; give "):
            Clips(frames, **given)
    with pytest.raises(ValueError, match=r"The path '.ud800' is none .*; give text or a Path"):
        path_of("\ud800")
