"""Linear layers with a norm, forward and backward by formula, for many networks at once.

A tape pays for every operation of a small network, and keeps what it need not. Here a layer is a
pair of functions of tensors, with room for what the second one needs of the first. Activations are
``(n, features, B)`` for n networks: what belongs to one feature lies side by side, so that sums
over samples and the scaling of a feature are fast. Parameters go by short names, ``(n, out, ...)``:

- ``weight`` or, under weight norm, ``weight_v`` and ``weight_g``; ``bias``;
- ``gain`` and ``shift`` of a normalizer.

``HOT`` says of each norm how the weight is computed and how the outputs are normalised,
``HOT_OF_MAPS`` behind a convolution.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
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
        """Return the tensor of that name and shape, or the shape of ``like``, as it was left."""
        key = (name, shape or tuple(like.shape))
        if key not in self._tensors:
            self._tensors[key] = like.new_empty(key[1])
        return self._tensors[key]


def product(a: Tensor, b: Tensor, out: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Return the batched product of ``(n, i, j)`` and ``(n, j, k)``, and ``bias`` added to it.

    Its bits do not depend on n: torch adds up in another order where there is one matrix and a
    vector alone.
    """
    alone = len(a) == 1 and 1 in (a.shape[1], b.shape[2])
    if alone:
        a, b = a.expand(2, -1, -1), b.expand(2, -1, -1)
    place = None if alone else out
    y = torch.bmm(a, b, out=place) if bias is None else torch.baddbmm(bias, a, b, out=place)
    if not alone:
        return y
    return y[:1] if out is None else out.copy_(y[:1])


