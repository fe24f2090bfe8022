"""Worlds as Gymnasium's environments, and both forms of a world against each other."""

import pickle
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import DelayObservation
from scipy.stats import ks_2samp

from envs import WorldWrapper, factory
from wnrl.errors import UsageError
from wnrl.tensor_envs import TENSOR_ENVS, WORLDS, World
from wnrl.tensor_envs.core import advance, begin

N_ENVS, N_STEPS = 60, 40


@dataclass(frozen=True)
class Echo:
    """Shows the action that was carried out; pays it, too."""

    observation_space: ClassVar[spaces.Box] = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space: ClassVar[spaces.Box] = spaces.Box(-1.0, 1.0, (1,), np.float32)
    max_episode_steps: ClassVar[int] = 1000
    reset_draws: ClassVar[int] = 1
    step_draws: ClassVar[int] = 0

    def reset(self, u):
        return {"last": u * 0 + 1}

    def observe(self, state):
        return state["last"].clone()

    def step(self, state, actions, u):
        return {"last": actions}, actions[..., 0], torch.zeros_like(actions[..., 0], dtype=bool)


class Picture(gym.Env):
    """Shows pictures in bytes."""

    observation_space = spaces.Box(0, 255, (8, 8, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.picture(), {}

    def step(self, action):
        return self.picture(), 0.0, False, False, {}

    def picture(self):
        return self.np_random.integers(0, 256, (8, 8, 3), np.uint8)


@pytest.fixture(autouse=True)
def others(monkeypatch):
    monkeypatch.setitem(TENSOR_ENVS, "Echo-v0", Echo)
    before = set(gym.registry)
    gym.register("Picture-v0", Picture)
    yield
    for env_id in set(gym.registry) - before:
        del gym.registry[env_id]


def actions_of(n_steps, n_envs):
    """Random actions, ``(n_steps, n_envs, 1)`` in float32."""
    return np.random.default_rng(5).uniform(-1, 1, (n_steps, n_envs, 1)).astype(np.float32)


def as_wrapper(world, n_envs, actions):
    """Play; return what was seen ``(T + 1, N, n)`` and paid ``(T, N)``."""
    make = factory(world.id)
    seen, paid = [], []
    for k in range(n_envs):
        env = make()
        obs, _ = env.reset(seed=k)
        steps = [env.step(action) for action in actions[:, k]]
        seen.append([obs, *(step[0] for step in steps)])
        paid.append([step[1] for step in steps])
    return np.stack(seen, 1), np.stack(paid, 1)


def as_tensors(world, n_envs, actions):
    """The same of the tensor form; a world's draws begin with those of its base."""
    env, generator = world.tensor_env(), torch.Generator().manual_seed(1)

    def draw(n, more):
        u = torch.rand(n_envs, n, generator=generator, dtype=torch.float64)
        return torch.cat((u, torch.rand(n_envs, more, dtype=torch.float64)), -1)

    base = TENSOR_ENVS[world.base]()
    episodes = begin(env, draw(base.reset_draws, env.reset_draws - base.reset_draws))
    seen, paid = [episodes.obs], []
    for action in torch.from_numpy(actions).double():
        episodes, step = advance(env, episodes, action, draw(0, env.step_draws + env.reset_draws))
        seen.append(step.final_obs)
        paid.append(step.rewards)
    return torch.stack(seen).numpy(), torch.stack(paid).numpy()


both_forms = pytest.mark.parametrize("play", [as_wrapper, as_tensors])


@both_forms
def test_noise_has_the_given_deviations_and_leaves_the_task_alone(play):
    actions = actions_of(N_STEPS, N_ENVS)
    plain_seen, plain_paid = play(World("Pendulum-v1"), N_ENVS, actions)
    noisy = World("Pendulum-v1", obs_noise=0.1, reward_noise=2.0)
    seen, paid = play(noisy, N_ENVS, actions)
    for noise, std in ((seen - plain_seen, 0.1), (paid - plain_paid, 2.0)):
        assert noise.std() == pytest.approx(std, rel=0.05)
        assert abs(noise.mean()) < 4 * std / noise.size**0.5
        assert abs(np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1]) < 0.1


@both_forms
def test_an_observation_is_seen_late_and_zeros_before_the_first_one(play):
    actions = actions_of(8, 2)
    plain_seen, plain_paid = play(World("Pendulum-v1"), 2, actions)
    seen, paid = play(World("Pendulum-v1", delay=3), 2, actions)
    np.testing.assert_array_equal(seen[:3], 0)
    np.testing.assert_array_equal(seen[3:], plain_seen[:-3])
    np.testing.assert_array_equal(paid, plain_paid)


@both_forms
def test_hidden_places_are_zero_without_a_sign_and_the_others_as_they_were(play):
    actions = actions_of(30, 4)
    plain_seen, plain_paid = play(World("Pendulum-v1"), 4, actions)
    seen, paid = play(World("Pendulum-v1", hidden=(0, 2)), 4, actions)
    np.testing.assert_array_equal(seen[..., [0, 2]], 0)
    assert not np.signbit(seen[..., [0, 2]]).any()
    np.testing.assert_array_equal(seen[..., 1], plain_seen[..., 1])
    np.testing.assert_array_equal(paid, plain_paid)


@both_forms
def test_observations_are_lost_whole_and_as_often_as_said(play):
    actions = actions_of(N_STEPS, N_ENVS)
    plain_seen, _ = play(World("Pendulum-v1"), N_ENVS, actions)
    seen, _ = play(World("Pendulum-v1", obs_dropout=0.3), N_ENVS, actions)
    lost = (seen == 0).all(-1)
    assert lost.mean() == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / lost.size) ** 0.5)
    assert lost[0].any()
    np.testing.assert_array_equal(seen[~lost], plain_seen[~lost])


