"""Actor and critic of one member as SB3's policies build them."""

import math
from collections import OrderedDict
from functools import partial
from typing import Any

import torch
from torch import nn

from wnrl.networks import mlp
from wnrl.population.config import PPOConfig, RecurrentPPOConfig
from wnrl.population.rows import Networks

CELLS: dict[str, tuple[Any, int]] = {"lstm": (nn.LSTM, 2), "gru": (nn.GRU, 1)}
"""Recurrent layers and their numbers of states."""


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


@torch.no_grad()
def _orthogonal(module: nn.Module, gain: float) -> None:
    if isinstance(module, nn.Linear):
        nn.init.orthogonal_(module.weight, gain)
        module.bias.zero_()
