import sys
from contextlib import closing
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize, unwrap_vec_normalize

import envs
from agents import AGENTS
from wnrl.errors import UsageError
from wnrl.rl.environments import vectorize, vectorize_for_evaluation
from wnrl.runs import Stopped


class Seen(gym.Env):
    """One step of zeros in the given space."""

    def __init__(self, space):
        self.observation_space, self.action_space = space, spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 1.0, True, False, {}


PICTURE = spaces.Box(0, 255, (12, 12, 3), np.uint8)
VECTOR = spaces.Box(-1.0, 1.0, (2,))


@pytest.mark.parametrize(
    ("space", "scaled"),
    [
        (VECTOR, None),
        (PICTURE, False),
        (spaces.Discrete(3), False),
        (spaces.Dict({"p": PICTURE, "x": VECTOR, "k": spaces.Discrete(2)}), ["x"]),
        (spaces.Dict({"p": PICTURE}), False),
    ],
)
def test_of_the_observations_vectors_alone_are_scaled(space, scaled):
    env = vectorize(lambda: Seen(space), 2, 0, normalize="both")
    assert isinstance(env, VecNormalize)
    assert env.norm_obs == (scaled is not False)
    assert env.norm_obs_keys == (scaled or None)
    env.reset()
    env.step([0, 0])
    other = vectorize_for_evaluation(lambda: Seen(space), 2, env)
    assert other.observation_space == env.observation_space
    assert not other.training
    assert not other.norm_reward
    if env.norm_obs:
        assert other.obs_rms is env.obs_rms
    other.reset()


def test_a_dict_in_a_dict_is_refused():
    nested = spaces.Dict({"part": spaces.Dict({"x": VECTOR})})
    with pytest.raises(UsageError, match="must be Box or discrete, or a Dict of them, got Dict"):
        vectorize(lambda: Seen(nested), 1, 0)


class Broken(Seen):
    """Does something at a moment of its own."""

    def __init__(self, moment, act):
        super().__init__(VECTOR)
        self.moment, self.act = moment, act

    def _at(self, moment):
        if moment == self.moment:
            self.act()

    def reset(self, *, seed=None, options=None):
        self._at("reset")
        return super().reset(seed=seed)

    def step(self, action):
        self._at("step")
        return super().step(action)

    def close(self):
        self._at("close")


def play_a_step(env):
    env.reset()
    env.step([0])


def fail():
    raise RuntimeError("the simulator\x1b[2J is gone\nat once")


@pytest.mark.parametrize("act", [fail, sys.exit])
@pytest.mark.parametrize(("moment", "word"), [("reset", "reset"), ("step", "stepped")])
def test_what_an_environment_raises_is_a_line_with_its_place(moment, word, act):
    env = vectorize(lambda: Broken(moment, act), 1, 0)
    with pytest.raises(UsageError, match=f"the environment cannot be {word}: ") as told:
        play_a_step(env)
    if act is fail:
        assert (
            "RuntimeError: the simulator\\x1b[2J is gone at once (test_environments.py, line "
            in str(told.value)
        )


def test_a_signal_that_stops_a_run_while_an_environment_steps_is_passed_on():
    def stop():
        raise Stopped(15, "stopped")

    env = vectorize(lambda: Broken("step", stop), 1, 0)
    env.reset()
    with pytest.raises(Stopped):
        env.step([0])


class Slips(Seen):
    """Gives other observations and infos than it should, from its second step on; three a game."""

    def __init__(self, space, obs=None, **info):
        super().__init__(space)
        self.obs, self.info = obs, info

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return super().reset(seed=seed)

    def step(self, action):
        self.steps += 1
        obs = super().step(action)[0]
        slips = self.obs is not None and self.steps > 1
        return self.obs if slips else obs, 1.0, self.steps == 3, False, dict(self.info)


@pytest.mark.parametrize(
    ("space", "obs", "told"),
    [
        (spaces.Discrete(3), 3, r"Discrete\(3\), got \[3\]"),
        (spaces.Discrete(3), -1, r"Discrete\(3\), got \[-1\]"),
        (spaces.MultiDiscrete([2, 3]), np.array([0, 3]), r"got \[\[0, 3\]\]"),
        (spaces.Dict({"k": spaces.Discrete(2), "x": VECTOR}), {"k": 2, "x": np.zeros(2)}, "got"),
    ],
)
def test_a_discrete_observation_beyond_its_space_is_a_line(space, obs, told):
    env = vectorize(lambda: Slips(space, obs), 1, 0)
    env.reset()
    env.step([0])
    with pytest.raises(UsageError, match=f"observations must be in .*{told}"):
        env.step([0])


def test_the_last_observation_of_an_episode_is_looked_at_too():
    class Last(Slips):
        def step(self, action):
            self.obs = 3 if self.steps == 2 else None
            return super().step(action)

    env = vectorize(lambda: Last(spaces.Discrete(3)), 1, 0)
    env.reset()
    env.step([0])
    env.step([0])
    with pytest.raises(UsageError, match="observations must be in"):
        env.step([0])


@pytest.mark.parametrize("said", [3, {"x": 1}, {"r": 99.0, "l": 1, "t": 0.0}])
def test_what_an_environment_calls_episode_counts_as_none(said):
    env = vectorize(lambda: Slips(VECTOR, episode=said), 1, 0)
    env.reset()
    infos = [env.step([0])[-1][0] for _ in range(3)]
    assert ["episode" in info for info in infos] == [False, False, True]
    assert (infos[-1]["episode"]["r"], infos[-1]["episode"]["l"]) == (3.0, 3)


