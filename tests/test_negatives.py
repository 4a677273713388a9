"""What concepts are told apart from: other classes, films of one's own, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from stce import concepts, features, study, supervoxels, tcav
from stce.clips import Clips
from stce.datasets.negatives import films as list_films
from stce.datasets.negatives import negatives
from stce.datasets.textures import textures
from stce.evaluation import significance, stability
from stce.explanation import explain
from stce.features import random_supervoxels
from stce.models.adapt import Explainable, Functions
from stce.videos.frames import center_crop, resize


class Linear(torch.nn.Linear, Explainable):
    """A head that is one linear map."""

    logits = torch.nn.Linear.forward


OWN, BACKGROUND = 0, 1


def planted(rng, n=120):
    """Two classes: each has supervoxels with a feature of its own, and some of background alone.

    All supervoxels share one more feature, which no whole texture has, and class outputs rise along
    it too. Features: own of "a", own of "b", shared, noise.
    """
    d = 12
    kind = np.tile(np.repeat([OWN, BACKGROUND], n), 2)
    labels = np.repeat([0, 1], 2 * n)
    z = rng.normal(size=(4 * n, d))
    z[np.arange(4 * n), labels] += np.where(kind == OWN, 6, 0)
    z[:, 2] += 6
    z = z.astype(np.float32)
    how = {"n_concepts": 2, "n_keep": n // 2}
    found = concepts.cluster(z, labels, np.arange(4 * n), ("a", "b"), **how)
    weights = np.zeros((2, d), np.float32)
    weights[0, 0] = weights[1, 1] = 1
    weights[:, 2] = 1
    net = Linear(d, 2)
    net.weight.data = torch.tensor(weights)
    clips = {name: rng.normal(size=(5, d)).astype(np.float32) for name in "ab"}
    return net, found, z, clips, np.array(["a", "b"])[labels], kind


def by_kind(table, found, kind):
    """The rows of the concept of a class's own feature, and of the background."""
    place = {(n, k): kind[found.members(n, k)[0]] for n in "ab" for k in (0, 1)}
    told = np.array([place[row] for row in zip(table["class"], table["concept"], strict=True)])
    return table[told == OWN], table[told == BACKGROUND]


def test_against_other_classes_the_own_feature_leads_and_what_all_share_is_nothing():
    rng = np.random.default_rng(0)
    net, found, z, clips, owners, kind = planted(rng, 400)
    groups = tcav.random_groups(1600, 4, 200, rng, owners)
    others = tcav.Samples(found, z, clips, z, groups, ("a", "b"))
    whole = rng.normal(size=(1600, 12)).astype(np.float32)
    plain = tcav.random_groups(1600, 4, 200, rng)
    against = replace(others, random=whole, groups=plain)
    own, background = by_kind(tcav.score(net, others).scores, found, kind)
    assert (own["rank"] == 1).all() and (own["score"] == 1).all()
    assert (background["derivative"].abs() < 0.2 * own["derivative"].min()).all()
    # Against whole textures it is not nothing: the shared feature is not theirs.
    own, background = by_kind(tcav.score(net, against).scores, found, kind)
    assert (background["score"] == 1).all()
    assert (background["derivative"] > 0.6 * own["derivative"].max()).all()


def test_a_class_is_never_told_apart_from_itself():
    owners = np.repeat(["a", "b", "c"], (30, 50, 20))
    groups = tcav.random_groups(100, 4, 12, np.random.default_rng(0), owners)
    assert sorted(groups) == ["a", "b", "c"]
    for name, drawn in groups.items():
        assert drawn.shape == (4, 12) and name not in owners[drawn]
        assert len(np.unique(drawn)) == 48  # disjoint: there are enough
    with pytest.raises(ValueError, match="There are 70 random clips, too few for groups of 70"):
        tcav.random_groups(100, 4, 70, np.random.default_rng(0), owners)


def test_groups_for_each_class_are_those_of_all_where_they_are_the_same():
    rng = np.random.default_rng(1)
    net, found, z, clips, _, _ = planted(rng)
    random = rng.normal(size=(90, 12)).astype(np.float32)
    groups = tcav.random_groups(90, 4, 20, rng)
    plain = tcav.Samples(found, z, clips, random, groups, ("a", "b"))
    each = replace(plain, groups={"a": groups, "b": groups})
    results = [tcav.score(net, samples) for samples in (plain, each)]
    assert results[0].scores.equals(results[1].scores)
    sgd = [stability.sgd_scores(net, samples) for samples in (plain, each)]
    assert sgd[0].equals(sgd[1])


