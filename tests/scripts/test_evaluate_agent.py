import base64
import dataclasses
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.envs.registration import EnvSpec
from PIL import Image, ImageSequence
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from agents import defaults
from agents.run import load_run
from agents.subject import told_of_pickles
from scripts import _cli, train_agent
from scripts.evaluate_agent import Args, evaluated, main
from tests.programs import agent_args
from wnrl.errors import UsageError
from wnrl.rl.recording import write_film
from wnrl.runs import read_json, write_json
from wnrl.runs.files import file_checksum

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "evaluate_agent.py"


def leave(*flags):
    """The exit code of the program, run in this process."""
    with pytest.raises(SystemExit) as left:
        _cli.run(main, Args, argv=[str(flag) for flag in flags])
    return left.value.code or 0


def trained(folder, algo, **changes):
    args = agent_args(algo, run_dir=folder, eval_episodes=3, eval_points=2, eval_point_episodes=2)
    return train_agent.train(
        dataclasses.replace(args, config=dataclasses.replace(args.config, **changes))
    )


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory):
    """A run folder with an LSTM and scaled observations, and its result."""
    folder = tmp_path_factory.mktemp("run") / "recurrent"
    sizes = {"n_envs": 2, "n_steps": 16, "batch_size": 16, "n_epochs": 2}
    return folder, trained(folder, "recurrent_ppo", total_timesteps=64, **sizes)


