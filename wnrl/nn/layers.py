"""The weight-normalized layers: feed-forward, the embedding, recurrent ones and their cells."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wnrl.arguments import checked
from wnrl.errors import UsageError
from wnrl.limits import Whole
from wnrl.nn.base import WeightNormed
from wnrl.nn.functional import check_shape, fused_weight_norm, in_transform, may_fuse
from wnrl.nn.recurrence import Cell, Recurrent, States, lay_out, recurrences, run_torch, unroll


class WNLinear(WeightNormed):
    """``nn.Linear`` with w = g · v / ‖v‖, one length g for each output unit.

    Arguments are those of ``nn.Linear`` and of ``WeightNormed``.

    Attributes:
        weight_v: directions, ``(out_features, in_features)``.
        weight_g: lengths, ``(out_features, 1)``.
        bias: ``(out_features,)`` or None.
        weight: the computed weight, ``(out_features, in_features)``; assigning to it, or writing
            into it without grad, sets v and g. It is computed at each reading: keep it in a
            variable to use it twice. numpy's view of it is read-only, since what numpy writes
            cannot be noticed; write ``layer.weight = torch.from_numpy(array)`` instead.
    """

    plain_type = nn.Linear

    def forward(self, input: Tensor) -> Tensor:
        """``(..., in_features) -> (..., out_features)``."""
        weight, bias = self._weights()
        return F.linear(input, weight, bias)


class MaskedLinear(nn.Linear):
    """``nn.Linear`` whose weight is multiplied by a mask (Germain et al., 2015, arXiv:1502.03509).

    Masked weights start at zero and get no gradient, so they stay there. What is written there
    changes no output; loading a state dict and ``module.apply``, for initialisers, make it zero. An
    optimizer of ``wnrl.optim`` knows of no mask: until then it counts such numbers in the length g.

    Args:
        in_features: as for ``nn.Linear``.
        out_features: as for ``nn.Linear``.
        mask: ones where an input reaches an output, else zeros, ``(out_features, in_features)``.
        bias: as for ``nn.Linear``.
        device: as for ``nn.Linear``.
        dtype: as for ``nn.Linear``.

    Attributes:
        mask: as given; a buffer.

    Raises:
        UsageError: a mask of another shape, or of other values than zero and one.
    """

    own_buffers = ("mask",)
    mask: Tensor

    def __init__(
        self,
        in_features: Whole,
        out_features: Whole,
        mask: Tensor,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        check_shape("mask", mask, self.weight.shape)
        if not (mask.is_meta or ((mask == 0) | (mask == 1)).all()):
            raise UsageError("mask must be of zeros and ones, got other values")
        self.register_buffer("mask", mask.to(self.weight, copy=True))
        self.mask_weight()

    def reset_parameters(self) -> None:
        """Draws the parameters anew, as the constructor does."""
        super().reset_parameters()
        if "mask" in self._buffers:  # not yet, when nn.Linear's constructor calls this
            self.mask_weight()

    @torch.no_grad()
    def mask_weight(self) -> None:
        """Makes masked weights zero."""
        self.weight.mul_(self.mask)

    def apply(self, fn: Callable[[nn.Module], Any]) -> Self:
        """As every module's, with the mask over what ``fn`` writes."""
        super().apply(fn)
        self.mask_weight()
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.mask_weight()

    def forward(self, input: Tensor) -> Tensor:
        """``(..., in_features) -> (..., out_features)``."""
        return F.linear(input, self.weight * self.mask, self.bias)


