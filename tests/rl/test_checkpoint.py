import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from sb3_contrib import QRDQN, TQC, CrossQ, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise

import envs
from wnrl.errors import UsageError
from wnrl.rl.checkpoint import CHECKPOINT, read_checkpoint, saved_steps, write_checkpoint
from wnrl.rl.environments import vectorize
from wnrl.rl.training import SaveCheckpoints, learn, log_to
from wnrl.runs.interrupts import Interrupts, Stopped

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
    "crossq_target": (CrossQ, "Pendulum-v1", 1, False,
                      {**OFF, "policy": "WNMlpPolicy",
                       "policy_kwargs": {"norm": "projected", "tau": 0.1}}),
    "sac_spectral": (SAC, "Pendulum-v1", 1, False,
                     {**OFF, "policy": "WNMlpPolicy", "policy_kwargs": {"norm": "spectral"}}),
}  # fmt: skip


def agent(case, folder, factory=None):
    algorithm, env_id, n_envs, normalize, arguments = CASES[case]
    env = vectorize(factory or envs.factory(env_id), n_envs, 0, normalize)
    recurrent = algorithm is RecurrentPPO
    kwargs = {"net_arch": [8, 8], **({"lstm_hidden_size": 8} if recurrent else {})}
    model = algorithm(
        env=env, seed=0, device="cpu",
        **{"policy": "MlpLstmPolicy" if recurrent else "MlpPolicy", **arguments,
           "policy_kwargs": {**kwargs, **arguments.get("policy_kwargs", {})}},
    )  # fmt: skip
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
    assert 64 <= saved_steps(folder / CHECKPOINT) < 128
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    resumed = agent(case, tmp_path / "resumed")
    checkpoint = read_checkpoint(resumed, folder / CHECKPOINT)
    assert checkpoint.episodes_go_on
    learn(resumed, 128, saving(folder, late=checkpoint.late, at_end=False), resumed=True)
    assert_equal(resumed, whole)


@pytest.fixture
def saved(tmp_path):
    """A DQN that has learned, and its folder with a checkpoint."""
    model = agent("dqn", tmp_path / "run")
    learn(model, 100, saving(tmp_path / "run"))
    return model, tmp_path / "run"


def test_a_checkpoint_that_fails_half_way_leaves_the_one_before(saved, monkeypatch, capsys):
    model, folder = saved
    before = (folder / CHECKPOINT).read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wnrl.rl.checkpoint.write_replay", full)
    learn(model, 104, saving(folder, minutes=0.0), resumed=True)
    assert (folder / CHECKPOINT).read_bytes() == before
    assert "no checkpoint at step 100: [Errno 28] No space left" in capsys.readouterr().err
    assert model.num_timesteps == 104


@pytest.mark.parametrize("part", ["tensors.pt", "memory.pkl", "replay/rewards", "manifest.json"])
def test_a_byte_that_has_changed_is_noticed(saved, part):
    _, folder = saved
    path = folder / CHECKPOINT
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(part)
    data = bytearray(path.read_bytes())
    data[info.header_offset + 30 + len(part) + info.compress_size - 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"checkpoint\.zip is damaged or of another model: "):
        read_checkpoint(agent("dqn", folder.parent / "other"), path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_checkpoint_that_was_cut_is_refused(saved, share):
    _, folder = saved
    path = folder / CHECKPOINT
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UsageError, match=r"checkpoint\.zip is damaged"):
        read_checkpoint(agent("dqn", folder.parent / "other"), path)
    with pytest.raises(UsageError, match=r"checkpoint\.zip is damaged"):
        saved_steps(path)


def test_a_checkpoint_of_another_network_or_buffer_is_refused(saved):
    _, folder = saved
    for case in ("qrdqn", "dqn_many", "ppo", "sac"):
        with pytest.raises(UsageError, match=r"is damaged or of another model: "):
            read_checkpoint(agent(case, folder.parent / case), folder / CHECKPOINT)


def test_a_checkpoint_of_an_interrupted_run_goes_on_where_the_signal_came(tmp_path):
    folder = tmp_path / "run"
    model = agent("sac", folder)
    callback = saving(folder)
    callback.interrupts.received = 15
    with pytest.raises(Stopped) as stopped:
        learn(model, 50, callback)
    assert stopped.value.code == 143
    assert saved_steps(folder / CHECKPOINT) == model.num_timesteps == 0


def test_files_written_after_the_checkpoint_are_put_back(saved):
    model, folder = saved
    (events,) = folder.glob("events*")
    length = events.stat().st_size
    (folder / "best_model.zip").write_bytes(b"best")
    write_checkpoint(model, folder, {"some": [1, 2.5]})
    model.logger.record("later", 1.0)
    model.logger.dump(101)
    (folder / "events.out.tfevents.later").write_bytes(b"later")
    (folder / "best_model.zip").write_bytes(b"later")
    (folder / "best_vecnormalize.pkl").write_bytes(b"later")
    checkpoint = read_checkpoint(agent("dqn", folder.parent / "other"), folder / CHECKPOINT)
    checkpoint.put_back(folder)
    assert events.stat().st_size == length
    assert [path.name for path in folder.glob("events*")] == [events.name]
    assert (folder / "best_model.zip").read_bytes() == b"best"
    assert not (folder / "best_vecnormalize.pkl").exists()
    assert checkpoint.extra == {"some": [1, 2.5]}


def test_a_crash_while_files_are_put_back_leaves_them_whole(saved, monkeypatch):
    model, folder = saved
    (folder / "best_model.zip").write_bytes(b"best")
    write_checkpoint(model, folder, {})
    checkpoint = read_checkpoint(agent("dqn", folder.parent / "other"), folder / CHECKPOINT)
    (folder / "best_model.zip").write_bytes(b"later")
    write = Path.write_bytes

    def half(path, data):
        write(path, data[: len(data) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.put_back(folder)
    assert (folder / "best_model.zip").read_bytes() == b"later"
    monkeypatch.undo()
    checkpoint.put_back(folder)
    assert (folder / "best_model.zip").read_bytes() == b"best"


def test_a_checkpoint_takes_no_more_than_a_twentieth_of_the_time(tmp_path, monkeypatch):
    model = agent("ppo", tmp_path)
    clock = [0.0]
    monkeypatch.setattr("wnrl.rl.training.time.monotonic", lambda: clock[0])

    def slow(*args, **kwargs):
        clock[0] += 30.0

    monkeypatch.setattr("wnrl.rl.training.write_checkpoint", slow)
    callback = saving(tmp_path, minutes=1.0)
    callback.init_callback(model)
    callback._on_training_start()
    assert callback.due == 60.0
    clock[0] = 60.0
    callback._save(in_rollout=True)
    assert callback.due == 60.0 + 20 * 30.0
