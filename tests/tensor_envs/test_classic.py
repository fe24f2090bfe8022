"""The tensor environments against Gymnasium's own, in float64."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import continuous_mountain_car

from wnrl.tensor_envs import make
from wnrl.tensor_envs.core import advance, begin

N_ENVS, N_STEPS = 10, 1000
STATE = {
    "CartPole-v1": ("x",),
    "Acrobot-v1": ("x",),
    "MountainCar-v0": ("position", "velocity"),
    "MountainCarContinuous-v0": ("position", "velocity"),
    "Pendulum-v1": ("angle", "spin"),
}
"""The leaves that in this order are Gymnasium's attribute ``state``."""
IN_DOUBLE = SimpleNamespace(array=np.array, float32=np.float64)
"""What the continuous mountain car takes for numpy, so that its state is not rounded."""
NEVER = {"CartPole-v1": "truncated", "Pendulum-v1": "terminated"}
"""What does not happen within these steps."""


def to_gymnasium(env_id, state):
    """Return Gymnasium's states, ``(N_ENVS, n)``."""
    leaves = [state[name] for name in STATE[env_id]]
    return (torch.stack(leaves, -1) if len(leaves) > 1 else leaves[0]).numpy()


def random_actions(env, state, generator):
    """Return random actions; those of the second half follow the motion more often than not."""
    velocity = state["velocity"] if "velocity" in state else list(state.values())[-1]
    velocity = velocity[..., -1] if velocity.dim() > 1 else velocity
    u = torch.rand(N_ENVS, generator=generator, dtype=torch.float64)
    u[N_ENVS // 2 :] = 0.3 * u[N_ENVS // 2 :] + 0.7 * (velocity[N_ENVS // 2 :] > 0)
    if isinstance(env.action_space, gym.spaces.Discrete):
        return (u * int(env.action_space.n)).long()
    return (u[:, None] * 2 - 1) * 1.2 * float(env.action_space.high[0])  # beyond the bounds too


def stepped(oracle, state, actions):
    """Step Gymnasium's environment from ``state``; return its next state and what it says."""
    oracle.unwrapped.state = state
    obs, reward, terminated, truncated, _ = oracle.step(actions)
    after = oracle.unwrapped.state
    if terminated or truncated:
        oracle.reset()
    return after, obs, reward, terminated, truncated and not terminated


@pytest.mark.parametrize("env_id", STATE)
def test_ten_thousand_steps_are_those_of_gymnasium(env_id, monkeypatch):
    oracles = [gym.make(env_id, disable_env_checker=True) for _ in range(N_ENVS)]
    monkeypatch.setattr(continuous_mountain_car, "np", IN_DOUBLE)
    for oracle in oracles:
        oracle.reset()
    env, generator = make(env_id), torch.Generator().manual_seed(0)
    shape = (N_STEPS + 1, N_ENVS, env.reset_draws)
    draws = torch.rand(shape, generator=generator, dtype=torch.float64)
    episodes = begin(env, draws[0])
    ours, theirs = [], []
    for u in draws[1:]:
        actions = random_actions(env, episodes.state, generator)
        before = to_gymnasium(env_id, episodes.state)
        episodes, step = advance(env, episodes, actions, u)
        ours.append((to_gymnasium(env_id, episodes.state), step.final_obs, *step[:3]))
        theirs.append([*map(stepped, oracles, before, actions.numpy())])
    ours = [np.stack(part) for part in zip(*ours, strict=True)]
    theirs = [
        np.stack(part) for part in zip(*(zip(*envs, strict=True) for envs in theirs), strict=True)
    ]
    for end, (our_ends, their_ends) in enumerate(zip(ours[3:], theirs[3:], strict=True)):
        np.testing.assert_array_equal(our_ends, their_ends)
        assert our_ends.any() == (NEVER.get(env_id) != ("terminated", "truncated")[end])
    going_on = ~(ours[3] | ours[4])
    np.testing.assert_allclose(ours[0][going_on], theirs[0][going_on], rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=2e-7, atol=1e-12)  # theirs is in float32
    np.testing.assert_allclose(ours[2], theirs[2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("env_id", STATE)
def test_spaces_and_limits_are_those_of_gymnasium(env_id):
    env, oracle = make(env_id), gym.make(env_id)
    assert env.observation_space == oracle.observation_space
    assert env.action_space == oracle.action_space
    assert env.max_episode_steps == gym.spec(env_id).max_episode_steps


@pytest.mark.parametrize("env_id", STATE)
def test_a_reset_with_the_draws_of_gymnasium_is_that_of_gymnasium(env_id):
    env, oracle = make(env_id), gym.make(env_id).unwrapped
    for seed in range(10):
        oracle.reset(seed=seed)
        u = np.random.Generator(np.random.PCG64(seed)).random(env.reset_draws)
        ours = to_gymnasium(env_id, env.reset(torch.from_numpy(u)))
        rounded = 1e-8 if env_id == "Acrobot-v1" else 1e-12  # whose first state is in float32
        np.testing.assert_allclose(ours, oracle.state, rtol=0, atol=rounded)


def car_near(position, velocity):
    """Return the state from which a car that is not pushed comes to this place and velocity."""
    before = position - velocity
    return [before, velocity + 0.0025 * np.cos(3 * before)]


EDGES = {
    "CartPole-v1": [
        *([sign * (2.4 + off), 0, 0, 0] for sign in (-1, 1) for off in (-1e-9, 1e-9)),
        *([0, 0, sign * (np.pi / 15 + off), 0] for sign in (-1, 1) for off in (-1e-9, 1e-9)),
    ],
    "MountainCar-v0": [
        *(car_near(0.5 + off, 0.05) for off in (-1e-9, 1e-9)),
        *(car_near(0.55, off) for off in (-1e-9, 1e-9)),
        car_near(-1.21, -0.02),
    ],
    "MountainCarContinuous-v0": [
        *(car_near(0.45 + off, 0.05) for off in (-1e-9, 1e-9)),
        *(car_near(0.55, off) for off in (-1e-9, 1e-9)),
        car_near(-1.21, -0.02),
    ],
}
"""States from which a step leads to both sides of a limit."""


@pytest.mark.parametrize("env_id", EDGES)
def test_limits_are_to_the_last_digit_those_of_gymnasium(env_id, monkeypatch):
    env, oracle = make(env_id), gym.make(env_id).unwrapped
    monkeypatch.setattr(continuous_mountain_car, "np", IN_DOUBLE)
    oracle.reset()
    before = np.array(EDGES[env_id])
    discrete = {"CartPole-v1": 0, "MountainCar-v0": 1}
    action = discrete.get(env_id, np.zeros(1))
    leaves = [before] if len(STATE[env_id]) == 1 else before.T
    state = {name: torch.from_numpy(np.ascontiguousarray(leaf))
             for name, leaf in zip(STATE[env_id], leaves, strict=True)}  # fmt: skip
    actions = torch.from_numpy(np.stack([action] * len(before)))
    after, _, terminated = env.step(state, actions, torch.zeros(len(before), 0))
    theirs = [stepped(oracle, each, action) for each in before]
    np.testing.assert_allclose(to_gymnasium(env_id, after), [each[0] for each in theirs], 0, 1e-12)
    assert terminated.tolist() == [each[3] for each in theirs]
    assert 0 < terminated.sum() < len(before)
