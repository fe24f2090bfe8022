"""The rooms and the arrows between them, read from the source and held against the drawing."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOPS = ("wnrl", "agents", "envs", "scripts")
SB3 = {"stable_baselines3", "sb3_contrib"}
GROUND = {"errors", "tags", "arguments", "limits", "_version", "wnrl"}  # known to all, not drawn
MAY_IMPORT_SB3 = {"sb3", "rl", "agents"}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for top in TOPS for path in sorted((ROOT / top).rglob("*.py"))}


def room(module):
    """Return the room of a module: below wnrl its first folder or file, else the top level.

    ``wnrl.norms`` hands out the table of norms that ``wnrl.nn`` has: one room.
    """
    top, *rest = module.split(".")
    name = rest[0] if top == "wnrl" and rest else top
    return "nn" if name == "norms" else name


def imported(path):
    """Yield every module that a file names in an import, inside of functions and hints too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} has a relative import"
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                yield inside if inside in FILES else node.module


IMPORTS = {name: set(imported(path)) - {name} for name, path in FILES.items()}


def drawing():
    """Return the rooms of CONTRIBUTING's drawing, from the top floor down, and their arrows."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```text\n([^`]* → [^`]*)```", text)
    lines = [line.partition("→") for line in block.splitlines() if line.strip()]
    return {name.strip(): set(rooms.split()) for name, _, rooms in lines}


def test_the_drawing_has_every_arrow_and_no_other():
    arrows = {}
    for name, targets in IMPORTS.items():
        to = {room(target) for target in targets if target in FILES} - GROUND - {room(name)}
        if room(name) not in GROUND:
            arrows.setdefault(room(name), set()).update(to)
    assert arrows == drawing()


def test_every_arrow_of_the_drawing_points_down():
    above = []
    for name, rooms in drawing().items():
        assert not rooms & {*above}, f"{name} imports a room above it"
        above.append(name)


def test_no_files_import_each_other_in_a_circle():
    left = {name: targets & FILES.keys() for name, targets in IMPORTS.items()}
    while leaves := {name for name, targets in left.items() if not targets & left.keys()}:
        left = {name: targets for name, targets in left.items() if name not in leaves}
    assert not left, f"in a circle, or above one: {sorted(left)}"


@pytest.mark.parametrize("name", FILES)
def test_stable_baselines3_is_imported_where_it_belongs(name):
    if room(name) not in MAY_IMPORT_SB3:
        assert not {module.split(".")[0] for module in IMPORTS[name]} & SB3


def test_the_library_imports_nothing_that_is_outside_of_it():
    for name, targets in IMPORTS.items():
        if name.split(".")[0] == "wnrl":
            assert not {target.split(".")[0] for target in targets} & {"agents", "envs", "scripts"}


def test_importing_the_library_is_light(fresh):
    heavy = [*SB3, "tensorboard", "pandas", "matplotlib", "sklearn", "scipy", "tyro", "rich"]
    program = (
        "import sys, torch, wnrl, wnrl.vae, wnrl.nn, wnrl.data\n"
        f"print([name for name in {heavy!r} if name in sys.modules], torch.cuda.is_initialized())"
    )
    assert fresh(program) == "[] False\n"


@pytest.mark.parametrize(("room", "name"), [("nn", "convert"), ("diagnostics", "curvature")])
def test_a_star_imports_what_a_room_has_for_users_and_no_more(room, name):
    namespace = {}
    exec(f"from wnrl.{room} import *", namespace)
    assert name in namespace
    assert "guard" not in namespace
