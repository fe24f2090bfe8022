"""The networks of a member: SB3's at the same seed, in one row."""

import pytest
import torch
from gymnasium import spaces

from tests.sb3.tasks import RandomTask
from wnrl.networks import mlp
from wnrl.norms import NORMS
from wnrl.population.config import PPOConfig
from wnrl.population.networks import ActorCritic
from wnrl.population.rows import build

OBS = spaces.Box(-1.0, 1.0, (5,))
ACTIONS = {"discrete": spaces.Discrete(3), "box": spaces.Box(-1.0, 1.0, (2,))}


def sb3_policy(config, actions):
    from stable_baselines3 import PPO

    return PPO(
        "WNMlpPolicy",
        RandomTask(OBS, actions),
        seed=config.seed,
        device="cpu",
        policy_kwargs={
            "norm": config.norm,
            "norm_heads": config.norm_heads,
            "net_arch": list(config.net_arch),
            "log_std_init": config.log_std_init,
            "ortho_init": config.ortho_init,
        },
    ).policy


@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize(
    ("norm", "change"),
    [
        *((norm, {}) for norm in NORMS),
        ("weight", {"norm_heads": True}),
        ("none", {"ortho_init": False, "log_std_init": -1.0, "net_arch": (7,)}),
    ],
)
def test_a_member_starts_as_sb3s_agent_of_its_seed(norm, change, actions):
    config = PPOConfig(seed=11, norm=norm, **{"net_arch": (16, 8), **change})
    plan, params, buffers = build(
        [PPOConfig(seed=0, norm=norm), config][1:], OBS, ACTIONS[actions], ActorCritic
    )
    policy = sb3_policy(config, ACTIONS[actions])
    state = plan.by_sb3s_names(params, buffers)
    assert state.keys() == policy.state_dict().keys()
    for name, value in policy.state_dict().items():
        assert torch.equal(state[name][0], value.to(params.dtype)), name


def test_building_members_leaves_torchs_generator_alone():
    before = torch.get_rng_state()
    build([PPOConfig(seed=1)], OBS, ACTIONS["box"], ActorCritic)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("norm", ["none", "weight", "batch", "spectral"])
@pytest.mark.parametrize("actions", ACTIONS)
def test_both_halves_of_a_row_are_networks_of_one_shape(norm, actions):
    config = PPOConfig(norm=norm, norm_heads=True, net_arch=(6,))
    plan, params, buffers = build([config] * 2, OBS, ACTIONS[actions], ActorCritic)
    halves = plan.views(params) | plan.buffer_views(buffers)
    by_name = plan.by_sb3s_names(params, buffers)
    for name, value in by_name.items():
        assert value.shape[0] == 2
        if "policy_net.0" in name:
            rest = name.removeprefix("mlp_extractor.policy_net.")
            assert torch.equal(halves[rest][::2], value)
            assert torch.equal(halves[rest][1::2], by_name[f"mlp_extractor.value_net.{rest}"])
    head = next(name for name in halves if name.startswith("2.") and name.endswith("bias"))
    assert (halves[head][1::2, 1:] == 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_what_was_saved_into_rows_is_what_is_loaded(norm):
    plan, params, buffers = build(
        [PPOConfig(norm=norm, seed=s) for s in (0, 1)], OBS, ACTIONS["box"], ActorCritic
    )
    params, buffers = params.uniform_(), buffers.fill_(3.0)
    net = plan.load(params, buffers, 1)
    for name, value in net.state_dict().items():
        assert torch.equal(value, plan.by_sb3s_names(params, buffers)[name][1].to(value.dtype))
    plan.save(net, params, buffers, 0)
    state = plan.by_sb3s_names(params, buffers)
    assert all(torch.equal(value[0], value[1]) for value in state.values())


def test_networks_are_those_of_wnrl_networks():
    plan, _, _ = build([PPOConfig(norm="layer")], OBS, ACTIONS["discrete"], ActorCritic)
    ours = mlp(5, (64, 64), 3, norm="layer", activation="tanh")
    assert str(plan.net.networks()[0]) == str(ours)
