"""Policies with a norm for RecurrentPPO, with LSTMs or GRUs.

RecurrentPPO learns from sequences, and fills up the short ones with zeros to the length of the
longest. Its losses leave the padding out, but the policy is not told which steps these are: a batch
norm would count zeros among its examples, and a convolutional network would look at each of them.

What pads a sequence stands at its end, and its observation and action are zero in every component.
A real step can look like that too (an empty observation, action 0), so what is done with such steps
is right for it as well. Equal observations have equal features, which are computed once for all of
them; and a batch norm takes its statistics from the other steps, and normalises these by its
running statistics, as in evaluation.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from sb3_contrib.common.recurrent import policies
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.policies import BaseModel
from torch import Tensor, nn

from wnrl.errors import UsageError
from wnrl.nn import shared_weights
from wnrl.sb3.actor_critic import NormMixin
from wnrl.sb3.parts import Observations, batch_norms, batch_statistics, map_obs

RNN_OPTIONS = ("bias", "dropout")
"""What ``lstm_kwargs`` may hold; RecurrentPPO's states and sequences fit no other layer."""

States = tuple[Tensor, ...]


class RecurrentNormMixin(NormMixin):
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
        for name in ("lstm_actor", "lstm_critic") if self.rnn is not nn.LSTM else ():
            if (lstm := getattr(self, name)) is not None:
                sizes = (lstm.input_size, lstm.hidden_size, lstm.num_layers)
                setattr(self, name, self.rnn(*sizes, **self.lstm_kwargs))
        super()._after_init()

    def _run_hidden(self, obs: Observations) -> None:
        # What stands behind a recurrent layer depends on states, and is left as it is.
        for extractor in dict.fromkeys((self.pi_features_extractor, self.vf_features_extractor)):
            extractor(obs)

    def _hidden_layers(self) -> list[str]:
        return [name for name in super()._hidden_layers() if "features_extractor" in name]

    def _evaluate(
        self, obs: Any, actions: Tensor, lstm_states: RNNStates, episode_starts: Tensor
    ) -> Any:
        """As upstream's ``evaluate_actions``, with the padding left out where it can be.

        Args:
            obs: ``(N * T, ...)``, sequence after sequence, or a dict of such.
            actions: ``(N * T,)`` or ``(N * T, size)``.
            lstm_states: the states before the sequences, each ``(num_layers, N, H)``.
            episode_starts: 1.0 where a new episode starts, else 0.0, ``(N * T,)``.

        Returns:
            Values ``(N * T, 1)``, log-probabilities ``(N * T,)``, and entropies, or None where
            they have no formula. What stands at padded steps has no meaning.
        """
        upstream: Any = super(NormMixin, self).evaluate_actions  # type: ignore[misc]
        extractors = dict.fromkeys((self.pi_features_extractor, self.vf_features_extractor))
        norms = [norm for norm in batch_norms(self) if norm.training]
        costly = norms or any(True for part in extractors for _ in part.parameters())
        is_own = upstream.__func__ is not policies.RecurrentActorCriticPolicy.evaluate_actions
        n_seq = lstm_states.pi[0].shape[1]
        if is_own or not costly or not len((rows := find_padding(obs, actions, n_seq)).padded):
            return upstream(obs, actions, lstm_states, episode_starts)

        # The real steps, then one for all that pads.
        chosen = map_obs(obs, lambda x: x[torch.cat([rows.real, rows.padded[:1]])])
        few = Rows(*torch.arange(len(rows.real) + 1, device=rows.real.device).tensor_split([-1]))
        features = []
        for part in extractors:
            extract = partial(BaseModel.extract_features, self, features_extractor=part)
            out = _run_apart(extract, chosen, few, norms)
            features.append(rows.join(out[:-1], out[-1:].expand(len(rows.padded), -1)))
        latent_pi, _ = self._process_sequence(
            features[0], lstm_states.pi, episode_starts, self.lstm_actor
        )
        if self.lstm_critic is not None:
            latent_vf, _ = self._process_sequence(
                features[-1], lstm_states.vf, episode_starts, self.lstm_critic
            )
        else:
            latent_vf = latent_pi.detach() if self.shared_lstm else self.critic(features[-1])
        latent_pi = _run_apart(self.mlp_extractor.forward_actor, latent_pi, rows, norms)
        latent_vf = _run_apart(self.mlp_extractor.forward_critic, latent_vf, rows, norms)
        distribution = self._get_action_dist_from_latent(latent_pi)
        log_prob = distribution.log_prob(actions)
        return self.value_net(latent_vf), log_prob, distribution.entropy()

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
        cuts = [0, len(sequence)]
        if len(sequence) > 1:
            resets = (keep[1:] == 0.0).any(dim=1).nonzero().flatten() + 1
            cuts[1:1] = resets.tolist()
        outputs, is_gru = [], getattr(lstm, "mode", "LSTM") == "GRU"
        with shared_weights(lstm) if len(cuts) > 2 else nullcontext():
            for begin, end in pairwise(cuts):
                (h, c), kept = lstm_states, keep[begin].view(1, n_seq, 1)
                given = kept * h if is_gru else (kept * h, kept * c)
                output, after = lstm(sequence[begin:end], given)
                lstm_states = (after, c) if is_gru else after
                outputs.append(output)
        whole = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return whole.transpose(0, 1).flatten(0, 1), lstm_states  # (T, N, H) -> (N * T, H)


