"""MinAtar's games (Young & Tian, 2019, arXiv:1903.03176) as pictures of 10×10.

The package ``minatar`` is imported when a game is made: the extra ``minatar``.
"""

import colorsys
import importlib
import logging
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

# id: minatar's word for the game
GAMES: dict[str, str] = {
    "MinAtarAsterix-v1": "asterix",
    "MinAtarBreakout-v1": "breakout",
    "MinAtarFreeway-v1": "freeway",
    "MinAtarSeaquest-v1": "seaquest",
    "MinAtarSpaceInvaders-v1": "space_invaders",
}
ZOOM = 16  # pixels of a rendered cell


class MinAtar(gym.Env[np.ndarray, np.int64]):
    """A game as a channel-first picture, ``(C, 10, 10)`` in uint8, 255 where something is.

    Each channel shows the places of one kind of thing. Actions are those that do something in the
    game; with probability 0.1 the last one is repeated instead, as in the paper.

    Args:
        game: minatar's word for it.
        render_mode: rgb_array, or None.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 (Gymnasium's)

    def __init__(self, game: str, render_mode: str | None = None) -> None:
        self._game = _import_environment()(game)
        self._actions = self._game.minimal_action_set()
        self.render_mode = render_mode
        height, width, channels = self._game.state_shape()
        self.observation_space = spaces.Box(0, 255, (channels, height, width), np.uint8)
        self.action_space = spaces.Discrete(len(self._actions))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts a new game."""
        super().reset(seed=seed)
        if seed is not None:
            self._game.seed(seed % 2**32)  # NumPy's old generator takes no more
        self._game.reset()
        self._game.last_action = 0
        return self._picture(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Plays one step."""
        reward, terminated = self._game.act(self._actions[action])
        return self._picture(), float(reward), bool(terminated), False, {}

    def render(self) -> Any:
        """The picture in colour, ``(160, 160, 3)`` in uint8: a hue a channel, the last on top."""
        if self.render_mode is None:
            return None
        state = self._game.state()
        n_channels = state.shape[-1]
        colours = [colorsys.hsv_to_rgb(k / n_channels, 1, 1) for k in range(n_channels)]
        palette = np.rint(255 * np.array([(0.0, 0.0, 0.0), *colours])).astype(np.uint8)
        top = (state * np.arange(1, n_channels + 1)).max(axis=-1)
        return palette[top].repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)

    def _picture(self) -> np.ndarray:
        picture = np.moveaxis(self._game.state(), -1, 0)  # (H, W, C) -> (C, H, W)
        return np.where(picture, 255, 0).astype(np.uint8)


def _import_environment() -> Any:
    """``minatar.Environment``, without the warning that its window needs seaborn."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        return importlib.import_module("minatar").Environment
    finally:
        logging.disable(disabled)


for _env_id, _game in GAMES.items():
    gym.register(_env_id, "envs.minatar:MinAtar", max_episode_steps=5000, kwargs={"game": _game})
