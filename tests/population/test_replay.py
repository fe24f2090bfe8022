"""Iterations as a CUDA graph replays them: the same operations, with the same Python numbers."""

import gc
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils import _pytree as pytree

from tests.emulated import Emulated, Operations
from tests.population import test_ppo, test_recurrent
from wnrl.graphs import Replayed
from wnrl.norms import NORMS
from wnrl.population.ppo import PPO
from wnrl.population.recurrent_ppo import RecurrentPPO
from wnrl.tensor_envs import CartPole, Pendulum, make

SCHEDULES = {
    "learning_rate_schedule": "linear",
    "learning_rate_end": 1e-4,
    "clip_range_schedule": "linear",
}
ITERATIONS = 4
CASES = {
    **{norm: (PPO, CartPole(), {"norm": norm}) for norm in NORMS},
    "scaled": (PPO, CartPole(), {"normalize": "both", "ent_coef": 0.1}),
    "adamw": (PPO, CartPole(), {"norm": "weight", "optimizer": "adamw", "weight_decay": 0.1}),
    "adamax": (PPO, CartPole(), {"optimizer": "adamax"}),
    "gaussian": (PPO, Pendulum(), {"norm": "weight"}),
    "data_init": (PPO, CartPole(), {"norm": "weight", "data_init": 8}),
    "world": (PPO, make("TMaze-obs_noise0.1-delay1-sticky0.1-memory3-v0"), {}),
    **{f"lstm {n}": (RecurrentPPO, CartPole(), {"norm": n}) for n in ("none", "layer")},
    "gru": (RecurrentPPO, CartPole(), {"norm": "weight", "cell": "gru"}),
}


def cohort(kind, env, change, device="cpu"):
    short = {"n_steps": 3, "batch_size": 6, "total_timesteps": ITERATIONS * 12, "n_epochs": 1}
    small = replace((test_ppo if kind is PPO else test_recurrent).SMALL, n_envs=4, **short)
    config = replace(small, **{**SCHEDULES, **change})
    members = [replace(config, seed=seed, learning_rate=1e-3 * (1 + seed)) for seed in range(2)]
    return kind(env, members, device=device)


def state(cohort):
    return pytree.tree_leaves(cohort._kept())


@pytest.mark.parametrize("case", CASES)
def test_replayed_iterations_are_those_that_python_makes(case):
    plain, replayed = (cohort(*CASES[case]) for _ in range(2))
    replayed._replayed = Emulated(replayed._learn, replayed.params.device, lambda: state(replayed))
    for _ in range(ITERATIONS):
        for expected, got in zip(plain.iterate(), replayed.iterate(), strict=True):
            assert torch.equal(expected.nan_to_num(), got.nan_to_num())
    assert all(torch.equal(*each) for each in zip(state(plain), state(replayed), strict=True))


@pytest.mark.parametrize("case", ["weight", "batch", "scaled", "gaussian", "world", "gru"])
def test_replayed_evaluations_are_those_that_python_makes(case, monkeypatch):
    plain, replayed = (cohort(*CASES[case]) for _ in range(2))

    def emulated(play, device):
        (match,) = play.args
        begun = pytree.tree_leaves((match.running, match.lengths, match.alive))
        return Emulated(play, device, lambda: begun)

    monkeypatch.setattr("wnrl.population.cohort.Replayed", emulated)
    replayed.graph = True
    for start in range(ITERATIONS):
        for each in (plain, replayed):
            each.params += 0.01 * start
        expected, got = (each.evaluate(2, start) for each in (plain, replayed))
        assert all(map(torch.equal, expected, got))
        assert (got[1] > 0).all()


@pytest.mark.parametrize("case", sorted({*CASES} - {"spectral"}))  # autocast knows no meta device
def test_an_iteration_has_no_tensor_of_the_cpu(case):
    kind, env, change = CASES[case]
    made = cohort(kind, env, {**change, "data_init": None}, device="meta")
    with Operations() as operations:
        made.iterate()
    assert operations.devices == {"meta"}


def test_what_a_replay_returns_is_left_alone_by_the_next():
    made = cohort(*CASES["none"])
    made._replayed = Emulated(made._learn, made.params.device, lambda: state(made))
    ended = [made.iterate() for _ in range(ITERATIONS)]
    assert len({each.lengths.data_ptr() for each in ended}) == ITERATIONS


def test_a_number_that_python_keeps_is_found_by_the_emulation():
    made, steps = torch.zeros(2), iter(range(10))
    replayed = Emulated(lambda k: made.add_(next(steps)).clone(), made.device, lambda: [made])
    outputs = [replayed(k)[0].item() for k in range(ITERATIONS)]
    assert outputs == [0, 1, 3, 5]  # and not 6


def test_nothing_is_collected_while_a_graph_is_recorded(monkeypatch):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, stream: nullcontext())
    replayed = Replayed(gc.isenabled, torch.device("cpu"))
    replayed.stream = None
    assert replayed.record()() is False
    assert gc.isenabled()
