"""Actor and critic of one member as SB3's policies build them."""

import math
from collections import OrderedDict
from functools import partial
from typing import Any

import torch
from torch import nn

from wnrl.norms import NORMS
from wnrl.population.config import PPOConfig, RecurrentPPOConfig
from wnrl.population.rows import Networks, head_with_norm, hidden_layers, with_norm

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

    def __init__(
        self, config: PPOConfig, shape: tuple[int, ...], n_outputs: int, continuous: bool
    ) -> None:
        super().__init__(shape)
        recurrent = config if isinstance(config, RecurrentPPOConfig) else None
        n_features = recurrent.lstm_hidden_size if recurrent else shape[0]
        nets = {
            name: nn.Sequential(*hidden_layers(config, n_features))
            for name in ("policy_net", "value_net")
        }
        width = (n_features, *config.net_arch)[-1]
        action_net = nn.Linear(width, n_outputs)
        if continuous:
            self.log_std = nn.Parameter(torch.full((n_outputs,), config.log_std_init))
        value_net = nn.Linear(width, 1)
        if config.ortho_init:
            for net in nets.values():
                net.apply(partial(_orthogonal, gain=math.sqrt(2)))
            _orthogonal(action_net, gain=0.01)
            _orthogonal(value_net, gain=1.0)
        if recurrent:
            n_layers, n_states = recurrent.n_lstm_layers, CELLS[recurrent.cell][1]
            self.memory = 2, n_layers, n_states, recurrent.lstm_hidden_size
            self.lstm_actor, self.lstm_critic = _recurrent_layers(recurrent, shape[0])
        self.mlp_extractor = nn.ModuleDict(
            {name: with_norm(config, list(net)) for name, net in nets.items()}
        )
        self.action_net = head_with_norm(config, action_net)
        self.value_net = head_with_norm(config, value_net)

    def networks(self) -> list[nn.Sequential]:
        """Return the actor and the critic, if they are recurrent as parts ``rnn`` and ``mlp``."""
        pairs = zip(self.hidden().values(), (self.action_net, self.value_net), strict=True)
        mlps = [nn.Sequential(*hidden, head) for hidden, head in pairs]
        if not hasattr(self, "lstm_actor"):
            return mlps
        pairs = zip((self.lstm_actor, self.lstm_critic), mlps, strict=True)
        return [nn.Sequential(OrderedDict(rnn=rnn, mlp=mlp)) for rnn, mlp in pairs]

    def hidden(self) -> dict[str, Any]:
        """Return the hidden layers of both."""
        return dict(self.mlp_extractor.items())


@torch.no_grad()
def _orthogonal(module: nn.Module, gain: float) -> None:
    if isinstance(module, nn.Linear):
        nn.init.orthogonal_(module.weight, gain)
        module.bias.zero_()


def _recurrent_layers(config: RecurrentPPOConfig, n_inputs: int) -> list[nn.Module]:
    """Return a recurrent layer for each network, with the norm where it has a recurrent form."""
    # RecurrentPPO's policy draws LSTMs first, also where GRUs take their place.
    for cell in dict.fromkeys(("lstm", config.cell)):
        make, _ = CELLS[cell]
        sizes = n_inputs, config.lstm_hidden_size, config.n_lstm_layers
        rnns = [make(*sizes) for _ in range(2)]
    norm = NORMS[config.norm]
    if (kind := norm.layers.get(type(rnns[0]))) is not None:
        options = {k: v for k, v in config.norm_kwargs.items() if k in norm.layer_options}
        return [kind.from_plain(rnn, **options) for rnn in rnns]
    if norm.mark is not None and norm.after_step is not None:
        for rnn in rnns:
            norm.mark(rnn)
            norm.after_step(rnn)
    return rnns
