"""What follows an optimizer's steps follows those of any optimizer that a policy is given."""

import copy

import pytest
import torch
from gymnasium import spaces
from sb3_contrib import TQC, CrossQ
from stable_baselines3 import PPO, SAC, TD3

from tests.sb3.tasks import RandomTask
from tests.sb3.test_families import ALGORITHMS, make

CONTINUOUS = {"SAC": SAC, "TD3": TD3, "TQC": TQC, "CrossQ": CrossQ}


def make_any(name, norm="projected", **policy_kwargs):
    if name in ALGORITHMS:
        return make(name, norm=norm)
    return CONTINUOUS[name](
        "WNMlpPolicy", RandomTask(action_space=spaces.Box(-1.0, 1.0, (2,))), learning_starts=8,
        batch_size=8, buffer_size=100, seed=0, device="cpu",
        policy_kwargs={"net_arch": [8, 8], "norm": norm, **policy_kwargs},
    )  # fmt: skip


def owners(policy):
    return [part for part in (policy, *policy.children()) if "optimizer" in vars(part)]


def off_the_sphere(policy):
    """How far projected rows that are trained are from length one."""
    parts = [part for name, part in policy.named_children() if not name.endswith("_target")]
    layers = [m for part in parts for m in part.modules() if getattr(m, "projected", False)]
    assert len(layers) >= 2
    return max(float((layer.weight.detach().norm(dim=1) - 1).abs().max()) for layer in layers)


def renew(policy, optimizer_class):
    for part in owners(policy):
        trained = [p for group in part.optimizer.param_groups for p in group["params"]]
        part.optimizer = optimizer_class(trained, lr=0.1)


@pytest.mark.parametrize("optimizer_class", [torch.optim.Adam, torch.optim.SGD])
@pytest.mark.parametrize("name", [*ALGORITHMS, *CONTINUOUS])
def test_projected_rows_stay_on_the_sphere_under_a_new_optimizer(name, optimizer_class):
    model = make_any(name)
    renew(model.policy, optimizer_class)
    model.lr_schedule = lambda _: 0.1
    model.learn(48)
    assert off_the_sphere(model.policy) < 1e-6


@pytest.mark.parametrize("name", ["PPO", "SAC"])
def test_projected_rows_of_a_copy_stay_on_the_sphere_under_a_new_optimizer(name):
    policy = copy.deepcopy(make_any(name).policy)
    renew(policy, torch.optim.SGD)
    for part in owners(policy):
        for parameter in part.parameters():
            parameter.grad = torch.ones_like(parameter)
        part.optimizer.step()
    assert off_the_sphere(policy) < 1e-6


class Wrapper(torch.optim.Optimizer):
    """An optimizer around another, without hooks of its own, as accelerate has it."""

    def __init__(self, optimizer):
        self.optimizer, self.param_groups = optimizer, optimizer.param_groups

    def zero_grad(self):
        self.optimizer.zero_grad()

    def step(self):
        self.optimizer.step()


@pytest.mark.parametrize("name", ["PPO", "CrossQ"])
def test_projected_rows_stay_on_the_sphere_under_a_wrapped_optimizer(name):
    model = make_any(name)
    renew(model.policy, lambda trained, lr: Wrapper(torch.optim.SGD(trained, lr)))
    model.learn(48)
    assert off_the_sphere(model.policy) < 1e-6


def test_an_optimizer_may_be_taken_away():
    policy = make_any("PPO").policy
    policy.optimizer = None
    assert copy.deepcopy(policy).optimizer is None


def test_a_target_of_crossq_follows_a_new_optimizer_once_a_step():
    policy = make_any("CrossQ", "weight", tau=0.25).policy
    critic, target = policy.critic, policy.critic_target
    replaced = critic.optimizer
    renew(policy, torch.optim.SGD)
    for parameter in critic.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = [p.detach().clone() for p in target.parameters()]
    critic.optimizer.step()
    for old, new, online in zip(before, target.parameters(), critic.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * online)
    after = [p.detach().clone() for p in target.parameters()]
    replaced.step()
    assert all(torch.equal(p, old) for p, old in zip(target.parameters(), after, strict=True))


def test_a_loaded_agent_is_fine_tuned_on_the_sphere(tmp_path):
    make_any("PPO").save(tmp_path / "model")
    model = PPO.load(tmp_path / "model", env=RandomTask(), device="cpu")
    model.policy.optimizer = torch.optim.AdamW(model.policy.parameters(), lr=0.1)
    model.lr_schedule = lambda _: 0.1
    model.learn(32)
    assert off_the_sphere(model.policy) < 1e-6