def test_each_class_is_tested_against_its_own_random_sets():
    rng = np.random.default_rng(0)
    net, found, z, clips, owners, kind = planted(rng)
    groups = tcav.random_groups(480, 4, 60, rng, owners)
    samples = tcav.Samples(found, z, clips, z, groups, ("a", "b"))
    result = tcav.score(net, samples)
    table = significance.assess(net, result, samples, n_null=99, n_shuffles=99)
    own, background = by_kind(table, found, kind)
    assert (own["p_derivative"] < 0.05).all() and (background["p_derivative"] > 0.05).all()
    assert table[["p_derivative", "p_score", "p_accuracy"]].notna().all(axis=None)
    # Of another class nothing is heard: its rows may be anything that leaves the moments alone.
    turned = z.copy()
    turned[owners == "a"] = z[owners == "a"][::-1]
    moved = replace(samples, random=turned)
    again = significance.assess(net, tcav.score(net, moved), moved, n_null=99, n_shuffles=99)
    mine, yours = (t[t["class"] == "a"]["p_derivative"].to_numpy() for t in (table, again))
    np.testing.assert_array_equal(mine, yours)


def test_few_clips_are_all_cut_up_and_too_few_supervoxels_are_refused():
    few, rng = textures(15, n_frames=4, size=(24, 24)), np.random.default_rng(0)
    drawn = random_supervoxels(few, 60, 10, rng, n_segments=(4, 8))
    assert len(drawn) == 60 and set(drawn.cut.table["video"]) == set(range(15))
    assert len(np.unique(drawn.cut.table["video"].iloc[drawn.rows])) > 10
    assert len(random_supervoxels(textures(90, n_frames=4, size=(16, 16)), 1, 0, rng).clips) == 23
    with pytest.raises(ValueError, match="15 random clips give .* too few for groups of 900; give"):
        random_supervoxels(few, 60, 900, rng, n_segments=(4, 8))


def tree(root, films):
    """Films of 40 numbered frames: flat, and in two folders, one in the other."""
    places = ("one.avi", "park/two.mp4", "park/deep/three.avi")
    for i, place in enumerate(places):
        tag = "mp4v" if place.endswith("mp4") else "XVID"
        films.write(root / place, films.frames("walking", 40, i + 1), tag=tag)
    (root / "park" / "notes.txt").write_text("no film")
    return places


def test_films_of_a_folder_at_any_depth_are_brought_to_size_as_the_clips_are(tmp_path, films):
    places = tree(tmp_path, films)
    how = {"n_frames": 16, "size": (56, 64), "channels": 1, "seed": 3, "frame_size": (60, 80)}
    clips, used = negatives("folder", 3, folder=tmp_path, **how)
    assert used == "films of a folder" and clips.frames.shape == (3, 16, 56, 64, 1)
    assert sorted(clips.groups) == sorted(places)
    again, _ = negatives("folder", 3, folder=tmp_path, **how)
    assert np.array_equal(again.frames, clips.frames) and (again.ids == clips.ids).all()
    from stce.videos import decode

    for group, frames in zip(clips.groups, clips.frames, strict=True):
        film = decode(tmp_path / group, grey=True)
        assert np.array_equal(frames, center_crop(resize(film[12:28], (60, 80)), (56, 64)))
    # A film gives no more windows than fit into it without overlap: here the middle one.
    most, _ = negatives("folder", 50, folder=tmp_path, **how)
    assert len(most) == 3
    shorter, _ = negatives("folder", 50, folder=tmp_path, **how | {"n_frames": 10})
    assert len(shorter) == 9


def test_a_folder_that_holds_a_class_to_be_explained_is_refused(tmp_path, films):
    tree(tmp_path / "negatives", films)
    folder = tmp_path / "negatives"
    assert sorted(list_films(folder, ["kick"])) == ["", "park", "park/deep"]
    films.write(tmp_path / "class" / "kick_1.avi", films.frames("boxing", 20))
    for name in ("shake_hands", "Shake Hands", "SHAKE hands"):
        place = folder / "park" / name
        films.write(place / "film.avi", films.frames("boxing", 20))
        with pytest.raises(ValueError, match="is of class 'shake hands', which .* move it out of"):
            list_films(folder, ["kick", "shake hands"])
        (place / "film.avi").unlink()
    with pytest.raises(ValueError, match="is of class 'Negatives'"):
        list_films(folder, ["Negatives"])
    known = tmp_path / "class" / "kick_1.avi"
    (folder / "any.avi").write_bytes(known.read_bytes())
    with pytest.raises(ValueError, match="any.avi, among the negatives, is .*kick_1.avi, which"):
        list_films(folder, ["kick"], [tmp_path / "gone.avi", known])


