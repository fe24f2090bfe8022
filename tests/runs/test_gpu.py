"""Runs on a GPU that go on on a CPU, and the other way round."""

import os
import signal

import pytest
import torch

from agents import run as agents
from wnrl.runs import Stopped, read_config
from wnrl.study import NLL, RETURN, Arm, Study, Task
from wnrl.vae import run as vaes

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
AGENT = {"total_timesteps": 96, "n_envs": 2, "eval_episodes": 2, "eval_points": 2, "film": False}
ON_POLICY = {**AGENT, "n_steps": 16, "batch_size": 16, "n_epochs": 1}
OFF_POLICY = {**AGENT, "learning_starts": 16, "buffer_size": 200, "train_freq": 4, "batch_size": 16}
VAE = {"n_steps": 40, "latent_dim": 2, "n_samples": 5, "n_logs": 4, "ema_epochs": 0.5}
TASKS = {
    "mlp": Task("digits", "mlp", "wnrl.vae.run:train", NLL, VAE),
    "ppo": Task("CartPole-v1", "ppo", "agents.run:train", RETURN, ON_POLICY),
    "recurrent": Task("CartPole-v1", "recurrent_ppo", "agents.run:train", RETURN, ON_POLICY),
    "dqn": Task("CartPole-v1", "dqn", "agents.run:train", RETURN, OFF_POLICY),
    "crossq": Task("Pendulum-v1", "crossq", "agents.run:train", RETURN, OFF_POLICY),
}


def stop_half_way(share):
    if share >= 0.5:
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("first", "then"), [("cuda", "cpu"), ("cpu", "cuda")])
@pytest.mark.parametrize("name", TASKS)
def test_a_run_goes_on_on_the_other_device(name, first, then, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("wnrl.runs.session.PROGRESS_SECONDS", 0.0)
    task, arm = TASKS[name], Arm("weight")

    def train(device, progress):
        study = Study("one", [task], [arm], arm.name, seeds=[0], settings={"device": device})
        runner = vaes if task.metric == NLL else agents
        return runner.train(study.trials()[0], tmp_path / "run", progress)

    with pytest.raises(Stopped, match="130"):
        train(first, stop_half_way)
    assert first in read_config(tmp_path / "run")["device"]
    result = train(then, lambda share: None)
    assert result["status"] == "finished"
    assert "resumed at step" in capsys.readouterr().err
