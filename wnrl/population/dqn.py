"""Deep Q-learning (Mnih et al., 2015, doi:10.1038/nature14236) of many members at once, as SB3's.

Members differ in seed, learning rate, discount and exploration. A target network follows the
learning one; each member has a replay buffer, on the device.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor

from wnrl.population.cohort import ACTIONS, EXPLORATION, OBSERVED, ORDERS, Cohort
from wnrl.population.config import DQNConfig
from wnrl.population.losses import HuberLoss, Targets
from wnrl.population.memory import bytes_of_dqn
from wnrl.population.networks import QNetwork
from wnrl.population.optim import without_denormals
from wnrl.population.random import Number, fork, integers
from wnrl.population.rollout import Ended, Running, pick
from wnrl.population.rows import initialise
from wnrl.population.states import Agents, clone, copy_, part
from wnrl.tensor_envs.core import Episodes, advance

VECTOR = "running_u_"
"""How the names of spectral norm's vectors begin."""
BRIGHTEST = 255
"""Of a byte: what a number 1 in a picture is kept as, since SB3 takes pictures in bytes."""


class Choices(NamedTuple):
    """What is random in the steps of an iteration."""

    at_random: Tensor
    """Whether a member acts at random, ``(T, P)`` bool."""
    actions: Tensor
    """What it does then, ``(T, P, N)`` int64."""
    steps: Tensor
    """For the environments, uniform in the open (0, 1), ``(T, P, N, step_draws + reset_draws)``."""


Places = Tensor
"""What an update learns from, ``(P, updates, batch_size)``: row · N + environment in the buffer."""


class Transitions(NamedTuple):
    """Steps of environments, ``(P, B, ...)``."""

    obs: Tensor
    actions: Tensor
    rewards: Tensor
    next_obs: Tensor
    """What was seen behind the step, before a reset."""
    terminated: Tensor
    """Whether the episode ended with the step, other than by a time limit."""


