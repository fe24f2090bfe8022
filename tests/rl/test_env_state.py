import random
from collections import deque

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.utils import EzPickle
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

import envs
from wnrl.rl.env_state import UnsavableError, load_envs, save_envs
from wnrl.rl.environments import vectorize
from wnrl.runs.files import read_values, write_values


@pytest.fixture
def through_a_file(tmp_path):
    """What comes back of values that were written."""

    def write_and_read(values):
        write_values(tmp_path / "file", "state", values)
        return read_values(tmp_path / "file", "state")

    return write_and_read


def played(env_id, seed, steps=30, normalize="both"):
    env = vectorize(envs.factory(env_id), 2, seed, normalize)
    env.action_space.seed(seed)
    env.reset()
    for _ in range(steps):
        env.step(np.stack([env.action_space.sample() for _ in range(2)]))
    return env


def seen(env, actions):
    """What an environment answers to actions; whole episodes, random starts among them."""
    answers = []
    for action in actions:
        obs, rewards, dones, infos = env.step(np.stack([action, action]))
        answers += [
            np.copy(obs),
            rewards,
            dones,
            [info.get("episode", {}).get("r") for info in infos],
        ]
    return answers


@pytest.mark.parametrize(
    "env_id",
    ["CartPole-v1", "CartPoleNoVel-v1", "CartPoleNoisy-v1", "Acrobot-v1", "Pendulum-v1",
     "MountainCarContinuous-v0", "TMaze-v0", "FrozenLake-v1", "MinAtarBreakout-v1",
     "RepeatPrevious-v0", "CartPole-obs_dropout0.1-delay2-sticky0.25-v1"],
)  # fmt: skip
def test_episodes_go_on_where_they_were_and_later_ones_begin_alike(env_id, through_a_file):
    if env_id.startswith("MinAtar"):
        pytest.importorskip("minatar")
    env = played(env_id, seed=0)
    other = vectorize(envs.factory(env_id), 2, 7, "both")
    assert load_envs(other, through_a_file(save_envs(env)))
    env.action_space.seed(3)
    actions = [env.action_space.sample() for _ in range(100)]
    np.testing.assert_equal(seen(other, actions), seen(env, actions))


def test_games_of_atari_begin_anew(through_a_file):
    pytest.importorskip("ale_py")
    env = played("BreakoutNoFrameskip-v4", seed=0, normalize="none")
    other = vectorize(envs.factory("BreakoutNoFrameskip-v4"), 2, 7)
    saved = through_a_file(save_envs(env))
    assert saved["episodes"] is None
    assert not load_envs(other, saved)


class Inner:
    """A part of an environment."""

    def __init__(self, owner):
        self.owner, self.numbers = owner, [1.0]


class Rich(CartPoleEnv):
    """Holds one of each kind of thing that can be saved."""

    def __init__(self):
        super().__init__()
        self.inner = Inner(self)
        self.shared = self.inner.numbers
        self.by_name = {0: [], 1: []}
        self.recent = deque(maxlen=3)
        self.legacy = np.random.RandomState(0)
        self.python = random.Random(0)
        self.grid = np.zeros((2, 3), order="F")
        self.module, self.kind, self.function = np, float, envs.factory

    def step(self, action):
        self.shared.append(float(self.python.random() + self.legacy.rand()))
        self.by_name[len(self.shared) % 2].append((self.shared[-1], {3, 5}))
        self.recent.append(self.inner.numbers[-1])
        self.grid += 1.0
        return super().step(action)


def vector(kind):
    env = VecNormalize(DummyVecEnv([lambda: Monitor(kind())]))
    env.seed(0)
    env.reset()
    return env


def stepped(env, steps=5):
    for _ in range(steps):
        env.step(np.array([0]))
    return env


def test_objects_get_back_what_they_held_and_what_they_shared(through_a_file):
    env = stepped(vector(Rich))
    other = stepped(vector(Rich), 2)
    assert load_envs(other, through_a_file(save_envs(env)))
    for each in (env, other):
        stepped(each, 3)
    one, two = (each.venv.envs[0].unwrapped for each in (env, other))
    assert two.shared is two.inner.numbers
    assert two.inner.owner is two
    assert two.recent.maxlen == 3
    for name in ("shared", "by_name", "recent", "grid", "state"):
        np.testing.assert_equal(getattr(two, name), getattr(one, name))


class Rebuilt(CartPoleEnv, EzPickle):
    """Pickles its arguments, as Box2D's and MuJoCo's environments do, and loses its state."""

    def __init__(self):
        CartPoleEnv.__init__(self)
        EzPickle.__init__(self)


