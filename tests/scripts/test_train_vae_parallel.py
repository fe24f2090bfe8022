"""Two processes that train and measure one VAE, as torchrun starts them."""

import json
import socket
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from scripts.train_vae import train
from tests.scripts.vae_parallel_worker import TINY, free_bits_gradient, work
from wnrl import data, vae
from wnrl.errors import UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes left: their run folder, and what each said of each call."""
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("needs gloo")
    root = tmp_path_factory.mktemp("parallel")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, args=(2, port, root), nprocs=2)
    return root


def said(folder, name):
    return [json.loads((folder / f"{name}{rank}.json").read_text()) for rank in (0, 1)]


def test_only_the_first_process_speaks_and_writes(folder):
    first, second = said(folder, "trained")
    assert (first["code"], second["code"]) == (0, 0)
    assert first["out"].splitlines()[0] == str(folder / "two")
    assert first["out"].splitlines()[-1].startswith("NLL ")
    assert second["out"] == ""
    assert first["result"]["processes"] == 2


def test_two_processes_measure_what_one_measures(folder):
    result = said(folder, "trained")[0]["result"]
    (folder / "two" / "model.pt").write_bytes((folder / "model.pt").read_bytes())
    protocol = vae.Protocol("digits", n_samples=20)
    alone = vae.nll(vae.load(folder / "two"), data.load("digits"), protocol)
    assert result["nll"] == pytest.approx(alone.nll, abs=1e-6)
    assert result["elbo"] == pytest.approx(alone.elbo, abs=1e-6)
    assert result["active_units"] == alone.active_units


def test_two_processes_learn_what_one_learns(folder, tmp_path):
    two = said(folder, "trained")[0]["result"]
    one = train(replace(TINY, run_dir=tmp_path))
    digits = data.load("digits")
    untrained = vae.build(TINY.config(), digits)
    before = vae.nll(untrained, digits, vae.Protocol("digits", n_samples=20)).nll
    gained = [before - result["nll"] for result in (one, two)]
    assert gained[0] > 0.2
    assert gained[1] == pytest.approx(gained[0], rel=0.3)
    assert one["curve"]["steps"] == two["curve"]["steps"]


def test_free_bits_of_a_group_are_counted_over_the_images_of_all_processes(folder):
    whole = free_bits_gradient(slice(None))
    assert whole == pytest.approx([0, 0, -0.55, -2.0])  # the first two groups are below 0.5
    for rank in (0, 1):
        assert said(folder, "parts")[rank][0] == pytest.approx(whole)


def test_what_is_not_finite_in_one_process_stops_all_with_its_name(folder):
    first, second = (said(folder, "parts")[rank][1] for rank in (0, 1))
    assert first == second
    assert "first tensor not finite: vae/train_kl, step 6; the last good state is that" in first


def test_a_refusal_ends_all_processes_and_is_told_by_one(folder):
    first, second = said(folder, "other")
    assert first["code"].startswith("refused: run_dir")
    assert second["code"] == 2
    assert second["err"] == ""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("uneven", "batch_size must be divisible by the 2 processes, got 51"),
        ("batch", "norm 'batch' takes statistics of a batch"),
    ],
)
def test_what_processes_cannot_share_is_refused(folder, name, message):
    assert message in said(folder, name)[0]["code"]


def test_processes_go_on_from_a_checkpoint_each_with_its_own_noise(folder):
    first, _ = said(folder, "longer")
    assert first["code"] == 0
    assert "resumed at step 60 of 90" in first["err"]
    state = torch.load(folder / "two" / "checkpoint.zip", weights_only=True)
    assert state["trainer"]["step"] == 90
    assert not torch.equal(*state["noises"])


def test_another_number_of_processes_cannot_go_on(folder):
    longer = replace(TINY, run_dir=folder / "two", n_steps=120, resume=True)
    with pytest.raises(UsageError, match="is of 2 processes, and there are 1"):
        train(longer)
