"""When the batch norms of an off-policy actor and critic use the statistics of the batch.

The training loops of stable-baselines3 put actor and critic into train mode and leave them there.
With batch norm that is wrong in five places: SAC and TQC draw the next actions from the statistics
of the next batch and mix those into the running ones; the loss of the actor runs the critic on
(s, π(s)), which changes the critic's statistics and lets the examples of the actor's batch reach
each other through them; TD3's ``q1_forward`` does the same behind ``critic.__call__``; a critic
that does not train a shared features extractor still moves its statistics; and the critic learns
from (s, a) alone, so that (s', a'), which its target then evaluates with the same statistics, is
out of distribution (Bhatt et al. 2024, arXiv:1902.05605, which is CrossQ, section 3).

Here a batch norm tracks the batch in one place only: the forward that its network learns from.
That is, for an actor, a forward with grad; for a critic, a forward with grad whose actions have
none (actions that carry a gradient come from an actor that learns). Everywhere else the running
statistics stay as they are, and are used but by targets, as said below. It holds for SAC, TD3, TQC
and CrossQ alike, and needs no change to their loops: forward hooks see all of it.

Joint statistics are CrossQ's remedy for the last point, brought to algorithms with target networks:
the critic remembers (s', a') from the call of its target and, when it learns from (s, a), runs both
as one batch. Its statistics are then those of the mixture, and so are the running ones, which
stable-baselines3 copies to the target. The target itself uses the statistics of (s', a') in an
update, and leaves its running ones alone: what chance does to the statistics of a batch shifts the
values of critic and target alike. With running statistics in the target the critic is regressed on
values without that shift, and takes it for error.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wnrl.nn.normalizers import BatchRenorm, MeanOnlyBatchNorm
from wnrl.sb3.data_init import Observations

Inputs = tuple[Any, ...]
Named = dict[str, Any]


def batch_norms(*modules: nn.Module) -> list[nn.Module]:
    """The modules that normalise by statistics of the batch, each once."""
    kinds = (_BatchNorm, BatchRenorm, MeanOnlyBatchNorm)
    found = {id(m): m for module in modules for m in module.modules() if isinstance(m, kinds)}
    return list(found.values())


def counterparts(network: nn.Module, parts: list[nn.Module], other: nn.Module) -> list[nn.Module]:
    """The modules of ``other``, made as ``network`` was, in the places of ``parts``."""
    wanted = {id(part) for part in parts}
    places = [place for place, part in network.named_modules() if id(part) in wanted]
    return [other.get_submodule(place) for place in places]


def use_batch_statistics(norms: list[nn.Module], mode: bool) -> None:
    """Switches between the statistics of the batch, which are tracked, and the running ones."""
    for norm in norms:
        norm.training = mode


class LearningForward:
    """Forward hooks by which the batch norms of a network use the batch where it learns from it.

    Outside of such a forward they are left with their running statistics. Copyable and picklable.

    Args:
        network: the network, whose mode says whether it is in training at all.
        part: the module in it whose forwards are watched.
        norms: the batch norms in ``part``.
    """

    def __init__(self, network: nn.Module, part: nn.Module, norms: list[nn.Module]) -> None:
        self.network, self.norms = network, norms
        part.register_forward_pre_hook(self.before, with_kwargs=True)
        part.register_forward_hook(self.after, with_kwargs=True, always_call=True)

    def learns(self, args: Inputs, kwargs: Named) -> bool:
        """Whether the network learns from this forward."""
        return self.network.training and torch.is_grad_enabled()

    def before(self, _: nn.Module, args: Inputs, kwargs: Named) -> Any:
        """Pre-hook; may return other arguments."""
        use_batch_statistics(self.norms, self.learns(args, kwargs))

    def after(self, _: nn.Module, args: Inputs, kwargs: Named, output: Any) -> Any:
        """Hook; may return another output. It is called after an error as well."""
        use_batch_statistics(self.norms, False)


class CriticForward(LearningForward):
    """The same for a critic of observations and actions, with joint statistics if asked.

    Args:
        critic: the critic.
        norms: its batch norms, less those of a features extractor that the actor trains.
        target: its target network, for joint statistics; None for statistics of (s, a) alone.
    """

    def __init__(
        self, critic: nn.Module, norms: list[nn.Module], target: nn.Module | None = None
    ) -> None:
        super().__init__(critic, critic, norms)
        self.names = tuple(inspect.signature(critic.forward).parameters)[:2]
        self.next_batch: tuple[Observations, Tensor] | None = None
        self.batch_size: int | None = None  # of (s, a), while a joint forward runs
        if target is not None:
            target.register_forward_pre_hook(self.remember, with_kwargs=True)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "next_batch": None, "batch_size": None}

    def pair(self, args: Inputs, kwargs: Named) -> tuple[Observations, Tensor]:
        """Observations and actions, given by position or by name."""
        obs, actions = (*args, *(kwargs[name] for name in self.names[len(args) :]))
        return obs, actions

    def remember(self, _: nn.Module, args: Inputs, kwargs: Named) -> None:
        """Pre-hook of the target: keeps (s', a') of an update until the critic learns."""
        self.next_batch = self.pair(args, kwargs) if self.network.training else None

    def learns(self, args: Inputs, kwargs: Named) -> bool:
        """Whether the critic learns: not where the actions carry a gradient to an actor."""
        return super().learns(args, kwargs) and not self.pair(args, kwargs)[1].requires_grad

    def before(self, critic: nn.Module, args: Inputs, kwargs: Named) -> Any:
        """Puts (s', a') behind (s, a)."""
        super().before(critic, args, kwargs)
        if self.next_batch is None or not self.learns(args, kwargs):
            return None
        (obs, actions), (next_obs, next_actions) = self.pair(args, kwargs), self.next_batch
        self.next_batch, self.batch_size = None, len(actions)
        return (_join(obs, next_obs), torch.cat([actions, next_actions.detach()])), {}

    def after(self, critic: nn.Module, args: Inputs, kwargs: Named, output: Any) -> Any:
        """Takes the outputs for (s', a') away."""
        super().after(critic, args, kwargs, output)
        n, self.batch_size = self.batch_size, None
        if n is None or output is None:
            return output
        return output[:n] if isinstance(output, Tensor) else tuple(q[:n] for q in output)


class TargetForward:
    """Forward hooks by which a target uses the statistics of the batch while its network trains.

    Args:
        network: the network that learns from the target's values.
        target: the target.
        norms: its batch norms, those of them whose like in ``network`` use the batch.
    """

    def __init__(self, network: nn.Module, target: nn.Module, norms: list[nn.Module]) -> None:
        self.network, self.norms = network, norms
        self.running: list[Tensor] = []
        target.register_forward_pre_hook(self.before)
        target.register_forward_hook(self.after, always_call=True)

    def before(self, *_: Any) -> None:
        """Pre-hook."""
        if self.network.training:
            self.running = [b.clone() for norm in self.norms for b in norm.buffers()]
            use_batch_statistics(self.norms, True)

    def after(self, *_: Any) -> None:
        """Hook: puts the running statistics back, also after an error."""
        use_batch_statistics(self.norms, False)
        tracked = (buffer for norm in self.norms for buffer in norm.buffers())
        for buffer, before in zip(tracked, self.running, strict=False):
            buffer.copy_(before)
        self.running = []


def _join(obs: Any, next_obs: Any) -> Any:
    if isinstance(obs, dict):
        return {key: torch.cat([value, next_obs[key]]) for key, value in obs.items()}
    return torch.cat([obs, next_obs])
