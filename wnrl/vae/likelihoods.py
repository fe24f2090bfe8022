"""p(x | z): from a decoder's parameter maps to the log-probability of an image.

One convention for all: an image x is its grey levels divided by (levels − 1), float,
``(..., C, H, W)``, so that binary images are zeros and ones; its parameters are P maps of the same
height and width, ``(..., P, H, W)``. Everything is computed in float32 at least, also under
autocast, and is finite, with finite gradients, for parameters of any size in use.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from wnrl.errors import UsageError, check_positive
from wnrl.nn.functional import in_transform

LOG_SCALE_RANGE = (-7.0, 7.0)
"""Of a logistic, whose unit is half the range of grey levels: a deviation of 0.2 levels in 256 at
the least, and no overflow."""
LOG_VAR_RANGE = (-10.0, 10.0)
"""Of the Gaussian density, which has no upper bound where the variance has no lower one."""


def wide(t: Tensor) -> Tensor:
    """``t`` in float32, or in its own type where that is wider."""
    return t.to(torch.promote_types(t.dtype, torch.float32))


def can_look(t: Tensor) -> bool:
    """Whether the values of ``t`` are there to be looked at, and no device has to be waited for."""
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


_trusted = ContextVar("trusted", default=False)


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

    def __init__(self, channels: int, levels: int = 256) -> None:
        check_positive(channels=channels)
        if levels < 2:
            raise UsageError(f"levels must be at least 2, got {levels}")
        self.channels, self.levels, self.maps = channels, levels, 2 * channels

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """Log-probability of images.

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
        """Looks for values that no image has, where that costs nothing: on a CPU.

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
        """Nats by position, ``(..., C, H, W)``, or ``(..., 1, H, W)`` where channels are joined."""

    @abstractmethod
    def mean(self, params: Tensor) -> Tensor:
        """The expected image within [0, 1], ``(..., C, H, W)``, for looking at."""

    def start(self, pixel_means: Tensor) -> Tensor:
        """Parameters ``(P, H, W)`` whose mean is ``pixel_means``, ``(C, H, W)``: a first bias."""
        y = 2 * pixel_means - 1
        return torch.cat([y, torch.zeros_like(y)])


class Bernoulli(PixelLikelihood):
    """Binary images; P = C logits (log p / (1 − p)).

    Grey levels under a Bernoulli are no likelihood: binarise them first. On a CPU, where values can
    be looked at, ``log_prob`` refuses them.
    """

    meaning = "Bernoulli, from logits"

    def __init__(self, channels: int, levels: int = 2) -> None:
        super().__init__(channels, levels)
        if levels != 2:
            raise UsageError(f"a Bernoulli is of 2 levels, got levels={levels}: binarise the data")
        self.maps = channels

    def pixel_log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """As the base class says."""
        if can_look(x) and not torch.equal(x, x.square()):
            raise UsageError("x must be zeros and ones for a Bernoulli: binarise the grey levels")
        return x * params - F.softplus(params)

    def mean(self, params: Tensor) -> Tensor:
        """As the base class says."""
        return wide(params).sigmoid()

    def start(self, pixel_means: Tensor) -> Tensor:
        """Logits of the means, clipped to [.001, .999] (Burda et al., 2016)."""
        return pixel_means.clamp(0.001, 0.999).logit()


class DiscretisedLogistic(PixelLikelihood):
    """Grey levels, each channel a logistic in bins (Kingma et al., 2016, arXiv:1606.04934).

    P = 2 C: first the means, where −1 is black and 1 is white, then the logarithms of the scales.
    The lowest and the highest level have all that lies beyond them, so that the levels sum to 1.
    """

    meaning = "logistic, discretised to the grey levels"

    def pixel_log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """As the base class says."""
        mean, log_scale = params.chunk(2, -3)
        return self._in_bin(2 * x - 1, mean, log_scale)

    def mean(self, params: Tensor) -> Tensor:
        """The middle of the logistic."""
        return _from_unit(wide(params).chunk(2, -3)[0])

    def _in_bin(self, y: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        """Log-probability of the bin around ``y``, a level in [−1, 1]; elementwise."""
        assert self.levels is not None
        half = 1 / (self.levels - 1)
        rate = (-log_scale.clamp(*LOG_SCALE_RANGE)).exp()
        # σ(b) − σ(a) = σ(b) σ(−a) (1 − exp(a − b)), and nothing in it cancels.
        below_top = F.logsigmoid((y + half - mean) * rate)
        above_bottom = F.logsigmoid((mean - y + half) * rate)
        inside = below_top + above_bottom + (-torch.expm1(-2 * half * rate)).log()
        ends = torch.where(y < 0, below_top, above_bottom)
        return torch.where(y.abs() > 1 - half, ends, inside)


class LogisticMixture(DiscretisedLogistic):
    """Grey levels or colour: PixelCNN++'s mixture (Salimans et al., 2017, arXiv:1701.05517).

    A pixel has one mixture over all its channels. In a component, channels are discretised
    logistics whose means are shifted by the true values of the channels before: ``mean_c +
    Σ_{d<c} tanh(a_cd) x_d``. With N components, P = N (1 + 2 C + C (C − 1) / 2), the components
    one after the other, each with its logit, means, log-scales, then the a_cd row by row.

    Args:
        channels: C of the images.
        levels: number of grey levels of the data.
        components: N.
    """

    meaning = "mixture of discretised logistics, channels coupled (PixelCNN++)"

    def __init__(self, channels: int, levels: int = 256, components: int = 10) -> None:
        super().__init__(channels, levels)
        check_positive(components=components)
        self.components = components
        self._sizes = (1, channels, channels, channels * (channels - 1) // 2)
        self.maps = components * sum(self._sizes)

    def pixel_log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """As the base class says; the channels of a pixel are one event."""
        y = (2 * x - 1).unsqueeze(-4)  # (..., 1, C, H, W)
        logits, means, log_scales, couplings = self._split(params)
        means = self._coupled(means, couplings, y)
        component = self._in_bin(y, means, log_scales).sum(-3)  # (..., N, H, W)
        weighted = component + logits.squeeze(-3).log_softmax(-3)
        return weighted.logsumexp(-3, keepdim=True)

    def mean(self, params: Tensor) -> Tensor:
        """The components' middles, weighted."""
        logits, means, _, couplings = self._split(wide(params))
        middles = means
        for _ in range(self.channels - 1):  # each pass settles one more channel
            middles = self._coupled(means, couplings, middles)
        return _from_unit((logits.softmax(-4) * middles).sum(-4))

    def start(self, pixel_means: Tensor) -> Tensor:
        """As the base class says; all components are alike."""
        y = 2 * pixel_means - 1
        logit, log_scales, couplings = (
            y.new_zeros(size, *y.shape[1:]) for size in (1, *self._sizes[2:])
        )
        return torch.cat([logit, y, log_scales, couplings]).repeat(self.components, 1, 1)

    def _split(self, params: Tensor) -> tuple[Tensor, ...]:
        """``(..., P, H, W)`` to logits, means, log-scales, couplings: ``(..., N, ·, H, W)``."""
        return params.unflatten(-3, (self.components, -1)).split(self._sizes, -3)

    def _coupled(self, means: Tensor, couplings: Tensor, y: Tensor) -> Tensor:
        """``means`` shifted by the values ``y`` of the channels before."""
        shifted, row = [means.narrow(-3, 0, 1)], 0
        for c in range(1, self.channels):
            weights = couplings.narrow(-3, row, c).tanh()
            shift = (weights * y.narrow(-3, 0, c)).sum(-3, keepdim=True)
            shifted.append(means.narrow(-3, c, 1) + shift)
            row += c
        return torch.cat(torch.broadcast_tensors(*shifted), -3)


