"""What JAX trains is what a cohort trains, and the program that measures both."""

import re
import subprocess
import sys
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from scripts.bench import jax_population
from scripts.studies._tasks import PPO as SETTINGS
from wnrl.population.config import PPOConfig
from wnrl.population.ppo import PPO
from wnrl.population.rollout import Draws
from wnrl.tensor_envs import CartPole
from wnrl.tensor_envs.core import begin

PROGRAM = "scripts/bench/jax_population.py"
needs_jax = pytest.mark.skipif(find_spec("jax") is None, reason="jax is not installed")


@pytest.mark.skipif(find_spec("jax") is not None, reason="jax is installed")
def test_without_jax_a_line_says_what_to_install():
    ended = subprocess.run([sys.executable, PROGRAM], capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr == "error: jax is missing: pip install jax\n"


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Set, and take back, what the program sets: with several threads JAX may hang."""
    monkeypatch.setenv("NPROC", "1")


def cohort_of(norm):
    settings = {**SETTINGS, "norm": norm, "learning_rate": 3e-3, "total_timesteps": 2560}
    return PPO(CartPole(), [PPOConfig.of(settings)])


def params_of(cohort):
    return {name: view.clone().numpy() for name, view in cohort.plan.views(cohort.params).items()}


@needs_jax
@pytest.mark.parametrize("norm", ["none", "weight"])
def test_with_the_same_draws_rollouts_and_updates_are_those_of_a_cohort(norm):
    import jax

    from scripts.bench import _ppo_in_jax as bench

    cohort = cohort_of(norm)
    config, near_the_limit = cohort.config, CartPole.max_episode_steps - 10
    episodes = begin(CartPole(), torch.rand(1, config.n_envs, 4))
    cohort.start(episodes)
    cohort.running.episodes.steps.fill_(near_the_limit)
    rollout, update = (jax.jit(partial(f, config)) for f in (bench.rollout, bench.update))
    first_learner, _, params_of_learner = bench.adam(config)
    learner = first_learner(params_of(cohort))
    episodes = episodes.obs[0].numpy(), np.full(config.n_envs, near_the_limit)
    cut = 0
    for iteration in range(3):
        u = torch.rand(config.n_steps, 1, config.n_envs, 5)
        ended = cohort.iterate(Draws(u[..., :1], u[..., 1:], None))
        u = u[:, 0].numpy()
        episodes, batch, lengths = rollout(
            bench.plain(params_of_learner(learner)), episodes, u[..., 0], u[..., 1:]
        )
        learner = update(learner, batch, iteration)
        np.testing.assert_array_equal(lengths.T, ended.lengths[0])
        cut += (ended.lengths == CartPole.max_episode_steps).sum()
        for name, values in params_of(cohort).items():
            learned = params_of_learner(learner)[name]
            np.testing.assert_allclose(learned, values, rtol=0, atol=1e-5)
    assert cut > 0


@needs_jax
@pytest.mark.parametrize("norm", ["none", "weight"])
def test_networks_are_drawn_as_a_cohort_draws_them(norm):
    import jax

    from scripts.bench import _ppo_in_jax as bench

    cohort = cohort_of(norm)
    drawn = bench.first_params(cohort.config, jax.random.PRNGKey(0))
    ours = params_of(cohort)
    assert drawn.keys() == {name for name, values in ours.items() if values.size}
    for name, values in drawn.items():
        if name.endswith("weight_g"):
            lengths = np.linalg.norm(drawn[name.replace("_g", "_v")], axis=2, keepdims=True)
            np.testing.assert_allclose(values, lengths, rtol=1e-6)
            continue
        products = [_products(np.asarray(each)) for each in (values, ours[name])]
        np.testing.assert_allclose(*products, rtol=0, atol=1e-5)


def _products(values):
    """Of the rows or columns with each other, whichever are fewer: orthogonal ones have none."""
    if values.ndim == 2 or values.shape[1] <= values.shape[2]:
        return values @ values.swapaxes(-1, -2)
    return values.swapaxes(-1, -2) @ values


@needs_jax
def test_a_row_has_times_and_returns_of_both_sides(monkeypatch, capsys):
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    jax_population.main(jax_population.Args(members=(2,), norms=("weight",), total_timesteps=2048))
    names, _, row = (
        line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]
    )
    cells = dict(zip(names, row, strict=True))
    assert (cells["norm"], cells["members"]) == ("weight", "2")
    for name in jax_population.COLUMNS[-4:]:
        assert re.fullmatch(r"\d+\.\d ± \d+\.\d", cells[name])
        assert float(cells[name].split()[0]) > 9
