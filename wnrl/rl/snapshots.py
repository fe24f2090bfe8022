"""An agent as it acts at a moment of its training: kept in memory, and written into its folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from wnrl.rl.statistics import save_statistics, statistics_of
from wnrl.runs import write_bytes

Model = BaseAlgorithm
"""An agent as SB3 has it: what ``Agent.build`` gives."""
BEST = "best_"
MODEL, STATISTICS = "model.zip", "vecnormalize.npz"
FILES = (MODEL, STATISTICS, BEST + MODEL, BEST + STATISTICS)
"""Names of the files of a run's agents; those of statistics not for every agent."""


def snapshot(model: Model) -> dict[str, Any]:
    """Return copies of all that acting needs, on the CPU."""
    normalizer = model.get_vec_normalize_env()
    return {
        "step": model.num_timesteps,
        "policy": {
            name: value.detach().to("cpu", copy=True) if torch.is_tensor(value) else value
            for name, value in model.policy.state_dict().items()
        },
        "statistics": None if normalizer is None else statistics_of(normalizer),
    }


def become(model: Model, agent: Mapping[str, Any]) -> None:
    """Give ``model`` the network of a snapshot, and its step."""
    model.policy.load_state_dict(agent["policy"])
    model.num_timesteps = agent["step"]


def save_snapshot(model: Model, agent: Mapping[str, Any], folder: Path, prefix: str) -> None:
    """Write a snapshot of ``model`` into a run's folder; ``model`` becomes it."""
    become(model, agent)
    write_bytes(folder / (prefix + MODEL), model.save)
    if agent["statistics"] is not None:
        save_statistics(folder / (prefix + STATISTICS), agent["statistics"])
