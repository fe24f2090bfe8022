"""What a cohort needs, and that one which is too large is refused before anything is made."""

from dataclasses import replace

import pytest
import torch

from tests.population import test_ppo, test_recurrent
from wnrl import population, vae
from wnrl.errors import UsageError
from wnrl.population import memory
from wnrl.population.config import DQNConfig
from wnrl.population.dqn import DQN
from wnrl.population.ppo import PPO
from wnrl.population.recurrent_ppo import RecurrentPPO
from wnrl.tensor_envs import CartPole, make

MIB = 2**20


@pytest.fixture
def free(monkeypatch):
    """Lets a device have so many bytes."""
    return lambda n_bytes: monkeypatch.setattr(memory, "free_memory", lambda device: n_bytes)


@pytest.mark.parametrize(
    ("kind", "small", "change", "measured"),
    [
        (PPO, test_ppo.SMALL, {"norm": "weight"}, 0.26),
        (PPO, test_ppo.SMALL, {"norm": "spectral"}, 0.32),
        (PPO, test_ppo.SMALL, {"norm": "layer", "net_arch": (256, 256)}, 2.88),
        (PPO, test_ppo.SMALL, {"n_envs": 64}, 1.40),
        (RecurrentPPO, test_recurrent.SMALL, {"net_arch": (), "lstm_hidden_size": 64}, 2.14),
    ],
)
def test_the_estimate_is_near_what_was_measured_and_above_it(kind, small, change, measured, free):
    """The measured MiB are of 64 members, of LSTMs 32, with chunks of 8, in a process."""
    sizes = {"n_envs": 8, "n_steps": 32, "batch_size": 256, "n_epochs": 20, "net_arch": (64, 64)}
    config = replace(small, **{**sizes, **change})
    made = kind(CartPole(), [config])
    kept, active = made.bytes
    n_members = 64 if kind is PPO else 32
    estimate = (kept + memory.CHUNK_ON_CPU / n_members * active) / MIB
    assert measured < estimate < 6 * measured


@pytest.mark.parametrize(
    ("change", "n_members", "measured"),
    [
        ({"net_arch": (64, 64), "buffer_size": 2000, "norm": "weight"}, 32, 0.68),
        ({"net_arch": (256, 256), "buffer_size": 2000}, 16, 3.15),
        ({"net_arch": (64, 64), "buffer_size": 20_000}, 32, 1.48),
    ],
)
def test_the_estimate_of_dqn_counts_its_replay_buffer(change, n_members, measured):
    """The measured MiB are of so many members with full buffers, in a process."""
    sizes = {"total_timesteps": 50_000, "batch_size": 64, "train_freq": 256, "gradient_steps": 128}
    kept, active = DQN(CartPole(), [DQNConfig(**sizes, **change)]).bytes
    estimate = (kept + memory.CHUNK_ON_CPU / n_members * active) / MIB
    assert measured < estimate < 2 * measured


@pytest.mark.parametrize(
    ("dataset", "n_members", "change", "measured"),
    [
        ("digits", 64, {"norm": "weight"}, 3.12),
        ("digits", 64, {"norm": "layer"}, 3.17),
        ("mnist", 32, {"norm": "none"}, 12.95),
        ("mnist", 16, {"norm": "weight", "objective": "iwae", "train_samples": 5}, 25.90),
    ],
)
def test_the_estimate_of_a_vae_is_above_what_was_measured(dataset, n_members, change, measured):
    """The measured MiB are of so many members with a checkpoint, in a process."""
    config = vae.preset("mlp", dataset, **change)
    n_train = {"digits": 1297, "mnist": 50_000}[dataset]
    cpu, gpu = map(torch.device, ("cpu", "cuda"))
    kept, active = memory.bytes_of_vae(config, vae.build(config), n_train, cpu)
    assert memory.bytes_of_vae(config, vae.build(config), n_train, gpu) == (kept, 2 * active)
    estimate = (kept + memory.CHUNK_ON_CPU / n_members * active) / MIB
    assert measured < estimate < 2 * measured


@pytest.mark.parametrize(
    ("norm", "buffer_size", "n_members", "measured"),
    [("none", 2000, 16, 11.4), ("weight", 2000, 16, 11.9), ("none", 10_000, 8, 24.0)],
)
def test_the_estimate_of_dqn_counts_pictures_in_bytes(norm, buffer_size, n_members, measured):
    """Measured as above, with agents that wait and a checkpoint."""
    sizes = {"total_timesteps": 50_000, "batch_size": 32, "train_freq": 16, "gradient_steps": 2}
    config = DQNConfig(**sizes, norm=norm, buffer_size=buffer_size, net_arch=())
    kept, active = DQN(make("MinAtarBreakout-v1"), [config]).bytes
    estimate = (kept + memory.CHUNK_ON_CPU / n_members * active) / MIB
    assert measured < estimate < 2 * measured


def test_a_replay_buffer_takes_the_bytes_that_are_counted():
    config = DQNConfig(total_timesteps=50_000, n_envs=2)
    replay = DQN(CartPole(), [config]).replay
    each = memory.bytes_of_transition(inputs=4, itemsize=4)
    assert sum(tensor.nbytes for tensor in replay) == 50_000 * each


def test_as_many_members_fit_as_the_line_says(free):
    config = replace(test_ppo.SMALL, net_arch=(64, 64))
    free(4 * MIB)
    with pytest.raises(UsageError, match=r"40 members needs about .* GiB, and cpu has") as error:
        PPO(CartPole(), [replace(config, seed=seed) for seed in range(40)])
    fit = int(str(error.value).split()[-3])
    assert 0 < fit < 40
    PPO(CartPole(), [replace(config, seed=seed) for seed in range(fit)])
    with pytest.raises(UsageError, match=f"{fit} members fit"):
        PPO(CartPole(), [replace(config, seed=seed) for seed in range(fit + 1)])


def test_nothing_is_trained_where_one_of_several_cohorts_has_no_room(free, monkeypatch):
    free(MIB // 2)
    monkeypatch.setattr(PPO, "iterate", lambda self: pytest.fail("trained"))
    with pytest.raises(UsageError, match="members fit"):
        population.train("ppo", "CartPole-v1", norms=["none", "weight"], total_timesteps=512,
                         seeds=range(9), n_steps=32, batch_size=256)  # fmt: skip


def test_free_memory_of_this_machine_is_a_number():
    assert 0 < memory.free_memory(torch.device("cpu")) < 2**50
