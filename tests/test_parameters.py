"""Wrong parameters are refused by name; notebooks and their table of parameters agree."""

import ast
from pathlib import Path

import nbformat
import numpy as np
import pytest

from book.parameters import PAGES
from stce.study import known
from stce.study.parameters import PARAMETERS, check, check_all, read
from stce.study.run import OPTIONAL, STAGES, notebook_name

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


@pytest.mark.parametrize("stage", [*STAGES, *OPTIONAL, *PAGES])
def test_the_parameters_cell_is_exactly_the_contract(stage):
    name = notebook_name(stage) if stage in PARAMETERS else f"{stage}.ipynb"
    notebook = nbformat.read(NOTEBOOKS / name, 4)
    cells = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    assert len(cells) == 1
    written = {
        node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(cells[0].source).body
    }
    defaults = {name: entry.default for name, entry in {**PARAMETERS, **PAGES}[stage].items()}
    assert written == defaults
    assert {n: type(v) for n, v in written.items()} == {n: type(v) for n, v in defaults.items()}


@pytest.mark.parametrize("run", known.known().values(), ids=lambda run: run.name)
def test_the_parameter_files_are_valid(run):
    chosen = run.settings()
    assert len(run.description) > 20
    # Whatever is set differs from the default, so that the files say what is special about a run.
    for name, value in run.values.items():
        stage = next(s for s, known in PARAMETERS.items() if name in known)
        assert chosen[stage][name] == value


def test_the_papers_tables_each_have_runs_on_the_papers_data():
    runs = known.known().values()
    for table, dataset in enumerate(("kinetics", "kinetics", "kth", "kth", "kth", "kth"), start=1):
        beside = {run.values.get("dataset", "actors") for run in runs if table in run.tables}
        # Real clips of people stand beside Kinetics: nobody may pass that on.
        assert beside == {dataset, "actors"} | ({"folder"} if dataset == "kinetics" else set())


def test_the_papers_settings_are_the_papers():
    for name in ("kth-standard", "kinetics-c3d", "kinetics-r3d", "kinetics-i3d"):
        chosen = known.known()[name].settings()
        train, segment = chosen["train"], chosen["segment"]
        assert (train["epochs"], train["batch_size"], train["momentum"]) == (150, 64, 0.9)
        assert (train["lr"], train["lr_step"], train["lr_gamma"]) == (0.01, 50, 0.1)
        assert (train["schedule"], train["width"], train["crop"]) == ("step", 1.0, [112, 112])
        assert train["frame_size"] == ([120, 120] if "kth" in name else [128, 171])
        assert (segment["n_discovery"], segment["n_segments"]) == (200, [15, 50, 80])
        assert segment["jaccard"] == 0.5 and segment["n_test"] == 0
        cluster, tcav = chosen["cluster"], chosen["tcav"]
        assert (cluster["n_concepts"], cluster["n_keep"], cluster["stretch"]) == (25, 40, True)
        assert (tcav["n_groups"], tcav["random_source"]) == (50, "hmdb")
        assert chosen["ablate"]["q_max"] == 5


@pytest.mark.parametrize(
    ("stage", "name", "value", "message"),
    [
        ("train", "epochs", 50.0, r"'epochs' of 'train' is 50\.0 \(float\); it takes int"),
        ("train", "epochs", True, r"'epochs' of 'train' is True \(bool\)"),
        ("train", "epochs", 0, "at least 1"),
        ("train", "lr", "fast", r"'fast' \(str\); it takes float"),
        ("train", "flip", 1, "it takes bool"),
        ("train", "network", "c4d", "one of 'c3d', 'r3d18', 'i3d'"),
        ("train", "crop", [112], "a list of 2 int"),
        ("train", "crop", [112, "112"], "a list of 2 int"),
        ("segment", "n_segments", 15, "a list of any number of int"),
        ("segment", "classes", [3], "a list of any number of str"),
        ("segment", "jaccard", 1.5, "at most 1"),
        ("tcav", "target", "loss", "one of 'logit', 'log_prob'"),
    ],
)
def test_a_wrong_value_names_parameter_value_and_remedy(stage, name, value, message):
    with pytest.raises(ValueError, match=message) as error:
        check(stage, {name: value})
    assert "\n" not in str(error.value)


def test_a_misspelt_name_suggests_the_right_one():
    with pytest.raises(ValueError, match="Unknown parameter 'epoch'; did you mean 'epochs'"):
        check_all({"epoch": 3})
    with pytest.raises(ValueError, match=r"Unknown parameter 'zzz'; choose from .*epochs"):
        check("train", {"zzz": 3})


def test_one_seed_seeds_every_stage_and_integers_pass_for_floats():
    chosen = check_all({"seed": 5, "lr": 1})
    assert {values["seed"] for values in chosen.values()} == {5}
    assert chosen["train"]["lr"] == 1


def test_a_notebook_sees_unknown_names_among_its_variables():
    namespace = {"epochs": 3, "np": np, "In": [], "_i1": "", "_": 0, "get_ipython": print}
    assert read("train", namespace).epochs == 3
    with pytest.raises(ValueError, match="Unknown parameter 'epoch'"):
        read("train", namespace | {"epoch": 4})
    with pytest.raises(ValueError, match="'device' of 'train' is <module"):
        read("train", namespace | {"device": np})


@pytest.mark.parametrize("stage", [*STAGES, *OPTIONAL])
def test_no_import_hides_a_parameter(stage):
    notebook = nbformat.read(NOTEBOOKS / notebook_name(stage), 4)
    code = [c.source for c in notebook.cells if c.cell_type == "code"]
    before = next(i for i, source in enumerate(code) if "open_stage(" in source)
    imported = {
        (alias.asname or alias.name).split(".")[0]
        for source in code[: before + 1]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not imported & set(PARAMETERS[stage])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 10**400])
@pytest.mark.parametrize("name", ["compactness", "n_discovery", "n_segments", "seed"])
def test_what_no_computer_counts_to_is_refused(name, value):
    value = [value] if name == "n_segments" else value
    with pytest.raises(ValueError, match=f"Parameter '{name}' of 'segment' is "):
        check("segment", {name: value})
