import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from zlib import crc32

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.envs.registration import EnvSpec
from PIL import Image
from sb3_contrib import CrossQ
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import envs
from agents import AGENTS
from agents.config import OffPolicyConfig
from agents.run import load_run
from scripts import _cli
from scripts.evaluate_agent import Args as Evaluation
from scripts.evaluate_agent import evaluated
from scripts.train_agent import Args, main, preset_of, train
from tests.programs import agent_args
from wnrl import tags
from wnrl.errors import NonFiniteError, UsageError
from wnrl.rl.statistics import load_statistics
from wnrl.runs import Stopped, read_json, read_result, write_json
from wnrl.sb3.parts import batch_norms

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "train_agent.py"
TINY = ["--total-timesteps", "64", "--n-envs", "2", "--n-steps", "16", "--batch-size", "16",
        "--n-epochs", "2", "--eval-episodes", "3", "--eval-points", "2"]  # fmt: skip


def tiny(folder, algo="ppo", **others):
    args = agent_args(
        algo,
        run_dir=folder,
        eval_episodes=3,
        eval_points=2,
        eval_point_episodes=2,
        **{"film": False, **others},
    )
    config = dataclasses.replace(
        args.config, total_timesteps=64, n_envs=2, n_steps=16, batch_size=16, n_epochs=2
    )
    return dataclasses.replace(args, config=config)


