"""Cohorts: members of one norm and shape that are trained as one batch, whatever the algorithm.

What a member learns does not depend on its companions: on a CPU not in one bit where layers have
multiples of 32 units. With other numbers a last digit may differ: torch computes what does not fill
a vector by other functions, and sums of a product depend on where in memory its factors lie.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from wnrl.diagnostics import recorded, to_floats, weight_lengths
from wnrl.errors import UsageError
from wnrl.graphs import Replayed
from wnrl.population.backend import HotNetworks, Modules
from wnrl.population.config import MemberConfig, per_member, shared
from wnrl.population.distributions import distribution
from wnrl.population.memory import CHUNK_ON_CPU, check_memory
from wnrl.population.networks import Networks
from wnrl.population.optim import clip_, optimizer_of, projection
from wnrl.population.random import Number, fork, member_keys, uniform
from wnrl.population.rollout import Ended, Match, Running
from wnrl.population.rows import Layout, build
from wnrl.population.states import ALL, Agents, clone, copy_, part, put_back_
from wnrl.population.statistics import Scaling
from wnrl.tensor_envs.core import Episodes, TensorEnv, advance, begin

RESETS, ACTIONS, STEPS, ORDERS, INIT, EVALUATION, EXPLORATION = range(7)
"""Streams of random numbers of a member."""
OBSERVED = 512
"""Observations that dormant units and ranks are counted on, at most."""
LOOK_EVERY = 50
"""Steps between two looks at whether episodes have ended, at most: each waits for the device."""


def steps_of_a_part(limit: int) -> int:
    """Return how many steps are played between two looks, where an episode has ``limit``."""
    return math.ceil(limit / math.ceil(limit / LOOK_EVERY))


class Members:
    """Members of one norm and shape: rows of numbers, which one optimizer steps chunk by chunk.

    Attributes:
        members: their configurations.
        config: what they have in common.
        plan: their layout.
        params: parameters, ``(P, D)``.
        buffers: running statistics, ``(P, D')``.
        chunk: how many are updated together.
        graph: whether what is called again and again is replayed as a CUDA graph.
    """

    members: tuple[Any, ...]
    config: Any
    chunk: int

    def _take(self, rows: tuple[Layout, Tensor, Tensor], graph: bool, *place: Any) -> None:
        """Begin with the rows of ``stacked``, at a place: a device, and a dtype if not float32."""
        self.plan, params, buffers = rows
        self.params, self.buffers = params.to(*place), buffers.to(*place)
        self.keys = member_keys([member.seed for member in self.members], place[0])
        self.per_member = per_member(self.members, self.params)
        self.optimizer = optimizer_of(self.config, self.plan, self.params)
        self.optimizer_state = self.optimizer.init(self.params)
        self.project_ = projection(self.config.norm, self.plan)
        self.graph = graph and self.params.is_cuda

    def _graphed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function as it is to be called again and again."""
        return Replayed(function, self.params.device) if self.graph else function

    def _chunks(self) -> Iterator[slice]:
        """Return the places of members that are updated together, chunk by chunk."""
        starts = range(0, len(self.params), self.chunk)
        return (slice(start, start + self.chunk) for start in starts)

    def _update_(self, params: Tensor, grads: Tensor, *given: Any) -> None:
        """Clip gradients and make a step, given what else ``Adam.step_`` takes; project."""
        if self.config.max_grad_norm is not None:
            clip_(grads, self.config.max_grad_norm)
        self.optimizer.step_(params, grads, *given)
        self.project_(params)

    def finite(self) -> Tensor:
        """Return which members have finite parameters alone, ``(P,)`` bool."""
        return self.params.isfinite().all(1)


class Cohort(Members, ABC):
    """A cohort: members of one norm and shape, trained as one batch.

    Args:
        env: what to learn in.
        members: their hyperparameters, which may differ in what ``config.members`` names.
        device: where everything is.
        dtype: of all real numbers.
        chunk: members that are updated together; None: a few on a CPU, else all.
        formulas: compute MLPs by formula where there is one; without, all by ``torch.func``.
            Recurrent networks are not asked: their LSTMs have one.
        graph: replay iterations as CUDA graphs, on a GPU.

    Attributes:
        statistics: those of observations and returns, see ``Scaling``.
        iteration: how many rollouts, with their updates, are done.
        bytes: of a member, about, as ``memory`` has them.

    Raises:
        UsageError: what the members may not differ in, what the engine does not have, or more
            members than the memory holds.
    """

    member: Callable[[Mapping[str, Any]], MemberConfig]
    """From settings of a run to the configuration of a member."""
    kind: ClassVar[type[Networks]]
    """Of the networks."""
    bytes_of: Callable[..., tuple[int, int]]
    """Of ``memory``: the bytes of a member."""
    measured_width: ClassVar[int]
    """Units of the widest layers for which ``scripts/bench/population.py`` saw a gain on CPUs."""

    def __init__(
        self,
        env: TensorEnv,
        members: Sequence[Any],
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
        self.chunk = chunk or (CHUNK_ON_CPU if device.type == "cpu" else len(members))
        width = build(self.members[:1], *spaces, self.kind)[1].shape[1]
        self.bytes = self.bytes_of(self.config, env, width, dtype.itemsize)
        check_memory(len(members), self.bytes, self.chunk, device)
        self._take(build(members, *spaces, self.kind), graph, device, dtype)
        self.distribution = distribution(env.action_space, self.params)
        self.networks = self._networks(formulas)
        self.scaling = Scaling(self.config.normalize)
        self._matches: dict[tuple[int, int], tuple[Match, Callable[[int], None]]] = {}
        self.start(self._first_episodes(fork(self.keys, RESETS), 0, self.config.n_envs))

    def _networks(self, formulas: bool) -> Modules:
        """Return what computes the networks."""
        if formulas and HotNetworks.fit(self.config, self.plan):
            return HotNetworks(self.config, self.plan, self.distribution, self.params.dtype)
        return Modules(self.plan)

    @abstractmethod
    def iterate(self, draws: Any = None) -> Ended:
        """Make one rollout and what is learned behind it.

        Args:
            draws: the random numbers; None makes them.

        Returns:
            The episodes that ended in the rollout.
        """

    @abstractmethod
    def observed(self, index: int) -> Tensor:
        """Return some observations of a member as its networks see them, ``(R, *shape)``."""

    def start(self, episodes: Episodes) -> None:
        """Begin training with these episodes, ``(P, n_envs)``, copies of them."""
        self.running = self._running(episodes)
        self.statistics = self.scaling.init(episodes.obs)
        self.iteration = 0

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
        memory = self.params.new_zeros(*shape, *self.plan.net.memory)
        return clone(Running(episodes, self.params.new_zeros(shape), memory))

    def _uniform(self, stream: int, iteration: Number, each: int) -> Tensor:
        """Return the uniform numbers of an iteration's steps, ``(T, P, N, each)``."""
        config = self.config
        n = config.samples * each
        drawn = uniform(fork(self.keys, stream), iteration * n, n, self.params.dtype)
        return drawn.view(len(drawn), config.steps, config.n_envs, each).transpose(0, 1)

    def _step_draws(self, iteration: Number) -> Tensor:
        """Return those of the environments, ``(T, P, N, step_draws + reset_draws)``."""
        return self._uniform(STEPS, iteration, self.env.step_draws + self.env.reset_draws)

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

    def _left(self, steps: int) -> float:
        """Return the share of training that is left behind so many environment steps."""
        return max(0.0, 1 - steps / self.config.total_timesteps)

    def _rates(self, left: Number) -> Tensor:
        """Return the learning rates of the members, with ``left`` of training left."""
        rate = self.per_member["learning_rate"]
        if self.config.learning_rate_schedule == "linear":
            return rate * left + self.config.learning_rate_end * (1 - left)
        return rate

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
        match = Match(agents, fork(streams, start), running, alive.long().zero_(), alive)
        play: Callable[[int], None] = partial(self._play, match)
        if self.graph:  # a recording plays where it was made
            if shape not in self._matches:
                place = clone(match)
                self._matches[shape] = place, self._graphed(partial(self._play, place))
            copy_(self._matches[shape][0], match)
            match, play = self._matches[shape]
        for k in range(math.ceil(limit / steps_of_a_part(limit))):
            play(k)
            if not match.alive.any():
                break
        return clone((match.running.rewards, match.lengths))

    def _play(self, match: Match, k: Number) -> None:
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

    def diagnostics(self, index: int) -> dict[str, float]:
        """Return how the layers of one member fare, by TensorBoard's tags.

        Lengths of weights and, on what was observed last, shares of dormant and dead units and
        ranks of features. Of networks with a memory, lengths alone: their activations depend on
        what came before.

        Args:
            index: of the member.
        """
        net = self.plan.load(self.params, self.buffers, index).eval()
        measures = weight_lengths(net)
        if not self.running.memory.shape[-1]:
            obs = self.observed(index).to(next(net.parameters()))
            with torch.no_grad(), recorded(net, net.heads) as seen:
                for network in net.networks():
                    network(obs)
            measures |= seen.measures()
        return to_floats(measures)

    def member_state(self, index: int, agents: Agents | None = None) -> dict[str, Tensor]:
        """Return the state of one member under the names that SB3's policy has, a copy.

        Args:
            index: of the member.
            agents: others of the members; None for the present ones.
        """
        state = self._networks_of(index, agents or self.agents)
        if self.config.data_init is not None:
            state["data_initialised"] = torch.tensor(self.iteration > self.config.first_update)
        return state

    def _networks_of(self, index: int, agents: Agents) -> dict[str, Tensor]:
        return self.plan.state(agents.params, agents.buffers, index)

    def member_statistics(self, index: int, agents: Agents | None = None) -> dict[str, Any] | None:
        """Return what observations and rewards of one member are scaled by; None if nothing is.

        The names are those of ``wnrl.rl.statistics``; arguments as ``member_state`` has them.
        """
        statistics = (agents or self.agents).statistics
        return self.scaling.numbers(statistics, index, self.members[index].gamma)

    def _kept(self) -> dict[str, Any]:
        """Return the tensors that training goes on from."""
        (state, obs, steps), rewards, memory = self.running
        running = {"env": state, "obs": obs, "steps": steps, "rewards": rewards, "memory": memory}
        return {**self.agents._asdict(), "optimizer": self.optimizer_state, **running}

    def state(self, members: slice = ALL) -> dict[str, Any]:
        """Return everything that training goes on from, as tensors and numbers, copies."""
        seeds = torch.tensor([member.seed for member in self.members[members]])
        return {"seeds": seeds, "iteration": self.iteration, **clone(part(self._kept(), members))}

    def restore(self, state: Mapping[str, Any], members: slice = ALL) -> None:
        """Go on from what ``state`` returned of these members.

        Raises:
            UsageError: it is of other ones.
        """
        seeds, params = [m.seed for m in self.members[members]], self.params[members]
        saved = state["seeds"].tolist()
        if saved != seeds or state["params"].shape != params.shape:
            raise UsageError(
                f"the state is of another cohort: seeds {saved} with parameters "
                f"{tuple(state['params'].shape)}, expected {seeds}, {tuple(params.shape)}"
            )
        self.iteration = state["iteration"]
        put_back_(part(self._kept(), members), state)
