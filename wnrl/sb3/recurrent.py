"""Policies with a norm for RecurrentPPO."""

from itertools import pairwise
from typing import Any

import torch
from sb3_contrib.common.recurrent.policies import (
    RecurrentActorCriticCnnPolicy,
    RecurrentActorCriticPolicy,
    RecurrentMultiInputActorCriticPolicy,
)
from torch import Tensor, nn

from wnrl.sb3.actor_critic import NormMixin


class RecurrentNormMixin(NormMixin):
    """As ``NormMixin``, and runs the LSTM over whole sequences."""

    @staticmethod
    def _process_sequence(
        features: Tensor,
        lstm_states: tuple[Tensor, Tensor],
        episode_starts: Tensor,
        lstm: nn.LSTM,
    ) -> tuple[Tensor, Any]:
        """Runs the LSTM over padded sequences, with its state at zero where an episode starts.

        The buffer of RecurrentPPO cuts sequences at episode starts, so that states need masking
        at t = 0 alone and one call does it; upstream steps through time in Python instead. A start
        within a sequence splits the call there.

        Args:
            features: ``(N * T, input_size)``, sequence after sequence.
            lstm_states: ``(h, c)``, each ``(num_layers, N, H)``, before the first step.
            episode_starts: 1.0 where a new episode starts, else 0.0, ``(N * T,)``.
            lstm: an ``nn.LSTM``, or a module called like one.

        Returns:
            The outputs ``(N * T, H)``, and the states after the last step.
        """
        n_seq = lstm_states[0].shape[1]
        # (N * T, input_size) -> (T, N, input_size)
        sequence = features.reshape(n_seq, -1, lstm.input_size).swapaxes(0, 1)
        keep = 1.0 - episode_starts.reshape(n_seq, -1).swapaxes(0, 1)  # (T, N)
        length = sequence.shape[0]
        cuts = [0, length]
        if length > 1:
            resets = (keep[1:] == 0.0).any(dim=1).nonzero().flatten() + 1
            cuts[1:1] = resets.tolist()
        outputs = []
        for begin, end in pairwise(cuts):
            mask = keep[begin].view(1, n_seq, 1)
            state = (mask * lstm_states[0], mask * lstm_states[1])
            output, lstm_states = lstm(sequence[begin:end], state)
            outputs.append(output)
        whole = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return whole.transpose(0, 1).flatten(0, 1), lstm_states  # (T, N, H) -> (N * T, H)


class WNMlpLstmPolicy(RecurrentNormMixin, RecurrentActorCriticPolicy):
    """sb3-contrib's ``MlpLstmPolicy`` for RecurrentPPO, with a norm."""


class WNCnnLstmPolicy(RecurrentNormMixin, RecurrentActorCriticCnnPolicy):
    """sb3-contrib's ``CnnLstmPolicy`` for RecurrentPPO, with a norm."""


class WNMultiInputLstmPolicy(RecurrentNormMixin, RecurrentMultiInputActorCriticPolicy):
    """sb3-contrib's ``MultiInputLstmPolicy`` for RecurrentPPO, with a norm."""
