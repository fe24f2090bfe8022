import json
from dataclasses import replace

import pytest

from agents.config_file import read_config_file, settings_of_entry
from agents.defaults import of_flags, preset_of
from agents.settings import Settings
from wnrl.errors import UsageError
from wnrl.runs import write_json

ZOO = """
default:
  n_timesteps: !!float 1e6
  policy: MlpPolicy
atari:
  env_wrapper:
    - stable_baselines3.common.atari_wrappers.AtariWrapper
  frame_stack: 4
  policy: CnnPolicy
CartPole-v1: &cartpole
  n_envs: 8
  n_timesteps: !!float 1e5
  policy: MlpPolicy
  learning_rate: lin_0.001
  clip_range: lin_0.2
  normalize: "{'norm_obs': False, 'norm_reward': True}"
  policy_kwargs: "dict(log_std_init=-2, ortho_init=False, activation_fn=nn.ELU,
                       net_arch=dict(pi=[256, 128], vf=[64]))"
Other-v0:
  <<: *cartpole
  env_wrapper: minigrid.wrappers.FlatObsWrapper
"""
OF_A_TRAINED_AGENT = """!!python/object/apply:collections.OrderedDict
- - [env_kwargs, {gravity: 5}]
  - [gradient_steps, -1]
  - [n_timesteps, 20000.0]
  - [policy, MlpPolicy]
  - [policy_kwargs, 'dict(net_arch=[64, 64], use_expln=True)']
  - - train_freq
    - !!python/tuple [1, episode]
"""


@pytest.fixture
def zoo(tmp_path):
    path = tmp_path / "ppo.yml"
    path.write_text(ZOO)
    return path


def test_an_entry_of_the_zoo_is_understood(zoo):
    settings = read_config_file(zoo, None, "CartPole-v1")
    assert settings == {
        "algo": "ppo",
        "env_id": "CartPole-v1",
        "n_envs": 8,
        "total_timesteps": 100_000,
        "learning_rate": 0.001,
        "learning_rate_schedule": "linear",
        "clip_range": 0.2,
        "clip_range_schedule": "linear",
        "normalize": "reward",
        "log_std_init": -2,
        "ortho_init": False,
        "activation_fn": "elu",
        "net_arch": (256, 128),
        "critic_arch": (64,),
    }
    config = Settings.from_json(settings).config
    assert config.policy_arguments()["net_arch"] == {"pi": [256, 128], "vf": [64]}


def test_the_entry_is_that_of_the_environment_its_family_or_the_default(zoo):
    assert read_config_file(zoo, "a2c", "ALE/Pong-v5")["frame_stack"] == 4
    assert read_config_file(zoo, None, "Acrobot-v1")["total_timesteps"] == 1_000_000
    assert read_config_file(zoo, None, "my_tasks:CartPole-v1")["n_envs"] == 8


def test_the_file_of_a_trained_agent_is_understood(tmp_path):
    path = tmp_path / "config.yml"
    path.write_text(OF_A_TRAINED_AGENT)
    settings = read_config_file(path, "sac", "Pendulum-v1")
    assert settings["env_kwargs"] == {"gravity": 5}
    assert (settings["train_freq"], settings["train_freq_unit"]) == (1, "episode")
    assert settings["policy_kwargs"] == {"use_expln": True}
    assert Settings.from_json(settings).config.policy_arguments()["use_expln"] is True


def test_an_entry_with_our_policy_names_its_norm():
    entry = {"policy": "WNMlpPolicy", "policy_kwargs": "dict(norm='layer', norm_heads=True)"}
    assert settings_of_entry("ppo", entry) == {"n_envs": 1, "norm": "layer", "norm_heads": True}


@pytest.mark.parametrize(
    ("algo", "policy", "norm"),
    [
        ("ppo", "WNMlpPolicy", "weight"),
        ("sac", "LayerMlpPolicy", "layer"),
        ("dqn", "BatchRenormCnnPolicy", "batch_renorm"),
        ("recurrent_ppo", "SpectralMlpLstmPolicy", "spectral"),
        ("ppo", "NoneMultiInputPolicy", "none"),
    ],
)
def test_the_name_of_our_policy_is_the_norm_unless_the_arguments_say_another(algo, policy, norm):
    assert settings_of_entry(algo, {"policy": policy})["norm"] == norm
    entry = {"policy": policy, "policy_kwargs": {"norm": "rms"}}
    assert settings_of_entry(algo, entry)["norm"] == "rms"
    assert "norm" not in settings_of_entry("ppo", {"policy": "MlpPolicy"})


