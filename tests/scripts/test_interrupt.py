import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPTS = CHECKOUT / "scripts"
PROGRAMS = sorted(
    str(path.relative_to(SCRIPTS))
    for path in (*SCRIPTS.glob("[a-z]*.py"), *SCRIPTS.glob("bench/[a-z]*.py"))
)
PROGRAM = """
import os, signal, sys
{start}
class AtImport:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, AtImport())
import runpy
sys.argv = [{script!r}, *{flags!r}]
print("started", flush=True)
runpy.run_path({script!r}, run_name="__main__")
"""


def started(name, module="", before="", flags=("--help",)):
    """A program, usually asked for help, with a Ctrl-C where it first imports ``module``."""
    script = str(SCRIPTS / name)
    code = PROGRAM.format(start=before, module=module, script=script, flags=flags)
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert child.stdout.readline() == "started\n"
    return child


@pytest.mark.parametrize("name", PROGRAMS)
def test_ctrl_c_while_a_program_parses_its_flags_ends_it_in_a_word_at_most(name):
    child = started(name, module="tyro")
    shown, told = child.communicate(timeout=60)
    assert shown.split("Usage:")[0] == ""
    assert told in ("", "interrupted\n")
    assert child.returncode == 130


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name.startswith("bench")])
def test_ctrl_c_while_a_program_imports_torch_ends_it_without_a_word(name):
    needed = ("one", "another") if name == "bench/verdicts.py" else ()
    child = started(name, module="torch", flags=needed)
    assert child.communicate(timeout=60) == ("", "")
    assert child.returncode == 130


# The other one shows the hyperparameters of a model, which are beside its class.
CHEAP = [name for name in PROGRAMS if name != "train_vae.py"]


@pytest.mark.parametrize("flag", ["--help", "--hlep"])
@pytest.mark.parametrize("name", CHEAP)
def test_help_and_a_mistyped_flag_do_not_wait_for_torch(name, flag):
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{str(SCRIPTS / name)!r}, {flag!r}]\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as left:\n    print(left.code, 'torch' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stderr.startswith("" if flag == "--help" else "error: ")
    assert ended.stdout.splitlines()[-1] == f"{0 if flag == '--help' else 2} False"


@pytest.mark.parametrize("seconds", [0.05, 0.3, 1.0, 2.0])
def test_ctrl_c_at_any_time_before_it_has_shown_its_help_ends_a_program(seconds):
    child = started("train_agent.py")
    time.sleep(seconds)
    child.send_signal(signal.SIGINT)
    _, told = child.communicate(timeout=60)
    assert told in ("", "interrupted\n")
    # 0 where it was faster; killed, which is 130 to a shell, when Python has dropped its handlers
    assert child.returncode in (130, 0, -signal.SIGINT)


def test_a_program_whose_parent_ignores_ctrl_c_ignores_it_too():
    ignore = "signal.signal(signal.SIGINT, signal.SIG_IGN)"
    child = started("sample_vae.py", module="tyro", before=ignore)
    shown, told = child.communicate(timeout=60)
    assert (child.returncode, told) == (0, "")
    assert "--run-dir" in shown


@pytest.mark.parametrize("moment", ["main", "exit"])
def test_ctrl_c_ends_a_program_with_130_while_it_works_and_while_it_leaves(moment):
    code = f"""
import atexit, os, signal, sys
sys.path.insert(0, {str(CHECKOUT)!r})
from scripts._interrupt import leave_at_ctrl_c
leave_at_ctrl_c()
from dataclasses import make_dataclass
from scripts import _cli
def stop(*_): os.kill(os.getpid(), signal.SIGINT)
if {moment!r} == "exit": atexit.register(stop)
_cli.run(stop if {moment!r} == "main" else print, make_dataclass("Args", []), argv=[])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert ended.returncode == 130
    assert ended.stderr == (b"interrupted\n" if moment == "main" else b"")
