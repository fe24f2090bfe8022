"""Several processes that train or measure one model, each on its share of the images.

Without ``torch.distributed`` all functions say that there is one process, and do nothing. Started
by ``torchrun``, processes draw the same order and the same binary images, and take their parts.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as distributed
from torch import Tensor

T = TypeVar("T")


def count() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if _together() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return distributed.get_rank() if _together() else 0


def share(items: Sequence[T]) -> Sequence[T]:
    """This process's part of ``items``: every ``count()``-th of them."""
    return items[rank() :: count()]


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Joins the other processes that ``torchrun`` started; alone or joined, it does nothing.

    Args:
        device: of the run; with several GPUs each process has its own.

    Yields:
        The device of this process.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if _together():
        yield device
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def sum_(t: Tensor) -> Tensor:
    """Replaces ``t`` by its sum over the processes, and returns it."""
    if count() > 1:
        distributed.all_reduce(t)
    return t


def mean_(tensors: Sequence[Tensor]) -> None:
    """Replaces each tensor by its mean over the processes, with one message for all."""
    if count() == 1 or not tensors:
        return
    flat = torch.cat([t.reshape(-1) for t in tensors])
    distributed.all_reduce(flat)
    flat /= count()
    parts = flat.split([t.numel() for t in tensors])
    torch._foreach_copy_(list(tensors), [p.view_as(t) for p, t in zip(parts, tensors, strict=True)])


def mean_of_all(t: Tensor) -> Tensor:
    """The mean of ``t`` over the processes, which passes gradients on to this process's ``t``.

    Where the processes average gradients afterwards, as in training, these are those of the mean.
    """
    if count() == 1:
        return t
    return t + (sum_(t.detach().clone()) / count() - t.detach())


def any_of(flag: bool, device: torch.device) -> bool:
    """Whether ``flag`` is set in any process; waits for all of them."""
    if count() == 1:
        return flag
    return bool(sum_(torch.tensor(float(flag), device=device)).item() > 0)


def gathered(t: Tensor) -> list[Tensor]:
    """``t``, on the CPU, of every process in their order."""
    if count() == 1:
        return [t]
    found: list[Tensor | None] = [None] * count()
    distributed.all_gather_object(found, t)
    return [value for value in found if value is not None]


def told(value: Any) -> Any:
    """What the first process says; the others' ``value`` is nothing."""
    if count() == 1:
        return value
    said = [value]
    distributed.broadcast_object_list(said, src=0)
    return said[0]


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()
