"""Proximal policy optimisation (Schulman et al., 2017, arXiv:1707.06347) of many members at once.

The algorithm is SB3's, with its names and its order; members differ in seed, learning rate, clip
range, entropy bonus, discount and trace. What a member learns does not depend on its companions: on
a CPU not in one bit.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from wnrl.diagnostics import recorded, to_floats, weight_lengths
from wnrl.errors import UsageError
from wnrl.graphs import Replayed
from wnrl.population.actor_critic import HEADS, ActorCritic, build, initialise
from wnrl.population.distributions import distribution
from wnrl.population.hot import HotNetworks
from wnrl.population.memory import bytes_of, check_memory
from wnrl.population.optim import clip_
from wnrl.population.ppo_config import PPOConfig, shared
from wnrl.population.random import fork, member_keys, permutation, uniform
from wnrl.population.rollout import Draws, Ended, Match, Running, rollout
from wnrl.population.samples import Batch, Past, minibatches, pick
from wnrl.population.states import Agents, clone, copy_, part
from wnrl.population.statistics import Scaling
from wnrl.population.updates import optimizer_of, project_members_, projected_names
from wnrl.population.vmapped import Goal, VmappedNetworks
from wnrl.tensor_envs.core import Episodes, TensorEnv, advance, begin

RESETS, ACTIONS, STEPS, ORDERS, INIT, EVALUATION = range(6)
"""Streams of random numbers of a member."""
CHUNK = 8
"""Members that a CPU updates together: what they need stays in its cache."""
OBSERVED = 512
"""Observations that dormant units and ranks are counted on, at most."""
LOOK_EVERY = 50
"""Steps between two looks at whether episodes have ended, at most: each waits for the device."""


def steps_of_a_part(limit: int) -> int:
    """Return how many steps are played between two looks, where an episode has ``limit``."""
    return math.ceil(limit / math.ceil(limit / LOOK_EVERY))


class PPO:
    """A cohort: members of one norm and shape, trained as one batch.

    Args:
        env: what to learn in.
        members: their hyperparameters, which may differ in ``PPOConfig.members``.
        device: where everything is.
        dtype: of all real numbers.
        chunk: members that are updated together; None: ``CHUNK`` on a CPU, else all.
        formulas: compute MLPs by formula where there is one; without, all by ``torch.func``.
            Recurrent networks are not asked: their LSTMs have one.
        graph: replay iterations as a CUDA graph, on a GPU.

    Attributes:
        params: parameters, ``(P, D)``.
        buffers: running statistics, ``(P, D')``.
        statistics: those of observations and returns, see ``Scaling``.
        iteration: how many rollouts, with their updates, are done.
        observed: some observations of the last rollout, as networks see them, ``(P, R, n_inputs)``.
        bytes: of a member, about, as ``memory.bytes_of`` has them.

    Raises:
        UsageError: what the members may not differ in, what the engine does not have, or more
            members than the memory holds.
    """

    member = PPOConfig.of
    kind: ClassVar[type[ActorCritic]] = ActorCritic
    """Of the networks."""

    def __init__(
        self,
        env: TensorEnv,
        members: Sequence[PPOConfig],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        chunk: int | None = None,
        formulas: bool = True,
        graph: bool = True,
    ) -> None:
        self.env, self.members, self.config = env, tuple(members), shared(members)
        spaces = env.observation_space, env.action_space
        device = torch.device(device)
        self.chunk = chunk or (CHUNK if device.type == "cpu" else len(members))
        width = build(self.members[:1], *spaces, self.kind)[1].shape[1]
        self.bytes = bytes_of(self.config, env, width, dtype.itemsize)
        check_memory(len(members), self.bytes, self.chunk, device)
        self.plan, params, buffers = build(members, *spaces, self.kind)
        self.params, self.buffers = params.to(device, dtype), buffers.to(device, dtype)
        self.keys = member_keys([member.seed for member in members], device)
        self.distribution = distribution(env.action_space, self.params)
        self.networks = self._networks(formulas)
        self.optimizer = optimizer_of(self.config, self.plan, self.params)
        self.optimizer_state = self.optimizer.init(self.params)
        self.projected = projected_names(self.config, self.plan)
        self.per_member = {name: self._each(name) for name in PPOConfig.members if name != "seed"}
        self.scaling = Scaling(self.config.normalize)
        self.graph = graph and self.params.is_cuda
        self._matches: dict[torch.Size, tuple[Match, Replayed]] = {}
        self.start(self._first_episodes(fork(self.keys, RESETS), 0, self.config.n_envs))

    def _networks(self, formulas: bool) -> HotNetworks | VmappedNetworks:
        if formulas and HotNetworks.fit(self.config, self.plan):
            return HotNetworks(self.members, self.plan, self.distribution, self.params.dtype)
        return VmappedNetworks(self.plan, self.distribution)

    def _each(self, name: str) -> Tensor:
        return torch.tensor([getattr(member, name) for member in self.members]).to(self.params)

    def start(self, episodes: Episodes) -> None:
        """Begin training with these episodes, ``(P, n_envs)``, copies of them."""
        self.running = self._running(episodes)
        self.statistics = self.scaling.init(episodes.obs)
        rows = min(OBSERVED, self.config.samples)
        self.observed = self.params.new_zeros(len(episodes.obs), rows, episodes.obs.shape[-1])
        self.iteration = 0
        self._replayed: Callable[..., Ended] = (
            Replayed(self._learn, self.params.device) if self.graph else self._learn
        )

    def _first_episodes(self, streams: Tensor, start: int, n_envs: int) -> Episodes:
        """Return environments at the start of an episode, ``(P, n_envs)``.

        Args:
            streams: keys of random numbers, ``(P,)``.
            start: how many starts of these streams were used before.
            n_envs: of each member.
        """
        each = self.env.reset_draws
        u = uniform(streams, start * each, n_envs * each, self.params.dtype)
        return begin(self.env, u.view(len(u), n_envs, each))

    def _running(self, episodes: Episodes) -> Running:
        """Return copies of environments at the start of an episode, with nothing remembered."""
        shape = episodes.steps.shape
        memory = self.params.new_zeros(*shape, *self.networks.memory)
        return clone(Running(episodes, self.params.new_zeros(shape), memory))

    def _draws(self, iteration: int | Tensor) -> Draws:
        """Return the random numbers of an iteration, which is counted from zero."""
        config, env = self.config, self.env
        shape = len(self.keys), config.n_steps, config.n_envs

        def numbers(stream: int, each: int) -> Tensor:
            n = config.samples * each
            drawn = uniform(fork(self.keys, stream), iteration * n, n, self.params.dtype)
            return drawn.view(*shape, each).transpose(0, 1)  # (P, T, N, ·) -> (T, P, N, ·)

        actions = numbers(ACTIONS, self.distribution.draws)
        steps = numbers(STEPS, env.step_draws + env.reset_draws)
        return Draws(actions, steps, self._orders(iteration))

    def _orders(self, iteration: int | Tensor) -> Tensor | None:
        """Return the orders of the samples in an iteration, as ``Draws`` has them."""
        n, n_epochs = self.config.samples, self.config.n_epochs
        if self.config.minibatches == 1:
            return None
        streams, first = fork(self.keys, ORDERS), iteration * n_epochs
        return torch.stack([permutation(streams, (first + k) * n, n) for k in range(n_epochs)])

    def _minibatches(
        self, batch: Batch, past: Past, orders: Tensor | None, epoch: int
    ) -> Sequence[Any]:
        """Return the minibatches of an epoch, of the members that ``batch`` has."""
        return (
            [batch] if orders is None else minibatches(batch, orders[epoch], self.config.batch_size)
        )

    @property
    def steps(self) -> int:
        """Environment steps of each member so far."""
        return self.iteration * self.config.samples

    @property
    def agents(self) -> Agents:
        """The agents as they are, not copied."""
        return Agents(self.params, self.buffers, self.statistics)

    def train(self) -> None:
        """Train to the end."""
        while self.iteration < self.config.iterations:
            self.iterate()

    @torch.no_grad()
    def iterate(self, draws: Draws | None = None) -> Ended:
        """Make one rollout and the update that learns from it.

        Args:
            draws: the random numbers; None makes them.

        Returns:
            The episodes that ended in the rollout.
        """
        steps = (self.iteration + 1) * self.config.samples
        numbers = self.iteration, max(0.0, 1 - steps / self.config.total_timesteps)
        ended = self._replayed(*numbers) if draws is None else self._learn(*numbers, draws)
        self.iteration += 1
        return ended

    def _learn(
        self, iteration: int | Tensor, left: float | Tensor, draws: Draws | None = None
    ) -> Ended:
        """Make one iteration, in place. No number in Python changes from one to the next.

        Args:
            iteration: how many were before it.
            left: the share of training that is left behind it.
            draws: as ``iterate`` has them.
        """
        config = self.config
        if draws is None:
            draws = self._draws(iteration)
        act = self.networks.act(self.params, self.buffers)
        log_std = self.plan.log_std(self.params)
        running, batch, past, ended = rollout(
            act, log_std, self.env, self.distribution, self.running,
            self.scaling, self.statistics, draws, self.per_member["gamma"],
            self.per_member["gae_lambda"],
        )  # fmt: skip
        copy_(self.running, running)
        n_observed = self.observed.shape[1]
        self.observed.copy_(batch.obs[:, :: config.samples // n_observed][:, :n_observed])
        if config.data_init is not None and self.iteration == 0:
            batch = self._initialise(batch, past, config.data_init)
        for first in range(0, len(self.params), self.chunk):
            chunk = slice(first, first + self.chunk)
            orders = None if draws.orders is None else draws.orders[:, chunk]
            self._update(chunk, part(batch, chunk), part(past, chunk), orders, iteration, left)
        return ended

    def _initialise(self, batch: Batch, past: Past, count: int) -> Batch:
        """Initialise hidden layers on some observations of the first rollout.

        The samples were acted by the networks as they were: their log-probabilities become those
        of the new ones, so that the ratio of the first update begins at 1.
        """
        if count > self.config.samples:
            warnings.warn(
                f"data_init={count}, but the first rollout has {self.config.samples} "
                "observations: initialised on those",
                stacklevel=3,
            )
        chosen = permutation(fork(self.keys, INIT), 0, self.config.samples)[:, :count]
        obs = pick(batch.obs, chosen)
        initialise(self.plan, self.params, self.buffers, obs)
        head, *_ = self.networks.act(self.params, self.buffers)(batch.obs, past.memory)
        log_std = self.plan.log_std(self.params)[:, None]
        return batch._replace(log_probs=self.distribution.log_prob(head, log_std, batch.actions))

    def _update(
        self,
        members: slice,
        batch: Batch,
        past: Past,
        orders: Tensor | None,
        iteration: int | Tensor,
        left: float | Tensor,
    ) -> None:
        """Learn from the samples of some members, in place."""
        config = self.config
        params, buffers = self.params[members], self.buffers[members]
        state = part(self.optimizer_state, members)
        rate = self.per_member["learning_rate"][members]
        if config.learning_rate_schedule == "linear":
            rate = rate * left + config.learning_rate_end * (1 - left)
        clip_range = self.per_member["clip_range"][members]
        if config.clip_range_schedule == "linear":
            clip_range = clip_range * left
        goal = Goal(
            clip_range,
            self.per_member["ent_coef"][members],
            config.vf_coef,
            config.normalize_advantage,
        )
        grads = torch.zeros_like(params)
        learner: Any = self.networks.learner(params, buffers, grads, goal)
        t = iteration * (config.n_epochs * config.minibatches)
        for epoch in range(config.n_epochs):
            if epoch == 0 or orders is not None:
                pieces = self._minibatches(batch, past, orders, epoch)
                prepared = [learner.prepare(piece) for piece in pieces]
            for samples in prepared:
                t += 1
                learner.gradient_(samples)
                clip_(grads, config.max_grad_norm)
                self.optimizer.step_(params, grads, state, t, rate)
                project_members_(params, self.plan, self.projected)

    @torch.no_grad()
    def evaluate(
        self, n_episodes: int, start: int = 0, agents: Agents | None = None
    ) -> tuple[Tensor, Tensor]:
        """Play episodes with the likeliest actions, apart from those of training.

        Args:
            n_episodes: of each member, side by side.
            start: the number of the first of the starts; the same number, the same starts.
            agents: others, ``(K P, ·)``, one of each member after the other, K times; None for the
                present ones.

        Returns:
            Their returns, not scaled, and lengths, ``(K P, n_episodes)``.
        """
        agents = agents or self.agents
        shape, limit = (len(agents.params), n_episodes), self.env.max_episode_steps
        streams = fork(self.keys.repeat(shape[0] // len(self.keys)), EVALUATION)
        running = self._running(self._first_episodes(streams, start, n_episodes))
        alive = torch.ones(shape, dtype=torch.bool, device=self.params.device)
        match, play = self._begun(
            Match(agents, fork(streams, start), running, alive.long().zero_(), alive)
        )
        for k in range(math.ceil(limit / steps_of_a_part(limit))):
            play(k)
            if not match.alive.any():
                break
        return clone((match.running.rewards, match.lengths))

    def _begun(self, match: Match) -> tuple[Match, Callable[[int], None]]:
        """Return a match as it is to be played, and what plays a part of it, by its number."""
        if not self.graph:
            return match, partial(self._play, match)
        shape = match.alive.shape
        if shape not in self._matches:
            place = clone(match)
            self._matches[shape] = place, Replayed(partial(self._play, place), self.params.device)
        copy_(self._matches[shape][0], match)
        return self._matches[shape]

    def _play(self, match: Match, k: int | Tensor) -> None:
        """Play part ``k`` of a match, in place."""
        env, (params, buffers, statistics) = self.env, match.agents
        episodes, returns, memory = match.running
        act, each = self.networks.act(params, buffers), env.step_draws + env.reset_draws
        n, n_steps = returns.shape[1] * each, steps_of_a_part(env.max_episode_steps)
        for t in range(n_steps):
            u = uniform(match.streams, (k * n_steps + t) * n, n, params.dtype)
            head, _, memory = act(self.scaling.obs(statistics, episodes.obs), memory)
            actions = self.distribution.to_env(self.distribution.mode(head))
            episodes, step = advance(env, episodes, actions, u.view(*returns.shape, each))
            returns = returns + step.rewards * match.alive
            match.lengths.add_(match.alive)
            match.alive.logical_and_(~(step.terminated | step.truncated))
        copy_(match.running, Running(episodes, returns, memory))

    def finite(self) -> Tensor:
        """Return which members have finite parameters alone, ``(P,)`` bool."""
        return self.params.isfinite().all(1)

    def diagnostics(self, index: int) -> dict[str, float]:
        """Return how the layers of one member fare, by TensorBoard's tags.

        Lengths of weights and, on what was observed in the last rollout, shares of dormant and dead
        units and ranks of features. Of networks with a memory, lengths alone: their activations
        depend on what came before.

        Args:
            index: of the member.
        """
        net = self.plan.load(
            *(rows[index : index + 1] for rows in (self.params, self.buffers))
        ).eval()
        measures = weight_lengths(net)
        if not self.running.memory.shape[-1]:
            obs = self.observed[index].to(next(net.parameters()))
            with torch.no_grad(), recorded(net, HEADS) as seen:
                for critic in (False, True):
                    net.network(critic)(obs)
            measures |= seen.measures()
        return to_floats(measures)

    def member_state(self, index: int, agents: Agents | None = None) -> dict[str, Tensor]:
        """Return the state of one member under the names that SB3's ``MlpPolicy`` has, a copy.

        Args:
            index: of the member.
            agents: others of the members; None for the present ones.
        """
        params, buffers, _ = part(agents or self.agents, slice(index, index + 1))
        views = self.plan.by_sb3s_names(params, buffers)
        state = {name: view[0].clone() for name, view in views.items()}
        if self.config.data_init is not None:
            state["data_initialised"] = torch.tensor(self.iteration > 0)
        return state

    def member_statistics(self, index: int, agents: Agents | None = None) -> dict[str, Any] | None:
        """Return what observations and rewards of one member are scaled by; None if nothing is.

        The names are those of ``wnrl.rl.statistics``; arguments as ``member_state`` has them.
        """
        statistics = (agents or self.agents).statistics
        return self.scaling.numbers(statistics, index, self.members[index].gamma)

    def _kept(self) -> dict[str, Any]:
        """Return the tensors that training goes on from."""
        (state, obs, steps), rewards, memory = self.running
        return {
            "params": self.params,
            "buffers": self.buffers,
            "statistics": self.statistics,
            "optimizer": self.optimizer_state,
            "env": state,
            "obs": obs,
            "steps": steps,
            "rewards": rewards,
            "memory": memory,
        }

    def state(self) -> dict[str, Any]:
        """Return everything that training goes on from, as tensors and numbers, copies."""
        seeds = torch.tensor([member.seed for member in self.members])
        return {"seeds": seeds, "iteration": self.iteration, **clone(self._kept())}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state`` returned.

        Raises:
            UsageError: it is of another cohort.
        """
        seeds = [member.seed for member in self.members]
        saved = state["seeds"].tolist()
        if saved != seeds or state["params"].shape != self.params.shape:
            raise UsageError(
                f"the state is of another cohort: seeds {saved} with parameters "
                f"{tuple(state['params'].shape)}, expected {seeds}, {tuple(self.params.shape)}"
            )
        self.iteration = state["iteration"]
        places = self._kept()
        try:
            copy_(places, {name: state[name] for name in places})
        except (LookupError, ValueError, RuntimeError) as error:
            raise UsageError(f"the state is of another version or cohort: {error}") from error
