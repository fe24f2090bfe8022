"""The tables that rows can be put into."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import gymnasium as gym

from agents import AGENTS
from wnrl import NORMS
from wnrl.data import DATASETS
from wnrl.tensor_envs import TENSOR_ENVS
from wnrl.vae import PRESETS
from wnrl.vae.models import MODELS

with suppress(ImportError):  # once imported it does not register its games again
    import ale_py  # noqa: F401


@contextmanager
def restored() -> Iterator[None]:
    """Give the tables back the rows that they have now."""
    all_tables = (NORMS, AGENTS, DATASETS, MODELS, PRESETS, TENSOR_ENVS, gym.registry)
    tables = [(table, dict(table)) for table in all_tables]
    try:
        yield
    finally:
        for table, rows in tables:
            table.clear()
            table.update(rows)
