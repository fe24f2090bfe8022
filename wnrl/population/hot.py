"""The networks of a cohort by formula: MLPs with the norms of ``HOT``, and PPO's loss.

Equal to ``torch.func`` over modules, and several times as fast on a CPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wnrl.networks import ACTIVATIONS as MODULES
from wnrl.nn.sites import n_spatial
from wnrl.norms import NORMS
from wnrl.population.config import MemberConfig
from wnrl.population.distributions import Distribution
from wnrl.population.layers import ACTIVATIONS, HOT, HOT_OF_MAPS, Convolution, Layer
from wnrl.population.rollout import Batch
from wnrl.population.rows import LOG_STD, Layout, Tensors, below
from wnrl.population.vmapped import Acting, Goal, Outputs, standardised

SHORT = {"norm.weight": "gain", "norm.bias": "shift"}
"""Names in a ``Layer`` for those in a module, where they are not their last part."""
BY_TYPE = {nn.Linear: "none", nn.Conv2d: "none"} | {
    kind: key for key in ("weight", "spectral") for kind in NORMS[key].layers.values()
}
"""Keys of ``HOT`` by modules; any other has the norm of the network."""


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


class HotNetworks(Acting):
    """Formulas for networks of a plain MLP's shape.

    Args:
        config: of the members.
        plan: their layout.
        distribution: of actions.
        dtype: of all real numbers.
    """

    def __init__(
        self, config: MemberConfig, plan: Layout, distribution: Distribution, dtype: torch.dtype
    ) -> None:
        self.plan, self.distribution = plan, distribution
        parts = [*plan.net.networks()[0]]
        self.layers = {
            k: _layer(part, following, config.norm, plan.net.shape, dtype)
            for k, (part, following) in enumerate(zip(parts, [*parts[1:], None], strict=True))
            if [*part.parameters()]
        }

    @staticmethod
    def fit(config: MemberConfig, plan: Layout) -> bool:
        """Return whether there are formulas for networks like these."""
        return (
            config.norm in HOT
            and config.activation_fn in ACTIVATIONS
            and all(getattr(part, "holds_lengths", True) for part in plan.net.modules())
            and all(getattr(part, "momentum", 0.0) is not None for part in plan.net.modules())
        )

    def outputs(self, params: Tensor, buffers: Tensor, training: bool = False) -> Outputs:
        """Return the networks, as ``Acting`` has them."""
        layers = self.bound(params, buffers, params)
        steps = [layer.forward if training else layer.acting() for layer in layers]

        def run(obs: Tensor) -> Tensor:
            y = self.spread(obs)
            for step in steps:
                y = step(y)
            return y.unflatten(0, (-1, self.plan.n_nets)).clone().transpose(2, 3)

        return run

    def spread(self, obs: Tensor) -> Tensor:
        """``(P, B, *shape) -> (n_nets P, n_inputs, B)``: the same for each of its networks."""
        obs = obs.flatten(2)
        n, samples, inputs = obs.shape
        each = obs.transpose(1, 2)[:, None].expand(n, self.plan.n_nets, inputs, samples)
        return each.flatten(0, 1).contiguous()  # one member's could be a view: sums in other order

    def bound(self, params: Tensor, buffers: Tensor, grads: Tensor) -> list[Layer]:
        """Return the layers with the numbers of some members."""
        plan, layers = self.plan, []
        views = plan.views(params), plan.buffer_views(buffers), plan.views(grads)
        for k, layer in self.layers.items():
            weights, running, gradients = (_short(below(each, f"{k}.")) for each in views)
            layers.append(replace(layer, params=weights, buffers=running, grads=gradients))
        return layers


def forward(layers: Sequence[Layer], x: Tensor) -> list[Tensor]:
    """Return inputs ``(n, in, B)`` and the outputs of each layer behind them, while learning."""
    values = [x]
    for layer in layers:
        values.append(layer.forward(values[-1]))
    return values


def backward(layers: Sequence[Layer], values: list[Tensor], d: Tensor) -> None:
    """Write the gradients of the parameters.

    Args:
        layers: after ``forward``.
        values: what it returned; overwritten.
        d: the gradient of the last of them; overwritten.
    """
    for k in reversed(range(len(layers))):
        x, y, layer = values[k], values[k + 1], layers[k]
        dx = None
        if k:  # y is not needed any more: the less memory is in use, the more is in the cache
            dx = y if x.shape == y.shape else layer.room.get("dx", x)
        layer.backward(x, y, d, dx)
        if dx is not None:
            d = dx


class HotActorCritic(HotNetworks):
    """Actors and critics by formula."""

    def learner(self, params: Tensor, buffers: Tensor, grads: Tensor, goal: Goal) -> "HotLearner":
        """Return what computes gradients of these members."""
        by_log_std = self.plan.views(grads)[LOG_STD].unflatten(0, (-1, 2))
        layers = self.bound(params, buffers, grads)
        return HotLearner(self, goal, layers, self.plan.log_std(params), by_log_std)


@dataclass(frozen=True)
class HotLearner:
    """Gradients of some members, from views of their rows."""

    networks: HotActorCritic
    goal: Goal
    layers: list[Layer]
    log_std: Tensor
    """``(P, A)``."""
    by_log_std: Tensor
    """Its gradient, and that of the critic's half, which has none, ``(P, 2, A)``."""

    def prepare(self, batch: Batch) -> Samples:
        """Lay samples out; the same ones may be learnt from many times."""
        n_outputs = self.layers[-1].params["bias"].shape[1]
        advantages = batch.advantages
        if self.goal.normalize_advantage:
            advantages = standardised(advantages)
        # Advantage above zero: up to a ratio of 1 + clip_range; below: down to 1 - clip_range.
        sign = torch.where(advantages > 0, 1.0, -1.0).to(advantages.dtype)
        return Samples(
            self.networks.spread(batch.obs),
            self.networks.distribution.spread(batch.actions, n_outputs, advantages.dtype),
            batch.log_probs,
            advantages / -advantages.shape[1],
            sign,
            sign + self.goal.clip_range[:, None],
            batch.returns,
        )

    def gradient_(self, samples: Samples) -> None:
        """Write the gradients of the loss, and let running statistics move."""
        values = forward(self.layers, samples.x)
        outputs = values[-1].unflatten(0, (-1, 2))
        d = self.layers[-1].room.get("d", outputs)  # of the loss by the outputs, (P, 2, A, B)
        goal, n_samples = self.goal, outputs.shape[-1]
        of = self.networks.distribution.derivatives(
            outputs[:, 0], self.log_std, samples.actions, goal.entropy
        )
        ent_coef = goal.ent_coef[:, None, None]
        ratio = (of.log_probs - samples.log_probs).exp_()
        flows = ratio * samples.sign <= samples.bound
        by_log_prob = ratio.mul_(flows).mul_(samples.advantages)
        torch.mul(of.by_head, by_log_prob[:, None], out=d[:, 0])
        if of.entropy_by_head is not None:
            d[:, 0].sub_(of.entropy_by_head * (ent_coef / n_samples))
        d[:, 1].zero_()
        torch.mul(outputs[:, 1, 0] - samples.returns, 2 * goal.vf_coef / n_samples, out=d[:, 1, 0])
        if of.by_log_std is not None:
            by_log_std = (of.by_log_std * by_log_prob[:, None]).sum(2)
            self.by_log_std[:, 0] = by_log_std - ent_coef[..., 0]
            self.by_log_std[:, 1] = 0.0
        backward(self.layers, values, d.flatten(0, 1))