def leave(*flags):
    """The exit code of the program, run in this process."""
    with pytest.raises(SystemExit) as left:
        _cli.run(main, Args, default=preset_of, argv=flags)
    return left.value.code


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The run folder and result of a recurrent agent."""
    folder = tmp_path_factory.mktemp("run") / "recurrent"
    return folder, train(tiny(folder, "recurrent_ppo", norm="batch"))


def test_result_holds_what_the_tables_read(finished):
    folder, result = finished
    assert read_result(folder) == result
    assert result["status"] == "finished"
    assert len(result["eval_returns"]) == 3
    assert result["final_return"] == pytest.approx(np.mean(result["eval_returns"]))
    assert result["steps"] == 64
    assert result["curve"]["steps"] == [32, 64]
    assert len(result["curve"][tags.EVAL_RETURN]) == 2
    assert result["plain_parts"] == ["lstm_actor", "lstm_critic"]
    assert 0 < result["steps"] / result["steps_per_second"] < result["wall_time"]


def test_folder_holds_configuration_versions_events_model_and_statistics(finished):
    folder, _ = finished
    names = {path.name for path in folder.rglob("*") if not path.name.startswith("events")}
    assert names - {".lock"} == {
        "config.json",
        "versions.json",
        "result.json",
        "model.zip",
        "vecnormalize.npz",
        "best_model.zip",
        "best_vecnormalize.npz",
        "checkpoint.zip",
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["env_id"] == "CartPoleNoVel-v1"
    assert config["lstm_hidden_size"] == 64
    assert config["total_timesteps"] == 64


def test_event_file_has_sb3s_tags_and_the_hparams_tab(finished):
    folder, result = finished
    (path,) = folder.glob("events*")
    events = EventAccumulator(str(path)).Reload()
    scalars = events.Tags()["scalars"]
    stock = "approx_kl clip_fraction clip_range entropy_loss explained_variance learning_rate loss"
    stock = {f"train/{name}" for name in f"{stock} policy_gradient_loss value_loss".split()}
    stock |= {"rollout/ep_len_mean", "rollout/ep_rew_mean", "time/fps"}
    assert stock | {tags.EVAL_LENGTH} <= set(scalars)
    points = [(e.step, e.value) for e in events.Scalars(tags.EVAL_RETURN)]
    assert [step for step, _ in points][:2] == [32, 64]
    assert points[0][1] == pytest.approx(result["curve"][tags.EVAL_RETURN][0])
    plugin = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    hparams = HParamsPluginData.FromString(plugin).session_start_info.hparams
    assert hparams["norm"].string_value == "batch"
    assert hparams["lstm_hidden_size"].number_value == 64


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "TMaze-v0"])
def test_the_trained_agent_is_filmed_where_its_environment_can_be_drawn(tmp_path, env_id):
    films, returns = [], []
    for film in (True, False):
        args = tiny(tmp_path / str(film), env_id=env_id, film=film)
        returns.append(train(args)["eval_returns"])
        (path,) = args.folder.glob("events*")
        events = EventAccumulator(str(path), {"images": 0}).Reload()
        films += events.Images(tags.FILM) if tags.FILM in events.Tags()["images"] else []
    assert returns[0] == returns[1]
    assert len(films) == (env_id == "Pendulum-v1")
    for event in films:
        with Image.open(io.BytesIO(event.encoded_image_string)) as gif:
            assert (gif.format, gif.size) == ("GIF", (event.width, event.height))
            assert gif.n_frames == 67  # of 200 steps
            assert max(gif.size) <= 240
        assert event.step == 64


def test_an_environment_whose_drawing_fails_is_trained_without_a_film(
    tmp_path, monkeypatch, capsys
):
    def fail(self):
        raise RuntimeError("no library\nto draw with")

    monkeypatch.setattr(CartPoleEnv, "render", fail)
    assert train(tiny(tmp_path / "run", film=True))["status"] == "finished"
    assert "no film of the agent: no library to draw with\n" in capsys.readouterr().err


def test_the_text_tab_has_all_that_a_run_was_told_once(tmp_path):
    args = tiny(tmp_path / "run")
    train(args)
    train(dataclasses.replace(args, resume=True))
    (path,) = args.folder.glob("events*")
    events = EventAccumulator(str(path)).Reload()
    (event,) = events.Tensors(f"{tags.CONFIG}/text_summary")
    (text,) = event.tensor_proto.string_val
    for row in (b"| setting | value |", b'| algo | `"ppo"` |', b"| n_steps | `16` |"):
        assert row in text


def test_saved_agent_and_statistics_give_the_final_return_again(tmp_path):
    args = tiny(tmp_path / "run", env_id="Acrobot-v1")
    result = train(args)
    raw = DummyVecEnv([envs.factory("Acrobot-v1")] * 3)
    env = load_statistics(raw, args.folder / "vecnormalize.npz")
    env.seed(75_000)
    model = PPO.load(args.folder / "model.zip", device="cpu")
    obs, returns = env.reset(), np.zeros(3)
    running = np.ones(3, dtype=bool)
    while running.any():
        obs, rewards, dones, _ = env.step(model.predict(obs, deterministic=True)[0])
        returns += rewards * running
        running &= ~dones
    assert sorted(returns) == sorted(result["eval_returns"])


def test_a_finished_run_is_read_and_not_repeated(finished):
    folder, result = finished
    stamps = {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != ".lock"}
    assert train(tiny(folder, "recurrent_ppo", norm="batch")) == result
    assert stamps == {p: p.stat().st_mtime_ns for p in folder.iterdir() if p.name != ".lock"}


@pytest.mark.parametrize(
    "other", [{"final_return": None}, {"eval_returns": 3}, {"best_return": "x"}]
)
def test_a_finished_run_whose_result_says_something_else_is_one_line(other, finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    write_json(folder / "result.json", read_json(folder / "result.json") | other)
    with pytest.raises(
        UsageError, match=r"result\.json is damaged or of another version: \w+Error"
    ):
        main(tiny(folder, "recurrent_ppo", norm="batch"))


def test_a_finished_run_is_shown_without_making_an_environment_or_an_agent(finished, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("something was made")

    folder, result = finished
    args = tiny(folder, "recurrent_ppo", norm="batch")
    monkeypatch.setattr(gym, "make", refuse)
    monkeypatch.setattr("torch.nn.Module.__init__", refuse)
    assert train(args) == result


@pytest.mark.parametrize("algo", ["ppo", "recurrent_ppo"])
def test_neighbouring_seeds_share_no_start_neither_in_training_nor_in_evaluation(
    tmp_path, monkeypatch, algo
):
    seen = []
    reset = CartPoleEnv.reset

    def remember(self, *, seed=None, options=None):
        if seed is not None:
            seen[-1].append(seed)
        return reset(self, seed=seed, options=options)

    monkeypatch.setattr(CartPoleEnv, "reset", remember)
    for seed in (0, 1, 2):
        seen.append([])
        args = tiny(tmp_path / str(seed), algo, env_id="CartPoleNoVel-v1", seed=seed)
        train(dataclasses.replace(args, eval_points=1))
        training, curve, final = seen[-1][:2], seen[-1][2:4], seen[-1][4:]
        assert training == [100_000 * seed, 100_000 * seed + 1]
        assert curve == [100_000 * seed + 50_000, 100_000 * seed + 50_001]
        assert final == [100_000 * seed + 75_000 + i for i in range(3)]
    assert len({*seen[0], *seen[1], *seen[2]}) == 21


def test_program_prints_the_folder_first_and_the_result_last(tmp_path, capsys):
    assert leave(*TINY, "--run-dir", str(tmp_path / "run")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(tmp_path / "run")
    assert lines[-1].startswith("final_return ")
    assert lines[-1].endswith(" steps/s")


@pytest.mark.parametrize(
    ("algo", "norm"), [("ppo", "weight"), ("ppo", "layer"), ("recurrent_ppo", "weight")]
)
def test_a_loss_that_is_not_finite_ends_as_failed_with_its_reason(tmp_path, capsys, algo, norm):
    folder = tmp_path / "run"
    flags = ["--algo", algo, "--norm", norm, "--learning-rate", "1e30"]
    assert leave(*flags, *TINY, "--run-dir", str(folder)) == 1
    result = read_result(folder)
    assert result["status"] == "failed"
    assert "not finite after" in result["reason"]
    assert "final_return" not in result
    assert result["curve"]["steps"] == []  # it broke in the first update
    assert not (folder / "model.zip").exists()
    assert capsys.readouterr().out.splitlines()[-1] == f"failed: {result['reason']}"


def test_an_agent_that_cannot_be_evaluated_at_the_end_ends_as_failed(tmp_path, monkeypatch):
    def refuse(*args):
        raise NonFiniteError("not finite after 64 steps: logits")

    monkeypatch.setattr("wnrl.rl.run.evaluate", refuse)
    result = train(tiny(tmp_path / "run"))
    assert (result["status"], result["reason"]) == ("failed", "not finite after 64 steps: logits")
    assert "final_return" not in result


class BrokenInEvaluation(CartPoleEnv):
    """Gives a reward that is not finite, but in training."""

    reward = float("nan")

    def reset(self, *, seed=None, options=None):
        self.evaluates = seed >= 50_000 if seed is not None else self.evaluates
        return super().reset(seed=seed, options=options)

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, self.reward if self.evaluates else reward, terminated, truncated, info


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
@pytest.mark.parametrize("reward", [float("nan"), float("inf"), -float("inf")])
def test_an_evaluation_that_is_not_finite_ends_the_run_as_failed_in_words(
    tmp_path, monkeypatch, capsys, algo, reward
):
    monkeypatch.setattr(BrokenInEvaluation, "reward", reward)
    spec = EnvSpec(
        "BrokenInEvaluation-v0", BrokenInEvaluation, max_episode_steps=50, disable_env_checker=True
    )
    monkeypatch.setitem(gym.registry, spec.id, spec)
    args = small(tmp_path / "run", algo, env_id=spec.id)
    result = train(args)
    assert result["status"] == "failed"
    assert re.fullmatch(
        rf"not finite after \d+ steps: {reward} in what the environment gives as reward",
        result["reason"],
    )
    assert train(args) == result  # and is not tried again


def test_a_network_that_no_memory_holds_is_refused_in_one_line(tmp_path, capsys):
    folder = tmp_path / "run"
    assert leave(*TINY, "--net-arch", "4294967295", "--run-dir", str(folder)) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("error: the agent cannot be built: ")
    assert not folder.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--norm", "wieght"], "did you mean 'weight'?"),
        (["--algo", "recurent_ppo"], "did you mean 'recurrent_ppo'?"),
        (["--env-id", "CartPole-v11"], "did you mean 'CartPole-v1'?"),
        (["--n-steps", "0"], "n_steps must be above zero, got 0"),
        (["--total-timesteps", "-1"], "total_timesteps must be above zero, got -1"),
        (["--eval-episodes", "0"], "eval_episodes must be above zero, got 0"),
        (["--activation-fn", "rel"], "did you mean 'relu'?"),
        (["--algo", "dqn", "--variant", "salimans"], "did you mean 'salimans2016'?"),
        (["--checkpoint-minutes", "-1"], "checkpoint_minutes must be zero or above, got -1"),
        (["--threads", "0"], "threads must be a whole number up to 1024, above zero, got 0"),
        (["--seed", "-1"], "seed must be from 0 to 2**31 - 1, got -1"),
        (["--device", "cuda:99"], "device 'cuda:99' asked for"),
        (["--device", "tpu"], "device must be auto, cpu, cuda or cuda:<k>, got 'tpu'"),
        (["--env-id", "Humanoid-v3"], "moved to the gymnasium-robotics project"),
        (["--env-id", "Blackjack-v1"], "observations must be"),
        (["--use-sde", "--env-id", "CartPole-v1"], "be used with continuous actions"),
    ],
)
def test_a_wrong_word_is_one_line_and_exit_2_and_leaves_no_folder(tmp_path, capsys, flags, message):
    folder = tmp_path / "run"
    assert leave(*flags, "--run-dir", str(folder)) == 2
    printed = capsys.readouterr()
    told = printed.err.strip()
    assert printed.out == ""
    assert told.startswith("error: ")
    assert "\n" not in told
    assert message in told
    assert not folder.exists()


@pytest.mark.parametrize("ratio", [1, 5, 20])
def test_crossq_with_projected_weights_trains_at_every_ratio_of_updates_to_data(tmp_path, ratio):
    flags = f"--algo crossq --variant wn --norm projected --gradient-steps {ratio} "
    flags += "--total-timesteps 30 --learning-starts 18 --batch-size 16 --buffer-size 100 "
    flags += "--net-arch 16 --critic-arch 16 --eval-episodes 1 --eval-points 1"
    assert leave(*flags.split(), "--run-dir", str(tmp_path / "run")) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    published = {"optimizer": "adamw", "weight_decay": 0.01, "policy_delay": 3, "tau": 0.005}
    assert {"train_freq": 1, **published}.items() <= config.items()
    model = CrossQ.load(tmp_path / "run" / "model.zip", device="cpu")
    assert model._n_updates == 12 * ratio
    steps = {
        int(state["step"])
        for network in (model.policy.actor, model.policy.critic)
        for state in network.optimizer.state.values()
    }
    assert steps == {12 * ratio, 12 * ratio // 3}
    for layer in (model.policy.actor.latent_pi[1], model.policy.critic.qf0[1]):
        torch.testing.assert_close(layer.weight.norm(dim=1), torch.ones(16))
    assert int(batch_norms(model.policy.critic_target)[0].running_steps) == 12 * ratio


def test_help_of_an_algorithm_has_its_own_flags(capsys):
    assert leave("--algo", "recurrent_ppo", "--help") == 0
    told = capsys.readouterr().out
    assert "--lstm-hidden-size" in told
    assert "CartPoleNoVel-v1" in told
    assert leave("--help") == 0
    told = capsys.readouterr().out
    assert "--lstm-hidden-size" not in told
    assert "--clip-range" in told


@pytest.mark.parametrize("algo", ["ppo", "td3", "crossq", "tqc"])
def test_help_says_that_the_defaults_are_the_presets(algo, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    assert leave("--algo", algo, "--help") == 0
    told = capsys.readouterr().out
    assert "the defaults are those of the preset" in told
    assert "the defaults are SB3's" not in told
    assert "names and defaults" not in told


def test_flags_go_over_the_preset_of_the_environment(tmp_path):
    folder = tmp_path / "run"
    flags = ["--env-id", "Pendulum-v1", "--no-use-sde", *TINY]
    assert leave(*flags, "--run-dir", str(folder)) == 0
    config = json.loads((folder / "config.json").read_text())
    assert (config["gamma"], config["learning_rate"]) == (0.9, 1e-3)
    assert (config["n_steps"], config["use_sde"]) == (16, False)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--total-timesteps", "50"], "total_timesteps 50 is rounded up to 64: updates are 32 ste"),
        (["--total-timesteps", "64"], ""),
    ],
)
def test_a_budget_that_is_rounded_up_is_told(tmp_path, capsys, flags, told):
    assert leave(*TINY, *flags, "--run-dir", str(tmp_path / "run")) == 0
    shown = capsys.readouterr().err
    assert told in shown if told else "rounded" not in shown
    assert read_result(tmp_path / "run")["steps"] == 64


def test_a_run_of_an_environment_with_arguments_another_limit_and_stacked_observations(tmp_path):
    flags = "--env-id Pendulum-v1 --env-kwargs g 3.5 --max-episode-steps 20 --frame-stack 2"
    folder = tmp_path / "run"
    assert leave(*TINY, *flags.split(), "--normalize", "obs", "--run-dir", str(folder)) == 0
    config = json.loads((folder / "config.json").read_text())
    assert (config["env_kwargs"], config["max_episode_steps"]) == ({"g": 3.5}, 20)
    model, statistics, _ = load_run(folder)
    assert model.observation_space.shape == (6,)
    assert statistics.name == "vecnormalize.npz"
    result = evaluated(Evaluation(run_dir=folder, episodes=3))
    assert result["returns"] == read_result(folder)["eval_returns"]
    assert result["mean_length"] == 20


def test_keyword_arguments_are_said_again_where_a_run_has_some(tmp_path, capsys):
    words = "--env-id Pendulum-v1 --norm-kwargs g_rate 2.5 --env-kwargs g 3 --resume --run-dir"
    for _ in range(2):
        assert leave(*TINY, *words.split(), str(tmp_path / "run")) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["norm_kwargs"], config["env_kwargs"]) == ({"g_rate": 2.5}, {"g": 3})
    assert leave(*TINY, *words.replace("2.5", "2.5 eps").split(), str(tmp_path / "run")) == 2
    assert "'eps' has no value: write NAME VALUE" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["run", "copy"])
def test_a_file_gives_the_defaults_of_the_flags(tmp_path, folder):
    zoo = tmp_path / "ppo.yml"
    zoo.write_text("CartPole-v1: {n_envs: 2, n_steps: 16, batch_size: 16, gamma: 0.9}")
    flags = ["--config", str(zoo), "--env-id", "CartPole-v1", "--norm", "layer", "--eval-points=2"]
    flags += ["--total-timesteps", "32", "--eval-episodes", "1"]
    assert leave(*flags, "--run-dir", str(tmp_path / "run")) == 0
    first = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (first["gamma"], first["n_envs"], first["norm"]) == (0.9, 2, "layer")
    again = ["--config", str(tmp_path / "run" / "config.json"), "--run-dir", str(tmp_path / folder)]
    assert leave(*again) == 0
    assert json.loads((tmp_path / folder / "config.json").read_text()) == first
    assert leave(*again, "--resume") == 2


def test_progress_rises_to_one(tmp_path):
    seen = []
    train(tiny(tmp_path / "run"), seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert seen[0] >= 0.0


@pytest.mark.parametrize(
    ("number", "flags"),
    [
        (signal.SIGINT, []),
        *(
            (number, ["--subprocesses", "--n-envs", "2"])
            for number in (signal.SIGINT, signal.SIGHUP)
        ),
    ],
)
def test_a_signal_of_a_terminal_saves_says_how_to_go_on_and_leaves_no_result(
    tmp_path, number, flags
):
    folder = tmp_path / "run"
    command = [sys.executable, str(SCRIPT), "--run-dir", str(folder), *flags]
    child = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    for _ in range(600):
        if list(folder.glob("events*")):
            break
        time.sleep(0.1)
    time.sleep(1.0)
    os.killpg(child.pid, number)  # environments in processes of their own get it too
    _, told = child.communicate(timeout=60)
    assert child.returncode == 128 + number, told
    assert re.search(r"stopped at step \d+ of 100000; --resume goes on from here\n$", told)
    assert (folder / "checkpoint.zip").exists()
    assert not (folder / "result.json").exists()
    assert (folder / "config.json").exists()


def events_of(folder):
    """Every scalar but times and every film, as tag: [(step, value), ...]."""
    found = {}
    for path in sorted(folder.glob("events*")):
        events = EventAccumulator(str(path)).Reload()
        for tag in events.Tags()["scalars"]:
            if not tag.startswith("time/"):
                found.setdefault(tag, []).extend((e.step, e.value) for e in events.Scalars(tag))
        for tag in events.Tags()["images"]:
            found[tag] = [(e.step, crc32(e.encoded_image_string)) for e in events.Images(tag)]
    return found


def parameters(folder, name="model.zip"):
    policy = load_run(folder, "best" if name.startswith("best") else "last")[0].policy
    return {key: value.numpy() for key, value in policy.state_dict().items()}


def assert_same_run(one, two):
    """All that two folders say of training, less how long it took and in how many parts."""
    for name in ("model.zip", "best_model.zip"):
        np.testing.assert_equal(parameters(one, name), parameters(two, name))
    assert events_of(one) == events_of(two)
    results = [read_result(folder) for folder in (one, two)]
    for result in results:
        for name in ("steps_per_second", "wall_time", "memory_mib"):
            del result[name]
    assert results[0] == results[1]


class InterruptAt:
    """Progress that sends this process a signal at a fraction of training."""

    def __init__(self, fraction, number=signal.SIGINT):
        self.fraction, self.number, self.sent = fraction, number, False

    def __call__(self, fraction):
        if fraction >= self.fraction and not self.sent:
            self.sent = True
            os.kill(os.getpid(), self.number)


SIZES = {"n_envs": 2, "batch_size": 16, "net_arch": (8,), "critic_arch": (8,)}
ON_POLICY = {"n_steps": 16, "n_epochs": 2, "lstm_hidden_size": 8, "n_critic_updates": 2}
OFF_POLICY = {"learning_starts": 20, "buffer_size": 300, "train_freq": 4, "gradient_steps": 2,
              "target_update_interval": 8}  # fmt: skip


def small(folder, algo, *, steps=128, **others):
    """Arguments of a run of a moment, with every preset's own kind of schedule."""
    args = agent_args(
        algo, run_dir=folder, eval_episodes=2, eval_points=4, eval_point_episodes=1, **others
    )
    sizes = SIZES | (OFF_POLICY if isinstance(args.config, OffPolicyConfig) else ON_POLICY)
    sizes = {name: size for name, size in sizes.items() if hasattr(args.config, name)}
    config = dataclasses.replace(args.config, total_timesteps=steps, **sizes)
    return dataclasses.replace(args, config=config)


