import dataclasses
import json
import pickle
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from inspect import signature
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import gymnasium as gym
import pytest
import tyro

import envs  # noqa: F401 (registers the masked tasks)
from agents import AGENTS, Agent
from agents.a2c import A2CConfig
from agents.config import OffPolicyConfig
from agents.crossq import CrossQConfig
from agents.defaults import preset_of
from agents.dqn import DQNConfig
from agents.ppo import PPOConfig
from agents.qrdqn import QRDQNConfig
from agents.recurrent_ppo import RecurrentPPOConfig
from agents.sac import SACConfig
from agents.settings import Settings
from agents.td3 import NOISES, TD3Config
from agents.tqc import TQCConfig
from agents.trpo import TRPOConfig
from wnrl.errors import UsageError
from wnrl.rl.models import OPTIMIZERS

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {algo: agent.config for algo, agent in AGENTS.items()}
OFF_POLICY = [algo for algo, config in CONFIGS.items() if issubclass(config, OffPolicyConfig)]
# What is no argument of SB3's algorithm or policy, and where it goes instead.
OWN = {
    "total_timesteps",  # learn
    "n_envs",  # vectorize
    "normalize",  # vectorize
    "frame_stack",  # vectorize
    "train_freq_unit",  # train_freq
    "placement",  # our policies
    "algorithm_kwargs",
    "learning_rate_schedule",  # learning_rate
    "learning_rate_end",  # learning_rate
    "clip_range_schedule",  # clip_range
    "optimizer",  # optimizer_class
    "weight_decay",  # optimizer_kwargs
    "norm_heads",
    "norm_kwargs",  # our policies
    "data_init",  # our policies
    "critic_arch",  # net_arch
    "cell",  # the policy's name
    "noise_type",  # action_noise
    "noise_std",  # action_noise
}


@pytest.mark.parametrize("algo", AGENTS)
def test_every_field_has_a_way_to_sb3_and_sb3s_name(algo):
    config = CONFIGS[algo]()
    algorithm = config.algorithm
    taken = {
        *signature(algorithm).parameters,
        *signature(next(iter(algorithm.policy_aliases.values()))).parameters,
    }
    names = {field.name for field in dataclasses.fields(config)}
    own = OWN | ({"tau"} if algo == "crossq" else set())  # elsewhere an argument of SB3's
    assert names - taken <= own
    assert not own & taken
    given = {**config.algorithm_arguments(), **config.policy_arguments()}
    assert names - OWN - {"policy_kwargs", "optimizer_kwargs"} <= set(given)


@pytest.mark.parametrize("algo", AGENTS)
def test_defaults_are_those_of_sb3(algo):
    config = CONFIGS[algo]()
    known = {
        name: parameter.default
        for name, parameter in signature(config.algorithm).parameters.items()
    }
    for name, value in config.algorithm_arguments().items():
        assert value == known[name], name


def test_network_sizes_are_by_default_those_of_sb3():
    sizes = {algo: config().policy_arguments()["net_arch"] for algo, config in CONFIGS.items()}
    for algo in ("ppo", "a2c", "maskable_ppo", "trpo", "dqn", "qrdqn", "recurrent_ppo"):
        assert sizes[algo] == [64, 64]
    for algo in ("sac", "tqc"):
        assert sizes[algo] == {"pi": [256, 256], "qf": [256, 256]}
    for algo in ("td3", "ddpg"):
        assert sizes[algo] == {"pi": [400, 300], "qf": [400, 300]}
    assert sizes["crossq"] == {"pi": [256, 256], "qf": [1024, 1024]}


@pytest.mark.parametrize("algo", AGENTS)
@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize("name", ["total_timesteps", "n_envs", "learning_rate"])
def test_sizes_and_rates_must_be_above_zero(algo, name, value):
    with pytest.raises(UsageError, match=f"^{name} must be .*above zero, got {value}$"):
        CONFIGS[algo](**{name: value})


@pytest.mark.parametrize("algo", AGENTS)
def test_a_process_has_no_more_environments_than_fit(algo):
    with pytest.raises(UsageError, match=r"n_envs must be .* up to 10000, above zero, got 10001"):
        CONFIGS[algo](n_envs=10_001)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        *((PPOConfig, name) for name in ("n_steps", "n_epochs", "clip_range", "target_kl")),
        (PPOConfig, "max_grad_norm"),
        (RecurrentPPOConfig, "lstm_hidden_size"),
        (RecurrentPPOConfig, "n_lstm_layers"),
        (A2CConfig, "rms_prop_eps"),
        (TRPOConfig, "cg_max_steps"),
        *((DQNConfig, name) for name in ("buffer_size", "train_freq", "n_steps")),
        (DQNConfig, "target_update_interval"),
        (QRDQNConfig, "n_quantiles"),
        (SACConfig, "n_critics"),
        (TD3Config, "policy_delay"),
        (CrossQConfig, "policy_delay"),
        (CrossQConfig, "data_init"),
    ],
)
def test_each_algorithms_own_sizes_must_be_above_zero(config, name):
    with pytest.raises(UsageError, match=f"^{name} must be .*above zero, got 0$"):
        config(**{name: 0})


