"""A cohort of DQN: SB3's algorithm, and what its members do not depend on."""

from dataclasses import replace

import pytest
import torch
from stable_baselines3.common.utils import LinearSchedule
from torch import nn

import wnrl.sb3  # noqa: F401  # registers the policies
from tests.population.cohorts import (
    assert_a_restored_cohort_goes_on,
    assert_companions_change_no_bit,
    assert_others_are_untouched,
    assert_what_is_almost_nothing_becomes_zero,
    trained,
)
from tests.population.sb3_dqn import run_sb3
from tests.population.sb3_draws import ShortCartPole
from wnrl.errors import UsageError
from wnrl.norms import NORMS
from wnrl.population.backend import HotNetworks, Modules
from wnrl.population.config import DQNConfig
from wnrl.population.dqn import DQN, Choices, Transitions, store_, transitions_at
from wnrl.population.layers import HOT
from wnrl.population.random import integers, member_keys
from wnrl.tensor_envs import CartPole, Pendulum
from wnrl.tensor_envs.core import begin

SMALL = DQNConfig(
    total_timesteps=200,
    n_envs=2,
    train_freq=10,
    gradient_steps=4,
    batch_size=16,
    buffer_size=90,  # less than the steps, and no multiple of those of an iteration
    learning_starts=45,
    target_update_interval=30,
    exploration_fraction=0.6,
    exploration_final_eps=0.1,
    learning_rate=1e-2,
    gamma=0.9,
    net_arch=(16, 16),
    seed=3,
)


def ours(norm, **arguments):
    return "WNMlpPolicy", {"norm": norm, **arguments}


RMSPROP = {"optimizer_class": torch.optim.RMSprop}
CASES = {
    "stock": ({}, ("MlpPolicy", {})),
    "schedule": ({"learning_rate_schedule": "linear"}, ("MlpPolicy", {})),
    "one environment": ({"n_envs": 1, "gradient_steps": -1}, ("MlpPolicy", {})),
    "learning at once": ({"learning_starts": 0, "target_update_interval": 7}, ("MlpPolicy", {})),
    "slow target": ({"tau": 0.3, "target_update_interval": 7}, ("MlpPolicy", {})),
    "rmsprop": ({"optimizer": "rmsprop"}, ("MlpPolicy", RMSPROP)),
    **{norm: ({"norm": norm}, ours(norm)) for norm in NORMS if "mean" not in norm},
    # With ReLU some biases cancel: their gradient is a rounding error, which Adam makes a step of.
    **{
        norm: ({"norm": norm, "activation_fn": "tanh"}, ours(norm, activation_fn=nn.Tanh))
        for norm in NORMS
        if "mean" in norm
    },
    "weight on heads": ({"norm": "weight", "norm_heads": True}, ours("weight", norm_heads=True)),
    "data_init": ({"norm": "weight", "data_init": 16}, ours("weight", data_init=16)),
}


@pytest.mark.parametrize("case", CASES)
def test_with_sb3s_draws_a_member_is_sb3s_agent(case, monkeypatch):
    change, policy = CASES[case]
    config = replace(SMALL, **change)
    resets, iterations = run_sb3(config, policy, monkeypatch)
    assert_member_is_sb3s(DQN(ShortCartPole(), [config]), resets, iterations)


def assert_member_is_sb3s(cohort, resets, iterations):
    """Assert that a cohort of one acts and learns as SB3's agent did, iteration by iteration."""
    config, updated = cohort.config, 0
    cohort.start(begin(cohort.env, resets))
    assert len(iterations) == config.iterations
    for k, (((u, *others), places), expected) in enumerate(iterations):
        before = cohort.params.clone()
        cohort.iterate((Choices(u < cohort.exploration_rate(k), *others), places))
        updated += not torch.equal(before, cohort.params)
        assert (places is not None) == (k >= config.first_update)
        state = cohort.member_state(0)
        assert state.keys() == expected.keys()
        for name, value in expected.items():
            if name.endswith("num_batches_tracked") and "target" in name:
                continue  # which SB3 does not copy
            torch.testing.assert_close(
                state[name].to(value.dtype), value, rtol=0, atol=2e-5, msg=f"{name} after {k}"
            )
    last_rate_is_zero = config.learning_rate_schedule == "linear"
    assert updated == config.iterations - config.first_update - last_rate_is_zero