@dataclass(frozen=True)
class Layer:
    """A linear layer of n networks, its norm and its nonlinearity.

    Args:
        norm: its formulas.
        activation: its nonlinearity, or None for a head.
        eps: of the normalizer, or what is added to ‖v‖².
        momentum: share of the newest batch in running statistics.
        limits: ``BatchRenorm.limits`` of batch renormalisation.
        params: by short names.
        buffers: running statistics, which move.
        grads: where the gradients of the parameters go, shaped like them.
        room: for what ``backward`` needs of ``forward``.
    """

    norm: "Hot"
    activation: "Activation | None"
    eps: float = 0.0
    momentum: float = 0.0
    limits: Callable[[Tensor], tuple[Tensor, Tensor]] = lambda steps: (steps, steps)
    params: Tensors = field(default_factory=dict)
    buffers: Tensors = field(default_factory=dict)
    grads: Tensors = field(default_factory=dict)
    room: Room = field(default_factory=Room)

    def by_example(self, z: Tensor) -> Tensor:
        """Return outputs ``(n, out, B)``, a view, as ``(n, out, positions, examples)``."""
        return z.unsqueeze(2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs ``(n, out, B)`` in training mode, of inputs ``(n, in, B)``."""
        weight, bias = self.norm.weight(self, True)
        z = self.room.get("z", x, *weight.shape[:2], x.shape[2])
        product(weight, x, z)
        if bias is not None:
            z.add_(bias[..., None])
        y = self.norm.outputs(self, z, lambda: product(weight, x.mean(2, keepdim=True)))
        return y if self.activation is None else self.activation.forward_(y)

    def backward(self, x: Tensor, y: Tensor, d: Tensor, dx: Tensor | None) -> None:
        """Write the gradients of the parameters and of the input, after ``forward``.

        Args:
            x: as for ``forward``.
            y: what it returned.
            d: gradient of y; overwritten.
            dx: where that of the input goes, ``(n, in, B)``; None where nobody wants it.
        """
        if self.activation is not None:
            self.activation.backward_(d, y)
        self.norm.outputs_backward(self, d)
        if "bias" in self.grads:
            torch.sum(d, 2, out=self.grads["bias"])
        weight = self.norm.weight_backward(self, d, x)
        if dx is not None:
            torch.bmm(weight.transpose(1, 2), d, out=dx)

    def acting(self) -> Callable[[Tensor], Tensor]:
        """Return the layer in evaluation mode, from ``(n, in, B)`` to ``(n, out, B)``.

        What depends on the parameters alone is computed here, once. An output is overwritten by
        the next call.
        """
        norm, apart = self.norm, replace(self, room=Room())
        weight, row = norm.weight(apart, False)
        bias = None if row is None else row[..., None]
        evaluate = norm.evaluate and norm.evaluate(apart)

        def run(x: Tensor) -> Tensor:
            z = apart.room.get("z", x, *weight.shape[:2], x.shape[2])
            z = product(weight, x, z, bias)
            y = evaluate(z) if evaluate else norm.outputs(apart, z, z.mean)
            return y if self.activation is None else self.activation.forward_(y)

        return run


@dataclass(frozen=True)
class Convolution(Layer):
    """A convolution of pictures, a linear layer of their windows. Nothing learns in front of it.

    Inputs are ``(n, C H W, B)``, and outputs ``(n, out positions, B)``.

    Args:
        shape: ``(C, H, W)``.
        window: rows and columns.
        stride: the steps of the window along both.
    """

    shape: tuple[int, ...] = (1, 1, 1)
    window: tuple[int, ...] = (1, 1)
    stride: tuple[int, ...] = (1, 1)

    @property
    def sides(self) -> tuple[int, ...]:
        """Rows and columns of the outputs."""
        each = zip(self.shape[1:], self.window, self.stride, strict=True)
        return tuple((size - window) // stride + 1 for size, window, stride in each)

    def by_example(self, z: Tensor) -> Tensor:
        """Return outputs ``(n, out, positions B)``, a view, as ``(n, out, positions, B)``."""
        return z.unflatten(2, (prod(self.sides), -1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs in training mode."""
        return super().forward(self._windows(x)).view(len(x), -1, x.shape[2])

    def backward(self, x: Tensor, y: Tensor, d: Tensor, dx: Tensor | None) -> None:
        """Write the gradients of the parameters, after ``forward``, as a ``Layer`` does."""
        windows = self._room_for_windows(x).flatten(4, 6).flatten(1, 3)
        y, d = (value.view(len(x), -1, windows.shape[2]) for value in (y, d))
        super().backward(windows, y, d, None)

    def acting(self) -> Callable[[Tensor], Tensor]:
        """Return the layer in evaluation mode, as a ``Layer`` does."""
        run, apart = super().acting(), replace(self, room=Room())
        return lambda x: run(apart._windows(x)).view(len(x), -1, x.shape[2])

    def _windows(self, x: Tensor) -> Tensor:
        """Return every window of pictures ``(n, C H W, B)``, ``(n, C h w, positions B)``."""
        pictures, room = x.unflatten(1, self.shape), self._room_for_windows(x)
        for axis, (size, step) in enumerate(zip(self.window, self.stride, strict=True), 2):
            pictures = pictures.unfold(axis, size, step)
        room.copy_(pictures.permute(0, 1, 5, 6, 2, 3, 4))
        return room.flatten(4, 6).flatten(1, 3)

    def _room_for_windows(self, x: Tensor) -> Tensor:
        """Return ``(n, C, h, w, rows, columns, B)``."""
        shape = (len(x), self.shape[0], *self.window, *self.sides, x.shape[2])
        return self.room.get("windows", x, *shape)


class Activation(NamedTuple):
    """A nonlinearity in place."""

    forward_: Callable[[Tensor], Tensor]
    backward_: Callable[[Tensor, Tensor], object]
    """Takes the gradient of the output, which it overwrites, and the output."""


def tanh_(x: Tensor) -> Tensor:
    """Take the hyperbolic tangent of ``(n, ...)`` in place, to 2e-7, by 2σ(2x) − 1 on a CPU.

    There torch's own takes two to six times as long, and took a third of PPO's time.
    """
    # torch computes the last few numbers of a tensor in another way than the others: which those
    # are must not depend on n.
    if x.is_cuda or x[0].numel() % 32:
        return x.tanh_()
    return x.mul_(2).sigmoid_().mul_(2).sub_(1)


ACTIVATIONS = {
    "tanh": Activation(
        tanh_, lambda d, y: torch.ops.aten.tanh_backward.grad_input(d, y, grad_input=d)
    ),
    "relu": Activation(
        torch.relu_,
        lambda d, y: torch.ops.aten.threshold_backward.grad_input(d, y, 0, grad_input=d),
    ),
}


# How the weight is computed, and what its gradient becomes.


def _plain(layer: Layer, learning: bool) -> tuple[Tensor, Tensor | None]:
    return layer.params["weight"], layer.params.get("bias")


def _plain_backward(layer: Layer, d: Tensor, x: Tensor) -> Tensor:
    layer.grads["weight"].copy_(_weight_gradient(layer, d, x))
    return layer.params["weight"]


def _weight_gradient(layer: Layer, d: Tensor, x: Tensor) -> Tensor:
    # A batched product into the views of rows, whose batches are apart, would be a loop.
    by_weight = layer.room.get("∇w", d, len(d), d.shape[1], x.shape[1])
    return torch.bmm(d, x.transpose(1, 2), out=by_weight)


def _directed(layer: Layer, learning: bool) -> tuple[Tensor, Tensor | None]:
    """Compute w = g v/‖v‖ (Salimans & Kingma 2016, arXiv:1602.07868, eq. 2)."""
    v, g, room = layer.params["weight_v"], layer.params["weight_g"], layer.room
    length = torch.linalg.vector_norm(v, 2, 2, keepdim=True)
    eps, inverse = torch.full_like(length, layer.eps), room.get("1/‖v‖", g)
    torch.addcmul(eps, length, length, out=inverse).rsqrt_()
    return torch.mul(v, g * inverse, out=room.get("w", v)), layer.params.get("bias")


def _directed_backward(layer: Layer, d: Tensor, x: Tensor) -> Tensor:
    """Compute ∇g = ∇w·v/‖v‖ and ∇v = g/‖v‖ (∇w − ∇g v/‖v‖) (eq. 3)."""
    v, g, room = layer.params["weight_v"], layer.params["weight_g"], layer.room
    inverse, by_weight = room.get("1/‖v‖", g), _weight_gradient(layer, d, x)
    direction = torch.mul(v, inverse, out=room.get("v/‖v‖", v))
    by_g = torch.mul(by_weight, direction, out=room.get("product", v)).sum(2, keepdim=True)
    layer.grads["weight_g"].copy_(by_g)
    torch.mul(by_weight.sub_(direction.mul_(by_g)), g * inverse, out=layer.grads["weight_v"])
    return room.get("w", v)


def _centred(layer: Layer, learning: bool) -> tuple[Tensor, Tensor | None]:
    """Take the mean over output units away, so that the outputs have none."""
    weight, bias = layer.params["weight"], layer.params["bias"]
    centred = layer.room.get("w", weight)
    torch.sub(weight, weight.mean(1, keepdim=True), out=centred)
    return centred, bias - bias.mean(1, keepdim=True)


def _centred_backward(layer: Layer, d: Tensor, x: Tensor) -> Tensor:
    weight = _plain_backward(layer, d, x)
    for name in ("weight", "bias"):
        grad = layer.grads[name]
        grad.sub_(grad.mean(1, keepdim=True))
    return layer.room.get("w", weight)


def _by_largest(layer: Layer, learning: bool) -> tuple[Tensor, Tensor | None]:
    """Divide by σ = ‖Wᵀu‖; in training u takes a step of power iteration first."""
    weight, u = layer.params["weight"], layer.buffers["running_u_weight"]
    if learning:
        step = product(weight, product(weight.transpose(1, 2), u[..., None]))
        u.copy_(torch.nn.functional.normalize(step[..., 0], dim=1))
    room, (n, _, inputs) = layer.room, weight.shape
    room.get("u", u).copy_(u)
    v = product(weight.transpose(1, 2), u[..., None], room.get("v", weight, n, inputs, 1))
    sigma = torch.linalg.vector_norm(v, 2, 1, keepdim=True, out=room.get("σ", weight, n, 1, 1))
    v.div_(sigma)
    return torch.div(weight, sigma, out=room.get("w", weight)), layer.params.get("bias")


def _by_largest_backward(layer: Layer, d: Tensor, x: Tensor) -> Tensor:
    """Compute ∇W = (∇w − (∇w·w) u vᵀ)/σ, with u a constant (Miyato et al., 2018, eq. 12)."""
    room, (n, out, inputs) = layer.room, layer.params["weight"].shape
    weight, by_weight = room.get("w", d, n, out, inputs), _weight_gradient(layer, d, x)
    along = (by_weight * weight).sum((1, 2), keepdim=True)
    u, v = room.get("u", d, n, out), room.get("v", d, n, inputs, 1)
    by_weight.sub_(torch.bmm(u[..., None], v.transpose(1, 2)).mul_(along))
    torch.div(by_weight, room.get("σ", d, n, 1, 1), out=layer.grads["weight"])
    return weight


# How the outputs are normalised, and what their gradient becomes.


def _as_they_are(layer: Layer, z: Tensor, mean: Callable[[], Tensor]) -> Tensor:
    return z


def _as_they_are_backward(layer: Layer, d: Tensor) -> None:
    pass


def _by_size(layer: Layer, z: Tensor, mean: Callable[[], Tensor]) -> Tensor:
    """Divide each example by its root mean square: RMS norm, and layer norm of what is centred."""
    y, of_example = layer.room.get("y", z), layer.by_example(z)
    n, features, positions, examples = of_example.shape
    size = layer.by_example(torch.mul(z, z, out=y)).sum((1, 2), keepdim=True)
    inverse = layer.room.get("1/size", z, n, 1, 1, examples)
    torch.add(size.div_(features * positions), layer.eps, out=inverse).rsqrt_()
    of_example.mul_(inverse)
    torch.mul(z, layer.params["gain"][..., None], out=y)
    return y.add_(layer.params["shift"][..., None]) if "shift" in layer.params else y


def _by_size_backward(layer: Layer, d: Tensor) -> None:
    room, of_example = layer.room, layer.by_example(d)
    n, features, positions, examples = of_example.shape
    normal, gain, grads = room.get("z", d), layer.params["gain"], layer.grads
    scaled = torch.mul(d, normal, out=room.get("y", d))
    torch.sum(scaled, 2, out=grads["gain"])
    if "shift" in grads:
        torch.sum(d, 2, out=grads["shift"])
    along = layer.by_example(product(gain[:, None], scaled)).sum(2, keepdim=True)
    d.mul_(gain[..., None])
    of_example.addcmul_(layer.by_example(normal), along.div_(-features * positions))
    of_example.mul_(room.get("1/size", d, n, 1, 1, examples))


def _by_spread(layer: Layer, z: Tensor, mean: Callable[[], Tensor]) -> Tensor:
    """Standardise each example over features and positions: layer norm of maps."""
    of_example = layer.by_example(z)
    of_example.sub_(of_example.mean((1, 2), keepdim=True))
    return _by_size(layer, z, mean)


def _by_spread_backward(layer: Layer, d: Tensor) -> None:
    _by_size_backward(layer, d)
    of_example = layer.by_example(d)
    of_example.sub_(of_example.mean((1, 2), keepdim=True))


def _by_batch(layer: Layer, z: Tensor, mean: Callable[[], Tensor]) -> Tensor:
    """Standardise each feature over the samples; the running statistics move."""
    samples, average, buffers = z.shape[2], mean(), layer.buffers
    var, inverse = _spread(layer, z, average)
    buffers["running_mean"].lerp_(average[..., 0], layer.momentum)
    buffers["running_var"].lerp_(var[..., 0] * (samples / (samples - 1)), layer.momentum)
    buffers["num_batches_tracked"].add_(1)
    gain, shift = (layer.params[name][..., None] for name in ("gain", "shift"))
    return torch.mul(z, inverse * gain, out=layer.room.get("y", z)).add_(shift)


def _spread(layer: Layer, z: Tensor, average: Tensor) -> tuple[Tensor, Tensor]:
    """Centre z; return the variance of each feature and the inverse deviation, ``(n, out, 1)``."""
    z.sub_(average)
    var = torch.linalg.vector_norm(z, 2, 2, keepdim=True).square_().div_(z.shape[2])
    inverse = torch.add(var, layer.eps, out=layer.room.get("1/std", var)).rsqrt_()
    return var, inverse


def _by_batch_acting(layer: Layer) -> Evaluate:
    params, buffers = layer.params, layer.buffers
    scale = (params["gain"] * (buffers["running_var"] + layer.eps).rsqrt())[..., None]
    mean, shift = buffers["running_mean"][..., None], params["shift"][..., None]
    return lambda z: z.sub_(mean).mul_(scale).add_(shift)


def _by_batch_backward(layer: Layer, d: Tensor) -> None:
    room, grads, (n, features, samples) = layer.room, layer.grads, d.shape
    centred, inverse = room.get("z", d), room.get("1/std", d, n, features, 1)
    along = torch.mul(d, centred, out=room.get("y", d)).sum(2, keepdim=True)
    torch.sum(d, 2, out=grads["shift"])
    torch.mul(along[..., 0], inverse[..., 0], out=grads["gain"])
    d.sub_(grads["shift"][..., None] / samples)
    d.sub_(centred.mul_(along.mul_(inverse.square()).div_(samples)))
    d.mul_(inverse * layer.params["gain"][..., None])


def _by_renorm(layer: Layer, z: Tensor, mean: Callable[[], Tensor]) -> Tensor:
    """Standardise, and correct by r and d towards the running statistics, which move."""
    room, buffers, average = layer.room, layer.buffers, mean()
    var, inverse = _spread(layer, z, average)
    running_mean, running_var = buffers["running_mean"], buffers["running_var"]
    now = (running_var[..., None] + layer.eps).rsqrt()
    r_limit, d_limit = (limit[:, None, None] for limit in layer.limits(buffers["running_steps"]))
    r, d = room.get("r", var), room.get("d", var)
    torch.clamp(now / inverse, 1 / r_limit, r_limit, out=r)
    torch.clamp((average - running_mean[..., None]) * now, -d_limit, d_limit, out=d)
    running_mean.lerp_(average[..., 0], layer.momentum)
    running_var.lerp_(var[..., 0], layer.momentum)
    buffers["running_steps"].add_(1)
    gain, shift = (layer.params[name][..., None] for name in ("gain", "shift"))
    return torch.mul(z, inverse * r * gain, out=room.get("y", z)).add_(shift + gain * d)


def _by_renorm_backward(layer: Layer, d: Tensor) -> None:
    r, offset = (layer.room.get(name, d, *d.shape[:2], 1)[..., 0] for name in ("r", "d"))
    _by_batch_backward(replace(layer, params={"gain": layer.params["gain"] * r}), d)
    layer.grads["gain"].mul_(r).addcmul_(offset, layer.grads["shift"])


def _minus_mean(layer: Layer, z: Tensor, mean: Callable[[], Tensor]) -> Tensor:
    """Take the mean over samples away (eq. 7); the running mean moves."""
    average = mean()
    layer.buffers["running_mean"].lerp_(average[..., 0], layer.momentum)
    layer.buffers["running_steps"].add_(1)
    return z.add_(layer.params["shift"][..., None] - average)


def _minus_mean_acting(layer: Layer) -> Evaluate:
    shift = (layer.params["shift"] - layer.buffers["running_mean"])[..., None]
    return lambda z: z.add_(shift)


def _minus_mean_backward(layer: Layer, d: Tensor) -> None:
    shift = torch.sum(d, 2, out=layer.grads["shift"])
    d.sub_(shift[..., None] / d.shape[2])


class Hot(NamedTuple):
    """A norm in formulas."""

    weight: Callable[[Layer, bool], tuple[Tensor, Tensor | None]]
    weight_backward: Callable[[Layer, Tensor, Tensor], Tensor]
    outputs: Callable[[Layer, Tensor, Callable[[], Tensor]], Tensor]
    outputs_backward: Callable[[Layer, Tensor], None]
    evaluate: Callable[[Layer], Evaluate] | None = None
    """The outputs in evaluation mode; None: as in training, where no example depends on others."""


_NONE = Hot(_plain, _plain_backward, _as_they_are, _as_they_are_backward)
_MEAN = Hot(_plain, _plain_backward, _minus_mean, _minus_mean_backward, _minus_mean_acting)
_RMS = Hot(_plain, _plain_backward, _by_size, _by_size_backward)
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
HOT_OF_MAPS = {**HOT, "layer": Hot(_plain, _plain_backward, _by_spread, _by_spread_backward)}
"""The same behind a convolution."""
