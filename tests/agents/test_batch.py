"""Agents that are trained as one batch and leave the folders of ordinary runs."""

import itertools
import os
import re
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import agents.run
from agents.run import batching, factory_of, load_run, train, train_batch
from wnrl import tensor_envs
from wnrl.diagnostics import recorded, to_floats, weight_lengths
from wnrl.population import COHORTS
from wnrl.rl.environments import vectorize
from wnrl.rl.models import to_sb3
from wnrl.rl.statistics import load_statistics
from wnrl.runs import Stopped, read_config, read_json
from wnrl.study import RETURN, Arm, Study, Task

SMALL = {"total_timesteps": 192, "n_envs": 2, "batch_size": 16, "net_arch": [8],
         "eval_episodes": 3, "eval_points": 3, "eval_point_episodes": 2}  # fmt: skip
ON_POLICY = {"n_steps": 16, "n_epochs": 2}
OFF_POLICY = {"train_freq": 8, "buffer_size": 150, "learning_starts": 40, "gradient_steps": 2,
              "target_update_interval": 20}  # fmt: skip


def trials(norm="weight", n_seeds=3, env_id="CartPole-v1", algo="ppo", axes=None, **values):
    sizes = {**SMALL, **(OFF_POLICY if algo == "dqn" else ON_POLICY), "device": "cpu"}
    task = Task(env_id, algo, "agents.run:train", RETURN, {**sizes, **values})
    arm = Arm(norm)
    return Study("one", [task], [arm], norm, seeds=range(n_seeds), axes=axes or {}).trials()


def run(root, planned):
    folders = [root / trial.folder for trial in planned]
    return folders, train_batch(planned, folders, lambda fraction: None)


def numbers(result):
    timed = ("wall_time", "memory_mib", "steps_per_second")
    return {k: v for k, v in result.items() if k not in timed}


@pytest.mark.parametrize(
    ("algo", "normalize"), [("ppo", "none"), ("recurrent_ppo", "both"), ("dqn", "none")]
)
def test_folders_and_results_have_what_those_of_an_ordinary_run_have(tmp_path, algo, normalize):
    planned = trials(algo=algo, normalize=normalize)
    folders, results = run(tmp_path / "batch", planned)
    one = tmp_path / "one"
    alone = train(planned[0], one, lambda fraction: None)
    names = {path.name.partition("tfevents")[0] for path in one.iterdir()}
    for folder, result in zip(folders, results, strict=True):
        assert {path.name.partition("tfevents")[0] for path in folder.iterdir()} == names
        assert {*result} == {*alone, "batch_members"}
        assert read_json(folder / "result.json")["files"].keys() == {
            *read_json(one / "result.json")["files"]
        }
        assert {*result["curve"]} == {*alone["curve"]}
    assert read_config(folders[0]) == read_config(one)


@pytest.mark.parametrize(
    ("algo", "env_id", "normalize"),
    [
        ("ppo", "CartPole-v1", "none"),
        ("ppo", "MountainCarContinuous-v0", "none"),
        ("ppo", "CartPoleNoVel-v1", "obs"),
        ("dqn", "CartPole-v1", "none"),
        ("dqn", "MinAtarFreeway-v1", "none"),
    ],
)
def test_the_agent_of_a_folder_acts_as_the_member_did(tmp_path, algo, env_id, normalize):
    planned = trials(algo=algo, env_id=env_id, normalize=normalize)
    folders, _ = run(tmp_path, planned)
    values = [agents.run._of_cohort(agents.run.of_trial(trial)) for trial in planned]
    env, kind = tensor_envs.make(env_id), COHORTS[algo]
    cohort = kind(env, [kind.member(v) for v in values])
    cohort.train()
    obs = torch.rand(5, *env.observation_space.shape).mul(255).round().div(255)
    scaled = cohort.scaling.obs(cohort.statistics, obs.expand(3, *obs.shape))
    actions = cohort.distribution.mode(
        cohort.networks.act(cohort.params, cohort.buffers)(scaled, None)[0]
    )
    for folder, expected in zip(folders, actions, strict=True):
        model, statistics, settings = load_run(folder)
        seen = obs.numpy()
        if len(seen.shape) == 4:  # pictures in bytes
            seen = (seen * 255).round().astype(np.uint8)
        if statistics is not None:
            seen = load_statistics(vectorize(factory_of(settings), 1, 0), statistics).normalize_obs(
                seen
            )
        chosen, _ = model.predict(seen, deterministic=True)
        np.testing.assert_allclose(chosen, expected.numpy(), rtol=1e-5, atol=1e-6)
        assert model.num_timesteps == 192


