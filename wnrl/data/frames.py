"""Frames of a gymnasium environment: what an agent that acts at random sees, rendered once."""

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from wnrl.data.files import cache_folder, folders
from wnrl.data.images import PARTS, Images
from wnrl.errors import UsageError, extra, first_line

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
        data_dir: where frames are looked for first and kept; None: they are looked for in WNRL_DATA
            and kept in the user's cache.

    Raises:
        UsageError: the environment does not exist, cannot be made here, or does not render; or the
            folder cannot be written.
    """
    name = f"{quote(env_id, safe='')}-{SIDE}-v{VERSION}.npz"
    places = [folder / "frames" / name for folder in folders(data_dir)]
    kept = next((path for path in places if path.is_file()), None)
    own = (data_dir or cache_folder()) / "frames" / name
    parts = _rendered(env_id, own) if kept is None else _read(kept)
    train, valid, test = parts
    split = f"{N_TRAIN} / {N_VALID} / {N_TEST} frames, each part of episodes of its own"
    return Images(f"frames:{env_id}", train, valid, test, levels=256, split=split)


def _rendered(env_id: str, path: Path) -> list[Tensor]:
    """Renders all frames and keeps them; of several processes one does, and the others wait."""
    with extra("lab", f"dataset 'frames:{env_id}'"):
        from tqdm import tqdm

    _make(env_id).close()
    with _held(path):
        if path.is_file():
            return _read(path)
        parts = ((N_TRAIN, 0), (N_VALID, 1_000_000), (N_TEST, 2_000_000))
        n = sum(size for size, _ in parts)
        with tqdm(total=n, desc=f"frames:{env_id}", mininterval=1.0) as bar:
            frames = [_collect(env_id, size, first_seed, bar.update) for size, first_seed in parts]
        _write(path, frames)
        return frames


def _collect(env_id: str, n: int, first_seed: int, progress: Callable[[], Any]) -> Tensor:
    """The first ``n`` frames of random episodes, uint8, ``(n, 3, SIDE, SIDE)``."""
    frames = torch.empty(n, 3, SIDE, SIDE, dtype=torch.uint8)
    for k, frame in zip(range(n), _random_play(env_id, first_seed), strict=False):
        pixels = torch.from_numpy(frame).permute(2, 0, 1).unsqueeze(0).float()
        small = nn.functional.interpolate(pixels, size=(SIDE, SIDE), mode="area")
        frames[k] = small.round().to(torch.uint8)[0]
        progress()
    return frames


def _random_play(env_id: str, first_seed: int) -> Iterator[np.ndarray]:
    env = _make(env_id)
    with _without_display(), closing(env):
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


@contextmanager
def _without_display() -> Iterator[None]:
    """Keeps pygame from asking for a display, and from complaining where there is none."""
    if "SDL_VIDEODRIVER" in os.environ:
        yield
        return
    os.environ["SDL_VIDEODRIVER"] = "dummy"
    try:
        yield
    finally:
        os.environ.pop("SDL_VIDEODRIVER", None)


def _make(env_id: str) -> gym.Env:
    try:
        with warnings.catch_warnings():  # Gymnasium's, of a newer version
            warnings.simplefilter("ignore", DeprecationWarning)
            return gym.make(env_id, render_mode="rgb_array", disable_env_checker=True)
    except (gym.error.Error, ImportError, ValueError, TypeError) as error:
        raise UsageError(f"dataset 'frames:{env_id}': {first_line(error)}") from error


def _render(env: gym.Env, env_id: str) -> np.ndarray:
    try:
        frame = env.render()
    except (gym.error.Error, ImportError) as error:
        raise UsageError(f"dataset 'frames:{env_id}': {first_line(error)}") from error
    if not (isinstance(frame, np.ndarray) and frame.ndim == 3 and frame.shape[2] == 3):
        raise UsageError(
            f"dataset 'frames:{env_id}': render() must give an image (height, width, 3), got "
            f"{getattr(frame, 'shape', type(frame).__name__)}"
        )
    return frame


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Makes the folder of ``path`` and holds the file for this process.

    Raises:
        UsageError: the folder cannot be written.
    """
    with extra("lab", "keeping frames"):
        from filelock import FileLock

    lock = FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield
    finally:
        lock.release()


def _unwritable(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"frames cannot be kept in {path.parent}: {error.strerror}; say where they can with "
        "data_dir or XDG_CACHE_HOME"
    )


def _read(path: Path) -> list[Tensor]:
    """What ``_write`` wrote.

    Raises:
        UsageError: the file is damaged; nothing of it was used.
    """
    damaged = UsageError(f"{path} is damaged; delete it, and its frames are rendered again")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            parts = [kept[name] for name in PARTS]
            wanted = str(kept["sha256"])
    except Exception as error:  # zipfile, zlib, numpy: each has its own for a damaged file
        raise damaged from error
    if _checksum(parts) != wanted:
        raise damaged
    return [torch.from_numpy(part) for part in parts]


def _write(path: Path, parts: list[Tensor]) -> None:
    """Keeps frames, by write-then-rename.

    Raises:
        UsageError: the disk is full.
    """
    scratch = path.with_suffix(".tmp")
    arrays = [part.numpy() for part in parts]
    named = dict(zip(PARTS, arrays, strict=True))
    try:
        with scratch.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, sha256=_checksum(arrays), **named)
        scratch.replace(path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def _checksum(parts: list[np.ndarray]) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part.tobytes())
    return whole.hexdigest()
