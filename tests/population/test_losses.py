"""The two forms of a loss: what autograd makes of its value, and its gradient by formula."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from wnrl.population.distributions import distribution
from wnrl.population.losses import HuberLoss, PPOLoss, Targets
from wnrl.population.rollout import Batch

P, B, A = 3, 40, 4
SPACES = {"discrete": spaces.Discrete(A), "box": spaces.Box(-1.0, 1.0, (A,), np.float64)}


def by_both(loss, of_actions, outputs, log_std, samples):
    """Return the gradients by the outputs, ``(P, n_nets, A, B)``, and by log σ, of both forms."""
    leaves = outputs.clone().requires_grad_(), log_std.clone().requires_grad_()
    value = loss.value(*leaves, samples)
    assert value.shape == (P,)
    of_value = torch.autograd.grad(value.sum(), leaves, materialize_grads=True)
    by_outputs = torch.full_like(outputs.mT, torch.nan)
    spread = of_actions.spread(samples.actions, A, outputs.dtype)
    by_log_std = loss.gradient(
        outputs.mT.contiguous(), log_std, samples._replace(actions=spread), by_outputs
    )
    return (of_value[0].mT, of_value[1]), (by_outputs, by_log_std)


def numbers(*shape):
    return torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("entropy", [False, True])
def test_ppos_gradient_by_formula_is_that_of_its_value(space, entropy):
    torch.manual_seed(0)
    discrete, outputs = space == "discrete", numbers(P, 2, B, A)
    log_std = numbers(P, 0 if discrete else A)
    of_actions = distribution(SPACES[space], outputs)
    actions = torch.randint(A, (P, B)) if discrete else numbers(P, B, A)
    log_probs = of_actions.log_prob(outputs[:, 0], log_std[:, None], actions)
    shaken = log_probs + 0.3 * numbers(P, B)
    batch = Batch(numbers(P, B, 2), actions, shaken, numbers(P, B) + 0.2, numbers(P, B))
    clip_range = torch.tensor([0.05, 0.2, 0.5], dtype=torch.float64)
    ent_coef = torch.tensor([0.0, 0.1, 1.0], dtype=torch.float64) * entropy
    loss = PPOLoss(of_actions, clip_range, ent_coef, entropy, 0.7)
    of_value, by_formula = by_both(loss, of_actions, outputs, log_std, batch)
    torch.testing.assert_close(by_formula[0], of_value[0], rtol=0, atol=1e-12)
    if not entropy:
        assert (of_value[0][:, 0] == 0).all(1).any()  # where a ratio is clipped
    if discrete:
        assert by_formula[1] is None
    else:
        torch.testing.assert_close(by_formula[1], of_value[1], rtol=0, atol=1e-12)


def test_hubers_gradient_by_formula_is_that_of_its_value():
    torch.manual_seed(0)
    outputs, actions = numbers(P, 1, B, A), torch.randint(A, (P, B))
    targets = Targets(numbers(P, B, 2), actions, 2 * numbers(P, B))
    of_actions = distribution(SPACES["discrete"], outputs)
    of_value, by_formula = by_both(HuberLoss(), of_actions, outputs, numbers(P, 0), targets)
    torch.testing.assert_close(by_formula[0], of_value[0], rtol=0, atol=1e-12)
    assert of_value[0].abs().max() == pytest.approx(1 / B)  # beyond an error of 1
    assert by_formula[1] is None


def test_the_loss_of_one_member_is_what_it_is_among_others():
    torch.manual_seed(0)
    outputs, actions = numbers(P, 2, B, A), torch.randint(A, (P, B))
    batch = Batch(numbers(P, B, 2), actions, *(numbers(P, B) for _ in range(3)))
    each, coefficients = torch.rand(2, P, dtype=torch.float64), (True, 0.7)
    of_actions, none = distribution(SPACES["discrete"], outputs), numbers(P, 0)
    together = PPOLoss(of_actions, *each, *coefficients).value(outputs, none, batch)
    for k, expected in enumerate(together):
        alone = PPOLoss(of_actions, *each[:, k], *coefficients)
        one = alone.value(outputs[k], none[k], Batch(*(value[k] for value in batch)))
        torch.testing.assert_close(one, expected, rtol=0, atol=1e-12)
