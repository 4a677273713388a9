"""Networks that others have trained: ``python -m stce.models list|fetch|check NAME``."""

import argparse
import sys
from contextlib import suppress

from stce.models.foreign import adopt, digest
from stce.models.store import load
from stce.models.weights import PRETRAINED, entry, place


def main(arguments=None):
    """Run the command; 1 if the network cannot be used, 0 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m stce.models", description=__doc__)
    jobs = parser.add_subparsers(dest="job", required=True)
    jobs.add_parser("list", help="what there is, and what is on this machine")
    fetch = jobs.add_parser("fetch", help="bring the weights of a network here")
    fetch.add_argument("--from", dest="file", metavar="FILE", help="weights that you have")
    for job in (fetch, jobs.add_parser("check", help="are they here, and whole?")):
        job.add_argument("name", metavar="NAME", help=" or ".join(PRETRAINED))
    options = parser.parse_args(arguments)
    try:
        if options.job == "list":
            for name, about in PRETRAINED.items():
                where = place(name) if place(name).is_file() else "not here"
                size = " x ".join(map(str, about.input_size))
                print(f"{name}: {size}, {about.licence}, from {about.source}: {where}")
        elif options.job == "fetch":
            print(_fetched(options.name, options.file))
        else:
            print(_checked(options.name))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _fetched(name, file):
    with suppress(OSError, ValueError):  # not here, or damaged
        if file is None:
            return _checked(name)
    print(f"{name}: taken from {file or entry(name).source}", file=sys.stderr)
    adopt(name, file)
    return _checked(name)


def _checked(name):
    """Return a line about weights that are here and whole."""
    entry(name)
    network = load(name)
    facts = network.metadata
    if facts.get("digest") != digest(network):
        again = f"`python -m stce.models fetch {name}` brings them again"
        raise ValueError(f"the weights in {place(name)} have changed since; {again}.")
    source = f"{facts['licence']}, from {facts['source']}, SHA-256 {facts['sha256']}"
    return f"{name} is whole: {len(network.classes)} classes, {source}: {place(name)}"


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # a class has any name, in any locale
    sys.exit(main())