def test_arguments_may_hold_more_than_flags_can_say():
    told = {"policy_kwargs": {"features_extractor_kwargs": {"features_dim": 8}},
            "env_kwargs": {"map": [1, 2]}}  # fmt: skip
    settings = Settings.from_json({"algo": "ppo", **settings_of_entry("ppo", told)})
    assert settings.config.policy_kwargs == told["policy_kwargs"]
    assert settings.env_kwargs == told["env_kwargs"]


def test_a_policy_that_nobody_has_is_refused():
    with pytest.raises(UsageError, match="policy 'LayersMlpPolicy' is none of SB3's or ours"):
        settings_of_entry("ppo", {"policy": "LayersMlpPolicy"})


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"n_timesteps": "1e3"}, {"total_timesteps": 1000}),  # a string for YAML, without a point
        ({"learning_rate": "1e-3"}, {"learning_rate": 1e-3}),
        ({"normalize": True, "normalize_kwargs": {"norm_reward": False}}, {"normalize": "obs"}),
        ({"normalize": False, "normalize_kwargs": {"norm_reward": False}}, {"normalize": "none"}),
        ({"normalize": None}, {"normalize": "none"}),
        ({"policy_kwargs": "dict(net_arch=[dict(pi=[8], vf=[9])])"},
         {"net_arch": (8,), "critic_arch": (9,)}),  # as SB3 1 had it
        ({"env_wrapper": [], "callback": [], "monitor_kwargs": {}}, {}),
    ],
)  # fmt: skip
def test_other_ways_to_write_an_entry_are_understood(entry, told):
    assert settings_of_entry("ppo", entry) == {"n_envs": 1, **told}


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"learning_rate": "lin_abc"}, "learning_rate must be a number, got 'abc'"),
        ({"learning_rate": "linear_1"}, "learning_rate must be a number, got 'linear_1'"),
        ({"n_timesteps": "many"}, "total_timesteps .*'many'"),
        ({"n_timesteps": None}, "total_timesteps .*None"),
        ({"policy_kwargs": "dict(net_arch=-64)"}, "net_arch must be .*-64"),
        ({"policy_kwargs": "dict(net_arch=dict(pi=[8]))"}, "net_arch needs .* pi and vf or qf"),
        ({"policy_kwargs": "dict(net_arch=dict(pi=8, vf=8))"}, "net_arch needs lists"),
        ({"gamma": [1]}, "gamma must be a number, got"),
        ({"use_sde": "yes"}, "use_sde must be True or False, got 'yes'"),
        ({"n_epochs": True}, "n_epochs must be a whole number.*True"),
        ({"seed": "x"}, "seed must be .*'x'"),
        ({"env_kwargs": [1]}, "env_kwargs must be .*1"),
        ({"normalize": [1]}, "normalize .*1"),
        ({"train_freq": [1, 2, 3]}, "algorithm_kwargs .*'train_freq'"),
        ({"policy_kwargs": [1]}, "policy_kwargs .*1"),
    ],
)
def test_values_that_make_no_sense_are_refused_in_one_line(tmp_path, entry, told):
    (tmp_path / "ppo.yml").write_text(json.dumps({"CartPole-v1": entry}))
    with pytest.raises(UsageError, match=told) as refused:
        of_flags(config=tmp_path / "ppo.yml", env_id="CartPole-v1")
    assert "\n" not in str(refused.value)


def test_what_an_entry_leaves_out_is_as_sb3_has_it(zoo):
    assert settings_of_entry("td3", {}) == {"n_envs": 1, "noise_std": 0.0}
    assert settings_of_entry("td3", {"noise_type": "normal", "noise_std": 0.3})["noise_std"] == 0.3
    told = of_flags(config=zoo, algo="a2c", env_id="ALE/Pong-v5")
    assert (told.algo, told.config.n_envs, told.config.net_arch) == ("a2c", 1, ())
    config = of_flags(config=zoo, algo="dqn", env_id="Acrobot-v1").config
    assert (config.train_freq, config.net_arch) == (4, (64, 64))  # not those of our preset


