"""SB3's own draws put into the engine: the same trajectories and the same parameters."""

import numpy as np
import pytest
import torch

import wnrl.sb3  # noqa: F401  # registers the policies
from tests.population.sb3_draws import ShortCartPole, run_sb3
from wnrl.norms import NORMS
from wnrl.population.ppo import PPO
from wnrl.population.ppo_config import PPOConfig
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
    ended = 0
    for k, each in enumerate(draws):
        start = cohort.scaling.obs(cohort.statistics, cohort.running.episodes.obs)[0]
        torch.testing.assert_close(start, record.obs[k * config.n_steps], rtol=0, atol=1e-5)
        ended += (cohort.iterate(each).lengths == 25).sum()
        state, statistics = cohort.member_state(0), cohort.member_statistics(0)
        assert (statistics or {}).keys() == (record.statistics[k] or {}).keys()
        for name, value in (statistics or {}).items():
            np.testing.assert_allclose(value, record.statistics[k][name], 1e-4, 1e-5, err_msg=name)
        for name, value in record.states[k].items():
            if name != "data_initialised":
                torch.testing.assert_close(
                    state[name].to(value.dtype), value, rtol=0, atol=2e-5, msg=f"{name} after {k}"
                )
    assert ended > 0, "no episode reached the time limit"
