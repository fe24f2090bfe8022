"""The arrows between the rooms, read from the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("wnrl", "agents", "envs", "scripts")
MAY_IMPORT = {
    "wnrl": {"wnrl"},
    "agents": {"agents", "envs", "wnrl"},  # a runner, importable by name, makes environments
    "envs": {"envs", "wnrl"},
    "scripts": {"scripts", "agents", "envs", "wnrl"},
}
SB3 = {"stable_baselines3", "sb3_contrib"}


def imported(path):
    """Every module that a file names in an import, with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} has a relative import"
            yield node.module, node.lineno


def files():
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def test_there_is_something_to_check():
    assert len(files()) > 20


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_arrows(path):
    room = path.relative_to(ROOT).parts[0]
    library_of_sb3 = any(path.is_relative_to(ROOT / "wnrl" / name) for name in ("sb3", "rl"))
    for module, line in imported(path):
        top = module.split(".")[0]
        if top in ROOMS:
            assert top in MAY_IMPORT[room], f"{path}:{line} imports {module}"
        if top in SB3:
            inside = library_of_sb3 or room == "agents"
            assert inside, f"{path}:{line} imports {module}"
        if module.startswith("wnrl.sb3"):
            allowed = library_of_sb3 or room in ("agents", "scripts")
            assert allowed, f"{path}:{line} imports {module}"


def test_importing_the_library_is_light():
    heavy = [*SB3, "tensorboard", "pandas", "matplotlib", "sklearn", "scipy", "tyro", "rich"]
    program = (
        "import sys, torch, wnrl, wnrl.vae, wnrl.nn, wnrl.data\n"
        f"print([name for name in {heavy!r} if name in sys.modules], torch.cuda.is_initialized())"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert shown.strip() == "[] False"