@pytest.mark.parametrize(
    ("config", "wrong", "message"),
    [
        (PPOConfig, {"gamma": 1.1}, "gamma must be from 0 to 1, got 1.1"),
        (PPOConfig, {"gae_lambda": -0.1}, "gae_lambda must be from 0 to 1, got -0.1"),
        (PPOConfig, {"net_arch": (64, 0)}, r"net_arch must be whole sizes .* got \(64, 0\)"),
        (PPOConfig, {"net_arch": (6.5,)}, r"net_arch\[0\] must be a whole number, got 6.5"),
        (PPOConfig, {"learning_rate_end": 1e-5}, "learning_rate_end 1e-05 is for a linear"),
        (PPOConfig, {"batch_size": 1}, "batch_size must be a whole number, 2 or more, got 1"),
        (PPOConfig, {"n_steps": 2.5}, "n_steps must be a whole number, got 2.5"),
        (PPOConfig, {"activation_fn": "rel"}, "activation_fn must be one of .* mean 'relu'"),
        (PPOConfig, {"learning_rate_schedule": "cosine"}, "learning_rate_schedule must be one of"),
        (PPOConfig, {"clip_range_schedule": "lin"}, "clip_range_schedule must be one of"),
        (PPOConfig, {"optimizer": "adamx"}, "optimizer must be one of .* did you mean 'adamax'"),
        (
            SACConfig,
            {"ent_coef": 0.1, "target_entropy": -3.0},
            "target_entropy is for ent_coef auto",
        ),
        (PPOConfig, {"weight_decay": 0.1}, "weight_decay is for optimizer adamw, got 'adam'"),
        (PPOConfig, {"ent_coef": -1.0}, "ent_coef must be zero or above, got -1.0"),
        (PPOConfig, {"sde_sample_freq": 0}, "sde_sample_freq must be a whole number .* or -1"),
        (PPOConfig, {"n_envs": 1, "n_steps": 65}, "leaves a last minibatch of one sample"),
        (PPOConfig, {"n_envs": 1, "n_steps": 1}, "leaves a last minibatch of one sample"),
        (TRPOConfig, {"n_envs": 1, "n_steps": 129}, "leaves a last minibatch of one sample"),
        (A2CConfig, {"n_envs": 1, "n_steps": 1}, r"n_envs \* n_steps must be 2 or more, got 1"),
        (RecurrentPPOConfig, {"cell": "rnn"}, "cell must be one of lstm, gru, got 'rnn'"),
        (DQNConfig, {"batch_size": 1}, "batch_size must be a whole number, 2 or more, got 1"),
        (DQNConfig, {"gradient_steps": 0}, "gradient_steps must be .* above zero, or -1, got 0"),
        (DQNConfig, {"gradient_steps": -2}, "gradient_steps must be .* or -1, got -2"),
        (
            DQNConfig,
            {"learning_starts": -1},
            "learning_starts must be a whole number from zero on, got",
        ),
        (DQNConfig, {"tau": 1.5}, "tau must be from 0 to 1, got 1.5"),
        (
            DQNConfig,
            {"exploration_fraction": 0.0},
            "exploration_fraction must be .* above 0, up to",
        ),
        (DQNConfig, {"exploration_final_eps": 2.0}, "exploration_final_eps must be from 0 to 1"),
        (
            DQNConfig,
            {"learning_starts": 500, "total_timesteps": 500},
            "learning_starts 500 leaves nothing to learn in total_timesteps 500",
        ),
        (SACConfig, {"ent_coef": "automatic"}, "ent_coef must be .* got 'automatic'"),
        (SACConfig, {"ent_coef": "auto_nan"}, "ent_coef must be .* got 'auto_nan'"),
        (SACConfig, {"ent_coef": "auto_1e400"}, "ent_coef must be .* got 'auto_1e400'"),
        (SACConfig, {"ent_coef": "1.2.3"}, "ent_coef must be .* got '1.2.3'"),
        (SACConfig, {"ent_coef": -0.1}, "ent_coef must be .* got -0.1"),
        (
            SACConfig,
            {"target_entropy": "low"},
            "target_entropy must be a number or auto, got 'low'",
        ),
        (
            SACConfig,
            {"critic_arch": (0,)},
            r"critic_arch must be whole sizes above zero, got \(0,\)",
        ),
        (
            A2CConfig,
            {"optimizer_kwargs": {"eps": 1e-3}},
            "optimizer_kwargs are for the optimizer that is named, and use_rms_prop takes RMSprop",
        ),
        (
            PPOConfig,
            {"optimizer": "adamw", "optimizer_kwargs": {"weight_decay": 0.3}},
            "optimizer_kwargs: weight_decay is set by its own name",
        ),
        (CrossQConfig, {"tau": 0.0}, "tau must be a number above 0, up to 1, got 0.0"),
        (CrossQConfig, {"tau": 1.5}, "tau must be a number above 0, up to 1, got 1.5"),
        (TQCConfig, {"n_quantiles": 2}, "top_quantiles_to_drop_per_net 2 leaves none of"),
        (TD3Config, {"noise_type": "pink"}, "noise_type must be one of normal, ornstein"),
        (TD3Config, {"noise_std": -0.1}, "noise_std must be zero or above, got -0.1"),
    ],
)
def test_values_that_could_not_train_are_refused_by_name(config, wrong, message):
    with pytest.raises(UsageError, match=message):
        config(**wrong)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_word_that_is_none_of_those_of_its_type_is_refused(config):
    hints = get_type_hints(config)
    choices = [name for name, hint in hints.items() if get_origin(hint) is Literal]
    assert {"learning_rate_schedule", "normalize", "optimizer", "placement"} <= {*choices}
    for name in choices:
        with pytest.raises(UsageError, match=f"^{name} must be one of .*, got 'nonsense'"):
            config(**{name: "nonsense"})


