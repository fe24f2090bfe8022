import numpy as np
import pytest
import torch
from sb3_contrib import QRDQN, TQC, CrossQ, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise

import envs
from agents import vectorize
from agents.checkpoint import CHECKPOINT, read_checkpoint, saved_steps
from agents.interrupts import Interrupts
from agents.training import SaveCheckpoints, learn, log_to

OFF = {"buffer_size": 500, "learning_starts": 20, "batch_size": 16}
NOISE = OrnsteinUhlenbeckActionNoise(np.zeros(1), 0.3 * np.ones(1))
# name: algorithm, environment, number of them, normalised, arguments
CASES = {
    "ppo": (PPO, "CartPole-v1", 2, True, {"n_steps": 16, "batch_size": 16, "n_epochs": 2}),
    "ppo_gsde": (PPO, "Pendulum-v1", 2, False,
                 {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "use_sde": True,
                  "sde_sample_freq": 4}),
    "a2c": (A2C, "Acrobot-v1", 2, False, {}),
    "recurrent_ppo": (RecurrentPPO, "CartPoleNoVel-v1", 2, True,
                      {"n_steps": 16, "batch_size": 16, "n_epochs": 2}),
    "dqn": (DQN, "CartPole-v1", 1, False, {**OFF, "target_update_interval": 30}),
    "dqn_many": (DQN, "CartPole-v1", 2, True,
                 {**OFF, "optimize_memory_usage": True,
                  "replay_buffer_kwargs": {"handle_timeout_termination": False}}),
    "dqn_n_step": (DQN, "CartPole-v1", 1, False, {**OFF, "n_steps": 3}),
    "qrdqn": (QRDQN, "CartPole-v1", 1, False, OFF),
    "sac": (SAC, "Pendulum-v1", 1, True, OFF),
    "sac_gsde": (SAC, "Pendulum-v1", 1, False, {**OFF, "use_sde": True, "train_freq": 8}),
    "td3": (TD3, "Pendulum-v1", 1, False, {**OFF, "action_noise": NOISE}),
    "td3_many": (TD3, "MountainCarContinuous-v0", 2, False,
                 {**OFF, "action_noise": NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))}),
    "tqc": (TQC, "Pendulum-v1", 1, False, OFF),
    "crossq": (CrossQ, "Pendulum-v1", 1, False, OFF),
}  # fmt: skip


def agent(case, folder, factory=None):
    algorithm, env_id, n_envs, normalize, arguments = CASES[case]
    env = vectorize(factory or envs.factory(env_id), n_envs, 0, normalize)
    policy = "MlpLstmPolicy" if algorithm is RecurrentPPO else "MlpPolicy"
    kwargs = {"net_arch": [8, 8]}
    if algorithm is RecurrentPPO:
        kwargs["lstm_hidden_size"] = 8
    model = algorithm(policy, env, policy_kwargs=kwargs, seed=0, device="cpu", **arguments)
    folder.mkdir(exist_ok=True)
    log_to(model, folder)
    return model


class At(BaseCallback):
    """Calls a function before the first rollout from a step on."""

    def __init__(self, step, function):
        super().__init__()
        self.step, self.function, self.called = step, function, False

    def _on_rollout_start(self):
        if self.num_timesteps >= self.step and not self.called:
            self.called = True
            self.function()

    def _on_step(self):
        return True


def saving(folder, minutes=1e9, late=None, **others):
    return SaveCheckpoints(folder, minutes, dict, Interrupts(), late=late, **others)


def tensors(model):
    """Everything that a resumed run must have in common with the one that was not stopped."""
    found = [p for part in model.get_parameters().values() for p in leaves(part)]
    found += leaves(getattr(model, "_last_lstm_states", None))
    found.append(torch.get_rng_state())
    return found


def leaves(tree):
    return torch.utils._pytree.tree_leaves(tree)


def assert_equal(one, two):
    assert one.num_timesteps == two.num_timesteps
    assert one._n_updates == two._n_updates
    for a, b in zip(tensors(one), tensors(two), strict=True):
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        else:
            assert a == b
    np.testing.assert_array_equal(one._last_obs, two._last_obs)
    episodes = [[(e["r"], e["l"]) for e in model.ep_info_buffer] for model in (one, two)]
    assert episodes[0] == episodes[1]


@pytest.mark.parametrize("case", CASES)
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, case):
    whole = agent(case, tmp_path / "whole")
    learn(whole, 128, saving(tmp_path / "whole", at_end=False))
    folder = tmp_path / "parts"
    stopped = agent(case, folder)
    copy = saving(folder, at_end=False)
    save = At(64, lambda: copy._save(in_rollout=True))
    learn(stopped, 128, save, copy)
    assert saved_steps(folder / CHECKPOINT) in (64, 65, 70)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    resumed = agent(case, tmp_path / "resumed")
    checkpoint = read_checkpoint(resumed, folder / CHECKPOINT)
    assert checkpoint.episodes_go_on
    learn(resumed, 128, saving(folder, late=checkpoint.late, at_end=False), resumed=True)
    assert_equal(resumed, whole)
