"""Area-matched controls and paired tests, on clips and tables whose answers are known."""

import dataclasses
import itertools
import zlib

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from stce import ablation, curves, masking, supervoxels
from stce import features as features_module
from stce.clips import Clips
from stce.concepts import Concepts
from stce.datasets.textures import textures
from stce.evaluation import paired
from stce.models.adapt import Explainable
from stce.models.network import Network

SIZE = (4, 8, 16)
STEPS = ["video", "mode", "order", "repeat", "q", "correct"]


class Quarters(torch.nn.Module):
    """The mean of each quarter of the width, ``(N, 4)``."""

    def forward(self, x):
        return torch.stack([q.mean((1, 2, 3, 4)) for q in x.chunk(4, dim=-1)], dim=1)


def world(weight, bias, seed=0):
    """Three dim clips with a bright second quarter; supervoxels and concepts are the quarters."""
    head = torch.nn.Linear(4, 2)
    head.weight.data = torch.tensor([[0.0] * 4, weight])
    head.bias.data = torch.tensor([0.0, bias])
    network = Network(
        {"quarters": Quarters(), "fc": head},
        "quarters",
        {"name": "quarters", "in_channels": 1, "input_size": SIZE},
    )
    rng = np.random.default_rng(seed)
    frames = rng.integers(60, 100, (3, *SIZE, 1), np.uint8)
    frames[..., 4:8, :] = 255
    clips = Clips(frames, [1, 1, 1], ["a", "b", "c"], ["p"] * 3, ("no", "yes"))
    labels = np.tile(np.repeat([1, 2, 3, 4], 4), (3, 1, 4, 8, 1)).astype(np.uint8)
    rows = [
        (n, 0, i + 1, 0, 4, 0, 8, 4 * i, 4 * i + 4, 128, 0.25) for n in range(3) for i in range(4)
    ]
    cut = supervoxels.Supervoxels(labels, pd.DataFrame(rows, columns=supervoxels.COLUMNS))
    # A supervoxel left in its place is bright in one quarter: that of the nearest centre.
    concepts = Concepts(None, None, {"yes": np.eye(4, dtype=np.float32)})
    return network, clips, cut, concepts, {"yes": [1, 0, 2, 3]}


def run(orders, inputs, **options):
    options = {"q_max": 4, "stretch": False, "progress": False} | options
    names = {field.name for field in dataclasses.fields(ablation.Subject)}
    about = {name: options.pop(name) for name in names & options.keys()}
    parts = ablation.run(ablation.Subject(*inputs, **about), orders, **options)
    return pd.concat(parts, ignore_index=True)


def cut_texture(seed=0):
    frames = textures(1, n_frames=4, size=(24, 24), seed=seed).frames[0]
    return supervoxels.segment_clip(np.asarray(frames), n_segments=(4, 12))


def test_what_matters_beats_as_much_of_anything_else():
    inputs = world([0, 40, 0, 0], -20)
    both = pd.concat([run(ablation.ranked(), inputs), run(ablation.matched(20), inputs)])
    rate = both[both.q == 1].groupby(["mode", "order"])["correct"].mean()
    assert rate["add", "top"] == 1 and rate["remove", "top"] == 0
    assert rate["add", "random voxels"] == 0
    # One supervoxel of four is the right one.
    assert 0.1 < rate["add", "random supervoxels"] < 0.4
    assert 0.6 < rate["remove", "random supervoxels"] < 0.9
    area = curves.areas(both, n_bootstrap=100).set_index(["mode", "order"])
    assert area.loc[("add", "top"), "area"] == 1 and area.loc[("remove", "top"), "area"] == 0
    assert (area.drop("top", level="order")["gain_low"] > 0).all()


def test_where_only_the_area_counts_controls_do_as_well_as_the_ranking():
    network, clips, *rest = world([2.0] * 4, -4)
    clips = Clips(
        np.full_like(clips.frames, 255), clips.labels, clips.ids, clips.groups, ("n", "yes")
    )
    inputs = network, clips, *rest
    wide = pd.concat([run(ablation.ranked(), inputs), run(ablation.matched(3), inputs)])
    for _, part in wide.groupby(["mode", "q"]):
        assert part["revealed"].nunique() == 1
        assert np.ptp(part["probability"]) < 1e-5


