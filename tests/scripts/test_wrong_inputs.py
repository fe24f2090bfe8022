"""What may be typed wrong in every program: one line that says so, exit 2, nothing written."""

import sys

import numpy as np
import pytest
import torch

from scripts import (
    _cli,
    compare,
    evaluate_agent,
    evaluate_vae,
    sample_vae,
    train_agent,
    train_vae,
)

TRAIN_AGENT = [
    "--algo",
    "--env-id NoSuchEnv-v0",
    "--env-id no_such_module:Env-v0",
    "--env-id os:Env-v0",
    "--seed 4294967296",
    "--seed one",
    "--n-envs 0",
    "--frame-stack 1e9",
    "--n-steps 1.5",
    "--gamma 1.1",
    "--learning-rate nan",
    "--learning-rate -1e-3",
    "--total-timesteps many",
    "--net-arch 0",
    "--norm-kwargs momentun 0.1",
    "--norm layer --norm-kwargs eps",
    "--norm-kwargs g_rate nan",
    "--env-kwargs g inf",
    "--env-id Pendulum-v1 --env-kwargs g heavy",
    "--optimizer-kwargs no_such 3",
    "--optimizer-kwargs betas 3",
    "--optimizer-kwargs amsgrad 1",
    "--optimizer-kwargs maximize no",
    "--optimizer-kwargs differentiable True",
    "--optimizer adamax --optimizer-kwargs capturable True",
    "--optimizer rmsprop --optimizer-kwargs weight_decay True",
    "--algorithm-kwargs _init_setup_model False",
    "--algorithm-kwargs rollout_buffer_class mine",
    "--algorithm-kwargs stats_window_size -1",
    "--algorithm-kwargs stats_window_size 0.5",
    "--algo sac --env-id Pendulum-v1 --algorithm-kwargs action_noise 0.1",
    "--algo trpo --algorithm-kwargs line_search_max_iter 1.5",
    "--algo trpo --algorithm-kwargs line_search_shrinking_factor much",
    "--policy-kwargs share_features_extractor 2",
    "--algo sac --env-id CartPole-v1",
    "--algo sac --n-epochs 3",
    "--run-dir file",
    "--run-dir thesis",
    "--resume --run-dir empty",
    "--no-such-flag 3",
    "positional",
    "--import no_such_module",
    "--list nothing",
]
TRAIN_VAE = [
    "--dataset folder:nowhere",
    "--dataset folder:empty",
    "--dataset npz:nowhere.npz",
    "--dataset npz:file",
    "--dataset npz:last.npz",
    "--dataset frames:NoSuch-v0",
    "--dataset mnist --data-dir nowhere",
    "--norm-kwargs v_init_std -inf",
    "--latent-dim two",
    "--likelihood poisson",
    "--objective elbow",
    "--beta nan",
    "--schedule cosin",
    "--learning-rate inf",
    "--device cpu:3",
    "--run-dir thesis",
    "--n-steps 1e-3",
]
EVALUATE_AGENT = [
    "--run-dir nowhere",
    "--run-dir thesis",
    "--model file --env-id CartPole-v1",
    "--run-dir empty --episodes 1e99",
    "--run-dir empty --seed -1",
]
EVALUATE_VAE = [
    "",
    "--run-dir empty",
    "--run-dir thesis",
    "--run-dir empty --split tset",
    "--run-dir empty --n-samples 0",
    "--run-dir empty --weights mean",
    "--run-dir empty --threads 1000000",
]
SAMPLE_VAE = [
    "",
    "--run-dir nowhere",
]
COMPARE = [
    "nowhere.py",
    "broken.py",
    "nothing.py",
    "quick --run-dir file",
    "quick --run-dir thesis",
]
WRONG = [
    (module, flags)
    for module, lines in (
        (train_agent, TRAIN_AGENT),
        (train_vae, TRAIN_VAE),
        (evaluate_agent, EVALUATE_AGENT),
        (evaluate_vae, EVALUATE_VAE),
        (sample_vae, SAMPLE_VAE),
        (compare, COMPARE),
    )
    for flags in lines
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with what may be there in the place of what is meant."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("text")
    (tmp_path / "file").write_text("text")
    (tmp_path / "broken.py").write_text("STUDY = (")
    (tmp_path / "nothing.py").write_text("SEEDS = 3")
    np.savez(tmp_path / "last.npz", x=np.zeros((20, 8, 8, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("module", "flags"), WRONG, ids=[f"{m.__name__.split('.')[1]} {flags}" for m, flags in WRONG]
)
def test_a_wrong_input_is_one_line_and_exit_2_and_nothing_is_written(module, flags, folder, capsys):
    before = sorted(folder.rglob("*"))
    default = getattr(module, "preset_of", None)
    with pytest.raises(SystemExit) as left:
        _cli.run(module.main, module.Args, default=default, argv=flags.split())
    told = capsys.readouterr()
    assert left.value.code == 2, told
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    written = [path for path in folder.rglob("*") if "__pycache__" not in path.parts]
    assert sorted(written) == before
