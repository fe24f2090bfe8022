import numpy as np
import pytest

from envs import TMaze, factory
from envs.memory import DOWN, FORWARD, UP
from wnrl.errors import UsageError


def start(env, goal):
    """Resets until the sign points to ``goal``."""
    for seed in range(50):
        obs, _ = env.reset(seed=seed)
        if obs[goal - UP] == 1:
            return obs
    raise AssertionError("no such sign in 50 episodes")


@pytest.mark.parametrize("goal", [UP, DOWN])
@pytest.mark.parametrize("turn", [UP, DOWN])
def test_turning_at_the_junction_ends_the_episode_and_is_judged_by_the_sign(goal, turn):
    env = TMaze(length=3)
    seen = [start(env, goal)]
    for _ in range(3):
        obs, reward, terminated, _, _ = env.step(FORWARD)
        assert (reward, terminated) == (0.0, False)
        seen.append(obs)
    _, reward, terminated, truncated, _ = env.step(turn)
    assert (reward, terminated, truncated) == (1.0 if turn == goal else -1.0, True, False)
    sign = [float(goal == UP), float(goal == DOWN), 0.0]
    np.testing.assert_array_equal(seen, [sign, [0, 0, 0], [0, 0, 0], [0, 0, 1]])


def test_a_wall_costs_a_tenth_and_moves_nobody():
    env = TMaze(length=1)
    sign = start(env, UP)
    obs, reward, terminated, _, _ = env.step(DOWN)
    np.testing.assert_array_equal(obs, sign)
    assert (reward, terminated) == (-0.1, False)
    env.step(FORWARD)
    obs, reward, terminated, _, _ = env.step(FORWARD)
    np.testing.assert_array_equal(obs, [0, 0, 1])
    assert (reward, terminated) == (-0.1, False)


def test_time_is_up_after_twice_the_way():
    env = factory("TMaze-v0")()
    env.reset(seed=0)
    ends = [env.step(UP)[3] for _ in range(18)]
    assert ends == [False] * 17 + [True]


def test_a_corridor_has_a_cell():
    with pytest.raises(UsageError, match="length must be above zero, got 0"):
        TMaze(length=0)