class WNMaskedLinear(WNLinear):
    """``MaskedLinear`` with w = g · (m ⊙ v) / ‖m ⊙ v‖: the mask comes before the norm.

    A row whose inputs are all masked is zero whatever its v is: g starts at 0, and neither gets a
    gradient. Arguments are those of ``MaskedLinear`` and of ``WeightNormed``.
    """

    plain_type = MaskedLinear  # type: ignore[assignment]  # mypy compares the constructors
    own_buffers = ("mask",)
    fused = False  # m ⊙ v is no parameter

    def _split(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        v, g = super()._split(name, weight * self.mask.to(weight))
        return self._visible(v), g

    def _visible(self, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return ``m ⊙ v``, but for rows without inputs, which keep a direction as all rows do."""
        mask = self.mask if mask is None or mask.shape != v.shape else mask
        if mask.is_meta or v.is_meta:
            return v
        mask = mask.to(v)
        return torch.where(mask.any(1, keepdim=True), v * mask, v)

    def compute_weight(self, name: str = "weight") -> Tensor:
        """Return the weight, computed now, with its graph where grad is on."""
        v, g = self._parameter(f"{name}_v"), self._parameter(f"{name}_g")
        return self._normalized(v * self.mask, g)


class WNConvolution(WeightNormed):
    """What the convolutions share; ``WNConv1d``, ``WNConv2d`` and ``WNConv3d`` are the layers.

    Arguments are those of torch's layer and of ``WeightNormed``.

    Attributes:
        weight_v: directions, ``(out_channels, in_channels / groups, *kernel_size)``.
        weight_g: lengths, ``(out_channels, 1, 1, ...)``.
        bias: ``(out_channels,)`` or None.
        weight: the computed weight, shaped like ``weight_v``.
    """

    def forward(self, input: Tensor) -> Tensor:
        """As torch's layer: ``(N, C, *spatial)`` or ``(C, *spatial)``."""
        plain: Any = self.plain_type
        return plain._conv_forward(self, input, *self._weights())


class WNConv1d(WNConvolution):
    """``nn.Conv1d`` with w = g · v / ‖v‖, one length g for each output channel."""

    plain_type = nn.Conv1d


class WNConv2d(WNConvolution):
    """``nn.Conv2d`` with w = g · v / ‖v‖, one length g for each output channel."""

    plain_type = nn.Conv2d


class WNConv3d(WNConvolution):
    """``nn.Conv3d`` with w = g · v / ‖v‖, one length g for each output channel."""

    plain_type = nn.Conv3d


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
        weight: the computed weight, shaped like ``weight_v``.
    """

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """As torch's layer.

        Args:
            input: ``(N, C, *spatial)`` or ``(C, *spatial)``.
            output_size: spatial shape of the output, where the stride leaves a choice; may have
                the leading axes of the output too.

        Raises:
            UsageError: no padding gives ``output_size``.
        """
        weight, bias = self._weights()
        convolve: Any = getattr(F, f"conv_transpose{len(self.kernel_size)}d")
        extra = self.output_padding
        if output_size is not None:
            sizes = (self.stride, self.padding, self.kernel_size, len(self.kernel_size))
            find: Any = nn.ConvTranspose1d._output_padding
            try:
                extra = find(self, input, output_size, *sizes, self.dilation)
            except ValueError as error:
                raise UsageError(f"output_size: {error}") from error
        settings = (self.stride, self.padding, extra, self.groups, self.dilation)
        return convolve(input, weight, bias, *settings)


class WNConvTranspose1d(WNConvTransposed):
    """``nn.ConvTranspose1d`` with w = g · v / ‖v‖, one length g for each output channel."""

    plain_type = nn.ConvTranspose1d


class WNConvTranspose2d(WNConvTransposed):
    """``nn.ConvTranspose2d`` with w = g · v / ‖v‖, one length g for each output channel."""

    plain_type = nn.ConvTranspose2d


class WNConvTranspose3d(WNConvTransposed):
    """``nn.ConvTranspose3d`` with w = g · v / ‖v‖, one length g for each output channel."""

    plain_type = nn.ConvTranspose3d


class WNEmbedding(WeightNormed):
    """``nn.Embedding`` with w = g · v / ‖v‖, one length g for each row.

    Arguments are those of ``nn.Embedding`` and of ``WeightNormed``. The row of ``padding_idx`` is
    zero, so it starts as g = 0 and, getting no gradient, stays there.

    Attributes:
        weight_v: directions, ``(num_embeddings, embedding_dim)``.
        weight_g: lengths, ``(num_embeddings, 1)``.
        weight: the computed weight, ``(num_embeddings, embedding_dim)``.

    Raises:
        UsageError: ``max_norm``, which writes into the weight, or ``sparse``, whose gradients do
            not go through a norm.
    """

    plain_type = nn.Embedding

    def _adopt(self, **options: Any) -> None:
        super()._adopt(**options)
        if self.max_norm is not None:
            raise UsageError(
                f"max_norm must be None, got {self.max_norm}: it would write into a computed "
                "weight; the length of a row is its weight_g"
            )
        if self.sparse:
            raise UsageError("sparse must be False: a sparse gradient does not go through a norm")

    def forward(self, input: Tensor) -> Tensor:
        """Indices ``(*)`` to rows of the computed weight, ``(*, embedding_dim)``."""
        is_traced = not isinstance(input, Tensor)
        if self._cache is None and not is_traced and 0 < input.numel() < self.num_embeddings:
            # Fewer rows than the table has: normalise those alone.
            rows = self._look_up(input, self.weight_v).reshape(-1, self.embedding_dim)
            lengths = self._look_up(input, self.weight_g).reshape(-1, 1)
            if type(self.weight_v) is nn.Parameter and may_fuse(rows, lengths, 0, self.eps):
                weight = fused_weight_norm(rows, self.length(lengths))
            else:
                weight = self._normalized(rows, lengths)
            return weight.reshape(*input.shape, self.embedding_dim)
        (weight,) = self._weights()
        return self._look_up(input, weight)

    def _look_up(self, input: Tensor, table: Tensor) -> Tensor:
        return F.embedding(
            input, table, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq
        )


class WNRecurrent(Recurrent, WeightNormed):
    """What ``WNLSTM`` and ``WNGRU`` share.

    Arguments are those of torch's layer and of ``WeightNormed``, and

    Args:
        backend: ``"torch"`` calls torch's recurrence (cuDNN on a GPU). ``"python"`` loops over
            time, which is slower in eager mode and is what torch.compile can take with grad.

    Attributes:
        weight_ih_l0_v: directions, ``(gates x hidden_size, input_size)``; so on for
            ``weight_hh_l0`` (``weight_hr_l0`` with a projection), further layers and ``_reverse``.
        weight_ih_l0_g: lengths, one for each unit of each gate, ``(gates x hidden_size, 1)``.
        bias_ih_l0: ``(gates x hidden_size,)``, as in torch.
        weight_ih_l0: the computed weight, to read, assign or initialise.
    """

    @checked
    def _adopt(self, *, backend: Literal["torch", "python"] = "torch", **options: Any) -> None:
        self.backend = backend
        super()._adopt(**options)

    def _compute(self) -> tuple[Tensor, ...]:
        weights: Any = super()._compute()
        return lay_out(self, weights) if self.backend == "torch" else weights

    def _recur(self, data: Tensor, states: States, sizes: Tensor | None) -> tuple[Tensor, States]:
        weights = self._weights()
        if self.backend == "torch" and not in_transform():  # torch's recurrence has no vmap
            return run_torch(self, weights, data, states, sizes)
        rows = recurrences(self.mode, weights, self.bias, self.proj_size > 0)
        return unroll(self, rows, data, states, sizes)

    def flatten_parameters(self) -> None:
        """Does nothing: computed weights are laid out for cuDNN when they are computed."""


class WNLSTM(WNRecurrent):
    """``nn.LSTM`` with w = g · v / ‖v‖ for its input, recurrent and projection weights."""

    plain_type = nn.LSTM


class WNGRU(WNRecurrent):
    """``nn.GRU`` with w = g · v / ‖v‖ for its input and recurrent weights."""

    plain_type = nn.GRU


class WNCell(Cell, WeightNormed):
    """What ``WNLSTMCell`` and ``WNGRUCell`` share.

    Arguments are those of torch's cell and of ``WeightNormed``. A loop over a cell computes the
    weights at every step, unless it runs inside ``wnrl.shared_weights`` (or, without grad,
    ``wnrl.frozen``).

    Attributes:
        weight_ih_v: directions, ``(gates x hidden_size, input_size)``; likewise ``weight_hh_v``.
        weight_ih_g: lengths, ``(gates x hidden_size, 1)``; likewise ``weight_hh_g``.
        bias_ih: ``(gates x hidden_size,)`` or None; likewise ``bias_hh``.
        weight_ih: the computed weight; likewise ``weight_hh``.
    """

    def _step(self, x: Tensor, states: States) -> States:
        weights: Any = self._weights()
        if in_transform():  # torch's cells have no vmap
            return recurrences(self.mode, weights, True, False)[0].once(x, states)
        if self.mode == "LSTM":
            return torch.lstm_cell(x, states, *weights)
        return (torch.gru_cell(x, *states, *weights),)


class WNLSTMCell(WNCell):
    """``nn.LSTMCell`` with w = g · v / ‖v‖ for both weights."""

    plain_type = nn.LSTMCell


class WNGRUCell(WNCell):
    """``nn.GRUCell`` with w = g · v / ‖v‖ for both weights."""

    plain_type = nn.GRUCell
    mode = "GRU"


FAMILIES = (WNConvolution, WNConvTransposed, WNRecurrent, WNCell)
WEIGHT_NORMED: dict[type[nn.Module], type[WeightNormed]] = {
    layer.plain_type: layer
    for layer in (
        WNLinear,
        WNMaskedLinear,
        WNEmbedding,
        *(kind for family in FAMILIES for kind in family.__subclasses__()),
    )
}
"""From torch's layers to those that take their place."""