def test_an_agent_without_pictures_is_played_by_one_thread(zips, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    evaluated(Args(model=zips / "ppo.zip", env_id="CartPole-v1", episodes=1))
    assert chosen == [1]


@pytest.fixture(scope="module")
def zips(tmp_path_factory):
    """Stock agents of SB3, untrained, by name."""
    folder = tmp_path_factory.mktemp("zips")
    agents = {
        "ppo": (PPO, "MlpPolicy", "CartPole-v1"),
        "a2c": (A2C, "MlpPolicy", "CartPole-v1"),
        "dqn": (DQN, "MlpPolicy", "CartPole-v1"),
        "sac": (SAC, "MlpPolicy", "Pendulum-v1"),
        "lstm": (RecurrentPPO, "MlpLstmPolicy", "CartPole-v1"),
        "wn": (PPO, "WNMlpPolicy", "CartPole-v1"),
    }
    for name, (algorithm, policy, env_id) in agents.items():
        few = {"buffer_size": 100} if name in ("dqn", "sac") else {}
        small = {"policy_kwargs": {"net_arch": [8]}, "device": "cpu", "seed": 0, **few}
        algorithm(policy, env_id, **small).save(folder / name)
    return folder


def test_a_runs_own_seed_and_episodes_give_its_final_return_again(recurrent):
    folder, result = recurrent
    found = evaluated(Args(run_dir=folder, episodes=3))
    assert found["returns"] == result["eval_returns"]
    assert found["mean_return"] == pytest.approx(result["final_return"])
    assert (found["algo"], found["norm"], found["steps"]) == ("recurrent_ppo", "weight", 64)


def test_the_best_agent_is_evaluated_with_its_own_statistics(recurrent):
    folder, result = recurrent
    found = evaluated(Args(run_dir=folder, which="best", episodes=3))
    assert found["mean_return"] == pytest.approx(result["best_return"])
    assert found["steps"] == result["best_step"]


def test_the_interval_holds_the_mean_and_comes_from_the_episodes(recurrent):
    found = evaluated(Args(run_dir=recurrent[0], episodes=25))
    low, high = found["interval95"]
    assert min(found["returns"]) <= low < found["mean_return"] < high <= max(found["returns"])
    assert found["episodes"] == len(found["returns"]) == 25


def test_drawn_actions_differ_from_the_most_likely_and_repeat_with_the_seed(zips):
    args = Args(model=zips / "ppo.zip", env_id="CartPole-v1", stochastic=True, episodes=5)
    one, two = evaluated(args), evaluated(args)
    assert one["returns"] == two["returns"]
    assert one["returns"] != evaluated(dataclasses.replace(args, stochastic=False))["returns"]
    assert one["returns"] != evaluated(dataclasses.replace(args, seed=1))["returns"]


@pytest.mark.parametrize("algo", ["dqn", "qrdqn"])
def test_the_drawn_actions_of_a_run_are_as_random_as_those_in_training_were(tmp_path, algo):
    sizes = {"learning_starts": 8, "train_freq": 4, "gradient_steps": 1, "batch_size": 8}
    share = {"exploration_fraction": 1.0, "exploration_final_eps": 0.5}
    trained(tmp_path / "run", algo, total_timesteps=64, net_arch=(8,), **sizes, **share)
    for which in ("last", "best"):
        model = load_run(tmp_path / "run", which)[0]
        assert model.exploration_rate == pytest.approx(1 - 0.5 * model.num_timesteps / 64)
    args = Args(run_dir=tmp_path / "run", episodes=5, stochastic=True)
    found, greedy = evaluated(args), evaluated(dataclasses.replace(args, stochastic=False))
    assert found["returns"] != greedy["returns"]
    saved = tmp_path / "run" / "model.zip"
    of_zip = Args(model=saved, env_id="CartPole-v1", episodes=5, stochastic=True)
    assert evaluated(of_zip)["returns"] == found["returns"]


@pytest.mark.parametrize("algorithm", [TD3, DDPG])
def test_an_agent_that_draws_no_actions_refuses_to(tmp_path, capsys, algorithm):
    small = {"buffer_size": 100, "device": "cpu", "policy_kwargs": {"net_arch": [8]}}
    algorithm("MlpPolicy", "Pendulum-v1", **small).save(tmp_path / "agent")
    flags = ["--model", tmp_path / "agent.zip", "--env-id", "Pendulum-v1", "--episodes", 1]
    assert leave(*flags) == 0
    assert leave(*flags, "--stochastic") == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: TD3 and DDPG draw no actions")


@pytest.mark.parametrize("name", ["ppo", "a2c", "dqn", "lstm", "wn", "sac"])
def test_any_zip_of_sb3_is_evaluated_and_printed_as_one_line_of_json(zips, capsys, name):
    env_id = "Pendulum-v1" if name == "sac" else "CartPole-v1"
    assert leave("--model", zips / f"{name}.zip", "--env-id", env_id, "--episodes", 2) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert len(json.loads(line)["returns"]) == 2


def test_our_own_statistics_beside_a_zip_are_used(recurrent, tmp_path):
    folder, result = recurrent
    args = {"env_id": "CartPoleNoVel-v1", "episodes": 3}
    found = evaluated(Args(model=folder / "model.zip", **args))
    assert found["returns"] == result["eval_returns"]
    assert found["statistics"] == str(folder / "vecnormalize.npz")
    shutil.copy(folder / "model.zip", tmp_path / "alone.zip")
    shutil.copy(folder / "vecnormalize.npz", tmp_path / "other.npz")
    alone = Args(model=tmp_path / "alone.zip", statistics=tmp_path / "other.npz", **args)
    assert evaluated(alone)["returns"] == result["eval_returns"]
    without = dataclasses.replace(alone, statistics=None)
    assert evaluated(without)["statistics"] is None
    (tmp_path / "other.npz").rename(tmp_path / "vecnormalize.npz")
    assert evaluated(without)["returns"] == result["eval_returns"]


class Harmful:
    """Runs a command when it is unpickled."""

    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return os.mkdir, (str(self.sentinel),)


@pytest.mark.parametrize("place", ["vecnormalize.pkl", "CartPole-v1/vecnormalize.pkl",
                                   "vec_normalize.pkl",
                                   "ppo_vecnormalize_100_steps.pkl"])  # fmt: skip
def test_a_pickle_near_a_zip_is_told_and_read_only_where_it_is_named(zips, tmp_path, capsys, place):
    model, pickled = tmp_path / "ppo.zip", tmp_path / place
    shutil.copy(zips / "ppo.zip", model)
    pickled.parent.mkdir(exist_ok=True)
    pickled.write_bytes(pickle.dumps(Harmful(tmp_path / "harm")))
    flags = ["--model", model, "--env-id", "CartPole-v1", "--episodes", 1]
    assert leave(*flags) == 0
    assert f"not read, since a pickle runs code: {pickled}" in capsys.readouterr().err
    assert not (tmp_path / "harm").exists()
    raw = DummyVecEnv([lambda: gym.make("CartPole-v1")])
    VecNormalize(raw).save(str(pickled))
    assert leave(*flags, "--statistics", pickled) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["statistics"] == str(pickled)


def test_of_several_pickles_near_a_zip_the_likeliest_is_told(tmp_path):
    for name in ("rl_vecnormalize_100_steps.pkl", "rl_vecnormalize_20_steps.pkl"):
        (tmp_path / name).touch()
    final = tmp_path / "ALE-Pong-v5" / "vecnormalize.pkl"
    final.parent.mkdir()
    final.touch()
    for model, likeliest in (
        ("best_model/best_model.zip", final),
        ("rl_20_steps.zip", tmp_path / "rl_vecnormalize_20_steps.pkl"),
        ("rl_100_steps.zip", tmp_path / "rl_vecnormalize_100_steps.pkl"),
        ("ALE-Pong-v5.zip", final),
    ):
        told = told_of_pickles(tmp_path / model, "ale_py:ALE/Pong-v5")
        assert told.endswith(f"--statistics {likeliest} reads it")


def as_of_another_version(path, copy):
    """Write a copy whose spaces are of gym, and whose schedule cannot be read."""
    module, code = b"cgym.spaces.box\nBox\n.", b"cbuiltins\nint\n(S'a'\ntR."
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "data":
                data = json.loads(content)
                for key in ("observation_space", "action_space"):
                    data[key] = {":serialized:": base64.b64encode(module).decode()}
                data["lr_schedule"] = {":serialized:": base64.b64encode(code).decode()}
                content = json.dumps(data)
            new.writestr(name, content)


def test_an_agent_of_an_earlier_sb3_acts_in_the_spaces_of_its_environment(zips, tmp_path, capsys):
    for name, env_id in (("ppo", "CartPole-v1"), ("dqn", "CartPole-v1"), ("sac", "Pendulum-v1")):
        old = tmp_path / f"{name}.zip"
        as_of_another_version(zips / old.name, old)
        flags = ["--env-id", env_id, "--episodes", 1]
        returns = []
        for path in (zips / old.name, old):
            assert leave("--model", path, *flags) == 0
            shown = capsys.readouterr()
            returns.append(json.loads(shown.out)["returns"])
        assert "was written by another SB3 or Python (No module named 'gym')" in shown.err
        assert returns[0] == returns[1]
    for env_id in ("Acrobot-v1", "Blackjack-v1"):
        assert leave("--model", tmp_path / "ppo.zip", "--env-id", env_id) == 2
        told = capsys.readouterr().err
        assert "does not fit observations" in told
        assert told.count("\n") == 1


def test_statistics_of_an_earlier_sb3_scale_as_those_of_todays(zips, tmp_path):
    normalizer = VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")]))
    normalizer.obs_rms.mean, normalizer.obs_rms.var = np.arange(4.0), np.full(4, 9.0)
    today, old = tmp_path / "today.pkl", tmp_path / "old.pkl"
    normalizer.save(str(today))
    old.write_bytes(pickle.dumps(normalizer, 0).replace(b"cgymnasium.", b"cgym."))
    of_today, of_old = (
        evaluated(
            Args(model=zips / "ppo.zip", env_id="CartPole-v1", episodes=3, statistics=statistics)
        )
        for statistics in (today, old)
    )
    assert of_today["returns"] == of_old["returns"]


def test_an_agent_of_stacked_observations_is_evaluated_with_as_many(tmp_path, capsys):
    stacked = VecFrameStack(DummyVecEnv([lambda: gym.make("CartPole-v1")]), 3)
    PPO("MlpPolicy", stacked, device="cpu").save(tmp_path / "ppo")
    flags = ["--model", tmp_path / "ppo.zip", "--env-id", "CartPole-v1", "--episodes", 1]
    assert leave(*flags) == 2
    assert leave(*flags, "--frame-stack", 3, "--max-episode-steps", 5) == 0
    assert json.loads(capsys.readouterr().out)["mean_length"] <= 5


def test_a_run_folder_is_read_without_running_code_from_it(recurrent, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(recurrent[0], folder)
    harmful = pickle.dumps(Harmful(tmp_path / "harm"))
    with zipfile.ZipFile(folder / "model.zip") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(parts["data"])
    for entry in data.values():
        if isinstance(entry, dict) and ":serialized:" in entry:
            entry[":serialized:"] = base64.b64encode(harmful).decode()
    parts["data"] = json.dumps(data).encode()
    with zipfile.ZipFile(folder / "model.zip", "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    (folder / "vecnormalize.pkl").write_bytes(harmful)
    result = read_json(folder / "result.json")
    result["files"]["model.zip"] = file_checksum(folder / "model.zip")
    write_json(folder / "result.json", result)
    assert evaluated(Args(run_dir=folder, episodes=3))["returns"] == recurrent[1]["eval_returns"]
    assert not (tmp_path / "harm").exists()


def test_a_film_of_one_episode_shows_each_step_for_its_time(zips, tmp_path):
    path = tmp_path / "film.gif"
    found = evaluated(Args(model=zips / "ppo.zip", env_id="CartPole-v1", episodes=1, record=path))
    with Image.open(path) as film:
        times = [frame.info["duration"] for frame in ImageSequence.Iterator(film)]  # ms
        assert sum(times) == 20 * found["returns"][0]  # equal frames are one
        assert len(times) > 1
        assert film.size == (600, 400)


def test_an_mp4_has_each_frame_and_leaves_nothing_else_on_the_screen_or_disk(zips, tmp_path):
    flags = ["--env-id", "CartPole-v1", "--episodes", "1", "--record", str(tmp_path / "film.mp4")]
    command = [sys.executable, str(SCRIPT), "--model", str(zips / "ppo.zip"), *flags]
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "XDG_RUNTIME_DIR")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert re.fullmatch(r"statistics of observations: none are near .*\n", done.stderr)
    film = tmp_path / "film.mp4"
    frames, _ = imageio_ffmpeg.count_frames_and_secs(film)
    assert frames == json.loads(done.stdout)["returns"][0]
    look = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(film)]
    assert " 600x400" in subprocess.run(look, capture_output=True, text=True, check=False).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]


