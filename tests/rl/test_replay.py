import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer

from wnrl.rl.model_state import arrays, replay_values, restore_replay
from wnrl.runs.files import read_values, write_values

PIXELS = spaces.Box(0, 255, (4, 20, 20), np.uint8)
VECTOR = spaces.Box(-9, 9, (3,), np.float32)
BOTH = spaces.Dict({"image": PIXELS, "vector": VECTOR})
ACTIONS = spaces.Box(-1, 1, (2,), np.float32)


def filled(kind, space, steps, size=20, seed=0, **others):
    """A buffer of two environments whose episodes end now and then."""
    buffer = kind(size, space, ACTIONS, "cpu", n_envs=2, **others)
    rng = np.random.default_rng(seed)
    space.seed(seed)

    def draw():
        both = [space.sample(), space.sample()]
        if isinstance(space, spaces.Dict):
            return {key: np.stack([one[key] for one in both]) for key in space}
        return np.stack(both)

    obs = draw()
    for _ in range(steps):
        done = rng.random(2) < 0.2
        reached, begun = draw(), draw()
        infos = [{"TimeLimit.truncated": bool(end)} for end in done]
        buffer.add(obs, reached, rng.random((2, 2)), rng.random(2), done, infos)
        obs = begun if done.all() else reached
    return buffer


def through_file(buffer, fresh, path):
    write_values(path, "replay", replay_values(buffer))
    restore_replay(fresh, read_values(path, "replay"))
    return fresh


@pytest.mark.parametrize("steps", [0, 1, 7, 10, 11, 34])
@pytest.mark.parametrize(
    ("kind", "space", "others"),
    [
        (ReplayBuffer, VECTOR, {}),
        (ReplayBuffer, PIXELS, {}),
        (ReplayBuffer, PIXELS,
         {"optimize_memory_usage": True, "handle_timeout_termination": False}),
        (DictReplayBuffer, BOTH, {}),
        (NStepReplayBuffer, VECTOR, {"n_steps": 3}),
    ],
)  # fmt: skip
def test_a_buffer_comes_back_bit_for_bit(tmp_path, kind, space, others, steps):
    buffer = filled(kind, space, steps, **others)
    fresh = through_file(buffer, kind(20, space, ACTIONS, "cpu", n_envs=2, **others),
                         tmp_path / "replay.zip")  # fmt: skip
    assert (fresh.pos, fresh.full) == (buffer.pos, buffer.full)
    before, after = arrays(buffer), arrays(fresh)
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)


def test_signs_of_zeros_and_nans_are_kept(tmp_path):
    space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    buffer = ReplayBuffer(8, space, ACTIONS, "cpu")
    zeros, negative = np.array([[0.0, 1.0]]), np.array([[-0.0, np.nan]])
    for obs, reached in ((zeros, negative), (zeros, zeros), (negative, zeros)):
        buffer.add(obs, reached, np.zeros((1, 2)), np.zeros(1), np.zeros(1), [{}])
    fresh = through_file(buffer, ReplayBuffer(8, space, ACTIONS, "cpu"), tmp_path / "replay.zip")
    for name, array in arrays(buffer).items():
        np.testing.assert_array_equal(arrays(fresh)[name].view(np.uint8), array.view(np.uint8))


def test_a_file_holds_nothing_that_is_not_filled(tmp_path):
    space = spaces.Box(-1, 1, (1000,), np.float32)
    buffer = ReplayBuffer(1000, space, ACTIONS, "cpu")
    obs = space.sample()[None]
    for _ in range(50):
        reached = space.sample()[None]
        buffer.add(obs, reached, np.zeros((1, 2)), np.zeros(1), np.zeros(1), [{}])
        obs = reached
    path = tmp_path / "replay.zip"
    through_file(buffer, ReplayBuffer(1000, space, ACTIONS, "cpu"), path)
    assert path.stat().st_size < 1.1 * 2 * 50 * 4000


def test_a_buffer_of_another_shape_is_refused(tmp_path):
    buffer = filled(ReplayBuffer, VECTOR, 7)
    with pytest.raises(ValueError, match="could not broadcast"):
        through_file(buffer, filled(ReplayBuffer, PIXELS, 0), tmp_path / "replay.zip")
    with pytest.raises(KeyError, match="observations/image"):
        through_file(buffer, filled(DictReplayBuffer, BOTH, 0), tmp_path / "replay.zip")
