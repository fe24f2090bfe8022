"""Measure a cohort of PPO runs against the same algorithm in JAX, on one device in one process.

    pip install jax
    python scripts/bench/jax_population.py --members 8 --device cpu
    python scripts/bench/jax_population.py --members 240 --device cuda

In JAX the whole training of a run is one ``lax.scan``, and that of all runs ``jit(vmap(...))`` over
seeds, as PureJaxRL has it (Lu et al., 2022). Both sides compute the same on CartPole: dynamics,
resets and time limit, SB3's networks and PPO, with the settings of the studies. Actor and critic
are one batch of two networks, random numbers are drawn for a whole rollout, and rewards that the
time limit cut are looked up once an environment, on both sides; the numbers themselves differ, so
that returns are alike in distribution alone. They are means over runs with standard errors: of all
episodes in training, and of 20 a run after it, with the likeliest actions.

Each side trains twice, in turns and with other seeds, from the drawing of networks to the last
update. Our first call has what a process does once, such as loading libraries; on a GPU every call
records its CUDA graph. JAX's run is its second one, without compiling. Both compute in float32, and
products are full float32 on both sides: JAX is told so, torch does it unless told otherwise. On a
CPU both have one thread, JAX by ``NPROC=1``, which XLA takes for the number of cores; the column
``JAX, cores`` is the CPU time of its run divided by the wall time.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Annotated, Any, Literal, NamedTuple

from scripts import _cli
from wnrl.errors import UsageError
from wnrl.limits import Count, Limited, Positive, Sizes, some

EPISODES = 20
"""Of each run after training."""


@dataclass(frozen=True)
class Args(Limited):
    """Flags."""

    members: Annotated[Sizes, some] = (240,)
    """Numbers of runs that are trained at once."""
    norms: Annotated[tuple[Literal["none", "weight"], ...], some] = ("none", "weight")
    """Which norms."""
    total_timesteps: Count = 100_000
    """Environment steps of a run."""
    learning_rate: Positive = 3e-3
    """At the start; it falls linearly to zero."""
    device: str = "cpu"
    """auto, cpu, cuda or cuda:<k>."""


if __name__ == "__main__":
    _cli.begin(Args, __doc__)  # before torch and JAX are imported
    if find_spec("jax") is None:
        sys.exit(_cli.refused(UsageError("jax is missing: pip install jax")))

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # else JAX takes most of a GPU

import jax
import numpy as np
import torch
from jax import Array, lax
from jax import numpy as jnp

from scripts.bench import _rounds
from scripts.bench._rounds import WALL, clocked
from scripts.studies._tasks import PPO as SETTINGS
from wnrl.population.ppo import PPO
from wnrl.population.ppo_config import PPOConfig
from wnrl.tensor_envs import CartPole

Params = dict[str, Array]
"""Of actor and critic, ``(2, ...)``, by the names of ``ActorCritic.network()``. The critic's head
has a second output, which stays zero and is not read."""


class Episodes(NamedTuple):
    """Where the environments of a run stand."""

    x: Array
    """``(N, 4)``."""
    steps: Array
    """Of the present episode, which are its return too, ``(N,)``."""


class Batch(NamedTuple):
    """Samples ``(B, ...)``."""

    obs: Array
    actions: Array
    log_probs: Array
    advantages: Array
    returns: Array


class Learner(NamedTuple):
    """Parameters, and Adam's running means."""

    params: Params
    mean: Params
    square: Params


def reset(u: Array) -> Array:
    """Return first states from uniforms ``(..., 4)``."""
    return u * 0.1 - 0.05


def push(x: Array, actions: Array) -> tuple[Array, Array]:
    """Return the states ``(N, 4)`` after a step, and whether the pole has fallen, ``(N,)``."""
    _, speed, angle, spin = jnp.moveaxis(x, -1, 0)
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    force = (actions * 20 - 10 + 0.05 * spin**2 * sin) / 1.1
    spin_rate = (9.8 * sin - cos * force) / (4 / 6 - cos**2 * (0.05 / 1.1))
    speed_rate = force - (0.05 / 1.1) * spin_rate * cos
    x = x + 0.02 * jnp.stack((speed, speed_rate, spin, spin_rate), -1)
    return x, (jnp.abs(x[:, 2]) > CartPole.ANGLE_LIMIT) | (jnp.abs(x[:, 0]) > CartPole.X_LIMIT)


