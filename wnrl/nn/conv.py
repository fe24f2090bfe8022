"""Weight-normalized convolutions and transposed convolutions."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from wnrl.errors import UsageError
from wnrl.nn.base import WeightNormed
from wnrl.nn.effective import effective_weight

_ARGUMENTS = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "bias",
    "padding_mode",
)


class WNConvolution(WeightNormed):
    """What the convolutions share; ``WNConv1d``, ``WNConv2d`` and ``WNConv3d`` are the layers.

    Arguments are those of torch's layer and of ``WeightNormed``.

    Attributes:
        weight_v: directions, ``(out_channels, in_channels / groups, *kernel_size)``.
        weight_g: lengths, ``(out_channels, 1, 1, ...)``.
        bias: ``(out_channels,)`` or None.
        weight: the effective weight, shaped like ``weight_v``.
    """

    arguments: ClassVar[tuple[str, ...]] = _ARGUMENTS
    convolve: ClassVar[Callable[..., Tensor]]
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str
    weight_g: nn.Parameter
    weight_v: nn.Parameter
    bias: nn.Parameter | None
    weight = effective_weight()

    def forward(self, input: Tensor) -> Tensor:
        """As torch's layer: ``(N, C, *spatial)`` or ``(C, *spatial)``."""
        weight, bias = self._weights()
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._margins(), mode=self.padding_mode), 0
        return self.convolve(input, weight, bias, self.stride, padding, self.dilation, self.groups)

    def _margins(self) -> list[int]:
        """The padding as ``F.pad`` wants it: last axis first, both sides of each."""
        margins: list[int] = []
        for axis in reversed(range(len(self.kernel_size))):
            if self.padding == "same":
                total = self.dilation[axis] * (self.kernel_size[axis] - 1)
                margins += (total // 2, total - total // 2)
            else:
                width = 0 if self.padding == "valid" else self.padding[axis]
                margins += (int(width), int(width))
        return margins


class WNConv1d(WNConvolution):
    """``nn.Conv1d`` with w = g · v / ‖v‖, one length g for each output channel."""

    plain_type = nn.Conv1d
    convolve = staticmethod(F.conv1d)


class WNConv2d(WNConvolution):
    """``nn.Conv2d`` with w = g · v / ‖v‖, one length g for each output channel."""

    plain_type = nn.Conv2d
    convolve = staticmethod(F.conv2d)


class WNConv3d(WNConvolution):
    """``nn.Conv3d`` with w = g · v / ‖v‖, one length g for each output channel."""

    plain_type = nn.Conv3d
    convolve = staticmethod(F.conv3d)


class WNConvTransposed(WeightNormed):
    """What the transposed convolutions share; ``WNConvTranspose1d`` to ``3d`` are the layers.

    A transposed convolution stores its output channels in axis 1 of the weight, those of each
    group apart. The length belongs to the *output* channel here, as in every other layer, whereas
    torch's own weight norm takes axis 0, the input channels, unless told otherwise.

    Arguments are those of torch's layer and of ``WeightNormed``.

    Attributes:
        weight_v: directions, ``(in_channels, out_channels / groups, *kernel_size)``.
        weight_g: lengths, ``(groups, out_channels / groups, 1, ...)``; with one group that is
            what torch's weight norm has with ``dim=1``. Its elements, in order, belong to the
            output channels, in order.
        bias: ``(out_channels,)`` or None.
        weight: the effective weight, shaped like ``weight_v``.
    """

    arguments: ClassVar[tuple[str, ...]] = (*_ARGUMENTS, "output_padding")
    output_dim: ClassVar[int] = 1
    convolve: ClassVar[Callable[..., Tensor]]
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str
    weight_g: nn.Parameter
    weight_v: nn.Parameter
    bias: nn.Parameter | None
    weight = effective_weight()

    def _configure(self, plain: nn.Module, *options: Any) -> None:
        super()._configure(plain, *options)
        self.weight_groups = self.groups

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """As torch's layer.

        Args:
            input: ``(N, C, *spatial)`` or ``(C, *spatial)``.
            output_size: spatial shape of the output, where the stride leaves a choice; may have
                the leading axes of the output too.
        """
        weight, bias = self._weights()
        extra = self.output_padding if output_size is None else self._extra(input, output_size)
        return self.convolve(
            input, weight, bias, self.stride, self.padding, extra, self.groups, self.dilation
        )

    def _extra(self, input: Tensor, output_size: Sequence[int]) -> list[int]:
        """The output padding that gives ``output_size``."""
        n = len(self.kernel_size)
        wanted, extra = list(output_size)[-n:], []
        for axis, size in enumerate(input.shape[-n:]):
            smallest = (
                (size - 1) * self.stride[axis]
                - 2 * self.padding[axis]
                + self.dilation[axis] * (self.kernel_size[axis] - 1)
                + 1
            )
            largest = smallest + self.stride[axis] - 1
            if len(wanted) != n or not smallest <= wanted[axis] <= largest:
                raise UsageError(
                    f"output_size must lie between {smallest} and {largest} in spatial axis "
                    f"{axis}, got {tuple(output_size)}"
                )
            extra.append(wanted[axis] - smallest)
        return extra


class WNConvTranspose1d(WNConvTransposed):
    """``nn.ConvTranspose1d`` with w = g · v / ‖v‖, one length g for each output channel."""

    plain_type = nn.ConvTranspose1d
    convolve = staticmethod(F.conv_transpose1d)


class WNConvTranspose2d(WNConvTransposed):
    """``nn.ConvTranspose2d`` with w = g · v / ‖v‖, one length g for each output channel."""

    plain_type = nn.ConvTranspose2d
    convolve = staticmethod(F.conv_transpose2d)


class WNConvTranspose3d(WNConvTransposed):
    """``nn.ConvTranspose3d`` with w = g · v / ‖v‖, one length g for each output channel."""

    plain_type = nn.ConvTranspose3d
    convolve = staticmethod(F.conv_transpose3d)