def test_optimizers_and_noises_have_the_words_of_their_types():
    assert get_args(get_type_hints(TD3Config)["optimizer"]) == tuple(OPTIMIZERS)
    assert get_args(get_type_hints(TD3Config)["noise_type"]) == tuple(NOISES)


def test_what_has_no_flag_goes_to_sb3_by_name():
    config = PPOConfig(
        algorithm_kwargs={"normalize_advantage": False}, policy_kwargs={"squash_output": True}
    )
    assert config.algorithm_arguments()["normalize_advantage"] is False
    assert config.policy_arguments()["squash_output"] is True
    for name, key in (("algorithm_kwargs", "gamma"), ("policy_kwargs", "net_arch")):
        with pytest.raises(UsageError, match=f"{name}: {key} is set by its own name"):
            PPOConfig(**{name: {key: 0.9}})
        with pytest.raises(UsageError, match=f"{name} must be one of .*, got 'nonsense'"):
            PPOConfig(**{name: {"nonsense": 1}})


def test_arguments_of_the_optimizer_replace_those_of_sb3():
    config = A2CConfig(optimizer="rmsprop_tf", optimizer_kwargs={"eps": 1e-5})
    arguments = config.policy_arguments()
    assert arguments["optimizer_class"].__name__ == "RMSpropTFLike"
    assert arguments["optimizer_kwargs"] == {"eps": 1e-5}
    betas = CrossQConfig(optimizer_kwargs={"eps": 1e-5}).policy_arguments()["optimizer_kwargs"]
    assert betas == {"betas": (0.5, 0.999), "eps": 1e-5}
    adamax = CrossQConfig(optimizer="adamax", optimizer_kwargs={"eps": 1e-5})
    assert adamax.policy_arguments()["optimizer_kwargs"] == {"eps": 1e-5}
    decayed = PPOConfig(optimizer_kwargs={"weight_decay": 0.3})  # which is not decoupled
    assert decayed.policy_arguments()["optimizer_kwargs"] == {"weight_decay": 0.3}


def test_updates_can_wait_for_the_end_of_episodes():
    config = SACConfig(train_freq=2, train_freq_unit="episode")
    assert config.algorithm_arguments()["train_freq"] == (2, "episode")
    assert SACConfig(train_freq=2).algorithm_arguments()["train_freq"] == 2
    with pytest.raises(UsageError, match="train_freq_unit episode needs n_envs 1, got 2"):
        SACConfig(train_freq_unit="episode", n_envs=2)


def test_the_configurations_are_there_before_anything_that_takes_seconds():
    heavy = ["torch", "numpy", "gymnasium", "stable_baselines3"]
    program = f"import sys, agents.defaults\nprint([n for n in {heavy} if n in sys.modules])"
    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize("ent_coef", ["auto", "auto_0.1", 0, 0.2, "0.2"])
def test_ent_coef_is_a_number_or_learned(ent_coef):
    assert SACConfig(ent_coef=ent_coef).algorithm_arguments()["ent_coef"] == ent_coef


