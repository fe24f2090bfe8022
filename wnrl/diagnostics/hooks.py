"""torch's hooks, for what a loop of someone else's does not show."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def hooked(kind: str, hooks: Mapping[Any, Callable[..., None]]) -> Iterator[None]:
    """Have torch call functions inside, and never outside.

    Args:
        kind: of the hooks: ``"forward"``, ``"post_accumulate_grad"``, ``"step_post"``, ….
        hooks: from modules, parameters or optimizers to what is called with them.
    """
    handles = [getattr(owner, f"register_{kind}_hook")(hook) for owner, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