@pytest.fixture
def every_progress(monkeypatch):
    """Progress is reported at each step, not five times a second."""
    monkeypatch.setattr("wnrl.runs.session.PROGRESS_SECONDS", 0.0)


@pytest.mark.parametrize("algo", AGENTS)
def test_an_interrupted_and_resumed_run_equals_the_uninterrupted_one(
    tmp_path, every_progress, algo
):
    one, two = tmp_path / "whole", tmp_path / "parts"
    train(small(one, algo))
    with pytest.raises(Stopped, match="130"):
        train(small(two, algo), InterruptAt(0.55))
    assert not (two / "result.json").exists()
    train(small(two, algo, resume=True))
    assert_same_run(one, two)


class Watched(CartPoleEnv):
    """Gives a picture with its channels last beside what CartPole gives."""

    def __init__(self, **options):
        super().__init__(**options)
        picture = gym.spaces.Box(0, 255, (40, 40, 3), np.uint8)
        self.observation_space = gym.spaces.Dict({"x": self.observation_space, "p": picture})

    def seen(self, x):
        return {"x": x, "p": self.np_random.integers(0, 256, (40, 40, 3), np.uint8)}

    def reset(self, **options):
        x, info = super().reset(**options)
        return self.seen(x), info

    def step(self, action):
        x, *others = super().step(action)
        return self.seen(x), *others


