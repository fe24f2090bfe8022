"""Tasks seen as rendered pictures, in the place of the numbers that describe their state."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from wnrl.errors import UsageError, check_positive

# id with pictures: the id it is made from
PIXELS: dict[str, str] = {
    "CartPolePixels-v1": "CartPole-v1",
    "AcrobotPixels-v1": "Acrobot-v1",
    "PendulumPixels-v1": "Pendulum-v1",
    "MountainCarPixels-v0": "MountainCar-v0",
}


class Pixels(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Shows the last rendered frames, ``(side, side, 3 * n_frames)`` in uint8, newest last.

    Frames are reduced by averaging; one alone shows no velocity. The first one of an episode
    stands for those before it.

    Args:
        env: an environment made with ``render_mode="rgb_array"``.
        side: height and width in pixels.
        n_frames: how many frames are one observation.

    Raises:
        UsageError: a size is not above zero, larger than what is rendered, or nothing is rendered.
    """

    def __init__(self, env: gym.Env[Any, Any], side: int = 64, n_frames: int = 2) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, side=side, n_frames=n_frames)
        gym.Wrapper.__init__(self, env)
        check_positive(side=side, n_frames=n_frames)
        if env.render_mode != "rgb_array":
            raise UsageError(f"Pixels needs render_mode 'rgb_array', got {env.render_mode!r}")
        self.side, self.n_frames = side, n_frames
        shape = (side, side, 3 * n_frames)
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self._frames = np.zeros(shape, np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Resets the environment and shows its first frame ``n_frames`` times."""
        _, info = self.env.reset(seed=seed, options=options)
        self._frames = np.tile(self._frame(), self.n_frames)
        return self._frames.copy(), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Steps, and shows the last frames."""
        _, reward, terminated, truncated, info = self.env.step(action)
        self._frames = np.concatenate([self._frames[..., 3:], self._frame()], axis=-1)
        return self._frames.copy(), float(reward), terminated, truncated, info

    def _frame(self) -> np.ndarray:
        frame: Any = self.env.render()
        if min(frame.shape[:2]) < self.side:
            raise UsageError(f"side {self.side} is larger than the frames, {frame.shape[:2]}")
        return reduce_frame(frame, self.side)


def reduce_frame(frame: np.ndarray, side: int) -> np.ndarray:
    """A frame ``(H, W, C)`` reduced to ``(side, side, C)`` by averaging, in uint8.

    The pixels are shared out to windows as evenly as their number allows, each to one.
    """
    sums = frame
    counts = np.ones(1)
    for axis in (0, 1):
        cuts = np.arange(side) * frame.shape[axis] // side
        sums = np.add.reduceat(sums, cuts, axis=axis, dtype=np.uint32)
        sizes = np.diff(cuts, append=frame.shape[axis])
        counts = np.multiply.outer(counts, sizes)
    means = sums / counts.reshape(side, side, 1)
    return np.rint(means).astype(np.uint8)


for _env_id, _base_id in PIXELS.items():
    _base = gym.spec(_base_id)
    gym.register(
        _env_id,
        entry_point=_base.entry_point,
        reward_threshold=_base.reward_threshold,
        max_episode_steps=_base.max_episode_steps,
        kwargs={**_base.kwargs, "render_mode": "rgb_array"},
        additional_wrappers=(Pixels.wrapper_spec(side=64, n_frames=2),),
    )
