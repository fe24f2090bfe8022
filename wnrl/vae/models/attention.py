"""Where DRAW looks and writes: a grid of Gaussian filters (Gregor et al., 2015, section 3.2)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wnrl.nn.functional import wide
from wnrl.vae.model import ImageShape


class Window(NamedTuple):
    """An N × N grid of filters over an image, for each of R rows."""

    vertical: Tensor
    """``(R, N, H)``; each filter sums to one."""
    horizontal: Tensor
    """``(R, N, W)``; each filter sums to one."""
    gain: Tensor
    """The intensity γ, ``(R, 1)``."""

    @classmethod
    def place(cls, where: Tensor, n: int, height: int, width: int) -> "Window":
        """Return the window that five numbers describe (arXiv:1502.04623, eq. 19 to 26).

        Args:
            where: vertical and horizontal centre (±1 is just outside), the logarithms of the
                filters' variance, of their stride (1 spreads them over the image) and of γ,
                ``(R, 5)``.
            n: N, above 1.
            height: H.
            width: W.
        """
        g_y, g_x, log_var, log_stride, log_gain = wide(where).unsqueeze(-1).unbind(1)  # (R, 1)
        stride = (max(height, width) - 1) / (n - 1) * log_stride.exp()
        offsets = torch.arange(n, device=where.device) - (n - 1) / 2

        def filters(centre: Tensor, size: int) -> Tensor:
            middle = 0.5 * (size + 1) * (centre + 1) - 1  # pixels count from 0 here, there from 1
            means = (middle + offsets * stride).unsqueeze(-1)  # (R, N, 1)
            squares = (torch.arange(size, device=where.device) - means).square()
            # A softmax is the Gaussian over its sum, also for a window far outside the image.
            return (-0.5 * squares * (-log_var).exp().unsqueeze(-1)).softmax(-1)

        return cls(filters(g_y, height), filters(g_x, width), log_gain.exp())

    def read(self, images: Tensor) -> Tensor:
        """Return the filters' view of ``(R, C, H, W)``: ``(R, C, N, N)``, without γ."""
        across = images @ self.horizontal.mT.unsqueeze(1)
        return self.vertical.unsqueeze(1) @ across

    def write(self, patches: Tensor) -> Tensor:
        """Spread patches ``(R, C, N, N)`` over the image: ``(R, C, H, W)``, without γ."""
        across = patches @ self.horizontal.unsqueeze(1)
        return self.vertical.mT.unsqueeze(1) @ across


def window_head(hidden_size: int, n: int, height: int, width: int) -> nn.Linear:
    """Return the layer that places a window; its bias spreads N × N filters evenly over the image.

    Filters stand in the middles of N equal parts of the longer side, half a part wide. With biases
    of zero, a window of 2 × 2 has narrow filters on the corners of the image: where those are
    empty, as in MNIST, nothing is read, and no gradient says where to look.
    """
    head = nn.Linear(hidden_size, 5)
    side = max(height, width)
    with torch.no_grad():
        head.bias.zero_()
        head.bias[2] = 2 * math.log(side / n / 2)
        head.bias[3] = math.log(side / n * (n - 1) / (side - 1))
    return head


class Read(nn.Module):
    """Reads image and error where the decoder's state says (eq. 27), or all of them (eq. 17).

    Args:
        image_shape: C, H, W.
        hidden_size: of the decoder's state.
        n: N, of N × N filters; None reads everything.
    """

    def __init__(self, image_shape: ImageShape, hidden_size: int, n: int | None) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.n, self.n_features = n, 2 * channels * (n * n if n else height * width)
        if n:
            self.where = window_head(hidden_size, n, height, width)

    def forward(self, x: Tensor, error: Tensor, h: Tensor) -> Tensor:
        """Read image and error, where the decoder's state ``(R, H)`` says, as rows of values."""
        both = torch.cat([x, error], 1)
        if not self.n:
            return both.flatten(1)
        window = Window.place(self.where(h), self.n, *x.shape[2:])
        return window.gain * window.read(both).flatten(1)


class Write(nn.Module):
    """Writes an N × N patch where the decoder's state says (eq. 28 and 29), or all (eq. 18).

    Args:
        params_shape: P, H, W.
        hidden_size: of the decoder's state.
        n: N; None writes an increment for every parameter of every pixel.
    """

    def __init__(self, params_shape: ImageShape, hidden_size: int, n: int | None) -> None:
        super().__init__()
        maps, height, width = params_shape
        self.n, self.params_shape = n, params_shape
        if n:
            self.where = window_head(hidden_size, n, height, width)
        self.what = nn.Linear(hidden_size, maps * (n * n if n else height * width))

    def forward(self, h: Tensor) -> Tensor:
        """Map the decoder's state ``(R, H)`` to an increment ``(R, P, H, W)``."""
        maps, height, width = self.params_shape
        if not self.n:
            return self.what(h).reshape(-1, maps, height, width)
        window = Window.place(self.where(h), self.n, height, width)
        patches = wide(self.what(h)).reshape(-1, maps, self.n, self.n)
        return window.write(patches) / window.gain[:, :, None, None]
