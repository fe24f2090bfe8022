"""What a diagnosis needs of SB3's algorithms: their data, their forwards and their losses.

The data is what the coming update will learn from; drawing it leaves the buffers as they are, but
not NumPy's random generator.
"""

import copy
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from gymnasium import spaces
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor, nn
from torch.nn import functional as F

from wnrl.sb3.conversion import output_layers
from wnrl.sb3.parts import trained_parts

Algorithm = OnPolicyAlgorithm | OffPolicyAlgorithm
HEADS = re.compile(r"action_net|value_net|(q_net|quantile_net)\.\1|actor\.mu|critic\.qf\d+")
"""Parts of SB3's policies that end in an output layer."""


def heads(policy: nn.Module) -> list[str]:
    """The names of the output layers of a policy of SB3."""
    return output_layers(policy, [n for n, _ in policy.named_modules() if HEADS.fullmatch(n)])


def drawer(model: Algorithm) -> Callable[[int | None], Any]:
    """A function that draws a batch of so many rows, at most, of what ``model`` learns from.

    That is the rollout that has just been collected (None: all of it), or the replay buffer. The
    first batch of ``update_rows(model)`` is the first minibatch of the coming update, if nothing
    else draws from NumPy's generator.
    """
    if isinstance(model, OffPolicyAlgorithm):
        replay: Any = model.replay_buffer
        return lambda rows: replay.sample(rows, env=model._vec_normalize_env)
    rollout: Any = copy.copy(model.rollout_buffer)  # `get` reshapes a buffer's arrays for good
    if isinstance(rollout.observations, dict):
        rollout.observations = dict(rollout.observations)
    return lambda rows: next(iter(rollout.get(rows)))


def update_rows(model: Algorithm) -> int | None:
    """The size of the minibatches of the coming update, None for the whole rollout."""
    whole = isinstance(model, OnPolicyAlgorithm) and not hasattr(model, "clip_range")
    return None if whole else model.batch_size  # type: ignore[union-attr]


def set_mode(model: Algorithm, training: bool) -> None:
    """Sets the mode of the policy and of what it trains; targets stay in evaluation.

    SB3's ``set_training_mode`` does so too, but it says that an update or a rollout begins: with
    it, a policy of ours would initialise itself.
    """
    model.policy.training = training
    trained_parts(model.policy).train(training)


def evaluate(model: OnPolicyAlgorithm, data: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    """Values ``(B,)``, log-probabilities ``(B,)`` and entropy of the actions in ``data``.

    Rows that only pad sequences are left out.
    """
    actions = data.actions
    if isinstance(model.action_space, spaces.Discrete):
        actions = actions.long().flatten()
    # RecurrentPPO and MaskablePPO have more of them than observations and actions.
    names = ("lstm_states", "episode_starts", "action_masks")
    further = {name: getattr(data, name) for name in names if hasattr(data, name)}
    values, log_probs, entropy = model.policy.evaluate_actions(
        data.observations, actions, **further
    )
    entropy = None if entropy is None else real(data, entropy)
    return real(data, values).flatten(), real(data, log_probs), entropy


def real(data: Any, column: Any) -> Any:
    """Return the rows of ``column`` that pad no sequences; all where there are none, or others."""
    rows = getattr(data, "mask", None)
    return column if rows is None or len(rows) != len(column) else column[rows > 1e-8]


def forward(model: Algorithm, data: Any) -> None:
    """Runs actor and critic on ``data`` in evaluation mode, for hooks to see."""
    set_mode(model, False)
    if isinstance(model, OnPolicyAlgorithm):
        evaluate(model, data)
        return
    model.policy._predict(data.observations, deterministic=True)
    if isinstance(critic := getattr(model.policy, "critic", None), nn.Module):
        critic(data.observations, data.actions)


def actor_critic_loss(model: Any, data: Any, gain: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the loss of an algorithm with ``gain`` of the log-ratio to the policy that acted."""
    values, log_probs, entropy = evaluate(model, data)
    columns = (data.old_log_prob, data.advantages, data.returns)
    old_log_probs, advantages, returns = (real(data, column) for column in columns)
    if model.normalize_advantage and len(advantages) > 1:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    policy_loss = -(advantages * gain(log_probs - old_log_probs)).mean()
    entropy_loss = log_probs.mean() if entropy is None else -entropy.mean()
    value_loss = F.mse_loss(values, returns)
    return policy_loss + model.ent_coef * entropy_loss + model.vf_coef * value_loss


def dqn_loss(model: Any, data: Any) -> Tensor:
    """DQN's temporal-difference loss."""
    with torch.no_grad():
        best = model.q_net_target(data.next_observations).amax(dim=1, keepdim=True)
        targets = data.rewards + (1 - data.dones) * _discounts(model, data) * best
    values = model.q_net(data.observations).gather(1, data.actions.long())
    return F.smooth_l1_loss(values, targets)


def _discounts(model: Any, data: Any) -> Any:
    return model.gamma if data.discounts is None else data.discounts


ppo_loss = partial(actor_critic_loss, gain=torch.exp)
"""PPO's loss less its clipping, which leaves the derivatives alone where the ratio is 1."""
LOSSES: dict[type[Algorithm], Callable[[Any, Any], Tensor]] = {
    PPO: ppo_loss,
    MaskablePPO: ppo_loss,
    RecurrentPPO: ppo_loss,
    A2C: partial(actor_critic_loss, gain=lambda log_ratio: log_ratio),
    DQN: dqn_loss,
}
"""The loss of each algorithm that has one, of one network, without sampling: for its curvature."""


def loss_of(model: Algorithm) -> Callable[[Any, Any], Tensor] | None:
    """The row of ``LOSSES`` for ``model``, None if there is none."""
    return next((LOSSES[kind] for kind in type(model).__mro__ if kind in LOSSES), None)