def test_a_run_with_scaled_vectors_beside_pictures_goes_on_with_the_same_bits(
    tmp_path, every_progress, monkeypatch
):
    spec = EnvSpec("Watched-v0", Watched, max_episode_steps=30)
    monkeypatch.setitem(gym.registry, "Watched-v0", spec)
    one, two = (
        small(tmp_path / name, "ppo", env_id="Watched-v0", norm="layer", steps=96, film=False)
        for name in ("whole", "parts")
    )
    config = dataclasses.replace(one.config, normalize="both")
    one, two = (dataclasses.replace(args, config=config) for args in (one, two))
    train(one)
    with pytest.raises(Stopped):
        train(two, InterruptAt(0.3))
    train(dataclasses.replace(two, resume=True))
    assert_same_run(one.folder, two.folder)


def test_a_resume_repeats_no_evaluation_where_updates_are_rarer_than_points(
    tmp_path, every_progress
):
    one, two = (
        dataclasses.replace(small(tmp_path / name, "a2c"), eval_points=100)
        for name in ("whole", "parts")
    )
    train(one)
    for fraction in (0.2, 0.55):
        with pytest.raises(Stopped):
            train(dataclasses.replace(two, resume=True), InterruptAt(fraction))
    train(dataclasses.replace(two, resume=True))
    assert_same_run(one.folder, two.folder)


