import numpy as np
import pytest
import torch
from sb3_contrib import QRDQN, TQC, CrossQ, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise

import envs
from wnrl.rl.env_state import load_envs, save_envs
from wnrl.rl.environments import vectorize
from wnrl.rl.model_state import model_state, restore_late, restore_model
from wnrl.rl.run import BeforeRollouts, learn
from wnrl.runs.files import read_values, write_values

OFF = {"buffer_size": 500, "learning_starts": 20, "batch_size": 16}
NOISE = OrnsteinUhlenbeckActionNoise(np.zeros(1), 0.3 * np.ones(1))
# name: algorithm, environment, number of them, normalised, arguments
CASES = {
    "ppo": (PPO, "CartPole-v1", 2, "both", {"n_steps": 16, "batch_size": 16, "n_epochs": 2}),
    "ppo_gsde": (PPO, "Pendulum-v1", 2, "none",
                 {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "use_sde": True,
                  "sde_sample_freq": 4}),
    "a2c": (A2C, "Acrobot-v1", 2, "none", {}),
    "recurrent_ppo": (RecurrentPPO, "CartPoleNoVel-v1", 2, "both",
                      {"n_steps": 16, "batch_size": 16, "n_epochs": 2}),
    "dqn": (DQN, "CartPole-v1", 1, "none", {**OFF, "target_update_interval": 30}),
    "dqn_many": (DQN, "CartPole-v1", 2, "both",
                 {**OFF, "optimize_memory_usage": True,
                  "replay_buffer_kwargs": {"handle_timeout_termination": False}}),
    "dqn_n_step": (DQN, "CartPole-v1", 1, "none", {**OFF, "n_steps": 3}),
    "qrdqn": (QRDQN, "CartPole-v1", 1, "none", OFF),
    "sac": (SAC, "Pendulum-v1", 1, "both", OFF),
    "sac_gsde": (SAC, "Pendulum-v1", 1, "none", {**OFF, "use_sde": True, "train_freq": 8}),
    "td3": (TD3, "Pendulum-v1", 1, "none", {**OFF, "action_noise": NOISE}),
    "td3_many": (TD3, "MountainCarContinuous-v0", 2, "none",
                 {**OFF, "action_noise": NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))}),
    "tqc": (TQC, "Pendulum-v1", 1, "none", OFF),
    "crossq": (CrossQ, "Pendulum-v1", 1, "none", OFF),
    "crossq_target": (CrossQ, "Pendulum-v1", 1, "none",
                      {**OFF, "policy": "WNMlpPolicy",
                       "policy_kwargs": {"norm": "projected", "tau": 0.1}}),
    "sac_spectral": (SAC, "Pendulum-v1", 1, "none",
                     {**OFF, "policy": "WNMlpPolicy", "policy_kwargs": {"norm": "spectral"}}),
}  # fmt: skip


def agent(case):
    algorithm, env_id, n_envs, normalize, arguments = CASES[case]
    env = vectorize(envs.factory(env_id), n_envs, 0, normalize)
    recurrent = algorithm is RecurrentPPO
    kwargs = {"net_arch": [8, 8], **({"lstm_hidden_size": 8} if recurrent else {})}
    return algorithm(
        env=env, seed=0, device="cpu",
        **{"policy": "MlpLstmPolicy" if recurrent else "MlpPolicy", **arguments,
           "policy_kwargs": {**kwargs, **arguments.get("policy_kwargs", {})}},
    )  # fmt: skip


def before_rollout_from(step, function):
    """A callback that calls a function once, before the first rollout from a step on."""
    called = []

    def call():
        if callback.num_timesteps >= step and not called:
            called.append(True)
            function()

    callback = BeforeRollouts(call)
    return callback


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
def test_resumed_training_equals_uninterrupted_training_bit_for_bit(tmp_path, case):
    path = tmp_path / "state"
    whole = agent(case)
    learn(whole, 96)

    def save():
        values = {"model": model_state(stopped, in_rollout=True), "envs": save_envs(stopped.env)}
        write_values(path, "state", values)
        raise InterruptedError

    stopped = agent(case)
    with pytest.raises(InterruptedError):
        learn(stopped, 96, before_rollout_from(48, save))
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    resumed, saved = agent(case), read_values(path, "state")
    assert load_envs(resumed.env, saved["envs"])
    restore_model(resumed, saved["model"], episodes_go_on=True)
    assert 48 <= resumed.num_timesteps < 96
    late = before_rollout_from(0, lambda: restore_late(resumed, saved["model"]["late"]))
    learn(resumed, 96, late, resumed=True)
    assert_equal(resumed, whole)


def test_a_state_of_another_network_or_buffer_is_refused():
    model = agent("dqn")
    learn(model, 100)
    saved = model_state(model, in_rollout=False)
    for case in ("qrdqn", "dqn_many", "ppo", "sac"):
        with pytest.raises((ValueError, KeyError, RuntimeError)):
            restore_model(agent(case), saved, episodes_go_on=True)


@pytest.mark.parametrize("case", ["dqn", "dqn_many"])
def test_where_episodes_begin_anew_the_last_transitions_end_theirs(case):
    model = agent(case)
    learn(model, 100)
    other = agent(case)
    restore_model(other, model_state(model, in_rollout=False), episodes_go_on=False)
    buffer = other.replay_buffer
    ends = buffer.dones if buffer.optimize_memory_usage else buffer.timeouts
    assert (ends[buffer.pos - 1] == 1).all()
    assert other._last_obs is None