def members(n, **change):
    """Return members that differ in all that members may differ in."""
    return [
        replace(
            SMALL,
            seed=seed,
            learning_rate=1e-3 * (1 + seed % 3),
            gamma=0.9 + 0.003 * seed,
            exploration_fraction=0.3 + 0.01 * seed,
            exploration_initial_eps=1.0 - 0.01 * seed,
            exploration_final_eps=0.01 * seed,
            **change,
        )
        for seed in range(n)
    ]


@pytest.mark.parametrize("norm", NORMS)
def test_a_member_alone_among_eight_and_among_12_is_the_same_to_the_bit(norm):
    assert_companions_change_no_bit(DQN, CartPole(), members(12, norm=norm), 6)


@pytest.mark.parametrize("norm", NORMS)
def test_so_it_is_where_a_product_has_one_column(norm):
    configs = members(8, norm=norm, n_envs=1, net_arch=(64, 64), train_freq=20)
    assert_companions_change_no_bit(DQN, CartPole(), configs, 6)


def test_members_differ_in_each_thing_that_they_may_differ_in():
    config = replace(SMALL, learning_starts=0)
    for name in DQNConfig.members:
        other = replace(config, **{name: config.seed + 1 if name == "seed" else 0.5})
        first, second = trained(DQN, CartPole(), [config, other], 6).params
        assert not torch.equal(first, second), name


@pytest.mark.parametrize("norm", ["weight", "batch", "spectral"])
def test_a_member_that_is_not_finite_leaves_the_others_untouched(norm):
    configs = members(6, norm=norm)
    assert_others_are_untouched([DQN(CartPole(), configs) for _ in range(2)], 4, 4)


@pytest.mark.parametrize("norm", ["weight", "batch", "spectral"])
def test_a_restored_cohort_goes_on_bit_for_bit(norm, tmp_path):
    configs = members(3, norm=norm)
    assert_a_restored_cohort_goes_on(DQN, CartPole(), configs, 4, tmp_path / "cohort")


WAYS = {
    **{norm: {"norm": norm} for norm in HOT},
    "tanh": {"activation_fn": "tanh"},
    "weight on heads": {"norm": "weight", "norm_heads": True},
    "no layer": {"net_arch": ()},
}


@pytest.mark.parametrize("case", WAYS)
def test_both_ways_lead_to_the_same_parameters(case):
    configs = members(3, **WAYS[case])
    ways = [
        trained(DQN, CartPole(), configs, 6, dtype=torch.float64, chunk=2, formulas=formulas)
        for formulas in (True, False)
    ]
    assert isinstance(ways[0].networks, HotNetworks)
    assert type(ways[1].networks) is Modules
    start = DQN(CartPole(), configs, dtype=torch.float64).params
    assert (ways[0].params - start).abs().max() > 1e-3
    for hot, vmapped in zip(*([way.params, way.buffers, *way.target] for way in ways), strict=True):
        torch.testing.assert_close(hot, vmapped, rtol=0, atol=1e-8)


def test_a_replay_buffer_has_the_newest_steps_and_gives_those_asked_for():
    numbers = torch.arange(2 * 7 * 3).view(2, 7, 3)  # of two members in three environments
    seen = Transitions(numbers[..., None].float(), numbers, numbers.float(), -numbers[..., None],
                       numbers % 2 == 0)  # fmt: skip
    memory = Transitions(*(torch.zeros_like(value[:, :5]) for value in seen))
    for first, last in ((0, 2), (2, 4), (4, 7)):
        store_(memory, Transitions(*(value[:, first:last] for value in seen)), first)
    assert memory.actions[0, :, 0].tolist() == [15, 18, 6, 9, 12]  # the last two are over the first
    places = torch.tensor([[0, 5, 14], [3, 3, 1]])  # row * 3 + environment
    got = transitions_at(memory, places)
    assert got.actions.tolist() == [[15, 20, 14], [39, 39, 37]]
    assert torch.equal(got.obs[..., 0].long(), got.actions)
    assert torch.equal(got.next_obs[..., 0], -got.actions)
    assert torch.equal(got.terminated, got.actions % 2 == 0)


def test_an_episode_that_a_time_limit_cut_is_not_stored_as_terminated():
    config = replace(SMALL, total_timesteps=1000, buffer_size=1000, exploration_final_eps=1.0)
    cohort = DQN(ShortCartPole(), [config])
    ended = [cohort.iterate() for _ in range(50)]
    cut = sum((each.lengths == 25).sum() for each in ended)
    fell = sum(((each.lengths > 0) & (each.lengths < 25)).sum() for each in ended)
    assert cut > 0
    assert cohort.replay.terminated.sum() - fell <= cut
    assert cohort.replay.terminated.sum() < cut + fell


