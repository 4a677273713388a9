"""Build the book: ``python -m book.build NOTEBOOKS``, a folder of executed notebooks.

The book is built from a copy, so a build never changes a tracked file, and takes the place of
``_build/html`` only when it is complete. A warning is an error.
"""

import argparse
import shutil
import subprocess
import sys
import tarfile
from fnmatch import fnmatch
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]

# What the first page shows, made by stage visualize.
PICTURES = ("result.png", "motion.png")

# What a page needs besides the book's own files: package, files in it, folder in `_static/js`.
SCRIPTS = {
    "mathjax@3.2.2": ("package/es5/tex-svg.js", "."),
    "requirejs@2.3.8": ("package/require.js", "."),
    "@jupyter-widgets/html-manager@1.0.6": (
        "package/dist/embed-amd.js package/dist/*.woff2",
        "html-manager",
    ),
}
OFFLINE = {
    "html_static_path": ["book/static", "offline"],
    "mathjax_path": "js/tex-svg.js",
    "nb_ipywidgets_js": {
        "js/require.js": {},  # first: the other script calls it
        "js/html-manager/embed-amd.js": {"data-jupyter-widgets-cdn": "../_static/js/"},
    },
}


def fetch_scripts(folder: Path) -> bool:
    """Put the pages' scripts into `folder` with npm; False where npm is missing or fails.

    They weigh several megabytes, so they are fetched once and never committed.
    """
    done, wanted = folder / "packages", "\n".join(SCRIPTS)
    if done.exists() and done.read_text("utf-8") == wanted:
        return True
    npm = shutil.which("npm")
    if npm is None:
        return False
    shutil.rmtree(folder, ignore_errors=True)
    for package, (patterns, subfolder) in SCRIPTS.items():
        (folder / "js" / subfolder).mkdir(parents=True, exist_ok=True)
        command = [npm, "pack", "--silent", package]
        if subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL).returncode:
            return False
        (packed,) = folder.glob("*.tgz")
        with tarfile.open(packed) as archive:
            for member in archive.getmembers():
                if member.isreg() and any(
                    fnmatch(member.name, pattern) for pattern in patterns.split()
                ):
                    target = folder / "js" / subfolder / Path(member.name).name
                    target.write_bytes(archive.extractfile(member).read())
        packed.unlink()
    done.write_text(wanted, "utf-8")
    return True


def complete(folder: Path) -> list[Path]:
    """Return the notebooks of a folder, without those that a failed run left behind."""
    return [path for path in folder.glob("*.ipynb") if not path.stem.endswith(".failed")]


def stage(notebooks: Path, source: Path, scripts: Path | None) -> None:
    """Lay out in `source` what the book is made of, with the executed notebooks in place."""
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT / "book", source / "book", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "_toc.yml", source)
    (source / "notebooks").mkdir()
    # A chapter that looks across runs is not part of one run: its stored version is used.
    for notebook in [*complete(ROOT / "notebooks"), *complete(notebooks)]:
        shutil.copy(notebook, source / "notebooks")
    (source / "book" / "_images").mkdir(exist_ok=True)
    for picture in PICTURES:
        if (made := notebooks.parent / "visualize" / picture).is_file():
            shutil.copy(made, source / "book" / "_images")
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    if scripts is not None:
        shutil.copytree(scripts / "js", source / "offline" / "js")
        config["sphinx"]["config"] |= OFFLINE
    (source / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")


def build(notebooks: Path, work: Path = ROOT / "_build") -> Path:
    """Build the book below `work`; return the path of its ``index.html``."""
    if not complete(notebooks):
        raise SystemExit(f"There is no notebook in {notebooks}. Run `nox -s book` to make them.")
    scripts = ROOT / "_build" / "scripts"
    if not fetch_scripts(scripts):
        print("npm could not fetch MathJax and the widget scripts: the pages will ask a CDN for")
        print("them, and show raw formulas offline. Install npm and build again to avoid that.")
        scripts = None
    stage(notebooks, work / "source", scripts)
    program = shutil.which("jupyter-book", path=str(Path(sys.executable).parent))
    if program is None:
        raise SystemExit("jupyter-book is missing: python -m pip install -e '.[book]'")
    command = [program, "build", ".", "--path-output", str(work / "new"), "-W", "-n", "-q"]
    shutil.rmtree(work / "new", ignore_errors=True)
    # Warnings come on stderr; stdout names the temporary folder, which nobody should open.
    options = {"cwd": work / "source", "stdout": subprocess.DEVNULL}
    failed = subprocess.run([*command, "--keep-going"], **options).returncode
    made = work / "new" / "_build" / "html"
    if failed or not (made / "index.html").is_file():
        raise SystemExit("The book was not built: see the messages above.")
    shutil.rmtree(work / "html", ignore_errors=True)
    made.rename(work / "html")
    shutil.rmtree(work / "new")
    return work / "html" / "index.html"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", type=Path, help="folder of executed notebooks")
    parser.add_argument("--work", type=Path, default=ROOT / "_build", help="default: _build")
    options = parser.parse_args()
    print(build(options.notebooks.resolve(), options.work.resolve()))