@pytest.mark.parametrize("frame", [None, np.zeros((4, 6, 3)), [np.zeros((4, 6, 3), np.uint8)]])
def test_what_is_no_picture_is_told_in_a_line(zips, tmp_path, monkeypatch, frame):
    monkeypatch.setattr(CartPoleEnv, "render", lambda self: frame)
    args = Args(model=zips / "ppo.zip", env_id="CartPole-v1", episodes=1, record=tmp_path / "a.gif")
    with (
        pytest.warns(UserWarning, match="rendering should return"),
        pytest.raises(
            UsageError, match="environment cannot be drawn: TypeError: Cannot handle this data type"
        ),
    ):
        evaluated(args)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 4)])
@pytest.mark.parametrize("name", ["film.gif", "film.mp4"])
@pytest.mark.filterwarnings("ignore:.*rendering should return")
def test_pictures_in_grey_or_with_opacity_make_a_film(zips, tmp_path, monkeypatch, name, shape):
    monkeypatch.setattr(CartPoleEnv, "render", lambda self: np.full(shape, 255, np.uint8))
    path = tmp_path / name
    args = Args(model=zips / "ppo.zip", env_id="CartPole-v1", episodes=1, record=path)
    returns = evaluated(args)["returns"]
    if name == "film.mp4":
        assert imageio_ffmpeg.count_frames_and_secs(path)[0] == returns[0]
    else:
        with Image.open(path) as gif:
            assert gif.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("name", ["film.gif", "film.mp4"])
