import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs import GAMES, factory
from wnrl.tensor_envs import WORLDS

OURS = [
    "TMaze-v0",
    "RepeatPrevious-v0",
    "DelayedMatch-v0",
    *(env_id for env_id in WORLDS if "Lunar" not in env_id),
    "CartPole-obs_noise0.1-obs_dropout0.2-delay2-sticky0.25-hidden1-v1",
    "Pendulum-delay1-sticky0.25-v1",
    *GAMES,
]


@pytest.fixture
def make():
    made = []

    def make(env_id):
        if env_id in GAMES:
            pytest.importorskip("minatar")
        made.append(factory(env_id)())
        return made[-1]

    yield make
    for env in made:
        env.close()


# Of the base tasks: Pendulum's actions go to 2, CartPole's velocities and noise to infinity.
@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
@pytest.mark.filterwarnings("ignore:.*we recommend using a symmetric and normalized space")
@pytest.mark.filterwarnings("ignore:.*value is -?infinity")
@pytest.mark.parametrize("env_id", OURS)
def test_it_is_as_gymnasium_wants_it(make, env_id):
    check_env(make(env_id), skip_render_check=True)


def play(env, seed, n_steps=25):
    seen = [env.reset(seed=seed)[0]]
    rewards = []
    env.action_space.seed(seed)
    for _ in range(n_steps):
        obs, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        assert env.observation_space.contains(obs)
        seen.append(obs)
        rewards.append(reward)
        if terminated or truncated:
            seen.append(env.reset()[0])
    return np.stack(seen), rewards


@pytest.mark.parametrize("env_id", OURS)
def test_a_seed_decides_the_episodes_that_follow(make, env_id):
    env = make(env_id)
    first, first_rewards = play(env, 5)
    again, again_rewards = play(env, 5)
    np.testing.assert_array_equal(first, again)
    assert first_rewards == again_rewards


@pytest.mark.parametrize("env_id", OURS)
def test_different_seeds_give_different_episodes(make, env_id):
    env = make(env_id)
    assert len({play(env, seed, 8)[0].tobytes() for seed in range(4)}) > 1


@pytest.mark.parametrize("env_id", OURS)
def test_a_seed_can_be_as_large_as_that_of_the_last_run(make, env_id):
    make(env_id).reset(seed=100_000 * (2**31 - 1))


@pytest.mark.parametrize(
    ("env_id", "base_id"),
    [(name, world.base) for name, world in WORLDS.items() if not world.memory],
)
def test_it_has_the_limits_of_its_base(env_id, base_id):
    assert gym.spec(env_id).max_episode_steps == gym.spec(base_id).max_episode_steps
    assert gym.spec(env_id).reward_threshold == gym.spec(base_id).reward_threshold
