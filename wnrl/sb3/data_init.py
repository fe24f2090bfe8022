"""Data-dependent initialisation of a policy: once, on observations as the agent sees them.

``wnrl.data_init`` on the first observations that are learnt from (Salimans & Kingma 2016,
arXiv:1602.07868, eq. 5 and 6), before the first gradient step. Where they come from depends on the
algorithm:

- off-policy (``FirstBatch``): from the first training batch, before any network has used it, so
  that the first targets are those of the initialised networks;
- on-policy (``FirstRollout``): from the first rollout, of which they are drawn at random, since the
  first steps of episodes are alike, before the first update. The rollout was
  acted by the networks as they were: the stored log-probabilities are theirs. The change is
  subtracted during the first update, so that the importance ratio starts at 1. TRPO takes the
  log-probabilities from elsewhere and corrects with the ratio to the policy that acted, which is as
  right.

Where there are fewer observations than asked for, these are used and a warning says so: a batch of
a replay buffer has ``batch_size``. Critics of (s, a) see uniform actions, as the buffer has them at
first. Output heads are left alone, since their gain was chosen, and so are layers that were frozen
(``requires_grad_(False)``). Networks that were trained before, by imitation say, are left as they
are, with a warning. Parameters are written in place, so that optimizers keep them, and
targets are loaded again. A buffer of the policy, ``data_initialised``, says that it is done; it is
saved with the policy, and nothing is repeated after loading.
"""

import copy
import warnings
from abc import abstractmethod
from functools import partial
from random import Random
from typing import Any, ClassVar

import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from torch import Tensor, nn

from wnrl.errors import UsageError
from wnrl.nn import DataInitReport, data_init
from wnrl.nn.sites import n_spatial
from wnrl.sb3.parts import Observations, Part, Stepped, cat_obs, is_target, map_obs, trained_parts


def n_rows(obs: Observations) -> int:
    """Return the number of observations, B of ``(B, ...)``."""
    return len(next(iter(obs.values())) if isinstance(obs, dict) else obs)


class FirstBatch(Stepped, BasePolicy):
    """Mixin: initialises at the first forward of a network in an update, on what it is given.

    Attributes:
        data_init_report: what ``wnrl.data_init`` did, once it was done in this process.
    """

    source: ClassVar[str] = "the first training batch"
    """What the observations come from, for messages."""
    _pending = False
    _updating = False

    def expect_data(self) -> None:
        """Prepare the initialisation, if one was asked for.

        Raises:
            UsageError: ``data_init`` is no integer of at least 2, or there is no hidden layer.
        """
        count = self.data_init
        if count is None:
            return
        if count < 2:
            raise UsageError(f"data_init must be at least 2, or None; got {count}")
        if not self._hidden_layers():
            raise UsageError(
                f"data_init={count} has no hidden layer to initialise in {type(self).__name__}: "
                "recurrent layers and output heads keep their initialisation"
            )
        self._pending = True
        self.register_buffer("data_initialised", torch.tensor(False))
        for part in self.modules():
            if isinstance(part, Part):
                part.policy = (self,)

    def set_training_mode(self, mode: bool) -> None:
        """As SB3's, which calls it before each rollout and before each update."""
        super().set_training_mode(mode)
        self._updating = mode
        self._pending = self._pending and not bool(self.data_initialised)

    def see_batch(self, obs: Observations) -> None:
        """Initialise on ``obs``, ``(B, ...)`` as SB3 has them, if they are the first batch."""
        if self._pending and self._updating:
            self.initialise(obs)

    def initialise(self, obs: Observations) -> None:
        """Initialise the hidden layers and the targets on observations ``(B, ...)``."""
        obs = preprocess_obs(obs, self.observation_space, self.normalize_images)
        available = n_rows(obs)
        if available < 2:
            raise UsageError(f"data_init needs two observations, {self.source} has {available}")
        if available < (count := self.data_init):
            warnings.warn(
                f"data_init={count}, but {self.source} has {available} observations: "
                "initialised on those",
                stacklevel=2,
            )
        self._pending = False
        self.data_init_report = report = self._init_hidden(map_obs(obs, lambda x: x[:count]))
        self.get_buffer("data_initialised").fill_(True)
        if report.skipped:
            layers = "; ".join(f"{name}: {reason}" for name, reason in report.skipped.items())
            warnings.warn(f"data_init left layers as they were: {layers}", stacklevel=2)

    def after_step(self) -> None:
        """As every module's; what was trained before is not initialised any more."""
        super().after_step()
        self.trained_before()

    def trained_before(self) -> None:
        """Warn at a gradient step ahead of the initialisation, which would undo it, and cancel."""
        if self._pending:
            self._pending = False
            self.get_buffer("data_initialised").fill_(True)  # for those who load it
            warnings.warn(
                f"data_init={self.data_init} is left out: the networks were trained before "
                f"{self.source} was seen",
                stacklevel=2,
            )

    @abstractmethod
    def _run_hidden(self, obs: Observations) -> None:
        """Run the hidden layers that are trained, each once, on preprocessed observations.

        ``data_init`` sets the layers that this reaches.
        """

    def _hidden_layers(self) -> list[str]:
        """Return the names of the layers that ``data_init`` is for."""
        parts = trained_parts(self).named_modules()
        return [name for name, p in parts if n_spatial(p) is not None and p not in self._heads]

    def _init_hidden(self, obs: Observations) -> DataInitReport:
        """Initialise what ``_run_hidden`` reaches, on preprocessed observations, and targets."""
        trained: Any = trained_parts(self)
        trained.forward = self._run_hidden
        skip = [name for name, part in trained.named_modules() if part in self._heads]
        report = data_init(trained, obs, skip=skip)
        for name, target in self.named_children():
            if is_target(name):
                target.load_state_dict(getattr(self, name.removesuffix("_target")).state_dict())
        return report


