"""The two processes of test_ddp: each trains every layer on its own half of a batch."""

import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.nn.cases import CASES, NORMED, PASTS, out


def inputs(case, rank):
    return case.input(seed=1 + rank)


def train(folder):
    torch.set_num_threads(1)
    rank = int(os.fork() == 0)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for name, case in {**CASES, **NORMED}.items():
        for past in PASTS:
            layer = case.build()
            past(layer, inputs(case, rank))
            layer.zero_grad()
            parallel = DistributedDataParallel(layer)
            out(parallel(inputs(case, rank))).square().sum().backward()
            grads = {key: p.grad for key, p in layer.named_parameters()}
            torch.save(grads, f"{folder}/{name}-{past.__name__}-{rank}.pt")
    dist.barrier()
    os._exit(rank == 0 and os.wait()[1] != 0)  # gloo's threads can abort an orderly exit
