"""A cohort of PPO: what its members are, and what they do not depend on."""

from dataclasses import replace

import pytest
import torch
from gymnasium import spaces

from tests.population.cohorts import (
    assert_a_restored_cohort_goes_on,
    assert_companions_change_no_bit,
    assert_others_are_untouched,
    assert_what_is_almost_nothing_becomes_zero,
    trained,
)
from wnrl.errors import UsageError
from wnrl.norms import NORMS
from wnrl.population.config import PPOConfig
from wnrl.population.ppo import PPO, gae
from wnrl.population.rollout import Batch, minibatches
from wnrl.tensor_envs import CartPole

SMALL = PPOConfig(
    total_timesteps=5 * 64,
    n_envs=4,
    n_steps=16,
    batch_size=40,  # the last minibatch is smaller
    n_epochs=2,
    net_arch=(8, 8),
    learning_rate_schedule="linear",
)


def members(n, **change):
    """Return members that differ in all that members may differ in."""
    return [
        replace(
            SMALL,
            seed=seed,
            learning_rate=1e-3 * (1 + seed % 3),
            clip_range=0.1 + 0.01 * seed,
            ent_coef=0.01 * (seed % 2),
            gamma=0.9 + 0.003 * seed,
            gae_lambda=0.8 + 0.005 * seed,
            **change,
        )
        for seed in range(n)
    ]


@pytest.mark.parametrize(
    "change", [*({"norm": norm} for norm in NORMS), {"normalize": "both"}], ids=str
)
def test_a_member_alone_among_eight_and_among_24_is_the_same_to_the_bit(change):
    assert_companions_change_no_bit(PPO, CartPole(), members(24, **change), 2)


def test_members_differ_in_each_thing_that_they_may_differ_in():
    config = replace(SMALL, learning_rate=0.03)  # so that ratios are clipped
    for name in PPOConfig.members:
        value = getattr(config, name)
        other = replace(config, **{name: value + 1 if name == "seed" else value * 0.5 + 0.01})
        first, second = trained(PPO, CartPole(), [config, other], 2).params
        assert not torch.equal(first, second), name


@pytest.mark.parametrize("norm", ["weight", "batch", "spectral"])
def test_a_member_that_is_not_finite_leaves_the_others_untouched(norm):
    configs = members(10, norm=norm)
    assert_others_are_untouched([PPO(CartPole(), configs) for _ in range(2)], 4, 3)


@pytest.mark.parametrize("change", [{"norm": "weight"}, {"norm": "batch"}, {"normalize": "both"}])
def test_a_restored_cohort_goes_on_bit_for_bit(change, tmp_path):
    configs = members(3, **change)
    assert_a_restored_cohort_goes_on(PPO, CartPole(), configs, 2, tmp_path / "cohort")


def test_the_state_of_another_cohort_is_refused():
    state = PPO(CartPole(), members(3)).state()
    with pytest.raises(UsageError, match=r"another cohort: seeds \[0, 1, 2\]"):
        PPO(CartPole(), members(2)).restore(state)


def test_an_evaluation_starts_elsewhere_and_changes_nothing():
    cohort = PPO(CartPole(), members(2))
    before = cohort.state()
    first, lengths = cohort.evaluate(5)
    assert first.shape == (2, 5)
    assert torch.equal(first, lengths.float())  # a reward of 1 a step
    assert torch.equal(cohort.evaluate(5)[0], first)
    assert not torch.equal(cohort.evaluate(5, start=5)[0], first)
    after = cohort.state()
    assert torch.equal(before["params"], after["params"])
    assert torch.equal(before["obs"], after["obs"])


def test_returns_and_lengths_of_episodes_are_those_of_cartpole():
    cohort = PPO(CartPole(), members(3))
    ended = [cohort.iterate() for _ in range(4)]
    lengths = torch.cat([each.lengths for each in ended], 2)
    returns = torch.cat([each.returns for each in ended], 2)
    assert (lengths > 0).sum() > 20
    assert torch.equal(returns.isnan(), lengths == 0)
    assert torch.equal(returns.nan_to_num(0.0), lengths.float())  # a reward of 1 a step
    finished = lengths.sum((1, 2))
    assert torch.equal(finished + cohort.running.episodes.steps.sum(1), torch.full((3,), 4 * 64))


def test_ppo_learns_cartpole():
    config = PPOConfig(
        total_timesteps=10_240,
        n_steps=32,
        batch_size=256,
        gae_lambda=0.8,
        gamma=0.98,
        n_epochs=20,
        learning_rate=3e-3,
    )
    cohort = PPO(CartPole(), [replace(config, seed=seed) for seed in range(3)])
    first = cohort.iterate().returns.nanmean()
    cohort.train()
    assert first < 40
    assert cohort.evaluate(10)[0].mean(1).min() > 100