def test_controls_reveal_exactly_as_much_as_the_ranking_on_real_supervoxels():
    clips = textures(2, n_frames=4, size=(24, 24))
    cut = supervoxels.segment(clips, n_segments=(4, 12), progress=False)
    network = Network(
        {"quarters": Quarters(), "fc": torch.nn.Linear(4, len(clips.classes) + 1)},
        "quarters",
        {"in_channels": 1, "input_size": (4, 24, 24)},
    )
    parts = features_module.batches(network, clips, cut, stretch=False)
    # Six of the supervoxels themselves are the centres, so that no concept holds all.
    centres = {n: np.concatenate([z for _, z in parts])[::5][:6] for n in clips.classes}
    clips = Clips(clips.frames, clips.labels, clips.ids, clips.groups, (*clips.classes, "none"))
    inputs = (
        network,
        clips,
        cut,
        Concepts(None, None, centres),
        {n: list(range(6)) for n in centres},
    )
    top = run(ablation.ranked(0), inputs, q_max=6)
    top = top[top.order == "top"].set_index(["video", "mode", "q"])["revealed"]
    matched = run(ablation.matched(2), inputs, q_max=6)
    assert top.nunique() > 4
    for row in matched.itertuples():
        assert row.revealed == pytest.approx(top[row.video, row.mode, row.q], abs=1e-6)


def test_masks_grow_with_the_areas_of_the_top_order_and_whole_supervoxels_but_one():
    labels, table = cut_texture()
    concept = np.random.default_rng(1).integers(0, 5, len(table))
    clips = Clips(textures(1, n_frames=4, size=(24, 24)).frames, [0], ["a"], ["p"], ("yes",))
    cut = supervoxels.Supervoxels(labels[None], table.assign(video=0))
    given = Explainable((1, 4, 24, 24)), clips, cut, None, {"yes": [3, 0, 4, 1, 2]}
    case = ablation.Case(ablation.Subject(*given), 0, "yes", None, labels, table, concept)
    top = np.stack(case.order("top", 0, [3, 0, 4, 1]).masks("add"))
    drawn = ablation.matched(2, seed=5)(case, 4)
    assert [order.name for order in drawn] == ["random voxels", "random supervoxels"] * 2
    for order in drawn:
        masks = np.stack(order.masks("add"))
        assert masks.sum((1, 2, 3)).tolist() == top.sum((1, 2, 3)).tolist()
        assert (masks[:-1] <= masks[1:]).all()
        assert np.array_equal(np.stack(order.masks("remove")), ~masks)
    rng = np.random.default_rng([5, zlib.crc32(b"a")])
    rng.permutation(labels[0].size)
    order = rng.permutation(len(table))
    for mask in drawn[1].masks("add")[1:]:
        union, cut = np.zeros_like(mask), 0
        for row in order:
            one = labels[table.level.iloc[row]] == table.label.iloc[row]
            if (mask & ~union).any():
                cut += not (mask & one).sum() == one.sum()
                assert not (mask & ~union & ~one).any() or (mask & one).sum() == one.sum()
            union |= one
        assert cut <= 1


def test_order_of_voxels_by_hand():
    labels = np.array([[[[1, 1, 2, 2]], [[1, 1, 2, 2]]]])
    table = pd.DataFrame({"level": [0, 0], "label": [1, 2]})
    places = masking.voxel_order(labels, table, np.array([1, 0]))
    # All of supervoxel 2, its first frame first, then supervoxel 1.
    assert places.tolist() == [[[4, 5, 0, 1]], [[6, 7, 2, 3]]]


def test_draws_depend_on_the_clip_and_the_seed_alone():
    inputs = world([1, 3, 2, 0], -2)
    whole = run(ablation.matched(2), inputs)
    alone = run(ablation.matched(2), inputs, videos=np.array([2]))
    assert alone.equals(whole[whole.video == 2].reset_index(drop=True))
    other = run(ablation.matched(2, seed=1), inputs)
    assert not other["probability"].equals(whole["probability"])


