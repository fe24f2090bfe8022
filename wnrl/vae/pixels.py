"""What a likelihood of an image's pixels is, and when the values of an image are looked at.

One convention for all: an image x is its grey levels divided by (levels − 1), float,
``(..., C, H, W)``, so that binary images are zeros and ones; its parameters are P maps of the same
height and width, ``(..., P, H, W)``. Everything is computed in float32 at least, also under
autocast, and is finite, with finite gradients, for parameters of any size in use.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ClassVar

import torch
from torch import Tensor

from wnrl.arguments import checked
from wnrl.errors import UsageError
from wnrl.limits import Whole
from wnrl.nn.functional import in_transform, wide

_trusted = ContextVar("trusted", default=False)


def can_look(t: Tensor) -> bool:
    """Return True if the values of ``t`` can be looked at without waiting for a device."""
    return t.is_cpu and not (
        torch.compiler.is_compiling()
        or in_transform()
        or torch._C._len_torch_dispatch_stack()
        or _trusted.get()
    )


@contextmanager
def trusted() -> Iterator[None]:
    """Inside, nobody looks at the values of images: they were made right, and looking takes time.

    In other threads they are looked at.
    """
    token = _trusted.set(True)
    try:
        yield
    finally:
        _trusted.reset(token)


@checked
class PixelLikelihood(ABC):
    """Independent pixels, given z.

    Args:
        channels: C of the images.
        levels: number of grey levels of the data.

    Attributes:
        maps: P, parameter maps that a decoder has to give.
        levels: grey levels that it is a probability of; None for a density, which says nothing
            about bits.

    Raises:
        UsageError: no channel, or fewer than two levels.
    """

    meaning: ClassVar[str]
    """One line, for help texts and reports."""
    limits: ClassVar[tuple[float, float]] = (0.0, 1.0)
    """Within which the values of an image are."""
    maps: int
    levels: int | None

    def __init__(self, channels: Whole, levels: int = 256) -> None:
        if levels < 2:
            raise UsageError(f"levels must be at least 2, got {levels}")
        self.channels, self.levels, self.maps = channels, levels, 2 * channels

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """Return the log-probability of images.

        Args:
            x: ``(..., C, H, W)``; its leading axes are broadcast against those of ``params``.
            params: ``(..., P, H, W)``.

        Returns:
            Nats an image, ``(...)``.

        Raises:
            UsageError: another number of channels or maps, or two sizes (broadcasting would give
                wrong numbers), or what ``check`` refuses.
        """
        size = tuple(x.shape[-2:])
        if tuple(x.shape[-3:]) != (self.channels, *size) or params.shape[-3:] != (self.maps, *size):
            raise UsageError(
                f"x and params must have shapes (..., {self.channels}, H, W) and (..., {self.maps},"
                f" H, W), got {tuple(x.shape)} and {tuple(params.shape)}"
            )
        self.check(x)
        return self.pixel_log_prob(wide(x), wide(params)).sum((-3, -2, -1))

    def check(self, x: Tensor) -> None:
        """Look for values that no image has, where that costs nothing: on a CPU.

        Raises:
            UsageError: values outside of ``limits``, such as undivided grey levels, or NaN.
        """
        if not (x.numel() and can_look(x)):
            return
        (low, high), (least, most) = self.limits, torch.aminmax(x)
        if not (least >= low and most <= high):
            raise UsageError(
                f"x must be within [{low:g}, {high:g}], grey levels / (levels - 1), "
                f"got values from {least:g} to {most:g}"
            )

    @abstractmethod
    def pixel_log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """Return nats by position, ``(..., C, H, W)``, or ``(..., 1, H, W)`` if joined."""

    @abstractmethod
    def mean(self, params: Tensor) -> Tensor:
        """Return the expected image within [0, 1], ``(..., C, H, W)``, for looking at."""

    def start(self, pixel_means: Tensor) -> Tensor:
        """Return a first bias ``(P, H, W)``, whose mean is ``pixel_means``, ``(C, H, W)``."""
        y = 2 * pixel_means - 1
        return torch.cat([y, torch.zeros_like(y)])
