"""Spectral normalization (Miyato et al. 2018, arXiv:1802.05957), copyable and picklable.

torch's parametrized modules cannot be pickled, and stable-baselines3 does not copy their singular
vectors to target networks. Here a layer is a plain subclass that keeps its raw ``weight`` and one
vector for each normalised weight, in a float buffer named ``running_u_*``.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wnrl.errors import UsageError
from wnrl.nn.base import Counterpart
from wnrl.nn.functional import check_real, hold, in_backward, is_traced, transposed_groups, wide
from wnrl.nn.layers import WNConvolution, WNConvTransposed, WNLinear
from wnrl.nn.recurrence import Recurrent, States, lay_out, run_torch


@torch.no_grad()
def power_iteration(weight: Tensor, u: Tensor, dim: int = 0) -> Tensor:
    """One step of ``u`` towards the first left singular vector of ``weight``."""
    matrix = _matrix(_scaled(weight), dim)
    new = matrix @ (matrix.T @ u.to(matrix.dtype))
    size = torch.linalg.vector_norm(new)
    new = torch.where(size > 0, (new / size).to(u.dtype), u)  # zeros and NaN have no direction
    return hold(new) if torch.compiler.is_compiling() else new


@torch.no_grad()
def nearer_vector(weight: Tensor, u: Tensor, other: Tensor, dim: int = 0) -> Tensor:
    """Of two vectors of length one that with the larger ``‖Wᵀu‖``, which is never above σ(W)."""
    matrix = _matrix(_scaled(weight), dim)
    lengths = torch.linalg.vector_norm(torch.stack([u, other]).to(matrix.dtype) @ matrix, dim=1)
    return torch.where(lengths[0] >= lengths[1], u, other)


def _scaled(weight: Tensor) -> Tensor:
    """``weight`` in float32 or wider over its largest entry, a constant.

    Squares of what is tiny or huge would be zero or infinite. A number that is not normal has no
    reciprocal, by which torch divides: it counts as the smallest that is.
    """
    check_real(weight)
    weight = wide(weight)
    size = torch.linalg.vector_norm(weight.detach(), math.inf)
    size = size.clamp_min(torch.finfo(size.dtype).tiny)
    return weight / size


def _matrix(weight: Tensor, dim: int) -> Tensor:
    return weight.movedim(dim, 0).flatten(1)


class _SameVector(torch.autograd.Function):
    """Return a weight as it is; in the backward, check that it was computed anew with the same u.

    Activation checkpointing replaces what is saved for the backward, and no attribute.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, u: Tensor) -> Tensor:
        ctx.u = u
        ctx.save_for_backward(u)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, by_weight: Tensor) -> tuple[Tensor, None]:
        """Pass the gradient on; raise UsageError for another u."""
        (u,) = ctx.saved_tensors
        if u is not ctx.u and not torch.equal(u, ctx.u):
            raise UsageError(
                "activation checkpointing computes anew what a spectral layer did before its "
                "latest forward, by a vector u that has moved: leave it out of that part"
            )
        return by_weight, None

    @staticmethod
    def jvp(_: Any, by_weight: Tensor, __: Any) -> Tensor:
        """Pass the derivative on."""
        return by_weight.view_as(by_weight)