def test_a_film_that_cannot_be_finished_leaves_the_one_before(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"the one before")
    frame = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises((AttributeError, ValueError)):
        write_film(path, [frame, frame, "no frame"], fps=30)
    assert path.read_bytes() == b"the one before"
    assert [found.name for found in tmp_path.iterdir()] == [name]


def wrong(zips, recurrent, tmp_path):
    """Flags, and what the one line about them has."""
    half = tmp_path / "half.zip"
    half.write_bytes((zips / "ppo.zip").read_bytes()[:5000])
    (tmp_path / "text.zip").write_text("no zip")
    bare = tmp_path / "bare"
    shutil.copytree(recurrent[0], bare)
    (bare / "vecnormalize.npz").unlink()
    cut = tmp_path / "cut"
    shutil.copytree(recurrent[0], cut)
    (cut / "vecnormalize.npz").write_bytes((cut / "vecnormalize.npz").read_bytes()[:100])
    unfinished = tmp_path / "unfinished"
    shutil.copytree(recurrent[0], unfinished)
    (unfinished / "result.json").unlink()
    vae = tmp_path / "vae"
    vae.mkdir()
    write_json(vae / "config.json", {"data": "mnist"})
    swapped = tmp_path / "swapped"
    shutil.copytree(recurrent[0], swapped)
    shutil.copy(zips / "dqn.zip", swapped / "model.zip")
    forged = tmp_path / "forged"
    shutil.copytree(swapped, forged)
    result = read_json(forged / "result.json")
    result["files"]["model.zip"] = file_checksum(forged / "model.zip")
    write_json(forged / "result.json", result)
    linked = tmp_path / "linked"
    shutil.copytree(recurrent[0], linked)
    (linked / "model.zip").unlink()
    (linked / "model.zip").symlink_to(recurrent[0] / "model.zip")
    raw = DummyVecEnv([lambda: gym.make("Pendulum-v1")])
    VecNormalize(raw).save(str(tmp_path / "pendulum.pkl"))
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1]))
    cartpole = ["--model", zips / "ppo.zip", "--env-id", "CartPole-v1"]
    return {
        "nothing": ([], "either --run-dir or --model"),
        "both": (["--run-dir", recurrent[0], *cartpole], "either --run-dir or --model"),
        "no id": (["--model", zips / "ppo.zip"], "--model needs --env-id"),
        "two ids": (
            ["--run-dir", recurrent[0], "--env-id", "CartPole-v1"],
            "--env-id goes with --model; a run folder knows its own",
        ),
        "no file": (["--model", tmp_path / "no.zip", "--env-id", "CartPole-v1"], "does not exist"),
        "half": (["--model", half, "--env-id", "CartPole-v1"], "is damaged"),
        "text": (["--model", tmp_path / "text.zip", "--env-id", "CartPole-v1"], "is damaged"),
        "spaces": (
            ["--model", zips / "ppo.zip", "--env-id", "Acrobot-v1"],
            "its observation_space is Box",
        ),
        "actions": (["--model", zips / "sac.zip", "--env-id", "CartPole-v1"], "does not fit"),
        "env": (["--model", zips / "ppo.zip", "--env-id", "CartPole-v11"], "did you mean"),
        "folder": (["--run-dir", tmp_path], "is no folder of a finished run"),
        "vae": (["--run-dir", vae], "holds a run of another program"),
        "unfinished": (["--run-dir", unfinished], "no folder of a finished run"),
        "swapped": (["--run-dir", swapped], "model.zip is damaged"),
        "forged": (["--run-dir", forged], "model.zip holds another agent"),
        "linked": (["--run-dir", linked], "model.zip is not there, or no file"),
        "film disk": ([*cartpole, "--record", "/proc/film.gif"], "record /proc/film.gif: "),
        "bare": (["--run-dir", bare], "vecnormalize.npz is not there"),
        "cut": (["--run-dir", cut], "vecnormalize.npz is damaged"),
        "other": ([*cartpole, "--statistics", tmp_path / "pendulum.pkl"], "does not fit"),
        "no wrapper": ([*cartpole, "--statistics", tmp_path / "list.pkl"], "holds a list"),
        "no numbers": ([*cartpole, "--statistics", tmp_path / "text.zip"], "holds no statistics"),
        "which": (
            ["--run-dir", recurrent[0], "--which", "first"],
            "which must be one of last, best",
        ),
        "episodes": ([*cartpole, "--episodes", 0], "episodes must be above zero"),
        "film": ([*cartpole, "--record", tmp_path / "film.avi"], "must be one of .gif, .mp4"),
        "film folder": (
            [*cartpole, "--record", tmp_path / "no" / "film.gif"],
            "its folder is not there",
        ),
    }


