"""Policy with a norm for CrossQ, with or without a target network.

sb3-contrib's loop runs its critic on (s, a) and (s', a') as one batch and bootstraps from the
second half of what comes out. With a target, these values are the target's: the critic puts them
there, and the loop stays as it is. CrossQ with projected weights has one (Palenicek et al.
2025, arXiv:2502.07523, section 4): without it, in their ablation (section 5.4), returns on the
DeepMind Control Suite fall nearly as far as without the projection.

*Statistics.* As in the paper, the target runs on the joint batch too, in training mode: its batch
norms use the statistics of (s, a) and (s', a') together, so that the noise of a batch is in the
values of critic and target alike. The running statistics, of which the paper says nothing, are
those of the target's own activations, tracked in that forward, and neither averages nor copies of
the critic's. Batch norm does not use them in training, but batch renormalisation does: after its
warm-up it normalises by them, within limits, and the critic's belong to other weights. With
``tau=1`` such a target is a copy of the critic in all, and what a batch teaches, bit for bit, what
CrossQ makes of it.

*Weights.* After each step of the critic's optimizer, and after the projection that may follow it,
the target moves by ``tau``. Rows of unit length average to shorter ones. They are not projected
again: before a nonlinearity, averaged weights and biases give the average of what the critics gave,
and to project the rows alone would change how they go with the biases. A batch norm behind it takes
the length out again.
"""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from sb3_contrib.common.torch_layers import BatchRenorm1d as StockBatchRenorm
from sb3_contrib.crossq.policies import CrossQPolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import polyak_update
from torch import Tensor, nn

from wnrl.errors import UsageError
from wnrl.nn.initialization import set_statistics
from wnrl.norms import NORMS
from wnrl.sb3.continuous import Actor, ContinuousMixin, Critic
from wnrl.sb3.conversion import Conversion
from wnrl.sb3.parts import batch_norms, trained_parts


class JointCritic(Critic):
    """Mixin for CrossQ's critic: it learns from batches ``(2 B, ...)`` of (s, a), then (s', a').

    Attributes:
        target: its target, if it has one, which gives the values of (s', a').
        tau: how far the target moves to the critic after each step of the critic's optimizer.
    """

    target: tuple[Any, ...] = ()
    tau = 0.0

    def values(self, learns: bool, obs: Any, actions: Tensor) -> Any:
        """Return values of observations and actions; a target's for the second half of a batch."""
        values = self.run(learns, obs, actions)
        if not learns or not self.target:
            return values
        (target,), n = self.target, len(actions) // 2
        with torch.no_grad():
            if target.norms:
                target.prepare(obs)
                ahead = tuple(q[n:] for q in target.run(True, obs, actions))
            else:  # examples are independent
                ahead = target(obs[n:], actions[n:])
        return tuple(torch.cat([q[:n], q_next]) for q, q_next in zip(values, ahead, strict=True))

    @torch.no_grad()
    def after_step(self) -> None:
        """Project where the norm asks for it, then move the target as SB3's loops do.

        Its buffers named ``running_*`` are copied, but for those of ``norms``, its own statistics.
        """
        super().after_step()
        for target in self.target:
            polyak_update(self.parameters(), target.parameters(), self.tau)
            for part, own in zip(target.modules(), self.modules(), strict=True):
                for key, buffer in part.named_buffers(recurse=False):
                    if key.startswith("running_") and part not in target.norms:
                        buffer.copy_(own.get_buffer(key))


