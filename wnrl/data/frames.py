"""Frames of a gymnasium environment: what an agent that acts at random sees, rendered once."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from wnrl.data.files import cache_folder, folders
from wnrl.data.images import PARTS, Images
from wnrl.errors import UsageError, extra, first_line
from wnrl.runs import locked, write_arrays

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
            folder cannot be written, or the file in it is damaged.
    """
    name = f"{quote(env_id, safe='')}-{SIDE}-v{VERSION}.npz"
    places = [folder / "frames" / name for folder in folders(data_dir)]
    path = next((path for path in places if path.is_file()), None)
    if path is None:
        path = (data_dir or cache_folder()) / "frames" / name
        _render_all(env_id, path)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            train, valid, test = (torch.from_numpy(kept[part]) for part in PARTS)
    except Exception as error:  # zipfile, zlib, numpy: each has its own for a damaged file
        told = f"{path} is damaged; delete it, and its frames are rendered again"
        raise UsageError(told) from error
    split = f"{N_TRAIN} / {N_VALID} / {N_TEST} frames, each part of episodes of its own"
    return Images(f"frames:{env_id}", train, valid, test, levels=256, split=split)


def _render_all(env_id: str, path: Path) -> None:
    """Render all frames into a file; of several processes one does, and the others wait."""
    with extra("lab", f"dataset 'frames:{env_id}'"):
        from tqdm import tqdm

    parts = {"train": (N_TRAIN, 0), "valid": (N_VALID, 1_000_000), "test": (N_TEST, 2_000_000)}
    n = sum(size for size, _ in parts.values())
    try:
        _make(env_id).close()
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent, f"{path.stem}.lock", seconds=-1):
            if path.is_file():
                return
            with tqdm(total=n, desc=f"frames:{env_id}", mininterval=1.0) as bar:
                frames = {part: _collect(env_id, *parts[part], bar.update) for part in PARTS}
            write_arrays(path, frames, compressed=True)
    except OSError as error:
        raise UsageError(
            f"frames cannot be kept in {path.parent}: {error.strerror}; say where they can with "
            "data_dir or XDG_CACHE_HOME"
        ) from error
    except Exception as error:  # others' code may raise anything
        raise UsageError(f"dataset 'frames:{env_id}': {first_line(error)}") from error


def _collect(env_id: str, n: int, first_seed: int, progress: Callable[[], Any]) -> np.ndarray:
    """Return the first ``n`` frames of random episodes, uint8, ``(n, 3, SIDE, SIDE)``."""
    frames = torch.empty(n, 3, SIDE, SIDE, dtype=torch.uint8)
    for k, frame in zip(range(n), _random_play(env_id, first_seed), strict=False):
        if not (isinstance(frame, np.ndarray) and frame.ndim == 3 and frame.shape[2] == 3):
            what = getattr(frame, "shape", type(frame).__name__)
            raise TypeError(f"render() must give an image (height, width, 3), got {what}")
        pixels = torch.from_numpy(frame).permute(2, 0, 1).unsqueeze(0).float()
        small = nn.functional.interpolate(pixels, size=(SIDE, SIDE), mode="area")
        frames[k] = small.round().to(torch.uint8)[0]
        progress()
    return frames.numpy()


def _random_play(env_id: str, first_seed: int) -> Iterator[Any]:
    """Yield what an environment renders, step by step, of one episode after the other."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # or pygame asks for a display, and complains
    with closing(_make(env_id)) as env:
        env.action_space.seed(first_seed)
        for seed in count(first_seed):
            env.reset(seed=seed)
            done = False
            while not done:
                yield env.render()
                *_, terminated, truncated, _ = env.step(env.action_space.sample())
                done = terminated or truncated


def _make(env_id: str) -> gym.Env:
    with warnings.catch_warnings():  # Gymnasium's, of a newer version or of the mode
        warnings.simplefilter("ignore")
        try:
            env = gym.make(env_id, render_mode="rgb_array", disable_env_checker=True)
        except OSError as error:  # which is not of the folder that frames are kept in
            raise UsageError(f"it cannot be made: {first_line(error)}") from error
    if "rgb_array" not in (modes := env.metadata.get("render_modes", ())):
        raise UsageError(f"it renders no rgb_array, its render_modes are {list(modes)}")
    return env
