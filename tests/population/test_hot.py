"""The way by formula and the way by vmap: one algorithm."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from gymnasium import spaces

from wnrl.norms import NORMS
from wnrl.population.backend import HotNetworks, Modules
from wnrl.population.config import PPOConfig
from wnrl.population.layers import HOT
from wnrl.population.ppo import PPO
from wnrl.tensor_envs import CartPole

SMALL = PPOConfig(
    total_timesteps=3 * 64,
    n_envs=4,
    n_steps=16,
    batch_size=40,
    n_epochs=2,
    net_arch=(8, 6),
    learning_rate=3e-3,
    learning_rate_schedule="linear",
)


@dataclass(frozen=True)
class Tracking:
    """Two numbers that actions move, to be kept near zero; ends by chance."""

    observation_space: ClassVar[spaces.Box] = spaces.Box(-np.inf, np.inf, (2,))
    action_space: ClassVar[spaces.Box] = spaces.Box(-0.5, 1.0, (2,))
    max_episode_steps: ClassVar[int] = 9
    reset_draws: ClassVar[int] = 2
    step_draws: ClassVar[int] = 1

    def reset(self, u):
        return {"x": 2 * u - 1}

    def observe(self, state):
        return state["x"].clone()

    def step(self, state, actions, u):
        x = state["x"] + actions
        return {"x": x}, -x.square().sum(-1), u[..., 0] < 0.1


CASES = {
    **{norm: {"norm": norm} for norm in HOT},
    **{f"{norm}, relu": {"norm": norm, "activation_fn": "relu"} for norm in HOT},
    "weight on heads": {"norm": "weight", "norm_heads": True},
    "one minibatch": {"norm": "layer", "batch_size": 64},
    "entropy": {"norm": "none", "ent_coef": 0.1},
    "raw advantages": {"norm": "none", "normalize_advantage": False},
    "options": {"norm": "batch", "norm_kwargs": {"eps": 0.1, "momentum": 0.5}},
    "r and d": {
        "norm": "batch_renorm",
        "norm_kwargs": {"warmup_steps": 1, "r_steps": 5, "d_steps": 4, "momentum": 0.5},
    },
    "one layer": {"norm": "rms", "net_arch": (5,), "norm_kwargs": {"eps": 0.2}},
    "no layer": {"norm": "none", "net_arch": ()},
}


@pytest.mark.parametrize("env", [CartPole(), Tracking()], ids=["discrete", "box"])
@pytest.mark.parametrize("case", CASES)
def test_both_ways_lead_to_the_same_parameters(case, env):
    members = [replace(SMALL, seed=seed, **CASES[case]) for seed in range(3)]
    ways = [
        PPO(env, members, dtype=torch.float64, chunk=2, formulas=formulas)
        for formulas in (True, False)
    ]
    assert isinstance(ways[0].networks, HotNetworks)
    assert type(ways[1].networks) is Modules
    start = ways[0].params.clone()
    for _ in range(3):
        for way in ways:
            way.iterate()
    hot, vmapped = ways
    assert (hot.params - start).abs().max() > 1e-3
    torch.testing.assert_close(hot.params, vmapped.params, rtol=0, atol=1e-8)
    torch.testing.assert_close(hot.buffers, vmapped.buffers, rtol=0, atol=1e-8)


@pytest.mark.parametrize("norm", NORMS)
def test_formulas_are_taken_where_there_are_some(norm):
    cohort = PPO(CartPole(), [replace(SMALL, norm=norm)])
    kind = HotNetworks if norm in HOT else Modules
    assert type(cohort.networks) is kind


@pytest.mark.parametrize(
    "change",
    [
        {"norm": "none", "activation_fn": "elu"},
        {"norm": "weight", "norm_kwargs": {"scale": "exp"}},
        {"norm": "weight", "norm_kwargs": {"g_rate": 8.0}},
    ],
)
def test_without_formulas_the_way_is_vmap(change):
    config = replace(SMALL, **change)
    assert type(PPO(CartPole(), [config]).networks) is Modules


def test_the_padding_of_the_critics_head_stays_zero():
    config = replace(SMALL, norm="weight", norm_heads=True)
    cohort = PPO(CartPole(), [config] * 2)
    used = torch.zeros_like(cohort.params)
    for view in cohort.plan.by_sb3s_names(used, cohort.buffers).values():
        view.fill_(1.0)
    assert (used == 0).sum() > 0
    cohort.train()
    assert (cohort.params[used == 0] == 0).all()
