"""How the networks of a cohort act and learn: by ``torch.func``, or by formula.

``Modules`` have every norm and every activation: the layers are wnrl's own modules, whose
parameters and buffers are views of the members' rows. ``HotNetworks`` are MLPs with the norms of
``HOT``, by formula: they compute the same several times as fast on a CPU, and ``Modules`` are their
oracle.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from wnrl.networks import ACTIVATIONS as MODULES
from wnrl.nn.sites import n_spatial
from wnrl.norms import NORMS
from wnrl.population.config import MemberConfig
from wnrl.population.distributions import Distribution
from wnrl.population.layers import ACTIVATIONS, HOT, HOT_OF_MAPS, Convolution, Layer
from wnrl.population.losses import Loss
from wnrl.population.rollout import Act
from wnrl.population.rows import LOG_STD, Layout, Tensors, below
from wnrl.population.states import axes, clone, copy_

Outputs = Callable[[Tensor], Tensor]
"""From observations ``(P, B, *shape)`` to the outputs of each network, ``(P, n_nets, B, A)``."""
Learner = Callable[[Any], None]
"""Writes the gradients on samples from ``Modules.laid_out``, and lets running statistics move."""
SHORT = {"norm.weight": "gain", "norm.bias": "shift"}
"""Names in a ``Layer`` for those in a module, where they are not their last part."""
BY_TYPE = {nn.Linear: "none", nn.Conv2d: "none"} | {
    kind: key for key in ("weight", "spectral") for kind in NORMS[key].layers.values()
}
"""Keys of ``HOT`` by modules; any other has the norm of the network."""


class Modules:
    """Networks of a cohort as wnrl's own modules, which members' rows are put into.

    Args:
        plan: the layout of the members.
    """

    def __init__(self, plan: Layout) -> None:
        self.plan = plan
        self.learning: nn.Module = copy.deepcopy(plan.net.networks()[0]).train()
        self.acting: nn.Module = copy.deepcopy(plan.net.networks()[0]).eval()

    def outputs(self, params: Tensor, buffers: Tensor, training: bool = False) -> Outputs:
        """Return the networks in evaluation mode, or in training mode: statistics move then."""
        net = self.learning if training else self.acting
        weights = self.by_member(self.plan.views(params))
        running = self.by_member(self.plan.buffer_views(buffers))
        return lambda obs: vmap(_run, in_dims=(None, 0, 0, 0))(net, weights, running, obs)

    def learner(self, params: Tensor, buffers: Tensor, grads: Tensor, loss: Loss) -> Learner:
        """Return what computes gradients of some members.

        Args:
            params: ``(P, D)``.
            buffers: running statistics, ``(P, D')``, which will move.
            grads: where the gradients go, ``(P, D)``.
            loss: of these members.
        """
        weights, running = self.plan.views(params), self.plan.buffer_views(buffers)
        by_weights = self.plan.views(grads)

        def gradient_(samples: Any) -> None:
            # Under vmap, torch's batch norm writes statistics that are not contiguous into a copy.
            moved = clone(running)
            copy_(by_weights, self.gradients(weights, moved, samples, loss))
            copy_(running, moved)

        return gradient_

    def laid_out(self, samples: Any) -> Any:
        """Return samples ``(P, B, ...)`` to learn from, many times if need be: as they are."""
        return samples

    def act(self, params: Tensor, buffers: Tensor) -> Act:
        """Return the networks in evaluation mode, for a rollout.

        Without a critic, the value is that of the best action.
        """
        run = self.outputs(params, buffers)

        def act(obs: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            head, *critic = run(obs).unbind(1)
            values = critic[0][..., 0] if critic else head.amax(-1)
            return head, values, memory

        return act

    def gradients(self, params: Tensors, buffers: Tensors, samples: Any, loss: Loss) -> Tensors:
        """Return gradients by name; running statistics move in ``buffers``."""

        def value(params: Tensors, buffers: Tensors, samples: Any, loss: Loss) -> Tensor:
            outputs = _run(self.learning, params, buffers, samples.obs)
            return loss.value(outputs, params[LOG_STD][0], samples)

        gradient = vmap(grad(value), in_dims=(0, 0, 0, axes(loss)))
        computed = gradient(self.by_member(params), self.by_member(buffers), samples, loss)
        return {name: value.flatten(0, 1) for name, value in computed.items()}

    def by_member(self, views: Tensors) -> Tensors:
        """``(n_nets P, *shape) -> (P, n_nets, *shape)``."""
        return {name: view.unflatten(0, (-1, self.plan.n_nets)) for name, view in views.items()}


def _run(net: nn.Module, params: Tensors, buffers: Tensors, obs: Tensor) -> Tensor:
    """Return the outputs of the networks of one member, ``(n_nets, B, A)``."""

    def each(*tensors: Tensors) -> Tensor:
        return functional_call(net, tensors, (obs,))

    if len(params[LOG_STD]) > 1:
        return vmap(each)(params, buffers)
    # Under a vmap of its own, gradients of a network by itself would be summed in another order.
    only = ({name: v[0] for name, v in tensors.items()} for tensors in (params, buffers))
    return each(*only)[None]


class HotNetworks(Modules):
    """The same by formula, of networks of a plain MLP's shape.

    Args:
        config: of the members.
        plan: their layout.
        distribution: of actions.
        dtype: of all real numbers.
    """

    def __init__(
        self, config: MemberConfig, plan: Layout, distribution: Distribution, dtype: torch.dtype
    ) -> None:
        super().__init__(plan)
        self.distribution = distribution
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
        """Return the networks, as ``Modules`` have them."""
        weights = self.plan.views(params)
        layers = self.bound(weights, self.plan.buffer_views(buffers), weights)
        steps = [layer.forward if training else layer.acting() for layer in layers]

        def run(obs: Tensor) -> Tensor:
            y = self.spread(obs)
            for step in steps:
                y = step(y)
            return y.unflatten(0, (-1, self.plan.n_nets)).clone().transpose(2, 3)

        return run

    def learner(self, params: Tensor, buffers: Tensor, grads: Tensor, loss: Loss) -> Learner:
        """Return what computes gradients of some members, as ``Modules`` have it."""
        plan, n_nets = self.plan, self.plan.n_nets
        weights, by_weights = plan.views(params), plan.views(grads)
        layers = self.bound(weights, plan.buffer_views(buffers), by_weights)
        log_std, by_log_std = weights[LOG_STD][::n_nets], by_weights[LOG_STD]

        def gradient_(samples: Any) -> None:
            values = [samples.obs]  # the inputs of each layer, and the outputs of the last
            for layer in layers:
                values.append(layer.forward(values[-1]))
            outputs = values[-1].unflatten(0, (-1, n_nets))
            by_outputs = layers[-1].room.get("d", outputs)
            by_deviation = loss.gradient(outputs, log_std, samples, by_outputs)
            if by_deviation is not None:
                by_log_std.zero_()[::n_nets] = by_deviation  # critics have none
            d = by_outputs.flatten(0, 1)
            for k in reversed(range(len(layers))):
                x, y, dx = values[k], values[k + 1], None
                if k:  # y is not needed any more: the less memory is in use, the more is cached
                    dx = y if x.shape == y.shape else layers[k].room.get("dx", x)
                layers[k].backward(x, y, d, dx)
                d = d if dx is None else dx

        return gradient_

    def laid_out(self, samples: Any) -> Any:
        """Return samples with what layers and losses take, the axis of samples behind."""
        obs, n_outputs = self.spread(samples.obs), self.plan.params[f"{max(self.layers)}.bias"][0]
        actions = self.distribution.spread(samples.actions, n_outputs, obs.dtype)
        return samples._replace(obs=obs, actions=actions)

    def spread(self, obs: Tensor) -> Tensor:
        """``(P, B, *shape) -> (n_nets P, n_inputs, B)``: the same for each of its networks."""
        obs = obs.flatten(2)
        n, samples, inputs = obs.shape
        each = obs.transpose(1, 2)[:, None].expand(n, self.plan.n_nets, inputs, samples)
        return each.flatten(0, 1).contiguous()  # one member's could be a view: sums in other order

    def bound(self, params: Tensors, buffers: Tensors, grads: Tensors) -> list[Layer]:
        """Return the layers with the numbers of some members, from views as ``Layout`` has them."""
        layers = []
        for k, layer in self.layers.items():
            weights, running, by_weights = (
                _short(below(views, f"{k}.")) for views in (params, buffers, grads)
            )
            layers.append(replace(layer, params=weights, buffers=running, grads=by_weights))
        return layers


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
