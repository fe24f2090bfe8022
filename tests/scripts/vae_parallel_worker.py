"""One of the processes of test_train_vae_parallel, which does several runs with the others."""

import contextlib
import io
import json
import os
from dataclasses import replace

import torch

from scripts.train_vae import Args, main
from wnrl.errors import UsageError
from wnrl.vae import parallel

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
        parallel.told(None)  # all are done
    os._exit(0)  # gloo's threads can abort an orderly exit
