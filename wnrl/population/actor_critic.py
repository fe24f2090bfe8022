"""Actor and critic of one member as SB3's policies build them, and as one row of a matrix.

A row is [actor | critic], two halves with the same slots: the critic's head, which has one output,
stands in a slot of the actor's shape, whose rest is zero and stays so. A matrix ``(P, D)`` of
members is thus a matrix ``(2P, D / 2)`` of like networks, which one batched product runs at once.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from gymnasium import spaces
from torch import Tensor, nn

from wnrl.errors import UsageError
from wnrl.networks import ACTIVATIONS, normalized
from wnrl.nn import data_init
from wnrl.norms import NORMS
from wnrl.population.ppo_config import PPOConfig

Tensors = dict[str, Tensor]
LOG_STD = "log_std"
HEADS = ("action_net", "value_net")


class ActorCritic(nn.Module):
    """The two networks, under the names that SB3's ``MlpPolicy`` has for them.

    Drawn by torch's generator in SB3's order: the same seed gives the same networks.

    Args:
        config: of the member.
        n_inputs: numbers of an observation.
        n_outputs: of the action head.
        continuous: whether there is a log standard deviation of actions.

    Raises:
        UsageError: the norm is for hidden layers, and there are none.
    """

    def __init__(self, config: PPOConfig, n_inputs: int, n_outputs: int, continuous: bool) -> None:
        super().__init__()
        n_features = self.n_features(config, n_inputs)
        nets = {name: _hidden(config, n_features) for name in ("policy_net", "value_net")}
        width = (n_features, *config.net_arch)[-1]
        self.action_net: nn.Module = nn.Linear(width, n_outputs)
        if continuous:
            self.log_std = nn.Parameter(torch.full((n_outputs,), config.log_std_init))
        self.value_net: nn.Module = nn.Linear(width, 1)
        if config.ortho_init:
            for net in nets.values():
                net.apply(partial(_orthogonal, gain=math.sqrt(2)))
            _orthogonal(self.action_net, gain=0.01)
            _orthogonal(self.value_net, gain=1.0)
        self.add_memory(config, n_inputs)
        self._normalize(config, nets)

    def n_features(self, config: PPOConfig, n_inputs: int) -> int:
        """Return how many numbers the hidden layers are given."""
        return n_inputs

    def add_memory(self, config: PPOConfig, n_inputs: int) -> None:
        """Add what stands in front of the hidden layers: nothing."""

    def _normalize(self, config: PPOConfig, nets: dict[str, nn.Sequential]) -> None:
        norm, options = NORMS[config.norm], config.norm_kwargs
        on_heads = config.norm_heads and norm.reparametrizes
        if config.norm != "none" and not config.net_arch and not on_heads:
            raise UsageError(
                f"norm {config.norm!r} is for hidden layers, and the networks have none: "
                "net_arch=()"
            )
        if config.net_arch:
            nets = {
                name: normalized(list(net), config.norm, norm_kwargs=options)
                for name, net in nets.items()
            }
        self.mlp_extractor = nn.ModuleDict(nets)
        for name in HEADS if on_heads else ():
            own = {key: value for key, value in options.items() if key in norm.layer_options}
            head = norm.layers[nn.Linear].from_plain(getattr(self, name), **own)
            setattr(self, name, head)

    def network(self, critic: bool = False) -> nn.Sequential:
        """Return one of the networks with its head, ``(B, n_inputs) -> (B, n_outputs)``."""
        hidden = self.mlp_extractor["value_net" if critic else "policy_net"]
        assert isinstance(hidden, nn.Sequential)
        return nn.Sequential(*hidden, self.value_net if critic else self.action_net)


def _hidden(config: PPOConfig, n_inputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in config.net_arch:
        layers += [nn.Linear(n_inputs, width), ACTIVATIONS[config.activation_fn]()]
        n_inputs = width
    return nn.Sequential(*layers)


@torch.no_grad()
def _orthogonal(module: nn.Module, gain: float) -> None:
    if isinstance(module, nn.Linear):
        nn.init.orthogonal_(module.weight, gain)
        module.bias.zero_()


Shapes = dict[str, torch.Size]
"""Of tensors that stand in a row one behind the other, by name."""


@dataclass(frozen=True)
class Layout:
    """Where the numbers of an ``ActorCritic`` stand."""

    net: ActorCritic
    """A network of the cohort's kind, for its functions; its values mean nothing."""
    params: Shapes
    """Of one network, under the names of ``net.network()``."""
    buffers: Shapes
    """The like, kept as real numbers."""
    places: dict[str, tuple[str, int, torch.Size]]
    """From SB3's name of each tensor to its name in a network, 0 for the actor's or 1 for the
    critic's, and its shape."""

    @classmethod
    def of(cls, net: ActorCritic) -> Self:
        """Return the layout for networks like ``net``."""
        actor, critic = net.network(), net.network(critic=True)
        params: Tensors = dict(actor.named_parameters())
        params[LOG_STD] = getattr(net, LOG_STD, torch.empty(0))
        buffers = dict(actor.named_buffers())
        places = {
            id(tensor): (name, side)
            for side, tensors in enumerate((params | buffers, _tensors(critic)))
            for name, tensor in tensors.items()
        }
        return cls(
            net,
            {name: tensor.shape for name, tensor in params.items()},
            {name: tensor.shape for name, tensor in buffers.items()},
            {name: (*places[id(t)], t.shape) for name, t in _tensors(net).items()},
        )

    def views(self, params: Tensor) -> Tensors:
        """Return the parameters of all networks by name, ``(2P, *shape)``, views of ``(P, D)``."""
        return _views(self.params, params)

    def buffer_views(self, buffers: Tensor) -> Tensors:
        """Return the like for buffers."""
        return _views(self.buffers, buffers)

    def log_std(self, params: Tensor) -> Tensor:
        """Return the log standard deviations ``(P, A)``, a view; of discrete actions ``(P, 0)``."""
        return self.views(params)[LOG_STD][::2]

    def by_sb3s_names(self, params: Tensor, buffers: Tensor) -> Tensors:
        """Return all that members have, ``(P, *shape)``, views."""
        views = self.views(params) | self.buffer_views(buffers)
        return {
            name: views[place][side::2][:, *map(slice, shape)]
            for name, (place, side, shape) in self.places.items()
        }

    @torch.no_grad()
    def load(self, params: Tensor, buffers: Tensor) -> ActorCritic:
        """Return ``net`` with the numbers of one member, ``(1, D)`` and ``(1, D')``."""
        views, tensors = self.by_sb3s_names(params, buffers), _tensors(self.net)
        for name, tensor in tensors.items():
            tensor.copy_(views[name][0])
        return self.net

    @torch.no_grad()
    def save(self, net: ActorCritic, params: Tensor, buffers: Tensor) -> None:
        """Write the numbers of a network like ``net`` into the rows of one member."""
        views = self.by_sb3s_names(params, buffers)
        for name, tensor in _tensors(net).items():
            views[name][0].copy_(tensor)


