import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("value", "on"), [("1", True), ("0", False)])
def test_the_environment_switches_the_check_mode_on(value, on):
    program = "from wnrl.nn import cache; print(cache.check())"
    shown = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "WNRL_CHECK_FROZEN": value},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip() == str(on)
