"""An opened run gives the explanation of a class, and what became of one test clip."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from stce import ablation, concepts, features, models, supervoxels, tcav
from stce.clips import Clips
from stce.datasets import actors
from stce.datasets.textures import textures
from stce.engine.storage import seal
from stce.evaluation import truth
from stce.study import finished
from stce.study.finished import Finished
from stce.study.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of two classes on textures, each stage made by its own module."""
    run = Run(tmp_path_factory.mktemp("run"))
    frames = textures(6, n_frames=8, size=(32, 32), seed=1).frames
    clips = Clips(frames, [0, 0, 0, 1, 1, 1], list("abcdef"), ["p"] * 6, ("walk", "wave"))
    network = models.build(
        "r3d18", 2, 0.125, in_channels=1, input_size=(8, 32, 32), layer="dropout"
    )
    network.mean.fill_(0.4)
    with run.stage("train", {}).write() as folder:
        models.save(folder / "last.safetensors", network)
        told = pd.DataFrame({"class": ["walk", "wave"] * 9, "predicted": "walk"})
        told = told.assign(correct=told["class"] == told["predicted"])
        told.to_parquet(folder / "predictions.parquet")
    with run.stage("segment", {}).write() as folder:
        for split in ("train", "test"):
            clips.save(folder / f"{split}-clips")
            cut = folder / f"{split}-supervoxels"
            supervoxels.segment(clips, cut, n_segments=(4, 8, 12), progress=False)
    cut = supervoxels.Supervoxels.load(run.path("segment") / "train-supervoxels")
    z = features.extract(network, clips, cut, progress=False)
    videos = cut.table["video"].to_numpy()
    found = concepts.cluster(z, clips.labels[videos], videos, clips.classes, n_concepts=5)
    with run.stage("cluster", {"layer": "dropout", "stretch": True}).write() as folder:
        found.save(folder)
    whole = features.extract_clips(network, clips)
    mine = {name: whole[clips.indices_of(name)] for name in clips.classes}
    groups = np.array([[0, 1, 2], [3, 4, 5], [1, 3, 5]])
    samples = tcav.Samples(found, z, mine, whole, groups, clips.classes)
    scored = tcav.score(network, samples, n_bootstrap=10)
    with run.stage("tcav", {}).write() as folder:
        scored.save(folder)
    rankings = {name: scored.ranking(name) for name in clips.classes}
    given = network, clips, cut, found, rankings
    with run.stage("ablate", {}).write() as folder:
        subject, orders = ablation.Subject(*given), ablation.ranked(2)
        parts = ablation.run(subject, orders, q_max=3, progress=False)
        pd.concat(parts, ignore_index=True).to_parquet(folder / "outcomes.parquet")
    return run


def test_it_holds_one_class(run):
    it = Finished(run).explanation("wave")
    scores = tcav.Tcav.load(run.path("tcav"))
    assert it.ranking == scores.ranking("wave")
    assert it.scores["rank"].tolist() == [1, 2, 3, 4, 5]
    assert set(it.scores["class"]) == {"wave"}
    assert np.array_equal(it.cavs, scores.cavs["wave"])
    assert it.fill == it.settings["fill"] == 102
    assert it.network.layer == "dropout"
    assert len(it.clips) == 6


def test_the_ends_of_the_ranking(run):
    it = Finished(run).explanation("walk", "test")
    order = it.ranking
    assert it.ends(2) == [*order[:2], *order[-2:]]
    assert it.ends(4) == order  # five concepts: none is shown twice
    best = it.scores.iloc[0]
    assert it.title(order[0]) == f"rank 1 of 5, score {best['score']:.2f}"
    members = it.members(order[0])
    assert len(members) == best["n_members"]
    videos = it.supervoxels.table["video"].iloc[members]
    assert (it.clips.labels[videos] == 0).all()


@pytest.mark.parametrize(
    ("dataset", "parts", "carriers"),
    [
        ("folder", ("background", "moving"), {"walk": ("moving",), "wave": ("moving",)}),
        ("actors", actors.PARTS, truth.KTH_CARRIERS),
        ("kinetics", (), truth.KTH_CARRIERS),
    ],
)
def test_parts_are_called_what_the_data_set_calls_them(run, monkeypatch, dataset, parts, carriers):
    it, known = Finished(run), run.parameters
    monkeypatch.setattr(it.run, "parameters", lambda stage: known(stage) | {"dataset": dataset})
    assert it.body == {"parts": parts, "carriers": carriers}


def test_a_class_that_was_not_explained(run):
    with pytest.raises(ValueError, match=r"class_name is 'jump', .* choose one of walk, wave"):
        Finished(run).explanation("jump")


def test_a_run_that_was_never_made(tmp_path):
    with pytest.raises(FileNotFoundError, match="reads stage 'cluster'"):
        Finished(tmp_path).explanation("walk")


@pytest.mark.parametrize("mode", ["add", "remove"])
def test_an_example_shows_what_the_network_was_shown(run, mode):
    it = Finished(run).example("wave")
    steps, masks = it.steps(mode), it.masks(mode)
    assert steps["q"].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose([mask.mean() for mask in masks], steps["revealed"], atol=1e-6)
    first = {"add": "blank clip", "remove": "whole clip"}[mode]
    chances = steps["probability"].map("{:.0%} wave".format)
    names = [first, *(f"{'+' if mode == 'add' else '-'} rank {q}" for q in (1, 2, 3))]
    assert it.titles(mode) == [f"{n}\n{c}" for n, c in zip(names, chances, strict=True)]
    # The pictures, sent through the network, give the probabilities of the run.
    network = it.explanation.network.eval()
    shown = np.where(np.stack(masks)[..., None], it.frames, it.explanation.fill).astype(np.uint8)
    with torch.inference_mode():
        chance = network(network.prepare(torch.from_numpy(shown))).softmax(1)[:, 1]
    np.testing.assert_allclose(chance, steps["probability"], atol=1e-5)


