import os
import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.utils import EzPickle
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import envs
from wnrl.errors import UsageError
from wnrl.rl.env_state import dump, load, load_envs, save_envs
from wnrl.rl.environments import vectorize


def played(env_id, seed, steps=30, normalize=True):
    env = vectorize(envs.factory(env_id), 2, seed, normalize)
    env.action_space.seed(seed)
    env.reset()
    for _ in range(steps):
        env.step(np.stack([env.action_space.sample() for _ in range(2)]))
    return env


def seen(env, actions):
    """What an environment answers to actions; whole episodes, random starts among them."""
    found = []
    for action in actions:
        obs, rewards, dones, infos = env.step(np.stack([action, action]))
        found += [
            np.copy(obs),
            rewards,
            dones,
            [info.get("episode", {}).get("r") for info in infos],
        ]
    return found


@pytest.mark.parametrize(
    "env_id",
    ["CartPole-v1", "CartPoleNoVel-v1", "Acrobot-v1", "Pendulum-v1", "MountainCarContinuous-v0",
     "MinAtarBreakout-v1"],
)  # fmt: skip
def test_episodes_go_on_where_they_were_and_later_ones_begin_alike(env_id):
    if env_id.startswith("MinAtar"):
        pytest.importorskip("minatar")
    env = played(env_id, seed=0)
    wrappers, episodes = save_envs(env)
    other = vectorize(envs.factory(env_id), 2, 7, True)
    assert load_envs(other, wrappers, episodes)
    env.action_space.seed(3)
    actions = [env.action_space.sample() for _ in range(100)]
    np.testing.assert_equal(seen(other, actions), seen(env, actions))


def test_games_of_atari_go_on_where_they_were():
    pytest.importorskip("ale_py")
    env = played("BreakoutNoFrameskip-v4", seed=0, normalize=False)
    wrappers, episodes = save_envs(env)
    other = vectorize(envs.factory("BreakoutNoFrameskip-v4"), 2, 7)
    assert load_envs(other, wrappers, episodes)
    actions = [k % 4 for k in range(60)]
    np.testing.assert_equal(seen(other, actions), seen(env, actions))


class Rebuilt(CartPoleEnv, EzPickle):
    """Pickles its arguments, as Box2D's and MuJoCo's environments do, and loses its state."""

    def __init__(self):
        CartPoleEnv.__init__(self)
        EzPickle.__init__(self)


class Drawn(CartPoleEnv):
    """Holds something that no pickle takes."""

    def __init__(self):
        super().__init__()
        self.window = (frame for frame in ())


@pytest.mark.parametrize("kind", [Rebuilt, Drawn])
def test_environments_that_lose_their_state_are_not_saved_but_their_statistics_are(kind):
    def make():
        env = VecNormalize(DummyVecEnv([lambda: Monitor(kind())]))
        env.seed(0)
        env.reset()
        return env

    env = make()
    for _ in range(5):
        env.step(np.array([0]))
    wrappers, episodes = save_envs(env)
    assert episodes is None
    other = make()
    assert not load_envs(other, wrappers, episodes)
    np.testing.assert_array_equal(other.obs_rms.mean, env.obs_rms.mean)
    np.testing.assert_array_equal(other.returns, env.returns)


class Harmful:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("echo harm",)


def test_a_saved_state_cannot_run_code(capfd):
    env = vectorize(envs.factory("CartPole-v1"), 1, 0)
    wrappers, _ = save_envs(env)
    with pytest.raises(UsageError, match=r"names posix\.system, which has no place in it"):
        load_envs(env, wrappers, pickle.dumps(Harmful()))
    assert capfd.readouterr().out == ""


def test_a_state_has_only_classes_of_what_it_is_for():
    data = dump([gym.make("CartPole-v1")])
    with pytest.raises(UsageError, match="has no place in it"):
        load(data)
    assert isinstance(load(data, like=data)[0].unwrapped, CartPoleEnv)
