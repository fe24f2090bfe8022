"""scripts/_env.sh, with an environment that writes down what it is asked to install."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PYTHON = (
    '#!/bin/bash\n[[ "$*" == *"pip install"* ]] && echo "$*" >>"$(dirname "$0")/asked"\n'
    '[[ "$*" == *"import torch"* ]] && [[ -z "${HAS_TORCH:-}" ]] && exit 1\nexit 0\n'
)


@pytest.fixture
def installed(tmp_path):
    """A function that installs an extra; it returns what pip was asked and what was told."""
    (tmp_path / "scripts").mkdir()
    for name in ("scripts/_env.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(CHECKOUT / name, tmp_path / name)
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)

    def install(**variables):
        code = f"set -eu; source '{tmp_path}/scripts/_env.sh'; enter_environment; install_extra lab"
        done = subprocess.run(
            ["bash", "-c", code], capture_output=True, text=True, check=True,
            env={"PATH": "/usr/bin:/bin", "VIRTUAL_ENV": str(tmp_path / "venv"), **variables},
        )  # fmt: skip
        asked = python.with_name("asked")
        lines = asked.read_text().splitlines() if asked.exists() else []
        asked.unlink(missing_ok=True)
        return lines, done.stderr

    return install


def test_what_is_installed_is_said_with_its_size_and_pip_is_not_silent(installed):
    (asked,), told = installed()
    assert "--editable" in asked
    assert "--quiet" not in asked
    assert "GB" in told
    assert "PyTorch" in told


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no builds with CUDA")
def test_builds_without_cuda_are_offered_where_there_is_no_pytorch_yet(installed):
    pinned = re.search(r"^torch==\S+", (CHECKOUT / "constraints.txt").read_text(), re.MULTILINE)
    (_,), told = installed(HAS_TORCH="")
    assert f"build for CPUs ({pinned[0]}) into" in told


def test_a_pytorch_that_is_there_is_kept(installed):
    (_,), told = installed(HAS_TORCH="1")
    assert "about 0.5 GB" in told
    assert "build for CPUs" not in told


def test_a_second_call_installs_nothing_and_says_nothing(installed):
    installed()
    assert installed() == ([], "")