def test_no_curve_has_two_points_at_one_step(tmp_path):
    args = dataclasses.replace(small(tmp_path / "run", "ppo"), eval_points=2)
    train(args)
    curves = events_of(args.folder)
    assert {tags.TRAIN_LOSS, tags.EVAL_RETURN} <= curves.keys()
    for tag, points in curves.items():
        assert len(points) == len(dict(points)), tag


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_last_evaluation_loses_nothing_that_was_learned(
    tmp_path, monkeypatch, number
):
    one, two = tmp_path / "whole", tmp_path / "parts"
    train(small(one, "ppo"))
    with monkeypatch.context() as patch:
        patch.setattr("wnrl.rl.run.evaluate", lambda *_: os.kill(os.getpid(), number))
        with pytest.raises(Stopped, match=str(128 + number)):
            train(small(two, "ppo", keep_checkpoint=False))
    assert not (two / "result.json").exists()
    with monkeypatch.context() as patch:  # nothing is trained again
        patch.setattr("stable_baselines3.PPO.train", None)
        train(small(two, "ppo", resume=True, keep_checkpoint=False))
    assert_same_run(one, two)


def test_a_checkpoint_at_each_rollout_changes_nothing(tmp_path):
    one, two = tmp_path / "whole", tmp_path / "parts"
    train(small(one, "dqn"))
    train(small(two, "dqn", checkpoint_minutes=0.0))
    assert_same_run(one, two)


