"""The networks of one member as one row of a matrix, and of all members as ``(P, D)``.

Where a member has two networks, a row is two halves with the same slots: a head with fewer outputs
stands in a slot of the other's shape, whose rest is zero and stays so. A matrix ``(P, D)`` of
members with n networks is thus a matrix ``(n P, D / n)`` of like networks, which one batched
product runs at once.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from gymnasium import spaces
from torch import Tensor, nn

from wnrl.errors import UsageError, as_usage_error, first_line
from wnrl.nn import data_init
from wnrl.population.config import MemberConfig

Tensors = dict[str, Tensor]
LOG_STD = "log_std"
AXES = {1: "one axis", 3: "three axes"}


Shapes = dict[str, torch.Size]
"""Of tensors that stand in a row one behind the other, by name."""


@dataclass(frozen=True)
class Layout:
    """Where the numbers of ``Networks`` stand."""

    net: Any
    """``Networks`` of one member, for their functions; their values mean nothing."""
    n_nets: int
    """Networks of a member."""
    params: Shapes
    """Of one network, under the names of ``net.networks()[0]``."""
    buffers: Shapes
    """The like, kept as real numbers."""
    places: dict[str, tuple[str, int, torch.Size]]
    """From SB3's name of each tensor to its name in a network, the number of the network, and its
    shape."""

    @classmethod
    def of(cls, net: Any) -> Self:
        """Return the layout for ``Networks``, or another module that has ``networks()``."""
        first, *others = net.networks()
        params: Tensors = dict(first.named_parameters())
        params[LOG_STD] = getattr(net, LOG_STD, torch.empty(0))
        buffers = dict(first.named_buffers())
        places = {
            id(tensor): (name, side)
            for side, tensors in enumerate((params | buffers, *map(_tensors, others)))
            for name, tensor in tensors.items()
        }
        shapes = [{name: t.shape for name, t in each.items()} for each in (params, buffers)]
        by_sb3s = {name: (*places[id(t)], t.shape) for name, t in _tensors(net).items()}
        return cls(net, 1 + len(others), shapes[0], shapes[1], by_sb3s)

    def views(self, params: Tensor) -> Tensors:
        """Return the parameters of all networks by name, ``(n P, *shape)``, views of ``(P, D)``."""
        return self._views(self.params, params)

    def buffer_views(self, buffers: Tensor) -> Tensors:
        """Return the like for buffers."""
        return self._views(self.buffers, buffers)

    def log_std(self, params: Tensor) -> Tensor:
        """Return the log standard deviations ``(P, A)``, a view; of discrete actions ``(P, 0)``."""
        return self.views(params)[LOG_STD][:: self.n_nets]

    def by_sb3s_names(self, params: Tensor, buffers: Tensor) -> Tensors:
        """Return all that members have, ``(P, *shape)``, views."""
        views = self.views(params) | self.buffer_views(buffers)
        return {
            name: views[place][side :: self.n_nets][:, *map(slice, shape)]
            for name, (place, side, shape) in self.places.items()
        }

    def state(self, params: Tensor, buffers: Tensor, index: int) -> Tensors:
        """Return what one of several members has, by SB3's names, a copy."""
        views = self.by_sb3s_names(params, buffers)
        return {name: view[index].clone() for name, view in views.items()}

    @torch.no_grad()
    def load(self, params: Tensor, buffers: Tensor, index: int) -> Any:
        """Return ``net`` with the numbers of one of several members."""
        views, tensors = self.by_sb3s_names(params, buffers), _tensors(self.net)
        for name, tensor in tensors.items():
            tensor.copy_(views[name][index])
        return self.net

    @torch.no_grad()
    def save(self, net: nn.Module, params: Tensor, buffers: Tensor, index: int) -> None:
        """Write the numbers of a network like ``net`` into the rows of one member."""
        views = self.by_sb3s_names(params, buffers)
        for name, tensor in _tensors(net).items():
            views[name][index].copy_(tensor)

    def _views(self, shapes: Shapes, rows: Tensor) -> Tensors:
        nets = rows.view(self.n_nets * len(rows), rows.shape[1] // self.n_nets)
        parts = nets.split([shape.numel() for shape in shapes.values()], 1)
        each = zip(shapes.items(), parts, strict=True)
        return {name: values.view(len(nets), *shape) for (name, shape), values in each}


def _tensors(module: nn.Module) -> Tensors:
    return dict((*module.named_parameters(), *module.named_buffers()))


def below(tensors: Tensors, prefix: str) -> Tensors:
    """Return what has names with a prefix, under the rest of their names."""
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def build(
    configs: Sequence[MemberConfig],
    observations: spaces.Space[Any],
    actions: Any,
    kind: Any,
) -> tuple[Layout, Tensor, Tensor]:
    """Return a layout, and the initial parameters ``(P, D)`` and buffers of the members.

    Args:
        configs: of the members.
        observations: a Box with one axis, or with as many as ``kind`` sees.
        actions: Discrete, or a Box with one axis and finite bounds.
        kind: a class of ``Networks``, which makes those of a member of its configuration, the
            shape of observations, the number of outputs, and whether actions are real numbers.

    Raises:
        UsageError: other spaces, or networks that cannot have the norm.
    """
    if not isinstance(observations, spaces.Box) or len(observations.shape) not in kind.sees:
        axes = " or ".join(AXES[number] for number in kind.sees)
        raise UsageError(f"observations must be a Box with {axes}, got {observations}")
    continuous = isinstance(actions, spaces.Box)
    bounded = continuous and len(actions.shape) == 1 and actions.is_bounded()
    if not (bounded or isinstance(actions, spaces.Discrete)):
        raise UsageError(f"actions must be Discrete or a bounded Box of one axis, got {actions}")
    n_outputs = actions.shape[0] if continuous else int(actions.n)
    nets = []
    with torch.random.fork_rng(devices=[]):
        for config in configs:
            torch.default_generator.manual_seed(config.seed)
            what = f"networks of {config.net_arch} cannot be built"
            with as_usage_error(what, RuntimeError, say=first_line):  # no memory holds them
                nets.append(kind(config, observations.shape, n_outputs, continuous))
    return stacked(nets)


def stacked(nets: Sequence[Any]) -> tuple[Layout, Tensor, Tensor]:
    """Return a layout, and the parameters ``(P, D)`` and buffers of the networks of members."""
    plan = Layout.of(nets[0])
    params, buffers = (
        torch.zeros(len(nets), plan.n_nets * sum(shape.numel() for shape in shapes.values()))
        for shapes in (plan.params, plan.buffers)
    )
    for k, net in enumerate(nets):
        plan.save(net, params, buffers, k)
    return plan, params, buffers


def initialise(
    plan: Layout, params: Tensor, buffers: Tensor, obs: Tensor, count: int, source: str
) -> None:
    """Initialise the hidden layers of each member on its observations, in place.

    Args:
        plan: of the members.
        params: ``(P, D)``.
        buffers: ``(P, D')``.
        obs: ``(P, B, *shape)``.
        count: how many were asked for.
        source: what has no more, if that is more than B.
    """
    if count > (n_obs := obs.shape[1]):
        warnings.warn(
            f"data_init={count}, but the {source} has {n_obs} observations: initialised on those",
            stacklevel=4,
        )
    told: set[str] = set()
    for k, batch in enumerate(obs):
        net = plan.load(params, buffers, k).eval()
        for side, network in zip(net.sides, net.networks(), strict=True):
            report = data_init(network[:-1], batch.to("cpu"))
            told.update(f"{side}.{name}: {reason}" for name, reason in report.skipped.items())
        plan.save(net, params, buffers, k)
    if told:
        layers = "; ".join(sorted(told))
        warnings.warn(f"data_init left layers as they were: {layers}", stacklevel=2)