class NormalDensity(PixelLikelihood):
    """A Gaussian with a learned variance: a *density* of x in [0, 1], not a probability.

    Its nats compare with nothing but themselves: they depend on the unit of x, and there are no
    bits per dimension. P = 2 C: first the means in [0, 1], then the logarithms of the variances.
    """

    meaning = "Gaussian density with a learned variance; no probability, no bits/dim"
    limits = (-torch.finfo(torch.float32).max, torch.finfo(torch.float32).max)

    def __init__(self, channels: int, levels: int = 256) -> None:
        super().__init__(channels, levels)
        self.levels = None

    def pixel_log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """Log-density by pixel."""
        mean, log_var = params.chunk(2, -3)
        return normal_log_prob(x, mean, log_var.clamp(*LOG_VAR_RANGE))

    def mean(self, params: Tensor) -> Tensor:
        """As the base class says."""
        return wide(params).chunk(2, -3)[0].clamp(0, 1)

    def start(self, pixel_means: Tensor) -> Tensor:
        """As the base class says, with variance 1."""
        return torch.cat([pixel_means, torch.zeros_like(pixel_means)])


LIKELIHOODS: dict[str, type[PixelLikelihood]] = {
    "bernoulli": Bernoulli,
    "logistic": DiscretisedLogistic,
    "logistic_mixture": LogisticMixture,
    "normal": NormalDensity,
}
"""Likelihoods by name; each is made from the number of channels and of grey levels."""


def bits_per_dim(nats: float, image_shape: tuple[int, ...], likelihood: PixelLikelihood) -> float:
    """−log p(x) as bits a value: ``nats / (C · H · W · ln 2)``.

    A uniform model of 256 levels has 8.000.

    Args:
        nats: −log p(x) an image, of the discrete levels.
        image_shape: C, H, W.
        likelihood: what the nats are from.

    Raises:
        UsageError: ``likelihood`` is a density.
    """
    if likelihood.levels is None:
        raise UsageError(f"bits per dimension need a probability, got a {likelihood.meaning}")
    return nats / (math.prod(image_shape) * math.log(2))


def normal_log_prob(z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """Log-density of each ``z`` under N(mu, exp(log_var)): nats, elementwise."""
    squares = (z - mu).square() * (-log_var).exp()
    return -0.5 * (squares + log_var + math.log(2 * math.pi))


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """Log-density of each ``z`` under N(0, 1): nats, elementwise."""
    return -0.5 * (z.square() + math.log(2 * math.pi))


def kl_from_standard_normal(mu: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mu, exp(log_var)) ‖ N(0, 1)) (Kingma & Welling 2014, arXiv:1312.6114, app. B).

    Returns:
        Nats, elementwise, never below zero but for rounding.
    """
    return 0.5 * (mu.square() + log_var.exp() - 1 - log_var)


def _from_unit(y: Tensor) -> Tensor:
    """From [−1, 1], beyond which a mean may lie, to [0, 1]."""
    return (0.5 * y + 0.5).clamp(0, 1)
