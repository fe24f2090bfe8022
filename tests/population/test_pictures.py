"""DQN on pictures: SB3's convolutional policy, and what its members do not depend on."""

from dataclasses import dataclass, replace
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from torch.nn.functional import one_hot

from tests.population.cohorts import (
    assert_a_restored_cohort_goes_on,
    assert_companions_change_no_bit,
    trained,
)
from tests.population.sb3_dqn import run_sb3
from tests.population.test_dqn import assert_member_is_sb3s
from wnrl import population
from wnrl.errors import UsageError
from wnrl.norms import NORMS
from wnrl.population.backend import HotNetworks, Modules
from wnrl.population.config import DQNConfig
from wnrl.population.dqn import DQN, transitions_at
from wnrl.population.layers import HOT
from wnrl.population.losses import HuberLoss, Targets
from wnrl.sb3.extractors import SmallCNN
from wnrl.tensor_envs import make

SIDE, START_ROWS = 5, 4


@dataclass(frozen=True)
class Falling:
    """A thing that falls and is steered into a hole; its picture is grey above the floor."""

    observation_space: ClassVar[spaces.Box] = spaces.Box(0, 1, (2, SIDE, SIDE), np.float32)
    action_space: ClassVar[spaces.Discrete] = spaces.Discrete(3)
    max_episode_steps: ClassVar[int] = 3
    reset_draws: ClassVar[int] = 1
    step_draws: ClassVar[int] = 0

    def reset(self, u):
        return {"cell": (u[..., 0] * (START_ROWS * SIDE)).long()}

    def observe(self, state):
        seen = one_hot(state["cell"], SIDE * SIDE).unflatten(-1, (SIDE, SIDE)).float()
        floor = torch.zeros(SIDE, SIDE)
        floor[-1, 3] = 1.0
        return torch.stack((seen * (100 / 255), floor.expand_as(seen)), -3).to(
            torch.get_default_dtype()
        )

    def step(self, state, actions, u):
        row, column = state["cell"] // SIDE + 1, state["cell"] % SIDE
        column = (column + actions - 1).clamp(0, SIDE - 1)
        landed = row == SIDE - 1
        return {"cell": row * SIDE + column}, (landed & (column == 3)).float(), landed


class Fallen(gym.Env):
    """The same for Gymnasium."""

    world = Falling()
    observation_space = spaces.Box(0, 255, (2, SIDE, SIDE), np.uint8)
    action_space = world.action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = self.world.reset(torch.tensor([self.np_random.random()]))
        return self.picture(), {}

    def step(self, action):
        self.state, reward, landed = self.world.step(self.state, torch.tensor(action), None)
        return self.picture(), reward.item(), landed.item(), False, {}

    def picture(self):
        return self.world.observe(self.state).mul(255).round().to(torch.uint8).numpy()


def of_picture(obs):
    """Return the uniform numbers of the reset that gave observations."""
    return (obs[..., 0, :, :].flatten(-2).argmax(-1, keepdim=True) + 0.5) / (START_ROWS * SIDE)


SMALL = DQNConfig(
    total_timesteps=120,
    n_envs=2,
    train_freq=6,
    gradient_steps=3,
    batch_size=12,
    buffer_size=60,
    learning_starts=24,
    target_update_interval=20,
    exploration_fraction=0.6,
    exploration_final_eps=0.1,
    learning_rate=1e-3,
    net_arch=(),
    seed=3,
)
CASES = {
    **{norm: {"norm": norm} for norm in NORMS if "mean" not in norm},
    "a layer behind": {"norm": "weight", "net_arch": (8,)},
    "tanh behind": {"norm": "layer", "net_arch": (8,), "activation_fn": "tanh"},
    "weight on heads": {"norm": "weight", "norm_heads": True},
    "data_init": {"norm": "weight", "data_init": 12},
}


@pytest.mark.parametrize("case", CASES)
def test_with_sb3s_draws_a_member_is_sb3s_agent(case, monkeypatch):
    config = replace(SMALL, **CASES[case])
    arguments = {
        "features_extractor_class": SmallCNN,
        "norm": config.norm,
        "norm_heads": config.norm_heads,
        "data_init": config.data_init,
        "activation_fn": {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}[config.activation_fn],
    }
    limited = lambda: gym.wrappers.TimeLimit(Fallen(), Falling.max_episode_steps)  # noqa: E731
    policy = ("WNCnnPolicy", arguments)
    resets, iterations = run_sb3(config, policy, monkeypatch, limited, of_picture)
    assert_member_is_sb3s(DQN(Falling(), [config]), resets, iterations)


