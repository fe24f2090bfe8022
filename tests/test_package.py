"""The names of the package itself, which import torch at their first use."""

import subprocess
import sys
from pathlib import Path

import pytest

import wnrl
import wnrl.nn

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "wnrl"


@pytest.mark.parametrize("name", ["wnrl", "wnrl.errors", "wnrl.tags"])
def test_what_a_program_needs_to_parse_its_flags_does_not_import_torch(name):
    program = f"import sys, {name}\nprint('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], cwd=ROOT) == b"False\n"


def test_every_public_name_is_there_and_listed_and_the_same_each_time():
    for name in wnrl.__all__:
        assert getattr(wnrl, name) is getattr(wnrl, name)
        assert name in dir(wnrl)
    assert wnrl.WNLinear is wnrl.nn.WNLinear


def test_all_names_can_be_imported_at_once(fresh):
    code = "from wnrl import *\nimport wnrl\nprint(sorted(set(wnrl.__all__) - set(globals())))"
    assert fresh(code) == "[]\n"


def test_the_room_of_the_layers_is_an_attribute_without_an_import_of_its_own(fresh):
    same = "wnrl.nn.WNLinear is wnrl.WNLinear, wnrl.norms.NORMS is wnrl.NORMS"
    assert fresh(f"import wnrl\nprint({same})") == "True True\n"


def test_a_name_that_does_not_exist_is_an_attribute_error():
    for module in (wnrl, wnrl.nn):
        with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute"):
            module.WNLienar  # noqa: B018


EACH_FIRST = """
import importlib, os, sys
import stable_baselines3, torch.distributions, torch.utils.tensorboard
for name in sys.argv[1:]:
    if (child := os.fork()) == 0:
        try:
            importlib.import_module(name)
        except BaseException as error:
            print(name, repr(error), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_every_room_and_every_module_of_layers_can_be_imported_before_all_others(fresh):
    found = (path for glob in ("*.py", "*/__init__.py", "nn/*.py") for path in LIBRARY.glob(glob))
    paths = [path.relative_to(ROOT).with_suffix("") for path in found]
    names = sorted(".".join(path.parts).removesuffix(".__init__") for path in paths)
    assert "wnrl.norms" in names
    assert fresh(EACH_FIRST, *names) == ""


NO_MODULES = """
import importlib, pkgutil, types, wnrl
for module in pkgutil.walk_packages(wnrl.__path__, "wnrl."):
    importlib.import_module(module.name)
    room, _, name = module.name.rpartition(".")
    if not isinstance(getattr(importlib.import_module(room), name), types.ModuleType):
        print(module.name)
"""


def test_no_public_name_hides_the_module_of_its_name(fresh):
    assert fresh(NO_MODULES) == ""
