"""A replay buffer in a file, much smaller than in memory.

Only what is filled is written; the next observation only where it is not the following
observation, as at the end of an episode; and bytes (images) are deflated.
"""

import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer

Array = NDArray[Any]
NEXT = "next_observations"
CHUNK = 2**24  # bytes at a time


def arrays(buffer: ReplayBuffer) -> dict[str, Array]:
    """Every array of ``buffer`` by name, those of Dict observations as ``observations/<key>``."""
    found: dict[str, Array] = {}
    for name, value in vars(buffer).items():
        parts = value if isinstance(value, dict) else {"": value}
        for key, part in parts.items():
            if isinstance(part, np.ndarray) and part.shape[:1] == (buffer.buffer_size,):
                found[f"{name}/{key}" if key else name] = part
    return found


def _rows(buffer: ReplayBuffer) -> int:
    """How many rows are filled; SB3's economical buffer has a last next observation beyond."""
    beyond = buffer.optimize_memory_usage and buffer.size() > 0
    return min(buffer.size() + beyond, buffer.buffer_size)


def write_replay(archive: zipfile.ZipFile, buffer: ReplayBuffer) -> dict[str, Any]:
    """Writes the filled part of ``buffer`` into ``archive``.

    Returns:
        What ``read_replay`` needs besides, in JSON types.
    """
    n = _rows(buffer)
    parts = arrays(buffer)
    layout = {}
    for name, array in parts.items():
        rows = array[:n]
        if name.startswith(NEXT):
            differs = _differs(parts[name.removeprefix("next_")][:n], rows)
            _write(archive, f"{name}.differs", np.packbits(differs))
            rows = rows[differs]
        _write(archive, name, rows)
        layout[name] = [rows.dtype.str, list(rows.shape)]
    return {"pos": buffer.pos, "full": buffer.full, "layout": layout}


def read_replay(archive: zipfile.ZipFile, buffer: ReplayBuffer, saved: dict[str, Any]) -> None:
    """Fills ``buffer``, made like the one that was written.

    Raises:
        ValueError: it has other arrays, or the archive is damaged.
    """
    buffer.pos, buffer.full = saved["pos"], saved["full"]
    n = _rows(buffer)
    parts = arrays(buffer)
    if parts.keys() != saved["layout"].keys():
        raise ValueError(f"the replay buffer has other arrays: {', '.join(saved['layout'])}")
    # next_observations behind observations, of which they are made
    for name in sorted(parts, key=lambda name: name.startswith(NEXT)):
        rows, (dtype, shape) = parts[name][:n], saved["layout"][name]
        if rows.dtype.str != dtype or list(rows.shape[-len(shape) + 1 :]) != shape[1:]:
            raise ValueError(f"{name} of the replay buffer has another shape: {dtype} {shape}")
        if name.startswith(NEXT):
            mask = np.empty((n * buffer.n_envs + 7) // 8, np.uint8)
            _read(archive, f"{name}.differs", mask)
            differs = np.unpackbits(mask, count=n * buffer.n_envs).astype(bool)
            different = np.empty(shape, dtype)
            _read(archive, name, different)
            rows[:-1] = parts[name.removeprefix("next_")][1:n]
            rows[differs.reshape(n, buffer.n_envs)] = different
        else:
            _read(archive, name, rows)


def _differs(obs: Array, next_obs: Array) -> NDArray[np.bool_]:
    """Where the next observation is not, bit for bit, the one in the following row, ``(n, N)``."""
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


def _write(archive: zipfile.ZipFile, name: str, array: Array) -> None:
    info = zipfile.ZipInfo(f"replay/{name}")
    info.compress_type = zipfile.ZIP_DEFLATED if array.dtype == np.uint8 else zipfile.ZIP_STORED
    info._compresslevel = 1  # type: ignore[attr-defined]  # public from Python 3.13 on
    with archive.open(info, "w", force_zip64=True) as file:
        for chunk in _chunks(np.ascontiguousarray(array)):
            file.write(chunk)


def _read(archive: zipfile.ZipFile, name: str, array: Array) -> None:
    """Fills a contiguous array; the archive checks the sum over its bytes at the last one."""
    with archive.open(f"replay/{name}") as file:
        for chunk in _chunks(array):
            if file.readinto(chunk) != len(chunk):  # type: ignore[attr-defined]
                raise ValueError(f"{name} of the replay buffer is too short")
        if file.read(1):
            raise ValueError(f"{name} of the replay buffer is too long")


def _chunks(array: Array) -> Iterator[memoryview]:
    if array.nbytes:
        whole = array.reshape(-1).view(np.uint8).data
        for start in range(0, len(whole), CHUNK):
            yield whole[start : start + CHUNK]
