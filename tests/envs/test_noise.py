import gymnasium as gym
import numpy as np
import pytest

from envs import GaussianNoise, factory
from wnrl.errors import UsageError


def test_noise_has_the_given_deviations_and_leaves_the_task_alone():
    plain, noisy = gym.make("Pendulum-v1"), GaussianNoise(gym.make("Pendulum-v1"), 0.1, 2.0)
    seen = [(plain.reset(seed=1)[0], noisy.reset(seed=1)[0])]
    rewards = []
    for k in range(199):
        action = np.array([np.sin(k)], np.float32)
        a, b = plain.step(action), noisy.step(action)
        seen.append((a[0], b[0]))
        rewards.append((a[1], b[1]))
    obs_noise = np.diff(np.array(seen, np.float64), axis=1)
    reward_noise = np.diff(np.array(rewards), axis=1)
    assert obs_noise.std() == pytest.approx(0.1, rel=0.15)
    assert abs(obs_noise.mean()) < 0.02
    assert reward_noise.std() == pytest.approx(2.0, rel=0.15)
    assert noisy.observation_space.dtype == np.float32


def test_no_noise_is_the_plain_task():
    plain, noisy = gym.make("CartPole-v1"), GaussianNoise(gym.make("CartPole-v1"), 0.0, 0.0)
    np.testing.assert_array_equal(plain.reset(seed=1)[0], noisy.reset(seed=1)[0])


@pytest.mark.parametrize("wrong", [{"obs_std": -1.0}, {"reward_std": float("nan")}])
def test_a_deviation_that_is_none_is_refused(wrong):
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} must be zero or above, got"):
        GaussianNoise(gym.make("CartPole-v1"), **{"obs_std": 0.0, "reward_std": 0.0, **wrong})


@pytest.mark.parametrize("env_id", ["FrozenLake-v1", "CartPolePixels-v1"])
def test_observations_that_are_no_real_numbers_are_refused(env_id):
    with pytest.raises(UsageError, match="needs a Box of real numbers"):
        GaussianNoise(factory(env_id)(), 0.1, 0.0)


def test_a_noisy_environment_is_made_again_from_its_spec():
    env = gym.make(gym.make("PendulumNoisy-v1").spec)
    assert (env.obs_std, env.reward_std) == (0.1, 2.0)
