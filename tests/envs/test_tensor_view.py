import gymnasium as gym
import numpy as np
import pytest

from envs import TensorView, factory
from wnrl.errors import UsageError
from wnrl.tensor_envs import make
from wnrl.tensor_envs.memory import DOWN, FORWARD, UP


def start(env, goal):
    """Reset until the sign points to ``goal``."""
    for seed in range(50):
        obs, _ = env.reset(seed=seed)
        if obs[goal - UP] == 1:
            return obs
    raise AssertionError("no such sign in 50 episodes")


@pytest.mark.parametrize("goal", [UP, DOWN])
@pytest.mark.parametrize("turn", [UP, DOWN])
def test_a_turn_at_the_junction_ends_the_episode_and_is_judged_by_the_sign(goal, turn):
    env = factory("TMaze-memory3-v0")()
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
    env = factory("TMaze-memory1-v0")()
    sign = start(env, UP)
    obs, reward, terminated, _, _ = env.step(DOWN)
    np.testing.assert_array_equal(obs, sign)
    assert (reward, terminated) == (-0.1, False)
    env.step(FORWARD)
    obs, reward, terminated, _, _ = env.step(FORWARD)
    np.testing.assert_array_equal(obs, [0, 0, 1])
    assert (reward, terminated) == (-0.1, False)


@pytest.mark.parametrize(("env_id", "limit"), [("TMaze-v0", 18), ("TMazeLong-v0", 82)])
def test_time_is_up_after_twice_the_way(env_id, limit):
    env = factory(env_id)()
    env.reset(seed=0)
    ends = [env.step(UP)[3] for _ in range(limit)]
    assert ends == [False] * (limit - 1) + [True]


@pytest.mark.parametrize(
    "env_id", ["TMaze-v0", "TMazeLong-v0", "RepeatPrevious-memory31-v0", "DelayedMatch-v0"]
)
def test_spaces_and_limits_are_those_of_the_tensor_environment(env_id):
    view, env = factory(env_id)(), make(env_id)
    assert view.observation_space == env.observation_space
    assert view.action_space == env.action_space
    assert view.spec.max_episode_steps == env.max_episode_steps


def test_views_do_not_share_the_generators_of_their_spaces():
    first, second = (factory("TMaze-v0")() for _ in range(2))
    first.action_space.seed(1)
    second.action_space.seed(1)
    expected = [first.action_space.sample() for _ in range(20)]
    second.action_space.sample()
    assert [second.action_space.sample() for _ in range(19)] == expected[1:]


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0", "Pendulum-v1"])
def test_a_view_steps_as_gymnasium_does(env_id):
    view, theirs = TensorView(env_id), gym.make(env_id).unwrapped
    view.reset(seed=0)
    theirs.reset(seed=0)
    leaves = [*view._state.values()]
    theirs.state = np.stack(leaves) if len(leaves) > 1 else leaves[0]
    theirs.action_space.seed(0)
    for _ in range(10):
        action = theirs.action_space.sample()
        (obs, *rest), (their_obs, *their_rest) = view.step(action), theirs.step(action)
        np.testing.assert_allclose(obs, their_obs, rtol=1e-6, atol=1e-6)
        assert obs.dtype == np.float32
        assert rest[0] == pytest.approx(their_rest[0], abs=1e-6)
        assert rest[1:] == their_rest[1:]


def test_an_environment_without_a_tensor_form_is_refused():
    with pytest.raises(UsageError, match=r"^env_id must be one of .*, got 'FrozenLake-v1'"):
        TensorView("FrozenLake-v1")
