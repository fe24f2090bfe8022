"""Populations from Python, as a user has them."""

import math

import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env

from wnrl import data, population, vae
from wnrl.errors import UsageError
from wnrl.population import COHORTS
from wnrl.population.api import _mean_and_error
from wnrl.population.vae import VAECohort
from wnrl.tensor_envs import make

Cohort = COHORTS["ppo"]
SMALL = {"n_envs": 2, "n_steps": 16, "batch_size": 16, "n_epochs": 2, "net_arch": (8,)}


def train(env_id="CartPole-v1", **changes):
    asked = {"norms": ("none", "weight"), "learning_rates": (1e-3, 1e-2), "seeds": (3, 5),
             "total_timesteps": 320, "device": "cpu", **SMALL, **changes}  # fmt: skip
    return population.train("ppo", env_id, **asked)


@pytest.fixture(scope="module")
def runs():
    return train()


def test_there_is_a_run_for_every_norm_rate_and_seed(runs):
    asked = {(m.config.norm, m.config.learning_rate, m.config.seed) for m in runs.members}
    assert asked == {(n, r, s) for n in ("none", "weight") for r in (1e-3, 1e-2) for s in (3, 5)}
    assert len(runs.members) == 8


def test_a_run_is_that_of_a_cohort_of_one(runs):
    member = runs.member("weight", 1e-2, 5)
    cohort = Cohort(make("CartPole-v1"), [member.config])
    ended = [cohort.iterate() for _ in range(10)]
    assert all(torch.equal(v, member.state[k]) for k, v in cohort.member_state(0).items())
    last = ended[-1].returns
    assert member.score == pytest.approx(last[~last.isnan()].mean().item(), nan_ok=True)
    assert len(member.curve) == 10
    firsts = ended[0].returns
    assert member.curve[0] == pytest.approx(firsts[~firsts.isnan()].mean().item(), nan_ok=True)
    assert member.final_return == pytest.approx(cohort.evaluate(20)[0].mean().item())


def test_the_table_has_a_line_for_each_norm_and_rate(runs):
    head, *lines = runs.table().splitlines()
    assert head.split()[:3] == ["norm", "learning", "rate"]
    assert [line.split()[:2] for line in lines] == [
        ["none", "0.001"], ["none", "0.01"], ["weight", "0.001"], ["weight", "0.01"]
    ]  # fmt: skip
    finals = [runs.member("none", 1e-3, seed).final_return for seed in (3, 5)]
    error = np.std(finals, ddof=1) / math.sqrt(2)
    assert lines[0].endswith(f"{np.mean(finals):.1f} ± {error:.1f}")


def test_one_thread_trains_and_the_process_has_its_threads_back():
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        train(norms=("none",), progress=lambda fraction: seen.append(torch.get_num_threads()))
        with pytest.raises(ZeroDivisionError):
            train(norms=("none",), progress=lambda fraction: 1 / 0)
        assert torch.get_num_threads() == 2
        assert {*seen} == {1}
    finally:
        torch.set_num_threads(before)


def test_a_mean_says_of_how_many_runs_it_is_where_some_have_no_such_number():
    assert _mean_and_error([1.0, math.nan, 3.0], 1) == "2.0 ± 1.0 (2)"
    assert _mean_and_error([1.0, math.nan], 1) == "1.0 (1)"
    assert _mean_and_error([1.0, 3.0], 1) == "2.0 ± 1.0"
    assert _mean_and_error([math.nan], 1) == "–"