@dataclass(frozen=True)
class PlacedConversion(Conversion):
    """A conversion of CrossQ's networks, which have places for normalizers."""

    normalizer: str | None = None
    """The key of ``NORMS`` whose normalizer stands in these places."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Its options."""

    def apply(self, net: nn.Module, heads: Iterable[str]) -> None:
        """Fill the places and give the layers the norm."""
        if self.normalizer is not None:
            if self.placement != "pre":
                raise UsageError(
                    "placement must be 'pre' for CrossQ, whose normalizers stand where sb3-contrib "
                    f"has them, got {self.placement!r}"
                )
            self._fill_places(net, NORMS[self.normalizer])
        if self.normalizer == self.norm:
            parts = [name for name, _ in net.named_children() if name != "features_extractor"]
            self.convert(net, skip=parts)
            self.convert(net, skip=() if self.norm_heads else heads, hidden=())
        else:
            super().apply(net, heads)

    def _fill_places(self, net: nn.Module, choice: Any) -> None:
        """Put the normalizer of a norm where sb3-contrib has batch renormalisation."""
        for parent in list(net.modules()):
            for index, (name, child) in enumerate(list(parent.named_children())):
                if isinstance(child, StockBatchRenorm):
                    norm = choice.normalizers[0](child.num_features, **self.options)
                    if index == 0 and not choice.batch_statistics:
                        norm = nn.Identity()
                    setattr(parent, name, norm.to(child.scale.device))


class CrossQActor(Actor):
    """Mixin for CrossQ's actor."""

    def _get_constructor_parameters(self) -> dict[str, Any]:
        # sb3-contrib's list lacks whether there are places.
        placed = self.conversion.normalizer is not None
        return {**super()._get_constructor_parameters(), "batch_norm": placed}