class Spectral(Counterpart):
    """What the spectral layers share: the vectors u, and w = W/‖Wᵀu‖."""

    computed = ("weight",)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        plain = cls.__bases__[-1]
        if issubclass(plain, nn.Module) and not issubclass(plain, Spectral):
            cls.plain_type = plain
        super().__init_subclass__(**kwargs)

    @property
    def own_buffers(self) -> list[str]:  # type: ignore[override]
        """Return the names of the buffers that hold the vectors u."""
        return [f"running_u_{name}" for name in self.computed]

    @property
    def rows_dim(self) -> int:
        """Return the axis of weights along which their output units run."""
        return min(1, transposed_groups(self))

    def _adopt(self) -> None:
        if isinstance(self, nn.RNNBase):
            self._init_flat_weights()
        self.find_vectors()

    def reset_parameters(self) -> None:
        """Draws the parameters anew, as the constructor does."""
        super().reset_parameters()  # type: ignore[misc]
        self.find_vectors()

    def find_vectors(self) -> None:
        """Sets the vectors u to those of the weights, exactly; for weights that were set anew.

        Raises:
            UsageError: a weight has no values, is not finite, or is all zeros, for which W/σ(W) is
                not defined.
        """
        for name in self.computed:
            weight = getattr(self, name).detach()
            if weight.is_meta:
                raise UsageError(f"spectral norm needs the values of {name}, got the device meta")
            if not (weight.any() and weight.isfinite().all()):
                wrong = "numbers that are not finite" if weight.any() else "zeros alone"
                raise UsageError(
                    f"spectral norm needs finite weights that are not zero, got {name} of {wrong}"
                )
            matrix = _matrix(_scaled(weight), self.rows_dim).double()
            tall = len(matrix) > matrix.shape[1]
            narrow = matrix.T if tall else matrix
            u = torch.linalg.eigh(narrow @ narrow.T).eigenvectors[:, -1]
            u = F.normalize(matrix @ u, dim=0) if tall else u
            buffer = self._buffers.get(f"running_u_{name}")
            if buffer is not None and buffer.shape == u.shape:
                buffer.copy_(u)  # which others may hold: stable-baselines3 for its targets
            else:
                self.register_buffer(f"running_u_{name}", u.to(weight.dtype))

    def vector(self, name: str = "weight") -> Tensor:
        """The vector u of the weight ``name``."""
        return self.get_buffer(f"running_u_{name}")

    def compute_weight(self, name: str = "weight", learning: bool = False) -> Tensor:
        """Return W/σ(W) for the weight ``name``.

        The gradient of σ is ``u vᵀ`` with ``v = Wᵀu/‖Wᵀu‖``. Where the layer is ``learning`` and in
        training, u takes a step first; not where activation checkpointing computes anew: there u is
        that of the latest forward, and the backward of an earlier one raises UsageError.
        """
        weight, buffer = getattr(self, name), self.vector(name)
        with torch.autocast(weight.device.type, enabled=False):
            if learning and self.training and not in_backward():
                u = power_iteration(weight, buffer, self.rows_dim)
                with torch.no_grad():
                    buffer.copy_(u)
            else:
                u = buffer.clone()  # in the graph, where later writes do not reach it
            scaled = _scaled(weight)
            back = _matrix(scaled, self.rows_dim).T @ u.to(scaled.dtype)
            w = (scaled / torch.linalg.vector_norm(back)).to(weight.dtype)
        if (
            learning
            and not is_traced()
            and torch._C._autograd._top_saved_tensors_default_hooks(False)
        ):
            w.requires_grad_()  # that of a frozen weight too, to come by here
            return _SameVector.apply(w, u)  # type: ignore[no-untyped-call]
        return w

    def _weights(self) -> tuple[Any, ...]:
        """Return what a forward computes with, ordered as the plain layer's parameters."""
        names = getattr(self, "_flat_weights_names", ("weight", "bias"))
        return tuple(
            self.compute_weight(name, learning=True)
            if name in self.computed
            else getattr(self, name)
            for name in names
        )

    def to_plain(self) -> nn.Module:
        """The plain layer with the same function in evaluation, and parameters of its own."""
        return self._as_plain()


class SpectralLinear(Spectral, nn.Linear):
    """``nn.Linear`` with w = W/σ(W)."""

    forward = WNLinear.forward


class _SpectralConvolution(Spectral):
    forward = WNConvolution.forward


class SpectralConv1d(_SpectralConvolution, nn.Conv1d):
    """``nn.Conv1d`` with w = W/σ(W), W flattened to (out_channels, rest)."""


class SpectralConv2d(_SpectralConvolution, nn.Conv2d):
    """``nn.Conv2d`` with w = W/σ(W), W flattened to (out_channels, rest)."""


class SpectralConv3d(_SpectralConvolution, nn.Conv3d):
    """``nn.Conv3d`` with w = W/σ(W), W flattened to (out_channels, rest)."""


class _SpectralTransposed(Spectral):
    forward = WNConvTransposed.forward


class SpectralConvTranspose1d(_SpectralTransposed, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` with w = W/σ(W), W flattened to (out_channels / groups, rest)."""


class SpectralConvTranspose2d(_SpectralTransposed, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` with w = W/σ(W), W flattened to (out_channels / groups, rest)."""


class SpectralConvTranspose3d(_SpectralTransposed, nn.ConvTranspose3d):
    """``nn.ConvTranspose3d`` with w = W/σ(W), W flattened to (out_channels / groups, rest)."""


class _SpectralRecurrent(Recurrent, Spectral):
    """The hidden-to-hidden matrices are normalised, each with its gates as one matrix."""

    _flat_weights_names: list[str]

    @property
    def computed(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the names of the weights that are normalised."""
        return tuple(name for name in self._flat_weights_names if name.startswith("weight_hh"))

    def _recur(self, data: Tensor, states: States, sizes: Tensor | None) -> tuple[Tensor, States]:
        return run_torch(self, lay_out(self, self._weights()), data, states, sizes)


class SpectralLSTM(_SpectralRecurrent, nn.LSTM):
    """``nn.LSTM`` whose recurrent weights have spectral norm one."""


class SpectralGRU(_SpectralRecurrent, nn.GRU):
    """``nn.GRU`` whose recurrent weights have spectral norm one."""


SPECTRAL: dict[type[nn.Module], type[Spectral]] = {
    layer.plain_type: layer
    for family in (Spectral, _SpectralConvolution, _SpectralTransposed, _SpectralRecurrent)
    for layer in family.__subclasses__()
    if "plain_type" in vars(layer)
}


@torch.no_grad()
def step_vectors(module: nn.Module) -> None:
    """Take every u in ``module`` a step towards the vector of its weight; for mixed states."""
    for layer in module.modules():
        if isinstance(layer, Spectral):
            for name in layer.computed:
                u = layer.vector(name)
                u.copy_(power_iteration(getattr(layer, name), u, layer.rows_dim))