def test_a_finished_run_extended_with_constant_schedules_equals_the_long_one(tmp_path, capsys):
    def args(folder, steps, points):
        args = small(folder, "ppo", steps=steps)
        constant = {"learning_rate_schedule": "constant", "clip_range_schedule": "constant"}
        config = dataclasses.replace(args.config, **constant)
        return dataclasses.replace(args, eval_points=points, config=config)

    train(args(tmp_path / "long", 128, 4))
    short = args(tmp_path / "short", 64, 2)
    train(short)
    longer = dataclasses.replace(short.config, total_timesteps=128)
    result = train(dataclasses.replace(short, config=longer, resume=True))
    assert "schedules are over all 128 steps, not over 64" in capsys.readouterr().err
    assert result["curve"]["steps"] == [32, 64, 96, 128]
    np.testing.assert_equal(parameters(tmp_path / "short"), parameters(tmp_path / "long"))
    config = json.loads((tmp_path / "short" / "config.json").read_text())
    assert (config["total_timesteps"], config["extended_from"]) == (128, [64])
    assert train(dataclasses.replace(short, config=longer, resume=True)) == result


@pytest.fixture
def stopped(tmp_path, every_progress):
    """The arguments of a run that was stopped in the middle."""
    args = small(tmp_path / "run", "ppo")
    with pytest.raises(Stopped):
        train(args, InterruptAt(0.3, signal.SIGTERM))
    return args


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"learning_rate": 1.0}, r"learning_rate=0.001 \(asked: 1.0\)"),
        ({"net_arch": (9,)}, r"net_arch=\[8\] \(asked: \[9\]\)"),
        ({"total_timesteps": 64}, r"total_timesteps=128 \(asked: 64\)"),
    ],
)
def test_a_resume_with_other_hyperparameters_is_refused_and_changes_nothing(stopped, change, told):
    before = contents(stopped.folder)
    config = dataclasses.replace(stopped.config, **change)
    with pytest.raises(UsageError, match=told):
        train(dataclasses.replace(stopped, config=config, resume=True))
    assert contents(stopped.folder) == before