def networks(params: Params, obs: Array) -> tuple[Array, Array]:
    """Return logits ``(B, 2)`` and values ``(B,)``."""

    def network(params: Params, y: Array) -> Array:
        for place in "02":
            if f"{place}.weight_v" in params:
                v = params[f"{place}.weight_v"]
                length = jnp.linalg.norm(v, axis=1, keepdims=True)
                weight = v * (params[f"{place}.weight_g"] / length)
            else:
                weight = params[f"{place}.weight"]
            y = jnp.tanh(y @ weight.T + params[f"{place}.bias"])
        return y @ params["4.weight"].T + params["4.bias"]

    outputs = jax.vmap(network, (0, None))(params, obs)
    return outputs[0], outputs[1, :, 0]


def first_params(config: PPOConfig, key: Array) -> Params:
    """Return networks as SB3 draws them, orthogonal, with hidden layers in the norm."""

    def both(key: Array, n_outputs: int, n_inputs: int, gain: float) -> Array:
        draw = jax.nn.initializers.orthogonal(gain)
        return jnp.stack([draw(each, (n_outputs, n_inputs)) for each in jax.random.split(key)])

    keys, (first, second) = jax.random.split(key, 3), config.net_arch
    heads = both(keys[2], 2, second, 1.0) * jnp.array([[[0.01], [0.01]], [[1.0], [0.0]]])
    params = {"4.weight": heads, "4.bias": jnp.zeros((2, 2))}
    hidden = {
        "0": both(keys[0], first, 4, math.sqrt(2)),
        "2": both(keys[1], second, first, math.sqrt(2)),
    }
    for place, weight in hidden.items():
        params[f"{place}.bias"] = jnp.zeros(weight.shape[:2])
        if config.norm == "weight":
            params[f"{place}.weight_v"] = weight
            params[f"{place}.weight_g"] = jnp.linalg.norm(weight, axis=2, keepdims=True)
        else:
            params[f"{place}.weight"] = weight
    return params


def log_prob(logits: Array, actions: Array) -> Array:
    """Return the log-probabilities of actions ``(B,)``."""
    return jnp.take_along_axis(jax.nn.log_softmax(logits), actions[:, None], 1)[:, 0]


def rollout(
    config: PPOConfig, params: Params, episodes: Episodes, u_actions: Array, u_resets: Array
) -> tuple[Episodes, Batch, Array]:
    """Step ``(N,)`` environments T times.

    Args:
        config: of the run.
        params: of the networks.
        episodes: where the environments stand.
        u_actions: uniforms ``(T, N)``.
        u_resets: uniforms ``(T, N, 4)``.

    Returns:
        Where they stand then, the samples, and the returns of the episodes that ended, ``(T, N)``,
        zero where none did.
    """

    def step(episodes: Episodes, u: tuple[Array, Array]) -> tuple[Episodes, tuple[Array, ...]]:
        x, steps = episodes
        logits, values = networks(params, x)
        actions = (u[0] >= jax.nn.softmax(logits)[:, 0]).astype(jnp.int32)
        final, fallen = push(x, actions)
        steps = steps + 1
        ended = fallen | (steps >= CartPole.max_episode_steps)
        after = Episodes(jnp.where(ended[:, None], reset(u[1]), final), jnp.where(ended, 0, steps))
        return after, (x, actions, logits, values, final, ended, ended & ~fallen, steps)

    episodes, columns = lax.scan(step, episodes, (u_actions, u_resets))
    obs, actions, logits, values, final, ended, truncated, steps = columns
    # An environment is cut at most once in a rollout, which is shorter than the time limit.
    seen = jnp.take_along_axis(final, truncated.argmax(0)[None, :, None], 0)[0]
    rewards = 1 + config.gamma * jnp.where(truncated, networks(params, seen)[1], 0.0)
    advantages = gae(config, rewards, values, networks(params, episodes.x)[1], ended)
    obs, actions, logits, values, advantages = (
        value.reshape(-1, *value.shape[2:]) for value in (obs, actions, logits, values, advantages)
    )
    batch = Batch(obs, actions, log_prob(logits, actions), advantages, advantages + values)
    return episodes, batch, jnp.where(ended, steps, 0)


def gae(
    config: PPOConfig, rewards: Array, values: Array, last_values: Array, ended: Array
) -> Array:
    """Return advantages ``(T, N)``."""

    def back(later: tuple[Array, Array], step: tuple[Array, ...]) -> Any:
        advantages, next_values = later
        rewards, values, ended = step
        discount = jnp.where(ended, 0.0, config.gamma)
        advantages = rewards - values + discount * (next_values + config.gae_lambda * advantages)
        return (advantages, values), advantages

    start = jnp.zeros_like(last_values), last_values
    return lax.scan(back, start, (rewards, values, ended), reverse=True, unroll=8)[1]


