import pickle

import gymnasium as gym
import pytest

import envs  # noqa: F401 (registers the masked tasks)
from agents import AGENTS
from agents.common import schedule
from agents.ppo import PPOConfig
from agents.recurrent_ppo import RecurrentPPOConfig
from wnrl.errors import UsageError


@pytest.mark.parametrize(
    "name",
    [
        "total_timesteps",
        "n_envs",
        "learning_rate",
        "n_steps",
        "n_epochs",
        "clip_range",
        "max_grad_norm",
        "target_kl",
    ],
)
@pytest.mark.parametrize("value", [0, -1])
def test_sizes_and_rates_must_be_above_zero(name, value):
    with pytest.raises(UsageError, match=f"^{name} must be above zero, got {value}$"):
        PPOConfig(**{name: value})


@pytest.mark.parametrize("name", ["lstm_hidden_size", "n_lstm_layers"])
def test_sizes_of_the_lstm_must_be_above_zero(name):
    with pytest.raises(UsageError, match=f"^{name} must be above zero, got 0$"):
        RecurrentPPOConfig(**{name: 0})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gamma": 1.1}, "gamma must be from 0 to 1, got 1.1"),
        ({"gae_lambda": -0.1}, "gae_lambda must be from 0 to 1, got -0.1"),
        ({"net_arch": (64, 0)}, r"net_arch must hold sizes above zero, got \(64, 0\)"),
        ({"batch_size": 1}, "batch_size must be 2 or more, got 1"),
        ({"activation_fn": "rel"}, "activation_fn must be one of .* did you mean 'relu'"),
        ({"learning_rate_schedule": "cosine"}, "learning_rate_schedule must be one of"),
        ({"n_envs": 1, "n_steps": 65}, "leaves a last minibatch of one sample"),
        ({"n_envs": 1, "n_steps": 1}, "leaves a last minibatch of one sample"),
    ],
)
def test_values_that_could_not_train_are_refused_by_name(wrong, message):
    with pytest.raises(UsageError, match=message):
        PPOConfig(**wrong)


def test_a_shared_lstm_excludes_a_critics_own():
    with pytest.raises(UsageError, match="exclude each other"):
        RecurrentPPOConfig(shared_lstm=True)
    assert RecurrentPPOConfig(shared_lstm=True, enable_critic_lstm=False).shared_lstm


@pytest.mark.parametrize("algo", AGENTS)
def test_presets_are_for_environments_that_exist_and_of_the_algorithms_own_config(algo):
    agent = AGENTS[algo]
    for env_id, preset in agent.presets.items():
        assert env_id in gym.registry
        assert type(preset) is agent.config
        assert agent.preset(env_id) is preset
    assert agent.preset("Taxi-v3") == agent.config()


def test_cartpole_presets_are_the_tuned_ones():
    for preset in (
        AGENTS["ppo"].presets["CartPole-v1"],
        AGENTS["recurrent_ppo"].presets["CartPoleNoVel-v1"],
    ):
        assert (preset.n_envs, preset.total_timesteps, preset.n_steps) == (8, 100_000, 32)
        assert (preset.batch_size, preset.n_epochs) == (256, 20)
        assert (preset.gae_lambda, preset.gamma, preset.ent_coef) == (0.8, 0.98, 0.0)
        assert (preset.learning_rate, preset.learning_rate_schedule) == (1e-3, "linear")
        assert (preset.clip_range, preset.clip_range_schedule) == (0.2, "linear")
    assert preset.lstm_hidden_size == 64
    assert preset.net_arch == (64,)
    assert preset.normalize
    assert not preset.ortho_init


def test_linear_schedule_falls_to_zero_and_can_be_pickled():
    line = pickle.loads(pickle.dumps(schedule(1e-3, "linear")))
    assert [line(1.0), line(0.5), line(0.0)] == pytest.approx([1e-3, 5e-4, 0.0])
    assert schedule(1e-3, "constant") == 1e-3
