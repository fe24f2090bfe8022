"""SB3's PPO on CartPole in JAX, which ``jax_population.py`` measures a cohort against."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import torch
from jax import Array, lax
from jax import numpy as jnp
from jax.example_libraries import optimizers

from wnrl.errors import UsageError
from wnrl.population.config import PPOConfig
from wnrl.tensor_envs import CartPole

Params = dict[str, Array]
"""Of actor and critic, ``(2, ...)``, by the names of ``ActorCritic.network()``. The critic's head
has a second output, which stays zero and is not read."""


Episodes = tuple[Array, Array]
"""Where the environments of a run stand, ``(N, 4)``, and the steps of their present episodes, which
are their returns too, ``(N,)``."""
Batch = tuple[Array, ...]
"""Observations, actions, log-probabilities, advantages and returns of samples, ``(B, ...)``."""


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
        after = jnp.where(ended[:, None], reset(u[1]), final), jnp.where(ended, 0, steps)
        return after, (x, actions, logits, values, final, ended, ended & ~fallen, steps)

    episodes, columns = lax.scan(step, episodes, (u_actions, u_resets))
    obs, actions, logits, values, final, ended, truncated, steps = columns
    # An environment is cut at most once in a rollout, which is shorter than the time limit.
    seen = jnp.take_along_axis(final, truncated.argmax(0)[None, :, None], 0)[0]
    rewards = 1 + config.gamma * jnp.where(truncated, networks(weights, seen)[1], 0.0)
    advantages = gae(config, rewards, values, networks(weights, episodes[0])[1], ended)
    obs, actions, logits, values, advantages = (
        value.reshape(-1, *value.shape[2:]) for value in (obs, actions, logits, values, advantages)
    )
    batch = obs, actions, log_prob(logits, actions), advantages, advantages + values
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


def left(config: PPOConfig, iteration: Array) -> Array:
    """Return the share of training that is left after the rollout of an iteration."""
    return jnp.maximum(0.0, 1 - (iteration + 1) * (config.samples / config.total_timesteps))


def adam(config: PPOConfig) -> optimizers.Optimizer:
    """Return torch's Adam, whose learning rate falls with each iteration."""

    def rate(step: Array) -> Array:
        return config.learning_rate * left(config, step // config.n_epochs)

    return optimizers.adam(rate, eps=1e-5)


def update(config: PPOConfig, learner: Any, batch: Batch, iteration: Array) -> Any:
    """Learn from the samples of a rollout, all of them at each step; ``learner`` is Adam's."""
    _, adam_step, params_of = adam(config)
    clip_range = config.clip_range * left(config, iteration)
    obs, actions, old_log_probs, advantages, returns = batch
    advantages = (advantages - advantages.mean()) / (advantages.std(ddof=1) + 1e-8)

    def loss(params: Params) -> Array:
        logits, values = networks(plain(params), obs)
        ratio = jnp.exp(log_prob(logits, actions) - old_log_probs)
        clipped = jnp.clip(ratio, 1 - clip_range, 1 + clip_range)
        policy_loss = -jnp.minimum(advantages * ratio, advantages * clipped).mean()
        return policy_loss + config.vf_coef * ((returns - values) ** 2).mean()

    def step(learner: Any, t: Array) -> tuple[Any, None]:
        grads = optimizers.clip_grads(jax.grad(loss)(params_of(learner)), config.max_grad_norm)
        return adam_step(t, grads, learner), None

    first = iteration * config.n_epochs
    return lax.scan(step, learner, first + jnp.arange(config.n_epochs))[0]


def train(config: PPOConfig, key: Array) -> tuple[Array, Array]:
    """Return the sums of a run's returns and their numbers, ``(iterations,)``."""
    of_params, of_episodes, of_rollouts = jax.random.split(key, 3)
    first_learner, _, params_of = adam(config)
    learner = first_learner(first_params(config, of_params))
    x = reset(jax.random.uniform(of_episodes, (config.n_envs, 4)))
    start = learner, (x, jnp.zeros(config.n_envs, jnp.int32))

    def iterate(state: tuple[Any, Episodes], each: tuple[Array, Array]) -> Any:
        (learner, episodes), (iteration, key) = state, each
        u = jax.random.uniform(key, (config.n_steps, config.n_envs, 5))
        acting = plain(params_of(learner))
        episodes, batch, ended = rollout(config, acting, episodes, u[..., 0], u[..., 1:])
        learner = update(config, learner, batch, iteration)
        return (learner, episodes), (ended.sum(), (ended > 0).sum())

    keys = jax.random.split(of_rollouts, config.iterations)
    return lax.scan(iterate, start, (jnp.arange(config.iterations), keys))[1]


def compiled(config: PPOConfig, n_members: int, device: torch.device) -> Callable[[int], Any]:
    """Return the training of so many runs, compiled: of 0 or 1, each with seeds of its own.

    What it returns is what ``train`` does, ``(P, iterations)``.

    Raises:
        UsageError: JAX does not find the device.
    """
    try:
        place = jax.devices(device.type)[device.index or 0]
    except RuntimeError as error:
        remedy = "pip install 'jax[cuda13]', or 'jax[cuda12]'"
        raise UsageError(f"JAX finds no {device.type} here: {remedy}") from error
    keys = jax.device_put(jax.random.split(jax.random.PRNGKey(0), (2, n_members)), place)
    with jax.default_matmul_precision("highest"):
        program = jax.jit(jax.vmap(partial(train, config))).lower(keys[0]).compile()
    return lambda call: jax.block_until_ready(program(keys[call]))
