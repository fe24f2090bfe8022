"""Iterations as a CUDA graph replays them: the same operations, with the same Python numbers."""

import gc
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils import _pytree as pytree

from tests.emulated import Emulated, Operations
from tests.population import test_dqn, test_ppo, test_recurrent
from wnrl.graphs import Replayed
from wnrl.norms import NORMS
from wnrl.population.dqn import DQN
from wnrl.population.ppo import PPO
from wnrl.population.recurrent_ppo import RecurrentPPO
from wnrl.tensor_envs import CartPole, Pendulum, make

SCHEDULES = {
    "learning_rate_schedule": "linear",
    "learning_rate_end": 1e-4,
}
ITERATIONS = 5
SHORT = {"total_timesteps": ITERATIONS * 12, "n_envs": 4, "batch_size": 6, **SCHEDULES}
ON_POLICY = {**SHORT, "n_steps": 3, "n_epochs": 1, "clip_range_schedule": "linear"}
OFF_POLICY = {"train_freq": 3, "buffer_size": 40, "learning_starts": 6, "target_update_interval": 5}
SMALL = {
    PPO: replace(test_ppo.SMALL, **ON_POLICY),
    RecurrentPPO: replace(test_recurrent.SMALL, **ON_POLICY),
    DQN: replace(test_dqn.SMALL, **SHORT, **OFF_POLICY),
}
PICTURES, WITH_PICTURES = make("MinAtarBreakout-v1"), ("none", "weight", "batch", "layer")
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
    **{f"dqn {norm}": (DQN, CartPole(), {"norm": norm}) for norm in NORMS},
    **{f"pictures {n}": (DQN, PICTURES, {"norm": n, "net_arch": ()}) for n in WITH_PICTURES},
    "dqn, data_init": (DQN, CartPole(), {"norm": "weight", "data_init": 6, "n_envs": 1}),
}


def cohort(kind, env, change, device="cpu"):
    config = replace(SMALL[kind], **change)
    members = [replace(config, seed=seed, learning_rate=1e-3 * (1 + seed)) for seed in range(2)]
    return kind(env, members, device=device)


def state(cohort):
    return pytree.tree_leaves(cohort._kept())


GRAPHED = {"_learned": "_learn", "_explored": "_explore"}
"""What a cohort replays, and what it is recorded from."""


def emulate(cohort):
    for name, function in GRAPHED.items():
        if hasattr(cohort, name):
            recorded = getattr(cohort, function)
            setattr(cohort, name, Emulated(recorded, cohort.params.device, lambda: state(cohort)))


@pytest.mark.parametrize("case", CASES)
def test_replayed_iterations_are_those_that_python_makes(case):
    plain, replayed = (cohort(*CASES[case]) for _ in range(2))
    emulate(replayed)
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


NO_SPECTRAL = sorted({*CASES} - {"spectral", "dqn spectral"})  # autocast knows no meta device


@pytest.mark.parametrize("case", NO_SPECTRAL)
def test_an_iteration_has_no_tensor_of_the_cpu(case):
    kind, env, change = CASES[case]
    made = cohort(kind, env, {**change, "data_init": None}, device="meta")
    made.iterate()  # which makes what is made once
    with Operations() as operations:
        made.iterate()
    assert operations.devices == {"meta"}


def test_what_a_replay_returns_is_left_alone_by_the_next():
    made = cohort(*CASES["none"])
    emulate(made)
    ended = [made.iterate() for _ in range(ITERATIONS)]
    assert len({each.lengths.data_ptr() for each in ended}) == ITERATIONS


def test_a_number_that_python_keeps_is_found_by_the_emulation():
    made, steps = torch.zeros(2), iter(range(10))
    replayed = Emulated(lambda k: made.add_(next(steps)).clone(), made.device, lambda: [made])
    outputs = [replayed(k)[0].item() for k in range(4)]
    assert outputs == [0, 1, 3, 5]  # and not 6


def test_nothing_is_collected_while_a_graph_is_recorded_and_its_stream_is_waited_for(monkeypatch):
    around = SimpleNamespace(wait_stream=(waited_for := []).append)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: around)
    replayed = Replayed(gc.isenabled, torch.device("cpu"))
    replayed.stream = "its own"
    assert replayed.record()() is False
    assert gc.isenabled()
    assert waited_for == ["its own"]
