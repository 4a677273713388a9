"""The factorial of causes on real films: ``python -m book.campaigns.interactions --films FOLDER``.

Everything that was embedded is kept in a folder, so that a run that was stopped goes on. On two
cores a representation that shows supervoxels one by one takes a quarter of an hour for the three
classes that the choice is made on, pooled ones a minute.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import zarr

from book.campaigns import causes
from book.campaigns.causes import Pool
from stce import clips as clips_module
from stce import features, models, tcav, videos
from stce.clips import Clips
from stce.datasets import folder as films_module
from stce.datasets.negatives import negatives
from stce.datasets.textures import textures
from stce.engine.storage import replacing, write_table
from stce.supervoxels import Supervoxels
from stce.training import beginning

__all__ = ["CHOICE", "CONFIRM", "WORLDS", "Films", "ceilings", "heads", "main", "study", "write"]

SIZE = (16, 224, 224)
CHOICE, CONFIRM = ("handshake", "hug", "kick"), ("point", "punch", "push")
# Pieces, representation, layer where concepts are found, layer where they are scored.
WORLDS = (
    *(("colour", shown, "avgpool", "avgpool") for shown in ("in place", "stretched", "blurred")),
    ("colour", "box", "avgpool", "avgpool"),
    *((pieces, "pooled", at, at) for pieces in ("colour", "motion") for at in causes.LAYERS),
    *(("fine", "pooled", at, at) for at in causes.LAYERS),
    *((pieces, "pooled", *causes.LAYERS) for pieces in ("colour", "motion", "fine")),
)
CHOSEN, DEFAULT = WORLDS[-1], WORLDS[0]


@dataclass(frozen=True)
class Films:
    """The clips of one scene, a network whose head knows them, and where work is kept."""

    clips: Clips
    network: models.Network
    whole: np.ndarray  # features (N, D) of the clips
    random: Clips
    folder: Path

    @classmethod
    def load(cls, films: Path, others: Path, folder: Path, pattern: str, test: Sequence[str]):
        """Decode films, of which the groups `test` are one scene and the rest the other.

        Returned are the two, each with a head of its own, see
        :func:`stce.training.beginning.fit_head`.
        """
        how = {"folder": films, "group_pattern": pattern, "test_groups": list(test), "stride": 2}
        how |= {"window_frames": SIZE[0], "parts": "motion"}
        theirs = models.load("i3d-kinetics400", input_size=SIZE)
        like = {"size": SIZE[1:], "n_frames": SIZE[0], "channels": 3, "seed": 0}
        drawn, _ = negatives("folder", 30, folder=others, stride=2, fit="crop", **like)
        found = []
        for split in ("train", "test"):
            kept = videos.cache(films_module.load(split, **how), folder / split / "films", SIZE[1:])
            clips = clips_module.middle_clips(kept, None, SIZE[0], SIZE[1:])
            network = beginning.begin(theirs, clips.classes)
            z = features.extract_clips(network.split("avgpool"), clips)
            beginning.fit_head(network, z[None], clips.labels)
            found.append(cls(clips, network.eval(), z, drawn, folder / split))
        return found

    def of(self, name: str) -> Clips:
        """Return the clips of a class."""
        return self.clips.select(self.clips.indices_of(name))

    def cut(self, name: str, clips: Clips, kind: str) -> Supervoxels:
        """Cut clips up, once."""
        folder = self.folder / f"{name}-{kind}"
        if not folder.exists():
            cut = causes.pieces(clips, kind)
            with replacing(folder, folder=True) as partial:
                zarr.save_array(partial / "labels.zarr", np.asarray(cut.labels))
                write_table(partial / "supervoxels.parquet", cut.table)
        return Supervoxels.load(folder)

    def pool(self, name: str, clips: Clips, kind: str, how: str, layer: str, few: int = 0) -> Pool:
        """Embed the supervoxels of clips, once."""
        file = self.folder / f"{name}-{kind}-{how}-{layer}.npz"
        if not file.exists():
            network = self.network.split(layer)
            made = causes.pool(network, clips, self.cut(name, clips, kind), how, few=few)
            with replacing(file) as partial, partial.open("wb") as stream:
                np.savez(stream, **vars(made))
        with np.load(file) as held:
            return Pool(**{field.name: held[field.name] for field in fields(Pool)})

    def pools(self, names: Iterable[str], kind: str, how: str, layer: str) -> dict[str, Pool]:
        """Return what the concepts of some classes are made from and told apart from."""
        each = [self.pool(name, self.of(name), kind, how, layer) for name in names]
        films = Pool(*(np.concatenate([getattr(p, f.name) for p in each]) for f in fields(Pool)))
        drawn = textures(200, n_frames=SIZE[0], size=SIZE[1:], channels=3, seed=0)
        few = drawn.select(np.arange(0, 200, 20))
        told = self.pool("textures", few, kind, how, layer, 200)
        seen = self.network.split(layer)
        seen = seen.pooled() if how == "pooled" else seen
        told = replace(told, whole=features.extract_clips(seen, drawn), owner=np.zeros(200, int))
        random = self.pool("random", self.random, kind, how, layer, 300)
        return {"films": films, "textures": told, "random": random}


def study(films: Films, names: Sequence[str], worlds=WORLDS, kinds=causes.NEGATIVES):
    """Measure the cells of some worlds, one row a class and cell; worlds that are done are read."""
    tables = []
    for kind, how, at, layer in worlds:
        file = films.folder / f"{'+'.join(names)}-{kind}-{how}-{at}-{layer}.parquet"
        if not file.exists():
            pools = films.pools(names, kind, how, layer)
            seen, found = films.network.split(layer), None
            if at != layer:
                found = np.concatenate([films.pool(n, films.of(n), kind, how, at).z for n in names])
            seen = seen.pooled() if how == "pooled" else seen
            rows = []
            for name in names:
                y = films.clips.classes.index(name)
                slope = tcav.slopes(seen, features.extract_layer(seen, films.of(name)), y)
                world = {"class": name, "pieces": kind, "representation": how}
                world |= {"found_at": at, "layer": layer}
                for cell, measured in causes.judge(y, pools, slope, kinds, found):
                    rows.append({**world, **cell, **measured})
            write_table(file, pd.DataFrame(rows))
        tables.append(pd.read_parquet(file))
    return pd.concat(tables, ignore_index=True)


def heads(both: Sequence[Films], n_folds: int = 5) -> pd.DataFrame:
    """Return how many clips are known by heads that were fitted to the other ones.

    One row a ``split``, a scene (that is held out) or a fold of the groups: ``held_out`` (the
    groups), ``n_clips`` and ``accuracy``.
    """
    theirs, classes = both[0].network, both[0].clips.classes
    z = np.concatenate([f.whole for f in both])
    y, groups = (np.concatenate([getattr(f.clips, a) for f in both]) for a in ("labels", "groups"))
    held = {f"scene {n}": np.unique(f.clips.groups) for n, f in enumerate(both, start=1)}
    every = np.unique(groups)
    held |= {f"fold {k + 1}": every[k::n_folds] for k in range(min(n_folds, len(every)))}
    rows = []
    for split, names in held.items():
        test, head = np.isin(groups, names), beginning.begin(theirs, classes)
        beginning.fit_head(head, z[None, ~test], y[~test])
        with torch.inference_mode():
            told = head.eval().split("avgpool").logits(torch.from_numpy(z[test])).argmax(1).numpy()
        rows.append((split, " ".join(names), test.sum(), (told == y[test]).mean()))
    return pd.DataFrame(rows, columns=["split", "held_out", "n_clips", "accuracy"])


def ceilings(films: Films, names: Sequence[str]) -> pd.DataFrame:
    """Return of each class the most lift that an upper half of its concepts could have."""
    kind, how, at, _ = CHOSEN
    pools = {name: films.pool(name, films.of(name), kind, how, at) for name in names}
    rows = [(name, causes.ceiling(pool)) for name, pool in pools.items()]
    return pd.DataFrame(rows, columns=["class", "ceiling"])


def write(tables: dict[str, pd.DataFrame], folder: Path) -> None:
    """Write tables to a folder, four digits each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        table.round(4).to_csv(folder / f"{name}.csv", index=False)