def test_random_actions_and_places_are_uniform():
    drawn = integers(member_keys([0, 1]), 0, 30_000, 3)
    counts = torch.stack([(drawn == k).sum(1) for k in range(3)], 1)
    assert ((counts - 10_000).abs() < 400).all()
    cohort = DQN(CartPole(), [replace(SMALL, batch_size=1000)])
    places = cohort._places(1)
    assert places.shape == (1, 4, 1000)
    assert places.unique().tolist() == list(range(40))  # twenty steps of two environments
    assert cohort._places(9).unique().tolist() == list(range(90))  # all that there is room for


@pytest.mark.parametrize("learning_starts", [0, 45])
def test_the_share_of_random_actions_falls_as_sb3s(learning_starts):
    cohort = DQN(CartPole(), [replace(SMALL, learning_starts=learning_starts)])
    shares = torch.cat([cohort.exploration_rate(k) for k in range(10)])[:, 0]
    schedule = LinearSchedule(1.0, 0.1, 0.6)
    expected = torch.tensor([schedule(1 - 2 * step / 200) for step in range(100)])
    expected[0] = 0.0  # which SB3 begins with
    expected[: -(-learning_starts // 2)] = 1.0
    torch.testing.assert_close(shares, expected)


def test_units_that_are_off_leave_no_numbers_that_a_cpu_is_slow_with():
    config = replace(SMALL, total_timesteps=400, learning_starts=0, gradient_steps=100)
    cohort = DQN(CartPole(), [config])
    cohort.iterate()
    cohort.plan.views(cohort.params)["0.bias"].fill_(-1e3)
    averages = cohort.optimizer_state["mean"]
    assert ((averages != 0) & (averages.abs() < 1e-5)).any()
    cohort.train()  # 1900 steps, in which a mean falls by 0.9 each time
    least = averages.abs()[averages != 0].min()
    assert least > torch.finfo(torch.float32).smallest_normal


def test_dqn_learns_cartpole():
    config = DQNConfig(
        total_timesteps=20_000,
        learning_rate=2.3e-3,
        batch_size=64,
        learning_starts=1000,
        target_update_interval=10,
        train_freq=256,
        gradient_steps=128,
        exploration_fraction=0.16,
        exploration_final_eps=0.04,
    )
    cohort = DQN(CartPole(), [replace(config, seed=seed) for seed in range(4)])
    before = cohort.evaluate(10)[0].mean()
    cohort.train()
    assert before < 60
    assert cohort.evaluate(10)[0].mean() > 100


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau": 1.5}, "tau must be from 0 to 1, got 1.5"),
        ({"n_steps": 2}, "DQN in a population has no n_steps, got 2; it has seed"),
        ({"train_freq_unit": "episode"}, "has no train_freq_unit, got 'episode'"),
        ({"optimize_memory_usage": True}, "has no optimize_memory_usage"),
        ({"n_steps": 3}, "has no n_steps, got 3"),
        ({"normalize": "obs"}, "has normalize none alone, got 'obs'"),
        ({"buffer_size": 3}, "buffer_size must hold the n_envs . train_freq = 4 steps"),
        ({"learning_starts": 10**6}, "learning_starts 1000000 leaves nothing to learn"),
        ({"exploration_fraction": 1.5}, "exploration_fraction must be from 0 to 1, got 1.5"),
        ({"gradient_steps": 0}, "gradient_steps must be a whole number above zero, or -1, got 0"),
    ],
)
def test_what_a_population_cannot_do_is_one_line(settings, message):
    with pytest.raises(UsageError, match=message) as error:
        DQNConfig.of(settings)
    assert "\n" not in str(error.value)


def test_settings_that_switch_off_what_a_population_has_not_are_taken():
    settings = {"tau": 1.0, "n_steps": 1, "train_freq_unit": "step", "placement": "pre"}
    assert DQNConfig.of({**settings, "gamma": 0.9}) == DQNConfig(gamma=0.9)


def test_real_actions_are_refused():
    with pytest.raises(UsageError, match="actions of DQN must be Discrete, got a Box"):
        DQN(Pendulum(), [SMALL])


def test_averages_of_units_that_are_off_become_zero():
    assert_what_is_almost_nothing_becomes_zero(DQN(CartPole(), [replace(SMALL, learning_starts=0)]))