def test_runs_that_became_nan_are_counted_and_not_averaged():
    runs = train(norms=("none",), learning_rates=(1e38,), seeds=(0, 1))
    assert not any(member.finite for member in runs.members)
    assert runs.table().splitlines()[1].split() == ["none", "1e+38", "2", "2", "–", "–"]


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("norm", ["none", "weight", "layer", "batch"])
def test_an_sb3_model_of_a_run_acts_alike_and_saves_as_a_zip(tmp_path, env_id, norm):
    runs = train(env_id, norms=(norm,), learning_rates=(1e-3,), seeds=(0,), optimizer="adamax")
    member = runs.member(norm, 1e-3, 0)
    cohort = Cohort(make(env_id), [member.config])
    cohort.train()
    obs = torch.rand(6, *cohort.env.observation_space.shape)
    expected = cohort.distribution.mode(
        cohort.networks.act(cohort.params, cohort.buffers)(obs[None], None)[0]
    )
    model = member.to_sb3()
    assert model.learning_rate == 1e-3
    assert isinstance(model.policy.optimizer, torch.optim.Adamax)
    model.save(tmp_path / "agent.zip")
    for agent in (model, PPO.load(tmp_path / "agent.zip", env=make_vec_env(env_id, 2))):
        actions, _ = agent.predict(obs.numpy(), deterministic=True)
        low, high = getattr(agent.action_space, "low", -9), getattr(agent.action_space, "high", 9)
        np.testing.assert_allclose(
            actions, np.clip(expected[0].numpy(), low, high), rtol=1e-5, atol=1e-6
        )


def test_an_sb3_model_of_a_scaled_run_has_its_statistics():
    runs = train(norms=("none",), learning_rates=(1e-3,), seeds=(0, 1), normalize="both")
    member = runs.members[1]
    normalizer = member.to_sb3().get_vec_normalize_env()
    assert normalizer.obs_rms.count == pytest.approx(322)  # of all steps and the first resets
    np.testing.assert_array_equal(normalizer.obs_rms.mean, member.statistics["obs/mean"])
    assert normalizer.obs_rms.mean.tolist() != runs.members[0].statistics["obs/mean"].tolist()


def test_an_sb3_model_of_a_run_knows_that_it_was_initialised_on_data():
    runs = train(norms=("weight",), learning_rates=(1e-3,), seeds=(0,), data_init=32)
    assert bool(runs.members[0].to_sb3().policy.data_initialised)


@pytest.mark.parametrize("norm", ["none", "weight", "batch", "spectral"])
def test_a_run_of_dqn_is_an_sb3_model_that_acts_alike_and_goes_on_learning(tmp_path, norm):
    sizes = {"train_freq": 8, "batch_size": 16, "buffer_size": 150, "learning_starts": 40}
    runs = population.train(
        "dqn", "CartPole-v1", norms=(norm,), learning_rates=(1e-3,), seeds=(0, 1),
        total_timesteps=320, net_arch=(8,), **sizes,
    )  # fmt: skip
    member = runs.members[1]
    cohort = COHORTS["dqn"](make("CartPole-v1"), [member.config])
    cohort.train()
    obs = torch.rand(6, 4)
    expected = cohort.networks.act(cohort.params, cohort.buffers)(obs[None], None)[0].argmax(-1)
    member.to_sb3().save(tmp_path / "agent.zip")
    model = DQN.load(tmp_path / "agent.zip", env=make_vec_env("CartPole-v1"))
    assert model.predict(obs.numpy(), deterministic=True)[0].tolist() == expected[0].tolist()
    assert model.exploration_rate == member.config.exploration_final_eps > 0
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(64)
    after = model.policy.state_dict()
    assert not torch.equal(before["q_net.q_net.2.bias"], after["q_net.q_net.2.bias"])


