"""Which device and how many threads suit a network, where the caller does not say."""

import os
import sys
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from torch.utils import _pytree as pytree

from wnrl.rl.environments import parts
from wnrl.runs.machine import resolve_device, usable_cores

WIDE = 512  # units of a layer from which on a GPU wins over launching its kernels
LIMITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # variables of OpenMP and MKL
MOST_THREADS = 4  # of a CNN on small images: more wait for one another


def has_images(space: spaces.Space[Any]) -> bool:
    """Return True where observations are, or a Dict of them has, what SB3 gives to a CNN."""
    return any(is_image_space(part) for part in parts(space).values())


def is_small(space: spaces.Space[Any], policy_arguments: dict[str, Any]) -> bool:
    """Return True where a network is too small for a GPU, or for more than one thread, to pay.

    Args:
        space: its observations; a CNN is never small.
        policy_arguments: SB3's: ``net_arch``, and ``lstm_hidden_size`` where there is an LSTM.
    """
    if has_images(space):
        return False
    sizes = [policy_arguments.get("net_arch"), policy_arguments.get("lstm_hidden_size")]
    return max((n for n in pytree.tree_leaves(sizes) if n is not None), default=0) < WIDE


def choose_device(asked: str, small: bool) -> str:
    """Return the device for ``asked``; say so where it is not the GPU that is there.

    Args:
        asked: auto, cpu, cuda or cuda:<k>; auto is the CPU for a small network.
        small: from ``is_small``.

    Raises:
        UsageError: as ``resolve_device``.
    """
    if asked != "auto" or not small:
        return str(resolve_device(asked))
    if torch.cuda.is_available():
        told = "device: cpu, where a small network is faster; --device cuda overrides"
        print(told, file=sys.stderr)
    return "cpu"


def choose_threads(asked: int | None, small: bool) -> int:
    """Return ``asked``, else one thread for a small network and a few for a larger one.

    Where it is not asked for, it is never more than ``OMP_NUM_THREADS`` or ``MKL_NUM_THREADS`` say.
    """
    if asked is not None:
        return asked
    said = [os.environ.get(name, "").partition(",")[0] for name in LIMITS]
    limits = [int(text) for text in said if text.strip().isdecimal() and int(text) > 0]
    return 1 if small else min(MOST_THREADS, usable_cores(), *limits)
