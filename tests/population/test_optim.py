"""Optimizers of rows: member by member those of torch."""

import pytest
import torch
from torch import nn

from wnrl.population.optim import Adam, Adamax, RMSprop, clip_, without_denormals

P, D = 3, 7
RATES = torch.tensor([1e-3, 1e-2, 3e-1], dtype=torch.float64)
RULES = {
    "adam": (Adam(eps=1e-5), lambda p, lr: torch.optim.Adam(p, lr=lr, eps=1e-5)),
    "adamw": (Adam(weight_decay=0.1), lambda p, lr: torch.optim.AdamW(p, lr, weight_decay=0.1)),
    "adamax": (Adamax(), torch.optim.Adamax),
    "rmsprop": (RMSprop(), torch.optim.RMSprop),
}


@pytest.mark.parametrize("kind", [int, torch.tensor])
@pytest.mark.parametrize("name", RULES)
def test_each_row_goes_where_torchs_optimizer_takes_it(name, kind):
    ours, torchs = RULES[name]
    params = torch.randn(P, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alone = [nn.Parameter(row.clone()) for row in params]
    optimizers = [torchs([p], lr=lr.item()) for p, lr in zip(alone, RATES, strict=True)]
    state = ours.init(params)
    for t in range(1, 21):
        # The rate falls as a schedule has it, and ends at zero.
        left = 1 - t / 20
        grads = torch.randn(P, D, dtype=torch.float64, generator=torch.Generator().manual_seed(t))
        ours.step_(params, grads.clone(), state, kind(t), RATES * left)
        for p, optimizer, grad, rate in zip(alone, optimizers, grads, RATES, strict=True):
            optimizer.param_groups[0]["lr"] = rate.item() * left
            p.grad = grad.clone()
            optimizer.step()
    torch.testing.assert_close(params, torch.stack([*alone]).detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("before", [False, True])
def test_denormal_numbers_are_zero_for_a_while(before):
    assert torch.set_flush_denormal(before)
    try:
        with without_denormals():
            assert not torch.tensor([1e-38]).mul(0.5)
        assert bool(torch.tensor([1e-38]).mul(0.5)) != before
    finally:
        torch.set_flush_denormal(False)


def test_decay_is_for_the_chosen_columns():
    params, grads = torch.ones(2, 3), torch.zeros(2, 3)
    rule = Adam(weight_decay=0.5, decayed=torch.tensor([1.0, 0.0, 1.0]))
    rule.step_(params, grads, rule.init(params), 1, torch.tensor([0.1, 0.2]))
    assert params.tolist() == torch.tensor([[0.95, 1.0, 0.95], [0.9, 1.0, 0.9]]).tolist()


def test_each_row_is_clipped_as_torch_clips_a_network():
    grads = torch.randn(P, D, dtype=torch.float64) * torch.tensor([[1.0], [1e-3], [1e3]])
    expected = []
    for row in grads:
        parts = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(4))]
        for p, piece in zip(parts, row.split([3, 4]), strict=True):
            p.data, p.grad = p.data.double(), piece.clone()
        nn.utils.clip_grad_norm_(parts, 0.5)
        expected.append(torch.cat([p.grad for p in parts]))
    clip_(grads, 0.5)
    torch.testing.assert_close(grads, torch.stack(expected))


@pytest.mark.parametrize("name", RULES)
def test_a_row_that_is_not_finite_leaves_the_others_alone(name):
    rule = RULES[name][0]
    results = []
    for bad in (1.0, float("nan")):
        params, grads = torch.ones(P, D), torch.full((P, D), 0.3)
        grads[1] = bad
        clip_(grads, 0.5)
        rule.step_(params, grads, rule.init(params), 1, torch.tensor([0.1, 0.1, 0.2]))
        results.append(params)
    assert results[1][1].isnan().all()
    assert torch.equal(results[0][[0, 2]], results[1][[0, 2]])
