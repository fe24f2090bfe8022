import pytest


@pytest.mark.parametrize(("value", "on"), [("1", True), ("0", False)])
def test_the_environment_switches_the_check_mode_on(fresh, value, on):
    program = "from wnrl.nn import cache; print(cache.check())"
    assert fresh(program, WNRL_CHECK_FROZEN=value) == f"{on}\n"
