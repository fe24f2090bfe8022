import pickle
import re
import sys
import tomllib
from pathlib import Path

import gymnasium as gym
import numpy as np
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
def register():
    ids = []

    def register(env_id, entry_point, **others):
        gym.register(env_id, entry_point, **others)
        ids.append(env_id)

    yield register
    for env_id in ids:
        del gym.registry[env_id]


def test_missing_package_is_told_in_one_line_with_its_extra(register):
    register("Lander-v0", "envs.no_such_box2d_module:Lander")
    with pytest.raises(UsageError, match=r"^env_id 'Lander-v0' needs .* 'wnrl\[box2d\]'$"):
        factory("Lander-v0")


def test_missing_package_without_an_extra_of_ours_is_named(register):
    register("Odd-v0", "envs.no_such_module:Odd")
    with pytest.raises(
        UsageError, match=r"^env_id 'Odd-v0' cannot be made: No module named 'envs\.no_such"
    ):
        factory("Odd-v0")


def test_package_missed_only_when_the_environment_is_made_is_told_as_well(register):
    def make():
        raise gym.error.DependencyNotInstalled("odd is not installed\nsee its page")

    register("Late-v0", make)
    with pytest.raises(
        UsageError, match=r"^env_id 'Late-v0' cannot be made: odd is not installed$"
    ):
        factory("Late-v0")


@pytest.mark.parametrize("env_id", ["Humanoid-v3", "Hopper-v2"])
def test_an_id_that_gymnasium_gave_up_is_refused_with_its_own_reason_and_no_warning(env_id):
    with pytest.raises(UsageError, match=r"cannot be made: .* moved to the gymnasium-robotics"):
        factory(env_id)


def test_an_environment_that_ends_its_own_episodes_is_taken():
    assert factory("CliffWalking-v1")().spec.max_episode_steps is None


@pytest.mark.parametrize("env_id", ["CliffWalking-v1", "CartPole-v1"])
def test_episodes_can_be_given_another_limit(env_id):
    env = pickle.loads(pickle.dumps(factory(env_id, max_episode_steps=3)))()
    env.reset(seed=0)
    assert [env.step(1)[3] for _ in range(3)] == [False, False, True]
    with pytest.raises(UsageError, match="max_episode_steps must be above zero, got 0"):
        factory(env_id, max_episode_steps=0)


def test_an_environment_gets_its_arguments():
    assert factory("Pendulum-v1", env_kwargs={"g": 3.5})().unwrapped.g == 3.5
    with pytest.raises(
        UsageError,
        match=r"'Pendulum-v1' cannot be made with env_kwargs {'h': 1}: .* argument 'h'",
    ):
        factory("Pendulum-v1", env_kwargs={"h": 1})