def test_a_success_without_a_mean_is_a_line():
    env = vectorize(lambda: Slips(VECTOR, is_success="yes"), 1, 0)
    env.reset()
    env.step([0])
    env.step([0])
    with pytest.raises(UsageError, match=r"info\['is_success'\] must be True or False, got 'yes'"):
        env.step([0])


def test_an_environment_that_cannot_be_closed_is_told_and_nothing_is_lost(capsys):
    env = vectorize(lambda: Broken("close", fail), 1, 0)
    env.reset()
    env.close()
    told = capsys.readouterr().err
    assert told.startswith("the environment cannot be closed: RuntimeError: the simulator")
    assert told.count("\n") == 1


def test_images_become_channel_first_in_front_of_the_statistics():
    both = spaces.Dict({"p": PICTURE, "x": VECTOR})
    env = vectorize(lambda: Seen(both), 2, 0, normalize="both")
    env.reset()
    assert env.observation_space["p"].shape == (3, 12, 12)
    assert unwrap_vec_normalize(env).get_original_obs()["p"].shape == (2, 3, 12, 12)


@pytest.mark.parametrize("env_id", ["ALE/Breakout-v5", "BreakoutNoFrameskip-v4"])
def test_an_observation_of_an_atari_game_is_four_frames(env_id):
    pytest.importorskip("ale_py")
    make = envs.factory(env_id)
    with closing(vectorize(make, 2, 0)) as env:
        assert env.observation_space == spaces.Box(0, 255, (4, 84, 84), np.uint8)
        env.reset()
        obs = env.step([1, 1])[0]
        assert not np.array_equal(obs[:, 0], obs[:, 3])
        with closing(vectorize_for_evaluation(make, 1, env)) as other:
            assert other.observation_space == env.observation_space


def test_an_atari_agent_learns_life_by_life_and_is_judged_by_whole_games():
    pytest.importorskip("ale_py")
    with closing(vectorize(envs.factory("BreakoutNoFrameskip-v4"), 1, 0)) as env:
        env.action_space.seed(0)
        env.reset()
        lives, episode = 0, None
        while episode is None:
            _, _, dones, infos = env.step([env.action_space.sample()])
            lives += int(dones[0])
            episode = infos[0].get("episode")
    assert lives == 5
    assert episode["l"] > 400  # frames, of which the agent sees every fourth


def test_dqn_learns_from_an_atari_game():
    pytest.importorskip("ale_py")
    agent = AGENTS["dqn"]
    preset = agent.preset("BreakoutNoFrameskip-v4", "salimans2016")
    config = replace(preset, total_timesteps=48, learning_starts=40, buffer_size=64)
    with closing(vectorize(envs.factory("BreakoutNoFrameskip-v4"), 1, 0)) as env:
        model = agent.build(config, env, "weight", 0, "cpu").learn(48)
    assert type(model.policy).__name__ == "WNDQNCnnPolicy"
    assert model._n_updates == 2


def test_a_seed_starts_a_new_game_also_in_the_middle_of_one():
    pytest.importorskip("ale_py")
    make = envs.factory("BreakoutNoFrameskip-v4")

    def play(env):
        env.seed(7)
        seen = [env.reset()]
        for _ in range(30):  # some of which lose a life
            seen.append(env.step([0])[0])
        return np.stack(seen)

    with closing(vectorize_for_evaluation(make, 1, None)) as env:
        np.testing.assert_array_equal(play(env), play(env))


def test_what_is_scaled_can_be_chosen():
    for word, obs, reward in (("obs", True, False), ("reward", False, True), ("both", True, True)):
        env = vectorize(lambda: Seen(VECTOR), 2, 0, word)
        assert (env.norm_obs, env.norm_reward) == (obs, reward)
        other = vectorize_for_evaluation(lambda: Seen(VECTOR), 2, env)
        assert (other.norm_obs, other.norm_reward) == (obs, False)
    assert not isinstance(vectorize(lambda: Seen(VECTOR), 2, 0), VecNormalize)


@pytest.mark.parametrize("normalize", ["none", "both"])
def test_observations_can_be_stacked(normalize):
    env = vectorize(envs.factory("CartPole-v1"), 2, 0, normalize, frame_stack=3)
    assert env.observation_space.shape == (12,)
    other = vectorize_for_evaluation(envs.factory("CartPole-v1"), 2, env, 3)
    assert other.observation_space == env.observation_space
    first = other.reset()
    second = other.step([0, 0])[0]
    np.testing.assert_allclose(second[:, 4:8], first[:, 8:], atol=1e-5)
    with pytest.raises(UsageError, match="frame_stack 2 needs observations in a Box, got Discrete"):
        vectorize(lambda: Seen(spaces.Discrete(3)), 2, 0, frame_stack=2)
    with pytest.raises(UsageError, match="observations must hold a number or more, got Box"):
        vectorize(lambda: Seen(spaces.Box(-1.0, 1.0, ())), 2, 0, frame_stack=2)


def test_environments_in_processes_of_their_own_play_the_same():
    make = envs.factory("CartPole-v1")
    played = []
    for subprocesses in (False, True):
        with closing(vectorize(make, 2, 5, "both", subprocesses=subprocesses)) as env:
            steps = [env.reset(), *(env.step([k % 2, 1])[0] for k in range(30))]
            played.append(np.array(steps))
    np.testing.assert_array_equal(*played)