@pytest.mark.parametrize(
    ("algo", "norm", "heads", "n_seen"),
    [
        ("ppo", "weight", ("action_net", "value_net"), 32),  # all of the rollout
        ("ppo", "batch", ("action_net", "value_net"), 32),
        ("dqn", "weight", ("q_net.q_net.2",), 150),  # all of the memory
    ],
)
def test_layers_of_a_member_are_measured_as_those_of_sb3s_agent(algo, norm, heads, n_seen):
    planned = trials(algo=algo, norm=norm, n_seeds=2)
    values = [agents.run._of_cohort(agents.run.of_trial(trial)) for trial in planned]
    env, kind = tensor_envs.make("CartPole-v1"), COHORTS[algo]
    cohort = kind(env, [kind.member(v) for v in values])
    cohort.train()
    model = to_sb3(
        algo, cohort.members[1], env.observation_space, env.action_space, cohort.member_state(1)
    )
    policy, obs = model.policy.eval(), cohort.observed(1)
    assert obs.unique(dim=0).shape == (n_seen, 4)
    with torch.no_grad(), recorded(policy, heads) as seen:
        policy(obs)
    trained = nn.ModuleDict({n: p for n, p in policy.named_children() if "target" not in n})
    expected = to_floats(weight_lengths(trained) | seen.measures())
    measured = cohort.diagnostics(1)
    assert sorted(measured.values()) == pytest.approx(sorted(expected.values()), rel=1e-6)
    if algo == "ppo":
        assert measured.keys() == expected.keys()


def test_curves_of_layers_stand_beside_the_returns(tmp_path):
    folders, results = run(tmp_path, trials(eval_points=6))
    points = (
        EventAccumulator(str(folders[0]))
        .Reload()
        .Scalars("norm/g/mlp_extractor.policy_net.0.weight")
    )
    assert [point.step for point in points] == [160, 192]
    assert 0 < results[0]["diagnostics"]["units_rank"] <= 8


def test_networks_with_a_memory_have_lengths_alone(tmp_path):
    _, results = run(tmp_path, trials(algo="recurrent_ppo", n_seeds=1))
    assert results[0]["diagnostics"].keys() == {"norm/g", "norm/v"}


def test_the_best_agent_is_the_one_of_the_best_point(tmp_path):
    for folder, result in zip(*run(tmp_path, trials(n_seeds=4)), strict=True):
        curve = result["curve"]
        best = curve["steps"][int(np.argmax(curve["eval/mean_reward"]))]
        model, _, _ = load_run(folder, "best")
        assert result["best_step"] == best == model.num_timesteps


def test_a_member_alone_gives_what_it_gives_among_others(tmp_path):
    planned = trials()
    _, together = run(tmp_path / "a", planned)
    _, alone = run(tmp_path / "b", planned[1:2])
    assert {**numbers(together[1]), "batch_members": 1} == numbers(alone[0])


def test_members_of_one_batch_have_their_own_rates(tmp_path):
    planned = trials(n_seeds=1, axes={"learning_rate": (1e-4, 1e-1)})
    folders, _ = run(tmp_path, planned)
    assert [read_config(folder)["learning_rate"] for folder in folders] == [1e-4, 1e-1]
    parts = [load_run(folder)[0].policy.state_dict()["value_net.weight"] for folder in folders]
    assert not torch.equal(*parts)


def test_a_member_that_becomes_nan_fails_alone(tmp_path):
    good = trials(n_seeds=2, learning_rate_schedule="constant")
    bad = trials(n_seeds=1, learning_rate=1e38, learning_rate_schedule="constant")
    folders = [tmp_path / name for name in ("bad", "0", "1")]
    failed, *results = train_batch([*bad, *good], folders, lambda fraction: None)
    assert [result["status"] for result in (failed, *results)] == ["failed", *["finished"] * 2]
    assert "NaN or infinite" in failed["reason"]
    _, alone = run(tmp_path / "alone", good)
    for result in results:
        result["batch_members"] = 2
    assert [numbers(result) for result in results] == [numbers(result) for result in alone]