class CrossQMixin(ContinuousMixin):
    """``ContinuousMixin`` for CrossQ, whose networks have places for normalizers of their own.

    sb3-contrib's networks have batch renormalisation in front of every linear layer. What stands
    there is the norm's choice:

    - a norm with a normalizer (``batch``, ``batch_renorm``, ``layer``, ``rms``, ``mean``,
      ``weight_mean``) puts it into these places. ``batch_renorm`` is CrossQ as sb3-contrib has it,
      but that variances are those of the population, smaller by a factor of 1 − 1/(2 B) for the
      2 B examples of a joint batch, and that a feature which is constant on a batch has a gradient
      of zero after the warm-up, where sb3-contrib's is NaN. ``layer`` and ``rms`` leave out the
      place in front of the first layer: an observation normalised by itself loses a part of what
      it says;
    - ``none``, ``weight`` and ``spectral`` leave them out: there is no normalizer at all. CrossQ
      leans on its normalizer where others have targets, and with neither it learns late, if at
      all: a warning says so unless ``batch_norm=False`` asks for it or ``tau`` gives it a target;
    - ``projected`` keeps batch renormalisation: CrossQ with projected weights (Palenicek et al.
      2025, arXiv:2502.07523) has both, the one for the scale of activations and the other for that
      of the weights. Alone, with ``batch_norm=False``, it is what it is in the other algorithms.

    sb3-contrib's arguments are the defaults of batch norms: ``batch_norm_momentum``,
    ``batch_norm_eps`` and ``renorm_warmup_steps``, after which r and d are limited by their final
    values at once. ``norm_kwargs`` has precedence.

    sb3-contrib's loop runs (s, a) and (s', a') as one batch, so statistics are joint, and has no
    target networks. ``tau`` gives the critic one, as Palenicek et al. have it.

    Args:
        *args: those of the policy.
        tau: how far, from above 0 to 1, the critic's target moves to the critic after each gradient
            step; None for no target.
        **kwargs: those of ``ContinuousMixin`` and of the policy. ``batch_norm`` takes batch
            renormalisation away from ``projected`` (False), or puts it beside ``weight`` and
            ``spectral`` (True).

    Attributes:
        normalizer: the key of ``NORMS`` whose normalizer stands in these places, or None.
        critic_target: the target, if there is one.

    Raises:
        UsageError: ``tau`` is out of range, or ``batch_norm`` contradicts the norm.
    """

    own_names = (*ContinuousMixin.own_names, "tau")
    actor_mixin = CrossQActor
    critic_mixin = JointCritic

    def __init__(self, *args: Any, tau: float | None = None, **kwargs: Any) -> None:
        if tau is not None and not 0 < tau <= 1:
            raise UsageError(f"tau must be a number above 0, up to 1, or None; got {tau!r}")
        self.tau = tau
        super().__init__(*args, **kwargs)

    def _find_plain_parts(self) -> list[str]:
        if self.normalizer != self.norm:
            return super()._find_plain_parts()
        layers = NORMS[self.norm].layers if NORMS[self.norm].reparametrizes else {}
        return [name for name, part in trained_parts(self).named_modules() if type(part) in layers]

    def _build(self, lr_schedule: Schedule) -> None:
        batch_norm = self._arguments.get("batch_norm")
        self.normalizer = self._choose_normalizer(batch_norm)
        if self.normalizer is None and batch_norm is None and self.tau is None:
            warnings.warn(
                f"CrossQ with norm {self.norm!r} has no normalizer and no target, and learns late, "
                "if at all: norm='projected' and norm='batch_renorm' have a normalizer, tau=0.005 "
                "gives it a target, and batch_norm=False says that neither is wanted",
                stacklevel=2,
            )
        for arguments in (self.actor_kwargs, self.critic_kwargs):
            arguments["batch_norm"] = self.normalizer is not None
        super()._build(lr_schedule)  # type: ignore[misc]
        if self.tau is not None:
            self.critic_target = self.make_critic()
            self.critic_target.load_state_dict(self.critic.state_dict())
            self.critic_target.set_training_mode(False)
            self.critic.target, self.critic.tau = (self.critic_target,), self.tau

    def _choose_normalizer(self, batch_norm: bool | None) -> str | None:
        """The key of ``NORMS`` whose normalizer stands in CrossQ's places."""
        choice = NORMS[self.norm]
        own = choice.normalizers is not None
        if (own and batch_norm is False) or (self.norm == "none" and batch_norm):
            raise UsageError(
                f"batch_norm={batch_norm} contradicts norm {self.norm!r}: norm 'batch_renorm' is "
                "CrossQ with batch renormalisation, norm 'none' CrossQ without"
            )
        if own:
            return self.norm
        kept = choice.after_step is not None if batch_norm is None else batch_norm
        return "batch_renorm" if kept else None

    def _conversion(self) -> "PlacedConversion":
        key = self.normalizer
        options = {} if key is None else self._normalizer_options(key)
        return PlacedConversion(**vars(super()._conversion()), normalizer=key, options=options)

    def _run_net(self, net: nn.Sequential, x: Tensor) -> Tensor:
        """As elsewhere; batch norms in front of layers take their statistics from ``x``."""
        norms = batch_norms(net)
        for part in net:
            if part in norms:
                set_statistics(part, x, "a batch norm")
            x = part(x)
        return x

    def _normalizer_options(self, key: str) -> dict[str, Any]:
        """sb3-contrib's arguments, as far as the normalizer has them, then ``norm_kwargs``."""
        known, options = NORMS[key].options, self.norm_kwargs if key == self.norm else {}
        if "momentum" in known:
            stock = self.batch_norm_params
            warmup = options.get("warmup_steps", stock["renorm_warmup_steps"])
            defaults = {
                "momentum": stock["batch_norm_momentum"],
                "eps": stock["batch_norm_eps"],
                "warmup_steps": warmup,
                **dict.fromkeys(("r_steps", "d_steps"), warmup + 1),
            }
            options = {**defaults, **options}
        return {name: value for name, value in options.items() if name in known}


class WNCrossQMlpPolicy(CrossQMixin, CrossQPolicy):
    """sb3-contrib's ``MlpPolicy`` for CrossQ, with a norm.

    The default, ``weight``, has no normalizer, without which CrossQ learns late, if at all: take
    ``batch_norm=True`` or ``tau=0.005`` with it, or norm ``projected``, or ``batch_renorm``, which
    is CrossQ itself.
    """