def test_stopped_runs_go_on_and_choices_are_checked(tmp_path, monkeypatch):
    inputs = world([0, 40, 0, 0], -20)
    first = run(ablation.matched(1), inputs, folder=tmp_path)
    forwards = []
    inputs[0].register_forward_hook(lambda *_: forwards.append(1))
    assert run(ablation.matched(1), inputs, folder=tmp_path).equals(first)
    assert not forwards
    # What was kept in single precision is not mixed with what is computed in another.
    given = []
    inputs[0].register_forward_hook(lambda *_: given.append(torch.is_autocast_enabled("cpu")))
    monkeypatch.setattr(ablation, "precision", lambda amp, device: "bfloat16" if amp else "float32")
    again = run(ablation.matched(1), inputs, folder=tmp_path, amp=True)
    # This network has nothing to round.
    assert len(forwards) and any(given) and again.equals(first)
    for options, text in (
        ({"fill": "grey"}, "fill is 'grey'; choose one of mean, blur, noise"),
        ({"assign": "guess"}, "assign is 'guess'"),
        ({"q_max": 9}, "q_max is 9, but class 'yes' has 4 concepts"),
    ):
        for orders in (ablation.ranked(), ablation.matched()):
            with pytest.raises(ValueError, match=text):
                run(orders, inputs, **options)


def test_predicted_class_without_concepts_falls_back_to_the_true_one():
    inputs = world([0, 40, 0, 0], -200)
    both = [run(ablation.matched(1), inputs, assign=a) for a in ("true", "predicted")]
    assert not both[0]["correct"].any()
    assert both[0].equals(both[1])


def _before_fills(network, clips, cut, concepts, rankings, n, batch_size=64):
    """Return the probabilities of the top order as they were computed before there were fills."""
    rows = cut.rows_of(n)
    parts = features_module.batches(network, clips, cut, rows=rows, stretch=False)
    embedded = np.concatenate([z for _, z in parts])
    concept = ((embedded[:, None] - concepts.centres["yes"]) ** 2).sum(2).argmin(1)
    held = [
        cut.labels[n][level] == label for _, level, label in cut.table.iloc[rows, :3].to_numpy()
    ]
    found = []
    with torch.inference_mode():
        clip = network.prepare(torch.from_numpy(clips.frames[n])[None])
        for mode, q in itertools.product(("add", "remove"), range(5)):
            chosen = np.isin(concept, rankings["yes"][:q])
            union = np.any([np.zeros(SIZE, bool), *itertools.compress(held, chosen)], axis=0)
            masked = clip * torch.from_numpy(union ^ (mode == "remove"))[None, None]
            masked = masked.contiguous(memory_format=torch.channels_last_3d)
            found.append(network(masked).softmax(1)[0, 1].item())
    return found


def test_the_default_fill_gives_the_same_bits_as_before_there_were_fills():
    inputs = world([1.5, 4.1, 2.7, 0.3], -2)
    inputs[0].set_moments([0.1], [0.2])
    table = run(ablation.ranked(0), inputs, batch_size=1)
    table = table[table.order == "top"].drop_duplicates(["video", "mode", "q"])
    for n in range(3):
        now = table[table.video == n]["probability"].tolist()
        assert len(set(now)) > 5
        assert now == _before_fills(*inputs, n)


def test_fills_stand_in_hidden_voxels_only():
    inputs = network, clips, *_ = world([0, 4, 0, 0], -1)
    network.set_moments([0.1], [0.2])
    network.threadsafe = False  # the hook tells in which order
    seen = []
    network.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    for fill in ("mean", "blur", "noise"):
        seen.clear()
        run(ablation.ranked(0), inputs, q_max=1, fill=fill, videos=np.array([0]))
        blank, top, _, intact, *_ = torch.cat(seen)
        clip = network.prepare(torch.from_numpy(clips.frames[:1]))[0]
        quarter = torch.zeros(SIZE, dtype=bool)
        quarter[..., 4:8] = True
        assert torch.equal(intact, clip)
        assert torch.equal(top[0], torch.where(quarter, clip, blank)[0])
        if fill == "mean":
            assert not blank.any()
        elif fill == "noise":
            assert abs(blank.mean()) < 0.15 and abs(blank.std() - 1) < 0.1
            again = np.random.default_rng([0, 0]).standard_normal(clip[None].shape, np.float32)
            assert np.array_equal(blank, again[0])
        else:
            assert blank.std() < 0.7 * clip.std()
            assert abs(blank.mean() - clip.mean()) < 0.2 * clip.std()


