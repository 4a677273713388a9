"""A video transformer of a reader's own, explained: a small MViT that learns the actors.

It is torchvision's, trained here by a plain loop as a reader would; stce is handed the module.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from book.campaigns.replays import SANITY
from stce.clips import Clips, middle_clips
from stce.evaluation.variants import some_of_each
from stce.explanation import explain
from stce.study.finished import Finished
from stce.study.known import known
from stce.training.draws import RandomClips
from stce.videos import compat  # noqa: F401 (repairs torchvision beside a torch for the CPU)

# isort: split
from torchvision.models.video import mvit

__all__ = ["LAYER", "TRIALS", "Mvit", "explained", "fitted"]

# Behind the last block the logits read the class token alone.
LAYER = "net.blocks.2"
MEAN, STD = 0.45, 0.225
DIM, EPOCHS, BATCH, LR, DECAY = 32, 36, 16, 7e-4, 0.05
N_DISCOVERY, N_TEST = 20, 10
CHECKED = {"n_clips": 2, "n_null": 400, "n_changed": 6}


class Mvit(nn.Module):
    """A small MViT of grey clips, four blocks deep.

    Parameters
    ----------
    clip_shape : tuple of int
        (C, T, H, W), C = 1.
    n_classes, dim : int
        Logits, and the width of the first block, a fourth of the last one's.
    """

    def __init__(self, clip_shape: tuple[int, ...], n_classes: int, dim: int = DIM):
        super().__init__()
        widths, q, kv = (1, 2, 2, 4, 4), (1, 2, 1, 2), (4, 2, 2, 1)
        blocks = [
            mvit.MSBlockConfig(
                widths[i], dim * widths[i], dim * widths[i + 1],
                [3, 3, 3], [3, 3, 3], [1, q[i], q[i]], [1, kv[i], kv[i]],
            )
            for i in range(4)
        ]  # fmt: skip
        how = dict.fromkeys(("residual_pool", "rel_pos_embed", "proj_after_attn"), True)
        how |= {"residual_with_cls_embed": False, "dropout": 0.1, "num_classes": n_classes}
        self.net = mvit.MViT(clip_shape[2:], clip_shape[1], blocks, **how)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits ``(N, Y)`` of clips ``(N, 1, T, H, W)``."""
        return self.net(x.expand(-1, 3, -1, -1, -1))


def _seen(frames) -> torch.Tensor:
    x = torch.as_tensor(np.asarray(frames)).float().permute(0, 4, 1, 2, 3)
    return (x / 255 - MEAN) / STD


def fitted(videos, clip_shape: tuple[int, ...], seed: int, epochs: int = EPOCHS) -> Mvit:
    """Train the transformer on random clips of videos; the caller's random numbers stay."""
    draw = RandomClips(videos, clip_shape[1:], True, BATCH, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Mvit(clip_shape, len(videos.classes))
        optimiser = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=DECAY)
        steps = {"total_steps": epochs * draw.steps, "pct_start": 0.2}
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LR, **steps)
        for epoch in range(epochs):
            for frames, labels, _ in draw.batches(epoch):
                loss = nn.functional.cross_entropy(model(_seen(frames)), labels)
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
                schedule.step()
    return model.eval()


@torch.inference_mode()
def _right(model: Mvit, clips: Clips) -> float:
    each = (_seen(clips.frames[i : i + 32]) for i in range(0, len(clips), 32))
    found = torch.cat([model(x).argmax(1) for x in each]).numpy()
    return float((found == clips.labels).mean())


def explained(
    model: Mvit, train: Clips, test: Clips, seed: int, names=(), checked=CHECKED, **quick
) -> list[dict]:
    """Explain classes, default all, and ask what a sceptic asks: a row a class and question."""
    how = {"classes": train.classes, "mean": MEAN, "std": STD, "n_segments": (15, 30, 60)}
    how |= {"sigma": 0.5, "n_concepts": 15, "random": 400, "seed": seed, "progress": False} | quick
    rows = []
    for name in names or train.classes:
        found = explain(model, LAYER, train, name, test_clips=test, **how)
        told = found.check(**checked).table
        rows += told.drop(columns="answer").assign(**{"class": name}).to_dict("records")
    return rows


def learnt(seed: int) -> list[dict]:
    """Train a transformer on the videos of a run, and explain all its classes."""
    it = Finished(known()[SANITY].folder(seed))
    shape, crop = it.network.clip_shape, it.network.clip_shape[2:]
    model = fitted(it.videos("train"), shape, seed)
    sides = []
    for split, n in (("train", N_DISCOVERY), ("test", N_TEST)):
        clips = middle_clips(it.videos(split), None, shape[1], crop)
        sides.append(clips.select(some_of_each(clips.labels, n)))
        right = _right(model, clips)
    return [row | {"accuracy": right} for row in explained(model, *sides, seed)]


TRIALS: dict[str, Callable[[int], list[dict]]] = {"transformer": learnt}
