"""The tensor environments against Gymnasium's own, in float64."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import continuous_mountain_car
from scipy.stats import ks_2samp

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
    in_double = SimpleNamespace(array=np.array, float32=np.float64)  # which is not rounded
    monkeypatch.setattr(continuous_mountain_car, "np", in_double)
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
def test_first_observations_are_distributed_as_those_of_gymnasium(env_id):
    env, oracle = make(env_id), gym.make(env_id)
    theirs = np.stack([oracle.reset(seed=k)[0] for k in range(400)])
    ours = begin(env, torch.rand(400, env.reset_draws)).obs.numpy()
    for column in range(ours.shape[1]):
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
