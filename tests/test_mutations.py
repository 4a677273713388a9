"""The campaign of bad inputs: it finds nothing, goes on, and knows a fault when it sees one."""

import io
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from book.campaigns import mutations
from book.campaigns.mutations import FAULTS, KINDS, Refused, Trial, campaign
from stce.clips import Clips
from stce.study.__main__ import main

ROOT = Path(__file__).parents[1]


def test_bad_inputs_end_in_success_or_in_one_sentence(tmp_path):
    rows = pd.DataFrame(campaign(tmp_path, 18, seed=10))
    assert rows["kind"].tolist() == [*KINDS] * 3
    assert rows.loc[rows[[*FAULTS]].any(axis=1), ["mutation", "seed", "sentence"]].empty
    assert set(rows["outcome"]) == {"success", "refused"} and rows["memory_mb"].max() < 1000
    assert not rows["sentence"].str.contains(str(tmp_path), regex=False).any()
    assert list(campaign(tmp_path, 18, 10, done=rows)) == []


def tried(act, *named):
    with warnings.catch_warnings():
        return mutations._try(Trial("planted", act, named))


def test_an_error_of_the_package_is_a_sentence_if_it_names_what_it_is_about():
    def lacks():
        Clips.load("nowhere")

    assert tried(lacks, "nowhere")["outcome"] == "refused"
    assert not tried(lacks, "nowhere")["traceback"]
    assert "does not name elsewhere" in tried(lacks, "elsewhere")["sentence"]


@pytest.mark.parametrize("wrong", [KeyError("a"), ValueError("raised by the test alone")])
def test_an_error_from_below_is_a_fault(wrong):
    def act():
        raise wrong

    row = tried(act)
    assert row["traceback"] and "from below" in row["sentence"]


def test_a_command_is_judged_by_the_error_that_it_caught():
    with pytest.raises(Refused, match="Unknown run 'nobody'") as told:
        mutations.command(main, ["run", "nobody"], io.StringIO())
    assert isinstance(told.value.__cause__, ValueError) and mutations._ours(told.value.__cause__)

    def below(arguments):
        try:
            {}["x"]
        except KeyError as error:
            import sys

            print(f"error: {error}", file=sys.stderr)
            return 1

    assert tried(lambda: mutations.command(below, []))["traceback"]


def test_what_is_wrong_in_silence_and_what_is_run_are_faults(tmp_path):
    assert tried(lambda: "half of it")["wrong"]
    guard = mutations._Guard()
    guard.active, guard.allowed = True, (f"{tmp_path}/out/",)
    guard("open", (str(tmp_path / "out" / "a"), "w", 577))
    guard("open", (str(tmp_path / "a"), "r", 0))
    guard("subprocess.Popen", ("git", [], None, None))
    assert (guard.outside, guard.forbidden) == ([], [])
    guard("open", (str(tmp_path / "a"), "w", 577))
    guard("os.remove", (str(Path(tmp_path, "out", "..", "b")), -1))
    guard("os.system", (b"true",))
    assert guard.outside == [f"{tmp_path}/a", f"{tmp_path}/b"] and guard.forbidden == ["os.system"]


def test_bytes_are_mutated_by_the_seed_alone():
    from book.campaigns.badfilms import mutated

    data = bytes(range(256)) * 20
    twice = [[mutated(data, np.random.default_rng(k)) for k in range(60)] for _ in range(2)]
    assert twice[0] == twice[1] and len({kind for kind, _ in twice[0]}) == 11


def test_no_trial_touches_the_parameter_files_of_this_checkout(tmp_path):
    here = ROOT / "notebooks" / "parameters"
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    # As `python -m book.campaigns.soak` does: the module that is run imports the study first.
    words = [sys.executable, "-m", "book.campaigns.soak", "inputs", "--n", "2"]
    words += ["--folder", str(tmp_path / "work"), "--results", str(tmp_path / "results")]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True, timeout=300)
    rows = pd.read_csv(tmp_path / "results" / "inputs.csv")
    assert list(rows["kind"]) == ["films", "parameters"]
    assert not rows[["traceback", "hang", "wrong", "outside"]].to_numpy().any()
    assert {path.name: path.read_bytes() for path in here.iterdir()} == before
