"""What every test starts from."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributions import Distribution

from wnrl.nn import cache

# A shell starts background jobs with SIGINT ignored, and nohup a job with SIGHUP, which programs
# that tests interrupt would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers for a test, whichever tests ran before it."""
    torch.manual_seed(0)
    Distribution.set_default_validate_args(True)  # which torch.compile ends for the whole process


@pytest.fixture(autouse=True)
def precise(request):
    """Float32 on a GPU as on the CPU: cuDNN's convolutions and recurrences take TF32 by default."""
    if "gpu" not in request.keywords:
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.fixture(scope="session")
def fresh(tmp_path_factory):
    """What ``python -c program *words`` prints; torch is all that it has imported before."""
    files = [str(tmp_path_factory.mktemp("fresh") / name) for name in ("stdout", "stderr")]
    tests, pipe = Path(__file__).parent, subprocess.PIPE
    command = [sys.executable, tests / "fresh_process.py"]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=tests.parent) as forks:

        def run(program, *words, **environment):
            order = json.dumps([program, list(map(str, words)), environment, files])
            print(order, file=forks.stdin, flush=True)
            code = forks.stdout.readline().strip()
            out, err = (Path(path).read_text() for path in files)
            assert code == "0", err
            return out

        yield run


@pytest.fixture
def unchecked():
    """No check mode, which computes every kept weight again."""
    before = cache.check(False)
    yield
    cache.check(before)