def test_the_blur_is_a_gaussian_and_leaves_an_even_clip_as_it_is():
    from stce.masking import filling

    even = torch.full((1, 3, 8, 16, 24), 0.7)
    assert torch.allclose(filling(even, "blur", 0, 0), even)
    point = torch.zeros(1, 1, 1, 1, 65)
    point[..., 32] = 1
    line = filling(point, "blur", 0, 0).ravel().numpy()
    expected = stats.norm.pdf(np.arange(65), 32, 65 / 8)
    assert np.allclose(line[20:45], expected[20:45], rtol=0.01)


def outcome_rows(first, second, mode="add", q=1):
    return [
        (n, mode, name, 0, q, bool(right))
        for name, column in (("top", first), ("least", second))
        for n, right in enumerate(column)
    ]


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (7, 2), (3, 3), (2, 11), (40, 20)])
def test_mcnemar_is_the_exact_binomial_of_the_clips_that_differ(wins, losses):
    first = [1] * wins + [0] * losses + [1, 1, 0]
    second = [0] * wins + [1] * losses + [1, 1, 0]
    n = wins + losses
    tail = sum(stats.binom.pmf(k, n, 0.5) for k in range(min(wins, losses) + 1))
    for mode, sign in (("add", 1), ("remove", -1)):
        (row,) = paired.mcnemar(
            pd.DataFrame(outcome_rows(first, second, mode), columns=STEPS)
        ).itertuples()
        assert row.p == pytest.approx(min(1, 2 * tail))
        assert row.gap == pytest.approx(sign * 100 * (wins - losses) / (n + 3))
        assert (row.first_only, row.second_only) == ((wins, losses) if sign > 0 else (losses, wins))


def test_mcnemar_corrects_over_steps_and_modes_by_holm():
    rows, raw = [], []
    for (mode, q), wins in zip(
        itertools.product(("add", "remove"), (1, 2)), (8, 6, 0, 7), strict=True
    ):
        first, second = np.arange(10) < wins, np.zeros(10)
        rows += outcome_rows(first, second, mode, q)
        raw.append(min(1, 2 * 0.5**wins))
    rows += outcome_rows(np.ones(10), np.zeros(10), q=0)
    table = paired.mcnemar(pd.DataFrame(rows, columns=STEPS))
    assert table.p.tolist() == pytest.approx(raw)
    # Sorted: 2/256 (times 4), 2/128 (times 3), 2/64 (times 2), 1.
    assert table.p_holm.tolist() == pytest.approx([8 / 256, 4 / 64, 1, 6 / 128])
    assert table.verdict.tolist() == ["holds", "within noise", "within noise", "reversed"]


def test_p_values_are_uniform_where_there_is_no_effect():
    rng = np.random.default_rng(0)
    p = []
    for _ in range(20):
        rows = []
        for q in range(1, 16):
            rows += outcome_rows(*rng.random((2, 300)) < 0.5, q=q)
        table = paired.mcnemar(pd.DataFrame(rows, columns=STEPS))
        p += table.p.tolist()
    for level in (0.05, 0.2, 0.5, 0.8):
        # An exact test may reject a little too rarely, never too often but for chance (n = 300).
        assert level - 0.12 < np.mean(np.array(p) <= level) < level + 0.06


def test_mcnemar_takes_one_repeat_and_refuses_what_is_not_there():
    rows = outcome_rows([1, 0, 1], [0, 0, 0])
    rows += [(n, "add", "random voxels", r, 1, r == 1) for n in range(3) for r in range(2)]
    table = pd.DataFrame(rows, columns=STEPS)
    assert paired.mcnemar(table, second="random voxels").gap.item() == pytest.approx(200 / 3)
    assert paired.mcnemar(table, second="random voxels", repeat=1).gap.item() < 0
    with pytest.raises(ValueError, match="no order 'middle' with repeat 0; their orders are least"):
        paired.mcnemar(table, second="middle")
    with pytest.raises(ValueError, match="no order 'random voxels' with repeat 5"):
        paired.mcnemar(table, second="random voxels", repeat=5)
    with pytest.raises(ValueError, match="Clips occur twice in the order 'top'"):
        paired.mcnemar(pd.concat([table, table]))


def test_smallest_sufficient_and_destroying_concepts():
    adds = {0: [0, 0, 1, 1], 1: [1, 1, 1, 1], 2: [0, 0, 0, 0], 3: [0, 1, 0, 1]}
    rows = [
        (n, "add", "top", 0, q, bool(c)) for n, line in adds.items() for q, c in enumerate(line)
    ]
    rows += [
        (n, "remove", "top", 0, q, not c) for n, line in adds.items() for q, c in enumerate(line)
    ]
    found = curves.smallest(pd.DataFrame(rows, columns=STEPS)).set_index(["mode", "video"])["q"]
    for mode in ("add", "remove"):
        assert np.array_equal(found[mode].to_numpy(), [2, 0, np.nan, 1], equal_nan=True)


