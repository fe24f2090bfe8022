import gymnasium as gym
import numpy as np
import pytest

from envs import Pixels, factory
from envs.pixels import reduce_frame
from wnrl.errors import UsageError


def test_the_newest_frame_is_last_and_the_first_one_stands_for_those_before_it():
    env = factory("CartPolePixels-v1")()
    first, _ = env.reset(seed=0)
    np.testing.assert_array_equal(first[..., :3], first[..., 3:])
    seen = [first]
    for _ in range(5):
        seen.append(env.step(1)[0])
        np.testing.assert_array_equal(seen[-1][..., :3], seen[-2][..., 3:])
    assert (seen[-1][..., 3:] != first[..., 3:]).any()
    env.close()


def test_frames_are_reduced_by_averaging():
    frame = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    expected = frame.reshape(2, 2, 2, 3, 3).mean(axis=(1, 3))
    np.testing.assert_array_equal(reduce_frame(frame, 2), np.rint(expected))


def test_windows_of_unequal_sizes_leave_a_flat_picture_flat():
    np.testing.assert_array_equal(reduce_frame(np.full((7, 9, 3), 200, np.uint8), 4), 200)


@pytest.mark.parametrize("wrong", [{"side": 0}, {"n_frames": 0}])
def test_sizes_must_be_above_zero(wrong):
    with pytest.raises(UsageError, match="must be above zero, got 0"):
        Pixels(gym.make("CartPole-v1", render_mode="rgb_array"), **wrong)


def test_an_environment_that_renders_no_pictures_is_refused():
    with pytest.raises(UsageError, match="needs render_mode 'rgb_array', got None"):
        Pixels(gym.make("CartPole-v1"))


def test_a_picture_larger_than_the_frames_is_refused():
    env = Pixels(gym.make("CartPole-v1", render_mode="rgb_array"), side=401)
    with pytest.raises(UsageError, match=r"side 401 is larger than the frames, \(400, 600\)"):
        env.reset(seed=0)