def main(arguments: list[str] | None = None) -> None:
    """Run the factorial on one scene, then confirm what it chose on all that it was not seen on.

    With ``--confirm`` what was chosen is tried on all classes of other films.
    """
    parser = argparse.ArgumentParser(prog="python -m book.campaigns.interactions")
    parser.add_argument("--films", type=Path, required=True, help="a sub-folder a class")
    parser.add_argument("--random", type=Path, required=True, help="films of anything else")
    parser.add_argument("--folder", type=Path, default=Path("data/campaigns/causes"))
    parser.add_argument("--results", type=Path, default=Path("book/results/causes"))
    parser.add_argument("--pattern", default=r"^(seq\d+)_", help="finds the group in a file's name")
    parser.add_argument("--test", nargs="+", default=[f"seq{n}" for n in range(11, 21)])
    parser.add_argument("--confirm", metavar="NAME", help="choose nothing, try what was chosen")
    asked = parser.parse_args(arguments)
    first, second = Films.load(asked.films, asked.random, asked.folder, asked.pattern, asked.test)
    if asked.confirm:
        both = enumerate((first, second), start=1)
        tried = (study(f, f.clips.classes, (CHOSEN,)).assign(scene=n) for n, f in both)
        write({f"confirmation-{asked.confirm}": pd.concat(tried)}, asked.results)
        return
    every = (*CHOICE, *CONFIRM)
    scenes = [study(first, CONFIRM, (CHOSEN, DEFAULT)).assign(scene=1)]
    scenes += [study(second, every, (CHOSEN,)).assign(scene=2)]
    most = [ceilings(f, every).assign(scene=n) for n, f in enumerate((first, second), start=1)]
    tables = {
        "factorial": study(first, CHOICE).assign(scene=1),
        "confirmation": pd.concat(scenes),
        "ceiling": pd.concat(most),
        "heads": heads((first, second)),
    }
    write(tables, asked.results)


if __name__ == "__main__":
    main()
