import pickle

import gymnasium as gym
import numpy as np
import pytest

from envs import NO_VELOCITY, MaskVelocity
from wnrl.errors import UsageError

INSTALLED = ["CartPoleNoVel-v1", "MountainCarNoVel-v0", "PendulumNoVel-v1"]


@pytest.mark.parametrize("env_id", INSTALLED)
def test_masked_task_is_its_base_task_with_zeros_for_velocities(env_id):
    base_id, velocities = NO_VELOCITY[env_id]
    base, masked = gym.make(base_id), gym.make(env_id)
    seen, _ = base.reset(seed=3)
    hidden, _ = masked.reset(seed=3)
    for step in range(30):
        kept = [i for i in range(len(seen)) if i not in velocities]
        np.testing.assert_array_equal(hidden[kept], seen[kept])
        np.testing.assert_array_equal(hidden[list(velocities)], 0)
        assert not np.signbit(hidden[list(velocities)]).any()
        assert masked.observation_space.contains(hidden)
        base.action_space.seed(step)
        action = base.action_space.sample()
        seen, reward, terminated, truncated, _ = base.step(action)
        hidden, masked_reward, masked_terminated, masked_truncated, _ = masked.step(action)
        assert (reward, terminated, truncated) == (
            masked_reward,
            masked_terminated,
            masked_truncated,
        )
        if terminated or truncated:
            break


@pytest.mark.parametrize("env_id", NO_VELOCITY)
def test_every_masked_id_is_registered_with_the_limit_of_its_base(env_id):
    base_id, _ = NO_VELOCITY[env_id]
    assert gym.spec(env_id).max_episode_steps == gym.spec(base_id).max_episode_steps
    assert gym.spec(env_id).reward_threshold == gym.spec(base_id).reward_threshold


@pytest.mark.parametrize("places", [[], [4], [-1], [0, 7]])
def test_places_outside_the_observation_are_refused(places):
    with pytest.raises(UsageError, match=r"velocities must be places in 0\.\.3, got"):
        MaskVelocity(gym.make("CartPole-v1"), places)


def test_an_observation_that_is_no_vector_is_refused():
    with pytest.raises(UsageError, match="needs a Box of one axis"):
        MaskVelocity(gym.make("FrozenLake-v1"), [0])


def test_a_velocity_whose_bounds_exclude_zero_is_refused():
    env = gym.make("CartPole-v1")
    env.observation_space = gym.spaces.Box(1.0, 2.0, (4,))
    with pytest.raises(UsageError, match="cannot be zero"):
        MaskVelocity(env, [1])


def test_a_masked_environment_is_made_again_from_its_pickled_spec():
    spec = pickle.loads(pickle.dumps(gym.make("CartPoleNoVel-v1").spec))
    obs, _ = gym.make(spec).reset(seed=0)
    np.testing.assert_array_equal(obs[[1, 3]], 0)


def test_envs_imports_neither_sb3_nor_agents_nor_what_single_tasks_need(fresh):
    code = (
        "import sys, envs; "
        "others = {'stable_baselines3', 'agents', 'ale_py', 'minatar', 'pygame'}; "
        "print(sorted(others & set(sys.modules)))"
    )
    assert fresh(code) == "[]\n"
