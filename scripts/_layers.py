"""What ``bench_layers.py`` times: networks with their input, and what is done to them."""

import itertools
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wnrl import convert, frozen, shared_weights
from wnrl.optim import WNAdam

OBS, ACTIONS = 32, 8


@dataclass(frozen=True)
class Workload:
    """One row: a network, its input, and how it is called."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    call: Callable[[nn.Module, Tensor], Tensor] = lambda net, x: net(x)


@dataclass(frozen=True)
class Alternative:
    """One column: what is done to the plain network before it is timed."""

    name: str
    change: Callable[[nn.Module], object] = lambda net: None
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam
    scope: Callable[[nn.Module], AbstractContextManager[None]] = lambda net: nullcontext()
    forward: bool = True
    train: bool = True


def mlp(width: int) -> nn.Module:
    """Three hidden layers, as policies and critics have them."""
    sizes = [OBS, width, width, width]
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, ACTIONS))


def nature_cnn() -> nn.Module:
    """The network of Mnih et al. (2015)."""
    return nn.Sequential(
        *(nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3136, 512), nn.ReLU()),
        nn.Linear(512, ACTIONS),
    )


def lstm() -> nn.Module:
    """A recurrent policy's core, in a container so that it can be converted."""
    return nn.ModuleDict({"lstm": nn.LSTM(16, 128)})


def whole_sequence(net: Any, x: Tensor) -> Tensor:
    """One call for all time steps."""
    return net["lstm"](x)[0]


def step_by_step(net: Any, x: Tensor) -> Tensor:
    """One call a time step, as an unrolled loop makes; with weights shared where they can be."""
    outputs, states = [], None
    with shared_weights(net):
        for step in x.split(1):
            out, states = net["lstm"](step, states)
            outputs.append(out)
    return torch.cat(outputs)


WORKLOADS = [
    *(
        Workload(f"MLP 3x{width}, batch {batch}", lambda width=width: mlp(width), (batch, OBS))  # type: ignore[misc]
        for width in (64, 256, 1024)
        for batch in (1, 8, 64, 256)
    ),
    Workload("Nature CNN, batch 32", nature_cnn, (32, 4, 84, 84)),
    Workload("LSTM 16-128, 64 steps, batch 8", lstm, (64, 8, 16), whole_sequence),
    Workload("LSTM 16-128, 64 calls, batch 8", lstm, (64, 8, 16), step_by_step),
]


def by_torch(register: Callable[..., nn.Module]) -> Callable[[nn.Module], None]:
    """One of torch's weight norms on every weight of every layer."""

    def change(net: nn.Module) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            for layer in list(net.modules()):
                for name, p in list(layer.named_parameters(recurse=False)):
                    if p.dim() > 1:
                        register(layer, name)

    return change


ALTERNATIVES = [
    Alternative("plain"),
    Alternative("ours", lambda net: convert(net, "weight")),
    Alternative("ours, frozen", lambda net: convert(net, "weight"), scope=frozen, train=False),
    Alternative("ours, optimizer", optimizer=WNAdam, forward=False),
    Alternative("parametrization", by_torch(nn.utils.parametrizations.weight_norm)),
    Alternative("legacy hook", by_torch(nn.utils.weight_norm)),
    Alternative("layer norm", lambda net: convert(net, "layer")),
    Alternative("batch norm", lambda net: convert(net, "batch")),
]
