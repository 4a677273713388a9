"""Run the bench and write its results: ``python -m benchmarks [KEY ...] [--quick]``.

Each comparison runs on the CPU, and on the GPU too where there is one. The file is written after
each: run again, the bench goes on where it was stopped. A KEY that is named is measured anew.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from benchmarks import cutting, decoding, directions, growth, runner, stages, whole

COMPARISONS = {
    "tcav_vs_captum": directions.captum,
    "cav_vs_sklearn": directions.scikit_learn,
    "segment_vs_naive": cutting.segment,
    "slic_vs_scikit_image": cutting.on_device,
    "segment_vs_simpleitk": cutting.rival("simpleitk"),
    "segment_vs_vtcd": cutting.rival("vtcd"),
    "decode_vs_pyav": decoding.films(whole=True),
    "decode_window_vs_pyav": decoding.films(whole=False),
    "decode_vs_torchcodec": decoding.films(whole=True, by="torchcodec"),
    "decode_window_vs_torchcodec": decoding.films(whole=False, by="torchcodec"),
    "features_vs_naive": cutting.naive("c3d", 0.25, 5.0),
    "features_vs_naive_r3d18": cutting.naive("r3d18", 1.0, None),
    "features_vs_bare": cutting.bare("c3d", 0.25),
    "features_vs_bare_r3d18": cutting.bare("r3d18", 1.0),
    "in_place_vs_whole": cutting.bare("c3d", 0.25, stretch=False),
    "in_place_vs_whole_r3d18": cutting.bare("r3d18", 1.0, stretch=False),
    "pooled_vs_supervoxels": cutting.pooled(stretch=True, target=30.0),
    "pooled_vs_in_place": cutting.pooled(stretch=False, target=None),
    "ablate_vs_naive": whole.ablate,
    "ablate_amp": whole.amp,
    "study_vs_reference": whole.study,
    "study_vs_bare": whole.alone(large=False, target=0.80),
    "study_vs_bare_i3d": whole.alone(large=True, target=0.85),
}
# What has no other side. The check makes a whole run again: only where it is asked for.
ALONE = {
    "growth": growth.grow(pooled=False),
    "growth_pooled": growth.grow(pooled=True),
    "stages": stages.rates,
    "check": stages.check,
}
CPU_ONLY = ("segment_vs_naive", "segment_vs_simpleitk", "segment_vs_vtcd", "decode_vs_pyav")
CPU_ONLY += ("decode_window_vs_pyav", "decode_vs_torchcodec", "decode_window_vs_torchcodec")
CPU_ONLY += ("growth", "growth_pooled")
KEYS = (*COMPARISONS, "growth", "growth_pooled", "stages")


TOLD = {
    "growth": lambda entry: f"exponent {entry['exponent']:.2f}",
    "growth_pooled": lambda entry: f"exponent {entry['exponent']:.2f}",
    "stages": lambda entry: f"rates of {', '.join(entry['worlds'])}",
    "check": lambda entry: f"{sum(entry['seconds'].values()):.0f} s for {entry['run']}",
}


def _line(key: str, device: str, entry: dict) -> str:
    verdict = "same" if entry["same"] else "NOT THE SAME"
    if key in ALONE:
        return f"{key:<24} {device:<5} {TOLD[key](entry)}, {verdict}"
    low, high, target = entry["ratio_low"], entry["ratio_high"], entry["target"]
    aim = "" if target is None else f", to reach {target:g}"
    return f"{key:<24} {device:<5} {entry['ratio']:7.2f}x ({low:.2f} to {high:.2f}{aim}), {verdict}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns 1 if two sides did not compute the same."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("keys", nargs="*", metavar="KEY", help=", ".join((*COMPARISONS, *ALONE)))
    parser.add_argument("--quick", action="store_true", help="small sizes: tests the bench itself")
    parser.add_argument("--output", help="default benchmarks/results.json, with --quick none")
    options = parser.parse_args(arguments)
    every = (*COMPARISONS, *ALONE)
    unknown = [key for key in options.keys if key not in every]
    if unknown:
        parser.error(f"there is no comparison {unknown[0]!r}; choose of {', '.join(every)}")
    results = None
    if options.output or not options.quick:
        path = options.output or Path(__file__).with_name("results.json")
        results = runner.Results(path, runner.header(options.quick))
    failed = False
    for key in options.keys or KEYS:
        gpu = torch.cuda.is_available() and key not in CPU_ONLY
        for device in ("cpu", "cuda") if gpu else ("cpu",):
            if results and not options.keys and results.has(key, device):
                print(f"{key:<24} {device:<5} is done")
                continue
            try:
                if key in ALONE:
                    entry = ALONE[key](options.quick, device)
                else:
                    entry = runner.compare(COMPARISONS[key], options.quick, device)
            except runner.Missing as reason:
                print(f"{key:<24} {device:<5} is left out: {reason}")
                continue
            if results:
                results.add(key, device, entry)
            failed |= not entry["same"]
            print(_line(key, device, entry), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