@pytest.mark.parametrize(
    ("algo", "normalize", "last", "step"), [("ppo", "both", 4, 160), ("dqn", "none", 8, 144)]
)
def test_a_stopped_batch_goes_on_and_ends_as_if_nothing_had_been(
    tmp_path, monkeypatch, algo, normalize, last, step
):
    planned = trials(algo=algo, normalize=normalize)
    _, expected = run(tmp_path / "whole", planned)
    kind = COHORTS[algo]
    iterate = kind.iterate

    def iterate_and_stop(cohort, *args):
        if cohort.iteration == last:
            os.kill(os.getpid(), signal.SIGTERM)
        return iterate(cohort, *args)

    monkeypatch.setattr(kind, "iterate", iterate_and_stop)
    with pytest.raises(Stopped) as stopped:
        run(tmp_path / "stopped", planned)
    assert f"at step {step} of 192; --resume goes on" in stopped.value.message
    monkeypatch.setattr(kind, "iterate", iterate)
    folders, results = run(tmp_path / "stopped", planned)
    assert [numbers(result) for result in results] == [numbers(result) for result in expected]
    for folder, trial in zip(folders, planned, strict=True):
        means = []
        for path in (folder, tmp_path / "whole" / trial.folder) if normalize == "both" else ():
            with np.load(path / "vecnormalize.npz") as numbers_of:
                means.append(numbers_of["obs/mean"].tolist())
        assert means[:1] == means[1:]
        state, whole = (
            load_run(path)[0].policy.state_dict()
            for path in (folder, tmp_path / "whole" / trial.folder)
        )
        assert all(torch.equal(state[name], whole[name]) for name in whole)


def test_a_run_that_goes_on_alone_has_cost_its_share_of_the_batch(tmp_path, monkeypatch):
    """Five of six iterations with two others, of which each took a second by this clock."""
    ticks = map(float, itertools.count())
    clock = SimpleNamespace(perf_counter=lambda: next(ticks))
    monkeypatch.setattr("wnrl.population.run.time", clock)
    planned, iterate = trials(), COHORTS["ppo"].iterate

    def iterate_and_stop(cohort, *args):
        if cohort.iteration == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return iterate(cohort, *args)

    monkeypatch.setattr(COHORTS["ppo"], "iterate", iterate_and_stop)
    with pytest.raises(Stopped):
        run(tmp_path, planned)
    _, (result,) = run(tmp_path, planned[:1])
    assert result["batch_members"] == 1
    assert result["steps_per_second"] == pytest.approx(192 / (5 / 3 + 1))


def test_curves_are_in_the_event_file(tmp_path):
    folders, results = run(tmp_path, trials(n_seeds=1))
    events = EventAccumulator(str(folders[0])).Reload()
    points = events.Scalars("eval/mean_reward")
    assert [point.step for point in points] == results[0]["curve"]["steps"]
    assert {"eval/mean_ep_length", "rollout/ep_rew_mean", "rollout/ep_len_mean"} <= {
        *events.Tags()["scalars"]
    }


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"target_kl": 0.1},
            "PPO in a population has no target_kl, got 0.1; it has .*learning_rate",
        ),
        ({"env_id": "FrozenLake-v1"}, "env_id"),
        ({"net_arch": [], "norm": "batch"}, "norm 'batch' is for hidden layers"),
    ],
)
def test_what_a_population_does_not_have_is_one_line(changes, told):
    (trial,) = trials(n_seeds=1, **changes)
    refusal = batching(trial).refusal
    assert re.search(told, refusal)
    assert "\n" not in refusal


def test_an_algorithm_that_a_population_does_not_have_is_one_line():
    task = Task("CartPole-v1", "a2c", "agents.run:train", RETURN, {"total_timesteps": 64})
    (trial,) = Study("one", [task], [Arm("none")], "none", seeds=[0]).trials()
    assert "algo of a population must be one of ppo" in batching(trial).refusal


@pytest.mark.parametrize("norm", ["none", "weight", "batch", "projected"])
def test_what_a_population_has_is_taken(norm):
    assert batching(trials(norm, n_seeds=1)[0]).refusal == ""


@pytest.mark.parametrize(
    ("algo", "width", "pays"),
    [("ppo", 64, True), ("ppo", 65, False), ("dqn", 256, True), ("dqn", 257, False)],
)
def test_only_what_was_measured_to_gain_is_trained_in_batches_by_itself(algo, width, pays):
    assert batching(trials(algo=algo, n_seeds=1, net_arch=[8, width])[0]).pays == pays


def test_ppo_on_pictures_is_refused_before_anything_is_trained(monkeypatch):
    monkeypatch.setattr(agents.run, "factory_of", lambda settings: None)  # without the extra
    (trial,) = trials(n_seeds=1, env_id="MinAtarBreakout-v1", normalize="none")
    assert "observations must be a Box with one axis" in batching(trial).refusal
