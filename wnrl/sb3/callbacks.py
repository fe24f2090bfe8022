"""Callbacks for SB3's ``learn``: to stop at a NaN, and to log how a policy's networks fare."""

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import torch
from sb3_contrib import TRPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import DISABLED, HumanOutputFormat, KVWriter, Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor

from wnrl import tags
from wnrl.diagnostics import Step, curvature, first_step, preserve_state, recorded, to_floats
from wnrl.diagnostics.weights import effective_weights, relative_change, weight_lengths
from wnrl.errors import NonFiniteError, UsageError, check_positive
from wnrl.sb3 import probe
from wnrl.sb3.common import find_optimizers
from wnrl.sb3.parts import trained_parts

EVERY = 2_000
"""Environment steps between measurements; what they cost: scripts/bench/diagnostics.py."""
ROWS = 512
"""Observations that dormant units and ranks are counted on."""


def check_finite(model: BaseAlgorithm, parameters: bool = True) -> None:
    """Check the last logged loss and every parameter of ``model``, with one synchronisation.

    Args:
        model: the agent.
        parameters: whether to look at them, or at the loss alone.

    Raises:
        NonFiniteError: one of them is NaN or infinite; the message names it.
    """
    loss = model.logger.name_to_value.get(tags.TRAIN_LOSS)
    broken = [] if loss is None or math.isfinite(loss) else [f"{tags.TRAIN_LOSS} ({loss})"]
    if parameters:
        named = dict(model.policy.named_parameters())
        finite = torch.stack([p.detach().isfinite().all() for p in named.values()]).tolist()
        broken += [name for name, fine in zip(named, finite, strict=True) if not fine]
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise NonFiniteError(
            f"not finite after {model.num_timesteps} steps: {', '.join(broken[:3])}{more}"
        )


class StopAtNonFinite(BaseCallback):
    """Raises NonFiniteError after an update in which a loss or a parameter became NaN.

    The loss that is logged is looked at after each update. A parameter that broke stays broken, and
    looking at all of them costs about as much as acting once: that is done before the first
    rollout, then at most once in ``every`` environment steps, and after the last update.
    """

    every = 1_000
    """Environment steps between looks at the parameters."""

    def _on_training_start(self) -> None:
        self._due = self.num_timesteps

    def _on_rollout_start(self) -> None:
        due = self.num_timesteps >= self._due
        if due:
            self._due = self.num_timesteps + self.every
        check_finite(self.model, parameters=due)

    def _on_training_end(self) -> None:
        check_finite(self.model)

    def _on_step(self) -> bool:
        return True


