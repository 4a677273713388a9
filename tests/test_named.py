"""Concepts that somebody names, and other ways to find them."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from stce import concepts
from stce.clips import Clips
from stce.datasets.textures import textures
from stce.explanation import Explanation, explain
from stce.study.parameters import NOTEBOOKS
from stce.videos.sources import Videos  # noqa: F401

HOW = {"random": 60, "n_segments": (4, 8), "n_concepts": 3, "n_keep": 10, "n_groups": 5}
HOW |= {"progress": False, "n_random_orders": 2}
SIZE = (4, 24, 24)


class Bright(nn.Module):
    """Two channels, of what is bright and of what is dark; class 1 reads the first one."""

    def __init__(self):
        super().__init__()
        self.seen = nn.Conv3d(1, 2, 1)
        self.fc = nn.Linear(2, 2)
        with torch.no_grad():
            self.seen.weight[:] = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1, 1)
            self.seen.bias[:] = torch.tensor([0.0, 0.0])
            self.fc.weight[:] = torch.tensor([[-1.0, 1.0], [1.0, -1.0]])
            self.fc.bias[:] = 0

    def forward(self, x):
        return self.fc(self.seen(x).relu().mean((2, 3, 4)))


def world(n=8, seed=0):
    """Clips with a bright patch that wanders, its masks, and their class."""
    made = textures(n, n_frames=SIZE[0], size=SIZE[1:], seed=seed)
    frames, masks = made.frames // 3 + 60, np.zeros((n, *SIZE), bool)
    for i in range(n):
        for t in range(SIZE[0]):
            masks[i, t, 6:14, 2 + 2 * t + i % 3 : 10 + 2 * t + i % 3] = True
    frames[masks] = 250
    return Clips(frames, np.ones(n, int), made.ids, made.ids, ("no", "yes")), masks


def bright(n=12, value=240):
    frames = textures(n, n_frames=SIZE[0], size=SIZE[1:], seed=7).frames // 16 + value - 16
    return frames.astype(np.uint8)


def known(**more):
    clips, masks = world()
    given = {"patch": masks, "bright": bright(), "dark": bright(value=20)}
    how = {"mean": 0.4, "std": 0.2, "concepts": given, **HOW, **more}
    return explain(Bright(), "seen", clips, "yes", **how)


@pytest.mark.parametrize("random_from", ["clips", "matched"])
def test_what_is_named_is_scored_as_what_is_found(random_from):
    found = known(test_clips=world(6, seed=1)[0], random_from=random_from)
    named = found.scores[found.scores["name"] != ""].set_index("name")
    assert sorted(named.index) == ["bright", "dark", "patch"]
    assert named.loc["bright", "score"] == 1.0
    assert named.loc["dark", "score"] == 0.0
    # Whole clips are brighter than a small patch is; what is as large as the patch is not.
    assert named.loc["patch", "score"] == (random_from == "matched")
    assert named["n_members"].to_dict() == {"patch": 8, "bright": 12, "dark": 12}
    assert len(found.ranking) == 6
    number = int(found.scores.index[found.scores["name"] == "patch"][0])
    assert found.title(number).startswith("patch, rank ")
    assert number == 3  # behind those that are found, in their order
    # Its examples are the masks themselves.
    masks = world()[1]
    for row in found.members(number):
        video = int(found.supervoxels.table.loc[row, "video"])
        assert np.array_equal(found.supervoxels.mask(row), masks[video])
    # On test clips a supervoxel may be of it, as of any other (equation 4).
    assert found.outcomes["order"].nunique() >= 3


def test_named_concepts_stand_alone_or_beside_others(tmp_path):
    alone = known(n_concepts=0)
    assert alone.scores["name"].tolist() != []
    assert sorted(alone.ranking) == [0, 1, 2]
    beside = known()
    # The classifier of each is fitted to the same examples and random clips.
    both = [it.scores.set_index("name").loc[["patch", "dark"], "score"] for it in (alone, beside)]
    pd.testing.assert_series_equal(*both)
    beside.save(tmp_path / "kept")
    kept = Explanation.load(tmp_path / "kept")
    pd.testing.assert_frame_equal(kept.scores, beside.scores)
    assert str(kept.verdict) == str(beside.verdict)
    assert "name" not in known(concepts=None).scores
    # One clip is told with them, and the example clips are of no class.
    told = beside.explain_clip(world(6, seed=1)[0].frames[0])
    assert set(told.concepts["concept"]) <= set(beside.ranking)


def test_one_concept_against_another():
    # Told apart from dark clips the bright ones are what the class reads, and the other way round.
    for first, second, score in ((240, 20, 1.0), (20, 240, 0.0)):
        given = {"it": bright(20, first)}
        found = known(concepts=given, random=Clips.of_array(bright(40, second)), n_concepts=0)
        assert found.scores["score"].tolist() == [score]


def test_a_folder_of_films_shows_a_concept(tmp_path):
    from stce.viz.film import write_video

    for i in range(8):
        write_video(tmp_path / f"{i}.mp4", bright(2)[i % 2].repeat(4, 0), fps=8)
    found = known(concepts={"films": tmp_path}, n_concepts=0, n_keep=6)
    assert found.scores["score"].tolist() == [1.0]
    assert found.scores["n_members"].tolist() == [6]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"few": bright(3)}, r"concepts\['few'\] has 3 examples; give 5 or more"),
        ({"odd": np.ones((8, 4, 9, 9), bool)}, r"concepts\['odd'\] is \(8, 4, 9, 9\) bool; give"),
        ({"odd": bright()[:, :2]}, r"concepts\['odd'\] has clips .* bring them to one size"),
        ({"no": "nowhere"}, r"concepts\['no'\] is the folder .*nowhere, which is not there"),
        ({"none": np.zeros((8, *SIZE), bool)}, "has 0 examples"),
        ({3: bright()}, "concepts has the key 3; name each concept by a text"),
        ([bright()], "concepts is a list; give a dict of name to clips"),
        ("films", "concepts is a str; give a dict of name to clips"),
        ({"odd": None}, r"concepts\['odd'\] is of shape \(\); give"),
    ],
)
def test_examples_that_are_none_are_refused(given, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        known(concepts=given)


def test_without_any_concept_nothing_is_explained():
    with pytest.raises(ValueError, match="n_concepts is 0; it takes int, at least 1"):
        known(concepts=None, n_concepts=0)


def test_captum_says_the_same(tmp_path):
    pairs = [both_scores(tmp_path / str(seed), seed) for seed in range(3)]
    assert np.abs(np.diff(pairs)).max() <= 0.02
    assert any(0.05 < ours < 0.95 for ours, _ in pairs), "all clips alike say little"


def both_scores(folder, seed):
    """Return our score of one concept in a network drawn by chance, and captum's."""
    captum = pytest.importorskip("captum.concept")
    from captum.concept._utils.classifier import Classifier

    torch.manual_seed(seed)
    head = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    head[0].weight.data *= 8  # so that the slopes of the clips differ
    model = nn.Sequential(nn.Conv3d(1, 6, 3), nn.ReLU(), Mean(), head).eval()
    rng = np.random.default_rng(seed)
    made = textures(40, n_frames=4, size=(24, 24), seed=seed).frames
    clips = (made * rng.uniform(0.1, 1, (40, 1, 1, 1, 1))).astype(np.uint8)
    shown, random = bright(10), textures(40, n_frames=4, size=(24, 24), seed=100 + seed).frames
    how = {"mean": 0.4, "std": 0.2, "concepts": {"bright": shown}, **HOW, "n_concepts": 0}
    ours = explain(model, "2", clips, 1, **how | {"random": random, "n_groups": 4})
    mean, scale = ours.evidence.samples.scaling()

    class Logistic(Classifier):
        """Scikit-learn's, on features standardised as ours are."""

        def __init__(self):
            pass

        def train_and_eval(self, loader, **kwargs):
            x, y = (torch.cat(both).numpy() for both in zip(*loader, strict=True))
            fit = LogisticRegression(tol=1e-8, max_iter=5000).fit((x - mean) / scale, y)
            self.kinds, self.w = fit.classes_.tolist(), torch.from_numpy(fit.coef_[0] / scale)

        def weights(self):
            return torch.stack([-self.w, self.w]).float()

        def classes(self):
            return self.kinds

    def prepared(frames):
        return (torch.from_numpy(np.moveaxis(frames, -1, 1)).float() / 255 - 0.4) / 0.2

    data = [shown, *(random[group] for group in ours.evidence.samples.groups)]
    loaders = [torch.utils.data.DataLoader(prepared(x), batch_size=100) for x in data]
    ideas = [captum.Concept(i, str(i), loader) for i, loader in enumerate(loaders)]
    machine = captum.TCAV(model, ["2"], classifier=Logistic(), save_path=str(folder))
    pairs = [[ideas[0], idea] for idea in ideas[1:]]
    told = machine.interpret(prepared(clips), experimental_sets=pairs, target=1)
    theirs = np.mean([float(of["2"]["sign_count"][0]) for of in told.values()])
    return ours.scores["score"].iloc[0], theirs