WAYS = {
    **{norm: {"norm": norm} for norm in HOT},
    "a layer behind": {"norm": "layer", "net_arch": (8,), "activation_fn": "tanh"},
}


@pytest.mark.parametrize("case", WAYS)
def test_both_ways_lead_to_the_same_gradients(case):
    configs = [replace(SMALL, seed=seed, **WAYS[case]) for seed in range(3)]
    env = make("MinAtarBreakout-v1")
    cohort = trained(DQN, env, configs, 8, dtype=torch.float64)
    seen = transitions_at(cohort.replay, cohort._places(7)[:, 0])
    targets = Targets(seen.obs, seen.actions, torch.randn_like(seen.rewards))
    other = Modules(cohort.plan)
    assert isinstance(cohort.networks, HotNetworks)
    ways = []
    for networks in (cohort.networks, other):
        buffers, grads = cohort.buffers.clone(), torch.zeros_like(cohort.params)
        gradient_ = networks.learner(cohort.params, buffers, grads, HuberLoss())
        gradient_(networks.laid_out(targets))
        acting = networks.act(cohort.params, cohort.buffers)(seen.obs, None)[0]
        ways.append((grads, buffers, acting))
    assert ways[0][0].abs().max() > 1e-2
    for hot, vmapped in zip(*ways, strict=True):
        torch.testing.assert_close(hot, vmapped, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_companions_change_no_bit(norm):
    configs = [replace(SMALL, seed=seed, norm=norm) for seed in range(9)]
    assert_companions_change_no_bit(DQN, make("MinAtarFreeway-v1"), configs, 6)


def test_a_restored_cohort_goes_on_bit_for_bit(tmp_path):
    configs = [replace(SMALL, seed=seed, norm="batch") for seed in range(2)]
    assert_a_restored_cohort_goes_on(DQN, Falling(), configs, 4, tmp_path / "cohort")


def test_pictures_are_kept_in_bytes_and_come_back_as_they_were_seen():
    cohort = trained(DQN, Falling(), [SMALL], 3)
    assert cohort.replay.obs.dtype == cohort.replay.next_obs.dtype == torch.uint8
    seen = cohort.observed(0)
    assert seen.dtype == torch.float32
    assert seen.unique().tolist() == torch.tensor([0, 100 / 255, 1]).tolist()
    assert seen.shape == (36, 2, SIDE, SIDE)


@pytest.mark.parametrize("norm", ["none", "weight", "batch", "layer"])
def test_a_member_becomes_a_model_of_sb3_that_acts_alike(norm, tmp_path):
    runs = population.train(
        "dqn", "MinAtarBreakout-v1", norms=[norm], learning_rates=[1e-3], seeds=range(2),
        total_timesteps=200, learning_starts=40, batch_size=8, buffer_size=200, net_arch=(),
    )  # fmt: skip
    run = runs.member(norm, 1e-3, 1)
    model = run.to_sb3()
    assert model.observation_space == spaces.Box(0, 255, (4, 10, 10), np.uint8)
    model.save(tmp_path / "agent.zip")
    loaded = stable_baselines3.DQN.load(tmp_path / "agent.zip")
    config = replace(run.config, seed=1)
    cohort = DQN(make("MinAtarBreakout-v1"), [config])
    cohort.train()
    seen = cohort.observed(0)
    best = cohort.networks.act(cohort.params, cohort.buffers)(seen[None], None)[0][0].argmax(-1)
    assert len(best.unique()) > 1
    for agent in (model, loaded):
        actions = agent.predict((seen * 255).byte().numpy(), deterministic=True)[0]
        assert actions.tolist() == best.tolist()


def test_diagnostics_of_pictures_are_there():
    measures = trained(DQN, Falling(), [replace(SMALL, norm="weight")], 4).diagnostics(0)
    assert any("dormant" in tag for tag in measures)


def test_a_picture_that_is_too_large_is_one_line():
    large = Falling()
    object.__setattr__(large, "observation_space", spaces.Box(0, 1, (3, 40, 36), np.float32))
    with pytest.raises(UsageError, match=r"smaller than 36 pixels, got \(3, 40, 36\)"):
        DQN(large, [SMALL])