class DQN(Cohort):
    """A cohort that learns by deep Q-learning; arguments as ``Cohort`` has them.

    Attributes:
        target: parameters and running statistics of the target networks.
        replay: what was seen, ``(P, rows, N, ...)``.
    """

    member = DQNConfig.of
    kind = QNetwork
    bytes_of = staticmethod(bytes_of_dqn)
    measured_width = 256
    config: DQNConfig

    def start(self, episodes: Episodes) -> None:
        """Begin training with these episodes, ``(P, n_envs)``, copies of them."""
        super().start(episodes)
        self.target = clone((self.params, self.buffers))
        shape = len(self.params), self.config.rows, self.config.n_envs
        inputs, zeros = self.env.observation_space.shape, partial(self.params.new_zeros, shape)
        # Pictures, with numbers from 0 to 1, are kept in bytes.
        dtype = torch.uint8 if len(inputs) == 3 else self.params.dtype
        obs, after = (self.params.new_zeros(*shape, *inputs, dtype=dtype) for _ in range(2))
        actions, ended = zeros(dtype=torch.int64), zeros(dtype=torch.bool)
        self.replay = Transitions(obs, actions, zeros(), after, ended)
        self._explored = self._graphed(self._explore)
        self._learned = self._graphed(self._learn)

    def observed(self, index: int) -> Tensor:
        """Return what the replay buffer has last, as the network saw it, ``(R, *shape)``."""
        steps = self.iteration * self.config.steps
        n_rows = min(steps, self.config.rows, -(-OBSERVED // self.config.n_envs))
        rows = torch.arange(steps - n_rows, steps, device=self.params.device) % self.config.rows
        last = self.replay.obs[index, rows].flatten(0, 1)[:OBSERVED]
        return as_seen(last, self.params.dtype)

    @torch.no_grad()
    @without_denormals()
    def iterate(self, draws: tuple[Choices, Any] | None = None) -> Ended:
        """Take ``train_freq`` steps and, once learning has begun, update the networks.

        Args:
            draws: the random numbers, with ``Places`` once learning has begun; None makes them.

        Returns:
            The episodes that ended.
        """
        iteration, config = self.iteration, self.config
        choices, places = draws or (self._choices(iteration), self._places(iteration))
        ended: Ended = self._explored(iteration, *choices)
        if share := config.target_share(iteration):
            self.target[0].lerp_(self.params, share)
            self.target[1].copy_(self.buffers)
        self.iteration += 1
        if iteration < config.first_update:
            return ended
        if config.data_init is not None and iteration == config.first_update:
            self._initialise(places, config.data_init)
        self._learned(iteration, self._left(self.steps), places)
        return ended

    def _choices(self, iteration: int) -> Choices:
        """Return what is random in the steps of an iteration, which is counted from zero."""
        config, actions = self.config, self.env.action_space
        assert isinstance(actions, spaces.Discrete)
        n, streams = config.samples, fork(self.keys, ACTIONS)
        chosen = integers(streams, iteration * n, n, int(actions.n))
        u = self._uniform(EXPLORATION, iteration, 1)[:, :, 0, 0]
        return Choices(
            u < self.exploration_rate(iteration),
            chosen.view(-1, config.steps, config.n_envs).transpose(0, 1),
            self._step_draws(iteration),
        )

    def _places(self, iteration: int) -> Places:
        """Return what the update of an iteration learns from."""
        config = self.config
        n_rows = min((iteration + 1) * config.steps, config.rows)
        shape = config.updates, config.batch_size
        n, streams = shape[0] * shape[1], fork(self.keys, ORDERS)
        return integers(streams, iteration * n, n, n_rows * config.n_envs).unflatten(1, shape)

    def exploration_rate(self, iteration: int) -> Tensor:
        """Return the rate of random actions at each step of an iteration, ``(T, P)``."""
        config, each = self.config, self.per_member
        steps = torch.arange(config.steps, device=self.params.device)
        before = (steps + iteration * config.steps)[:, None] * config.n_envs
        done = (before / config.total_timesteps).to(self.params)
        first, last = each["exploration_initial_eps"], each["exploration_final_eps"]
        falling = first + done / each["exploration_fraction"] * (last - first)
        share = torch.where(done > each["exploration_fraction"], last, falling)
        # SB3 knows no rate before the first step, and takes none.
        return share.masked_fill(before == 0, 0.0).masked_fill(before < config.learning_starts, 1.0)

    def _explore(
        self, iteration: Number, at_random: Tensor, actions: Tensor, steps: Tensor
    ) -> Ended:
        """Take the steps of an iteration with ``Choices``, and store them.

        As in SB3, all environments of a member act at random in a step, or none.
        """
        act = self.networks.act(self.params, self.buffers)
        episodes, rewards_so_far, memory = self.running
        columns: list[tuple[Tensor, ...]] = []
        for by_chance, chosen, u in zip(at_random, actions, steps, strict=True):
            obs, lengths = episodes.obs, episodes.steps + 1
            best = act(obs, memory)[0].argmax(-1)
            taken = torch.where(by_chance[:, None], chosen, best)
            episodes, step = advance(self.env, episodes, taken, u)
            ended, total = step.terminated | step.truncated, rewards_so_far + step.rewards
            columns.append((obs, taken, step.rewards, step.final_obs, step.terminated,
                            total.where(ended, torch.nan), lengths.where(ended, 0)))  # fmt: skip
            rewards_so_far = total.masked_fill(ended, 0.0)
        *seen, returns, lengths = (torch.stack(column, 1) for column in zip(*columns, strict=True))
        copy_(self.running, Running(episodes, rewards_so_far, memory))
        store_(self.replay, Transitions(*seen), iteration * self.config.steps)
        return Ended(returns.transpose(1, 2), lengths.transpose(1, 2))

    def _initialise(self, places: Places, count: int) -> None:
        """Initialise hidden layers on what was seen next in the first minibatch, and the targets.

        These are the first observations that a network of SB3's sees in its first update.
        """
        obs = transitions_at(self.replay, places[:, 0, :count]).next_obs
        initialise(self.plan, self.params, self.buffers, obs, count, "first training batch")
        copy_(self.target, (self.params, self.buffers))

    def _learn(self, iteration: Number, left: Number, places: Places) -> None:
        """Update the networks, in place. No number in Python changes from one to the next.

        Args:
            iteration: how many were before it.
            left: the share of training that is left behind it.
            places: what is learned from.
        """
        config, shape, loss = self.config, places.shape[1:], HuberLoss()
        # A target of spectral norm has vectors of its own, which take a step at each forward.
        moves = any(VECTOR in name for name in self.plan.buffers)
        whole = self.params, self.buffers, self.target, self.optimizer_state, self._rates(left)
        given = self.replay, places.flatten(1), self.per_member["gamma"][:, None]
        for members in self._chunks():
            params, buffers, target, state, rate = part(whole, members)
            replay, rows, gamma = part(given, members)
            seen = transitions_at(replay, rows)
            grads = torch.zeros_like(params)
            gradient_ = self.networks.learner(params, buffers, grads, loss)
            values = self.networks.outputs(target[0], target[1], training=moves)
            t = (iteration - config.first_update) * config.updates
            batches = zip(*(value.unflatten(1, shape).unbind(1) for value in seen), strict=True)
            for batch in map(Transitions._make, batches):
                t += 1
                following = values(batch.next_obs)[:, 0].amax(-1).masked_fill(batch.terminated, 0.0)
                targets = Targets(batch.obs, batch.actions, batch.rewards + gamma * following)
                gradient_(self.networks.laid_out(targets))
                self._update_(params, grads, state, t, rate)

    def _networks_of(self, index: int, agents: Agents) -> dict[str, Tensor]:
        """Return the state of both networks of one member.

        Of other agents than the present ones, the target network is a copy.
        """
        target = self.target if agents.params is self.params else agents[:2]
        ours, theirs = (self.plan.state(p, b, index) for p, b in (agents[:2], target))
        state = {f"q_net.{name}": value for name, value in ours.items()}
        state |= {f"q_net_target.{name}": value for name, value in theirs.items()}
        for name, value in theirs.items():
            place, vector, weight = name.rpartition(f".{VECTOR}")
            if vector:
                state[f"q_net_target_vectors.u_{place.replace('.', '_')}_{weight}"] = value
        return state

    def _kept(self) -> dict[str, Any]:
        """Return the tensors that training goes on from."""
        return {**super()._kept(), "target": [*self.target], "replay": self.replay._asdict()}


def store_(replay: Transitions, steps: Transitions, start: Number) -> None:
    """Write T steps over the oldest rows of a replay buffer.

    Args:
        replay: ``(P, n_rows, N, ...)``.
        steps: ``(P, T, N, ...)``, of no more than ``n_rows``.
        start: how many steps were stored before.
    """
    n_rows, n_steps = replay.rewards.shape[1], steps.rewards.shape[1]
    rows = (torch.arange(n_steps, device=replay.rewards.device) + start) % n_rows
    for place, values in zip(replay, steps, strict=True):
        if place.dtype == torch.uint8:
            values = values.mul(BRIGHTEST).round_().to(place.dtype)
        place.index_copy_(1, rows, values)


def transitions_at(replay: Transitions, places: Tensor) -> Transitions:
    """Return the transitions at ``places`` ``(P, B)``, counted row by row, ``(P, B, ...)``."""
    seen = Transitions(*(pick(values.flatten(1, 2), places) for values in replay))
    obs, after = (as_seen(values, seen.rewards.dtype) for values in (seen.obs, seen.next_obs))
    return seen._replace(obs=obs, next_obs=after)


def as_seen(kept: Tensor, dtype: torch.dtype) -> Tensor:
    """Return observations that a replay buffer keeps as networks see them."""
    return kept.to(dtype) / BRIGHTEST if kept.dtype == torch.uint8 else kept
