"""Likelihoods p(x | z) of images by name, and their units.

``wnrl.vae.pixels`` says what they have in common.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from wnrl.arguments import checked
from wnrl.errors import UsageError
from wnrl.limits import Whole
from wnrl.nn.functional import wide
from wnrl.vae.pixels import PixelLikelihood, can_look
from wnrl.vae.posteriors import normal_log_prob

LOG_SCALE_RANGE = (-7.0, 7.0)
"""Of a logistic, whose unit is half the range of grey levels: a deviation of 0.2 levels in 256 at
the least, and no overflow."""
LOG_VAR_RANGE = (-10.0, 10.0)
"""Of the Gaussian density, which has no upper bound where the variance has no lower one."""


class Bernoulli(PixelLikelihood):
    """Binary images; P = C logits (log p / (1 − p)).

    Grey levels under a Bernoulli are no likelihood: binarise them first, whatever their number. On
    a CPU, where values can be looked at, ``log_prob`` refuses them.
    """

    meaning = "Bernoulli, from logits"

    def __init__(self, channels: int, levels: int = 2) -> None:
        super().__init__(channels, levels)
        self.levels, self.maps = 2, channels

    def pixel_log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """Do as the base class says."""
        if can_look(x) and not torch.equal(x, x.square()):
            raise UsageError("x must be zeros and ones for a Bernoulli: binarise the grey levels")
        return x * params - F.softplus(params)

    def mean(self, params: Tensor) -> Tensor:
        """Do as the base class says."""
        return wide(params).sigmoid()

    def start(self, pixel_means: Tensor) -> Tensor:
        """Return logits of the means, clipped to [.001, .999] (Burda et al., 2016)."""
        return pixel_means.clamp(0.001, 0.999).logit()


class DiscretisedLogistic(PixelLikelihood):
    """Grey levels, each channel a logistic in bins (Kingma et al., 2016, arXiv:1606.04934).

    P = 2 C: first the means, where −1 is black and 1 is white, then the logarithms of the scales.
    The lowest and the highest level have all that lies beyond them, so that the levels sum to 1.
    """

    meaning = "logistic, discretised to the grey levels"

    def pixel_log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """Do as the base class says."""
        mean, log_scale = params.chunk(2, -3)
        return self._in_bin(2 * x - 1, mean, log_scale)

    def mean(self, params: Tensor) -> Tensor:
        """Return the middle of the logistic."""
        return _from_unit(wide(params).chunk(2, -3)[0])

    def _in_bin(self, y: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        """Return the log-probability of the bin around ``y``, a level in [−1, 1]; elementwise."""
        assert self.levels is not None
        half = 1 / (self.levels - 1)
        rate = (-log_scale.clamp(*LOG_SCALE_RANGE)).exp()
        # σ(b) − σ(a) = σ(b) σ(−a) (1 − exp(a − b)), and nothing in it cancels.
        below_top = F.logsigmoid((y + half - mean) * rate)
        above_bottom = F.logsigmoid((mean - y + half) * rate)
        inside = below_top + above_bottom + (-torch.expm1(-2 * half * rate)).log()
        ends = torch.where(y < 0, below_top, above_bottom)
        return torch.where(y.abs() > 1 - half, ends, inside)


@checked
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

    def __init__(self, channels: Whole, levels: int = 256, components: Whole = 10) -> None:
        super().__init__(channels, levels)
        self.components = components
        self._sizes = (1, channels, channels, channels * (channels - 1) // 2)
        self.maps = components * sum(self._sizes)

    def pixel_log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """Do as the base class says; the channels of a pixel are one event."""
        y = (2 * x - 1).unsqueeze(-4)  # (..., 1, C, H, W)
        logits, means, log_scales, couplings = self._split(params)
        means = self._coupled(means, couplings, y)
        component = self._in_bin(y, means, log_scales).sum(-3)  # (..., N, H, W)
        weighted = component + logits.squeeze(-3).log_softmax(-3)
        return weighted.logsumexp(-3, keepdim=True)

    def mean(self, params: Tensor) -> Tensor:
        """Return the components' middles, weighted."""
        logits, means, _, couplings = self._split(wide(params))
        middles = means
        for _ in range(self.channels - 1):  # each pass settles one more channel
            middles = self._coupled(means, couplings, middles)
        return _from_unit((logits.softmax(-4) * middles).sum(-4))

    def start(self, pixel_means: Tensor) -> Tensor:
        """Do as the base class says; all components are alike."""
        component = pixel_means.new_zeros(sum(self._sizes), *pixel_means.shape[1:])
        component[1 : 1 + self.channels] = 2 * pixel_means - 1
        return component.repeat(self.components, 1, 1)

    def _split(self, params: Tensor) -> tuple[Tensor, ...]:
        """Split P into logits, means, log-scales and couplings, ``(..., N, ·, H, W)`` each."""
        return params.unflatten(-3, (self.components, -1)).split(self._sizes, -3)

    def _coupled(self, means: Tensor, couplings: Tensor, y: Tensor) -> Tensor:
        """Return ``means`` shifted by the values ``y`` of the channels before."""
        shifted, row = [means.narrow(-3, 0, 1)], 0
        for c in range(1, self.channels):
            weights = couplings.narrow(-3, row, c).tanh()
            shift = (weights * y.narrow(-3, 0, c)).sum(-3, keepdim=True)
            shifted.append(means.narrow(-3, c, 1) + shift)
            row += c
        return torch.cat(torch.broadcast_tensors(*shifted), -3)


def _from_unit(y: Tensor) -> Tensor:
    """Map [−1, 1], beyond which a mean may lie, to [0, 1]."""
    return (0.5 * y + 0.5).clamp(0, 1)


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
        """Return the log-density by pixel."""
        mean, log_var = params.chunk(2, -3)
        return normal_log_prob(x, mean, log_var.clamp(*LOG_VAR_RANGE))

    def mean(self, params: Tensor) -> Tensor:
        """Do as the base class says."""
        return wide(params).chunk(2, -3)[0].clamp(0, 1)

    def start(self, pixel_means: Tensor) -> Tensor:
        """Do as the base class says, with variance 1."""
        return torch.cat([pixel_means, torch.zeros_like(pixel_means)])


LIKELIHOODS: dict[str, type[PixelLikelihood]] = {
    "bernoulli": Bernoulli,
    "logistic": DiscretisedLogistic,
    "logistic_mixture": LogisticMixture,
    "normal": NormalDensity,
}
"""Likelihoods by name; each is made from the number of channels and of grey levels."""


def bits_per_dim(nats: float, image_shape: tuple[int, ...], likelihood: PixelLikelihood) -> float:
    """Return −log p(x) as bits a value: ``nats / (C · H · W · ln 2)``.

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
