"""Repeat a small study over many seeds: ``python -m book.campaigns NAME --seeds 0-19``."""

from __future__ import annotations

import argparse
from pathlib import Path

from book.campaigns import causal, discoveries, replays, surrogate, transformers, turning, worlds
from book.campaigns.repeat import FOLDER, run, seeds

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Run a campaign from the command line."""
    trials = worlds.TRIALS | replays.REPLAYS
    for module in (turning, causal, surrogate, discoveries, transformers):
        trials |= module.TRIALS
    parser = argparse.ArgumentParser(prog="python -m book.campaigns", description=__doc__)
    parser.add_argument("name", choices=sorted(trials), help="what is repeated")
    parser.add_argument("--seeds", default="0-19", help="such as 0-19 (default) or 0,3,7")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default: data/campaigns")
    chosen = parser.parse_args(arguments)
    try:
        run(chosen.name, seeds(chosen.seeds), trials[chosen.name], chosen.folder)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
