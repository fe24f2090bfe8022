"""Actor and critic of one member as SB3's policies build them."""

import math
from functools import partial
from typing import Any

import torch
from torch import nn

from wnrl.population.config import PPOConfig
from wnrl.population.rows import Networks, head_with_norm, hidden_layers, with_norm


class ActorCritic(Networks):
    """The two networks, under the names that SB3's ``MlpPolicy`` has for them.

    Args:
        config: of the member.
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
        n_inputs, n_features = shape[0], self.n_features(config, shape[0])
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
        self.add_memory(config, n_inputs)
        self.mlp_extractor = nn.ModuleDict(
            {name: with_norm(config, list(net)) for name, net in nets.items()}
        )
        self.action_net = head_with_norm(config, action_net)
        self.value_net = head_with_norm(config, value_net)

    def n_features(self, config: PPOConfig, n_inputs: int) -> int:
        """Return how many numbers the hidden layers are given."""
        return n_inputs

    def add_memory(self, config: PPOConfig, n_inputs: int) -> None:
        """Add what stands in front of the hidden layers: nothing."""

    def networks(self) -> list[nn.Sequential]:
        """Return the actor and the critic."""
        pairs = zip(self.hidden().values(), (self.action_net, self.value_net), strict=True)
        return [nn.Sequential(*hidden, head) for hidden, head in pairs]

    def hidden(self) -> dict[str, Any]:
        """Return the hidden layers of both."""
        return dict(self.mlp_extractor.items())


@torch.no_grad()
def _orthogonal(module: nn.Module, gain: float) -> None:
    if isinstance(module, nn.Linear):
        nn.init.orthogonal_(module.weight, gain)
        module.bias.zero_()
