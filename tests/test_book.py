"""The notebooks keep the house rules, and the book builds from them without a network."""

import ast
import importlib
import pkgutil
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml
from browser import Browser, find
from docutils import nodes
from docutils.core import publish_doctree

from book import build, parameters, publish, templates
from book.extension import references_to_list

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = sorted((ROOT / "book" / "pages").glob("*.ipynb"))
MADE_FROM = {page["notebook"] for page in templates.pages().values()}
CHECK = "NBVAL_CHECK_OUTPUT"

each_notebook = pytest.mark.parametrize(
    "path", [*NOTEBOOKS, *PAGES], ids=lambda path: f"{path.parent.stem}-{path.stem}"
)


def code_cells(path):
    """Return the code cells of a notebook."""
    notebook = nbformat.read(path, as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_is_a_notebook_for_each_step():
    steps = ["01_train", "02_segment", "03_cluster", "04_tcav", "05_ablate", "06_visualize"]
    assert [path.stem for path in NOTEBOOKS[:6]] == steps


def test_each_page_is_what_its_template_makes_of_it():
    described = templates.pages()
    assert {path.stem for path in PAGES} == set(described)
    assert {path.stem for path in NOTEBOOKS} >= MADE_FROM
    for path in PAGES:
        made, stored = templates.render(described[path.stem]), nbformat.read(path, as_version=4)
        assert [c.source for c in stored.cells] == [c.source for c in made.cells], path.name
        assert [c.metadata for c in stored.cells] == [c.metadata for c in made.cells], path.name
        assert "{{" not in stored.cells[0].source


def test_a_page_sets_its_parameters_and_paths_start_from_notebooks():
    page = {"notebook": "figure_steps", "title": "T", "claim": "C.", "alt": "A."}
    cells = templates.render(page | {"parameters": {"mode": "remove"}}).cells
    assert cells[0].source.startswith("# T\n\n**The paper's claim.** C.")
    assert 'run_folder = "../data/runs/actors"  # Folder of the run.' in cells[1].source
    assert (
        'class_name = "boxing"' in cells[1].source and 'mode = "remove"  # Are' in cells[1].source
    )
    numbered = templates.pages()["table_3"]
    assert templates.render(numbered).cells[1].source.startswith("number = 3  # Which")


def test_what_a_page_lacks_or_a_template_does_not_know_is_named():
    page = {"notebook": "table", "title": "T", "claim": "C", "section": "4"}
    with pytest.raises(ValueError, match="'table' asks for 'claim', which a page"):
        templates.render({n: text for n, text in page.items() if n != "claim"})
    with pytest.raises(ValueError, match="did you mean 'number'"):
        templates.render(page | {"parameters": {"numbr": 2}})
    with pytest.raises(ValueError, match="at most 6"):
        templates.render(page | {"parameters": {"number": 7}})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_page_narrates_in_at_most_sixty_lines(path):
    cells = [c for c in code_cells(path) if "parameters" not in c.metadata.get("tags", [])]
    lines = sum(len([x for x in cell.source.splitlines() if x.strip()]) for cell in cells)
    assert lines <= 60


@pytest.mark.parametrize("name", sorted(set(parameters.PAGES) - {"08_your_own", "explore"}))
def test_cells_of_plumbing_are_folded(name):
    for cell in code_cells(ROOT / "notebooks" / f"{name}.ipynb"):
        tags = cell.metadata.get("tags", [])
        plumbing = re.search(r"^(import|from) |Markdown\(", cell.source, re.M)
        if "parameters" in tags or plumbing or cell.source.count("\n") >= 3:
            assert "hide-input" in tags, cell.source


@each_notebook
def test_checked_cells_have_something_to_be_compared_with(path):
    # nbval skips a cell without stored output or execution count, and calls it passed.
    checked = [cell for cell in code_cells(path) if CHECK in cell.source]
    assert checked, f"{path.name} checks nothing"
    for cell in checked:
        assert cell.outputs, cell.source
        assert cell.execution_count, cell.source


@each_notebook
def test_there_is_one_parameters_cell(path):
    tagged = [c for c in code_cells(path) if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1


@each_notebook
def test_no_function_or_class_is_defined(path):
    for cell in code_cells(path):
        if cell.source.startswith("%%"):
            continue
        lines = [line for line in cell.source.splitlines() if not line.startswith(("%", "!"))]
        for node in ast.walk(ast.parse("\n".join(lines))):
            assert not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


@each_notebook
def test_no_error_is_stored(path):
    for cell in code_cells(path):
        assert all(output.output_type != "error" for output in cell.outputs), cell.source


@each_notebook
def test_it_is_small_and_names_nobodys_machine(path):
    text = path.read_text()
    assert len(text) < 3_000_000
    assert not re.findall(r"/(?:home|root|Users|tmp)/\w+", text)


def messages():
    """Return every text in stce/ and book/, with … where a value goes."""
    for module in [*(ROOT / "stce").rglob("*.py"), *(ROOT / "book").rglob("*.py")]:
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_troubleshooting_quotes_messages_that_there_are():
    page = (ROOT / "book" / "troubleshooting.md").read_text()
    keys = re.findall(r"^`(.+)`\n:", page, re.M)
    foreign = (
        "The virtual",
        "error: externally",
        "ERROR: Package",
        "RuntimeError: operator",
        "ModuleNotFound",
    )
    keys = [key for key in keys if not key.startswith(foreign)]
    assert len(keys) > 15
    known = list(messages())
    for key in keys:
        pattern = ".*".join(re.escape(part.strip()) for part in key.split("…"))
        assert any(re.search(pattern, text, re.S) for text in known), key


def nbval(path):
    """Run nbval as the session does; return its exit status and what it said."""
    options = ["-q", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env", "--no-header"]
    command = [sys.executable, "-m", "pytest", *options, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=path.parent)
    return result.returncode, result.stdout


def write(path, source, output):
    """Write a notebook of one executed cell."""
    stored = nbformat.v4.new_output("stream", name="stdout", text=output)
    cell = nbformat.v4.new_code_cell(source, outputs=[stored], execution_count=1)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    return path


def test_nbval_passes_a_true_output_and_fails_a_tampered_one(tmp_path):
    source = f"# {CHECK}\nprint(6 * 7)"
    assert nbval(write(tmp_path / "true.ipynb", source, "42\n"))[0] == 0
    status, said = nbval(write(tmp_path / "tampered.ipynb", source, "43\n"))
    assert status == 1
    assert "42" in said and "43" in said


def test_stored_notebooks_keep_outputs_and_drop_papermills_traces(tmp_path):
    path = write(tmp_path / "run.ipynb", "print(1)", "1\n")
    notebook = nbformat.read(path, as_version=4)
    injected = nbformat.v4.new_code_cell("n = 2", metadata={"tags": ["injected-parameters"]})
    notebook.cells.insert(0, injected)
    notebook.cells[1].metadata.papermill = {"duration": 1}
    notebook.cells[1].execution_count = 7
    notebook.metadata.papermill = {"input_path": "somewhere"}
    notebook.metadata.widgets = {"kept": True}
    (cell,) = publish.tidy(notebook).cells
    assert cell.outputs[0].text == "1\n"
    assert cell.execution_count == 1
    assert cell.metadata == {}
    assert set(notebook.metadata) == {"widgets"}


class Page(HTMLParser):
    """Collects what a page loads, and where it links to."""

    def __init__(self, path):
        super().__init__()
        self.loads, self.links, self.scripts = [], [], []
        self._in_script = False
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self._in_script = tag == "script"
        if tag == "a":
            self.links.append(attrs.get("href"))
        elif tag == "link" and attrs.get("rel") in {"search", "next", "prev", "index", "genindex"}:
            self.links.append(attrs.get("href"))
        else:
            self.loads += [attrs.get("src"), attrs.get("href"), attrs.get("poster")]

    def handle_data(self, data):
        if self._in_script:
            self.scripts.append(data)

    def local(self):
        """Return the paths of this machine's files that the page needs or links to."""
        addresses = [urlsplit(a) for a in self.loads + self.links if a]
        return {unquote(a.path) for a in addresses if not a.scheme and not a.netloc and a.path}


def pages(html):
    """Return the pages of the book; below `_static` lie templates of the theme."""
    return [path for path in html.rglob("*.html") if "_static" not in path.parts]


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """Build the book from the stored notebooks."""
    if shutil.which("npm") is None:
        pytest.skip("npm is missing, and without it the pages load scripts from a CDN")
    work = tmp_path_factory.mktemp("book")
    command = [sys.executable, "-m", "book.build", str(ROOT / "notebooks")]
    result = subprocess.run([*command, "--work", str(work)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.split()[-1] == str(work / "html" / "index.html")
    return work / "html"


def test_every_chapter_is_a_page(html):
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    chapters = [c for part in toc["parts"] for c in part["chapters"]]
    chapters = [toc["root"], *(s["file"] for c in chapters for s in [c, *c.get("sections", [])])]
    assert (html / "index.html").is_file()
    for chapter in chapters:
        assert (html / f"{chapter}.html").is_file(), chapter
    shown = {f"notebooks/{path.stem}" for path in NOTEBOOKS if path.stem not in MADE_FROM}
    assert shown | {f"book/pages/{path.stem}" for path in PAGES} <= set(chapters)


def test_no_page_asks_another_host_for_anything(html):
    for path in pages(html):
        page = Page(path)
        remote = [a for a in page.loads if a and urlsplit(a).netloc]
        # thebe is the "run this page" button, which this book does not have.
        scripts = re.sub(r"const THEBE_JS_URL = .*", "", "".join(page.scripts))
        hosts = re.findall(r"(?:jsdelivr|unpkg|cdnjs|googleapis)\S*", scripts)
        assert remote + hosts == [], path.name


def test_a_reference_is_one_plain_paragraph():
    lines = ["See [1]_.", "", ".. [1] C. Schuldt and B. Caputo,", "       ICPR 2004.", "", "    a"]
    references_to_list(None, "module", "stce", None, None, lines)
    assert lines[0] == "See [1]." and lines[5] == "    a"
    document = publish_doctree("\n".join(lines[2:4]))
    (item,) = document.findall(nodes.list_item)
    assert [type(child) for child in item.children] == [nodes.paragraph]
    assert item.astext() == "C. Schuldt and B. Caputo,\nICPR 2004."


def test_no_page_names_a_folder_of_this_machine(html):
    named = [path.name for path in pages(html) if str(ROOT) in path.read_text("utf-8")]
    assert named == []


def test_no_link_or_picture_is_missing(html):
    for path in pages(html):
        missing = [a for a in Page(path).local() if not (path.parent / a).exists()]
        assert missing == [], path.name


def test_a_number_of_a_table_leads_to_the_line_that_made_it(html):
    table = (html / "book" / "pages" / "table_1.html").read_text()
    (link,) = set(re.findall(r"href=['\"]([^'\"]*)['\"]>\d+\.\d</a>", table))
    file, _, section = link.partition("#")
    page = (html / "book" / "pages" / file).read_text()
    _, found, rest = page.partition(f'<section id="{section}"')
    assert found, link
    assert "ablation.run(" in re.sub("<[^>]*>", "", rest.partition("<section")[0])


def test_a_real_browser_plays_the_concepts_in_the_book(html, tmp_path):
    if find() is None:
        pytest.skip("no Chromium or Chrome on this machine")
    with Browser(tmp_path) as browser:
        browser.open(html / "notebooks" / "explore.html")
        view = "document.querySelector('.stce-explorer')"
        browser.wait(f"{view}.querySelector('video').readyState == 4")
        said = browser.evaluate(f"{view}.querySelector('video').getAttribute('aria-label')")
        assert browser.evaluate(f"{view}.querySelector('video').videoWidth") > 0
        browser.evaluate(
            f"(() => {{ const list = {view}.querySelector('[data-part=concept]'); "
            "list.value = 3; list.dispatchEvent(new Event('change')); })()"
        )
        browser.wait(f"{view}.querySelector('video').readyState == 4")
        assert said != browser.evaluate(f"{view}.querySelector('video').getAttribute('aria-label')")
        assert {url.split(":")[0] for url in browser.requests()} <= {"file", "data", "blob"}


def test_every_picture_says_in_words_what_it_shows(html):
    for path in pages(html):
        for tag in re.findall(r"<img[^>]*>", path.read_text()):
            alt = re.search(r'alt="([^"]*)"', tag)
            assert alt and len(alt[1]) > 15 and not alt[1].endswith(".png"), (path.name, tag[:100])


def test_formulas_have_their_script(html):
    page = (html / "book" / "method.html").read_text()
    assert page.count('class="math notranslate nohighlight"') > 5
    assert "_static/js/tex-svg.js" in page


def test_every_public_module_is_in_the_api(html):
    import stce

    found = pkgutil.walk_packages(stce.__path__, "stce.")
    public = {m.name for m in found if not re.search(r"\._|^stce\.datasets\.render", m.name)}
    rooms = "".join(path.read_text() for path in (html / "book" / "api").glob("*.html"))
    index = (html / "book" / "api.html").read_text()
    packages = {name for name in public if hasattr(importlib.import_module(name), "__path__")}
    assert {name for name in public if f'id="module-{name}"' not in rooms} == set()
    assert {name for name in public - packages if f"#module-{name}" not in index} == set()


def test_tables_fit_the_page(html, tmp_path):
    if find() is None:
        pytest.skip("no Chromium or Chrome on this machine")
    wider = """JSON.stringify([...document.querySelectorAll('.cell_output .output, article')]
        .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText.slice(0, 60)))"""
    with Browser(tmp_path) as browser:
        for path in (*html.glob("notebooks/*.html"), *html.glob("book/pages/*.html")):
            browser.open(path, width=1300)
            assert browser.evaluate(wider) == "[]", path.name


def test_a_build_changes_nothing_outside_its_folder(html):
    assert not (ROOT / "book" / "_build").exists()
    assert not (ROOT / "notebooks" / "_build").exists()


@pytest.mark.parametrize("broken", ["notebooks", "npm"])
def test_build_says_what_is_missing(broken, tmp_path, monkeypatch):
    if broken == "notebooks":
        with pytest.raises(SystemExit, match="no notebook in"):
            build.build(tmp_path)
    else:
        monkeypatch.setenv("PATH", str(tmp_path))
        assert build.fetch_scripts(tmp_path / "scripts") is False
