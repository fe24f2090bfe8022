"""The networks of a cohort by formula: MLPs with the norms of ``HOT``, and PPO's loss.

Equal to ``VmappedNetworks``, and several times as fast on a CPU.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wnrl.errors import UsageError, check_choice
from wnrl.nn import WNLinear
from wnrl.nn.normalizers import Normalized
from wnrl.nn.spectral import SpectralLinear
from wnrl.population.actor_critic import LOG_STD, Layout
from wnrl.population.distributions import Distribution
from wnrl.population.layers import ACTIVATIONS, HOT, Layer, Room, Tensors
from wnrl.population.ppo_config import PPOConfig
from wnrl.population.rollout import Act
from wnrl.population.samples import Batch
from wnrl.population.vmapped import Goal, VmappedNetworks, standardised

SHORT = {
    "layer.weight": "weight",
    "layer.bias": "bias",
    "norm.weight": "gain",
    "norm.bias": "shift",
    "layer.weight_v": "v",
    "layer.weight_g": "g",
    "weight_v": "v",
    "weight_g": "g",
}
"""Names of ``wnrl.population.layers`` for those of modules, where they differ."""


class Samples(NamedTuple):
    """What a gradient is made of, laid out for it."""

    x: Tensor
    """Observations, for both networks of each member, ``(2P, n_inputs, B)``."""
    actions: Tensor
    """``(P, A, B)``, from ``Distribution.spread``."""
    log_probs: Tensor
    """Of the policy that acted, ``(P, B)``."""
    advantages: Tensor
    """As the loss takes them, over −B, ``(P, B)``."""
    sign: Tensor
    """Of the advantages, ``(P, B)``; −1 for zero."""
    bound: Tensor
    """Where the ratio times the sign is above it, nothing flows, ``(P, B)``."""
    returns: Tensor
    """``(P, B)``."""


class HotNetworks:
    """Formulas for networks of a plain MLP's shape.

    Args:
        config: what the members have in common.
        plan: the layout of the members.
        distribution: of actions.
        entropy: whether any member has an entropy bonus.
        dtype: of all real numbers.
    """

    def __init__(
        self,
        config: PPOConfig,
        plan: Layout,
        distribution: Distribution,
        entropy: bool,
        dtype: torch.dtype,
    ) -> None:
        self.plan, self.distribution, self.entropy = plan, distribution, entropy
        self.layers = _layers(config, plan, dtype)
        self.room = Room()

    @staticmethod
    def fit(config: PPOConfig, plan: Layout) -> bool:
        """Return whether there are formulas for networks like these."""
        return (
            config.norm in HOT
            and config.activation_fn in ACTIVATIONS
            and all(getattr(part, "holds_lengths", True) for part in plan.net.modules())
            and all(getattr(part, "momentum", 0.0) is not None for part in plan.net.modules())
        )

    def act(self, params: Tensor, buffers: Tensor) -> Act:
        """Return the networks in evaluation mode, for a rollout."""
        views = self.plan.views(params), self.plan.buffer_views(buffers)
        each = zip(self.layers, *map(self._by_layer, views), strict=True)
        steps = [layer.acting(*tensors) for layer, *tensors in each]

        def act(obs: Tensor) -> tuple[Tensor, Tensor]:
            y = _for_both(obs)
            for step in steps:
                y = step(y)
            outputs = y.unflatten(0, (-1, 2)).clone()
            return outputs[:, 0].transpose(1, 2), outputs[:, 1, 0]

        return act

    def learner(self, params: Tensor, buffers: Tensor, grads: Tensor, goal: Goal) -> "HotLearner":
        """Return what computes gradients of these members."""
        plan = self.plan
        by_log_std = plan.views(grads).get(LOG_STD)
        return HotLearner(
            self,
            goal,
            self._by_layer(plan.views(params)),
            self._by_layer(plan.buffer_views(buffers)),
            self._by_layer(plan.views(grads)),
            plan.log_std(params),
            None if by_log_std is None else by_log_std.unflatten(0, (-1, 2)),
        )

    def _by_layer(self, views: Tensors) -> list[Tensors]:
        """Return the views of the layout, layer by layer, under short names."""
        places = [str(k) for k, part in enumerate(self.plan.net.network()) if [*part.parameters()]]
        split: dict[str, dict[str, Tensor]] = {place: {} for place in places}
        for name, view in views.items():
            place, _, rest = name.partition(".")
            if name != LOG_STD:
                split[place][SHORT.get(rest, rest.removeprefix("norm."))] = view
        return [split[place] for place in places]


@dataclass(frozen=True)
class HotLearner:
    """Gradients of some members, from views of their rows."""

    networks: HotNetworks
    goal: Goal
    params: list[Tensors]
    buffers: list[Tensors]
    grads: list[Tensors]
    log_std: Tensor | None
    """``(P, A)``."""
    by_log_std: Tensor | None
    """Its gradient, and that of the critic's half, which has none, ``(P, 2, A)``."""

    def prepare(self, batch: Batch) -> Samples:
        """Lay samples out; the same ones may be learnt from many times."""
        n_outputs = next(iter(self.params[-1].values())).shape[1]
        advantages = batch.advantages
        if self.goal.normalize_advantage:
            advantages = standardised(advantages)
        # Advantage above zero: up to a ratio of 1 + clip_range; below: down to 1 - clip_range.
        sign = torch.where(advantages > 0, 1.0, -1.0).to(advantages.dtype)
        return Samples(
            _for_both(batch.obs),
            self.networks.distribution.spread(batch.actions, n_outputs, advantages.dtype),
            batch.log_probs,
            advantages / -advantages.shape[1],
            sign,
            sign + self.goal.clip_range[:, None],
            batch.returns,
        )

    def gradient_(self, samples: Samples) -> None:
        """Write the gradients of the loss, and let running statistics move."""
        layers, room = self.networks.layers, self.networks.room
        values = [samples.x]
        for layer, params, buffers in zip(layers, self.params, self.buffers, strict=True):
            values.append(layer.forward(params, values[-1], buffers))
        outputs = values[-1].unflatten(0, (-1, 2))
        d = room.get("d outputs", outputs, *outputs.shape)
        self._loss_gradient_(outputs, samples, d)
        d = d.flatten(0, 1)
        for k in reversed(range(len(layers))):
            x, y = values[k], values[k + 1]
            dx = None
            if k:  # y is not needed any more: the less memory is in use, the more is in the cache
                dx = y if x.shape == y.shape else room.get(f"d{k}", x, *x.shape)
            layers[k].backward(self.params[k], x, y, d, self.grads[k], dx)
            if dx is not None:
                d = dx

    def _loss_gradient_(self, outputs: Tensor, samples: Samples, d: Tensor) -> None:
        """Write the gradient of the loss by the outputs ``(P, 2, A, B)`` into ``d``."""
        goal, networks = self.goal, self.networks
        n_samples = outputs.shape[-1]
        of = networks.distribution.derivatives(
            outputs[:, 0], self.log_std, samples.actions, networks.entropy
        )
        ent_coef = goal.ent_coef[:, None, None]
        ratio = (of.log_probs - samples.log_probs).exp_()
        flows = ratio * samples.sign <= samples.bound
        by_log_prob = ratio.mul_(flows).mul_(samples.advantages)
        torch.mul(of.by_head, by_log_prob[:, None], out=d[:, 0])
        if of.entropy_by_head is not None and networks.entropy:
            d[:, 0].sub_(of.entropy_by_head * (ent_coef / n_samples))
        d[:, 1].zero_()
        torch.mul(outputs[:, 1, 0] - samples.returns, 2 * goal.vf_coef / n_samples, out=d[:, 1, 0])
        if self.by_log_std is not None and of.by_log_std is not None:
            by_log_std = (of.by_log_std * by_log_prob[:, None]).sum(2)
            self.by_log_std[:, 0] = by_log_std - ent_coef[..., 0]
            self.by_log_std[:, 1] = 0.0


