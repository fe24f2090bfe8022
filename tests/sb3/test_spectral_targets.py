import copy
import pickle

import numpy as np
import pytest
import torch
from sb3_contrib import QRDQN, TQC, CrossQ
from stable_baselines3 import DQN, SAC, TD3

from wnrl.nn.spectral import Spectral
from wnrl.sb3.parts import is_target

REPLAY = {"learning_starts": 60, "batch_size": 16, "buffer_size": 100, "device": "cpu", "seed": 0}
SOFT = {"tau": 0.01, "target_update_interval": 1}
CASES = {
    "sac": (SAC, "Pendulum-v1", {}),
    "td3": (TD3, "Pendulum-v1", {}),
    "tqc": (TQC, "Pendulum-v1", {}),
    "crossq": (CrossQ, "Pendulum-v1", {"policy_kwargs": {"tau": 0.01, "batch_norm": True}}),
    "dqn": (DQN, "CartPole-v1", SOFT),
    "dqn_copies": (DQN, "CartPole-v1", {"target_update_interval": 1}),
    "qrdqn": (QRDQN, "CartPole-v1", SOFT),
}


def make(case, norm="spectral"):
    """A model that has data to learn from and has not learnt."""
    algorithm, env, others = CASES[case]
    extra = others.get("policy_kwargs", {})
    arguments = {**REPLAY, "learning_rate": 3e-3, **others}
    arguments["policy_kwargs"] = {"norm": norm, "net_arch": [24, 24], **extra}
    return algorithm("WNMlpPolicy", env, **arguments).learn(60)


def update(model, steps):
    """Updates from random generators of their own, with what loops do between them."""
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 (SB3 draws from the global generator)
    for _ in range(steps):
        model.train(gradient_steps=1, batch_size=16)
        if isinstance(model, DQN | QRDQN):
            model._on_step()
    return model


def targets(policy):
    return [part for name, part in policy.named_children() if is_target(name)]


def spectral_layers(network):
    return [part for part in network.modules() if isinstance(part, Spectral)]


def excess(layer):
    """How far the spectral norm of a layer's w is above one."""
    return float(torch.linalg.matrix_norm(layer.compute_weight().detach(), 2)) - 1


@pytest.mark.parametrize("case", CASES)
def test_the_weights_that_targets_use_have_spectral_norm_one(case):
    model, found = make(case), []
    for target in targets(model.policy):
        for layer in spectral_layers(target):
            layer.register_forward_hook(lambda layer, *_: found.append(excess(layer)))
    update(model, 100)
    assert len(found) >= 2 * 100
    assert max(found) < 0.12
    assert np.mean(found) < 0.015  # 0.04 to 0.3 with the vectors of the online networks


@pytest.mark.parametrize("case", CASES)
def test_targets_have_them_in_evaluation_too(case):
    policy = update(make(case), 50).policy
    policy.set_training_mode(False)
    obs = torch.zeros(2, *policy.observation_space.shape)
    for target in targets(policy):
        inputs = (obs, torch.zeros(2, 1)) if hasattr(target, "q_networks") else (obs,)
        with torch.no_grad():
            first = target(*inputs)
            torch.testing.assert_close(target(*inputs), first, rtol=0, atol=0)
        for layer in spectral_layers(target):
            assert excess(layer) < 0.05


@pytest.mark.parametrize("case", CASES)
def test_an_agent_that_was_saved_or_copied_learns_on_as_if_it_had_not_been(tmp_path, case):
    model = update(make(case), 30)
    model.save(tmp_path / "model")
    again = type(model).load(tmp_path / "model", env=model.get_env(), device="cpu")
    again.replay_buffer = model.replay_buffer
    again.set_logger(model.logger)
    expected = update(model, 20).policy.state_dict()
    for key, value in update(again, 20).policy.state_dict().items():
        assert torch.equal(expected[key], value), key


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("case", CASES)
def test_the_targets_of_copies_step_vectors_of_their_own(case, copied):
    policy = update(make(case), 10).policy
    before = {key: value.clone() for key, value in policy.state_dict().items()}
    twin = copied(policy)
    twin.set_training_mode(True)
    obs = torch.zeros(2, *policy.observation_space.shape)
    with torch.no_grad():
        for target in targets(twin):
            for parameter in target.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
            target(*((obs, torch.zeros(2, 1)) if hasattr(target, "q_networks") else (obs,)))
    moved = {key for key, value in twin.state_dict().items() if (value != before[key]).any()}
    assert any("_target_vectors." in key for key in moved)
    for key, value in policy.state_dict().items():
        assert torch.equal(before[key], value), key


@pytest.mark.parametrize("norm", ["none", "weight", "batch_renorm"])
def test_policies_under_other_norms_keep_no_vectors(norm):
    assert not any("vectors" in key for key in make("sac", norm).policy.state_dict())
