"""Training a 3D ConvNet from scratch and testing it (paper 4.1)."""

from __future__ import annotations

import math
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from stce import models
from stce.engine import device as devices
from stce.engine.progress import bar
from stce.models.borrow import evaluating
from stce.training import ranks
from stce.training.checks import SCHEDULES, check_training
from stce.training.draws import RandomClips
from stce.training.resume import keep_state, restore_state
from stce.videos import moments

__all__ = ["OPTIONS", "SCHEDULES", "evaluate", "learning_rate", "train"]

# What a run sets of :func:`train`.
OPTIONS = ("epochs", "batch_size", "lr", "momentum", "weight_decay", "max_norm", "schedule")
OPTIONS += ("lr_step", "lr_gamma", "n_frames", "crop", "flip", "seed", "device", "amp")


def learning_rate(
    progress: float, schedule: str, lr: float, epochs: int, lr_step: int = 50, lr_gamma: float = 0.1
) -> float:
    """Return the learning rate at a moment of the training.

    Parameters
    ----------
    progress : float
        Epochs done so far, in 0..epochs, with the fraction of the one under way.
    schedule : {"step", "onecycle"}
        ``"step"`` multiplies by `lr_gamma` each `lr_step` epochs (the paper's). ``"onecycle"``
        rises from lr / 25 to lr over the first 30 % and falls to nearly 0, along half cosines [1]_:
        for a short training.
    lr : float
        The first (step) or highest (onecycle) learning rate.
    epochs, lr_step, lr_gamma
        See :func:`train`.

    References
    ----------
    .. [1] L. N. Smith, N. Topin, "Super-convergence: very fast training of neural networks using
       large learning rates", SPIE 11006, 2019, :doi:`10.1117/12.2520589`.

    Examples
    --------
    >>> [round(learning_rate(e, "step", 0.01, 150), 6) for e in (0, 49, 50, 100)]
    [0.01, 0.01, 0.001, 0.0001]
    >>> [round(learning_rate(e, "onecycle", 0.1, 10), 6) for e in (0, 3, 10)]
    [0.004, 0.1, 0.0]
    """
    if schedule == "step":
        return lr * lr_gamma ** int(progress // lr_step)
    peak = 0.3 * epochs
    if progress < peak:
        low, high, done = lr / 25, lr, progress / peak
    else:
        low, high, done = lr, lr / 25 / 1e4, (progress - peak) / (epochs - peak)
    return high + (low - high) * (1 + math.cos(math.pi * done)) / 2


@torch.inference_mode(False)
@torch.enable_grad()
def train(
    network: models.Network,
    videos,
    folder: str | Path,
    *,
    test=None,
    epochs: int = 150,
    batch_size: int = 64,
    lr: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    schedule: str = "step",
    lr_step: int = 50,
    lr_gamma: float = 0.1,
    label_smoothing: float = 0.0,
    max_norm: float = 0.0,
    n_frames: int = 16,
    crop: tuple[int, int] = (112, 112),
    flip: bool = True,
    evaluate_every: int = 5,
    seed: int = 0,
    device: str | torch.device = "cpu",
    amp: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Train a network from scratch by stochastic gradient descent (paper 4.1).

    In each epoch every video gives one clip: `n_frames` consecutive frames at a random time,
    cropped at a random place and flipped left to right with probability 1/2. A network without
    moments is given those of the videos first.

    ``last.safetensors`` (after the last epoch), ``best.safetensors`` and ``history.csv`` are
    written to `folder`. ``best`` is the epoch with the highest accuracy on `test` or, without it,
    on the training clips. An accuracy by which the epoch was chosen is optimistic: use ``last``,
    unless a third set of clips is there to be reported on.

    Training that was stopped goes on from ``resume.safetensors`` in `folder`, written after each
    epoch: call again with the same arguments. On a CPU the result is, to the bit, that of a
    training that was never stopped, since everything random in an epoch comes from the seed and
    the epoch's number; a GPU adds gradients in no fixed order.

    Under ``torchrun`` each process calls it with the same arguments and does its share of every
    step: steps, clips and learning rates are those of one process, and so are the gradients up to
    rounding, but for batch normalisation, which sees a process's own clips. The first process
    writes the files.

    Parameters
    ----------
    network : Network
        Trained in place; left on `device` in evaluation mode.
    videos : stce.videos.Videos
        The training set, usually cached; all at least `n_frames` long and as large as `crop`.
    folder : path
        Made if it is not there.
    test : stce.clips.Clips, optional
        Clips to be tested on every `evaluate_every` epochs and at the end.
    epochs : int, default 150
        Passes over the videos.
    batch_size : int, default 64
        Most clips in a step; an epoch's clips are dealt evenly over its steps.
    lr : float, default 0.01
        Learning rate; log scale: 0.001, 0.003, 0.01, 0.03.
    momentum, weight_decay : float, default 0.9 and 5e-4
        Of SGD; the second is the L2 penalty on all weights (the paper gives none; this is C3D's).
    schedule, lr_step, lr_gamma
        See :func:`learning_rate`. The paper's: a tenth each 50 epochs.
    label_smoothing : float, default 0.0
        In [0, 1).
    max_norm : float, default 0.0
        Gradients longer than this are shortened to it; 0 leaves them alone, as the paper does.
        A narrow C3D, without batch normalisation, needs it for a short training at a high lr: 1.
    n_frames, crop, flip
        How clips are drawn; `n_frames` and `crop` must be the network's input size. Do not flip
        where left and right make the class.
    evaluate_every : int, default 5
        Epochs between tests.
    seed : int, default 0
        Of everything random here. The global random state is left as it was.
    device : str or torch.device, default "cpu"
        See :func:`stce.engine.device.resolve`.
    amp : bool, default False
        Compute in bfloat16 where that is safe; on a GPU only, and without effect on a CPU.
    progress : bool, default True
        Show a progress bar on a terminal.

    Returns
    -------
    pandas.DataFrame
        One row an epoch: ``epoch`` (from 1), ``lr`` (at its end), ``loss``, ``accuracy`` (both of
        the training clips as they were seen) and ``test_accuracy`` (NaN where not tested).

    Raises
    ------
    ValueError
        If arguments, videos and network do not fit, or not to a training to be gone on with.
    RuntimeError
        If the loss or a weight is not finite; the files of earlier epochs stay.

    Examples
    --------
    >>> import tempfile
    >>> from stce.videos import Videos
    >>> class Noise(Videos):
    ...     def read(self, i):
    ...         return np.random.default_rng(i).integers(0, 256, (9, 20, 20, 1), np.uint8)
    >>> names = ["a", "b"]
    >>> table = pd.DataFrame({"id": names, "label": [0, 1], "class": names, "group": names})
    >>> network = models.build("r3d18", 2, 0.125, in_channels=1, input_size=(8, 16, 16))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     history = train(network, Noise(table, names), folder, epochs=2, n_frames=8,
    ...                     crop=(16, 16), seed=1)
    ...     sorted(path.name for path in Path(folder).iterdir())
    ['best.safetensors', 'history.csv', 'last.safetensors']
    """
    target = devices.resolve(device)
    settings = {
        "epochs": epochs, "batch_size": batch_size, "lr": lr, "momentum": momentum,
        "weight_decay": weight_decay, "schedule": schedule, "lr_step": lr_step,
        "lr_gamma": lr_gamma, "label_smoothing": label_smoothing, "max_norm": max_norm,
        "n_frames": n_frames, "crop": [int(n) for n in crop], "flip": bool(flip), "seed": seed,
        "amp": bool(amp) and target.type == "cuda", "n_videos": len(videos),
        "classes": list(videos.classes), "network": network.settings,
    }  # fmt: skip
    settings = {k: v.item() if isinstance(v, np.generic) else v for k, v in settings.items()}
    check_training(network, videos, test, settings, evaluate_every)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "resume.safetensors"
    resumed = state.exists()
    network.classes = tuple(videos.classes)
    first = ranks.rank() == 0
    if not resumed and first and not network.mean.any():
        network.set_moments(*moments(videos))
    network.to(target).to(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.SGD(network.parameters(), lr, momentum, weight_decay=weight_decay)
    history = restore_state(state, network, optimizer, settings) if resumed else []
    model = ranks.parallel(network, target)
    chosen_by = "accuracy" if test is None else "test_accuracy"
    part = ranks.rank(), ranks.size()
    clips = RandomClips(videos, (n_frames, *crop), flip, batch_size, seed, part)
    how = {"show": progress and first, "initial": len(history), "total": epochs}
    shown = bar(range(len(history), epochs), **how, desc="train", unit="epoch")
    for epoch in shown:
        with _seeded(seed, epoch, target):
            row = _epoch(model, network, optimizer, clips, epoch, settings, target)
        row["test_accuracy"] = float("nan")
        due = (epoch + 1) % evaluate_every == 0 or epoch + 1 == epochs
        if first and test is not None and due:
            table = evaluate(network, test, batch_size, target)
            row["test_accuracy"] = float(table["correct"].mean())
        history.append(row)
        if not first:
            continue
        scores = [r[chosen_by] for r in history]
        if scores[-1] > np.nanmax([-1.0, *scores[:-1]]):
            best = {"epoch": epoch + 1, chosen_by: scores[-1]}
            models.save(folder / "best.safetensors", network, **best)
        keep_state(state, network, optimizer, settings, history)
        shown.set_postfix({key: f"{row[key]:.3f}" for key in ("loss", "accuracy")})
    network.eval()
    table = pd.DataFrame(history)
    if first:
        models.save(folder / "last.safetensors", network, epoch=settings["epochs"])
        table.to_csv(folder / "history.csv", index=False)
        state.unlink()
    return table


def evaluate(
    network: models.Network, clips, batch_size: int = 32, device: str | torch.device = "cpu"
) -> pd.DataFrame:
    """Classify clips.

    Parameters
    ----------
    network : Network
        Moved to `device` (see :func:`stce.engine.device.resolve`); its mode is left as it was.
    clips : stce.clips.Clips
        N clips of the network's classes and input size.
    batch_size : int, default 32
        Clips a forward pass.

    Returns
    -------
    pandas.DataFrame
        One row a clip: ``id``, ``class`` (the true one), ``predicted``, ``correct`` (bool),
        ``probability`` (of the true class, 0..1).
    """
    network.check_classes(clips.classes)
    network.to(devices.resolve(device))
    probabilities = []
    with evaluating(network), torch.inference_mode():
        for start in range(0, len(clips), batch_size):
            frames = np.asarray(clips.frames[start : start + batch_size])
            logits = network(network.prepare(torch.from_numpy(frames)))
            probabilities.append(logits.float().softmax(1).cpu().numpy())
    values = np.concatenate(probabilities) if probabilities else np.empty((0, len(clips.classes)))
    labels, classes = np.asarray(clips.labels), np.asarray(clips.classes)
    predicted = values.argmax(1)
    table = pd.DataFrame({"id": clips.ids, "class": classes[labels]})
    table["predicted"], table["correct"] = classes[predicted], predicted == labels
    table["probability"] = values[np.arange(len(labels)), labels]
    return table


def _epoch(model, network, optimizer, clips, epoch, settings, device) -> dict:
    """Take all the steps of an epoch; `model` is the network, or stands for it and others."""
    network.train()
    criterion = nn.CrossEntropyLoss(label_smoothing=settings["label_smoothing"])
    half = torch.autocast("cuda", torch.bfloat16, enabled=settings["amp"])
    arguments = [settings[key] for key in ("schedule", "lr", "epochs", "lr_step", "lr_gamma")]
    total = correct = seen = 0
    for step, (frames, labels, weight) in enumerate(clips.batches(epoch)):
        lr = learning_rate(epoch + step / clips.steps, *arguments)
        for group in optimizer.param_groups:
            group["lr"] = lr
        labels = labels.to(device)
        with half:
            logits = model(network.prepare(frames))
            loss = criterion(logits, labels)
        value = loss.item()
        if not math.isfinite(value):
            raise _diverged(f"the loss became {value}", epoch, lr)
        optimizer.zero_grad(set_to_none=True)
        (loss * weight).backward()
        if settings["max_norm"]:
            nn.utils.clip_grad_norm_(network.parameters(), settings["max_norm"])
        optimizer.step()
        total += value * len(labels)
        correct += (logits.argmax(1) == labels).sum().item()
        seen += len(labels)
    if not all(weight.isfinite().all() for weight in network.parameters()):
        raise _diverged("the weights overflowed", epoch, lr)  # before they are kept anywhere
    total, correct, seen = ranks.summed([total, correct, seen], device)
    return {"epoch": epoch + 1, "lr": lr, "loss": total / seen, "accuracy": correct / seen}


def _diverged(what: str, epoch: int, lr: float) -> RuntimeError:
    return RuntimeError(
        f"{what} in epoch {epoch + 1} at a learning rate of {lr:.3g}: the training diverged. Train "
        "into another folder with a lower lr (a third, say) or max_norm=1; best.safetensors and "
        "resume.safetensors of the epochs before are kept."
    )


@contextmanager
def _seeded(seed, epoch, device):
    """Give dropout a state of its own for the epoch, and cuDNN its repeatable algorithms."""
    key = [seed, epoch, ranks.rank()] if ranks.rank() else [seed, epoch]
    value = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
    gpus = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(gpus),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        torch.random.default_generator.manual_seed(value)
        if gpus:
            torch.cuda.default_generators[device.index].manual_seed(value)
        yield
