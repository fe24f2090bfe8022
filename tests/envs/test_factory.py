import pickle
import tomllib
from pathlib import Path

import gymnasium as gym
import pytest

from envs import factory
from envs.factory import EXTRAS
from wnrl.errors import UsageError


def test_factory_makes_a_new_environment_each_time():
    make = factory("CartPoleNoVel-v1")
    first, second = make(), make()
    assert first is not second
    assert first.spec is not None
    assert first.spec.id == "CartPoleNoVel-v1"


def test_factory_survives_pickle():
    make = pickle.loads(pickle.dumps(factory("Pendulum-v1")))
    assert make().observation_space.shape == (3,)


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("CartPol-v1", "CartPole-v1"),
        ("cartpole-v1", "CartPole-v1"),
        ("Cartpolenovel", "CartPoleNoVel-v1"),
    ],
)
def test_unknown_id_is_refused_with_the_nearest_one(wrong, nearest):
    with pytest.raises(UsageError, match=f"got '{wrong}'; did you mean '{nearest}'"):
        factory(wrong)


@pytest.fixture
def lacking():
    ids = []

    def register(env_id, entry_point):
        gym.register(env_id, entry_point)
        ids.append(env_id)

    yield register
    for env_id in ids:
        del gym.registry[env_id]


def test_missing_package_is_told_in_one_line_with_its_extra(lacking):
    lacking("Lander-v0", "envs.no_such_box2d_module:Lander")
    with pytest.raises(UsageError, match=r"^env_id 'Lander-v0' needs .* '\.\[box2d\]'$"):
        factory("Lander-v0")


def test_missing_package_without_an_extra_of_ours_is_named(lacking):
    lacking("Odd-v0", "envs.no_such_module:Odd")
    with pytest.raises(
        UsageError, match=r"^env_id 'Odd-v0' needs .*No module named 'envs\.no_such"
    ):
        factory("Odd-v0")


def test_package_missed_only_when_the_environment_is_made_is_told_as_well(lacking):
    def make():
        raise gym.error.DependencyNotInstalled("odd is not installed\nsee its page")

    lacking("Late-v0", make)
    with pytest.raises(UsageError, match=r"^env_id 'Late-v0' needs .*odd is not installed$"):
        factory("Late-v0")()


def test_the_extras_that_messages_name_exist():
    root = Path(__file__).resolve().parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(EXTRAS) <= set(project["optional-dependencies"])