@both_forms
def test_the_action_before_is_carried_out_again_as_often_as_said(play):
    asked = actions_of(N_STEPS, N_ENVS)
    seen, _ = play(World("Echo-v0", sticky=0.25), N_ENVS, asked)
    done = seen[1:].astype(np.float32)
    repeated = done[1:] == done[:-1]
    assert ((done[1:] == asked[1:]) | repeated).all()
    assert repeated.mean() == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / repeated.size) ** 0.5)
    np.testing.assert_array_equal(done[0], asked[0])


def test_both_forms_of_a_world_have_one_distribution():
    world = World(
        "Pendulum-v1", obs_noise=0.2, reward_noise=0.5, obs_dropout=0.1, delay=2, sticky=0.3,
        hidden=(1,),
    )  # fmt: skip
    actions = np.sign(actions_of(6, 400))  # the same for all in a step
    actions[:] = actions[:, :1]
    ours, theirs = as_tensors(world, 400, actions), as_wrapper(world, 400, actions)
    for our_numbers, their_numbers in zip(ours, theirs, strict=True):
        for at_one_time in zip(our_numbers, their_numbers, strict=True):
            for column in zip(
                *(numbers.reshape(400, -1).T for numbers in at_one_time), strict=True
            ):
                assert ks_2samp(*column).pvalue > 1e-3


def test_a_delay_is_that_of_gymnasium():
    ours = factory("CartPole-delay2-v1")()
    theirs = DelayObservation(gym.make("CartPole-v1"), delay=2)
    for seed in range(2):
        np.testing.assert_array_equal(ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0])
        for _ in range(6):
            np.testing.assert_array_equal(ours.step(1)[0], theirs.step(1)[0])


def test_the_noise_of_a_seed_is_what_it_was():
    env, plain = gym.make("CartPoleNoisy-v1"), gym.make("CartPole-v1")
    noise = np.random.default_rng([3, 1])

    def noisy(obs):
        return (obs + 0.05 * noise.standard_normal(4)).astype(np.float32)

    for seed in (3, None):
        np.testing.assert_array_equal(env.reset(seed=seed)[0], noisy(plain.reset(seed=seed)[0]))
        for _ in range(5):
            (obs, reward, *_), (plain_obs, plain_reward, *_) = env.step(1), plain.step(1)
            assert reward == plain_reward + 0.5 * noise.standard_normal()
            np.testing.assert_array_equal(obs, noisy(plain_obs))


def test_the_first_action_of_an_episode_is_as_asked():
    env = factory("Echo-sticky0.9-v0")()
    for k in range(20):
        env.reset()
        assert env.step(np.full(1, k / 32, np.float32))[1] == k / 32