class Diagnostics(BaseCallback):
    """Logs what tells a network that learns from one that has stopped, for every algorithm of SB3.

    It looks at a run's first update, and at the first one at or after each multiple of ``every``
    environment steps, so that runs that differ in their norm or seed have their points at the same
    steps. Training goes on as without it, bit for bit: random generators, running statistics, modes
    and gradients stay.

    The layers are those that are trained, targets left out. How to read the curves:

    ``norm/g/<weight>``, ``norm/v/<weight>``
        Mean length g and mean ‖v‖ of a weight-normalized weight over its units, before the update.
        Growing ‖v‖ makes the same steps turn v less. Under plain gradient descent it can only grow.
    ``update_effective_lr/<weight>``
        ‖Δw‖/‖w‖ of the weight as applied, over *one optimizer step*, its first one from the update
        on (TRPO, which moves its policy without an optimizer: over the whole update). A layer far
        below the others has stopped learning; a rate that falls while the schedule is flat comes
        from growing weights.
    ``update_grad_norm/<layer>``
        The length of the gradient at that step, before clipping, of all parameters of the layer
        (v, g and bias; so it compares a norm with itself, not with another). Towards zero in the
        first layers: vanishing gradients. Many times ``max_grad_norm``: clipping decides the step.
        TRPO has it for the critic alone.
    ``units_dormant/<layer>``, ``units_dead/<layer>``
        The share of units with mean|a_i| / mean_i(mean|a_i|) ≤ 0.025, and ≤ 0, of the output of
        each nonlinearity and LSTM, on at most 512 observations of the rollout or replay buffer, in
        evaluation mode. A share that grows and stays: capacity that is lost. Units of tanh are
        never dead; they saturate instead.
    ``units_rank/<head>``
        How many singular values make up 99 % of the features that enter an output layer, on the
        same observations. A collapse often comes before the return's.
    ``norm/pre_update_kl``, ``norm/pre_update_clip_fraction``
        On-policy algorithms; the second for those that clip. How far the policy that learns, in
        training mode, is from the one that acted, before any gradient step: SB3's ``approx_kl``
        and ``clip_fraction`` on the first minibatch. Zero for a norm that treats examples alone;
        with batch norm, what the statistics of the batch cost.
    ``update_curvature/largest``, ``…/smallest``, ``…/condition``, ``…/condition_error``
        With ``curvature=True``: of the Hessian of the loss on the update's first minibatch; see
        ``wnrl.diagnostics.Curvature``. Gradient descent at rates above 2/largest is unstable; the
        last is the relative standard error of the condition. PPO, MaskablePPO, RecurrentPPO, A2C
        and DQN have it; it costs about as much as twenty gradient steps.

    It writes rows of its own to TensorBoard, CSV and the like, and nothing to the console.

    Args:
        every: environment steps, above zero.
        curvature: whether to log curvature.

    Raises:
        UsageError: ``every`` is no whole number above zero; when training begins: the algorithm has
            no rollouts, or no loss for ``curvature``.
    """

    def __init__(self, every: int = EVERY, curvature: bool = False) -> None:
        super().__init__()
        check_positive(every=every)
        self.every, self.curvature = every, curvature
        self._last = -1  # environment steps at the latest update
        self._step = 0  # and at the one that is looked at
        self._scope = ExitStack()  # of the hooks that see its first steps
        self._forget()

    def _forget(self) -> None:
        self._scope.close()
        self._steps: list[Step] = []
        self._scalars: dict[str, Tensor] = {}
        self._numbers: dict[str, float] = {}
        self._before: dict[str, Tensor] | None = None

    def _init_callback(self) -> None:
        name = type(self.model).__name__
        if not isinstance(self.model, probe.Algorithm):
            raise UsageError(f"Diagnostics needs an on- or off-policy algorithm of SB3, got {name}")
        if self.curvature and probe.loss_of(self.model) is None:
            known = ", ".join(kind.__name__ for kind in probe.LOSSES)
            raise UsageError(f"curvature needs one of {known}, got {name}")

    def _on_training_start(self) -> None:
        self._forget()  # what an interrupted run may have left
        # Without an update yet, the first one is still to be looked at.
        self._last = (self.model._n_updates and self.model.num_timesteps) or -1

    def _on_rollout_end(self) -> None:
        now = self.model.num_timesteps
        if isinstance(self.model, OffPolicyAlgorithm) and now <= self.model.learning_starts:
            return  # no update follows
        last, self._last = self._last, now
        if now // self.every > last // self.every:
            self._measure()

    def _measure(self) -> None:
        self._finish()
        model: Any = self.model
        trained = trained_parts(model.policy)
        with preserve_state(model.policy):
            draw = probe.drawer(model)
            first, some = draw(probe.update_rows(model)), draw(ROWS)
            with torch.no_grad():
                self._scalars = weight_lengths(trained) | activations(model, some)
                if isinstance(model, OnPolicyAlgorithm):
                    with preserve_state(model.policy):  # the update begins with its statistics
                        self._scalars |= pre_update(model, first)
            if self.curvature:
                self._numbers = curvatures(model, first)
        self._step = model.num_timesteps
        self._before = effective_weights(trained) if isinstance(model, TRPO) else None
        self._steps = [
            self._scope.enter_context(first_step(trained, optimizer))
            for _, optimizer in find_optimizers(model.policy)
        ]

    def _on_rollout_start(self) -> None:
        # An actor with `policy_delay` may learn in one of the next updates only.
        if all(step.done for step in self._steps):
            self._finish()

    def _on_training_end(self) -> None:
        self._finish()

    def _on_step(self) -> bool:
        return True

    def _finish(self) -> None:
        """Takes up what the update did, and writes the row."""
        if not self._steps:
            return
        for step in self._steps:
            self._scalars |= tagged(tags.GRADIENT_NORM, step.gradient_norms)
            self._scalars |= tagged(tags.EFFECTIVE_LR, step.relative_change)
        if self._before is not None:
            now = effective_weights(trained_parts(self.model.policy))
            self._scalars |= tagged(tags.EFFECTIVE_LR, relative_change(self._before, now))
        write(self.logger, {**to_floats(self._scalars), **self._numbers}, self._step)
        self._forget()


def pre_update(model: OnPolicyAlgorithm, data: Any) -> dict[str, Tensor]:
    """How far the policy in training mode is from the one that acted (Schulman's estimate)."""
    probe.set_mode(model, True)
    _, log_probs, _ = probe.evaluate(model, data)
    log_ratio = log_probs - probe.real(data, data.old_log_prob)
    found = {tags.PRE_UPDATE_KL: (log_ratio.expm1() - log_ratio).mean()}
    if (clip_range := getattr(model, "clip_range", None)) is not None:
        limit = clip_range(1 - model.num_timesteps / model._total_timesteps)
        outside = log_ratio.expm1().abs() > limit
        found[tags.PRE_UPDATE_CLIP_FRACTION] = outside.to(log_ratio.dtype).mean()
    return found


def activations(model: probe.Algorithm, data: Any) -> dict[str, Tensor]:
    """Dormant shares and ranks of a policy in evaluation mode."""
    with recorded(trained_parts(model.policy), probe.heads(model.policy)) as seen:
        probe.forward(model, data)
    return seen.measures(lambda values: probe.real(data, values))


def curvatures(model: probe.Algorithm, data: Any) -> dict[str, float]:
    """What bends the loss of an update, in training mode."""
    loss = probe.loss_of(model)
    assert loss is not None
    probe.set_mode(model, True)
    found = curvature(lambda: loss(model, data), trained_parts(model.policy).parameters())
    return tagged(tags.CURVATURE, asdict(found))


def tagged(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values under tags that begin with ``prefix``."""
    return {f"{prefix}/{name}": value for name, value in values.items()}


def write(logger: Logger, values: dict[str, float], step: int) -> None:
    """Writes a row to all outputs of ``logger`` but the console's, ahead of what it has collected.

    SB3's tables on the console shorten names, and stop the program where two become the same.
    """
    if logger.level == DISABLED:
        return
    for output in logger.output_formats:
        if isinstance(output, KVWriter) and not isinstance(output, HumanOutputFormat):
            output.write(dict(values), dict.fromkeys(values, ("",)), step)
