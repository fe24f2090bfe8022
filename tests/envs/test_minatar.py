import numpy as np
import pytest

from envs import GAMES, factory

minatar = pytest.importorskip("minatar")


@pytest.mark.parametrize("env_id", GAMES)
def test_pictures_are_those_of_minatar_channel_first(env_id):
    game = minatar.Environment(GAMES[env_id])
    env = factory(env_id)()
    obs, _ = env.reset(seed=2)
    game.seed(2)
    game.reset()
    actions = game.minimal_action_set()
    assert env.action_space.n == len(actions)
    for k in range(40):
        np.testing.assert_array_equal(obs > 0, np.moveaxis(game.state(), -1, 0))
        assert set(np.unique(obs)) <= {0, 255}
        obs, reward, terminated, _, _ = env.step(k % len(actions))
        assert (reward, terminated) == game.act(actions[k % len(actions)])
        if terminated:
            break


def test_a_game_is_rendered_in_colour():
    import gymnasium as gym

    env = gym.make("MinAtarBreakout-v1", render_mode="rgb_array")
    env.reset(seed=0)
    frame = env.render()
    assert frame.shape == (160, 160, 3)
    assert frame.dtype == np.uint8
    assert len(np.unique(frame.reshape(-1, 3), axis=0)) > 2
