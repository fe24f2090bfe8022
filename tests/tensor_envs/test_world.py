import pickle
import re

import numpy as np
import pytest
from gymnasium.envs.registration import ENV_ID_RE

from wnrl.errors import UsageError
from wnrl.tensor_envs import TENSOR_ENVS, WORLDS, RepeatPrevious, TMaze, World, make

IDS = {
    "CartPole-obs_noise0.1-v1": World("CartPole-v1", obs_noise=0.1),
    "CartPole-delay2-sticky0.25-v1": World("CartPole-v1", delay=2, sticky=0.25),
    "CartPole-hidden1.3-v1": World("CartPole-v1", hidden=(1, 3)),
    "Pendulum-reward_noise2-obs_dropout0.5-v1": World(
        "Pendulum-v1", reward_noise=2.0, obs_dropout=0.5
    ),
    "Pendulum-obs_noise0.0000001-v1": World("Pendulum-v1", obs_noise=1e-7),
    "TMaze-memory40-v0": World("TMaze-v0", memory=40),
    "RepeatPrevious-memory0-v0": World("RepeatPrevious-v0", memory=0),
    "ALE/Pong-sticky0.25-v5": World("ALE/Pong-v5", sticky=0.25),
    "NoVersion-delay1": World("NoVersion", delay=1),
    "Two-hidden-words-delay1-v12": World("Two-hidden-words-v12", delay=1),
}


@pytest.mark.parametrize("env_id", IDS)
def test_a_world_and_its_id_are_the_same_thing(env_id):
    world = IDS[env_id]
    assert world.id == env_id
    assert World.from_id(env_id) == world
    assert ENV_ID_RE.fullmatch(env_id)


@pytest.mark.parametrize("std", [1 / 3, 0.1 + 0.2, 1e-9, 12345.678, np.float32(0.1), 3])
def test_no_digit_of_a_dial_is_lost_in_the_id(std):
    world = World("CartPole-v1", obs_noise=std)
    assert World.from_id(world.id) == world
    assert World.from_id(world.id).obs_noise == float(std)


@pytest.mark.parametrize("name", WORLDS)
def test_a_name_is_an_id_of_its_world_and_pickles(name):
    world = World.from_id(name)
    assert world is WORLDS[name]
    assert World.from_id(world.id) == world
    assert pickle.loads(pickle.dumps(world)) == world


def test_other_ids_are_worlds_without_dials():
    assert World.from_id("CartPole-v1") == World("CartPole-v1")
    assert World.from_id("CartPole-delay-v1") == World("CartPole-delay-v1")
    assert World("CartPole-v1").id == "CartPole-v1"


@pytest.mark.parametrize("env_id", [env_id for env_id in WORLDS if "Lunar" not in env_id])
def test_a_named_world_has_a_tensor_form(env_id):
    assert make(env_id) == WORLDS[env_id].tensor_env() == make(WORLDS[env_id].id)


def test_memory_is_a_field_of_the_environment_itself():
    assert make("TMazeLong-v0") == TMaze(40)
    assert make("RepeatPrevious-memory31-v0") == RepeatPrevious(31)


def test_a_world_without_dials_is_its_environment():
    assert World("CartPole-v1").tensor_env() == make("CartPole-v1") == TENSOR_ENVS["CartPole-v1"]()


@pytest.mark.parametrize(
    ("dials", "message"),
    [
        ({"obs_noise": -0.1}, "obs_noise must be zero or above, got -0.1"),
        ({"reward_noise": float("nan")}, "reward_noise must be zero or above, got nan"),
        ({"obs_noise": float("inf")}, "obs_noise must be zero or above, got inf"),
        ({"obs_dropout": 1.0}, "obs_dropout must be in [0, 1), got 1.0"),
        ({"sticky": -0.5}, "sticky must be in [0, 1), got -0.5"),
        ({"delay": -1}, "delay must be a whole number from zero on, got -1"),
        ({"delay": 1.5}, "delay must be a whole number, got 1.5"),
        ({"hidden": (-1,)}, "hidden[0] must be a whole number from zero on, got -1"),
        ({"memory": -1}, "memory must be a whole number from zero on, got -1"),
    ],
)
def test_a_dial_out_of_its_range_is_refused(dials, message):
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        World("CartPole-v1", **dials)


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("CartPole-delay0-v1", "env_id 'CartPole-delay0-v1' must be written 'CartPole-v1'"),
        (
            "CartPole-sticky0.50-delay2-v1",
            "env_id 'CartPole-sticky0.50-delay2-v1' must be written 'CartPole-delay2-sticky0.5-v1'",
        ),
        ("CartPole-delay1.5-v1", "delay must be a whole number, got 1.5"),
        ("CartPole-sticky0.1.2-v1", "sticky must be a number, got '0.1.2'"),
        ("CartPole-sticky1-v1", "sticky must be in [0, 1), got 1"),
        ("CartPole-hidden0.4-v1", "hidden must be places in 0..3, got (0, 4)"),
        ("CartPole-memory3-v1", "memory is no dial of CartPole-v1, got 3"),
        ("TMaze-memory0-v0", "memory must be above zero, got 0"),
        (
            "CartPoleNoVel-delay2-v1",
            "base must be the id of an environment, got the world 'CartPoleNoVel-v1'",
        ),
    ],
)
def test_an_id_that_describes_no_world_is_refused_in_one_line(env_id, message):
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        make(env_id)


@pytest.mark.parametrize(
    "env_id", ["LunarLander-v3", "LunarLander-delay2-v3", "LunarLanderNoisy-v3"]
)
def test_a_world_whose_base_has_no_tensor_form_names_those_that_have(env_id):
    with pytest.raises(UsageError, match=r"^env_id must be one of CartPole-v1, .*'LunarLander-v3'"):
        make(env_id)
