"""A replay buffer as values, much smaller than in memory.

Only what is filled is there, and the next observation only where it is not the following
observation, as at the end of an episode.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer

Array = NDArray[Any]
NEXT, DIFFERS = "next_observations", ".differs"
CHUNK = 2**24  # bytes at a time


def arrays(buffer: ReplayBuffer) -> dict[str, Array]:
    """Return every array of ``buffer`` by name, those of Dicts as ``observations/<key>``."""
    named: dict[str, Array] = {}
    for name, value in vars(buffer).items():
        parts = value if isinstance(value, dict) else {"": value}
        for key, part in parts.items():
            if isinstance(part, np.ndarray) and part.shape[:1] == (buffer.buffer_size,):
                named[f"{name}/{key}" if key else name] = part
    return named


def _n_rows(buffer: ReplayBuffer) -> int:
    """Return how many are filled; SB3's economical buffer has a next observation beyond."""
    beyond = buffer.optimize_memory_usage and buffer.size() > 0
    return min(buffer.size() + beyond, buffer.buffer_size)


def replay_values(buffer: ReplayBuffer) -> dict[str, Any]:
    """Return the filled part of ``buffer``; its arrays are views."""
    n, parts = _n_rows(buffer), arrays(buffer)
    values: dict[str, Array] = {}
    for name, array in parts.items():
        rows = array[:n]
        if name.startswith(NEXT):
            differs = _differs(parts[name.removeprefix("next_")][:n], rows)
            values[name + DIFFERS] = np.packbits(differs)
            rows = rows[differs]
        values[name] = rows
    return {"pos": buffer.pos, "full": buffer.full, "arrays": values}


def restore_replay(buffer: ReplayBuffer, saved: Mapping[str, Any]) -> None:
    """Fill ``buffer``, made like the one that was saved.

    Raises:
        ValueError: Its arrays are others.
    """
    buffer.pos, buffer.full = saved["pos"], saved["full"]
    n, parts, values = _n_rows(buffer), arrays(buffer), saved["arrays"]
    if parts.keys() != {name for name in values if not name.endswith(DIFFERS)}:
        raise ValueError(f"the replay buffer has other arrays: {', '.join(values)}")
    # next_observations behind observations, of which they are made
    for name in sorted(parts, key=lambda name: name.startswith(NEXT)):
        rows, filled = parts[name][:n], values[name]
        if name.startswith(NEXT):
            differs = np.unpackbits(values[name + DIFFERS], count=n * buffer.n_envs).astype(bool)
            rows[:-1] = parts[name.removeprefix("next_")][1:n]
            rows, place = rows.reshape(n * buffer.n_envs, *rows.shape[2:]), differs
        else:
            place = np.ones(n, bool)
        if filled.dtype != rows.dtype or filled.shape != (place.sum(), *rows.shape[1:]):
            raise ValueError(f"{name} of the replay buffer has another shape: {filled.shape}")
        rows[place] = filled


def _differs(obs: Array, next_obs: Array) -> NDArray[np.bool_]:
    """Return where the next observation is not, bit for bit, the following one, ``(n, N)``."""
    n, n_envs = obs.shape[:2]
    differs = np.ones((n, n_envs), bool)
    step = max(1, CHUNK // max(1, obs[:1].nbytes))
    for start in range(0, n - 1, step):
        end = min(start + step, n - 1)
        # (rows, N, ...) -> (rows, N, bytes)
        one = next_obs[start:end].reshape(end - start, n_envs, -1).view(np.uint8)
        two = obs[start + 1 : end + 1].reshape(end - start, n_envs, -1).view(np.uint8)
        differs[start:end] = (one != two).any(axis=-1)
    return differs