@pytest.mark.parametrize("algo", AGENTS)
def test_a_configuration_survives_json(algo):
    for config in (*AGENTS[algo].presets.values(), CONFIGS[algo](net_arch=[8, 8])):
        assert CONFIGS[algo](**json.loads(json.dumps(dataclasses.asdict(config)))) == config
        assert isinstance(hash(config), int)


def test_an_algorithm_without_presets_is_for_cartpole_where_no_environment_is_named(monkeypatch):
    monkeypatch.setitem(AGENTS, "mine", Agent(DQNConfig, {}))
    assert preset_of("mine") == Settings(algo="mine", env_id="CartPole-v1", config=DQNConfig())


@pytest.mark.parametrize("algo", AGENTS)
def test_presets_are_for_environments_that_exist_and_of_the_algorithms_own_config(algo):
    agent = AGENTS[algo]
    ids = [*gym.registry, "ALE/Pong-v5", "PongNoFrameskip-v4", "Taxi-v4"]
    assert next(iter(agent.presets)) in ids
    for key, preset in agent.presets.items():
        found = [env_id for env_id in ids if fnmatchcase(env_id, key)]
        assert found, key
        assert type(preset) is agent.config
        assert all(agent.preset(env_id) is preset for env_id in found)
    assert agent.preset("Blackjack-v1") == agent.config()


def test_a_preset_is_found_by_id_then_by_family_whatever_module_registers_it():
    dqn = AGENTS["dqn"]
    assert dqn.preset("CartPole-v1").train_freq == 256
    assert dqn.preset("my_tasks:CartPole-v1") is dqn.preset("CartPole-v1")
    for env_id in ("ALE/Breakout-v5", "ale_py:ALE/Breakout-v5", "BreakoutNoFrameskip-v4"):
        assert dqn.preset(env_id).total_timesteps == 10_000_000
    assert AGENTS["sac"].preset("HalfCheetah-v5").learning_starts == 10_000


def test_a_variant_changes_what_it_names_in_any_preset():
    dqn = AGENTS["dqn"]
    paper = dqn.preset("BreakoutNoFrameskip-v4", "salimans2016")
    assert (paper.optimizer, paper.batch_size, paper.data_init) == ("adamax", 64, 64)
    assert paper.learning_rate == 3e-4
    assert paper.total_timesteps == 10_000_000
    assert dqn.preset("CartPole-v1", "salimans2016").net_arch == (256, 256)
    wn = AGENTS["crossq"].preset("Hopper-v5", "wn")
    assert wn.policy_arguments()["net_arch"] == {"pi": [256, 256], "qf": [512, 512]}
    assert wn.policy_arguments()["optimizer_kwargs"]["weight_decay"] == 0.01
    assert wn.policy_arguments()["tau"] == 0.005
    assert AGENTS["crossq"].preset("Hopper-v5").policy_arguments()["tau"] is None
    rate = wn.algorithm_arguments()["learning_rate"]
    assert [rate(1.0), rate(0.0)] == pytest.approx([3e-4, 3e-5])
    with pytest.raises(UsageError, match="variant must be one of salimans2016, got 'paper'"):
        dqn.preset("CartPole-v1", "paper")


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


@pytest.mark.parametrize("algo", AGENTS)
def test_linear_schedule_falls_to_its_end_and_can_be_pickled(algo):
    config = CONFIGS[algo](
        learning_rate=1e-3, learning_rate_schedule="linear", learning_rate_end=1e-4
    )
    line = pickle.loads(pickle.dumps(config.algorithm_arguments()["learning_rate"]))
    assert [line(1.0), line(0.5), line(0.0)] == pytest.approx([1e-3, 5.5e-4, 1e-4])


def test_a_linear_clip_range_falls_to_zero():
    line = PPOConfig(clip_range_schedule="linear").algorithm_arguments()["clip_range"]
    assert [line(1.0), line(0.5), line(0.0)] == pytest.approx([0.2, 0.1, 0.0])


@pytest.mark.parametrize("algo", AGENTS)
def test_every_field_is_a_flag_with_a_help_text(algo, capsys):
    config = CONFIGS[algo]
    assert tyro.cli(config, args=["--gamma", "0.5", "--net-arch", "8"]).net_arch == (8,)
    with pytest.raises(SystemExit):
        tyro.cli(config, args=["--help"])
    told = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(config):
        assert re.search(f"--{field.name.replace('_', '-')}[, ]", told)
    assert told.count("Step size of") == 1


@pytest.mark.parametrize(
    ("given", "value"), [("auto", "auto"), ("auto_0.1", "auto_0.1"), ("0.2", 0.2)]
)
def test_ent_coef_is_a_number_or_a_word_on_the_command_line(given, value):
    assert tyro.cli(SACConfig, args=["--ent-coef", given]).ent_coef == value
