"""Actor and critic of one member as SB3's policies build them, and as one row of a matrix.

A row is [actor | critic], two halves with the same slots: the critic's head, which has one output,
stands in a slot of the actor's shape, whose rest is zero and stays so. A matrix ``(P, D)`` of
members is thus a matrix ``(2P, D / 2)`` of like networks, which one batched product runs at once.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from wnrl.errors import UsageError
from wnrl.networks import ACTIVATIONS, normalized
from wnrl.nn import data_init
from wnrl.norms import NORMS
from wnrl.population.ppo_config import PPOConfig
from wnrl.population.rows import Rows, Slot

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


@dataclass(frozen=True)
class Layout:
    """Where the numbers of an ``ActorCritic`` stand.

    Attributes:
        net: a network of the cohort's kind, for its names and functions; its values mean nothing.
        half: rows of one network, ``(2P, D / 2)``, under the names of ``net.network()``.
        whole: rows of a member, ``(P, D)``, under SB3's names.
        half_buffers: the like for buffers.
        whole_buffers: the like for buffers.
    """

    net: ActorCritic
    half: Rows
    whole: Rows
    half_buffers: Rows
    whole_buffers: Rows

    def views(self, params: Tensor) -> dict[str, Tensor]:
        """Return the parameters of all networks by name, ``(2P, *shape)``, views of ``(P, D)``."""
        return self.half.views(params.view(2 * len(params), -1))

    def buffer_views(self, buffers: Tensor) -> dict[str, Tensor]:
        """Return the like for buffers."""
        return self.half_buffers.views(buffers.view(2 * len(buffers), -1))

    def log_std(self, matrix: Tensor) -> Tensor | None:
        """Return the log standard deviations ``(P, A)``, a view, or None for discrete actions."""
        return self.whole.views(matrix).get(LOG_STD)


def layout(net: ActorCritic) -> Layout:
    """Return the layout for networks like ``net``."""
    actor, critic = net.network(), net.network(critic=True)
    names = {id(tensor): name for name, tensor in _tensors(net).items()}
    parameters = dict(actor.named_parameters())
    if hasattr(net, "log_std"):
        parameters[LOG_STD] = net.log_std
    half, half_buffers = Rows.of(parameters), Rows.of(dict(actor.named_buffers()))
    return Layout(
        net,
        half,
        _whole(half, {**_tensors(actor), **parameters}, _tensors(critic), names),
        half_buffers,
        _whole(half_buffers, _tensors(actor), _tensors(critic), names),
    )


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict((*module.named_parameters(), *module.named_buffers()))


def _whole(
    half: Rows, actor: dict[str, Tensor], critic: dict[str, Tensor], names: dict[int, str]
) -> Rows:
    """Return the rows of both networks from those of one, both by its names, and SB3's names."""
    first = [slot._replace(name=names[id(actor[slot.name])]) for slot in half.slots]
    second = [
        Slot(names[id(tensor)], tuple(tensor.shape), slot.start + half.width)
        for slot in half.slots
        if (tensor := critic.get(slot.name)) is not None
    ]
    return Rows((*first, *second), 2 * half.width)


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
    plan = layout(nets[0])
    return plan, plan.whole.stack(nets), plan.whole_buffers.stack(nets)


def initialise(
    plan: Layout, params: Tensor, buffers: Tensor, obs: Tensor, warn: Callable[[str], None]
) -> None:
    """Initialise the hidden layers of each member on its observations, in place.

    Args:
        plan: of the members.
        params: ``(P, D)``.
        buffers: ``(P, D')``.
        obs: ``(P, B, n_inputs)``.
        warn: told which layers stayed as they were, once.
    """
    told: set[str] = set()
    net = plan.net.eval()
    hidden = nn.ModuleList([net.mlp_extractor[name] for name in net.mlp_extractor])
    both = _Both(hidden)
    for row, buffer_row, batch in zip(params, buffers, obs, strict=True):
        plan.whole.load(row, net)
        plan.whole_buffers.load(buffer_row, net)
        report = data_init(both, batch.to("cpu"))
        told.update(f"{name}: {reason}" for name, reason in report.skipped.items())
        plan.whole.save(net, row)
        plan.whole_buffers.save(net, buffer_row)
    if told:
        warn(f"data_init left layers as they were: {'; '.join(sorted(told))}")


class _Both(nn.Module):
    """Runs the hidden layers of both networks, for ``data_init``."""

    def __init__(self, nets: nn.ModuleList) -> None:
        super().__init__()
        self.nets = nets

    def forward(self, obs: Tensor) -> None:
        for net in self.nets:
            net(obs)
