"""scripts/_env.sh, with an environment that writes down what it is asked to install."""

import shutil
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PYTHON = (
    '#!/bin/bash\n[[ "$*" == *"pip install"* ]] && echo "$*" >>"$(dirname "$0")/asked"\nexit 0\n'
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


def test_builds_without_cuda_are_offered(installed):
    (asked,), told = installed()
    assert "WNRL_CPU=1" in told or "about 0.5 GB" in told  # where there are no others
    assert "--extra-index-url" not in asked


def test_builds_without_cuda_are_taken_if_asked_for(installed):
    (asked,), told = installed(WNRL_CPU="1")
    assert "/whl/cpu" in asked
    assert "about 0.5 GB" in told


def test_a_second_call_installs_nothing_and_says_nothing(installed):
    installed()
    assert installed() == ([], "")