def test_nothing_in_a_file_is_evaluated(tmp_path):
    for text in ("dict(a=__import__('os').getcwd())", "{'a': open('x')}", "dict(a=1 if 2 else 3)"):
        with pytest.raises(UsageError, match="policy_kwargs is not understood: "):
            settings_of_entry("ppo", {"policy_kwargs": text})
    path = tmp_path / "ppo.yml"
    path.write_text("CartPole-v1: !!python/object/apply:os.getcwd []")
    with pytest.raises(UsageError, match=r"ppo\.yml is no YAML: "):
        read_config_file(path, None, "CartPole-v1")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("CartPole-v1: " + "[" * 3000 + "]" * 3000, "is no YAML: "),
        (f"CartPole-v1:\n  policy_kwargs: 'dict(a={'(' * 5000})'", "policy_kwargs is not underst"),
        (f"CartPole-v1:\n  policy_kwargs: 'dict(a={'-' * 9000}1)'", "policy_kwargs is not unders"),
    ],
)
def test_a_file_that_is_nested_too_deeply_is_refused_in_one_line(text, told, tmp_path):
    (tmp_path / "ppo.yml").write_text(text)
    with pytest.raises(UsageError, match=told) as refused:
        read_config_file(tmp_path / "ppo.yml", None, "CartPole-v1")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "algo", "env_id", "told"),
    [
        ("ppo.yml", None, "Other-v0", "Other-v0: env_wrapper cannot be taken over; register"),
        ("ppo.yml", None, None, "say for which environment, with --env-id"),
        ("mine.yml", None, "CartPole-v1", "its name is none of an algorithm, so say --algo"),
        ("ppo.txt", None, "CartPole-v1", "the end of config must be one of .json, .yml, .yaml"),
        ("no.yml", "ppo", "CartPole-v1", "cannot be read"),
        ("list.yml", "ppo", "CartPole-v1", "has no entries"),
        ("empty.yml", "ppo", "CartPole-v1", "has no entry for 'CartPole-v1', and no default"),
        ("vae.json", None, None, "is not that of an agent"),
        ("run.json", "sac", None, "is of algo 'ppo', asked: 'sac'"),
        ("text.json", None, None, "is damaged"),
        ("list.json", None, None, "has no names with values"),
        ("edited.json", None, None, "as the run wrote it, with other flags for changes"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(tmp_path, zoo, name, algo, env_id, told):
    for copy in ("mine.yml", "ppo.txt"):
        (tmp_path / copy).write_text(ZOO)
    (tmp_path / "list.yml").write_text("- 1")
    (tmp_path / "empty.yml").write_text("Acrobot-v1: {n_envs: 2}")
    (tmp_path / "text.json").write_text("no JSON")
    write_json(tmp_path / "vae.json", {"model": "mlp"})
    write_json(tmp_path / "run.json", {"algo": "ppo"})
    (tmp_path / "list.json").write_text("[1, 2]")
    edited = (tmp_path / "run.json").read_text().replace("ppo", "sac")
    (tmp_path / "edited.json").write_text(edited)
    with pytest.raises(UsageError, match=told) as refused:
        read_config_file(tmp_path / name, algo, env_id)
    assert "\n" not in str(refused.value)


def test_a_runs_own_file_gives_its_settings_again(tmp_path):
    preset = preset_of("ppo", "Acrobot-v1")
    config = replace(preset.config, n_steps=64, norm_kwargs={"eps": 1e-4})
    settings = replace(preset, norm="layer", seed=3, config=config)
    machine = {"device": "cuda:0", "threads": 7}  # of the run alone
    written = {**settings.to_json(), **machine}
    write_json(tmp_path / "config.json", json.loads(json.dumps(written)))
    assert of_flags(config=tmp_path / "config.json") == settings
    told = of_flags(config=tmp_path / "config.json", env_id="CartPole-v1")
    assert (told.env_id, told.config.n_steps, told.config.n_envs) == ("CartPole-v1", 64, 16)


def test_a_variant_is_none_of_a_file(zoo):
    with pytest.raises(UsageError, match="variant goes over a preset, and --config is given"):
        of_flags(config=zoo, algo="dqn", env_id="CartPole-v1", variant="salimans2016")
