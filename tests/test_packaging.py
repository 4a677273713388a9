"""The files that say what to install agree with one another and with the README."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
DESIGN_CARD = (
    "jupyter-book papermill torch pytorchvideo scikit-image scikit-learn seaborn ipywidgets nbval"
).split()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
PINNED = {canonicalize_name(pin.name): pin for pin in PINS}


def requirements():
    """Every requirement of pyproject.toml, with the extra it stands in."""
    groups = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    return [pytest.param(Requirement(r), id=f"{g}:{r}") for g, rs in groups.items() for r in rs]


@pytest.mark.parametrize("requirement", requirements())
def test_a_requirement_has_a_lower_bound_that_its_pin_satisfies(requirement):
    assert any(bound.operator == ">=" for bound in requirement.specifier)
    pin = PINNED[canonicalize_name(requirement.name)]
    (exact,) = pin.specifier
    assert requirement.specifier.contains(exact.version)


def test_constraints_are_exact_portable_pins():
    for pin in PINS:
        (exact,) = pin.specifier
        assert exact.operator == "==", pin
        assert pin.url is None, pin
        # A local part, as in 2.13.0+cpu, exists on one index only.
        assert Version(exact.version).local is None, pin
    assert len(PINNED) == len(PINS), "a package is pinned twice"
    assert "stce" not in PINNED


def test_pins_install_on_every_python_that_is_promised():
    oldest = PROJECT["requires-python"].removeprefix(">=") + ".0"
    seen = 0
    for pin in PINS:
        try:
            installed = metadata.distribution(pin.name)
        except metadata.PackageNotFoundError:
            continue
        if pin.specifier.contains(installed.version):
            seen += 1
            wanted = SpecifierSet(installed.metadata.get("Requires-Python") or "")
            assert wanted.contains(oldest), f"{pin} wants Python {wanted}"
    assert seen > len(PINS) / 2, "this environment was not made from constraints.txt"


def test_environment_file_installs_the_pinned_set():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = (d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert "-c constraints.txt" in pip
    assert "-e .[book,test]" in pip
    assert "pip" in environment["dependencies"]
    assert set(DESIGN_CARD) <= set(pip)
    (python,) = (d for d in environment["dependencies"] if str(d).startswith("python="))
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python[7:])


def test_the_studys_own_packages_are_required_by_the_extras_that_are_installed():
    extras = PROJECT["optional-dependencies"]
    named = {Requirement(r).name for r in PROJECT["dependencies"] + extras["book"] + extras["test"]}
    assert set(DESIGN_CARD) <= named


def test_jupyter_book_stays_below_2():
    (book,) = (r for r in PROJECT["optional-dependencies"]["book"] if r.startswith("jupyter-book"))
    assert not Requirement(book).specifier.contains("2.0.0")


def test_every_imported_package_is_required():
    imported = set()
    for module in (ROOT / "stce").rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.split(".")[0])
    names = {"PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn"}
    names["google_crc32c"] = "google-crc32c"
    names |= {"yaml": "pyyaml", "IPython": "ipykernel", "nbclient": "papermill"}  # what brings it
    wanted = {names.get(name, name) for name in imported - sys.stdlib_module_names - {"stce"}}
    assert wanted <= {Requirement(r).name for r in PROJECT["dependencies"]}


def test_readme_commands_are_the_pinned_nox_and_what_ci_runs():
    readme = (ROOT / "README.md").read_text()
    commands = re.findall(r"^python3 -m venv .*nox==.* -s .*$", readme, re.M)
    assert [c.split("-s ")[1] for c in commands] == ["book", "lint check"]
    assert all(f"nox=={next(iter(PINNED['nox'].specifier)).version} " in c for c in commands)
    assert commands[1] in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize(
    "name",
    "book notebooks stce data _config.yml _toc.yml environment.yml noxfile.py README.md".split(),
)
def test_top_level_of_the_design_card_is_there(name):
    assert (ROOT / name).exists()


def test_nox_sessions_are_short():
    lines = (ROOT / "noxfile.py").read_text().split("\n\n\n")
    sessions = [block for block in lines if block.startswith(("@job", "@nox.session"))]
    names = {re.search(r"def (\w+)", block).group(1) for block in sessions}
    assert {"book", "check", "tests", "nbval", "lint", "study"} <= names
    assert max(len(block.strip().splitlines()) for block in sessions) < 15