class Mean(nn.Module):
    def forward(self, x):
        return x.mean((2, 3, 4))


# ----- Other ways to find concepts.


def planted(seed=0, n=60, d=12, k=3):
    """Features of supervoxels of k kinds, each along an axis of its own."""
    rng = np.random.default_rng(seed)
    kind = np.repeat(np.arange(k), n // k)
    z = rng.uniform(0, 0.1, (n, d))
    z[np.arange(n), kind] += rng.uniform(1, 2, n)
    return z.astype(np.float32), kind


@pytest.mark.parametrize("discover", concepts.WAYS)
def test_each_way_finds_what_is_planted(discover):
    z, kind = planted()
    how = {"n_concepts": 3, "n_keep": 10, "seed": 0, "discover": discover}
    found = concepts.cluster(z, np.zeros(60, int), np.arange(60), ("a",), **how)
    for concept in range(3):
        rows = found.members("a", concept)
        assert len(rows) == 10
        assert len(set(kind[rows])) == 1
    assert len({kind[found.members("a", k)[0]] for k in range(3)}) == 3
    # Equation 4 gives each supervoxel to its own.
    owner = concepts.assign(z, found.centres["a"])
    assert len({(a, b) for a, b in zip(owner, kind, strict=True)}) == 3
    again = concepts.cluster(z, np.zeros(60, int), np.arange(60), ("a",), **how)
    pd.testing.assert_frame_equal(found.table, again.table)
    rising = found.table.groupby("concept")["distance"].apply(lambda d: d.is_monotonic_increasing)
    assert rising.all()


def test_archetypes_are_the_corners_of_the_data():
    rng = np.random.default_rng(0)
    corners = np.array([[0.0, 0], [4, 0], [0, 4]])
    shares = rng.dirichlet([0.4] * 3, 200)
    mixed = concepts._convex(shares @ corners, 3, 0)
    nearest = [np.argmax(shares[:, k]) for k in range(3)]
    found = mixed[nearest].argmax(1)
    assert sorted(found) == [0, 1, 2]
    assert np.abs(mixed[:, found] - shares).mean() < 0.05
    assert np.allclose(mixed.sum(1), 1)


def test_what_is_part_of_no_concept_is_the_least_of_one():
    z, _ = planted()
    z[-5:] = 0  # no factor has a share in them
    how = {"n_concepts": 3, "n_keep": 40, "discover": "nmf"}
    found = concepts.cluster(z, np.zeros(60, int), np.arange(60), ("a",), **how)
    assert len(found.table) == 60
    last = found.table.set_index("supervoxel").loc[55:59, "distance"]
    assert (last == 1).all()


def test_notebook_8_takes_each_way():
    assert NOTEBOOKS["08_your_own"]["discover"].choices == tuple(concepts.WAYS)


def test_a_way_that_is_none_is_refused():
    z, _ = planted()
    with pytest.raises(ValueError, match="discover is 'pca'; choose one of kmeans, nmf, convex"):
        concepts.cluster(z, np.zeros(60, int), np.arange(60), ("a",), discover="pca")
    with pytest.raises(ValueError, match="discover is 'pca'; choose one of kmeans"):
        known(discover="pca")


@pytest.mark.parametrize("discover", ["nmf", "convex", "sae"])
def test_explain_finds_concepts_in_each_way(discover):
    found = known(concepts=None, discover=discover, n_concepts=2)
    assert sorted(found.ranking) == [0, 1]
    assert found.settings["discover"] == discover