def test_an_action_that_its_caller_writes_into_is_repeated_as_it_was():
    env, action, done = factory("Echo-sticky0.9-v0")(), np.zeros(1, np.float32), []
    env.reset(seed=0)
    for k in range(5):
        action[0] = k / 8
        done.append(float(env.step(action)[0][0]))
    assert done[1:] != [1 / 8, 2 / 8, 3 / 8, 4 / 8]
    assert all(after in (before, k / 8) for k, (before, after) in enumerate(pairwise(done), 1))


@pytest.mark.parametrize(
    ("base", "dials", "message"),
    [
        ("FrozenLake-v1", {"obs_noise": 0.1}, "needs a Box as observation, got Discrete"),
        ("FrozenLake-v1", {"delay": 1}, "needs a Box as observation, got Discrete"),
        ("Picture-v0", {"obs_noise": 0.1}, "needs a Box of real numbers"),
        ("Picture-v0", {"hidden": (0,)}, "hidden needs a vector as observation"),
        ("CartPole-v1", {"hidden": (0, 7)}, r"hidden must be places in 0\.\.3, got \(0, 7\)"),
        ("CartPole-v1", {"memory": 7}, "memory is no dial of CartPole-v1, got 7"),
        ("LunarLander-v3", {"memory": 7}, "memory is no dial of LunarLander-v3, got 7"),
    ],
)
def test_a_dial_that_does_not_fit_the_environment_is_refused(base, dials, message):
    with pytest.raises(UsageError, match=message):
        factory(World(base, **dials).id)


@pytest.mark.parametrize(
    ("world", "base"),
    [
        (World("FrozenLake-v1", sticky=0.5, reward_noise=1.0), "FrozenLake-v1"),
        (World("Picture-v0", delay=1, obs_dropout=0.5), "Picture-v0"),
    ],
)
def test_environments_without_a_tensor_form_have_dials_too(world, base):
    env = factory(world.id)()
    assert env.observation_space == gym.make(base).observation_space
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(20):
        obs, _, terminated, truncated, _ = env.step(env.action_space.sample())
        assert env.observation_space.contains(obs)
        if terminated or truncated:
            env.reset()
    env.close()


class _Counter(gym.Env):
    """Counts its steps in the one array that it gives out."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.seen = np.ones(1, np.float32)
        return self.seen, {}

    def step(self, action):
        self.seen += 1
        return self.seen, 0.0, False, False, {}


def test_what_an_environment_writes_into_is_seen_late_as_it_was():
    env = WorldWrapper(_Counter(), World("Counter-v0", delay=2))
    seen = [env.reset()[0], *(env.step(0)[0] for _ in range(4))]
    assert [float(obs[0]) for obs in seen] == [0, 0, 1, 2, 3]


def test_bounds_are_widened_for_zeros_and_lost_with_noise():
    env = gym.make("Pendulum-v1")
    env.observation_space = spaces.Box(1.0, 2.0, (3,))
    late, noisy = (WorldWrapper(env, World("Pendulum-v1", **dial)).observation_space
                   for dial in ({"delay": 1}, {"obs_noise": 0.1}))  # fmt: skip
    assert (late.low.max(), late.high.min()) == (0, 2)
    assert np.isinf(noisy.low).all()
    assert noisy.dtype == np.float32


def test_a_world_is_made_again_from_its_pickled_spec():
    spec = pickle.loads(pickle.dumps(gym.make("PendulumNoisy-v1").spec))
    assert gym.make(spec).world == WORLDS["PendulumNoisy-v1"]


def test_a_factory_registers_its_world_where_it_arrives():
    pickled = pickle.dumps(factory("CartPole-delay2-v1"))
    del gym.registry["CartPole-delay2-v1"]  # as in another process
    assert pickle.loads(pickled)().world == World("CartPole-v1", delay=2)


def test_a_world_around_an_environment_of_a_module_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_poles.py").write_text(
        "import gymnasium as gym\n"
        "gym.register('Mine-v0', gym.spec('CartPole-v1').entry_point, max_episode_steps=7)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    env = factory("my_poles:Mine-delay2-v0")()
    assert (env.world.id, env.spec.max_episode_steps) == ("Mine-delay2-v0", 7)


def test_envs_imports_neither_sb3_nor_agents_nor_what_single_tasks_need(fresh):
    code = (
        "import sys, envs; "
        "others = {'stable_baselines3', 'agents', 'ale_py', 'minatar', 'pygame'}; "
        "print(sorted(others & set(sys.modules)))"
    )
    assert fresh(code) == "[]\n"