def update(config: PPOConfig, learner: Learner, batch: Batch, iteration: Array) -> Learner:
    """Learn from the samples of a rollout, all of them at each step."""
    left = jnp.maximum(0.0, 1 - (iteration + 1) * (config.samples / config.total_timesteps))
    rate, clip_range = config.learning_rate * left, config.clip_range * left
    advantages = batch.advantages - batch.advantages.mean()
    advantages = advantages / (batch.advantages.std(ddof=1) + 1e-8)

    def loss(params: Params) -> Array:
        logits, values = networks(params, batch.obs)
        ratio = jnp.exp(log_prob(logits, batch.actions) - batch.log_probs)
        clipped = jnp.clip(ratio, 1 - clip_range, 1 + clip_range)
        policy_loss = -jnp.minimum(advantages * ratio, advantages * clipped).mean()
        return policy_loss + config.vf_coef * ((batch.returns - values) ** 2).mean()

    def step(learner: Learner, t: Array) -> tuple[Learner, None]:
        grads = jax.grad(loss)(learner.params)
        length = jnp.sqrt(sum((grad**2).sum() for grad in jax.tree_util.tree_leaves(grads)))
        share = jnp.minimum(1.0, config.max_grad_norm / (length + 1e-6))
        seen, seen_squares = (-jnp.expm1(t * math.log(beta)) for beta in (0.9, 0.999))

        def mean(before: Array, grad: Array) -> Array:
            return 0.9 * before + 0.1 * share * grad

        def square(before: Array, grad: Array) -> Array:
            return 0.999 * before + 0.001 * (share * grad) ** 2

        def moved(param: Array, mean: Array, square: Array) -> Array:
            return param - rate * (mean / seen) / (jnp.sqrt(square / seen_squares) + 1e-5)

        each = jax.tree_util.tree_map
        means, squares = each(mean, learner.mean, grads), each(square, learner.square, grads)
        return Learner(each(moved, learner.params, means, squares), means, squares), None

    first = iteration * config.n_epochs + 1
    return lax.scan(step, learner, first + jnp.arange(config.n_epochs))[0]


def train(config: PPOConfig, key: Array) -> tuple[Params, Array, Array]:
    """Return the parameters of a run, and the sum and the number of its episodes' returns."""
    of_params, of_episodes, of_rollouts = jax.random.split(key, 3)
    params = first_params(config, of_params)
    zeros = jax.tree_util.tree_map(jnp.zeros_like, params)
    x = reset(jax.random.uniform(of_episodes, (config.n_envs, 4)))
    start = Learner(params, zeros, zeros), Episodes(x, jnp.zeros(config.n_envs, jnp.int32))

    def iterate(state: tuple[Learner, Episodes], each: tuple[Array, Array]) -> Any:
        (learner, episodes), (iteration, key) = state, each
        u = jax.random.uniform(key, (config.n_steps, config.n_envs, 5))
        episodes, batch, ended = rollout(config, learner.params, episodes, u[..., 0], u[..., 1:])
        learner = update(config, learner, batch, iteration)
        return (learner, episodes), (ended.sum(), (ended > 0).sum())

    keys = jax.random.split(of_rollouts, config.iterations)
    (learner, _), (sums, counts) = lax.scan(iterate, start, (jnp.arange(config.iterations), keys))
    return learner.params, sums.sum(), counts.sum()


def evaluate(params: Params, key: Array) -> Array:
    """Return the mean return of episodes with the likeliest actions."""

    def step(state: tuple[Array, Array, Array], _: None) -> Any:
        x, alive, returns = state
        after, fallen = push(x, networks(params, x)[0].argmax(1))
        return (after, alive & ~fallen, returns + alive), None

    x = reset(jax.random.uniform(key, (EPISODES, 4)))
    start = x, jnp.ones(EPISODES, bool), jnp.zeros(EPISODES)
    return lax.scan(step, start, None, CartPole.max_episode_steps)[0][2].mean()


class Call(NamedTuple):
    """What the training of some runs took, and how they fared."""

    seconds: list[float]
    """Wall and CPU."""
    in_training: np.ndarray
    """Mean returns, ``(P,)``."""
    after: np.ndarray
    """The like after training."""


