"""Measure a cohort of PPO runs against the same algorithm in JAX, on one device in one process.

    pip install jax
    python scripts/bench/jax_population.py --members 8 --device cpu
    python scripts/bench/jax_population.py --members 240 --device cuda

In JAX the whole training of a run is one ``lax.scan``, and that of all runs ``jit(vmap(...))`` over
seeds, as PureJaxRL has it (Lu et al., 2022). Both sides compute the same: CartPole with its time
limit, SB3's networks and SB3's PPO, with the settings of the studies. On both sides actor and
critic are one batch of two networks, a rollout draws its random numbers at once, and w = g v/‖v‖ is
computed once a rollout. The random numbers differ, so that returns are alike in distribution alone:
they are means over the runs of both calls with standard errors, of all episodes of training and of
those in its last tenth.

Each side trains twice, in turns and with other seeds, from drawing networks to the last update. Our
first call has what a process does once, such as loading libraries; on a GPU each call records its
CUDA graph. JAX is compiled before, which has a column of its own, and its time is that of the
second call. Both compute in float32 with full float32 products: JAX is told so, and it is torch's
default. On a CPU both have one thread, JAX by ``NPROC=1``, which XLA takes for the number of cores;
with more of them, JAX's run may hang.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Annotated, Any, Literal, NamedTuple

from scripts import _cli
from wnrl.errors import UsageError
from wnrl.limits import Count, Limited, Positive, Sizes, some


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
from torch import Tensor

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
    means: Params
    squares: Params


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


def first_params(config: PPOConfig, key: Array) -> Params:
    """Return networks as SB3 draws them, orthogonal, with hidden layers in the norm."""
    sizes, params = (4, *config.net_arch, 2), {}
    for k, each in enumerate(jax.random.split(key, 3)):
        gain, shape = math.sqrt(2) if k < 2 else 1.0, (sizes[k + 1], sizes[k])
        draw = jax.nn.initializers.orthogonal(gain)
        weight = jnp.stack([draw(key, shape) for key in jax.random.split(each)])
        params[f"{2 * k}.bias"] = jnp.zeros((2, shape[0]))
        if k < 2 and config.norm == "weight":
            params[f"{2 * k}.weight_v"] = weight
            params[f"{2 * k}.weight_g"] = jnp.linalg.norm(weight, axis=2, keepdims=True)
        else:
            params[f"{2 * k}.weight"] = weight
    params["4.weight"] *= jnp.array([[[0.01], [0.01]], [[1.0], [0.0]]])
    return params


def plain(params: Params) -> Params:
    """Return the parameters with w = g v/‖v‖ for v and g."""
    weights = dict(params)
    for name in params:
        if name.endswith("_v"):
            v, g = weights.pop(name), weights.pop(name[:-1] + "g")
            weights[name[:-2]] = v * (g / jnp.linalg.norm(v, axis=2, keepdims=True))
    return weights


def networks(weights: Params, obs: Array) -> tuple[Array, Array]:
    """Return logits ``(B, 2)`` and values ``(B,)``."""

    def network(weights: Params, y: Array) -> Array:
        for place in "02":
            y = jnp.tanh(y @ weights[f"{place}.weight"].T + weights[f"{place}.bias"])
        return y @ weights["4.weight"].T + weights["4.bias"]

    outputs = jax.vmap(network, (0, None))(weights, obs)
    return outputs[0], outputs[1, :, 0]


def log_prob(logits: Array, actions: Array) -> Array:
    """Return the log-probabilities of actions ``(B,)``."""
    return (jax.nn.log_softmax(logits) * jax.nn.one_hot(actions, 2)).sum(1)


def rollout(
    config: PPOConfig, weights: Params, episodes: Episodes, u_actions: Array, u_resets: Array
) -> tuple[Episodes, Batch, Array]:
    """Step ``(N,)`` environments T times.

    Args:
        config: of the run.
        weights: of the networks.
        episodes: where the environments stand.
        u_actions: uniforms ``(T, N)``.
        u_resets: uniforms ``(T, N, 4)``.

    Returns:
        Where they stand then, the samples, and the returns of the episodes that ended, ``(T, N)``,
        zero where none did.
    """

    def step(episodes: Episodes, u: tuple[Array, Array]) -> tuple[Episodes, tuple[Array, ...]]:
        x, steps = episodes
        logits, values = networks(weights, x)
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
    rewards = 1 + config.gamma * jnp.where(truncated, networks(weights, seen)[1], 0.0)
    advantages = gae(config, rewards, values, networks(weights, episodes.x)[1], ended)
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
        logits, values = networks(plain(params), batch.obs)
        ratio = jnp.exp(log_prob(logits, batch.actions) - batch.log_probs)
        clipped = jnp.clip(ratio, 1 - clip_range, 1 + clip_range)
        policy_loss = -jnp.minimum(advantages * ratio, advantages * clipped).mean()
        return policy_loss + config.vf_coef * ((batch.returns - values) ** 2).mean()

    def step(learner: Learner, t: Array) -> tuple[Learner, None]:
        grads = jax.grad(loss)(learner.params)
        length = jnp.sqrt(sum((grad**2).sum() for grad in grads.values()))
        share = jnp.minimum(1.0, config.max_grad_norm / (length + 1e-6))
        seen, seen_squares = (-jnp.expm1(t * math.log(beta)) for beta in (0.9, 0.999))
        params, means, squares = {}, {}, {}
        for name, grad in grads.items():
            grad *= share
            means[name] = 0.9 * learner.means[name] + 0.1 * grad
            squares[name] = 0.999 * learner.squares[name] + 0.001 * grad**2
            divisor = jnp.sqrt(squares[name] / seen_squares) + 1e-5
            params[name] = learner.params[name] - rate * means[name] / (seen * divisor)
        return Learner(params, means, squares), None

    first = iteration * config.n_epochs + 1
    return lax.scan(step, learner, first + jnp.arange(config.n_epochs))[0]


def train(config: PPOConfig, key: Array) -> tuple[Array, Array]:
    """Return the sums of a run's returns and their numbers, ``(iterations,)``."""
    of_params, of_episodes, of_rollouts = jax.random.split(key, 3)
    params = first_params(config, of_params)
    zeros = jax.tree_util.tree_map(jnp.zeros_like, params)
    x = reset(jax.random.uniform(of_episodes, (config.n_envs, 4)))
    start = Learner(params, zeros, zeros), Episodes(x, jnp.zeros(config.n_envs, jnp.int32))

    def iterate(state: tuple[Learner, Episodes], each: tuple[Array, Array]) -> Any:
        (learner, episodes), (iteration, key) = state, each
        u = jax.random.uniform(key, (config.n_steps, config.n_envs, 5))
        acting = plain(learner.params)
        episodes, batch, ended = rollout(config, acting, episodes, u[..., 0], u[..., 1:])
        learner = update(config, learner, batch, iteration)
        return (learner, episodes), (ended.sum(), (ended > 0).sum())

    keys = jax.random.split(of_rollouts, config.iterations)
    return lax.scan(iterate, start, (jnp.arange(config.iterations), keys))[1]