class Rows(NamedTuple):
    """Indices of the rows of a batch, in two parts."""

    real: Tensor
    padded: Tensor

    def join(self, real: Tensor, padded: Tensor) -> Tensor:
        """The whole batch from what was computed for its parts."""
        return torch.cat([real, padded])[torch.cat(self).argsort()]


def find_padding(obs: Observations, actions: Tensor, n_seq: int) -> Rows:
    """Tells steps that are certainly real from those that look like padding.

    Args:
        obs: ``(N * T, ...)``, sequence after sequence, or a dict of such.
        actions: ``(N * T,)`` or ``(N * T, size)``.
        n_seq: N.
    """
    parts = [*(obs.values() if isinstance(obs, dict) else [obs]), actions]
    zero = torch.stack([(part == 0).reshape(len(part), -1).all(1) for part in parts]).all(0)
    zero = zero.view(n_seq, -1)
    zero[:, 0] = False  # a sequence has at least one step
    padded = zero.flip(1).cumprod(1).flip(1).flatten()  # 1 where all is zero from here on
    return Rows((padded == 0).nonzero().flatten(), padded.nonzero().flatten())


def _run_apart(
    net: Callable[[Any], Tensor], x: Observations, rows: Rows, norms: list[nn.Module]
) -> Tensor:
    """Return ``net(x)`` with statistics of the real rows, in which the others have no part.

    Args:
        net: a part of the policy.
        x: its inputs, those of ``rows``.
        rows: where the real and the padded ones are.
        norms: the batch norms of the policy that use and track the batch.
    """
    if not norms:
        return net(x)
    real = net(map_obs(x, lambda part: part[rows.real]))
    with batch_statistics(norms, False):
        return rows.join(real, net(map_obs(x, lambda part: part[rows.padded])))


class WNMlpLstmPolicy(RecurrentNormMixin, policies.RecurrentActorCriticPolicy):
    """sb3-contrib's ``MlpLstmPolicy`` for RecurrentPPO, with a norm."""


class WNCnnLstmPolicy(RecurrentNormMixin, policies.RecurrentActorCriticCnnPolicy):
    """sb3-contrib's ``CnnLstmPolicy`` for RecurrentPPO, with a norm."""


class WNMultiInputLstmPolicy(RecurrentNormMixin, policies.RecurrentMultiInputActorCriticPolicy):
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