def test_a_loaded_model_goes_on_learning(runs):
    model = runs.member("weight", 1e-3, 3).to_sb3()
    state = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.set_env(make_vec_env("CartPole-v1", 2))
    model.learn(32)
    assert not torch.equal(state["value_net.weight"], model.policy.state_dict()["value_net.weight"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"norms": ("wait",)}, "norm must be one of"),
        ({"norms": ()}, "norms must be one or more different values"),
        ({"seeds": (1, 1)}, "seeds must be one or more different values"),
        ({"learning_rates": (-1.0,)}, "learning_rate must be above zero"),
        ({"target_kl": 0.1}, "PPO in a population has no target_kl"),
        ({"env_id": "CartPole-v7"}, "CartPole-v7"),
        ({"device": "tpu"}, "device must be auto"),
        ({"seeds": (-1,)}, "seed must be from 0 to 2"),
        ({"seeds": (2**63,)}, "seed must be from 0 to 2"),
        ({"seed": 3}, "seed is no hyperparameter here: give seeds"),
        ({"norm": "layer"}, "norm is no hyperparameter here: give norms"),
        ({"learning_rate": 1e-3}, "learning_rate is no hyperparameter here: give learning_rates"),
        ({"net_arch": (10**10,)}, r"networks of \(10000000000,\) cannot be built: "),
        ({"total_timesteps": "many"}, "total_timesteps must be a whole number"),
    ],
)
def test_what_cannot_be_is_one_line(changes, told):
    with pytest.raises(UsageError, match=told):
        train(**changes)


VAE = {"hidden": (12,), "latent_dim": 4, "epochs": None, "n_steps": 40, "n_logs": 4,
       "batch_size": 16, "n_samples": 5}  # fmt: skip


def train_vaes(dataset="digits", **changes):
    asked = {"norms": ("none", "weight"), "learning_rates": (1e-3, 1e-2), "seeds": (3, 5),
             "device": "cpu", **VAE, **changes}  # fmt: skip
    return population.train("vae", dataset, **asked)


@pytest.fixture(scope="module")
def vaes():
    return train_vaes()


def test_a_vae_of_a_run_is_measured_as_its_own_run_would_be(vaes):
    member = vaes.member("weight", 1e-2, 5)
    assert member.config == vae.preset(
        "mlp", "digits", norm="weight", learning_rate=1e-2, seed=5, **{**VAE, "epochs": None}
    )
    images = data.load("digits")
    cohort = VAECohort(images, [member.config])
    for _ in range(10):
        cohort.iterate()
    assert member.curve[0] == cohort.validate()["vae/valid_elbo"][0].item()
    assert len(member.curve) == 4
    for _ in range(30):
        cohort.iterate()
    model = member.to_vae()
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in cohort.vae(0).state_dict().items())
    measured = vae.nll(model, images, vae.Protocol("digits", n_samples=5))
    assert (member.nll, member.elbo) == (measured.nll, measured.elbo)
    assert len(vaes.members) == 8


def test_the_table_of_vaes_has_their_likelihoods(vaes):
    head, *lines = vaes.table().splitlines()
    assert head.split()[-2:] == ["nll", "elbo"]
    nlls = [vaes.member("none", 1e-3, seed).nll for seed in (3, 5)]
    error = np.std(nlls, ddof=1) / math.sqrt(2)
    assert f"{np.mean(nlls):.2f} ± {error:.2f}" in lines[0]
    assert len(lines) == 4


def test_vaes_that_became_nan_are_counted_and_not_averaged():
    runs = train_vaes(norms=("none",), learning_rates=(1e38,))
    assert not any(member.finite for member in runs.members)
    assert runs.table().splitlines()[1].split() == ["none", "1e+38", "2", "2", "–", "–"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"total_timesteps": 64}, "VAEs take the name of a data set, and epochs or n_steps"),
        ({"dataset": "figures"}, "dataset must be one of"),
        ({"model": "conv"}, "hidden is no setting of model 'conv'"),
        ({"ema_epochs": 1.0}, "VAEs in a population have ema_epochs 0.0 alone"),
        ({"gamma": 0.9}, "gamma is no setting of a VAE run"),
    ],
)
def test_what_vaes_cannot_be_is_one_line(changes, told):
    with pytest.raises(UsageError, match=told):
        train_vaes(**changes)


def test_agents_need_to_know_how_long():
    with pytest.raises(UsageError, match="total_timesteps must be a whole number"):
        train(total_timesteps=None)


def test_a_run_that_was_not_asked_for_is_a_line(runs):
    with pytest.raises(UsageError, match="no run has norm 'layer'"):
        runs.member("layer", 1e-3, 3)
