"""The tables that rows can be put into."""

from collections.abc import Iterator
from contextlib import contextmanager

from agents import AGENTS
from wnrl import NORMS
from wnrl.data import DATASETS
from wnrl.vae import PRESETS
from wnrl.vae.models import MODELS


@contextmanager
def restored() -> Iterator[None]:
    """Give the tables back the rows that they have now."""
    tables = [(table, dict(table)) for table in (NORMS, AGENTS, DATASETS, MODELS, PRESETS)]
    try:
        yield
    finally:
        for table, rows in tables:
            table.clear()
            table.update(rows)