class Call(NamedTuple):
    """What the training of some runs took, and their episodes of each rollout."""

    seconds: float
    sums: np.ndarray
    """Of returns, ``(P, iterations)``."""
    counts: np.ndarray
    """Of episodes, ``(P, iterations)``."""


def timed(function: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Return the wall seconds of a call, and what it returned."""
    results: list[Any] = []
    seconds = clocked(lambda: results.append(function()), device)[WALL]
    return seconds, results[0]


def in_torch(config: PPOConfig, seeds: range, device: torch.device) -> Call:
    """Train a cohort."""

    def train() -> list[Tensor]:
        cohort = PPO(CartPole(), [replace(config, seed=seed) for seed in seeds], device=device)
        sums, counts = [], []
        for _ in range(config.iterations):
            ended = cohort.iterate()
            sums.append(ended.returns.nansum((1, 2)))
            counts.append((ended.lengths > 0).sum((1, 2)))
        return [torch.stack(each, 1) for each in (sums, counts)]

    seconds, (sums, counts) = timed(train, device)
    return Call(seconds, sums.cpu().numpy(), counts.cpu().numpy())


def in_jax(compiled: Callable[[Array], Any], keys: Array, device: torch.device) -> Call:
    """Train as many runs by a compiled ``train``."""
    seconds, (sums, counts) = timed(lambda: jax.block_until_ready(compiled(keys)), device)
    return Call(seconds, np.asarray(sums), np.asarray(counts))


def returns(calls: Sequence[Call]) -> Iterator[str]:
    """Yield mean and standard error of the runs, of all episodes and of the last tenth's."""
    sums = np.concatenate([call.sums for call in calls], dtype=float)
    counts = np.concatenate([call.counts for call in calls])
    for first in (0, -max(1, sums.shape[1] // 10)):
        means = sums[:, first:].sum(1) / counts[:, first:].sum(1)
        yield f"{means.mean():.1f} ± {means.std(ddof=1) / math.sqrt(len(means)):.1f}"


def row(config: PPOConfig, n_members: int, device: torch.device) -> Iterator[str]:
    """Yield the cells of a row."""
    place = jax.devices(device.type)[device.index or 0]
    keys = jax.device_put(jax.random.split(jax.random.PRNGKey(0), (2, n_members)), place)
    program = jax.jit(jax.vmap(partial(train, config)))
    compiling, compiled = timed(lambda: program.lower(keys[0]).compile(), device)
    ours, theirs = [], []
    for call in range(2):
        seeds = range(call * n_members, (call + 1) * n_members)
        ours.append(in_torch(config, seeds, device))
        theirs.append(in_jax(compiled, keys[call], device))
    seconds, jax_seconds = ours[1].seconds, theirs[1].seconds
    yield from (config.norm, str(n_members))
    yield from (f"{s:.1f}" for s in (ours[0].seconds, seconds, compiling, jax_seconds))
    yield f"{jax_seconds / seconds:.2f}"
    steps = n_members * config.iterations * config.samples
    yield from (f"{steps / s:,.0f}" for s in (seconds, jax_seconds))
    yield from (*returns(ours), *returns(theirs))


COLUMNS = (
    "norm", "members", "ours, first s", "ours, s", "JAX, compiling s", "JAX, s", "JAX / ours",
    "ours, steps/s", "JAX, steps/s",
    "ours, return in training", "ours, last tenth", "JAX, return in training", "JAX, last tenth",
)  # fmt: skip


def main(args: Args) -> None:
    """Measure and print the table, row by row."""
    device = _rounds.prepare(args.device, 1, f"jax {jax.__version__}")
    if device.type == "cpu":
        os.environ["NPROC"] = "1"  # which XLA reads when it is first used
    try:
        jax.devices(device.type)
    except RuntimeError as error:
        remedy = "pip install 'jax[cuda13]', or 'jax[cuda12]'"
        raise UsageError(f"JAX finds no {device.type} here: {remedy}") from error
    length, rate = args.total_timesteps, args.learning_rate
    settings = SETTINGS | {"total_timesteps": length, "learning_rate": rate}
    configs = [PPOConfig.of({**settings, "norm": norm}) for norm in args.norms]
    with jax.default_matmul_precision("highest"):
        rows = (row(config, size, device) for config in configs for size in args.members)
        _rounds.table(COLUMNS, rows)


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__)