def in_torch(config: PPOConfig, seeds: range, device: torch.device) -> Call:
    """Train a cohort."""
    sums, counts, cohorts = [], [], []

    def run() -> None:
        cohort = PPO(CartPole(), [replace(config, seed=seed) for seed in seeds], device=device)
        cohorts.append(cohort)
        for _ in range(config.iterations):
            ended = cohort.iterate()
            sums.append(ended.returns.nansum((1, 2)))
            counts.append((ended.lengths > 0).sum((1, 2)))

    seconds = clocked(run, device)
    total, number = (torch.stack(parts).double().sum(0) for parts in (sums, counts))
    after = cohorts[0].evaluate(EPISODES)[0].double().mean(1)
    return Call(seconds, (total / number).cpu().numpy(), after.cpu().numpy())


def place_of(device: torch.device) -> Any:
    """Return JAX's name for the device.

    Raises:
        UsageError: JAX has none like it.
    """
    try:
        return jax.devices(device.type)[device.index or 0]
    except RuntimeError as error:
        raise UsageError(
            f"JAX has no {device.type} here: pip install 'jax[cuda13]', or [cuda12]"
        ) from error


def keys_of(seeds: range, place: Any) -> Array:
    """Return a key for each seed, on the device."""
    return jax.device_put(jax.vmap(jax.random.PRNGKey)(jnp.array(seeds)), place)


def in_jax(compiled: Callable[[Array], Any], seeds: range, place: Any) -> Call:
    """Train as many runs by a compiled ``train``."""
    keys, trained = keys_of(seeds, place), []
    seconds = clocked(lambda: trained.append(jax.block_until_ready(compiled(keys))))
    params, sums, counts = trained[0]
    after = jax.jit(jax.vmap(evaluate))(params, keys)
    return Call(seconds, np.asarray(sums / counts), np.asarray(after))


def row(norm: str, n_members: int, args: Args, device: torch.device, place: Any) -> Iterator[str]:
    """Yield the cells of a row."""
    length, rate = args.total_timesteps, args.learning_rate
    config = PPOConfig.of(
        {**SETTINGS, "norm": norm, "total_timesteps": length, "learning_rate": rate}
    )
    first, second = range(n_members), range(n_members, 2 * n_members)
    traced = jax.jit(jax.vmap(partial(train, config)))
    programs: list[Any] = []
    compiling = clocked(lambda: programs.append(traced.lower(keys_of(first, place)).compile()))
    ours, theirs = [], []
    for seeds in (first, second):
        ours.append(in_torch(config, seeds, device))
        theirs.append(in_jax(programs[0], seeds, place))
    (wall, _), (jax_wall, jax_cpu) = ours[1].seconds, theirs[1].seconds
    steps = n_members * config.iterations * config.samples
    yield norm
    yield str(n_members)
    yield from (f"{call.seconds[WALL]:.1f}" for call in ours)
    yield from (f"{seconds:.1f}" for seconds in (compiling[WALL], jax_wall))
    yield f"{jax_cpu / jax_wall:.2f}"
    yield f"{jax_wall / wall:.2f}"
    yield from (f"{steps / seconds:,.0f}" for seconds in (wall, jax_wall))
    for calls in (ours, theirs):
        yield mean(np.concatenate([call.in_training for call in calls]))
        yield mean(np.concatenate([call.after for call in calls]))


def mean(values: np.ndarray) -> str:
    """Return mean and standard error of the runs as a table shows them."""
    error = values.std(ddof=1) / math.sqrt(len(values))
    return f"{values.mean():.1f} ± {error:.1f}"


COLUMNS = (
    "norm", "members", "ours, first s", "ours, s", "JAX, compiling s", "JAX, s", "JAX, cores",
    "JAX / ours", "ours, steps/s", "JAX, steps/s",
    "ours, return in training", "ours, after", "JAX, return in training", "JAX, after",
)  # fmt: skip


def main(args: Args) -> None:
    """Measure and print the table, row by row."""
    device = _rounds.prepare(args.device, 1, f"jax {jax.__version__}")
    if device.type == "cpu":
        os.environ["NPROC"] = "1"  # read at JAX's first call
    place = place_of(device)
    each = ((norm, n_members) for norm in args.norms for n_members in args.members)
    with jax.default_matmul_precision("highest"):
        _rounds.table(COLUMNS, (row(*which, args, device, place) for which in each))


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