def test_no_folder_and_no_film(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not there; correct random_folder, or"):
        negatives("folder", 3, folder=tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("no film")
    with pytest.raises(ValueError, match=r"holds no film \(.avi, .mp4, .mkv, .webm\) for"):
        negatives("folder", 3, folder=tmp_path)
    with pytest.raises(ValueError, match="one of textures, folder, hmdb, not 'clouds'"):
        negatives("clouds", 3)


def test_a_study_is_refused_before_its_first_stage(tmp_path, films):
    for action, name in (("handclapping", "clap"), ("handwaving", "wave")):
        for i, person in enumerate(("ann", "ben")):
            film = films.frames(action, 20, i + 1)
            films.write(tmp_path / "mine" / name / f"{person}_{name}.avi", film)
    for place in ("Wave", "any"):
        folder = tmp_path / place
        source = tmp_path / "mine" / "wave" / "ann_wave.avi"
        films.write(folder / "other.avi", films.frames("walking", 20))
        if place == "any":
            (folder / "copy.avi").write_bytes(source.read_bytes())
        given = {"folder": str(tmp_path / "mine"), "test_groups": ["ben"]}
        chosen = {"dataset_options": given, "random_source": "folder", "random_folder": str(folder)}
        says = "is of class 'wave'" if place == "Wave" else "copy.avi, among .* is .*ann_wave.avi"
        with pytest.raises(ValueError, match=says):
            study.execute("folder", chosen, folder=tmp_path / "run", report=lambda line: None)
    with pytest.raises(FileNotFoundError, match="nowhere is not there"):
        chosen["random_folder"] = str(tmp_path / "nowhere")
        study.execute("folder", chosen, folder=tmp_path / "run", report=lambda line: None)
    with pytest.raises(ValueError, match="classes names wave alone; name a second class"):
        chosen |= {"random_source": "others", "classes": ["wave"]}
        study.execute("folder", chosen, folder=tmp_path / "run", report=lambda line: None)
    assert not (tmp_path / "run").exists()


SMALL = {"n_segments": (4, 8), "n_concepts": 2, "n_keep": 4, "n_groups": 3, "progress": False}


def striped():
    """Clips of two classes: a bright square somewhere on grey, and a dark one."""
    rng = np.random.default_rng(0)
    frames = rng.integers(124, 132, (12, 4, 32, 32, 1)).astype(np.uint8)
    for i, clip in enumerate(frames):
        y, x = rng.integers(0, 16, 2)
        clip[:, y : y + 16, x : x + 16] = 250 if i < 6 else 5
    names = [str(i) for i in range(12)]
    return Clips(frames, np.repeat([0, 1], 6), names, names, ("bright", "dark"))


def shades():
    """Sees how bright and how dark a clip is; the first logit is of brightness."""
    head = torch.nn.Linear(2, 2, bias=False)
    head.weight.data = torch.eye(2)

    def look(x):
        return torch.stack([torch.relu(x).mean((1, 2, 3, 4)), torch.relu(-x).mean((1, 2, 3, 4))], 1)

    return Functions(look, head, (1, 4, 32, 32), mean=0.5, std=0.25)


def test_explain_takes_the_other_classes_and_cuts_them_as_the_own():
    clips, network = striped(), shades()
    how = SMALL | {"random": "others", "random_from": "supervoxels"}
    found = explain(network, None, clips, "bright", **how)
    assert found.settings["random_from"] == "supervoxels" and found.settings["n_random"] == 6
    top = found.members(found.ranking[0])
    video = found.supervoxels.table["video"].to_numpy()
    light = [found.clips.frames[video[r]][found.supervoxels.mask(r)].mean() for r in top]
    assert np.mean(light) > 180
    # The very same by hand: the other clips, cut alike.
    given = explain(network, None, clips, "bright", **how | {"random": clips.select(slice(6, 12))})
    assert given.tcav.scores.equals(found.tcav.scores)
    whole = explain(network, None, clips, "bright", **how | {"random_from": "clips"})
    assert not whole.tcav.scores.equals(found.tcav.scores)
    cut = supervoxels.segment(clips.select(slice(6, 12)), n_segments=(4, 8), progress=False)
    z = features.extract(network, clips.select(slice(6, 12)), cut, stretch=False, progress=False)
    rng = np.random.default_rng(0)
    drawn = random_supervoxels(clips.select(slice(6, 12)), 12, 4, rng, n_segments=(4, 8))
    np.testing.assert_array_equal(drawn.embed(network, stretch=False), z[drawn.rows])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"random": "textures"}, "random is 'textures'; give clips, how many moving textures, or"),
        ({"random_from": "boxes"}, "random_from is 'boxes'; choose one of clips, supervoxels."),
        (
            {"random": 4, "random_from": "clips"},
            "There are 4 random clips, too few for groups of",
        ),
        (
            {"random": 2, "n_keep": 90},
            "2 random clips give .* too few for groups of 90",
        ),
    ],
)
def test_explain_refuses(change, message):
    how = SMALL | {"random": "others", "random_from": "supervoxels"} | change
    with pytest.raises(ValueError, match=message):
        explain(shades(), None, striped(), "bright", **how)


def test_explain_has_no_other_class_in_clips_of_one():
    with pytest.raises(ValueError, match="random is 'others'; .* not of 'bright' alone"):
        explain(shades(), None, striped().select(slice(6)), "bright", random="others", **SMALL)
    frames = np.moveaxis(striped().frames[:6], -1, 1)
    with pytest.raises(ValueError, match="random is 'others'"):
        explain(shades(), None, frames, 0, random="others", **SMALL)


@pytest.mark.parametrize("wrong", ["wave", 3, [1]])
def test_classes_to_leave_out_are_a_list(tmp_path, wrong):
    for source in ("textures", "folder", "hmdb"):
        with pytest.raises(ValueError, match="exclude must be a list of text, not"):
            negatives(source, 2, exclude=wrong, folder=tmp_path)