def networks(
    way: str,
    config: PPOConfig,
    plan: Layout,
    distribution: Distribution,
    entropy: bool,
    dtype: torch.dtype,
) -> HotNetworks | VmappedNetworks:
    """Return the networks by formula, or by ``torch.func``, or as ``"auto"`` has them.

    Raises:
        UsageError: there is no such way, or no formula.
    """
    fit = HotNetworks.fit(config, plan)
    if check_choice("way", way, ("auto", "hot", "vmap")) == "hot" and not fit:
        raise UsageError(
            f"way 'hot' is for norms {', '.join(HOT)} with activations {', '.join(ACTIVATIONS)}, "
            f"got {config.norm!r} with {config.activation_fn!r} and {config.norm_kwargs}"
        )
    if way == "vmap" or not fit:
        return VmappedNetworks(plan, distribution)
    return HotNetworks(config, plan, distribution, entropy, dtype)


def _for_both(obs: Tensor) -> Tensor:
    """``(P, B, n_inputs) -> (2P, n_inputs, B)``: each member's observations for both networks."""
    n, samples, inputs = obs.shape
    both = obs.transpose(1, 2)[:, None].expand(n, 2, inputs, samples).flatten(0, 1)
    return both.contiguous()  # one member's could be a view, and sums in another order


def _layers(config: PPOConfig, plan: Layout, dtype: torch.dtype) -> list[Layer]:
    """Return the layers of one network, with the options that its modules have."""
    layers = []
    parts = [part for part in plan.net.network() if [*part.parameters()]]
    for part in parts:
        activation = config.activation_fn if part is not parts[-1] else None
        if isinstance(part, Normalized):
            norm: Any = part.norm
            eps = getattr(norm, "eps", getattr(part.layer, "eps", 0.0))
            eps = torch.finfo(dtype).eps if eps is None else eps  # as RMS norm has it
            momentum, limits = getattr(norm, "momentum", 0.0), getattr(norm, "limits", Layer.limits)
            layers.append(Layer(config.norm, activation, eps, momentum, limits))
        elif isinstance(part, SpectralLinear):
            layers.append(Layer("spectral", activation))
        elif isinstance(part, WNLinear):
            layers.append(Layer("weight", activation, part.eps))
        else:
            layers.append(Layer("none", activation))
    return layers