def test_wrong_input_is_one_line_and_exit_2(zips, recurrent, tmp_path, capsys):
    for name, (flags, message) in wrong(zips, recurrent, tmp_path).items():
        assert leave(*flags) == 2, name
        printed = capsys.readouterr()
        told = printed.err.strip()
        assert printed.out == "", name
        assert told.startswith("error: "), name
        assert "\n" not in told, name
        assert message in told, (name, told)


def test_an_mp4_without_ffmpeg_is_refused_before_anything_is_played(zips, monkeypatch):
    monkeypatch.setattr("wnrl.rl.recording.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'wnrl\[video\]'; a \.gif"):
        Args(model=zips / "ppo.zip", env_id="CartPole-v1", record=zips / "film.mp4")


def test_an_environment_that_cannot_be_drawn_is_not_filmed(zips, tmp_path, monkeypatch):
    class Undrawn(gym.envs.classic_control.CartPoleEnv):
        metadata = {"render_modes": []}  # noqa: RUF012

    spec = EnvSpec("Undrawn-v0", Undrawn, max_episode_steps=9)
    monkeypatch.setitem(gym.registry, spec.id, spec)
    path = tmp_path / "film.gif"
    with pytest.raises(UsageError, match="Undrawn-v0' cannot be drawn"):
        evaluated(Args(model=zips / "ppo.zip", env_id="Undrawn-v0", record=path))
    assert not path.exists()


@pytest.mark.parametrize(("table", "word"), [("AGENTS", "algo"), ("NORMS", "norm")])
def test_what_a_module_of_ones_own_added_to_a_run_is_named_with_the_flag_that_imports_it(
    recurrent, monkeypatch, capsys, table, word
):
    from agents import run, settings

    folder, _ = recurrent
    name = read_json(folder / "config.json")[word]
    module = settings if word == "algo" else run
    fewer = {key: row for key, row in getattr(module, table).items() if key != name}
    monkeypatch.setattr(module, table, fewer)
    assert leave("--run-dir", folder) == 2
    told = capsys.readouterr().err
    assert re.search(
        rf"^error: {word} must be .* got '{name}'.*; for one of your own, --import", told
    )
    if word == "algo":
        with pytest.raises(UsageError, match=r"got 'recurrent_ppo'.*--import its module"):
            defaults.of_flags(config=folder / "config.json")
