"""Sphinx extension of the book: docstring references as lists, and the tables of parameters."""

import re

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

from stce.study.parameters import PARAMETERS


def references_to_list(app, what, name, obj, options, lines):
    """Turn a docstring's footnotes into a numbered list, in place.

    As footnotes, ``.. [1]`` of two functions on one page would be one name for two things.
    """
    for i, line in enumerate(lines):
        line = re.sub(r"^(\s*)\.\. \[(\d+)\] ", r"\1\2. ", line)
        lines[i] = re.sub(r"\[(\d+)\]_", r"[\1]", line)


class Parameters(Directive):
    """The parameters of every stage, as `stce.study.parameters` knows them."""

    def run(self):
        """Return one table a stage, and one for what all stages share."""
        shared = set.intersection(*(set(known) for known in PARAMETERS.values()))
        every = {name: PARAMETERS["train"][name] for name in sorted(shared)}
        own = {
            f"`{stage}`": {n: p for n, p in known.items() if n not in shared}
            for stage, known in PARAMETERS.items()
        }
        lines = []
        for title, known in {**own, "every stage": every}.items():
            lines += [f"| {title} | default | meaning | takes |", "|---|---|---|---|"]
            for name, p in known.items():
                lines.append(f"| `{name}` | `{p.default!r}` | {p.meaning} | {p.allowed()} |")
            lines.append("")
        tables = nodes.container(classes=["parameters"])
        self.state.nested_parse(StringList(lines), self.content_offset, tables)
        return [tables]


def setup(app):
    """Register both with Sphinx."""
    app.connect("autodoc-process-docstring", references_to_list)
    app.add_directive("parameters", Parameters)
    return {"parallel_read_safe": True}
