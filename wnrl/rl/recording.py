"""A film of an agent: GIF with Pillow alone, MP4 with the ffmpeg of imageio."""

import io
import os
import sys
from collections.abc import Callable
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from wnrl import tags
from wnrl.errors import UsageError, as_usage_error, check_choice, printable
from wnrl.rl.evaluation import acting_in, mask_arguments
from wnrl.runs import EventFile, whole_file

Frames = list[NDArray[np.uint8]]
LONGEST = 3000  # frames; later ones are left out
EVERY, FEW, SMALL = 3, 80, 240  # steps a frame, frames and pixels of a film for TensorBoard


def check_film(path: Path) -> None:
    """Raise UsageError if a film with that name could not be written here."""
    check_choice("the end of record", path.suffix.lower(), (".gif", ".mp4"))
    if path.suffix.lower() == ".mp4" and not find_spec("imageio_ffmpeg"):
        raise UsageError(f"record {path} needs pip install 'wnrl[video]'; a .gif does not")
    if not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        raise UsageError(f"record {path}: its folder is not there, or cannot be written")


def film(
    model: BaseAlgorithm,
    env: VecEnv,
    seed: int,
    deterministic: bool = True,
    every: int = 1,
    longest: int = LONGEST,
) -> Frames:
    """Play an episode and return what it looks like; no display is opened.

    Args:
        model: the agent.
        env: one environment, with ``render_mode="rgb_array"``.
        seed: of its start.
        deterministic: whether the most likely actions are taken.
        every: steps from frame to frame.
        longest: frames; the episode is not played on behind them.

    Returns:
        Frames, each ``(height, width, 3)``.

    Raises:
        TypeError: the environment gives something else than pictures of uint8.
    """
    from PIL import Image

    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # or pygame asks for a display, and complains
    env.seed(seed)
    obs, state, starts = env.reset(), None, np.ones(1, bool)
    infos: list[dict[str, Any]] = [{}]
    frames: Frames = []
    step, acting = 0, acting_in(model, env, deterministic)
    while "episode" not in infos[0] and len(frames) < longest:
        if step % every == 0:
            drawn = Image.fromarray(np.asarray(env.get_images()[0]))
            frames.append(np.asarray(drawn.convert("RGB")))
        step += 1
        masks = mask_arguments(model, env)
        actions, state = acting.predict(obs, state, starts, deterministic, **masks)
        obs, _, starts, infos = env.step(actions)
    return frames


def add_film(
    model: BaseAlgorithm, environment: Callable[[], VecEnv], seed: int, events: EventFile
) -> None:
    """Show the start of an episode in TensorBoard, small, where the environment can be drawn.

    Args:
        model: the agent.
        environment: makes one, as ``film`` takes it.
        seed: of its start.
        events: the run's.
    """
    try:
        with closing(environment()) as env, io.BytesIO() as file:
            frames = film(model, env, seed, every=EVERY, longest=FEW)
            coarser = -(-max(frames[0].shape[:2]) // SMALL)
            frames = [frame[::coarser, ::coarser] for frame in frames]
            fps: Any = env.unwrapped.metadata.get("render_fps")
            _write_gif(file, frames, (fps or 30) / EVERY)
            gif = file.getvalue()
    except Exception as error:  # drawing needs libraries that may be missing, or fail
        print(f"no film of the agent: {printable(error)}", file=sys.stderr)
    else:
        from tensorboard.compat.proto.summary_pb2 import Summary

        # TensorBoard shows a GIF moving among the pictures.
        height, width = frames[0].shape[:2]
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
        shown = Summary(value=[Summary.Value(tag=tags.FILM, image=image)])
        events.add(shown, model.num_timesteps)


def write_film(path: Path, frames: Frames, fps: float) -> None:
    """Write ``frames`` as a GIF or an MP4, which ``check_film`` has allowed; whole or not at all.

    Args:
        path: ends in .gif or .mp4.
        frames: each ``(height, width, 3)``.
        fps: frames a second; viewers of GIFs show at most 50.

    Raises:
        UsageError: the file cannot be written.
    """
    write = _write_mp4 if path.suffix.lower() == ".mp4" else _write_gif
    with as_usage_error(f"record {path}", OSError), whole_file(path) as file:
        write(file, frames, fps)


def _write_mp4(file: IO[bytes], frames: Frames, fps: float) -> None:
    from imageio_ffmpeg import write_frames  # type: ignore[import-untyped]

    height, width, _ = frames[0].shape
    # Blocks of two pixels, which the colours need: frames keep their size.
    options = {"fps": fps, "macro_block_size": 2, "output_params": ["-f", "mp4"]}
    film = write_frames(file.name, (width, height), **options)
    film.send(None)
    try:
        for frame in frames:
            film.send(np.ascontiguousarray(frame, np.uint8))
    finally:
        film.close()


def _write_gif(file: IO[bytes], frames: Frames, fps: float) -> None:
    from PIL import Image

    first, *others = [Image.fromarray(frame) for frame in frames]
    duration = round(1000 / min(fps, 50))  # ms
    first.save(file, "GIF", save_all=True, append_images=others, duration=duration, loop=0)
