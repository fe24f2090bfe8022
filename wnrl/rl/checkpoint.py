"""Resume checkpoints: all that a run needs to go on as if it had never stopped.

A checkpoint is one zip file, written beside its name and then renamed, so that a crash at any
moment leaves the one before. Every part has a checksum. It is read without running code from it.
"""

import io
import json
import os
import pickle
import random
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.logger import TensorBoardOutputFormat
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise
from stable_baselines3.common.save_util import recursive_getattr
from torch.utils import _pytree as pytree

from wnrl.errors import UsageError
from wnrl.rl.env_state import dump, load, load_envs, save_envs
from wnrl.rl.replay import read_replay, write_replay

CHECKPOINT = "checkpoint.zip"
BEST = ("best_model.zip", "best_vecnormalize.pkl")
FORMAT = 1
# Of an algorithm's attributes, those that training changes; each has only some of them.
COUNTERS = (
    "num_timesteps",
    "_n_updates",
    "_episode_num",
    "_n_calls",
    "_current_progress_remaining",
    "exploration_rate",
)
MEMORY = ("ep_info_buffer", "ep_success_buffer")
# What holds for episodes that go on, and is made anew where they cannot.
EPISODES = ("_last_obs", "_last_original_obs", "_last_episode_starts")


@dataclass
class Checkpoint:
    """What was read from a file and is not in the model; see ``read_checkpoint``."""

    extra: dict[str, Any]
    """What the caller of ``write_checkpoint`` added."""
    events: dict[str, int]
    """Event files and how long each was."""
    best: dict[str, bytes]
    """Files of the best agent so far, by name."""
    episodes_go_on: bool
    """Whether the environments are where they were."""
    late: dict[str, Any] = field(repr=False)
    """What ``learn`` draws or resets before its first rollout; for ``restore_late``."""

    def put_back(self, run_dir: Path) -> None:
        """Makes the files of ``run_dir`` those of the checkpoint's moment."""
        for events in run_dir.glob("events.out.tfevents.*"):
            if events.name not in self.events:
                events.unlink()
            elif events.stat().st_size > self.events[events.name]:
                os.truncate(events, self.events[events.name])
        for name in BEST:
            if name in self.best:
                scratch = run_dir / f"{name}.tmp"
                scratch.write_bytes(self.best[name])
                scratch.replace(run_dir / name)
            else:
                (run_dir / name).unlink(missing_ok=True)


def write_checkpoint(
    model: BaseAlgorithm, run_dir: Path, extra: Mapping[str, Any], *, in_rollout: bool = False
) -> None:
    """Writes the state of ``model`` and of its environments to ``run_dir``.

    Args:
        model: between an update and the rollout after it.
        run_dir: the run's folder; its event files and best agent are part of the state.
        extra: anything else to remember, in JSON types.
        in_rollout: whether ``learn`` has drawn the rollout's exploration noise already.

    Raises:
        OSError: it cannot be written; the checkpoint before is still there.
    """
    assert model.env is not None
    wrappers, episodes = save_envs(model.env)
    buffer = getattr(model, "replay_buffer", None)
    scratch = run_dir / f"{CHECKPOINT}.tmp"
    with scratch.open("wb") as file:
        with zipfile.ZipFile(file, "w") as archive:
            replay = None if buffer is None else write_replay(archive, buffer)
            archive.writestr("tensors.pt", _tensors(model, in_rollout))
            archive.writestr("memory.pkl", dump(_memory(model)))
            archive.writestr("wrappers.pkl", wrappers)
            if episodes is not None:
                archive.writestr("episodes.pkl", episodes)
            for name in BEST:
                if (run_dir / name).exists():
                    archive.write(run_dir / name, name)
            manifest = {
                "format": FORMAT,
                "steps": model.num_timesteps,
                "extra": extra,
                "replay": replay,
                "events": _event_files(model, run_dir),
            }
            archive.writestr("manifest.json", json.dumps(manifest, allow_nan=False))
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(run_dir / CHECKPOINT)


def read_checkpoint(model: BaseAlgorithm, path: Path) -> Checkpoint:
    """Puts ``model`` and its environments in the state that ``path`` holds.

    Args:
        model: built as the one that was saved was.
        path: from ``write_checkpoint``.

    Raises:
        UsageError: the file is damaged, or of another model.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = json.loads(archive.read("manifest.json"))
            if manifest["format"] != FORMAT:
                raise ValueError(f"format {manifest['format']}, {FORMAT} expected")
            tensors = torch.load(
                io.BytesIO(archive.read("tensors.pt")), model.device, weights_only=True
            )
            memory = load(archive.read("memory.pkl"), like=dump(_memory(model)))
            late = _restore(model, tensors, memory)
            go_on = _restore_envs(model, archive)
            buffer = getattr(model, "replay_buffer", None)
            if buffer is not None:
                read_replay(archive, buffer, manifest["replay"])
                if not go_on:
                    end_last_episodes(buffer)
            best = {name: archive.read(name) for name in BEST if name in archive.namelist()}
    except (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, AttributeError,
            zipfile.BadZipFile, zlib.error, pickle.UnpicklingError) as error:  # fmt: skip
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UsageError(f"checkpoint {path} is damaged or of another model: {reason}") from error
    if not go_on:
        for name in EPISODES:
            setattr(model, name, None)
    return Checkpoint(manifest["extra"], manifest["events"], best, go_on, late)


def saved_steps(path: Path) -> int:
    """At how many environment steps the checkpoint ``path`` was written.

    Raises:
        UsageError: the file is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("manifest.json"))["steps"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"checkpoint {path} is damaged: {error}") from error