def test_areas_are_paired_and_take_probabilities_too():
    rng = np.random.default_rng(0)
    hard = rng.random(60)
    rows = []
    for n, q, (order, shift) in itertools.product(
        range(60), range(1, 5), (("top", 0.1), ("least", 0.0))
    ):
        rows.append((n, "remove", order, q, False, hard[n] - shift))
    table = pd.DataFrame(rows, columns=["video", "mode", "order", "q", "correct", "probability"])
    area = curves.areas(table, "least", "probability", n_bootstrap=500).set_index("order")
    # Clips differ a lot, the two orders by the same amount on each: the paired interval is a point.
    assert area.loc["top", "ci_high"] - area.loc["top", "ci_low"] > 0.1
    row = area.loc["top", ["gain", "gain_low", "gain_high"]].to_numpy(float)
    assert row == pytest.approx([-0.1] * 3)
    with pytest.raises(ValueError, match="no order 'best'; their orders are least, top"):
        curves.areas(table, "best")
    with pytest.raises(ValueError, match="value is 'logit'"):
        curves.areas(table, value="logit")


@pytest.mark.parametrize("mode", ["add", "remove"])
def test_held_is_the_visible_share_of_the_region(mode):
    inputs = world([0, 40, 0, 0], -20)
    # The region is the second quarter in the first clip, and nothing in the second one.
    labels = np.asarray(inputs[2].labels[0, 0])
    region = np.stack([labels == labels.max(), np.zeros_like(labels, bool)])
    region = np.concatenate([region, region[1:].repeat(len(inputs[1]) - 2, axis=0)])
    both = pd.concat(
        [run(orders, inputs, region=region) for orders in (ablation.ranked(), ablation.matched())]
    ).query("mode == @mode")
    first = both[both["video"] == 0]
    ends = first.groupby("q")["held"].agg(["min", "max"])
    start, stop = (0, 1) if mode == "add" else (1, 0)
    assert ends.loc[0].tolist() == [start, start]
    assert ends.loc[first["q"].max()].tolist() == [stop, stop]
    assert both[both["video"] > 0]["held"].isna().all()
    # A quarter is shown or not; random voxels show some of it.
    whole = first[first["order"].isin(["top", "least"])]["held"]
    assert set(whole) == {0.0, 1.0}
    some = first[(first["order"] == "random voxels") & first["q"].between(1, 3)]["held"]
    assert ((some > 0) & (some < 1)).all()


def test_without_a_region_nothing_is_held():
    assert "held" not in run(ablation.matched(), world([0, 40, 0, 0], -20))


def test_clips_and_features_that_do_not_belong_to_the_network():
    network, clips, *rest = world([0, 40, 0, 0], -20)
    with pytest.raises(ValueError, match=r"features is \(5, 4\) for 12 supervoxels"):
        ablation.Subject(network, clips, *rest, features=np.zeros((5, 4), np.float32))
    with pytest.raises(ValueError, match=r"features is \(12,\) for 12 supervoxels"):
        ablation.Subject(network, clips, *rest, features=np.zeros(12, np.float32))
    for region in (np.ones(clips.frames.shape[1:4], bool), 3, "arms"):
        with pytest.raises(ValueError, match="region must be .*, as the clips are, not"):
            ablation.Subject(network, clips, *rest, region=region)
    network.classes = ("no", "yes")
    others = dataclasses.replace(clips, classes=("yes", "no"))
    with pytest.raises(ValueError, match="was trained for the classes no, yes, not for yes, no"):
        ablation.Subject(network, others, *rest)


def test_a_difference_is_of_clips_that_have_both_orders():
    both = [(v, "add", o, 1, v < 2) for v in range(4) for o in ("top", "least")]
    columns = [step for step in STEPS if step != "repeat"]
    rows = pd.DataFrame([*both, (9, "add", "top", 1, True)], columns=columns)
    found = curves.difference(rows)
    assert found["gain"].tolist() == [0] and found["n_clips"].tolist() == [4]
