"""Check or fetch a data set from the command line: ``python -m stce.datasets kth --check``."""

import argparse
import sys
from pathlib import Path

from stce.datasets import folder, kinetics, kth


def main(arguments=None):
    """Run the command line; return 0 if the data set can be used, else 1.

    It can if all films of KTH are there and fit; every chosen class of Kinetics has a good video in
    both parts, although others may be missing; all films of a folder can be decoded, whatever is
    warned of.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.name == "kth" and options.download:
            kth.download(options.folder, url=options.url)
        return _report(options)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser():
    parser = argparse.ArgumentParser(prog="python -m stce.datasets", description=__doc__)
    names = parser.add_subparsers(dest="name", required=True, metavar="folder|kth|kinetics")
    for name in ("folder", "kth", "kinetics"):
        one = names.add_parser(name)
        place = kth.DATA.parent / ("videos" if name == "folder" else name)
        one.add_argument("--folder", type=Path, default=place, help="default: %(default)s")
        one.add_argument("--check", action="store_true", help="say what is missing (always done)")
        if name == "kth":
            one.add_argument("--download", action="store_true", help="fetch what is missing first")
            one.add_argument("--url", default=kth.URL, help="address before CLASS.zip")
        elif name == "folder":
            one.add_argument("--test-groups", nargs="*", default=[], help="default: no split")
            one.add_argument(
                "--group-pattern", default=folder.GROUP_PATTERN, help="default: %(default)s"
            )
            one.add_argument("--groups-file", default="", help="CSV file, instead of the pattern")
        else:
            one.add_argument("--classes", nargs="*", default=[], help="default: ten, drawn")
            one.add_argument("--n-classes", type=int, default=0, help="draw up to so many")
            one.add_argument("--seed", type=int, default=0, help="of the draw")
            one.add_argument("--annotations", default="", help="CSV file; default: in the folder")
    return parser


def _report(options):
    """Print how many files of each class are good, and each problem; return the status."""
    check = {"folder": folder.survey, "kth": kth.check_films, "kinetics": kinetics.check_videos}
    common = ("name", "folder", "check", "download", "url")
    own = {name: value for name, value in vars(options).items() if name not in common}
    found = check[options.name](options.folder, **own)
    table, warned = found if options.name == "folder" else (found, [])
    keys = [name for name in ("class", "split") if name in table]
    good = table["problem"] == ""
    counts = table.assign(good=good).groupby(keys, sort=False)["good"].agg(files="size", good="sum")
    print(f"{options.name} in {options.folder}: {len(table)} files, {good.sum()} good")
    print(counts.to_string())
    if options.name == "folder":
        print("\nmedian (range) by class; length in frames, brightness from 0 to 255")
        print(table[good].groupby("class")[list(folder.FACTS)].agg(_range).to_string())
    for row in table[~good].itertuples():
        print(f"{row.file}: {row.problem}")
    for text in warned:
        print(f"warning: {text}")
    return int(not counts["good"].all() if options.name == "kinetics" else not good.all())


def _range(values):
    if isinstance(values.iloc[0], str):
        return ", ".join(sorted(set(values)))
    return f"{values.median():.3g} ({values.min():.3g}-{values.max():.3g})"


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # a class has any name, in any locale
    sys.exit(main())