def _layer(
    part: Any, following: nn.Module | None, norm: str, shape: tuple[int, ...], dtype: torch.dtype
) -> Layer:
    """Return the layer with the options that a module has.

    Args:
        part: the module.
        following: its nonlinearity; None behind a head.
        norm: of the network.
        shape: of its inputs, if it is a convolution.
        dtype: of all real numbers.
    """
    layer, normalizer = getattr(part, "layer", part), getattr(part, "norm", part)
    eps = getattr(normalizer, "eps", getattr(layer, "eps", 0.0))
    key = BY_TYPE.get(type(part), norm)
    options = (
        next((act for name, act in ACTIVATIONS.items() if type(following) is MODULES[name]), None),
        torch.finfo(dtype).eps if eps is None else eps,  # as RMS norm has it
        getattr(normalizer, "momentum", 0.0),
        getattr(normalizer, "limits", Layer.limits),
    )
    if n_spatial(layer) == 2:
        sizes = {"shape": shape, "window": layer.kernel_size, "stride": layer.stride}
        return Convolution(HOT_OF_MAPS[key], *options, **sizes)
    return Layer(HOT[key], *options)


def _short(tensors: Tensors) -> Tensors:
    """Return what a layer has by the names of ``Layer`` instead of those in modules.

    A weight has a row for each output unit.
    """
    short = {SHORT.get(name, name.rpartition(".")[2]): value for name, value in tensors.items()}
    return {name: value.flatten(2) if value.dim() > 3 else value for name, value in short.items()}