def _tensors(model: BaseAlgorithm, in_rollout: bool) -> bytes:
    """Parameters, optimizers and random states, as ``torch.save`` writes them."""
    noise = _exploration(model) if in_rollout else None
    value = {
        "parameters": model.get_parameters(),
        "variables": {
            name: recursive_getattr(model, name) for name in model._get_torch_save_params()[1]
        },
        "lstm_states": pytree.tree_leaves(getattr(model, "_last_lstm_states", None)),
        "exploration": noise and [noise.exploration_mat, noise.exploration_matrices],
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


def _memory(model: BaseAlgorithm) -> dict[str, Any]:
    """What Python and NumPy remember."""
    pending = {
        key: (float(value), model.logger.name_to_count[key], model.logger.name_to_excluded[key])
        for key, value in _logger(model).items()
        if isinstance(value, int | float | np.number)
    }
    return {
        "attributes": {
            name: getattr(model, name)
            for name in (*COUNTERS, *MEMORY, *EPISODES)
            if hasattr(model, name)
        },
        "pending": pending,
        "action_noises": [vars(noise) for noise in _action_noises(model)],
        "action_space": model.action_space.np_random.bit_generator.state,
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 (SB3 draws from the global generator)
    }


def _logger(model: BaseAlgorithm) -> dict[str, Any]:
    """What was recorded and is not yet written."""
    return model.logger.name_to_value if hasattr(model, "_logger") else {}


def _restore(
    model: BaseAlgorithm, tensors: dict[str, Any], memory: dict[str, Any]
) -> dict[str, Any]:
    """Puts all but environments and buffer back; returns what is for ``restore_late``."""
    model.set_parameters(tensors["parameters"], device=model.device)
    for name, value in tensors["variables"].items():
        if value is not None:
            recursive_getattr(model, name).data = value.data  # the optimizer keeps its parameter
    states = getattr(model, "_last_lstm_states", None)
    if states is not None:
        structure = pytree.tree_structure(states)
        model._last_lstm_states = pytree.tree_unflatten(tensors["lstm_states"], structure)  # type: ignore[attr-defined]
    for name, value in memory["attributes"].items():
        setattr(model, name, value)
    late = {key: tensors[key] for key in ("exploration", "cpu", "cuda")}
    late |= {name: value for name, value in memory.items() if name != "attributes"}
    restore_random_states(model, late)
    return late


def restore_late(model: BaseAlgorithm, late: Mapping[str, Any]) -> None:
    """Puts back what ``learn`` draws or resets before it calls ``on_rollout_start``."""
    for key, (number, count, excluded) in late["pending"].items():
        model.logger.name_to_value[key] = number
        model.logger.name_to_count[key] = count
        model.logger.name_to_excluded[key] = excluded
    noise = _exploration(model)
    if noise is not None and late["exploration"] is not None:
        noise.exploration_mat, noise.exploration_matrices = late["exploration"]
    for noise_of_one, state in zip(_action_noises(model), late["action_noises"], strict=True):
        vars(noise_of_one).update(state)  # in place: learn holds the object
    restore_random_states(model, late)


def restore_random_states(model: BaseAlgorithm, late: Mapping[str, Any]) -> None:
    """Puts the random generators of Python, NumPy, torch and the action space back."""
    model.action_space.np_random.bit_generator.state = late["action_space"]
    random.setstate(late["python"])
    np.random.set_state(late["numpy"])  # noqa: NPY002
    torch.set_rng_state(late["cpu"].cpu())
    for device, state in enumerate(late["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state.cpu(), device)


def _restore_envs(model: BaseAlgorithm, archive: zipfile.ZipFile) -> bool:
    assert model.env is not None
    saved = "episodes.pkl" in archive.namelist()
    episodes = archive.read("episodes.pkl") if saved else None
    return load_envs(model.env, archive.read("wrappers.pkl"), episodes)


def _exploration(model: BaseAlgorithm) -> StateDependentNoiseDistribution | None:
    """The distribution of gSDE, whose noise holds for a whole rollout."""
    acting = getattr(model, "actor", None) or model.policy
    found = getattr(acting, "action_dist", None)
    return found if isinstance(found, StateDependentNoiseDistribution) else None


def _action_noises(model: BaseAlgorithm) -> list[ActionNoise]:
    """The noise of each environment; ``learn`` makes several of one."""
    noise = model.action_noise
    if noise is None:
        return []
    return list(noise.noises) if isinstance(noise, VectorizedActionNoise) else [noise]


def end_last_episodes(buffer: ReplayBuffer) -> None:
    """Marks the newest transitions as the last of their episodes, which will not go on."""
    if buffer.size() > 0:
        ends = buffer.dones if buffer.optimize_memory_usage else buffer.timeouts
        ends[(buffer.pos - 1) % buffer.buffer_size] = 1.0


def _event_files(model: BaseAlgorithm, run_dir: Path) -> dict[str, int]:
    """The event files and their sizes, after everything logged is in them."""
    for output in model.logger.output_formats:
        cast(TensorBoardOutputFormat, output).writer.flush()
    return {path.name: path.stat().st_size for path in run_dir.glob("events.out.tfevents.*")}