class Drawn(CartPoleEnv):
    """Holds something that is more than values."""

    def __init__(self):
        super().__init__()
        self.window = (frame for frame in ())


class Windows(CartPoleEnv):
    """Holds an array and a part of it."""

    def __init__(self):
        super().__init__()
        self.whole = np.zeros(4)
        self.half = self.whole[:2]


class Counting(CartPoleEnv):
    """Holds a function with a memory of its own."""

    def __init__(self):
        super().__init__()
        steps = []
        self.count = lambda: steps.append(1)


class Recursive(CartPoleEnv):
    """Holds a function that holds itself."""

    def __init__(self):
        super().__init__()

        def again():
            return again

        self.again = again


class Emptied(CartPoleEnv):
    """Holds a function of a variable that is gone."""

    def __init__(self):
        super().__init__()
        goal = 0.0
        self.distance = lambda: goal  # noqa: F821
        del goal


UNSAVABLE = [Rebuilt, Drawn, Windows, Counting, Recursive, Emptied]


@pytest.mark.parametrize("kind", UNSAVABLE)
def test_environments_that_lose_their_state_are_not_saved_but_their_statistics_are(
    kind, through_a_file
):
    env = stepped(vector(kind))
    saved = through_a_file(save_envs(env))
    assert saved["episodes"] is None
    other = vector(kind)
    assert not load_envs(other, saved)
    np.testing.assert_array_equal(other.obs_rms.mean, env.obs_rms.mean)
    np.testing.assert_array_equal(other.returns, env.returns)


def marked(number):
    def function():
        return 0

    function.number = number
    return function


MAKERS = {
    "closure": lambda number: lambda: number,
    "default": lambda number: lambda number=number: number,
    "keyword": lambda number: lambda *, number=number: number,
    "nested": lambda number: (lambda inner: lambda: inner)(lambda: number),
    "chosen": lambda number: (lambda: 0) if number else (lambda: 1),
    "attribute": marked,
}


class Holding(CartPoleEnv):
    """Holds a function that was made with a number."""

    def __init__(self, make, number):
        super().__init__()
        self.function = make(number)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_episodes_go_on_where_functions_hold_the_same_and_begin_anew_elsewhere(
    make, through_a_file
):
    saved = through_a_file(save_envs(stepped(vector(lambda: Holding(make, 0)))))
    assert load_envs(vector(lambda: Holding(make, 0)), saved)
    assert not load_envs(vector(lambda: Holding(make, 1)), saved)


def test_environments_in_other_processes_are_not_saved():
    env = SubprocVecEnv([envs.factory("CartPole-v1")], start_method="spawn")
    try:
        env.reset()
        assert save_envs(env)["episodes"] is None
    finally:
        env.close()


class Growing(CartPoleEnv):
    """Makes objects while it runs."""

    def __init__(self):
        super().__init__()
        self.things = []

    def step(self, action):
        self.things.append(Inner(self))
        return super().step(action)


class Renamed(CartPoleEnv):
    """Another class."""


@pytest.mark.parametrize(("saved_kind", "kind"), [(Growing, Growing), (CartPoleEnv, Renamed)])
def test_an_object_that_is_not_here_is_not_made_and_nothing_is_half_restored(saved_kind, kind):
    saved = save_envs(stepped(vector(saved_kind)))
    assert saved["episodes"] is not None
    other = vector(kind)
    made_here = other.venv.envs[0]
    assert not load_envs(other, saved)
    assert other.venv.envs[0] is made_here
    assert made_here.unwrapped.state is not None
    assert made_here.unwrapped.steps_beyond_terminated is None
    assert not getattr(made_here.unwrapped, "things", [])


def test_wrappers_of_another_kind_are_refused():
    saved = save_envs(stepped(vector(CartPoleEnv)))
    plain = DummyVecEnv([lambda: gym.make("CartPole-v1")])
    with pytest.raises((UnsavableError, ValueError)):
        load_envs(plain, saved)


@pytest.mark.parametrize("normalize", ["reward", "both"])
@pytest.mark.parametrize("env_id", ["MinAtarBreakout-v1", "CartPole-v1"])
@pytest.mark.filterwarnings("ignore:Treating image space")
def test_stacked_frames_under_a_normaliser_are_saved(env_id, normalize, through_a_file):
    def made():
        return vectorize(envs.factory(env_id), 2, 0, normalize, frame_stack=3)

    env, other = made(), made()
    env.reset()
    for _ in range(9):
        env.step(np.zeros(2, int))
    saved = through_a_file(save_envs(env))
    assert load_envs(other, saved)
    for _ in range(9):
        here, there = env.step(np.ones(2, int)), other.step(np.ones(2, int))
        assert all(map(np.array_equal, here[:3], there[:3]))