def test_advantages_are_discounted_sums_of_errors_up_to_the_end_of_an_episode():
    generator = torch.Generator().manual_seed(0)
    n_members, n_envs, n_steps = 2, 3, 6
    rewards, values = torch.randn(2, n_members, n_envs, n_steps, generator=generator).double()
    last = torch.randn(n_members, n_envs, generator=generator).double()
    ended = torch.rand(n_members, n_envs, n_steps, generator=generator) < 0.3
    gamma, trace = torch.tensor([0.9, 0.5]).double(), torch.tensor([0.7, 1.0]).double()
    got = gae(rewards, values, last, ended, gamma, trace)
    for p in range(n_members):
        for n in range(n_envs):
            for t in range(n_steps):
                total, weight = 0.0, 1.0
                for k in range(t, n_steps):
                    following = last[p, n] if k == n_steps - 1 else values[p, n, k + 1]
                    following = 0.0 if ended[p, n, k] else following
                    error = rewards[p, n, k] + gamma[p] * following - values[p, n, k]
                    total += weight * error
                    if ended[p, n, k]:
                        break
                    weight *= gamma[p] * trace[p]
                torch.testing.assert_close(got[p, n, t], torch.as_tensor(total))


def test_minibatches_have_every_sample_once_in_the_order_given():
    numbers = torch.arange(10).expand(2, -1)
    batch = Batch(numbers[..., None].repeat(1, 1, 3), *[numbers] * 4)
    order = torch.stack([torch.randperm(10), torch.randperm(10)])
    pieces = minibatches(batch, order, 4)
    assert [piece.actions.shape[1] for piece in pieces] == [4, 4, 2]
    assert torch.equal(torch.cat([piece.actions for piece in pieces], 1), order)
    assert torch.equal(torch.cat([piece.obs for piece in pieces], 1)[..., 2], order)


def test_members_may_not_differ_in_their_networks():
    with pytest.raises(UsageError, match=r"may differ in seed, .*; got different net_arch$"):
        PPO(CartPole(), [SMALL, replace(SMALL, net_arch=(4,))])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_kl": 0.01}, "PPO in a population has no target_kl, got 0.01; it has seed"),
        ({"use_sde": True}, "has no use_sde, got True"),
        ({"normalize": "all"}, "normalize must be one of none, obs, reward, both, got .all."),
        ({"gae_lamda": 0.9}, "has no gae_lamda"),
        ({"gamma": 1.5}, "gamma must be from 0 to 1, got 1.5"),
        ({"batch_size": 1}, "batch_size must be a whole number, 2 or more, got 1"),
        ({"norm": "wieght"}, "did you mean 'weight'"),
        ({"net_arch": (0,)}, r"net_arch must be whole sizes above zero, got \(0,\)"),
        ({"n_envs": True}, "n_envs must be a whole number, got True"),
        ({"n_epochs": None}, "n_epochs must be a whole number, got None"),
        ({"n_envs": 1, "n_steps": 65}, "leaves a last minibatch of one sample"),
        ({"learning_rate": -1.0}, "learning_rate must be above zero, got -1.0"),
    ],
)
def test_what_a_population_cannot_do_is_one_line(settings, message):
    with pytest.raises(UsageError, match=message) as error:
        PPOConfig.of(settings)
    assert "\n" not in str(error.value)


def test_settings_that_switch_off_what_a_population_has_not_are_taken():
    settings = {"target_kl": None, "use_sde": False, "sde_sample_freq": 4, "normalize": "none"}
    assert PPOConfig.of({**settings, "gamma": 0.9}) == PPOConfig(gamma=0.9)


def test_images_are_refused():
    class Pictures(CartPole):
        observation_space = spaces.Box(0, 1, (4, 4, 1))

    with pytest.raises(UsageError, match="observations must be a Box with one axis"):
        PPO(Pictures(), [SMALL])


@pytest.mark.parametrize("norm", ["batch", "projected"])
def test_a_norm_of_hidden_layers_needs_one(norm):
    with pytest.raises(UsageError, match="is for hidden layers, and the networks have none"):
        PPO(CartPole(), [replace(SMALL, norm=norm, net_arch=())])


def test_weight_norm_on_heads_alone_is_a_cohort():
    config = replace(SMALL, norm="weight", net_arch=(), norm_heads=True)
    assert trained(PPO, CartPole(), [config], 2).finite().all()


def test_averages_of_units_that_are_off_become_zero():
    assert_what_is_almost_nothing_becomes_zero(PPO(CartPole(), [SMALL]))
