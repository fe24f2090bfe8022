"""Rollouts compute each weight once."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from wnrl.nn import frozen
from wnrl.sb3.common import NormBase
from wnrl.sb3.parts import trained_parts


class RolloutMixin(NormBase):
    """``NormBase`` for algorithms that act many times between updates.

    Rollouts compute each weight once: after SB3 has switched to evaluation for one, the first
    action opens ``frozen``, which lasts until the next switch, that is until the update.

    Who asks for the policy's parameters or modules may write them in ways that leave no trace, such
    as ``.data``; the action after that computes the weights anew, also where a callback has ended
    training within a rollout. Only a write through ``.data`` to what was asked for earlier needs
    ``wnrl.invalidate(policy)`` afterwards.
    """

    _collecting = False
    _asking = False
    _rollout: frozen | None = None

    def set_training_mode(self, mode: bool) -> None:
        """As SB3's, which calls it at the start of each rollout and of each update."""
        if not self._asking:
            self._forget()
            self._collecting = not mode
        super().set_training_mode(mode)

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        """As torch's, which ``modules``, ``parameters`` and ``named_parameters`` call."""
        if not self._asking:
            self._forget()
        return super().named_modules(*args, **kwargs)

    def _keep(self) -> None:
        """Opens ``frozen`` if a rollout is running."""
        if self._collecting and self._rollout is None:
            self._rollout = frozen(trained_parts(self))
            self._rollout.__enter__()

    def _forget(self) -> None:
        """Has the next action compute the weights."""
        if self._rollout is not None:
            self._rollout.__exit__(None, None, None)
            self._rollout = None

    @contextmanager
    def _as_asked(self) -> Iterator[None]:
        """Within it SB3's ``predict``, which switches to evaluation too, begins no rollout."""
        self._asking = True
        try:
            yield
        finally:
            self._asking = False

    def __getstate__(self) -> dict[str, Any]:
        # Copies are in no rollout.
        return {**super().__getstate__(), "_rollout": None, "_collecting": False}
