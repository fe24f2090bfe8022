"""SB3's own draws put into the engine: the same trajectories and the same parameters."""

import pytest

import wnrl.sb3  # noqa: F401  # registers the policies
from tests.population.sb3_draws import (
    ShortCartPole,
    ShortPendulum,
    assert_member_is_sb3s,
    run_sb3,
)
from wnrl.norms import NORMS
from wnrl.population.config import PPOConfig
from wnrl.population.ppo import PPO
from wnrl.tensor_envs.core import begin

SMALL = {
    "total_timesteps": 4 * 128,
    "n_envs": 4,
    "n_steps": 32,
    "batch_size": 48,  # the last minibatch is smaller
    "n_epochs": 3,
    "net_arch": (16, 16),
    "learning_rate": 1e-3,
    "gae_lambda": 0.8,
    "gamma": 0.98,
    "seed": 3,
}
STOCK = ("MlpPolicy", {})


def ours(norm, **arguments):
    return "WNMlpPolicy", {"norm": norm, **arguments}


CASES = {
    "stock": ({}, STOCK),
    "schedules": ({"learning_rate_schedule": "linear", "clip_range_schedule": "linear"}, STOCK),
    "entropy, raw advantages": ({"ent_coef": 0.1, "normalize_advantage": False}, STOCK),
    **{f"scaled {kind}": ({"normalize": kind}, STOCK) for kind in ("obs", "reward", "both")},
    **{norm: ({"norm": norm}, ours(norm)) for norm in NORMS},
    "weight on heads": (
        {"norm": "weight", "norm_heads": True},
        ours("weight", norm_heads=True),
    ),
    "options of batch norm": (
        {"norm": "batch", "norm_kwargs": {"momentum": 0.3}},
        ours("batch", norm_kwargs={"momentum": 0.3}),
    ),
    "data_init": ({"norm": "weight", "data_init": 128}, ours("weight", data_init=128)),
}


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize("case", CASES)
def test_with_sb3s_draws_a_member_is_sb3s_agent(case, monkeypatch):
    change, policy = CASES[case]
    config = PPOConfig(**{**SMALL, **change})
    resets, draws, record = run_sb3(config, policy, monkeypatch)
    cohort = PPO(ShortCartPole(), [config])
    cohort.start(begin(cohort.env, resets))
    assert_member_is_sb3s(cohort, draws, record)


BOX_CASES = {
    case: CASES[case]
    for case in ("stock", "entropy, raw advantages", "scaled both", "weight", "layer", "batch")
}


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize("case", BOX_CASES)
def test_with_sb3s_draws_of_real_actions_a_member_is_sb3s_agent(case, monkeypatch):
    change, policy = BOX_CASES[case]
    config = PPOConfig(**{**SMALL, **change})
    resets, draws, record = run_sb3(config, policy, monkeypatch, env_id="Pendulum-v1")
    cohort = PPO(ShortPendulum(), [config])
    cohort.start(begin(cohort.env, resets))
    assert_member_is_sb3s(cohort, draws, record)
