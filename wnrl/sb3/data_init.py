"""Data-dependent initialisation of a policy: once, on observations as the agent sees them.

``wnrl.data_init`` on the first observations that are learnt from (Salimans & Kingma 2016,
arXiv:1602.07868, eq. 5 and 6), before the first gradient step. Where they come from depends on the
algorithm:

- off-policy (``FirstBatch``): from the first training batch, before any network has used it, so
  that the first targets are those of the initialised networks;
- on-policy (``FirstRollout``): from the first rollout, before the first update. The rollout was
  acted by the networks as they were. So that learning starts where it would have started had the
  stored log-probabilities been computed anew, the first update sees the log-probabilities of
  ``evaluate_actions`` shifted by what the initialisation changed them by. TRPO takes them from
  elsewhere and corrects with the ratio to the policy that acted, which is as right.

Where there are fewer observations than asked for, these are used and a warning says so: a batch of
a replay buffer has ``batch_size``. Critics of (s, a) see uniform actions, as the buffer has them at
first. Output heads are left alone, since their gain was chosen, and so are layers that were frozen
(``requires_grad_(False)``). Parameters are written in place, so that optimizers keep them, and
targets are loaded again. A buffer of the policy, ``data_initialised``, says that it is done; it is
saved with the policy, and nothing is repeated after loading.
"""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from stable_baselines3.common.preprocessing import preprocess_obs
from torch import Tensor, nn

from wnrl.errors import UsageError

if TYPE_CHECKING:
    from wnrl.sb3.common import NormBase

Observations = Tensor | dict[str, Tensor]


class PolicyInit:
    """The one initialisation of a policy.

    Args:
        policy: gets the buffer ``data_initialised`` and, when it is done, the attribute
            ``data_init_report``.
        count: number of observations to use.

    Raises:
        UsageError: ``count`` is no integer of at least 2, or the policy has no hidden layer.
    """

    source: str
    """What the observations come from, for messages."""

    def __init__(self, policy: "NormBase", count: int) -> None:
        if isinstance(count, bool) or not isinstance(count, int) or count < 2:
            raise UsageError(f"data_init must be an integer of at least 2, or None; got {count!r}")
        if not policy._hidden_layers():
            raise UsageError(
                f"data_init={count} has no hidden layer to initialise in {type(policy).__name__}: "
                "recurrent layers and output heads keep their initialisation"
            )
        self.policy, self.count, self.pending = policy, count, True
        policy.register_buffer("data_initialised", torch.tensor(False))

    def enter(self, training: bool) -> None:
        """Called whenever SB3 switches the policy to training or to evaluation."""
        if self.pending:
            self.pending = not bool(self.policy.get_buffer("data_initialised"))

    def apply(self, obs: Observations) -> None:
        """Initialises on preprocessed observations, ``(B, ...)``."""
        available = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
        if available < 2:
            raise UsageError(f"data_init needs two observations, {self.source} has {available}")
        if available < self.count:
            warnings.warn(
                f"data_init={self.count}, but {self.source} has {available} observations: "
                "initialised on those",
                stacklevel=2,
            )
        self.policy.data_init_report = report = self.policy._init_hidden(
            _map(obs, lambda values: values[: self.count])
        )
        self.policy.get_buffer("data_initialised").fill_(True)
        self.pending = False
        if report.skipped:
            layers = "; ".join(f"{name}: {reason}" for name, reason in report.skipped.items())
            warnings.warn(f"data_init left layers as they were: {layers}", stacklevel=2)


class FirstBatch(PolicyInit):
    """Initialises at the first use of a features extractor in training, which sees the batch."""

    source = "the first training batch"

    def __init__(self, policy: "NormBase", count: int) -> None:
        super().__init__(policy, count)
        self.hooks: list[Any] = []

    def enter(self, training: bool) -> None:
        """Waits for a batch while the policy is in training."""
        super().enter(training)
        self._remove_hooks()
        if self.pending and training:
            for name, part in self.policy.named_modules():
                if name.endswith("features_extractor"):
                    # Before hooks that set modes for the forward that is to come.
                    self.hooks.append(part.register_forward_pre_hook(self._on_batch, prepend=True))

    def _on_batch(self, _: nn.Module, args: tuple[Observations]) -> None:
        self._remove_hooks()
        self.apply(args[0])

    def _remove_hooks(self) -> None:
        for hook in self.hooks:
            hook.remove()
        self.hooks = []


class FirstRollout(PolicyInit):
    """Collects what the policy acts on, and initialises when training begins."""

    source = "the first rollout"

    def __init__(self, policy: "NormBase", count: int) -> None:
        super().__init__(policy, count)
        self.seen: list[Observations] = []
        self.acted: dict[str, Tensor] = {}  # the policy that acted in the first rollout

    def see(self, obs: Observations) -> None:
        """Takes observations ``(N, ...)`` as the policy was called with them."""
        if self.pending and self._number() < self.count:
            self.seen.append(_map(obs, torch.clone))

    def _number(self) -> int:
        return sum(len(next(iter(o.values())) if isinstance(o, dict) else o) for o in self.seen)

    def enter(self, training: bool) -> None:
        """Initialises at the first update; the one after it learns from another rollout."""
        super().enter(training)
        self.acted = {}
        if not self.pending:
            self.seen = []
        elif training and self.seen:
            policy, before = self.policy, _state(self.policy)
            obs: Any = preprocess_obs(
                _cat(self.seen), policy.observation_space, policy.normalize_images
            )
            self.apply(obs)
            self.acted, self.fresh = before, _state(policy)

    def shift(self, evaluate: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor | float:
        """What the initialisation took from the log-probabilities that ``evaluate`` returns.

        Zero but in the first update.
        """
        if not self.acted:
            return 0.0
        policy, mode, current = self.policy, self.policy.training, _state(self.policy)
        policy.train(False)
        log_probs: list[Tensor] = []
        try:
            for state in (self.acted, self.fresh):
                _write(policy, state)
                with torch.no_grad():
                    log_probs.append(evaluate(*args, **kwargs)[1])
        finally:
            _write(policy, current)
            policy.train(mode)
        return log_probs[0] - log_probs[1]


def _tensors(policy: nn.Module) -> dict[str, Tensor]:
    return dict((*policy.named_parameters(), *policy.named_buffers()))


def _state(policy: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in _tensors(policy).items()}


@torch.no_grad()
def _write(policy: nn.Module, state: dict[str, Tensor]) -> None:
    """Puts ``state`` into the tensors that ``policy`` has.

    In place, since torch's ``functional_call`` loses parameters of a module with two names, such as
    a shared features extractor.
    """
    for name, value in _tensors(policy).items():
        value.copy_(state[name])


def _map(obs: Observations, function: Callable[[Tensor], Tensor]) -> Observations:
    if isinstance(obs, dict):
        return {key: function(value) for key, value in obs.items()}
    return function(obs)


def _cat(parts: list[Any]) -> Observations:
    if isinstance(parts[0], dict):
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    return torch.cat(parts)