def _tensors(module: nn.Module) -> Tensors:
    return dict((*module.named_parameters(), *module.named_buffers()))


def below(tensors: Tensors, prefix: str) -> Tensors:
    """Return what has names with a prefix, under the rest of their names."""
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def _views(shapes: Shapes, rows: Tensor) -> Tensors:
    halves = rows.view(2 * len(rows), rows.shape[1] // 2)
    parts = halves.split([shape.numel() for shape in shapes.values()], 1)
    each = zip(shapes.items(), parts, strict=True)
    return {name: values.view(len(halves), *shape) for (name, shape), values in each}


def build(
    configs: Sequence[PPOConfig],
    observations: spaces.Space[Any],
    actions: spaces.Space[Any],
    kind: type[ActorCritic] = ActorCritic,
) -> tuple[Layout, Tensor, Tensor]:
    """Return a layout, and the initial parameters ``(P, D)`` and buffers of the members.

    Args:
        configs: of the members.
        observations: a Box with one axis.
        actions: Discrete, or a Box with one axis and finite bounds.
        kind: of networks.

    Raises:
        UsageError: other spaces, or networks that cannot have the norm.
    """
    if not isinstance(observations, spaces.Box) or len(observations.shape) != 1:
        raise UsageError(f"observations must be a Box with one axis, got {observations}")
    if isinstance(actions, spaces.Discrete):
        n_outputs = int(actions.n)
    elif isinstance(actions, spaces.Box) and len(actions.shape) == 1 and actions.is_bounded():
        n_outputs = actions.shape[0]
    else:
        raise UsageError(f"actions must be Discrete or a bounded Box of one axis, got {actions}")
    continuous = isinstance(actions, spaces.Box)
    nets = []
    with torch.random.fork_rng(devices=[]):
        for config in configs:
            torch.default_generator.manual_seed(config.seed)
            nets.append(kind(config, observations.shape[0], n_outputs, continuous))
    plan = Layout.of(nets[0])
    params, buffers = (
        torch.zeros(len(nets), 2 * sum(shape.numel() for shape in shapes.values()))
        for shapes in (plan.params, plan.buffers)
    )
    for k, net in enumerate(nets):
        plan.save(net, params[k : k + 1], buffers[k : k + 1])
    return plan, params, buffers


def initialise(plan: Layout, params: Tensor, buffers: Tensor, obs: Tensor) -> None:
    """Initialise the hidden layers of each member on its observations, in place.

    Args:
        plan: of the members.
        params: ``(P, D)``.
        buffers: ``(P, D')``.
        obs: ``(P, B, n_inputs)``.
    """
    told: set[str] = set()
    for k, batch in enumerate(obs):
        rows = params[k : k + 1], buffers[k : k + 1]
        net = plan.load(*rows).eval()
        for side, hidden in net.mlp_extractor.items():
            report = data_init(hidden, batch.to("cpu"))
            told.update(f"{side}.{name}: {reason}" for name, reason in report.skipped.items())
        plan.save(net, *rows)
    if told:
        layers = "; ".join(sorted(told))
        warnings.warn(f"data_init left layers as they were: {layers}", stacklevel=2)
