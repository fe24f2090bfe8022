"""What the programs that compare a population with stable-baselines3 print."""

import re

import numpy as np
import pytest
import torch

import scripts.bench.population as bench
import scripts.bench.population_parity as parity
from wnrl.errors import UsageError


@pytest.fixture(autouse=True)
def one_short_round(monkeypatch):
    """One round of a segment each, on whatever number of threads the tests have."""
    monkeypatch.setattr(bench, "SEGMENT", 0.0)
    monkeypatch.setattr(bench, "ROUNDS", 1)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)


def test_a_small_run_prints_a_line_for_each_size_and_way(capsys):
    bench.main(bench.Args(norms=("weight",), members=(1, 2), ways=("auto", "vmap"), seconds=0.01))
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[4:]]
    assert [line[:3] for line in lines] == [
        ["| weight", n_members, way] for n_members in "12" for way in ("auto", "vmap")
    ]
    for line in lines:
        assert all(re.fullmatch(r"\d+\.\d\d ± \d+\.\d\d", cell) for cell in line[3:5])


def test_recurrent_cohorts_are_measured_against_our_own_agent(capsys):
    bench.main(bench.Args(algo="recurrent_ppo", norms=("weight",), members=(2,), seconds=0.01))
    header, _, row = capsys.readouterr().out.splitlines()[2:]
    assert "× our agent, CPU time" in header
    assert re.match(r"\| weight \| 2 \| auto \| \d+\.\d\d ± ", row)


@pytest.mark.parametrize("algo", ["ppo", "recurrent_ppo", "dqn"])
def test_both_sides_have_the_hidden_units_that_are_asked_for(algo):
    args = bench.Args(algo=algo, net_arch=(7,))
    model = bench.alone("none", args)[0].func.__self__
    assert 7 in {parameter.shape[0] for parameter in model.policy.parameters()}
    assert bench.made("none", 1, "auto", args).config.net_arch == (7,)


def test_growth_is_a_line_for_each_size_with_its_estimate(monkeypatch, capsys):
    monkeypatch.setattr(bench, "GROWTH", ((1, 8, 2), (2, 16, 4)))
    bench.main(bench.Args(norms=("weight",), growth=True))
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[4:]]
    assert [row[:4] for row in rows] == [["weight", "1", "8", "2"], ["weight", "2", "16", "4"]]
    assert all(float(number) >= 0 for row in rows for number in row[4:])


def test_cohorts_of_dqn_learn_from_their_first_iteration(capsys):
    args = bench.Args(algo="dqn", norms=("none",), members=(1,), seconds=0.01)
    assert bench.made("none", 1, "auto", args).config.first_update == 0
    bench.main(args)
    header, _, row = capsys.readouterr().out.splitlines()[2:]
    assert "× stock, CPU time" in header
    assert re.match(r"\| none \| 1 \| auto \| \d+\.\d\d ± ", row)


def test_vaes_are_measured_against_one_of_ours_in_gradient_steps(capsys):
    args = bench.Args(algo="vae", norms=("weight",), members=(2,), net_arch=(8,), seconds=0.01)
    bench.main(args)
    header, _, row = capsys.readouterr().out.splitlines()[2:]
    assert "× our VAE, CPU time" in header
    assert re.match(r"\| weight \| 2 \| auto \| \d+\.\d\d ± ", row)
    for train, n_steps in (bench.alone("none", args), bench.together("none", 2, "auto", args)):
        counted = getattr(train, "__self__", None)
        train()
        assert n_steps == (bench.STEPS if counted is None else 2 * counted.step)
    with pytest.raises(UsageError, match="growth and the way vmap are not for VAEs"):
        bench.Args(algo="vae", growth=True)


@pytest.mark.parametrize(
    ("algo", "env_id"),
    [("ppo", "CartPole-v1"), ("recurrent_ppo", "CartPoleNoVel-v1"), ("dqn", "CartPole-v1")],
)
def test_both_sides_are_measured_alike(algo, env_id):
    args = parity.Args(algo=algo, env_id=env_id, norms=("none",), runs=2, total_timesteps=1024)
    measures = parity.alone(args, "none", 1)
    assert np.shape(measures) == (len(parity.MEASURES),)
    ours = parity.by_population(args, "none")
    assert ours.shape == (2, len(parity.MEASURES))
    assert np.isfinite(ours).all()
    assert np.isfinite(measures).all()


def test_runs_that_are_trained_one_by_one_are_scaled_as_the_preset_says(monkeypatch):
    seen = []

    def evaluated(model, env, *others):
        seen.append((model.get_env(), env))
        return [0.0], []

    monkeypatch.setattr(parity, "evaluate", evaluated)
    args = parity.Args(algo="recurrent_ppo", env_id="CartPoleNoVel-v1", total_timesteps=1024)
    parity.alone(args, "none", 0)
    [(training, apart)] = seen
    assert (training.norm_obs, training.norm_reward) == (True, True)
    assert apart.obs_rms is training.obs_rms


def test_an_episode_counts_in_the_quarter_in_which_it_ends():
    steps, returns = np.array([1, 25, 26, 60, 76, 100]), np.array([1.0, 3, 5, 7, 9, 11])
    assert parity.quarters(steps, returns, 100) == [2, 5, 7, 10]
    two = np.stack([returns, returns + 1])[:, None]
    two[1, 0, 1] = np.nan
    means = np.stack(parity.quarters(steps, two, 100), 1)
    assert means.tolist() == [[2, 5, 7, 10], [2, 6, 8, 11]]


def test_holms_correction_multiplies_the_smallest_p_by_their_number():
    assert parity.holm(np.array([0.03, 0.01, 0.5])) == pytest.approx([0.06, 0.03, 0.5])
    assert parity.holm(np.array([0.2, 0.3])) == pytest.approx([0.4, 0.4])


def test_a_difference_is_seen_and_a_likeness_is_not():
    x = np.linspace(0, 1, 64)
    same = np.stack([x] * len(parity.MEASURES), 1)
    other = same + np.array([0, 0, 0, 0, 5.0])
    p = [float(row[-1]) for row in parity.rows({"a": same}, {"a": other})]
    assert p[:-1] == [1.0] * 4
    assert p[-1] < 0.01
