"""Cohorts on a GPU: as on the CPU, replayed as they are launched, and never waited for."""

from dataclasses import replace

import pytest
import torch

from tests.population.test_replay import CASES, GRAPHED, ITERATIONS, cohort, state
from wnrl.population.config import DQNConfig, PPOConfig
from wnrl.population.ppo import PPO
from wnrl.tensor_envs import CartPole

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
]
every_case = pytest.mark.parametrize("case", CASES)


@every_case
def test_a_gpu_begins_as_a_cpu(case, monkeypatch):
    for config in (PPOConfig, DQNConfig):  # a gradient that is nothing but rounding moves nothing
        monkeypatch.setattr(config, "adam_eps", 1e-2)
    on_cpu, on_gpu = cohort(*CASES[case]), cohort(*CASES[case], device="cuda")
    on_cpu.iterate()
    on_gpu.iterate()
    # An action that falls on the other side of a rounding error would be another trajectory.
    torch.testing.assert_close(on_gpu.running.episodes.obs.cpu(), on_cpu.running.episodes.obs)
    torch.testing.assert_close(on_gpu.params.cpu(), on_cpu.params, rtol=0, atol=2e-4)


@every_case
def test_a_cuda_graph_replays_what_is_launched_otherwise(case):
    launched, replayed = (cohort(*CASES[case], device="cuda") for _ in range(2))
    for name in GRAPHED:
        if graphed := getattr(launched, name, None):
            graphed.record = lambda graphed=graphed: graphed.warm_up
    for _ in range(ITERATIONS):
        for expected, got in zip(launched.iterate(), replayed.iterate(), strict=True):
            assert torch.equal(expected.nan_to_num(), got.nan_to_num())
    for expected, got in zip(state(launched), state(replayed), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@every_case
def test_evaluations_are_those_of_a_cpu(case):
    on_cpu, on_gpu, launched = (cohort(*CASES[case], device=d) for d in ("cpu", "cuda", "cuda"))
    launched.graph = False
    for start in range(ITERATIONS):
        (_, expected), (returns, lengths) = (on_cpu.evaluate(4, start), on_gpu.evaluate(4, start))
        again = launched.evaluate(4, start)
        assert torch.equal(lengths, again[1])
        torch.testing.assert_close(returns, again[0], rtol=1e-5, atol=1e-4)
        # A rounding error may lead to another action, and from there to another episode.
        assert (lengths.cpu() == expected).float().mean() >= 0.75


@every_case
def test_iterations_never_wait_for_the_gpu(case):
    made = cohort(*CASES[case], device="cuda")
    for _ in range(ITERATIONS - 1):
        made.iterate()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        made.iterate()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@every_case
def test_a_cohort_goes_on_from_its_state_on_either_device(case):
    made, on_cpu, again = (cohort(*CASES[case], device=d) for d in ("cuda", "cpu", "cuda"))
    for _ in range(ITERATIONS):
        made.iterate()
    on_cpu.restore(made.state())
    again.iterate()
    again.restore(on_cpu.state())
    for expected, got in zip(state(made), state(again), strict=True):
        assert torch.equal(expected, got)
    for each in (made, on_cpu, again):
        each.iterate()
    torch.testing.assert_close(again.params, made.params, rtol=0, atol=1e-5)
    torch.testing.assert_close(on_cpu.params, made.params.cpu(), rtol=0, atol=2e-3)


def test_companions_change_a_step_by_rounding_alone():
    config = PPOConfig(
        total_timesteps=256, n_envs=8, n_steps=32, batch_size=256, n_epochs=1, norm="weight"
    )
    few, many = (
        PPO(CartPole(), [replace(config, seed=seed) for seed in range(n)], device="cuda")
        for n in (1, 240)
    )
    few.iterate()
    many.iterate()
    torch.testing.assert_close(few.params[0], many.params[0], rtol=0, atol=1e-6)
