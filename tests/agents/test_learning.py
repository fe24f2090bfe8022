import dataclasses
from contextlib import closing

import numpy as np
import pytest

import envs
from agents import AGENTS
from wnrl.rl.environments import FINAL_STARTS, first_env_seed, vectorize, vectorize_for_evaluation
from wnrl.rl.evaluation import evaluate

pytestmark = pytest.mark.slow


def final_return(algo, env_id, norm, seed=0, **changes):
    """The mean return of 50 episodes after training with the preset, less changes."""
    agent = AGENTS[algo]
    config = dataclasses.replace(agent.preset(env_id), **changes)
    make = envs.factory(env_id)
    with closing(vectorize(make, config.n_envs, 0, config.normalize, config.gamma)) as env:
        model = agent.build(config, env, norm, seed, "cpu").learn(config.total_timesteps)
        with closing(vectorize_for_evaluation(make, 10, model.env)) as other:
            returns, _ = evaluate(model, other, 50, first_env_seed(seed) + FINAL_STARTS)
    return np.mean(returns)


@pytest.mark.parametrize("norm", ["none", "weight"])
def test_an_lstm_remembers_where_to_turn(norm):
    assert final_return("recurrent_ppo", "TMaze-memory4-v0", norm, learning_rate=3e-4) > 0.8


def test_a_policy_without_memory_can_only_guess_where_to_turn():
    assert final_return("ppo", "TMaze-v0", "none") < 0.4


@pytest.mark.parametrize("norm", ["none", "weight"])
def test_sac_swings_the_pendulum_up(norm):
    assert final_return("sac", "Pendulum-v1", norm) >= -200


@pytest.mark.parametrize("norm", ["batch_renorm", "projected"])
def test_crossq_swings_the_pendulum_up(norm):
    assert final_return("crossq", "Pendulum-v1", norm) >= -200


@pytest.mark.parametrize(
    ("norm", "changes"),
    [
        ("weight", {"total_timesteps": 5_000}),  # without a normalizer
        ("projected", {"total_timesteps": 1_200, "gradient_steps": 5}),
    ],
)
def test_crossq_with_a_target_swings_the_pendulum_up(norm, changes):
    small = {"net_arch": (128, 128), "critic_arch": (256, 256), "batch_size": 64, "tau": 0.005}
    assert final_return("crossq", "Pendulum-v1", norm, **small, **changes) >= -300
