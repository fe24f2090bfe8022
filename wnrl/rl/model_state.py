"""The state of an SB3 model as values: all that it needs to go on as if it had never stopped.

Parameters, optimizers, counters, random generators, exploration noise and the replay buffer are
here; the environments are in ``wnrl.rl.env_state``. Of a replay buffer only what is filled is
there.
"""

import random
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise
from stable_baselines3.common.save_util import recursive_getattr
from torch.utils import _pytree as pytree

# Of an algorithm's attributes, those that training changes; each has only some of them.
COUNTERS = (
    "num_timesteps", "_n_updates", "_episode_num", "_n_calls", "_current_progress_remaining",
    "exploration_rate",
)  # fmt: skip
MEMORY = ("ep_info_buffer", "ep_success_buffer")
# What holds for episodes that go on, and is made anew where they cannot.
EPISODES = ("_last_obs", "_last_original_obs", "_last_episode_starts")


def model_state(model: BaseAlgorithm, *, in_rollout: bool) -> dict[str, Any]:
    """Return the state of ``model`` between an update and the rollout after it.

    Args:
        model: The agent.
        in_rollout: Whether ``learn`` has drawn the rollout's exploration noise already.
    """
    noise = _exploration(model) if in_rollout else None
    buffer = getattr(model, "replay_buffer", None)
    return {
        "parameters": model.get_parameters(),
        "variables": {
            name: recursive_getattr(model, name) for name in model._get_torch_save_params()[1]
        },
        "lstm_states": pytree.tree_leaves(getattr(model, "_last_lstm_states", None)),
        "attributes": {
            name: getattr(model, name) for name in (*COUNTERS, *EPISODES) if hasattr(model, name)
        },
        "memory": {name: list(getattr(model, name) or ()) for name in MEMORY},
        "replay": None if buffer is None else replay_values(buffer),
        "late": {
            "exploration": noise and [noise.exploration_mat, noise.exploration_matrices],
            "pending": _pending_logs(model),
            "action_noises": [_arrays(noise) for noise in _action_noises(model)],
            "action_space": model.action_space.np_random.bit_generator.state,
            "python": random.getstate(),
            "numpy": np.random.get_state(legacy=False),  # noqa: NPY002 (SB3 draws from it)
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        },
    }


def restore_model(model: BaseAlgorithm, saved: Mapping[str, Any], *, episodes_go_on: bool) -> None:
    """Put ``model`` in the state ``saved``, but for its part ``late``.

    Args:
        model: Built as the one that was saved was.
        saved: From ``model_state``.
        episodes_go_on: Whether the environments are where they were.

    Raises:
        ValueError, KeyError, RuntimeError, TypeError: It is the state of another model.
    """
    model.set_parameters(saved["parameters"], device=model.device)
    for name, value in saved["variables"].items():
        if value is not None:  # the optimizer keeps its parameter
            recursive_getattr(model, name).data = value.to(model.device)
    states = getattr(model, "_last_lstm_states", None)
    if states is not None:
        leaves = [leaf.to(model.device) for leaf in saved["lstm_states"]]
        restored = pytree.tree_unflatten(leaves, pytree.tree_structure(states))
        model._last_lstm_states = restored  # type: ignore[attr-defined]
    for name, value in saved["attributes"].items():
        fresh = name in EPISODES and not episodes_go_on
        setattr(model, name, None if fresh else value)
    for name, items in saved["memory"].items():
        setattr(model, name, deque(items, maxlen=model._stats_window_size))
    buffer = getattr(model, "replay_buffer", None)
    if buffer is not None:
        restore_replay(buffer, saved["replay"])
        if not episodes_go_on and buffer.size() > 0:
            # the newest transitions are the last of their episodes
            ends = buffer.dones if buffer.optimize_memory_usage else buffer.timeouts
            ends[(buffer.pos - 1) % buffer.buffer_size] = 1.0


def restore_late(model: BaseAlgorithm, late: Mapping[str, Any]) -> None:
    """Put back what ``learn`` draws or resets before it calls ``on_rollout_start``."""
    for key, (number, count, excluded) in late["pending"].items():
        model.logger.name_to_value[key] = number
        model.logger.name_to_count[key] = count
        model.logger.name_to_excluded[key] = excluded
    noise = _exploration(model)
    if noise is not None and late["exploration"] is not None:
        matrices = [matrix.to(model.device) for matrix in late["exploration"]]
        noise.exploration_mat, noise.exploration_matrices = matrices
    for noise_of_one, state in zip(_action_noises(model), late["action_noises"], strict=True):
        vars(noise_of_one).update(state)  # in place: learn holds the object
    model.action_space.np_random.bit_generator.state = late["action_space"]
    random.setstate(late["python"])
    np.random.set_state(late["numpy"])  # noqa: NPY002
    torch.set_rng_state(late["cpu"])
    for device, state in enumerate(late["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, device)


def _pending_logs(model: BaseAlgorithm) -> dict[str, tuple[float, int, Any]]:
    """Return what was recorded and is not yet written."""
    logged = model.logger
    return {
        key: (float(value), logged.name_to_count[key], logged.name_to_excluded[key])
        for key, value in logged.name_to_value.items()
        if isinstance(value, int | float | np.number)
    }


def _exploration(model: BaseAlgorithm) -> StateDependentNoiseDistribution | None:
    """Return the distribution of gSDE, whose noise holds for a whole rollout."""
    acting = getattr(model, "actor", None) or model.policy
    distribution = getattr(acting, "action_dist", None)
    return distribution if isinstance(distribution, StateDependentNoiseDistribution) else None


def _action_noises(model: BaseAlgorithm) -> list[ActionNoise]:
    """Return the noise of each environment; ``learn`` makes several of one."""
    noise = model.action_noise
    if noise is None:
        return []
    return list(noise.noises) if isinstance(noise, VectorizedActionNoise) else [noise]


def _arrays(noise: ActionNoise) -> dict[str, Any]:
    return {name: part for name, part in vars(noise).items() if isinstance(part, np.ndarray)}


def arrays(buffer: ReplayBuffer) -> dict[str, NDArray[Any]]:
    """Return every array of ``buffer`` by name, those of Dicts as ``observations/<key>``."""
    named: dict[str, NDArray[Any]] = {}
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
    n = _n_rows(buffer)
    filled = {name: array[:n] for name, array in arrays(buffer).items()}
    return {"pos": buffer.pos, "full": buffer.full, "arrays": filled}


def restore_replay(buffer: ReplayBuffer, saved: Mapping[str, Any]) -> None:
    """Fill ``buffer``, made like the one that was saved.

    Raises:
        ValueError, KeyError: Its arrays are others.
    """
    buffer.pos, buffer.full = saved["pos"], saved["full"]
    n = _n_rows(buffer)
    for name, array in arrays(buffer).items():
        array[:n] = saved["arrays"][name]