def test_the_example_is_the_clip_in_which_the_order_shows_most(run):
    outcomes = pd.read_parquet(run.path("ablate") / "outcomes.parquet")
    mine = outcomes[(outcomes["class"] == "walk") & (outcomes["order"] == "top")]
    gaps = {
        clip: rows.loc[rows["mode"] == "add", "probability"].mean()
        - rows.loc[rows["mode"] == "remove", "probability"].mean()
        for clip, rows in mine.groupby("video")
    }
    it = Finished(run).example("walk")
    assert it.clip == max(gaps, key=gaps.get)
    assert it.explanation.clips.labels[it.clip] == 0


def test_the_example_holds_the_most_important_concept(run, tmp_path):
    other, before = Run(tmp_path), Finished(run).example("walk").clip
    for stage in ("train", "segment", "cluster", "tcav"):
        shutil.copytree(run.path(stage), other.folder / stage)
    outcomes = pd.read_parquet(run.path("ablate") / "outcomes.parquet")
    first = (outcomes["mode"] == "add") & (outcomes["q"] == 1)
    outcomes.loc[first & (outcomes["video"] == before), "revealed"] = 0.0
    with other.stage("ablate", {}).write() as folder:
        outcomes.to_parquet(folder / "outcomes.parquet")
    after = Finished(other).example("walk").clip
    assert after != before
    seen = outcomes[first & (outcomes["order"] == "top") & (outcomes["revealed"] > 0)]
    assert after in seen["video"].tolist()


def test_a_class_without_test_clips(run, tmp_path):
    other = Run(tmp_path)
    for stage in ("train", "segment", "cluster", "tcav"):
        shutil.copytree(run.path(stage), other.folder / stage)
    outcomes = pd.read_parquet(run.path("ablate") / "outcomes.parquet")
    with other.stage("ablate", {}).write() as folder:
        outcomes[outcomes["class"] == "walk"].to_parquet(folder / "outcomes.parquet")
    with pytest.raises(ValueError, match=r"class_name is 'wave', of which .* choose one of walk"):
        Finished(other).example("wave")


def test_a_run_that_is_older_than_the_verdict_opens(run):
    it = Finished(run)
    assert it.controls is None
    told = it.verdict()
    assert "names 50 % of 18 clips rightly, by chance 50 %" in told.reasons["unknown"]
    assert told.facts["chance"] == "its scores were not tested against chance"
    assert "random supervoxels" not in str(told)
    one = it.verdict("wave")
    assert "names 0 % of 9" in one.reasons["unknown"] and "3 test clips" in one.reasons["few"]
    assert repr(it.explanation("wave")).startswith("Do not believe this explanation yet:")


def test_the_verdict_tells_area_and_what_stands_out(run, tmp_path):
    other = Run(tmp_path)
    for stage in ("train", "segment", "cluster", "tcav"):
        shutil.copytree(run.path(stage), other.folder / stage)
    for split in ("train", "test"):
        folder = other.folder / "segment" / f"{split}-clips"
        clips = Clips.load(folder)
        shutil.rmtree(folder)
        parts = np.zeros(clips.frames.shape[:4], np.uint8)
        parts[..., :16] = 1
        Clips(clips.frames, clips.labels, clips.ids, clips.groups, clips.classes, parts).save(
            folder
        )
    stage = other.folder / "segment"
    facts = json.loads((stage / "manifest.json").read_text("utf-8"))
    seal(stage, **{key: facts[key] for key in facts if key not in ("outputs", "files", "seal")})
    it = Finished(other)
    assert set(it.verdict().reasons) | set(it.verdict().facts) == {
        "unknown", "chance", "order", "background",
    }  # fmt: skip
    subject = it.subject()
    with other.stage("ablate", {"amp": True}).write() as folder:
        orders = ablation.ranked(2), ablation.matched(1)
        every = pd.concat(ablation.run(subject, *orders, q_max=3, progress=False))
        by_chance = every["order"].isin(ablation.MATCHED)
        every[~by_chance].to_parquet(folder / "outcomes.parquet")
        every[by_chance].to_parquet(folder / "controls.parquet")
    it = Finished(other)
    # Who asks the run again asks it in its own precision.
    assert it.subject().amp and not subject.amp and not it.subject(amp=False).amp
    assert set(it.controls["order"]) == set(ablation.MATCHED)
    assert set(it.outcomes["order"]) == {"top", "random", "least"}
    told = it.verdict()
    assert "as many voxels of random supervoxels by" in str(told.reasons | told.facts)
    # In the test clips no concept was found: of them nothing is told of the background.
    mine, shown = it.explanation("wave").verdict, it.explanation("wave", "test").verdict
    assert "background" in mine.reasons | mine.facts
    assert "background" not in shown.reasons | shown.facts


def test_random_clips_lie_where_the_notebooks_mean_them(run, tmp_path, monkeypatch):
    monkeypatch.setattr(finished, "HOME", tmp_path)
    it = Finished(run)
    (tmp_path / "data" / "hmdb51").mkdir(parents=True)
    chosen = {"random_source": "hmdb", "random_folder": "../data/hmdb51"}
    chosen |= {"n_random_clips": 3, "seed": 0}
    # The folder is found, whatever the working directory, and holds nothing.
    with pytest.raises(ValueError, match=r"hmdb51 has no class folder with videos"):
        finished.draw_random(it, chosen)
    chosen["random_source"] = "textures"
    clips, kind = finished.draw_random(it, chosen)
    assert (clips.frames.shape, kind) == ((3, 8, 32, 32, 1), "textures")
