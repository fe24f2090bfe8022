"""One of the processes of test_train_vae_parallel, which does several runs with the others."""

import contextlib
import io
import json
import os
from dataclasses import replace

import torch

from scripts.train_vae import Args, main
from wnrl import data, tags, vae
from wnrl.errors import NonFiniteError, UsageError
from wnrl.vae import Elbo, beta_elbo, parallel, training
from wnrl.vae.objectives import goal

TINY = Args(
    n_steps=60, hidden=(12,), latent_dim=2, n_samples=20, n_logs=3, batch_size=50, device="cpu"
)
RUNS = {
    "trained": {},
    "other": {"learning_rate": 0.5},
    "uneven": {"batch_size": 51},
    "batch": {"norm": "batch"},
    "longer": {"n_steps": 90, "resume": True},
}
"""Calls of the program one after the other, on one run folder."""
FREE_BITS = 0.5
SLOPES = torch.tensor([0.3, 0.45, 0.55, 2.0])  # KL of four groups, on average over both processes


def free_bits_gradient(share):
    """Of a bound on 4 images, or a share of them, whose KL is another."""
    factors = torch.ones(4, requires_grad=True)
    rows = torch.tensor([0.2, 0.6, 1.4, 1.8])[share]
    kl = rows[:, None] * SLOPES * factors
    beta_elbo(Elbo(torch.zeros(len(kl)), kl), 1.0, FREE_BITS, "group").mean().backward()
    parallel.mean_([factors.grad])
    return factors.grad.tolist()


def infinite_in_the_second(rank):
    """What a training says whose logged bound is infinite in one process, its gradient finite."""
    config = replace(TINY.config(), n_steps=8, n_logs=2)
    digits = data.load("digits")
    trainer = vae.Trainer(vae.build(config, digits), digits, config)

    def poisoned(*args):
        found = goal(*args)
        if rank == 1 and trainer.step == 6:
            found.means[tags.VAE_TRAIN_KL] = found.means[tags.VAE_TRAIN_KL] + float("inf")
        return found

    training.goal = poisoned
    try:
        list(trainer.run())
    except NonFiniteError as error:
        return str(error)
    finally:
        training.goal = goal


def work(rank, count, port, folder):
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    with parallel.joined(torch.device("cpu")):
        for name, changes in RUNS.items():
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    code = main(replace(TINY, run_dir=folder / "two", **changes))
                except UsageError as error:
                    code = f"refused: {error}"
            said = {"code": code, "out": out.getvalue(), "err": err.getvalue()}
            if name == "trained" and rank == 0:
                said["result"] = json.loads((folder / "two" / "result.json").read_text())
                (folder / "model.pt").write_bytes((folder / "two" / "model.pt").read_bytes())
            (folder / f"{name}{rank}.json").write_text(json.dumps(said))
        said = [free_bits_gradient(slice(rank, None, count)), infinite_in_the_second(rank)]
        (folder / f"parts{rank}.json").write_text(json.dumps(said))
        parallel.told(None)  # all are done
    os._exit(0)  # gloo's threads can abort an orderly exit
