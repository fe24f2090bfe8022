"""A callback for SB3's ``learn`` that stops at a NaN."""

import math

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from wnrl import tags
from wnrl.errors import NonFiniteError


def check_finite(model: BaseAlgorithm, parameters: bool = True) -> None:
    """Check the last logged loss and every parameter of ``model``, with one synchronisation.

    Args:
        model: the agent.
        parameters: whether to look at them, or at the loss alone.

    Raises:
        NonFiniteError: one of them is NaN or infinite; the message names it.
    """
    loss = model.logger.name_to_value.get(tags.TRAIN_LOSS)
    broken = [] if loss is None or math.isfinite(loss) else [f"{tags.TRAIN_LOSS} ({loss})"]
    if parameters:
        named = dict(model.policy.named_parameters())
        finite = torch.stack([p.detach().isfinite().all() for p in named.values()]).tolist()
        broken += [name for name, fine in zip(named, finite, strict=True) if not fine]
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
    """

    every = 1_000
    """Environment steps between looks at the parameters."""

    def _on_training_start(self) -> None:
        self._due = self.num_timesteps

    def _on_rollout_start(self) -> None:
        due = self.num_timesteps >= self._due
        if due:
            self._due = self.num_timesteps + self.every
        check_finite(self.model, parameters=due)

    def _on_training_end(self) -> None:
        check_finite(self.model)

    def _on_step(self) -> bool:
        return True
