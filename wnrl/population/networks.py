"""The networks of one member as SB3's policies build them."""

import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from functools import partial
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import nn

from wnrl.errors import UsageError
from wnrl.networks import MINATAR, NATURE_SIDE, cnn, mlp
from wnrl.nn import convert
from wnrl.nn.sites import n_spatial
from wnrl.norms import NORMS
from wnrl.population.config import MemberConfig, PPOConfig, RecurrentPPOConfig

CELLS: dict[str, tuple[Any, int]] = {"lstm": (nn.LSTM, 2), "gru": (nn.GRU, 1)}
"""Recurrent layers and their numbers of states."""
FEATURES = 128
"""Of a picture, as ``SmallCNN`` has them."""


class Networks(nn.Module, ABC):
    """The networks of one member, under the names that SB3 has for them.

    Drawn by torch's generator in SB3's order: the same seed gives the same networks.

    Args:
        shape: of an observation.
    """

    sees: ClassVar[tuple[int, ...]] = (1,)
    """How many axes an observation may have."""
    heads: tuple[str, ...]
    """Names of the output layers."""
    sides: ClassVar[tuple[str, ...]]
    """What the networks are called where their layers are."""
    memory: tuple[int, ...] = (0,)
    """The shape of what they remember of one environment: nothing."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def take_norm(self, config: MemberConfig) -> None:
        """Give the layers the norm; heads have it where it reparametrises layers, if asked for.

        Raises:
            UsageError: the norm is for hidden layers, and there are none.
        """
        feed_forward = [name for name, part in self.named_modules() if n_spatial(part) is not None]
        hidden = [name for name in feed_forward if name not in self.heads]
        on_heads = config.norm_heads and NORMS[config.norm].reparametrizes
        if not (hidden or on_heads or config.norm == "none"):
            raise UsageError(
                f"norm {config.norm!r} is for hidden layers, and the networks have none: "
                "net_arch=()"
            )
        skip = () if on_heads else self.heads
        convert(self, config.norm, skip=skip, norm_kwargs=config.norm_kwargs, hidden=hidden)

    @abstractmethod
    def networks(self) -> list[nn.Sequential]:
        """Return the networks with their heads, each ``(B, *shape) -> (B, n_outputs)``."""


class ActorCritic(Networks):
    """The two networks, under the names that SB3's ``MlpPolicy`` has for them.

    Args:
        config: of the member; recurrent PPO's puts recurrent layers in front of the hidden ones.
        shape: of an observation, ``(n_inputs,)``.
        n_outputs: of the action head.
        continuous: whether there is a log standard deviation of actions.

    Raises:
        UsageError: the norm is for hidden layers, and there are none.
    """

    heads = ("action_net", "value_net")
    sides = ("policy_net", "value_net")

    def __init__(
        self, config: PPOConfig, shape: tuple[int, ...], n_outputs: int, continuous: bool
    ) -> None:
        super().__init__(shape)
        n_features = getattr(config, "lstm_hidden_size", shape[0])
        self.mlp_extractor = nn.ModuleDict()
        for name in self.sides:
            net = nn.Sequential()
            if config.net_arch:
                net = mlp(n_features, config.net_arch, None, activation=config.activation_fn)
            self.mlp_extractor[name] = net
        width = (n_features, *config.net_arch)[-1]
        self.action_net = nn.Linear(width, n_outputs)
        if continuous:
            self.log_std = nn.Parameter(torch.full((n_outputs,), config.log_std_init))
        self.value_net = nn.Linear(width, 1)
        if config.ortho_init:
            self.mlp_extractor.apply(partial(_orthogonal, gain=math.sqrt(2)))
            _orthogonal(self.action_net, gain=0.01)
            _orthogonal(self.value_net, gain=1.0)
        if isinstance(config, RecurrentPPOConfig):
            sizes = shape[0], config.lstm_hidden_size, config.n_lstm_layers
            # RecurrentPPO's policy draws LSTMs first, also where GRUs take their place.
            for cell in dict.fromkeys(("lstm", config.cell)):
                make, n_states = CELLS[cell]
                self.lstm_actor, self.lstm_critic = make(*sizes), make(*sizes)
            self.memory = 2, config.n_lstm_layers, n_states, config.lstm_hidden_size
        self.take_norm(config)

    def networks(self) -> list[nn.Sequential]:
        """Return the actor and the critic, if they are recurrent as parts ``rnn`` and ``mlp``."""
        nets: Any = self.mlp_extractor.values()
        heads = map(self.get_submodule, self.heads)
        mlps = [nn.Sequential(*net, head) for net, head in zip(nets, heads, strict=True)]
        if not hasattr(self, "lstm_actor"):
            return mlps
        pairs = zip((self.lstm_actor, self.lstm_critic), mlps, strict=True)
        return [nn.Sequential(OrderedDict(rnn=rnn, mlp=mlp)) for rnn, mlp in pairs]


def _orthogonal(module: nn.Module, gain: float) -> None:
    if isinstance(module, nn.Linear):
        nn.init.orthogonal_(module.weight, gain)
        nn.init.zeros_(module.bias)


class QNetwork(Networks):
    """The network under the names that SB3's ``QNetwork`` has for its parts.

    In front of the layers of ``net_arch``, pictures go through those of ``SmallCNN``.

    Args:
        config: of the member.
        shape: of an observation: ``(n_inputs,)``, or ``(C, H, W)`` of a picture.
        n_outputs: actions.
        continuous: whether actions are real numbers.

    Raises:
        UsageError: they are, a picture is large, or the norm is for hidden layers, and there are
            none.
    """

    sees = (1, 3)
    sides = ("q_net",)

    def __init__(
        self, config: MemberConfig, shape: tuple[int, ...], n_outputs: int, continuous: bool
    ) -> None:
        super().__init__(shape)
        if continuous:
            raise UsageError(f"actions of {config.algorithm} must be Discrete, got a Box")
        self.features_extractor, n_features = nn.ModuleDict(), shape[0]
        if len(shape) == 3:
            channels, height, width = shape
            if min(height, width) >= NATURE_SIDE:
                raise UsageError(
                    f"pictures of a population must be smaller than {NATURE_SIDE} pixels, "
                    f"got {shape}"
                )
            net = cnn((channels, height, width), None, convs=MINATAR, hidden=(FEATURES,))
            self.features_extractor["net"], n_features = net, FEATURES
        self.q_net = mlp(n_features, config.net_arch, n_outputs, activation=config.activation_fn)
        self.heads = (f"q_net.{len(self.q_net) - 1}",)
        self.take_norm(config)

    def networks(self) -> list[nn.Sequential]:
        """Return the network."""
        parts: Any = (*self.features_extractor.values(), self.q_net)
        return [nn.Sequential(*chain(*parts))]
