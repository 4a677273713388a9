"""The house keeps its shape: rooms, arrows between them, and limits on what one place may hold."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "stce"
LINES, MODULE_LINES, FOLDER_MODULES, FRONT_LINES, PARAMETERS = 18_700, 400, 11, 3_300, 12

# The method, in the order of the paper.
METHOD = ("supervoxels", "features", "concepts", "cav", "tcav", "masking", "ablation", "curves")
SEEN_BY_METHOD = {"engine", "clips", *METHOD}
EXPLANATION = SEEN_BY_METHOD | {"models", "videos"}
# What an explanation is judged by, before it is shown, and what it tells of one clip.
JUDGES = {"evaluation.verdict", "evaluation.significance"}
JUDGES |= {"evaluation.effects.contributions", "evaluation.effects.depth", "evaluation.trust"}
# What each room may import, beside itself. Nobody imports the package as a whole.
MAY_IMPORT = {
    "engine": set(),
    "videos": {"engine"},
    "models": {"engine", "videos.compat"},
    "clips": {"engine", "videos"},
    "datasets": {"engine", "videos", "clips"},
    "training": {"engine", "videos", "models", "clips"},
    **dict.fromkeys(METHOD, SEEN_BY_METHOD),
    "explanation": EXPLANATION | {"datasets.negatives", *JUDGES},
    "evaluation": EXPLANATION | {"explanation"},
    "viz": {"engine", "videos.frames"},
    "study": {"engine", "videos", "models", "clips", "datasets", "training", *METHOD}
    | {"explanation", "evaluation", "viz"},
    "__init__": {"explanation"},
}

# Names that a module gives because somebody calls every such module by them: `datasets.load` the
# loaders, `models.build` the architectures, Python a command's `main`.
PROTOCOL = {
    "assess": "evaluation",
    "load": "datasets",
    "CLASSES": "datasets",
    "PARTS": "datasets",
    "blocks": "models",
    "LAYER": "models",
    "DROPOUT": "models",
    "main": "",
}
MANY_PARAMETERS = {"explain", "train"}


def modules() -> dict[str, ast.Module]:
    """Return the syntax tree of every module of the package, by its name below ``stce``."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()


def imported(name: str) -> set[str]:
    """Return the modules of the package that one of them imports, anywhere in it."""
    found = set()
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports by a relative path"
            # `from stce.engine import threads` takes a module, `from stce.cav import unit` a name.
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    known = set()
    for target in found:
        if target.split(".")[0] == "stce":
            parts = target.split(".")[1:]
            for n in range(len(parts), 0, -1):
                one = ".".join(parts[:n])
                if one in MODULES or f"{one}.__init__" in MODULES:
                    known.add(one if one in MODULES else f"{one}.__init__")
                    break
            else:
                known.add("__init__")
    return known - {name}


def room(name: str) -> str:
    """Return the room of a module: its sub-package, or itself if it stands in front."""
    return name.split(".")[0]


@pytest.mark.parametrize("name", MODULES)
def test_arrows_point_one_way(name):
    allowed = MAY_IMPORT[room(name)]
    for target in imported(name):
        plain = target.removesuffix(".__init__")
        same = room(target) == room(name)
        assert same or {room(target), plain} & allowed, f"stce.{name} may not import {plain}"


def test_modules_form_no_circle():
    arrows = {name: imported(name) for name in MODULES}
    done, above = set(), []

    def visit(name):
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name not in done:
            above.append(name)
            for target in arrows[name]:
                visit(target)
            done.add(above.pop())

    for name in MODULES:
        visit(name)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_read_in_one_sitting(name):
    assert lines(name) <= MODULE_LINES


def lines(name: str) -> int:
    path = PACKAGE.joinpath(*name.split(".")).with_suffix(".py")
    return len(path.read_text(encoding="utf-8").splitlines())


def test_a_folder_is_taken_in_at_a_glance():
    folders = defaultdict(list)
    for name in MODULES:
        folders[name.rpartition(".")[0]].append(name)
    assert {f: len(held) for f, held in folders.items() if len(held) > FOLDER_MODULES} == {}


def test_the_method_stands_in_front():
    front = {name for name in MODULES if "." not in name}
    assert front == {"__init__", "clips", *METHOD, "explanation"}
    assert sum(map(lines, front)) <= FRONT_LINES


def test_the_package_stays_within_its_budget():
    assert sum(map(lines, MODULES)) <= LINES


@pytest.mark.parametrize("name", MODULES)
def test_a_call_fits_in_the_head(name):
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.FunctionDef) and node.name not in MANY_PARAMETERS:
            given = node.args
            taken = [*given.posonlyargs, *given.args, *given.kwonlyargs]
            taken = [a.arg for a in taken if a.arg not in ("self", "cls")]
            taken += [a.arg for a in (given.vararg, given.kwarg) if a]
            assert len(taken) <= PARAMETERS, f"{node.name} takes {len(taken)}"


def public(name: str) -> set[str]:
    """Return the names that a module defines at its top and does not mark as its own."""
    found = set()
    for node in MODULES[name].body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {one for one in found if not one.startswith("_")}


def test_a_name_stands_for_one_thing():
    places = defaultdict(set)
    for name in MODULES:
        for one in public(name):
            if not (one in PROTOCOL and name.startswith(PROTOCOL[one])):
                places[one].add(name)
    assert {one: sorted(where) for one, where in places.items() if len(where) > 1} == {}


@pytest.mark.parametrize("name", MODULES)
def test_a_network_is_asked_for_nothing_that_it_may_lack(name):
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
            asked = node.func.id in ("getattr", "hasattr")
            who = node.args[0]
            assert not (asked and isinstance(who, ast.Name) and who.id in ("network", "net"))
