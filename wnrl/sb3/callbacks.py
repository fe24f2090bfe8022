"""A callback for SB3's ``learn`` that stops at a NaN."""

import math

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from wnrl import tags
from wnrl.errors import NonFiniteError, check_positive


def check_finite(model: BaseAlgorithm) -> None:
    """Checks the last logged loss and every parameter of ``model``, with one synchronisation.

    Raises:
        NonFiniteError: one of them is NaN or infinite; the message names it.
    """
    names, parameters = zip(*model.policy.named_parameters(), strict=True)
    finite = torch.stack([p.detach().isfinite().all() for p in parameters]).tolist()
    broken = [name for name, fine in zip(names, finite, strict=True) if not fine]
    _refuse(model, [*_broken_loss(model), *broken])


def _broken_loss(model: BaseAlgorithm) -> list[str]:
    loss = model.logger.name_to_value.get(tags.TRAIN_LOSS)
    return [] if loss is None or math.isfinite(loss) else [f"{tags.TRAIN_LOSS} ({loss})"]


def _refuse(model: BaseAlgorithm, broken: list[str]) -> None:
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise NonFiniteError(
            f"not finite after {model.num_timesteps} steps: {', '.join(broken[:3])}{more}"
        )


class StopAtNonFinite(BaseCallback):
    """Raises NonFiniteError after an update in which a loss or a parameter became NaN.

    The loss that is logged is looked at after each update. A parameter that broke stays broken, and
    looking at all of them costs about as much as acting once: that is done before the first
    rollout, then at most once in ``every`` environment steps, and after the last update.

    Args:
        every: environment steps between looks at the parameters; 1: after each update.

    Raises:
        UsageError: ``every`` is not above zero.
    """

    def __init__(self, every: int = 1_000) -> None:
        super().__init__()
        check_positive(every=every)
        self.every = every

    def _on_training_start(self) -> None:
        self._due = self.num_timesteps

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self._due:
            self._due = self.num_timesteps + self.every
            check_finite(self.model)
        else:
            _refuse(self.model, _broken_loss(self.model))

    def _on_training_end(self) -> None:
        check_finite(self.model)

    def _on_step(self) -> bool:
        return True