def test_resume_begins_where_there_is_nothing_to_go_on_from_and_says_so(tmp_path, capsys):
    assert train(small(tmp_path / "run", "ppo", resume=True))["steps"] == 128
    told = "nothing to resume, the run begins"
    assert capsys.readouterr().err == f"run_dir {tmp_path / 'run'} has no checkpoint.zip: {told}\n"


def test_a_run_goes_on_with_its_own_settings_where_no_flags_are_given(tmp_path, every_progress):
    one, two = tmp_path / "whole", tmp_path / "parts"
    train(small(one, "a2c", seed=3, norm="layer", env_id="CartPoleNoVel-v1"))
    with pytest.raises(Stopped):
        train(small(two, "a2c", seed=3, norm="layer", env_id="CartPoleNoVel-v1"), InterruptAt(0.55))
    assert leave("--run-dir", str(two), "--resume") == 0
    assert_same_run(one, two)


def test_a_run_in_the_usual_folder_goes_on_with_its_own_settings(
    tmp_path, every_progress, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Stopped):
        train(small(None, "a2c", seed=30), InterruptAt(0.55))
    assert leave("--algo", "a2c", "--seed", "3e1", "--resume") == 0
    assert capsys.readouterr().out.startswith("runs/single/CartPole-v1/a2c/weight/seed30\n")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--gamma", "0.5"], "another configuration: gamma=0.98 (asked: 0.5); choose"),
        (["--env-id", "Acrobot-v1"], "env_id='CartPole-v1' (asked: 'Acrobot-v1'); choose"),
        (["--norm", "none"], "norm='weight' (asked: 'none'); choose"),
        (["--algo", "dqn"], "algo='ppo' (asked: 'dqn')"),
        (["--run-dir"], "--run-dir"),
    ],
)
def test_what_is_given_with_resume_has_to_be_what_the_run_has(stopped, capsys, flags, told):
    before = contents(stopped.folder)
    assert leave("--run-dir", str(stopped.folder), "--resume", *flags) == 2
    assert told in capsys.readouterr().err
    assert contents(stopped.folder) == before


