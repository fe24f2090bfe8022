"""Grey levels and colour: logistics in bins, and their mixture over coupled channels."""

import torch
from torch import Tensor
from torch.nn import functional as F

from wnrl.errors import check_positive
from wnrl.vae.pixels import PixelLikelihood, wide

LOG_SCALE_RANGE = (-7.0, 7.0)
"""Of a logistic, whose unit is half the range of grey levels: a deviation of 0.2 levels in 256 at
the least, and no overflow."""


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


def _from_unit(y: Tensor) -> Tensor:
    """From [−1, 1], beyond which a mean may lie, to [0, 1]."""
    return (0.5 * y + 0.5).clamp(0, 1)
