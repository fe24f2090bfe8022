"""Distributions of actions: torch's, drawn from uniform numbers."""

import pytest
import torch
from gymnasium import spaces
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Normal

from wnrl.population.distributions import Categorical, distribution

HEAD = torch.randn(4, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LOG_STD = torch.tensor([-1.0, 0.0, 0.5], dtype=torch.float64)


def test_an_action_comes_as_often_as_its_probability_says():
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    head = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    drawn = Categorical().sample(head.expand(len(u), -1), None, u[:, None])
    share = torch.bincount(drawn, minlength=3) / len(u)
    torch.testing.assert_close(share.double(), head.softmax(0), rtol=0, atol=1e-5)


def test_a_head_that_is_not_finite_gives_an_action_that_exists():
    head = torch.full((5, 3), torch.nan)
    drawn = Categorical().sample(head, None, torch.rand(5, 1))
    assert ((drawn >= 0) & (drawn < 3)).all()


def test_categorical_actions_have_torchs_log_probabilities_and_entropy():
    actions = torch.randint(3, (4, 6))
    torchs, ours = TorchCategorical(logits=HEAD), Categorical()
    torch.testing.assert_close(ours.log_prob(HEAD, None, actions), torchs.log_prob(actions))
    torch.testing.assert_close(ours.entropy(HEAD, None), torchs.entropy())
    assert torch.equal(ours.mode(HEAD), torchs.mode)


def test_continuous_actions_are_torchs_normal_numbers():
    ours = distribution(spaces.Box(-1.0, 2.0, (3,)), HEAD)
    torchs = Normal(HEAD, LOG_STD.exp())
    u = torch.rand(4, 6, 3, dtype=torch.float64)
    actions = ours.sample(HEAD, LOG_STD, u)
    torch.testing.assert_close(torchs.cdf(actions), u)
    torch.testing.assert_close(
        ours.log_prob(HEAD, LOG_STD, actions), torchs.log_prob(actions).sum(-1)
    )
    torch.testing.assert_close(ours.entropy(HEAD, LOG_STD), torchs.entropy().sum(-1))


@pytest.mark.parametrize(("value", "clipped"), [(-3.0, -1.0), (0.3, 0.3), (5.0, 2.0)])
def test_an_environment_is_given_actions_within_its_bounds(value, clipped):
    ours = distribution(spaces.Box(-1.0, 2.0, (1,)), torch.zeros(1))
    assert ours.to_env(torch.tensor([value])) == torch.tensor([clipped])
