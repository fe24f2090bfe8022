"""Proximal policy optimisation (Schulman et al., 2017, arXiv:1707.06347) of many members at once.

The algorithm is SB3's, with its names and its order; members differ in seed, learning rate, clip
range, entropy bonus, discount and trace.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wnrl.population.cohort import ACTIONS, INIT, OBSERVED, ORDERS, Cohort
from wnrl.population.config import PPOConfig
from wnrl.population.losses import PPOLoss
from wnrl.population.memory import bytes_of_ppo
from wnrl.population.networks import ActorCritic
from wnrl.population.optim import without_denormals
from wnrl.population.random import Number, fork, permutation
from wnrl.population.rollout import Act, Batch, Draws, Ended, Past, Running, minibatches, pick
from wnrl.population.rows import initialise
from wnrl.population.states import copy_, part
from wnrl.tensor_envs.core import Episodes, advance, beside


class PPO(Cohort):
    """A cohort that learns by PPO; arguments as ``Cohort`` has them."""

    member = PPOConfig.of
    kind = ActorCritic
    bytes_of = staticmethod(bytes_of_ppo)
    measured_width = 64
    config: PPOConfig

    def start(self, episodes: Episodes) -> None:
        """Begin training with these episodes, ``(P, n_envs)``, copies of them."""
        super().start(episodes)
        rows = min(OBSERVED, self.config.samples)
        self._seen = self.params.new_zeros(len(episodes.obs), rows, episodes.obs.shape[-1])
        self._learned = self._graphed(self._learn)

    def observed(self, index: int) -> Tensor:
        """Return some observations of the last rollout, as networks saw them, ``(R, n_inputs)``."""
        return self._seen[index]

    def _draws(self, iteration: Number) -> Draws:
        """Return the random numbers of an iteration, which is counted from zero."""
        actions = self._uniform(ACTIONS, iteration, self.distribution.draws)
        return Draws(actions, self._step_draws(iteration), self._orders(iteration))

    def _orders(self, iteration: Number) -> Tensor | None:
        """Return the orders of the samples in an iteration, as ``Draws`` has them."""
        n, n_epochs = self.config.samples, self.config.n_epochs
        if self.config.minibatches == 1:
            return None
        streams, first = fork(self.keys, ORDERS), iteration * n_epochs
        return torch.stack([permutation(streams, (first + k) * n, n) for k in range(n_epochs)])

    def _minibatches(self, batch: Batch, past: Past, order: Tensor | None) -> Sequence[Any]:
        """Return the minibatches of an epoch, of the members that ``batch`` has."""
        pieces = [batch] if order is None else minibatches(batch, order, self.config.batch_size)
        return [self._standardised(piece) for piece in pieces]

    def _standardised(self, batch: Batch) -> Batch:
        """Return a minibatch whose advantages have mean 0 and deviation 1, if they shall."""
        if not self.config.normalize_advantage:
            return batch
        advantages = batch.advantages - batch.advantages.mean(-1, keepdim=True)
        std = batch.advantages.std(-1, keepdim=True)
        return batch._replace(advantages=advantages / (std + 1e-8))

    @torch.no_grad()
    @without_denormals()
    def iterate(self, draws: Draws | None = None) -> Ended:
        """Make one rollout and the update that learns from it.

        Args:
            draws: the random numbers; None makes them.

        Returns:
            The episodes that ended in the rollout.
        """
        numbers = self.iteration, self._left((self.iteration + 1) * self.config.samples)
        ended = self._learned(*numbers) if draws is None else self._learn(*numbers, draws)
        self.iteration += 1
        return ended

    def _learn(self, iteration: Number, left: Number, draws: Draws | None = None) -> Ended:
        """Make one iteration, in place. No number in Python changes from one to the next.

        Args:
            iteration: how many were before it.
            left: the share of training that is left behind it.
            draws: as ``iterate`` has them.
        """
        config, each = self.config, self.per_member
        draws = draws or self._draws(iteration)
        samples, before, ended = self._rollout(draws)
        n_observed = self._seen.shape[1]
        self._seen.copy_(samples.obs[:, :: config.samples // n_observed][:, :n_observed])
        if config.data_init is not None and self.iteration == 0:
            samples = self._initialise(samples, before, config.data_init)
        clip_range, entropy = each["clip_range"], any(member.ent_coef for member in self.members)
        if config.clip_range_schedule == "linear":
            clip_range = clip_range * left
        losses = PPOLoss(self.distribution, clip_range, each["ent_coef"], entropy, config.vf_coef)
        whole = self.params, self.buffers, self.optimizer_state, self._rates(left), losses
        for members in self._chunks():
            params, buffers, state, rate, loss = part(whole, members)
            batch, past = part((samples, before), members)
            grads = torch.zeros_like(params)
            gradient_ = self.networks.learner(params, buffers, grads, loss)
            t = iteration * (config.n_epochs * config.minibatches)
            for epoch in range(config.n_epochs):
                if epoch == 0 or draws.orders is not None:
                    order = None if draws.orders is None else draws.orders[epoch, members]
                    pieces = self._minibatches(batch, past, order)
                    prepared = [self.networks.laid_out(piece) for piece in pieces]
                for minibatch in prepared:
                    t += 1
                    gradient_(minibatch)
                    self._update_(params, grads, state, t, rate)
        return ended

    def _rollout(self, draws: Draws) -> tuple[Batch, Past, Ended]:
        """Step all environments of all members T times; ``running`` and the statistics move.

        The value of the final observation is added to the reward where the time limit cut an
        episode, as SB3 does.
        """
        act, distribution = self.networks.act(self.params, self.buffers), self.distribution
        log_std = self.plan.log_std(self.params)[:, None]  # (P, 1, A)
        gamma, gae_lambda = self.per_member["gamma"], self.per_member["gae_lambda"]
        episodes, rewards_so_far, memory = self.running
        columns: list[tuple[Tensor, ...]] = []
        for u_actions, u_steps in zip(draws.actions, draws.steps, strict=True):
            obs = self.scaling.obs(self.statistics, episodes.obs)
            starts, before = episodes.steps == 0, memory
            head, values, memory = act(obs, before)
            actions = distribution.sample(head, log_std, u_actions)
            lengths = episodes.steps + 1
            episodes, step = advance(self.env, episodes, distribution.to_env(actions), u_steps)
            ended = step.terminated | step.truncated
            scaled = self.scaling.step_(self.statistics, episodes.obs, step, gamma)
            total = rewards_so_far + step.rewards
            columns.append((obs, actions, head, values, *scaled, ended, step.truncated,
                            total, lengths, starts, before, memory))  # fmt: skip
            rewards_so_far = total.masked_fill(ended, 0.0)
            memory = memory.masked_fill(beside(ended, memory), 0.0)
        whole = [torch.stack(column, 2) for column in zip(*columns, strict=True)]  # (P, N, T, ...)
        obs, actions, head, values, rewards, final_obs, ended, truncated, *others = whole
        totals, lengths, starts, before, after = others
        log_probs = distribution.log_prob(head, log_std[:, None], actions)
        limit = self.env.max_episode_steps
        at_limits = values_at_limits(act, final_obs, after, truncated, limit)
        rewards = rewards + gamma[:, None, None] * at_limits
        last_values = act(self.scaling.obs(self.statistics, episodes.obs), memory)[1]
        advantages = gae(rewards, values, last_values, ended, gamma, gae_lambda)
        samples = (obs, actions, log_probs, advantages, advantages + values)
        batch = Batch(*(value.flatten(1, 2) for value in samples))
        copy_(self.running, Running(episodes, rewards_so_far, memory))
        finished = Ended(totals.where(ended, torch.nan), lengths.where(ended, 0))
        return batch, Past(before.flatten(1, 2), starts.flatten(1, 2)), finished

    def _initialise(self, batch: Batch, past: Past, count: int) -> Batch:
        """Initialise hidden layers on some observations of the first rollout.

        The samples were acted by the networks as they were: their log-probabilities become those
        of the new ones, so that the ratio of the first update begins at 1.
        """
        chosen = permutation(fork(self.keys, INIT), 0, self.config.samples)[:, :count]
        obs = pick(batch.obs, chosen)
        initialise(self.plan, self.params, self.buffers, obs, count, "first rollout")
        head, *_ = self.networks.act(self.params, self.buffers)(batch.obs, past.memory)
        log_std = self.plan.log_std(self.params)[:, None]
        return batch._replace(log_probs=self.distribution.log_prob(head, log_std, batch.actions))


def values_at_limits(
    act: Act, final_obs: Tensor, memory: Tensor, truncated: Tensor, limit: int
) -> Tensor:
    """Return the values of final observations where the time limit cut an episode, else zero.

    In ``limit`` steps an environment is cut at most once: of so many final observations one is
    looked at, whichever it is, and no value has to be read to find out.

    Args:
        act: the networks as they act.
        final_obs: ``(P, N, T, D)``.
        memory: with which they are seen, ``(P, N, T, ...)``.
        truncated: ``(P, N, T)``, bool.
        limit: the least number of steps between two cuts.

    Returns:
        ``(P, N, T)``.
    """
    parts = []
    pieces = (value.split(limit, 2) for value in (final_obs, memory, truncated))
    for obs, remembered, cut in zip(*pieces, strict=True):
        where = cut.long().argmax(2, keepdim=True)
        seen, before = (
            torch.take_along_dim(x, beside(where, x), 2)[:, :, 0] for x in (obs, remembered)
        )
        parts.append(act(seen, before)[1][..., None].where(cut, 0.0))
    return torch.cat(parts, 2)


def gae(
    rewards: Tensor,
    values: Tensor,
    last_values: Tensor,
    ended: Tensor,
    gamma: Tensor,
    gae_lambda: Tensor,
) -> Tensor:
    """Return generalised advantage estimates (Schulman et al., 2016, arXiv:1506.02438, eq. 16).

    Args:
        rewards: ``(P, N, T)``.
        values: of the observations that were acted on, ``(P, N, T)``.
        last_values: of the observations behind the last step, ``(P, N)``.
        ended: whether the episode ended with the step, ``(P, N, T)``.
        gamma: ``(P,)``.
        gae_lambda: ``(P,)``.

    Returns:
        ``(P, N, T)``.
    """
    discount = torch.where(ended, 0.0, gamma[:, None, None])
    trace = discount * gae_lambda[:, None, None]
    next_values = torch.cat((values[..., 1:], last_values[..., None]), -1)
    deltas = rewards + discount * next_values - values
    advantages = torch.empty_like(deltas)
    advantage = torch.zeros_like(last_values)
    for t in reversed(range(deltas.shape[-1])):
        advantage = deltas[..., t] + trace[..., t] * advantage
        advantages[..., t] = advantage
    return advantages
