"""Policies with a norm for RecurrentPPO, with LSTMs or GRUs."""

from contextlib import nullcontext
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from sb3_contrib.common.recurrent.policies import (
    RecurrentActorCriticCnnPolicy,
    RecurrentActorCriticPolicy,
    RecurrentMultiInputActorCriticPolicy,
)
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from torch import Tensor, nn

from wnrl.errors import UsageError
from wnrl.nn import shared_weights
from wnrl.sb3.actor_critic import NormMixin
from wnrl.sb3.data_init import Observations
from wnrl.sb3.padding import padding_left_out

if TYPE_CHECKING:
    _Policy = RecurrentActorCriticPolicy
else:
    _Policy = object

RNN_OPTIONS = ("bias", "dropout")
"""What ``lstm_kwargs`` may hold; RecurrentPPO's states and sequences fit no other layer."""

States = tuple[Tensor, Tensor]


class RecurrentNormMixin(NormMixin, _Policy):
    """``NormMixin`` for policies with an LSTM or a GRU, which runs over whole sequences.

    The layers are called ``lstm_actor`` and ``lstm_critic`` in either case, and states are pairs
    (h, c), as RecurrentPPO wants them; a GRU uses h alone and hands c, which is zero, on.

    Raises:
        UsageError: as ``NormBase``, or ``lstm_kwargs`` asks for a layer that RecurrentPPO's
            sequences do not fit.
    """

    rnn: ClassVar[type[nn.LSTM] | type[nn.GRU]] = nn.LSTM
    """The recurrent layer, which a subclass may change."""

    def _after_init(self) -> None:
        for name in self.lstm_kwargs:
            if name not in RNN_OPTIONS:
                raise UsageError(f"lstm_kwargs may hold {', '.join(RNN_OPTIONS)}; got {name!r}")
        if self.rnn is not nn.LSTM:
            self.lstm_actor = self._in_place_of(self.lstm_actor)
            if self.lstm_critic is not None:
                self.lstm_critic = self._in_place_of(self.lstm_critic)
        super()._after_init()

    def _run_hidden(self, obs: Observations) -> None:
        # What stands behind a recurrent layer depends on states, and is left as it is.
        for extractor in dict.fromkeys((self.pi_features_extractor, self.vf_features_extractor)):
            extractor(obs)

    def _hidden_layers(self) -> list[str]:
        return [name for name in super()._hidden_layers() if "features_extractor" in name]

    def _in_place_of(self, lstm: nn.LSTM) -> Any:
        """A recurrent layer of the class's own kind with the sizes of ``lstm``."""
        sizes = (lstm.input_size, lstm.hidden_size, lstm.num_layers)
        return self.rnn(*sizes, **self.lstm_kwargs)

    def evaluate_actions(  # type: ignore[override] # upstream's own class differs as well
        self, obs: Any, actions: Tensor, lstm_states: RNNStates, episode_starts: Tensor
    ) -> tuple[Tensor, Tensor, Any]:
        """As upstream's, for padded sequences of which the padding is left out where it can be.

        Args:
            obs: ``(N * T, ...)``, sequence after sequence, or a dict of such.
            actions: ``(N * T,)`` or ``(N * T, size)``.
            lstm_states: the states before the sequences, each ``(num_layers, N, H)``.
            episode_starts: 1.0 where a new episode starts, else 0.0, ``(N * T,)``.

        Returns:
            Values ``(N * T, 1)``, log-probabilities ``(N * T,)``, and entropies, or None where
            they have no formula. What stands at padded steps has no meaning.
        """
        with padding_left_out(self, obs, actions, n_seq=lstm_states.pi[0].shape[1]):
            return super().evaluate_actions(obs, actions, lstm_states, episode_starts)

    @staticmethod
    def _process_sequence(
        features: Tensor, lstm_states: States, episode_starts: Tensor, lstm: Any
    ) -> tuple[Tensor, Any]:
        """Runs a recurrent layer over padded sequences, from zero where an episode starts.

        The buffer of RecurrentPPO cuts sequences at episode starts, so that states need masking
        at t = 0 alone and one call does it; upstream steps through time in Python instead. A start
        within a sequence splits the call there.

        Args:
            features: ``(N * T, input_size)``, sequence after sequence.
            lstm_states: h and c before the first step, each ``(num_layers, N, H)``.
            episode_starts: 1.0 where a new episode starts, else 0.0, ``(N * T,)``.
            lstm: called like an ``nn.LSTM`` or ``nn.GRU``.

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
        with shared_weights(lstm) if len(cuts) > 2 else nullcontext():
            for begin, end in pairwise(cuts):
                output, lstm_states = _run(
                    lstm, sequence[begin:end], lstm_states, keep[begin].view(1, n_seq, 1)
                )
                outputs.append(output)
        whole = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return whole.transpose(0, 1).flatten(0, 1), lstm_states  # (T, N, H) -> (N * T, H)


def _run(rnn: Any, sequence: Tensor, states: States, keep: Tensor) -> tuple[Tensor, States]:
    """One call, from states that are zero where ``keep``, ``(1, N, 1)``, is."""
    h, c = states
    if getattr(rnn, "mode", "LSTM") == "GRU":
        output, h = rnn(sequence, keep * h)
        return output, (h, c)
    return rnn(sequence, (keep * h, keep * c))


class WNMlpLstmPolicy(RecurrentNormMixin, RecurrentActorCriticPolicy):
    """sb3-contrib's ``MlpLstmPolicy`` for RecurrentPPO, with a norm."""


class WNCnnLstmPolicy(RecurrentNormMixin, RecurrentActorCriticCnnPolicy):
    """sb3-contrib's ``CnnLstmPolicy`` for RecurrentPPO, with a norm."""


class WNMultiInputLstmPolicy(RecurrentNormMixin, RecurrentMultiInputActorCriticPolicy):
    """sb3-contrib's ``MultiInputLstmPolicy`` for RecurrentPPO, with a norm."""


class WNMlpGruPolicy(WNMlpLstmPolicy):
    """``WNMlpLstmPolicy`` with GRUs in the place of LSTMs."""

    rnn = nn.GRU


class WNCnnGruPolicy(WNCnnLstmPolicy):
    """``WNCnnLstmPolicy`` with GRUs in the place of LSTMs."""

    rnn = nn.GRU


class WNMultiInputGruPolicy(WNMultiInputLstmPolicy):
    """``WNMultiInputLstmPolicy`` with GRUs in the place of LSTMs."""

    rnn = nn.GRU
