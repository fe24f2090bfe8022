"""Frames of a gymnasium environment: what an agent that acts at random sees, rendered once."""

import hashlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from wnrl.data.files import cache_folder
from wnrl.data.images import Images
from wnrl.errors import UsageError

SIDE = 64
N_TRAIN, N_VALID, N_TEST = 8000, 1000, 1000
VERSION = 1  # of how frames are made; part of the name that they are kept under


def load_frames(env_id: str, data_dir: Path | None = None) -> Images:
    """Frames of 64 × 64 pixels in colour, 256 levels, rendered once and kept in the user's cache.

    Actions are drawn uniformly; the episodes of training, validation and testing are different
    ones, started from different seeds, and every frame of an episode is taken. The same versions of
    environment and renderer give the same frames.

    Args:
        env_id: of gymnasium's registry; ``module:Env-v0`` imports the module that registers it.
        data_dir: where frames are kept; None: the user's cache.

    Raises:
        UsageError: the environment does not exist, cannot be made here, or does not render.
    """
    safe = "".join(c if c.isalnum() or c in "-." else "_" for c in env_id)
    path = (data_dir or cache_folder()) / "frames" / f"{safe}-{SIDE}-v{VERSION}.npz"
    parts = _read(path)
    if parts is None:
        parts = [
            _collect(env_id, n, first_seed)
            for n, first_seed in ((N_TRAIN, 0), (N_VALID, 1_000_000), (N_TEST, 2_000_000))
        ]
        _write(path, parts)
    train, valid, test = parts
    split = f"{N_TRAIN} / {N_VALID} / {N_TEST} frames, each part of episodes of its own"
    return Images(f"frames:{env_id}", train, valid, test, levels=256, split=split)


def _collect(env_id: str, n: int, first_seed: int) -> Tensor:
    """The first ``n`` frames of random episodes, uint8, ``(n, 3, SIDE, SIDE)``."""
    frames = torch.empty(n, 3, SIDE, SIDE, dtype=torch.uint8)
    for k, frame in zip(range(n), _random_play(env_id, first_seed), strict=False):
        pixels = torch.from_numpy(frame).permute(2, 0, 1).unsqueeze(0).float()
        small = nn.functional.interpolate(pixels, size=(SIDE, SIDE), mode="area")
        frames[k] = small.round().to(torch.uint8)[0]
    return frames


def _random_play(env_id: str, first_seed: int) -> Iterator[np.ndarray]:
    env = _make(env_id)
    try:
        seed = first_seed
        env.action_space.seed(seed)
        while True:
            env.reset(seed=seed)
            done = False
            while not done:
                yield _render(env, env_id)
                *_, terminated, truncated, _ = env.step(env.action_space.sample())
                done = terminated or truncated
            seed += 1
    finally:
        env.close()


def _make(env_id: str) -> gym.Env:
    try:
        with warnings.catch_warnings():  # Gymnasium's, of a newer version
            warnings.simplefilter("ignore", DeprecationWarning)
            return gym.make(env_id, render_mode="rgb_array", disable_env_checker=True)
    except (gym.error.Error, ImportError, ValueError, TypeError) as error:
        raise UsageError(f"dataset 'frames:{env_id}': {_first_line(error)}") from error


def _render(env: gym.Env, env_id: str) -> np.ndarray:
    try:
        frame = env.render()
    except (gym.error.Error, ImportError) as error:
        raise UsageError(f"dataset 'frames:{env_id}': {_first_line(error)}") from error
    if not (isinstance(frame, np.ndarray) and frame.ndim == 3 and frame.shape[2] == 3):
        raise UsageError(
            f"dataset 'frames:{env_id}': render() must give an image (height, width, 3), got "
            f"{getattr(frame, 'shape', type(frame).__name__)}"
        )
    return frame


def _read(path: Path) -> list[Tensor] | None:
    """What ``_write`` wrote; None where there is nothing.

    Raises:
        UsageError: the file is damaged; nothing of it was used.
    """
    if not path.is_file():
        return None
    damaged = UsageError(f"{path} is damaged; delete it, and its frames are rendered again")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            parts = [kept[name] for name in ("train", "valid", "test")]
            wanted = str(kept["sha256"])
    except Exception as error:  # zipfile, zlib, numpy: each has its own for a damaged file
        raise damaged from error
    if _checksum(parts) != wanted:
        raise damaged
    return [torch.from_numpy(part) for part in parts]


def _write(path: Path, parts: list[Tensor]) -> None:
    """Keeps frames, by write-then-rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    arrays = [part.numpy() for part in parts]
    with scratch.open("wb") as file:
        named = dict(zip(("train", "valid", "test"), arrays, strict=True))
        np.savez_compressed(file, allow_pickle=False, sha256=_checksum(arrays), **named)
    scratch.replace(path)


def _checksum(parts: list[np.ndarray]) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part.tobytes())
    return whole.hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
