"""Pages made from templates: what ``pages.yaml`` says of a page, put into a notebook."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat
import yaml

from book import parameters

__all__ = ["RENDERED", "ROOT", "TEMPLATES", "pages", "render"]

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES, RENDERED = ROOT / "notebooks", ROOT / "book" / "pages"


def pages() -> dict[str, dict]:
    """Return what ``book/pages.yaml`` says of each page, by its name."""
    return yaml.safe_load((ROOT / "book" / "pages.yaml").read_text(encoding="utf-8"))


def render(page: dict) -> nbformat.NotebookNode:
    """Make a page, not yet executed, of its template.

    Parameters
    ----------
    page : dict
        An entry of :func:`pages`: its ``notebook`` (the template), its ``parameters``, and texts,
        each for the place ``{{NAME}}`` in the template's Markdown and descriptions of pictures.

    Returns
    -------
    nbformat.NotebookNode
        Paths in its parameters start from ``notebooks``, as everywhere.

    Raises
    ------
    ValueError
        If a parameter is not one of the template, its value is not allowed, or a text is missing.
    """
    given = parameters.check(page["notebook"], page.get("parameters", {}))
    notebook = nbformat.read(TEMPLATES / f"{page['notebook']}.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _fill(cell.source, page)
            continue
        cell.outputs, cell.execution_count = [], None
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = "\n".join(_set(line, given) for line in cell.source.splitlines())
        if "mystnb" in cell.metadata:
            image = cell.metadata.mystnb.image
            image.alt = _fill(image.alt, page)
    return notebook


def _fill(text: str, page: dict) -> str:
    for name in re.findall(r"{{(\w+)}}", text):
        if name not in page:
            raise ValueError(
                f"The template {page['notebook']!r} asks for {name!r}, which a page in "
                "book/pages.yaml lacks; write it there."
            )
        text = text.replace("{{" + name + "}}", str(page[name]))
    return text


def _set(line: str, given: dict) -> str:
    """Set the parameter of a line ``name = value  # meaning``."""
    name = line.partition(" = ")[0]
    value, place = given[name], ast.parse(line).body[0].value
    text = '"' + value + '"' if isinstance(value, str) else repr(value)
    return line[: place.col_offset] + text + line[place.end_col_offset :]
