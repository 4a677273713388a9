"""What each part of a rendered person truly does to a logit, and which method tells it.

The person is drawn again without an arm, without its shadow, on other ground: no mask and nothing
filled in. What the logit loses is the truth; each method's map is averaged over the voxels of the
same part, and ranked against it. Beside it stands what is usually taken for faithful: the clip's
supervoxels are shown and hidden in the order of the same map.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from book.campaigns.replays import GROUP, scored_runs
from stce import ablation, masking
from stce.clips import Clips, middle_clips
from stce.datasets import actors
from stce.engine.resampling import rank_correlation
from stce.engine.threads import forward, prepared
from stce.evaluation import saliency
from stce.evaluation.effects.contributions import contributions, painted
from stce.evaluation.validation import Sceptic
from stce.study.finished import Finished
from stce.videos import cache

# What is drawn otherwise, by the part whose effect it tells; the last two tell of motion alone.
CHANGES: dict[str, dict] = {
    **{part: {"without": (part,)} for part in actors.HIDEABLE},
    "ground": {"ground": 1},
    "arms, still": {"still": ("arms",)},
    "legs, still": {"still": ("legs",)},
}
PARTS = (*actors.HIDEABLE, "ground")
N_CLIPS = 4
FADED = 12  # grey levels by which a voxel differs where the shadow is left out


def clips_again(it: Finished, chosen: np.ndarray, change: dict) -> Clips:
    """Return test clips of a run on actors, drawn again with a change, as the run made them."""
    made, test = it.run.parameters("train"), it.test.clips
    videos = actors.load("test", **made["dataset_options"])
    rows = pd.Index(videos.table["id"]).get_indexer(np.asarray(test.ids)[chosen])
    given = videos.n_frames, videos.seed, videos.shortcut
    again = actors.ActorVideos(videos.table.iloc[rows].reset_index(drop=True), *given, **change)
    with tempfile.TemporaryDirectory() as folder:
        how = {
            "min_frames": made["n_frames"],
            "max_frames": made["max_frames"] or None,
            "progress": False,
        }
        kept = cache(again, folder, made["frame_size"], **how)
        return middle_clips(kept, None, made["n_frames"], made["crop"])


def logits(network, clips: Clips) -> np.ndarray:
    """Return the logits ``(N, Y)`` of whole clips."""
    x = prepared(network, np.asarray(clips.frames), network.device)
    with torch.inference_mode():
        return forward(network, lambda few: network(x[few]), len(x), x.device).cpu().numpy()


def concept_maps(it: Finished, case: ablation.Case, seed: int) -> dict[str, np.ndarray]:
    """Return maps of what the concepts of a clip are worth, by several measures."""
    scores = it.tcav.scores[it.tcav.scores["class"] == case.owner].set_index("concept")
    worth = {name: scores[name] for name in ("score", "derivative")}
    present, own = np.unique(case.concept), it.test.clips.classes.index(case.owner)
    place = torch.from_numpy(np.stack([case.order("", 0, [k]).place for k in present]))
    hide = [("remove", 0, 0), *(("remove", i, 1) for i in range(len(present)))]
    for fill in masking.FILLS:
        hidden = masking.filling(case.clip, fill, seed, case.video)
        seen = masking.visible(place, hide)[:, None]
        masked = torch.where(seen, case.clip, 0 * case.clip if hidden is None else hidden)
        with torch.inference_mode():
            told = it.network(masked)[:, own]
        drop = (told[0] - told[1:]).numpy()
        worth[f"concept hidden, {fill}"] = pd.Series(drop, index=present)
    rng = np.random.default_rng([seed, case.video])
    each = {name: of.loc[case.concept].to_numpy() for name, of in worth.items()}
    each["random"] = rng.random(len(case.concept))
    # A voxel has the mean of its supervoxels.
    count = np.maximum(painted(case, np.ones(len(case.concept))), 1)
    maps = {name: painted(case, values) / count for name, values in each.items()}
    maps["contributions"] = contributions(case, seed=seed).voxels
    return maps


def compared(it: Finished, n_clips: int = N_CLIPS, seed: int = 0) -> list[dict]:
    """Tell the true effect of each part of each clip, and what the methods say of it.

    Returns
    -------
    list of dict
        One row a clip and change: ``class``, ``id``, ``part``, ``effect`` (by how much the class's
        logit falls when the part is not drawn), ``lost`` (recognised no more), ``area`` (the part's
        share of the clip) and each method's mean over its voxels, in columns of their names. And
        one row a clip and ``method``: ``insertion`` and ``deletion``, the mean probability of the
        class while supervoxels are shown, or hidden, in the order of its map.
    """
    subject, chosen = Sceptic(it, n_clips=n_clips, seed=seed).tested
    few = subject.clips.select(chosen)
    whole = logits(it.network, few)
    drawn = {name: clips_again(it, chosen, change) for name, change in CHANGES.items()}
    if not np.array_equal(clips_again(it, chosen, {}).frames, few.frames):
        raise ValueError(
            f"{it.run.folder} was made by another version of the actors; run it again."
        )
    after = {name: logits(it.network, clips) for name, clips in drawn.items()}
    cases = [subject.case(int(n)) for n in chosen]
    told = [concept_maps(it, case, seed) for case in cases]
    maps = {
        "grad-cam": saliency.grad_cam(it.network, few, progress=False),
        "integrated gradients": saliency.integrated_gradients(it.network, few, progress=False),
        "occlusion": saliency.occlusion(it.network, few, progress=False),
        **{name: np.stack([each[name] for each in told]) for name in told[0]},
    }
    rows = []
    for i in range(len(few)):
        label, parts = int(few.labels[i]), np.asarray(few.parts[i])
        apart = np.asarray(few.frames[i]).astype(int) - drawn["shadow"].frames[i]
        shadow = (parts == 0) & (np.abs(apart).max(-1) > FADED)
        places = {name: parts == actors.PARTS.index(name) for name in actors.PARTS[1:-1]}
        places |= {"shadow": shadow, "ground": (parts == 0) & ~shadow}
        for name, changed in after.items():
            place = places.get(name)
            row = {"class": few.classes[label], "id": str(few.ids[i]), "part": name}
            row["effect"] = float(whole[i, label] - changed[i, label])
            row["lost"] = int(whole[i].argmax() == label) - int(changed[i].argmax() == label)
            if place is not None and place.any():
                row["area"] = float(place.mean())
                row |= {method: float(each[i][place].mean()) for method, each in maps.items()}
            rows.append(row)
    return rows + curves(subject, maps, chosen, seed)


def curves(subject: ablation.Subject, maps: dict, chosen: np.ndarray, seed: int) -> list[dict]:
    """Show and hide the supervoxels of some clips in the order of each map, as saliency is judged.

    At each step as many voxels as the most important concepts have.
    """
    q_max = min(map(len, subject.rankings.values()))
    how = {"q_max": q_max, "seed": seed, "videos": chosen, "progress": False}
    outcomes = pd.concat(ablation.run(subject, saliency.along(maps, chosen), **how))
    mean = outcomes[outcomes["q"] > 0].groupby(["class", "id", "order", "mode"])["probability"]
    wide = mean.mean().unstack("mode").rename(columns={"add": "insertion", "remove": "deletion"})
    return wide.rename_axis(["class", "id", "method"]).reset_index().to_dict("records")


def agreement(table: pd.DataFrame, methods: list[str]) -> pd.DataFrame:
    """Rank each method's parts of a clip against their true effects, one row a clip and method."""
    rows = []
    known = table[table["part"].isin(PARTS)].dropna(subset="area")
    for key, clip in known.groupby(["run", "seed", "class", "id"]):
        for method in methods:
            related = float(rank_correlation(clip["effect"].to_numpy(), clip[method].to_numpy()))
            rows.append((*key, method, related, len(clip)))
    return pd.DataFrame(
        rows, columns=["run", "seed", "class", "id", "method", "correlation", "n_parts"]
    )


def effects(seed: int) -> list[dict]:
    """Compare on each run of the group whose concepts are scored with this seed."""
    rows = []
    for name, run in scored_runs(seed, GROUP).items():
        rows += [{"run": name} | row for row in compared(Finished(run), seed=seed)]
    return rows


TRIALS: dict[str, Callable[[int], list[dict]]] = {"causal": effects}