class FirstRollout(FirstBatch):
    """Mixin: collects what the policy acts on, and initialises when the first update begins."""

    source = "the first rollout"
    _before_and_after: tuple[dict[str, Tensor], ...] = ()
    """In the first update: the state of the policy that acted, and that of what it was made."""

    def expect_data(self) -> None:
        """As ``FirstBatch``'s."""
        super().expect_data()
        # Of its own, so that no other draw changes.
        self._seen: list[Observations] = []
        self._n_seen, self._random = 0, Random(0)

    def see_action(self, obs: Observations) -> None:
        """Take observations ``(N, ...)`` as the policy acts on them.

        So many of them are kept as were asked for, each of the rollout with the same probability
        (Vitter, 1985, algorithm R).
        """
        if not self._pending:
            return
        for row in range(n_rows(obs)):
            place = self._n_seen
            if place >= self.data_init:
                place = self._random.randrange(self._n_seen + 1)
            if place < self.data_init:
                copied = partial(torch.narrow_copy, dim=0, start=row, length=1)
                self._seen[place : place + 1] = [map_obs(obs, copied)]
            self._n_seen += 1

    def set_training_mode(self, mode: bool) -> None:
        """As SB3's; initialises at the first update. The one after it learns from other data."""
        super().set_training_mode(mode)
        self._before_and_after = ()
        if self._pending and mode and self._seen:
            seen, self._seen = cat_obs(self._seen), []
            acted = copy.deepcopy(self.state_dict())
            self.initialise(seen)
            self._before_and_after = (acted, copy.deepcopy(self.state_dict()))

    def log_prob_change(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the initialisation took from the log-probabilities of ``_evaluate``.

        It is zero but in the first update.
        """
        if not self._before_and_after:
            return 0.0
        mode, current = self.training, copy.deepcopy(self.state_dict())
        self.train(False)
        log_probs = []
        try:
            for state in self._before_and_after:
                # Not functional_call, which loses a shared extractor's second name.
                nn.Module.load_state_dict(self, state)
                with torch.no_grad():
                    log_probs.append(self._evaluate(*args, **kwargs)[1])
        finally:
            nn.Module.load_state_dict(self, current)
            self.train(mode)
        return log_probs[0] - log_probs[1]
