"""A callback for SB3's ``learn`` that stops at a NaN."""

import math

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from wnrl import tags
from wnrl.errors import NonFiniteError


def check_finite(model: BaseAlgorithm) -> None:
    """Checks the last logged loss and every parameter of ``model``, with one synchronisation.

    Raises:
        NonFiniteError: one of them is NaN or infinite; the message names it.
    """
    loss = model.logger.name_to_value.get(tags.TRAIN_LOSS)
    names, parameters = zip(*model.policy.named_parameters(), strict=True)
    finite = torch.stack([p.detach().isfinite().all() for p in parameters]).tolist()
    broken = [name for name, fine in zip(names, finite, strict=True) if not fine]
    if loss is not None and not math.isfinite(loss):
        broken.insert(0, f"{tags.TRAIN_LOSS} ({loss})")
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise NonFiniteError(
            f"not finite after {model.num_timesteps} steps: {', '.join(broken[:3])}{more}"
        )


class StopAtNonFinite(BaseCallback):
    """Raises NonFiniteError after the update in which a loss or a parameter became NaN."""

    def _on_rollout_start(self) -> None:
        check_finite(self.model)

    def _on_training_end(self) -> None:
        check_finite(self.model)

    def _on_step(self) -> bool:
        return True
