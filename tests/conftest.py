"""What every test starts from."""

import signal

import pytest
import torch
from torch.distributions import Distribution

from wnrl.nn import cache

# A shell starts background jobs with SIGINT ignored, which programs that tests interrupt would
# inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers for a test, whichever tests ran before it."""
    torch.manual_seed(0)
    Distribution.set_default_validate_args(True)  # which torch.compile ends for the whole process


@pytest.fixture
def unchecked():
    """No check mode, which computes every kept weight again."""
    before = cache.check(False)
    yield
    cache.check(before)