@pytest.mark.parametrize(
    ("act", "told"),
    [
        ("raise OSError('no level')", "cannot be made: OSError: no level (made_here.py, line 4)"),
        ("sys.exit(0)", "cannot be made: SystemExit: 0 (made_here.py, line 4)"),
        ("self.action_space = None", "cannot be made: TypeError: action space does not inherit"),
    ],
)
def test_an_environment_that_cannot_be_made_is_a_line_with_its_place(
    act, told, tmp_path, monkeypatch
):
    (tmp_path / "made_here.py").write_text(
        "import gymnasium as gym, sys\n"
        "class Env(gym.Env):\n"
        "    def __init__(self):\n"
        f"        {act}\n"
        "gym.register('Made-v0', Env, max_episode_steps=7)\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="^env_id 'made_here:Made-v0' " + re.escape(told)):
        factory("made_here:Made-v0")
    del gym.registry["Made-v0"], sys.modules["made_here"]


def test_a_module_in_the_current_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "task_of_this_folder.py").write_text(
        "import gymnasium as gym\n"
        "gym.register('Here-v0', gym.spec('CartPole-v1').entry_point, max_episode_steps=7)\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    assert factory("task_of_this_folder:Here-v0")().spec.max_episode_steps == 7
    del gym.registry["Here-v0"]


@pytest.mark.parametrize(
    ("env_id", "told"),
    [
        ("os:Foo-v0", "env_id 'os:Foo-v0': module os registers no environment 'Foo-v0'$"),
        ("os:CartPoel-v1", "registers no environment 'CartPoel-v1'; did you mean 'CartPole-v1'"),
        ("Foo-v0", "got 'Foo-v0'$"),
    ],
)
def test_an_id_like_no_other_is_refused_without_a_guess(env_id, told):
    pytest.importorskip("ale_py")  # whose hundreds of ids are among those to guess from
    with pytest.raises(UsageError, match=told):
        factory(env_id)


def test_a_module_that_registers_the_environment_is_imported(tmp_path, monkeypatch):
    (tmp_path / "my_cartpoles.py").write_text(
        "import gymnasium as gym\n"
        "gym.register('Mine-v0', gym.spec('CartPole-v1').entry_point, max_episode_steps=7)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    make = pickle.loads(pickle.dumps(factory("my_cartpoles:Mine-v0")))
    assert make().spec.max_episode_steps == 7
    with pytest.raises(UsageError, match="no environment 'Min-v0'; did you mean 'Mine-v0'"):
        factory("my_cartpoles:Min-v0")
    del gym.registry["Mine-v0"]


@pytest.mark.parametrize("env_id", ["no_such_module:Mine-v0", ":Mine-v0", ".odd:Mine-v0"])
def test_a_module_that_cannot_be_imported_is_refused_in_one_line(env_id):
    with pytest.raises(UsageError, match=f"^env_id '{env_id}': .+$"):
        factory(env_id)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def f(:", "SyntaxError: invalid syntax"),
        ("raise RuntimeError('no licence\\nfound')", "RuntimeError: no licence found"),
        ("raise SystemExit('bye')", "SystemExit: bye"),
    ],
)
def test_a_module_that_raises_is_refused_in_one_line(tmp_path, monkeypatch, text, told):
    (tmp_path / "my_broken_tasks.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=f"'my_broken_tasks:Mine-v0': {told}"):
        factory("my_broken_tasks:Mine-v0")


@pytest.mark.parametrize("env_id", ["TMaze-v0", "TMaze-memory40-v0", "TMazeLong-v0"])
def test_arguments_that_the_id_of_a_tensor_environment_says_are_refused(env_id):
    with pytest.raises(UsageError, match=r"takes no env_kwargs, got {'memory': 20}: .*memory40-v0"):
        factory(env_id, env_kwargs={"memory": 20})


@pytest.mark.parametrize(
    "given",
    [{"render_mode": "human"}, {"max_episode_steps": 3}],
    ids=lambda given: next(iter(given)),
)
def test_an_argument_of_the_environment_that_has_a_name_of_its_own_here_is_refused(given):
    with pytest.raises(UsageError, match=f"env_kwargs: {next(iter(given))} is set by its own name"):
        factory("CartPole-v1", env_kwargs=given)


class Answers(gym.Env):
    """An environment that answers as it is told to."""

    observation_space = gym.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gym.spaces.Discrete(2)
    first = (np.zeros(3, np.float32), {})
    then = (np.zeros(3, np.float32), 1.0, False, False, {})

    def reset(self, *, seed=None, options=None):
        return self.first

    def step(self, action):
        return self.then


def old_reset(self):
    return np.zeros(3, np.float32)


def no_map(self, render_mode=None):
    raise FileNotFoundError("no map at\n/nowhere")


def motor_off(self, action):
    raise ValueError("the motor\nis off")


ZEROS, FOUR = np.zeros(3, np.float32), np.zeros(4, np.float32)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"first": ZEROS}, r"reset must return \(obs, info\), got a ndarray"),
        ({"first": (ZEROS,)}, r"reset must return \(obs, info\), got 1 value"),
        ({"reset": old_reset}, "reset: TypeError: .*unexpected keyword argument 'seed'"),
        (
            {"then": (ZEROS, 1.0, True, {})},
            r"step must return \(obs, reward, terminated, truncated, info\), got 4 values",
        ),
        ({"first": (FOUR, {})}, r"observations must have shape \(3,\), reset gives \(4,\)"),
        ({"then": (FOUR, 1.0, True, False, {})}, r"have shape \(3,\), step gives \(4,\)"),
        ({"then": (None, 1.0, True, False, {})}, r"have shape \(3,\), step gives \(\)"),
        ({"then": (ZEROS, None, True, False, {})}, "rewards must be numbers, got None"),
        ({"then": (ZEROS, "1", True, False, {})}, "rewards must be numbers, got '1'"),
        ({"step": motor_off}, "step: ValueError: the motor is off"),
        ({"__init__": no_map}, "cannot be made: FileNotFoundError: no map at /nowhere"),
        ({"action_space": None}, "cannot be made: .*action space"),
    ],
)
def test_an_environment_that_does_not_answer_as_gymnasium_asks_is_refused(register, parts, told):
    register("Answers-v0", type("Mine", (Answers,), parts))
    with pytest.raises(UsageError, match=told) as refused:
        factory("Answers-v0")
    assert "\n" not in str(refused.value)


def test_an_environment_is_not_asked_for_a_step_that_its_mask_may_forbid(register):
    masked = {"step": motor_off, "action_masks": lambda self: np.array([True, False])}
    register("Answers-v0", type("Mine", (Answers,), masked))
    factory("Answers-v0")


def test_the_extras_that_messages_name_exist():
    root = Path(__file__).resolve().parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(EXTRAS.values()) <= set(project["optional-dependencies"])


@pytest.mark.parametrize("env_id", ["ALE/Pong-v5", "PongNoFrameskip-v4"])
def test_an_atari_game_comes_with_every_frame(env_id):
    pytest.importorskip("ale_py")
    env = pickle.loads(pickle.dumps(factory(env_id)))()
    assert env.unwrapped._frameskip == 1
    env.close()


@pytest.mark.parametrize(
    ("env_id", "package", "extra"),
    [
        ("ALE/Pong-v5", "ale_py", "atari"),
        ("PongNoFrameskip-v4", "ale_py", "atari"),
        ("MinAtarBreakout-v1", "minatar", "minatar"),
    ],
)
def test_games_whose_package_is_missing_name_their_extra(monkeypatch, env_id, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        UsageError,
        match=rf"^env_id '{env_id}' needs a package that is missing: .*'wnrl\[{extra}\]'$",
    ):
        factory(env_id)
