"""The tensor environments against Gymnasium's own, in float64."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from wnrl.tensor_envs import make
from wnrl.tensor_envs.core import advance, begin

N_ENVS, N_STEPS = 10, 1000


def cart_pole(state):
    return state["x"].numpy()


TO_GYMNASIUM = {"CartPole-v1": cart_pole}
"""From the leaves of one environment's state to Gymnasium's attribute ``state``."""


@pytest.mark.parametrize("env_id", TO_GYMNASIUM)
def test_ten_thousand_steps_are_those_of_gymnasium(env_id):
    env = make(env_id)
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(
        N_STEPS + 1, N_ENVS, env.reset_draws, generator=generator, dtype=torch.float64
    )
    episodes = begin(env, draws[0])
    oracles = [gym.make(env_id, disable_env_checker=True) for _ in range(N_ENVS)]

    def to_gymnasium(k):
        return TO_GYMNASIUM[env_id]({name: leaf[k] for name, leaf in episodes.state.items()})

    for k, oracle in enumerate(oracles):
        oracle.reset()
        oracle.unwrapped.state = to_gymnasium(k)
    ends = {"terminated": 0, "truncated": 0}
    for t in range(1, N_STEPS + 1):
        actions = torch.randint(2, (N_ENVS,), generator=generator)
        episodes, step = advance(env, episodes, actions, draws[t])
        for k, oracle in enumerate(oracles):
            obs, reward, terminated, truncated, _ = oracle.step(actions[k].numpy())
            truncated = truncated and not terminated
            assert (bool(step.terminated[k]), bool(step.truncated[k])) == (terminated, truncated)
            assert abs(float(step.rewards[k]) - reward) <= 1e-12
            np.testing.assert_allclose(step.final_obs[k], obs, rtol=2e-7, atol=1e-12)
            if terminated or truncated:
                ends["terminated" if terminated else "truncated"] += 1
                oracle.reset()
                oracle.unwrapped.state = to_gymnasium(k)
            else:
                np.testing.assert_allclose(to_gymnasium(k), oracle.unwrapped.state, 0, 1e-12)
    assert ends["terminated"]
