import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from wnrl.errors import UsageError
from wnrl.rl.statistics import load_statistics, save_statistics, statistics_of


class Noise(gym.Env):
    """Draws observations of a space."""

    action_space = spaces.Discrete(2)

    def __init__(self, space):
        self.observation_space = space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 1.0, bool(self.np_random.random() < 0.1), False, {}


VECTOR, OTHER = spaces.Box(-2, 3, (3,)), spaces.Box(0, 5, (2,))
BOTH = spaces.Dict({"x": VECTOR, "y": OTHER})


def vector(space):
    return DummyVecEnv([lambda: Noise(space)] * 2)


def normalized(space, **others):
    env = VecNormalize(vector(space), clip_obs=1.5, gamma=0.9, epsilon=1e-3, **others)
    env.seed(0)
    env.reset()
    for _ in range(20):
        env.step(np.zeros(2, int))
    return env


@pytest.mark.parametrize(
    ("space", "others"),
    [
        (VECTOR, {}),
        (VECTOR, {"norm_obs": False}),
        (BOTH, {}),
        (BOTH, {"norm_obs_keys": ["y"]}),
    ],
)
def test_an_environment_with_the_saved_statistics_scales_as_the_one_that_was_saved(
    tmp_path, space, others
):
    env = normalized(space, **others)
    save_statistics(tmp_path / "vecnormalize.npz", statistics_of(env))
    again = load_statistics(vector(space), tmp_path / "vecnormalize.npz")
    for name in ("clip_obs", "clip_reward", "gamma", "epsilon", "norm_obs", "norm_obs_keys"):
        assert getattr(again, name) == getattr(env, name)
    obs = env.venv.reset()
    np.testing.assert_equal(again.normalize_obs(obs), env.normalize_obs(obs))
    assert (again.training, again.norm_reward) == (False, False)
    again.norm_reward = True
    np.testing.assert_array_equal(
        again.normalize_reward(np.ones(2)), env.normalize_reward(np.ones(2))
    )


def test_a_copy_of_statistics_stays_as_it_is():
    env = normalized(VECTOR)
    numbers = statistics_of(env)
    before = numbers["obs/mean"].copy()
    env.step(np.zeros(2, int))
    np.testing.assert_array_equal(numbers["obs/mean"], before)


@pytest.mark.parametrize("space", [OTHER, BOTH])
def test_statistics_of_other_observations_are_refused(tmp_path, space):
    save_statistics(tmp_path / "vecnormalize.npz", statistics_of(normalized(VECTOR)))
    with pytest.raises(UsageError, match="statistics of observations do not fit"):
        load_statistics(vector(space), tmp_path / "vecnormalize.npz")


def test_objects_in_a_file_of_statistics_are_not_read(tmp_path):
    numbers = statistics_of(normalized(VECTOR))
    np.savez(tmp_path / "vecnormalize.npz", **{**numbers, "obs/mean": np.array([object()])})
    with pytest.raises(UsageError, match=r"holds no statistics: it is damaged, or neither"):
        load_statistics(vector(VECTOR), tmp_path / "vecnormalize.npz")
