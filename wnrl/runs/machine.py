"""What a run depends on besides its settings: versions, the random state, the device."""

import os
import platform
import random
import re
import resource
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wnrl.errors import UsageError

HOME = Path(__file__).resolve().parents[2]  # the checkout, where there is one
PACKAGES = ("wnrl", "numpy", "gymnasium", "stable-baselines3", "sb3-contrib")


@cache
def versions() -> dict[str, Any]:
    """Return Python, packages, GPU and, in a git checkout, the commit and if it was modified.

    They are those of the first call: a process goes on with what it has imported.
    """
    model = _said("/proc/cpuinfo", "model name") or platform.processor()
    cuda = torch.version.cuda if torch.cuda.is_available() else None
    is_checkout = _git("rev-parse", "--show-toplevel") == str(HOME)
    commit = _git("rev-parse", "HEAD") if is_checkout else None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": f"{model or platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,  # with its build, which the package's metadata lack
        **{package: _version(package) for package in PACKAGES},
        "cuda": cuda,
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "commit": commit,
        "modified": bool(_git("status", "--porcelain")) if commit else None,
    }


def _version(package: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _said(path: str, name: str) -> str:
    """Return what a file of the system (Linux) says of ``name``; nothing where there is none."""
    with suppress(OSError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return ""


def usable_cores() -> int:
    """Return the cores that this process may use, in a container perhaps fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def begin_peak_memory() -> None:
    """Let ``peak_memory`` forget what came before, where the system can (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> float:
    """Return the most memory that this process has had at a time, in MiB."""
    if kib := _said("/proc/self/status", "VmHWM"):
        return int(kib.split()[0]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def free_memory(device: torch.device) -> float:
    """Return the bytes that are free on a device; infinity where the system does not say."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    kib = _said("/proc/meminfo", "MemAvailable")
    return float(kib.split()[0]) * 2**10 if kib else float("inf")


def _git(*command: str) -> str | None:
    told: Any = {"cwd": HOME, "stderr": subprocess.DEVNULL, "text": True, "timeout": 10}
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.check_output(["git", *command], **told).strip()
    return None


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch on every device.

    Raises:
        UsageError: The seed is below zero or from 2**32 on.
    """
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed must be from 0 to 2**32 - 1, got {seed}")
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (SB3's buffers draw from the global generator)
    torch.manual_seed(seed)


def resolve_device(device: str) -> torch.device:
    """Return the device for ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:<k>``.

    Raises:
        UsageError: The word is none of these, or names a GPU that is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu(:0)?|cuda(:[0-9]+)?", device):
        raise UsageError(f"device must be auto, cpu, cuda or cuda:<k>, got {device!r}")
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UsageError(f"device {device!r} asked for, but torch finds no CUDA GPU here")
    index = int(number or 0)  # by number, so that one GPU has one name in every configuration
    if index >= (n_gpus := torch.cuda.device_count()):
        raise UsageError(f"device {device!r} asked for, but there are {n_gpus} GPUs here")
    return torch.device("cuda", index)
