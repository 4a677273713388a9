"""Sphinx extension of the book: references as lists, tables of parameters, and the reference."""

import importlib
import pkgutil
import re

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

from stce.study.parameters import PARAMETERS


def references_to_list(app, what, name, obj, options, lines):
    """Turn a docstring's footnotes into a numbered list, in place.

    As footnotes, ``.. [1]`` of two functions on one page would be one name for two things.
    """
    within = None  # the indent of the footnote that a line belongs to
    for i, line in enumerate(lines):
        if note := re.match(r"(\s*)\.\. \[(\d+)\] (.*)", line):
            # Escaped, since an initial such as "C." would begin a list of its own.
            within, number, text = note.groups()
            line = rf"{within}{number}. \{text}"
        elif within is not None and line.startswith(f"{within}   "):
            line = f"{within}   {line.strip()}"
        else:
            within = None
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


def modules(package: str) -> list[str]:
    """Return a package and the public modules that lie in it; not those of its sub-packages."""
    place = importlib.import_module(package).__path__
    inside = sorted(m.name for m in pkgutil.iter_modules(place) if not m.ispkg)
    return [package, *(f"{package}.{name}" for name in inside if not name.startswith("_"))]


def names(module: str) -> list[str]:
    """Return the functions and classes that a module offers."""
    found = importlib.import_module(module)
    offered = getattr(found, "__all__", None)
    if offered is None:
        own = {n for n, value in vars(found).items() if getattr(value, "__module__", "") == module}
        offered = sorted(name for name in own if not name.startswith("_"))
    return [name for name in offered if callable(vars(found).get(name))]


class Reference(Directive):
    """What the docstrings of all modules of some packages say: ``{api} stce.engine ...``."""

    required_arguments, final_argument_whitespace = 1, True

    def run(self):
        """Return a section a module."""
        lines = []
        for package in self.arguments[0].split():
            for module in modules(package):
                lines += [f"# `{module}`", "", "```{eval-rst}", f".. automodule:: {module}"]
                lines += ["   :members:", "```", ""]
        section = nodes.section()
        self.state.nested_parse(StringList(lines), self.content_offset, section, match_titles=True)
        return section.children


class Index(Directive):
    """A table of the modules of some packages and their names: ``{api-index} stce.engine ...``."""

    required_arguments, final_argument_whitespace = 1, True

    def run(self):
        """Return the table."""
        lines = ["| module | what it is about, and its names |", "|---|---|"]
        for package in self.arguments[0].split():
            for module in modules(package):
                about = (importlib.import_module(module).__doc__ or "").partition("\n")[0]
                links = ", ".join(f"{{py:obj}}`~{module}.{name}`" for name in names(module))
                lines.append(f"| {{py:mod}}`{module}` | {about} {links} |")
        table = nodes.container(classes=["api-index"])
        self.state.nested_parse(StringList(lines), self.content_offset, table)
        return [table]


def setup(app):
    """Register all with Sphinx."""
    app.connect("autodoc-process-docstring", references_to_list)
    app.add_directive("parameters", Parameters)
    app.add_directive("api", Reference)
    app.add_directive("api-index", Index)
    return {"parallel_read_safe": True}
