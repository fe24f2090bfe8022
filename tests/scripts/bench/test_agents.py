import re
from contextlib import nullcontext

import numpy as np
import pytest
import torch

import scripts.bench.agents as bench
from agents import AGENTS
from scripts.bench.agents import STOCK, TASKS, Args, Task, build, main, rows, steps_a_cycle

ALGOS = tuple(dict.fromkeys(task.algo for task in TASKS))


@pytest.fixture
def tiny(monkeypatch):
    """Tasks of a few steps, on whatever number of threads the tests have."""
    change = {
        "ppo": {"n_steps": 8, "n_epochs": 1, "batch_size": 64},
        "dqn": {"learning_starts": 4, "train_freq": 4, "gradient_steps": 1},
    }
    tasks = [Task(f"tiny {algo}", algo, "CartPole-v1", change[algo]) for algo in change]
    monkeypatch.setattr(bench, "TASKS", tasks)
    monkeypatch.setattr(bench, "SEGMENT", 0.0)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)


def test_a_small_run_prints_a_line_for_each_algorithm_and_norm(tiny, capsys):
    main(Args(algos=("ppo", "dqn"), norms=("none", "weight"), seconds=0.01))
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[4:]]
    assert [(line[0], line[1]) for line in lines] == [
        ("| tiny ppo", "none"),
        ("| tiny ppo", "weight"),
        ("| tiny dqn", "none"),
        ("| tiny dqn", "weight"),
    ]
    for line in lines:
        assert all(re.fullmatch(r"\d+\.\d\d ± \d+\.\d\d", cell) for cell in line[2:4])
        assert int(line[4]) > 0
        assert int(line[5].strip("| ")) > 0


def test_ours_alone_is_compiled(tiny, monkeypatch):
    compiled = []

    def noted(model, methods):
        compiled.append((type(model.policy).__module__, methods))
        return nullcontext()

    monkeypatch.setattr(bench, "compiled_updates", noted)
    main(Args(algos=("dqn",), norms=("weight",), seconds=0.01, compile=True))
    assert compiled == [("wnrl.sb3.q_network", AGENTS["dqn"].compiled)]


def test_the_task_that_is_slow_and_needs_another_package_takes_nothing_from_the_others():
    assert [task for task in TASKS if task.env_id.startswith("ALE/")] == [TASKS[-1]]


def described(parameter):
    return tuple(parameter.shape), parameter.abs().sum().item()


@pytest.mark.parametrize("task", TASKS, ids=[task.name for task in TASKS])
def test_stock_has_the_hyperparameters_and_the_initial_network_of_ours(task):
    args = Args()
    norm = "batch_renorm" if task.algo == "crossq" else "none"  # what stock's has
    stock, ours = build(task, STOCK, args), build(task, norm, args)
    assert type(stock) is type(ours)
    assert "wnrl" not in type(stock.policy).__module__
    given = task.config.algorithm_arguments()
    for name in given:
        left, right = getattr(stock, name), getattr(ours, name)
        assert str(left) == str(right), name
    left, right = (sorted(model.policy.parameters(), key=described) for model in (stock, ours))
    assert len(left) == len(right)
    assert all(torch.equal(*pair) for pair in zip(left, right, strict=True))
    assert stock.n_envs == ours.n_envs == task.config.n_envs


@pytest.mark.parametrize("algo", ALGOS)
def test_every_round_updates_the_networks(monkeypatch, algo):
    """An off-policy agent that is still filling its buffer would be timed without learning."""
    task = next(task for task in TASKS if task.algo == algo)
    config = task.config
    small = {
        name: value
        for name, value in {
            "n_steps": 4, "n_epochs": 1, "learning_starts": 6, "train_freq": 2, "gradient_steps": 1,
            "batch_size": 8,
        }.items()
        if name in AGENTS[algo].config.__dataclass_fields__
        and not (name == "n_steps" and hasattr(config, "train_freq"))
    }  # fmt: skip
    task = Task("small", algo, task.env_id, small)
    updates = {}

    def recording(model, steps):
        before = model._n_updates
        model.learn(steps, reset_num_timesteps=False)
        updates.setdefault(id(model), []).append(model._n_updates - before)
        return [1.0, 1.0]

    monkeypatch.setattr(bench, "train", recording)
    times, steps = bench.measure(task, Args(norms=("weight",), seconds=1e-6))
    assert steps == steps_a_cycle(task.config)
    assert {name: arm.tolist() for name, arm in times.items()} == {
        STOCK: [[1.0, 1.0]] * 3, "weight": [[1.0, 1.0]] * 3,
    }  # fmt: skip
    assert len(updates) == 2
    for counts in updates.values():
        assert min(counts) > 0


def test_a_round_holds_whole_cycles_of_delayed_updates():
    assert steps_a_cycle(AGENTS["crossq"].config(policy_delay=3)) == 3
    assert steps_a_cycle(AGENTS["dqn"].config(train_freq=4, n_envs=2)) == 8
    assert steps_a_cycle(AGENTS["ppo"].config(n_steps=16, n_envs=4)) == 64


def test_a_row_holds_wall_time_cpu_time_and_speeds():
    task = Task("PPO", "ppo", "CartPole-v1")
    seconds = {STOCK: (2.0, 1.0), "weight": (1.0, 2.0), "none": (0.5, 0.5)}
    times = {name: np.array([pair] * 3) for name, pair in seconds.items()}
    assert list(rows(task, times, 100)) == [
        ("PPO", "weight", "2.00 ± 0.00", "0.50 ± 0.00", "50", "100"),
        ("PPO", "none", "4.00 ± 0.00", "2.00 ± 0.00", "50", "200"),
    ]
