"""Recurrent PPO of many members: sb3-contrib's algorithm, and what members do not depend on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sb3_contrib import RecurrentPPO as ContribPPO
from torch import nn

import wnrl.sb3  # noqa: F401  # registers the policies
from tests.population.cohorts import (
    assert_a_restored_cohort_goes_on,
    assert_companions_change_no_bit,
    assert_others_are_untouched,
)
from tests.population.sb3_draws import ShortCartPole, assert_member_is_sb3s, run_sb3
from wnrl import population
from wnrl.errors import UsageError
from wnrl.norms import NORMS
from wnrl.population.config import RecurrentPPOConfig
from wnrl.population.recurrence import recurrent
from wnrl.population.recurrent_ppo import RecurrentPPO, sequences
from wnrl.population.rollout import Batch, Past
from wnrl.tensor_envs import CartPole
from wnrl.tensor_envs.core import begin

SMALL = RecurrentPPOConfig(
    total_timesteps=4 * 64,
    n_envs=4,
    n_steps=16,
    batch_size=48,  # the last minibatch is smaller
    n_epochs=2,
    net_arch=(8,),
    lstm_hidden_size=8,
    learning_rate=1e-3,
    gae_lambda=0.8,
    gamma=0.98,
    seed=3,
)
CASES = {
    "stock": {},
    "whole rollouts": {"batch_size": 64},
    "single sequences": {"batch_size": 16},
    "scaled": {"normalize": "both"},
    "two layers": {"n_lstm_layers": 2},
    "plain initialisation, relu": {"ortho_init": False, "activation_fn": "relu"},
    "weight on heads": {"norm": "weight", "norm_heads": True},
    **{f"{norm} lstm": {"norm": norm} for norm in NORMS},
    **{f"{norm} gru": {"norm": norm, "cell": "gru"} for norm in ("none", "weight", "spectral")},
}


@pytest.mark.parametrize("case", CASES)
def test_with_contribs_draws_a_member_is_its_agent(case, monkeypatch):
    config = replace(SMALL, **CASES[case])
    names = ("norm_heads", "lstm_hidden_size", "n_lstm_layers", "ortho_init")
    arguments = {name: getattr(config, name) for name in names}
    arguments["activation_fn"] = {"relu": nn.ReLU, "tanh": nn.Tanh}[config.activation_fn]
    policy = f"WNMlp{config.cell.title()}Policy", {"norm": config.norm, **arguments}
    resets, draws, record = run_sb3(config, policy, monkeypatch, ContribPPO)
    cohort = RecurrentPPO(ShortCartPole(), [config])
    cohort.start(begin(cohort.env, resets))
    assert_member_is_sb3s(cohort, draws, record)


def members(n, **change):
    return [replace(SMALL, seed=s, learning_rate=1e-3 * (1 + s % 3), **change) for s in range(n)]


@pytest.mark.parametrize(
    "change",
    [{"norm": norm} for norm in ("none", "weight", "layer", "batch", "spectral")]
    + [{"cell": "gru", "lstm_hidden_size": 32}, {"normalize": "both"}],
)
def test_a_member_alone_among_eight_and_among_nine_is_the_same_to_the_bit(change):
    assert_companions_change_no_bit(RecurrentPPO, CartPole(), members(9, **change), 2)


def test_a_member_that_is_not_finite_leaves_the_others_untouched():
    assert_others_are_untouched([RecurrentPPO(CartPole(), members(3)) for _ in range(2)], 1, 2)


def test_a_restored_cohort_goes_on_bit_for_bit(tmp_path):
    assert_a_restored_cohort_goes_on(RecurrentPPO, CartPole(), members(2), 2, tmp_path / "cohort")


@pytest.mark.parametrize("n_layers", [1, 2])
def test_lstms_by_formula_have_torchs_outputs_and_gradients(n_layers):
    rnn = nn.LSTM(3, 4, num_layers=n_layers).double()
    n, n_steps, n_seq = 2, 5, 3
    params = {
        name: torch.randn(n, *value.shape, dtype=torch.float64, requires_grad=True)
        for name, value in rnn.named_parameters()
    }
    x = torch.randn(n, n_steps, n_seq, 3, dtype=torch.float64)
    continues = (torch.rand(n, n_steps, n_seq, 1) > 0.4).double()
    continues[:, 0] = 0.0
    memory = torch.randn(n, n_steps, n_seq, n_layers, 2, 4, dtype=torch.float64)
    given = memory * (1 - continues)[..., None, None]
    out, finals = recurrent(rnn, params, {})(x, given, continues)
    weights = torch.randn_like(out)
    grads = torch.autograd.grad((out * weights).sum(), [*params.values()])
    for k in range(n):
        mine = {name: value[k].detach().requires_grad_() for name, value in params.items()}
        states, outputs = None, []
        for t in range(n_steps):
            h, c = given[k, t].permute(2, 1, 0, 3)
            if states is not None:
                h, c = (a + continues[k, t] * b for a, b in zip((h, c), states, strict=True))
            y, states = torch.func.functional_call(rnn, mine, (x[k, t : t + 1], (h, c)))
            outputs.append(y[0])
        torch.testing.assert_close(out[k], torch.stack(outputs))
        torch.testing.assert_close(finals[k].permute(2, 1, 0, 3), torch.stack(states))
        expected = torch.autograd.grad((torch.stack(outputs) * weights[k]).sum(), [*mine.values()])
        for got, want in zip(grads, expected, strict=True):
            torch.testing.assert_close(got[k], want)


def test_minibatches_begin_at_a_sample_and_have_every_sample_once():
    n_steps = 4  # of three environments
    numbers = torch.arange(12).expand(2, -1)
    starts = numbers == 6
    memory = numbers[..., None].expand(-1, -1, 2).double() + 1  # of two networks
    batch = Batch(numbers[..., None], *[numbers] * 4)
    first = torch.tensor([5, 8])
    pieces = sequences(batch, Past(memory, starts), first, n_steps, 8)
    assert [piece.continues.shape for piece in pieces] == [(4, n_steps, 2, 1), (4, n_steps, 1, 1)]
    for p in range(2):
        order = np.roll(np.arange(12), -int(first[p]))
        for piece, samples in zip(pieces, (order[:8], order[8:]), strict=True):
            places = piece.batch.actions[p].view(n_steps, -1)
            assert sorted(places.flatten().tolist()) == sorted(samples.tolist())
            assert torch.equal(places % n_steps, torch.arange(n_steps)[:, None].expand_as(places))
            begins = (places % n_steps == 0) | (places == 6) | (places == samples[0])
            for k in (2 * p, 2 * p + 1):
                assert torch.equal(piece.continues[k, ..., 0] == 0, begins)
                assert torch.equal(piece.given[k], (places + 1.0) * begins)
                assert torch.equal(piece.x[k, ..., 0], places)
            follows = (places[1:] == places[:-1] + 1) | begins[1:]
            assert follows.all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 40}, "multiple of n_steps 16, got 40"),
        ({"shared_lstm": True}, "RecurrentPPO in a population has no shared_lstm, got True"),
        ({"enable_critic_lstm": False}, "has no enable_critic_lstm, got False"),
        ({"data_init": 64}, "data_init has no place in RecurrentPPO, got 64"),
        ({"cell": "rnn"}, "cell must be one of lstm, gru, got 'rnn'"),
        ({"lstm_hidden_size": 0}, "lstm_hidden_size must be above zero, got 0"),
    ],
)
def test_what_a_population_cannot_do_is_one_line(settings, message):
    with pytest.raises(UsageError, match=message) as error:
        RecurrentPPOConfig.of({"n_envs": 4, "n_steps": 16, "batch_size": 64, **settings})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_an_sb3_model_of_a_run_acts_alike_and_saves_as_a_zip(cell, tmp_path):
    sizes = {"n_envs": 2, "n_steps": 16, "batch_size": 32, "n_epochs": 1, "net_arch": (8,)}
    runs = population.train(
        "recurrent_ppo", "CartPoleNoVel-v1", norms=("weight",), seeds=(0, 1), total_timesteps=64,
        device="cpu", cell=cell, lstm_hidden_size=8, **sizes,
    )  # fmt: skip
    member = runs.members[1]
    cohort = RecurrentPPO(member.env, [member.config])
    cohort.train()
    act = cohort.networks.act(cohort.params, cohort.buffers)
    memory = torch.zeros(1, 4, *cohort.plan.net.memory)
    member.to_sb3().save(tmp_path / "agent.zip")
    model, states, starts = ContribPPO.load(tmp_path / "agent.zip"), None, np.ones(4)
    for obs in torch.rand(5, 4, *member.env.observation_space.shape):
        head, _, memory = act(obs[None], memory)
        actions, states = model.predict(obs.numpy(), states, starts, deterministic=True)
        assert actions.tolist() == cohort.distribution.mode(head)[0].tolist()
        starts = np.zeros(4)
    h, _ = states
    torch.testing.assert_close(torch.as_tensor(h[0]), memory[0, :, 0, 0, 0], rtol=1e-5, atol=1e-6)