def test_resume_with_more_steps_extends_a_run_and_without_shows_it(tmp_path, capsys):
    short = small(tmp_path / "run", "a2c", steps=64, threads=2)
    train(short)
    assert leave("--run-dir", str(short.folder), "--resume") == 0
    assert "has ended: nothing is trained" in capsys.readouterr().err
    assert leave("--run-dir", str(short.folder), "--resume", "--total-timesteps", "96") == 0
    assert "resumed at step 64 of 96" in capsys.readouterr().err
    assert read_json(short.folder / "config.json")["threads"] == 2


@pytest.mark.parametrize("where", [["--run-dir", "nothing"], []])
def test_a_resume_that_names_no_run_and_finds_none_is_refused(where, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert leave(*where, "--resume") == 2
    told = capsys.readouterr()
    folder = where[1] if where else "runs/single/CartPole-v1/ppo/weight/seed0"
    assert told.err == (
        f"error: run_dir {folder} holds no run to go on with; "
        "to begin one there, say which: --algo or --env-id\n"
    )
    assert told.out == ""
    assert not list(tmp_path.iterdir())


def test_help_is_shown_where_there_is_no_run_to_go_on_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert leave("--resume", "--help") == 0


@pytest.mark.parametrize("resume", [["--resume"], []])
def test_a_folder_of_something_else_than_an_agent_is_called_that(tmp_path, capsys, resume):
    write_json(tmp_path / "config.json", {"data": "mnist"})
    assert leave("--run-dir", str(tmp_path), *resume) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert re.match(rf"error: run_dir {tmp_path} holds .* program: its config.json has no ", told)


def test_environments_that_cannot_be_saved_begin_anew_and_it_is_said_once(
    tmp_path, every_progress, capsys, monkeypatch
):
    class Stubborn(CartPoleEnv):
        def __getstate__(self):
            raise TypeError("no")

    spec = EnvSpec("Stubborn-v0", Stubborn, max_episode_steps=50)
    monkeypatch.setitem(gym.registry, spec.id, spec)
    args = small(tmp_path / "run", "dqn", env_id="Stubborn-v0")
    with pytest.raises(Stopped):
        train(args, InterruptAt(0.5))
    result = train(dataclasses.replace(args, resume=True))
    assert result["steps"] == 128
    told = "the environments could not be saved, so that episodes begin anew"
    assert capsys.readouterr().err.count(told) == 1


def test_the_best_agent_is_the_curves_and_is_not_the_headline(tmp_path):
    result = train(small(tmp_path / "run", "ppo"))
    returns, steps = result["curve"][tags.EVAL_RETURN], result["curve"]["steps"]
    assert result["best_step"] == steps[int(np.argmax(returns))]
    assert result["window_return"] == returns[-1]  # a tenth of four points is one
    assert result["final_return"] == pytest.approx(np.mean(result["eval_returns"]))


def test_device_and_threads_that_suit_a_small_network_are_recorded(tmp_path):
    args = small(tmp_path / "run", "ppo")
    train(args)
    config = json.loads((args.folder / "config.json").read_text())
    assert (config["device"], config["threads"]) == ("cpu", 1)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["none", "weight", "layer"])
def test_ppo_solves_cartpole(tmp_path, norm):
    args = agent_args("ppo", norm=norm, run_dir=tmp_path / "run")
    assert train(args)["final_return"] >= 475


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["none", "weight"])
def test_the_best_checkpoint_of_dqn_solves_cartpole(tmp_path, norm):
    args = agent_args("dqn", norm=norm, run_dir=tmp_path / "run")
    assert train(args)["best_return"] >= 450


@pytest.mark.slow
def test_recurrent_ppo_solves_masked_cartpole_and_a_policy_without_memory_does_not(tmp_path):
    recurrent = train(agent_args("recurrent_ppo", run_dir=tmp_path / "recurrent"))
    assert recurrent["final_return"] >= 450
    config = agent_args("ppo").config
    forward = agent_args("ppo", "CartPoleNoVel-v1", config=config, run_dir=tmp_path / "forward")
    assert train(forward)["final_return"] < 250
