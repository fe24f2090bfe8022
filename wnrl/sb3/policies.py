"""Policies of stable-baselines3 whose networks take a norm.

SB3 builds and initialises its plain network first; conversion follows, and the optimizer is made
anew. So the initialisation (orthogonal, 0.01 at the action head) is exactly SB3's, and one mixin
serves a whole family of policies.
"""

import inspect
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from sb3_contrib.common.recurrent.policies import (
    RecurrentActorCriticCnnPolicy,
    RecurrentActorCriticPolicy,
    RecurrentMultiInputActorCriticPolicy,
)
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)
from torch import Tensor, nn

from wnrl.errors import UsageError, check_choice
from wnrl.nn import convert, plain_parts
from wnrl.norms import NORMS
from wnrl.optim import project_after_step

HEADS = ("action_net", "value_net")

if TYPE_CHECKING:
    _Policy = ActorCriticPolicy
else:
    _Policy = object


class NormMixin(_Policy):
    """Gives an actor-critic policy three more arguments, and its network a norm.

    Output heads stay plain under every norm unless asked for. Normalisers and projection leave
    them alone by definition, and spectral norm would undo the 0.01 of the action head. Weight norm
    could take them; what that did to returns is in docs/results.md. Under Adam it bounds how fast
    a head can grow: each step changes its length g by about one learning rate, however many inputs
    it has.

    Args:
        *args: those of the policy.
        norm: a key of ``NORMS``; None takes the class's own (``weight`` unless said otherwise).
        norm_kwargs: options of the norm, as ``wnrl.convert`` takes them.
        norm_heads: whether the action and value heads take the norm too, where it has a way.
        **kwargs: those of the policy.

    Attributes:
        norm: the key in use.
        plain_parts: names of the layers that are plain though the norm is for such layers: those
            that it cannot be applied to, such as an LSTM under batch norm, and the heads under
            ``weight``, ``weight_mean`` and ``spectral`` unless ``norm_heads``. Norms of hidden
            layers alone do not list the heads.

    Raises:
        UsageError: the norm or one of its options is unknown, or the policy has an optimizer with
            several groups of parameters.
    """

    default_norm: ClassVar[str] = "weight"

    def __init__(
        self,
        *args: Any,
        norm: str | None = None,
        norm_kwargs: dict[str, Any] | None = None,
        norm_heads: bool = False,
        **kwargs: Any,
    ) -> None:
        self.norm = check_choice("norm", self.default_norm if norm is None else norm, NORMS)
        self.norm_kwargs = dict(norm_kwargs or {})
        self.norm_heads = norm_heads
        self._arguments = _named_arguments(super().__init__, *args, **kwargs)
        super().__init__(*args, **kwargs)
        skip = () if norm_heads else HEADS
        convert(self, self.norm, skip=skip, norm_kwargs=self.norm_kwargs)
        self.plain_parts = plain_parts(self, self.norm)
        self._renew_optimizer()

    def _renew_optimizer(self) -> None:
        """Replaces the optimizer, whose parameters conversion may have replaced."""
        if len(self.optimizer.param_groups) != 1:
            raise UsageError(
                f"{type(self).__name__} has an optimizer of {len(self.optimizer.param_groups)} "
                "parameter groups; a policy with a norm can have only one"
            )
        learning_rate = self.optimizer.param_groups[0]["lr"]
        self.optimizer = self.optimizer_class(
            self.parameters(),
            lr=learning_rate,  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )
        check_optimized(self, self.optimizer)
        if NORMS[self.norm].projected:
            project_after_step(self.optimizer, self)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            **self._arguments,
            "norm": self.norm,
            "norm_kwargs": self.norm_kwargs,
            "norm_heads": self.norm_heads,
        }


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


def check_optimized(module: nn.Module, *optimizers: torch.optim.Optimizer) -> None:
    """Raises UsageError if a parameter of ``module`` is in none of the optimizers."""
    held = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
    lost = [name for name, p in module.named_parameters() if id(p) not in held]
    if lost:
        raise UsageError(f"parameters in no optimizer: {', '.join(lost)}")


def with_norm(
    policy_class: type[ActorCriticPolicy], norm: str = "weight"
) -> type[ActorCriticPolicy]:
    """A user's own policy class, with ``norm`` and ``norm_kwargs`` as further arguments.

    SB3's ``save`` and ``load`` take what it returns as it is. Plain pickle looks classes up by
    name, and needs it as ``WN<name>`` at the top level of the module that has the class:
    ``WNMyPolicy = with_norm(MyPolicy)``.

    Args:
        policy_class: an actor-critic policy, recurrent or not.
        norm: the key of ``NORMS`` that the new class takes unless told otherwise.

    Raises:
        UsageError: the class is no actor-critic policy, or the norm is unknown.
    """
    check_choice("norm", norm, NORMS)
    if not (isinstance(policy_class, type) and issubclass(policy_class, ActorCriticPolicy)):
        raise UsageError(
            f"policy_class must be a subclass of ActorCriticPolicy, got {policy_class!r}"
        )
    bases: tuple[type, ...] = (policy_class,)
    if not issubclass(policy_class, NormMixin):
        recurrent = issubclass(policy_class, RecurrentActorCriticPolicy)
        bases = (RecurrentNormMixin if recurrent else NormMixin, policy_class)
    return type(
        f"WN{policy_class.__name__}",
        bases,
        {"default_norm": norm, "__module__": policy_class.__module__},
    )


def _named_arguments(function: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The arguments of a policy by name, less its schedule: what loading it again needs."""
    signature = inspect.signature(function)
    named: dict[str, Any] = {}
    for name, value in signature.bind(*args, **kwargs).arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            named.update(value)
        elif kind is not inspect.Parameter.VAR_POSITIONAL:
            named[name] = value
    named.pop("lr_schedule", None)
    return named


class WNMlpPolicy(NormMixin, ActorCriticPolicy):
    """SB3's ``MlpPolicy`` for PPO and A2C, with a norm."""


class WNCnnPolicy(NormMixin, ActorCriticCnnPolicy):
    """SB3's ``CnnPolicy`` for PPO and A2C, with a norm."""


class WNMultiInputPolicy(NormMixin, MultiInputActorCriticPolicy):
    """SB3's ``MultiInputPolicy`` for PPO and A2C, with a norm."""


class WNMlpLstmPolicy(RecurrentNormMixin, RecurrentActorCriticPolicy):
    """sb3-contrib's ``MlpLstmPolicy`` for RecurrentPPO, with a norm."""


class WNCnnLstmPolicy(RecurrentNormMixin, RecurrentActorCriticCnnPolicy):
    """sb3-contrib's ``CnnLstmPolicy`` for RecurrentPPO, with a norm."""


class WNMultiInputLstmPolicy(RecurrentNormMixin, RecurrentMultiInputActorCriticPolicy):
    """sb3-contrib's ``MultiInputLstmPolicy`` for RecurrentPPO, with a norm."""
