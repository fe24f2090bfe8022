"""Linear layers with a norm, forward and backward by formula, for many networks at once.

A tape pays for every operation of a small network, and keeps what it need not. Here a layer is a
pair of functions of tensors, with room for what the second one needs of the first. Activations are
``(n, features, B)`` for n networks: what belongs to one feature lies side by side, so that sums
over samples and the scaling of a feature are fast. Parameters go by short names, ``(n, out, ...)``:

- ``weight`` or, under weight norm, ``v`` and ``g``; ``bias``;
- ``gain`` and ``shift`` of a normalizer.

``HOT`` says of each norm how the weight is computed and how the outputs are normalised.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]
Evaluate = Callable[[Tensor], Tensor]
"""From outputs ``(n, out, B)``, which it may overwrite, to normalised ones."""


class Room:
    """Tensors that are there from call to call, by name and shape; their content is nobody's."""

    def __init__(self) -> None:
        self._tensors: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def get(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """Return the tensor of that name and shape, as its last user left it."""
        key = (name, shape)
        if key not in self._tensors:
            self._tensors[key] = like.new_empty(shape)
        return self._tensors[key]


@dataclass(frozen=True)
class Layer:
    """A linear layer, its norm and its nonlinearity.

    Args:
        norm: a key of ``HOT``.
        activation: a key of ``ACTIVATIONS``, or None for a head.
        eps: of the normalizer, or what is added to ‖v‖².
        momentum: share of the newest batch in running statistics.
        limits: ``BatchRenorm.limits`` of batch renormalisation.
        room: for what ``backward`` needs of ``forward``.
    """

    norm: str
    activation: str | None
    eps: float = 0.0
    momentum: float = 0.0
    limits: Callable[[Tensor], tuple[Tensor, Tensor]] = lambda steps: (steps, steps)
    room: Room = field(default_factory=Room, compare=False)

    def forward(self, params: Tensors, x: Tensor, buffers: Tensors) -> Tensor:
        """Return the outputs ``(n, out, B)`` in training mode.

        Args:
            params: by short names.
            x: inputs, ``(n, in, B)``.
            buffers: running statistics, which move.
        """
        norm = HOT[self.norm]
        weight, bias = norm.weight(self, params, buffers, True)
        z = self.room.get("z", x, *weight.shape[:2], x.shape[2])
        torch.bmm(weight, x, out=z)
        if bias is not None:
            z.add_(bias[..., None])
        y = norm.outputs(self, z, params, buffers, lambda: weight @ x.mean(2, keepdim=True))
        if self.activation is not None:
            ACTIVATIONS[self.activation].forward_(y)
        return y

    def backward(
        self, params: Tensors, x: Tensor, y: Tensor, d: Tensor, grads: Tensors, dx: Tensor | None
    ) -> None:
        """Write the gradients of the parameters and of the input, after ``forward``.

        Args:
            params: as for ``forward``.
            x: as for ``forward``.
            y: what it returned.
            d: gradient of y; overwritten.
            grads: where those of the parameters go, shaped like them.
            dx: where that of the input goes, ``(n, in, B)``; None where nobody wants it.
        """
        norm = HOT[self.norm]
        if self.activation is not None:
            ACTIVATIONS[self.activation].backward_(d, y)
        norm.outputs_backward(self, d, params, grads)
        if "bias" in grads:
            torch.sum(d, 2, out=grads["bias"])
        weight = norm.weight_backward(self, d, x, params, grads)
        if dx is not None:
            torch.bmm(weight.transpose(1, 2), d, out=dx)

    def acting(self, params: Tensors, buffers: Tensors) -> Callable[[Tensor], Tensor]:
        """Return the layer in evaluation mode, from ``(n, in, B)`` to ``(n, out, B)``.

        What depends on the parameters alone is computed here, once. An output is overwritten by
        the next call.

        Args:
            params: as for ``forward``.
            buffers: the running statistics of batch norm.
        """
        norm, apart = HOT[self.norm], replace(self, room=Room())
        weight, row = norm.weight(apart, params, buffers, False)
        bias = None if row is None else row[..., None]
        evaluate = norm.evaluate(apart, params, buffers)

        def run(x: Tensor) -> Tensor:
            z = apart.room.get("z", x, *weight.shape[:2], x.shape[2])
            if bias is None:
                torch.bmm(weight, x, out=z)
            else:
                torch.baddbmm(bias, weight, x, out=z)
            y = evaluate(z)
            return y if self.activation is None else ACTIVATIONS[self.activation].forward_(y)

        return run


class Activation(NamedTuple):
    """A nonlinearity in place."""

    forward_: Callable[[Tensor], Tensor]
    backward_: Callable[[Tensor, Tensor], object]
    """Takes the gradient of the output, which it overwrites, and the output."""


ACTIVATIONS = {
    "tanh": Activation(
        torch.tanh_, lambda d, y: torch.ops.aten.tanh_backward.grad_input(d, y, grad_input=d)
    ),
    "relu": Activation(
        torch.relu_,
        lambda d, y: torch.ops.aten.threshold_backward.grad_input(d, y, 0, grad_input=d),
    ),
}


# How the weight is computed, and what its gradient becomes.


def _plain(
    layer: Layer, params: Tensors, buffers: Tensors, learning: bool
) -> tuple[Tensor, Tensor | None]:
    return params["weight"], params.get("bias")


def _plain_backward(layer: Layer, d: Tensor, x: Tensor, params: Tensors, grads: Tensors) -> Tensor:
    grads["weight"].copy_(_weight_gradient(layer, d, x))
    return params["weight"]


def _weight_gradient(layer: Layer, d: Tensor, x: Tensor) -> Tensor:
    # A batched product into the views of rows, whose batches are apart, would be a loop.
    by_weight = layer.room.get("∇w", d, len(d), d.shape[1], x.shape[1])
    return torch.bmm(d, x.transpose(1, 2), out=by_weight)


def _directed(
    layer: Layer, params: Tensors, buffers: Tensors, learning: bool
) -> tuple[Tensor, Tensor | None]:
    """Compute w = g v/‖v‖ (Salimans & Kingma 2016, arXiv:1602.07868, eq. 2)."""
    v, g = params["v"], params["g"]
    length = torch.linalg.vector_norm(v, 2, 2, keepdim=True)
    inverse = torch.addcmul(
        torch.full_like(length, layer.eps), length, length, out=layer.room.get("1/‖v‖", v, *g.shape)
    ).rsqrt_()
    weight = layer.room.get("w", v, *v.shape)
    return torch.mul(v, g * inverse, out=weight), params.get("bias")


def _directed_backward(
    layer: Layer, d: Tensor, x: Tensor, params: Tensors, grads: Tensors
) -> Tensor:
    """Compute ∇g = ∇w·v/‖v‖ and ∇v = g/‖v‖ (∇w − ∇g v/‖v‖) (eq. 3)."""
    v, g, by_v = params["v"], params["g"], grads["v"]
    inverse = layer.room.get("1/‖v‖", v, *g.shape)
    by_weight = _weight_gradient(layer, d, x)
    direction, product = (layer.room.get(name, v, *v.shape) for name in ("v/‖v‖", "product"))
    torch.mul(v, inverse, out=direction)
    by_g = torch.sum(torch.mul(by_weight, direction, out=product), 2, keepdim=True)
    grads["g"].copy_(by_g)
    torch.mul(by_weight.sub_(direction.mul_(by_g)), g * inverse, out=by_v)
    return layer.room.get("w", v, *v.shape)


def _centred(
    layer: Layer, params: Tensors, buffers: Tensors, learning: bool
) -> tuple[Tensor, Tensor | None]:
    """Take the mean over output units away, so that the outputs have none."""
    weight, bias = params["weight"], params["bias"]
    centred = layer.room.get("w", weight, *weight.shape)
    torch.sub(weight, weight.mean(1, keepdim=True), out=centred)
    return centred, bias - bias.mean(1, keepdim=True)


def _centred_backward(
    layer: Layer, d: Tensor, x: Tensor, params: Tensors, grads: Tensors
) -> Tensor:
    weight = _plain_backward(layer, d, x, params, grads)
    for name in ("weight", "bias"):
        grads[name].sub_(grads[name].mean(1, keepdim=True))
    return layer.room.get("w", weight, *weight.shape)


def _by_largest(
    layer: Layer, params: Tensors, buffers: Tensors, learning: bool
) -> tuple[Tensor, Tensor | None]:
    """Divide by σ = ‖Wᵀu‖; in training u takes a step of power iteration first."""
    weight, u = params["weight"], buffers["running_u_weight"]
    if learning:
        step = torch.bmm(weight, torch.bmm(weight.transpose(1, 2), u[..., None]))
        u.copy_(torch.nn.functional.normalize(step[..., 0], dim=1))
    room, (n, out, inputs) = layer.room, weight.shape
    room.get("u", weight, n, out).copy_(u)
    v = torch.bmm(weight.transpose(1, 2), u[..., None], out=room.get("v", weight, n, inputs, 1))
    sigma = torch.linalg.vector_norm(v, 2, 1, keepdim=True, out=room.get("σ", weight, n, 1, 1))
    v.div_(sigma)
    return torch.div(weight, sigma, out=room.get("w", weight, n, out, inputs)), params.get("bias")


def _by_largest_backward(
    layer: Layer, d: Tensor, x: Tensor, params: Tensors, grads: Tensors
) -> Tensor:
    """Compute ∇W = (∇w − (∇w·w) u vᵀ)/σ, with u a constant (Miyato et al., 2018, eq. 12)."""
    room, (n, out, inputs) = layer.room, params["weight"].shape
    weight, by_weight = room.get("w", d, n, out, inputs), _weight_gradient(layer, d, x)
    along = (by_weight * weight).sum((1, 2), keepdim=True)
    u, v = room.get("u", d, n, out), room.get("v", d, n, inputs, 1)
    by_weight.sub_(torch.bmm(u[..., None], v.transpose(1, 2)).mul_(along))
    torch.div(by_weight, room.get("σ", d, n, 1, 1), out=grads["weight"])
    return weight


# How the outputs are normalised, and what their gradient becomes.


def _as_they_are(
    layer: Layer, z: Tensor, params: Tensors, buffers: Tensors, mean: Callable[[], Tensor]
) -> Tensor:
    return z


def _as_they_are_acting(layer: Layer, params: Tensors, buffers: Tensors) -> Evaluate:
    return lambda z: z


def _as_they_are_backward(layer: Layer, d: Tensor, params: Tensors, grads: Tensors) -> None:
    pass


def _by_size(
    layer: Layer, z: Tensor, params: Tensors, buffers: Tensors, mean: Callable[[], Tensor]
) -> Tensor:
    """Divide each sample by its root mean square: RMS norm, and layer norm of what is centred."""
    room, n, features, samples = layer.room, *z.shape
    y = room.get("y", z, n, features, samples)
    size = torch.mul(z, z, out=y).sum(1, keepdim=True)
    inverse = room.get("1/size", z, n, 1, samples)
    torch.add(size.div_(features), layer.eps, out=inverse).rsqrt_()
    torch.mul(z.mul_(inverse), params["gain"][..., None], out=y)
    return y.add_(params["shift"][..., None]) if "shift" in params else y


def _by_size_acting(layer: Layer, params: Tensors, buffers: Tensors) -> Evaluate:
    return lambda z: _by_size(layer, z, params, buffers, z.mean)


def _by_size_backward(layer: Layer, d: Tensor, params: Tensors, grads: Tensors) -> None:
    room, n, features, samples = layer.room, *d.shape
    normal, gain = room.get("z", d, n, features, samples), params["gain"]
    product = torch.mul(d, normal, out=room.get("y", d, n, features, samples))
    torch.sum(product, 2, out=grads["gain"])
    if "shift" in grads:
        torch.sum(d, 2, out=grads["shift"])
    along = torch.bmm(gain[:, None], product)  # (n, 1, B)
    d.mul_(gain[..., None]).addcmul_(normal, along.div_(-features))
    d.mul_(room.get("1/size", d, n, 1, samples))


def _by_batch(
    layer: Layer, z: Tensor, params: Tensors, buffers: Tensors, mean: Callable[[], Tensor]
) -> Tensor:
    """Standardise each feature over the samples; the running statistics move."""
    room, n, features, samples = layer.room, *z.shape
    average = mean()
    var, inverse = _spread(layer, z, average)
    buffers["running_mean"].lerp_(average[..., 0], layer.momentum)
    buffers["running_var"].lerp_(var[..., 0] * (samples / (samples - 1)), layer.momentum)
    buffers["num_batches_tracked"].add_(1)
    y = room.get("y", z, n, features, samples)
    return torch.mul(z, inverse * params["gain"][..., None], out=y).add_(params["shift"][..., None])


def _spread(layer: Layer, z: Tensor, average: Tensor) -> tuple[Tensor, Tensor]:
    """Centre z; return the variance of each feature and the inverse deviation, ``(n, out, 1)``."""
    room, n, features, samples = layer.room, *z.shape
    z.sub_(average)
    var = torch.linalg.vector_norm(z, 2, 2, keepdim=True).square_().div_(samples)
    inverse = torch.add(var, layer.eps, out=room.get("1/std", z, n, features, 1)).rsqrt_()
    return var, inverse


def _by_batch_acting(layer: Layer, params: Tensors, buffers: Tensors) -> Evaluate:
    scale = (params["gain"] * (buffers["running_var"] + layer.eps).rsqrt())[..., None]
    mean, shift = buffers["running_mean"][..., None], params["shift"][..., None]
    return lambda z: z.sub_(mean).mul_(scale).add_(shift)


def _by_batch_backward(layer: Layer, d: Tensor, params: Tensors, grads: Tensors) -> None:
    room, n, features, samples = layer.room, *d.shape
    centred, inverse = room.get("z", d, n, features, samples), room.get("1/std", d, n, features, 1)
    product = torch.mul(d, centred, out=room.get("y", d, n, features, samples))
    along = product.sum(2, keepdim=True)
    torch.sum(d, 2, out=grads["shift"])
    torch.mul(along[..., 0], inverse[..., 0], out=grads["gain"])
    d.sub_(grads["shift"][..., None] / samples)
    d.sub_(centred.mul_(along.mul_(inverse.square()).div_(samples)))
    d.mul_(inverse * params["gain"][..., None])


def _by_renorm(
    layer: Layer, z: Tensor, params: Tensors, buffers: Tensors, mean: Callable[[], Tensor]
) -> Tensor:
    """Standardise, and correct by r and d towards the running statistics, which move."""
    room, n, features, samples = layer.room, *z.shape
    average = mean()
    var, inverse = _spread(layer, z, average)
    running_mean, running_var = buffers["running_mean"], buffers["running_var"]
    now = (running_var[..., None] + layer.eps).rsqrt()
    r_limit, d_limit = (limit[:, None, None] for limit in layer.limits(buffers["running_steps"]))
    r, d = (room.get(name, z, n, features, 1) for name in ("r", "d"))
    torch.clamp(now / inverse, 1 / r_limit, r_limit, out=r)
    torch.clamp((average - running_mean[..., None]) * now, -d_limit, d_limit, out=d)
    running_mean.lerp_(average[..., 0], layer.momentum)
    running_var.lerp_(var[..., 0], layer.momentum)
    buffers["running_steps"].add_(1)
    gain, shift = params["gain"][..., None], params["shift"][..., None]
    y = room.get("y", z, n, features, samples)
    return torch.mul(z, inverse * r * gain, out=y).add_(shift + gain * d)


def _by_renorm_backward(layer: Layer, d: Tensor, params: Tensors, grads: Tensors) -> None:
    r, offset = (layer.room.get(name, d, *d.shape[:2], 1)[..., 0] for name in ("r", "d"))
    _by_batch_backward(layer, d, {"gain": params["gain"] * r}, grads)
    grads["gain"].mul_(r).addcmul_(offset, grads["shift"])


def _minus_mean(
    layer: Layer, z: Tensor, params: Tensors, buffers: Tensors, mean: Callable[[], Tensor]
) -> Tensor:
    """Take the mean over samples away (eq. 7); the running mean moves."""
    average = mean()
    buffers["running_mean"].lerp_(average[..., 0], layer.momentum)
    buffers["running_steps"].add_(1)
    return z.add_(params["shift"][..., None] - average)


def _minus_mean_acting(layer: Layer, params: Tensors, buffers: Tensors) -> Evaluate:
    shift = (params["shift"] - buffers["running_mean"])[..., None]
    return lambda z: z.add_(shift)


def _minus_mean_backward(layer: Layer, d: Tensor, params: Tensors, grads: Tensors) -> None:
    torch.sum(d, 2, out=grads["shift"])
    d.sub_(grads["shift"][..., None] / d.shape[2])


class Hot(NamedTuple):
    """A norm in formulas."""

    weight: Callable[[Layer, Tensors, Tensors, bool], tuple[Tensor, Tensor | None]]
    weight_backward: Callable[[Layer, Tensor, Tensor, Tensors, Tensors], Tensor]
    outputs: Callable[[Layer, Tensor, Tensors, Tensors, Callable[[], Tensor]], Tensor]
    outputs_backward: Callable[[Layer, Tensor, Tensors, Tensors], None]
    evaluate: Callable[[Layer, Tensors, Tensors], Evaluate]


_NONE = Hot(_plain, _plain_backward, _as_they_are, _as_they_are_backward, _as_they_are_acting)
_MEAN = Hot(_plain, _plain_backward, _minus_mean, _minus_mean_backward, _minus_mean_acting)
_RMS = Hot(_plain, _plain_backward, _by_size, _by_size_backward, _by_size_acting)
HOT = {
    "none": _NONE,
    "projected": _NONE,
    "weight": _NONE._replace(weight=_directed, weight_backward=_directed_backward),
    "layer": _RMS._replace(weight=_centred, weight_backward=_centred_backward),
    "rms": _RMS,
    "batch": Hot(_plain, _plain_backward, _by_batch, _by_batch_backward, _by_batch_acting),
    "batch_renorm": Hot(_plain, _plain_backward, _by_renorm, _by_renorm_backward, _by_batch_acting),
    "mean": _MEAN,
    "spectral": _NONE._replace(weight=_by_largest, weight_backward=_by_largest_backward),
    "weight_mean": _MEAN._replace(weight=_directed, weight_backward=_directed_backward),
}
"""Norms with formulas, by their keys in ``NORMS``."""
