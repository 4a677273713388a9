"""A training with a beginning: none of the weights of others is trained, the head alone, or all."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from stce import clips, explain, models, training
from stce.clips import Clips
from stce.models.borrow import hooked
from stce.study import jobs
from stce.study.__main__ import main
from stce.study.finished import Finished
from stce.study.learning import embed, learn
from stce.study.parameters import check, check_all
from stce.study.run import Run
from stce.training import beginning
from stce.videos import Videos

SIZE = (8, 16, 16)
COLOURS = {"blue": (40, 40, 200), "green": (40, 200, 40), "red": (200, 40, 40)}
NAMES = ("Red light", "purple rain", "green_light", "white noise", "blue light")
MAP = {"blue": "blue light", "green": "Green light", "red": "red_light"}


def film(colour, seed, n_frames=10, side=18):
    """A noisy film of one colour."""
    rng = np.random.default_rng(seed)
    frames = np.array(COLOURS[colour]) + rng.integers(-40, 40, (n_frames, side, side, 3))
    return frames.astype(np.uint8)


class Lights(Videos):
    """Films of three colours in memory."""

    def __init__(self, per_class=3):
        labels = np.arange(per_class * len(COLOURS)) % len(COLOURS)
        table = pd.DataFrame({"label": labels, "class": np.array(list(COLOURS))[labels]})
        table["id"] = table["group"] = [f"v{i}" for i in range(len(labels))]
        super().__init__(table, tuple(COLOURS))

    def read(self, i):
        return film(self.table["class"].iloc[i], i)


def pretrained(seed=7, name="r3d18", in_channels=3, classes=NAMES, size=SIZE):
    network = models.build(name, len(classes), 0.125, in_channels, size, seed=seed).eval()
    network.set_moments([0.5] * in_channels, [0.25] * in_channels)
    network.classes = classes
    return network


@pytest.fixture
def kept(tmp_path):
    path = tmp_path / "theirs.safetensors"
    models.save(path, pretrained())
    return path


@pytest.fixture
def films_folder(tmp_path, films):
    for colour in COLOURS:
        for person in (1, 2, 3, 4):
            frames = film(colour, person, 12, 32)
            films.write(tmp_path / "videos" / colour / f"p{person}_take.avi", frames)
    return tmp_path / "videos"


def chosen(films_folder, weights, **changes):
    options = {"folder": str(films_folder), "test_groups": ["p3", "p4"]}
    values = {
        "dataset": "folder", "dataset_options": options, "network": "r3d18", "width": 0.125,
        "frame_size": [18, 18], "crop": [16, 16], "n_frames": 8, "epochs": 1, "batch_size": 6,
        "lr": 0.001, "n_jobs": 1, "device": "cpu", "weights": str(weights),
    }  # fmt: skip
    return values | changes


def made(folder, values):
    """Compute the stage train in a folder; return it, its network and its predictions."""
    p = SimpleNamespace(**check("train", values))
    stage = Run(folder).stage("train", vars(p))
    assert stage.todo
    learn(stage, p)
    network = models.load(stage.folder / "last.safetensors")
    return stage, network, pd.read_parquet(stage.folder / "predictions.parquet")


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_the_head_is_fitted_to_its_optimum(classes, strength):
    rng = np.random.default_rng(0)
    labels = np.arange(30) % classes
    features = rng.normal(3, 2, (2, 30, 64)).astype(np.float32)
    features[..., 0] += 3 * labels
    features[..., 5] = 1.5  # says nothing, and has no spread
    names = [str(i) for i in range(classes)]
    network = pretrained(classes=names)
    *_, last = network.blocks().values()
    assert last.in_features == 64
    before = {k: v.clone() for k, v in network.state_dict().items()}
    beginning.fit_head(network, features, labels, strength)
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"head.fc.weight", "head.fc.bias"}
    # The loss as its docstring has it, written out: its slope is nil where the head is.
    z = torch.from_numpy(np.concatenate(features)).double()
    mean, scale = z.mean(0), z.std(0, correction=0)
    scale[scale == 0] = 1
    weight = (last.weight.detach().double() * scale).requires_grad_()
    bias = (last.bias.detach().double() + last.weight.detach().double() @ mean).requires_grad_()
    logits = (z - mean) / scale @ weight.T + bias
    target = torch.from_numpy(np.tile(labels, 2))
    fit = torch.nn.functional.cross_entropy(logits, target, reduction="sum") / 2
    (fit + (weight**2).sum() / (2 * strength)).backward()
    assert weight.grad.abs().max() < 1e-3 and bias.grad.abs().max() < 1e-3
    assert fit.item() < 0.9 * 30 * np.log(classes)


def test_each_view_of_a_clip_is_run_once_and_a_stopped_call_goes_on(tmp_path):
    videos, seen = Lights(), []
    network = pretrained(classes=tuple(COLOURS))
    # To find out a shape a network is run without numbers.
    with hooked(network.blocks()["stem"], lambda x: seen.append(0 if x.is_meta else len(x))):
        z = embed(network, videos, tmp_path / "z", True, block=4)
        assert z.shape == (2, 9, 64) and sum(seen) == 18
        (tmp_path / "z" / "000004.npy").unlink()
        assert np.array_equal(embed(network, videos, tmp_path / "z", True, block=4), z)
        assert sum(seen) == 18 + 8
    plain = clips.middle_clips(videos, None, 8, (16, 16)).frames
    for view, frames in zip(z, (plain, plain[:, :, :, ::-1]), strict=True):
        x = network.prepare(torch.from_numpy(frames.copy()))
        with torch.no_grad():
            last = network.split("dropout").features(x)
        np.testing.assert_allclose(view, last, rtol=1e-4, atol=1e-5)
    assert len(embed(network, videos, tmp_path / "one", False)) == 1


def test_the_logits_kept_are_those_of_the_network_in_the_order_of_the_data():
    theirs = pretrained()
    rows = beginning.logits_of(theirs, tuple(COLOURS), MAP)
    assert rows == [4, 2, 0]
    ours = beginning.begin(theirs, tuple(COLOURS), rows, dropout=0.4).eval()
    x = ours.prepare(torch.randint(0, 256, (3, *SIZE, 3), dtype=torch.uint8))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x)[:, rows], rtol=1e-5, atol=1e-6)
    assert ours.classes == tuple(COLOURS) and ours.settings["dropout"] == 0.4
    assert ours.mean.tolist() == [0.5] * 3 and ours.std.tolist() == [0.25] * 3
    fresh = beginning.begin(theirs, tuple(COLOURS), seed=3)
    assert fresh.blocks()["fc"].weight.std() < 0.02
    assert torch.equal(fresh.blocks()["stem"][0].weight, theirs.blocks()["stem"][0].weight)


@pytest.mark.parametrize(
    ("classes", "class_map", "said"),
    [
        (["rain"], {}, "class 'rain' is 'rain', which the network does not know; did you mean 'pu"),
        (["zzz"], {}, "does not know; choose from red light, purple rain"),
        (["hug"], {"hug": "red ligth"}, "'hug' is 'red ligth', .* did you mean 'red light'"),
        (["red light", "hug"], {"hug": "red light"}, "cannot tell from another of yours"),
        (["red light"], {"red_light": "x"}, "names 'red_light', no class of yours; did you mean"),
    ],
)
def test_a_class_that_is_not_there_is_named_with_names_near_to_it(classes, class_map, said):
    with pytest.raises(ValueError, match=said) as error:
        beginning.logits_of(pretrained(), classes, class_map)
    assert "\n" not in str(error.value)


def test_nothing_is_trained(tmp_path, films_folder, kept):
    values = chosen(films_folder, kept, trainable="none", class_map=MAP)
    stage, network, predictions = made(tmp_path / "run", values)
    assert network.classes == tuple(COLOURS) and network.settings["n_classes"] == 3
    test = clips.middle_clips(Finished(tmp_path / "run").videos("test"), None, 8, SIZE[1:])
    x = network.prepare(torch.from_numpy(test.frames))
    with torch.no_grad():
        logits = pretrained()(x)
    assert predictions["predicted"].tolist() == [
        test.classes[i] for i in logits[:, [4, 2, 0]].argmax(1)
    ]
    assert predictions["named"].tolist() == [NAMES[i] for i in logits.argmax(1)]
    right = [
        NAMES.index(n) == (4, 2, 0)[y]
        for n, y in zip(predictions["named"], test.labels, strict=True)
    ]
    assert predictions["named_right"].tolist() == right
    assert not (stage.folder / "history.csv").exists()
    assert not Run(tmp_path / "run").stage("train", check("train", values)).todo


def test_the_head_learns_what_the_trunk_sees(tmp_path, films_folder, kept):
    stage, network, predictions = made(
        tmp_path / "run", chosen(films_folder, kept, trainable="head")
    )
    assert predictions["correct"].all()
    theirs = pretrained()
    for name, block in list(network.blocks().items())[:-1]:
        for one, other in zip(
            block.state_dict().values(), theirs.blocks()[name].state_dict().values(), strict=True
        ):
            assert torch.equal(one, other)
    assert torch.equal(network.mean, theirs.mean)
    assert not list(stage.folder.glob("**/.*"))  # what it saw of each clip is not kept


def test_all_is_trained_from_the_weights_and_with_their_normalisation(tmp_path, films_folder, kept):
    stage, network, _ = made(tmp_path / "run", chosen(films_folder, kept, lr=1e-6))
    theirs = pretrained()
    assert network.mean.tolist() == [0.5] * 3 and network.std.tolist() == [0.25] * 3
    weight = network.blocks()["stem"][0].weight
    begun = theirs.blocks()["stem"][0].weight
    assert 0 < (weight - begun).abs().max() < 1e-3 * begun.abs().max()
    assert len(pd.read_csv(stage.folder / "history.csv")) == 1
    values = chosen(films_folder, kept, lr=1e-6, class_map=MAP)
    _, mapped, _ = made(tmp_path / "mapped", values)
    kept_rows = theirs.blocks()["fc"].weight[[4, 2, 0]]
    torch.testing.assert_close(mapped.blocks()["fc"].weight, kept_rows, rtol=0.01, atol=1e-4)


def test_another_file_of_the_same_name_is_another_run(tmp_path, films_folder, kept):
    values = check("train", chosen(films_folder, kept, trainable="head"))
    stage, _, _ = made(tmp_path / "run", values)
    manifest = json.loads((stage.folder / "manifest.json").read_text())
    assert len(manifest["reads"]["weights"]) == 64
    again, other = Run(tmp_path / "run"), Run(tmp_path / "other")
    assert not again.stage("train", values).todo
    assert other.stage("train", values).borrow(again)
    models.save(kept, pretrained(seed=8))
    assert again.stage("train", values).todo
    assert not Run(tmp_path / "third").stage("train", values).borrow(again)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trainable": "none"}, "your class 'blue' is 'blue', which .* did you mean 'blue light'"),
        ({"network": "i3d"}, "network is 'i3d', but 'r3d18' for the weights .* give 'r3d18' too"),
        ({"width": 0.25}, "width is 0.25, but 0.125 for the weights"),
        (
            {"dataset": "actors", "dataset_options": {"persons": 2, "takes": 1}},
            "channels is 1, but 3 for .* 1 in grey",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_a_video_is_decoded(
    tmp_path, films_folder, kept, changes, said
):
    p = SimpleNamespace(**check("train", chosen(films_folder, kept, **changes)))
    stage = Run(tmp_path / "run").stage("train", vars(p))
    with pytest.raises(ValueError, match=said) as error:
        learn(stage, p)
    assert "\n" not in str(error.value)
    assert [f.name for f in stage.partial.iterdir()] == ["inputs.json"]


def test_clips_that_a_network_cannot_take_are_refused(tmp_path, films_folder):
    path = tmp_path / "c3d.safetensors"
    models.save(path, pretrained(name="c3d", size=(16, 32, 32)))
    p = SimpleNamespace(**check("train", chosen(films_folder, path, network="c3d")))
    stage = Run(tmp_path / "run").stage("train", vars(p))
    with pytest.raises(
        ValueError, match=r"c3d.safetensors do not fit clips of \[8, 16, 16\]: size"
    ):
        learn(stage, p)
    assert [f.name for f in stage.partial.iterdir()] == ["inputs.json"]


def test_weights_that_are_not_here_are_told_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STCE_WEIGHTS", str(tmp_path))
    for weights, said in (
        ("i3d-kinetics400", "python -m stce.models fetch i3d-kinetics400"),
        ("none.safetensors", "there is no network file"),
    ):
        with pytest.raises(FileNotFoundError, match=said):
            Run(tmp_path / "run").stage("train", check("train", {"weights": weights}))
    with pytest.raises(ValueError, match="did you mean 'i3d-kinetics400'"):
        Run(tmp_path / "run").stage("train", {"weights": "i3d-kinetics40"})
    assert not (tmp_path / "run").exists()
    arguments = ["run", "smoke", "--folder", str(tmp_path / "run"), "--set"]
    assert main([*arguments, "weights=i3d-kinetics400"]) == 1
    assert "fetch i3d-kinetics400` brings them" in capsys.readouterr().err


@pytest.mark.parametrize(
    "values",
    [
        {"trainable": "head"},
        {"trainable": "none"},
        {"class_map": {"a": "b"}},
        {"trainable": "head", "weights": "i3d-kinetics400", "class_map": {"a": "b"}},
    ],
)
def test_what_has_no_meaning_is_refused_everywhere(values):
    for refuse in (check_all, lambda v: check("train", v)):
        with pytest.raises(ValueError, match="head, none and a class_map need weights"):
            refuse(values)


def test_a_file_typed_on_a_command_line_is_meant_from_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed = jobs.assignments(["weights=mine/net.safetensors"])
    assert typed == {"weights": os.path.realpath(tmp_path / "mine" / "net.safetensors")}
    assert jobs.assignments(["weights=i3d-kinetics400"]) == {"weights": "i3d-kinetics400"}


def test_a_network_trained_on_keeps_its_moments(tmp_path):
    network = beginning.begin(pretrained(), tuple(COLOURS))
    how = {"epochs": 1, "batch_size": 5, "n_frames": 8, "crop": (16, 16)}
    training.train(network, Lights(), tmp_path, **how)
    assert network.mean.tolist() == [0.5] * 3


def test_a_network_is_explained_by_its_name(tmp_path, kept):
    frames = np.stack([film("red", i, 8, 16) for i in range(3)])
    some = Clips(frames, [0] * 3, list("abc"), list("abc"), ("red",))
    how = {"random": 12, "n_segments": (4, 8), "n_concepts": 3, "n_keep": 5, "n_groups": 3}
    found = explain(str(kept), None, some, "Red light", progress=False, **how)
    same = explain(pretrained(), None, some, "Red light", progress=False, **how)
    pd.testing.assert_frame_equal(found.scores, same.scores)
    with pytest.raises(ValueError, match="'red lights'; did you mean 'Red light'"):
        explain(str(kept), None, some, "red lights", **how)
    with pytest.raises(ValueError, match="no pretrained network .* did you mean 'i3d-kinetics400'"):
        explain("i3d-kinetics", None, some, "Red light", **how)
