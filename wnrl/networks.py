"""MLPs and convolutional networks from words: a norm, an activation, an initialisation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from wnrl.arguments import checked
from wnrl.errors import UsageError
from wnrl.limits import ActivationKey, NormKey, Whole, WholeFromZero, one_of
from wnrl.nn.conversion import Placement, convert
from wnrl.nn.functional import transposed_groups
from wnrl.nn.layers import MaskedLinear
from wnrl.nn.sites import PLAIN, check_values, n_spatial

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "celu": nn.CELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}
"""Nonlinearities by name, with torch's default arguments."""

INITS: dict[str, Callable[[Tensor, int, int], object] | None] = {
    "torch": None,  # torch's default, uniform within ±1/√k
    "xavier": lambda w, k, _: nn.init.normal_(w, std=(1 / k) ** 0.5),
    "he": lambda w, k, _: nn.init.normal_(w, std=(2 / k) ** 0.5),
    "fan_sum": lambda w, k, out: nn.init.normal_(w, std=(1 / (k + out)) ** 0.5),
    "orthogonal": lambda w, _, __: nn.init.orthogonal_(w),
}
"""Initialisations by name: each fills a weight in place, given its inputs and outputs as ``fans``
counts them; k = d_in is the number of inputs that one output unit adds up."""
InitKey = Annotated[str, one_of(INITS)]


@torch.no_grad()
@checked
def init_weights(module: nn.Module, init: InitKey) -> None:
    """Draws the weights of every linear layer and convolution anew; biases become zero.

    Subclasses of torch's layers count. Weight-normalized layers receive the drawn weight as their
    effective one, spectral ones as the weight that they divide, masked ones where the mask is one.
    Recurrent layers, embeddings and normalizers are left alone, and ``init="torch"`` leaves
    everything alone.

    Args:
        module: plain or converted.
        init: a key of ``INITS``.

    Raises:
        UsageError: an unknown word, no such layer in ``module``, or one without a weight yet.
    """
    fill = INITS[init]
    layers: list[Any] = [
        part
        for part in module.modules()
        if n_spatial(part) is not None or isinstance(part, tuple(PLAIN))
    ]
    if not layers:
        raise UsageError("module has no linear layer and no convolution to initialise")
    if fill is None:
        return
    check_values(module)
    for layer in layers:
        fill(layer.weight, *fans(layer))
        if isinstance(layer, MaskedLinear):
            layer.weight.mul_(layer.mask)
        if hasattr(layer, "find_vectors"):
            layer.find_vectors()
        if layer.bias is not None:
            layer.bias.zero_()


@checked
def fans(layer: nn.Module) -> tuple[int, int]:
    """How many inputs an output unit of ``layer`` adds up, and how many outputs an input reaches.

    Strides are not counted. For transposed convolutions, the axes of whose weight are swapped,
    torch's own count takes the one for the other.

    Raises:
        UsageError: the layer has no weight of two axes or more.
    """
    weight: Any = getattr(layer, "weight", None)
    if weight is None or weight.dim() < 2:
        raise UsageError(f"layer must have a weight of two axes, got a {type(layer).__name__}")
    first, second = weight.shape[0] // getattr(layer, "groups", 1), weight.shape[1]
    inputs, outputs = (first, second) if transposed_groups(layer) else (second, first)
    window = prod(weight.shape[2:])
    return inputs * window, outputs * window


@checked
def mlp(
    in_features: Whole,
    hidden: Sequence[Whole],
    out_features: Whole | None,
    *,
    norm: NormKey = "none",
    activation: ActivationKey = "relu",
    init: InitKey = "torch",
    placement: Placement = "pre",
    norm_kwargs: Mapping[str, Any] | None = None,
) -> nn.Sequential:
    """A multilayer perceptron, ``(..., in_features) -> (..., out_features)``.

    ``mlp(4, (64, 64), 2, norm="batch", norm_kwargs={"momentum": 0.01}, placement="post")`` has
    batch norm behind each nonlinearity, with running statistics that move by 1 % a batch.

    Args:
        in_features: size of the input.
        hidden: sizes of the hidden layers, each followed by the nonlinearity.
        out_features: size of the output, linear; None ends with the last nonlinearity.
        norm: a key of ``NORMS``.
        activation: a key of ``ACTIVATIONS``.
        init: a key of ``INITS``.
        placement: a normalizer goes ``"pre"`` or ``"post"`` the nonlinearity.
        norm_kwargs: options of the norm, as ``convert`` takes them.

    Raises:
        UsageError: an unknown word or option, a size that is not above zero, or no layer at all.
    """
    layers = _linear(in_features, hidden, out_features, ACTIVATIONS[activation])
    return normalized(layers, norm, init=init, placement=placement, norm_kwargs=norm_kwargs)


def _linear(
    in_features: int, hidden: Sequence[int], out_features: int | None, act: type[nn.Module]
) -> list[nn.Module]:
    """Return linear layers, each but the output's followed by the nonlinearity."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(in_features, width), act()]
        in_features = width
    if out_features is not None:
        layers.append(nn.Linear(in_features, out_features))
    return layers


@checked
@dataclass(frozen=True)
class ConvSpec:
    """One convolution of ``cnn``."""

    channels: Whole
    """Number of output channels."""
    kernel_size: Whole
    """Height and width of the window."""
    stride: Whole = 1
    """Step of the window."""
    padding: WholeFromZero = 0
    """Rows and columns of zeros on each side."""


NATURE = (ConvSpec(32, 8, 4), ConvSpec(64, 4, 2), ConvSpec(64, 3, 1))
"""The convolutions of Mnih et al. (2015), for images of 84×84."""
NATURE_SIDE = 36
"""Pixels of a side that they need."""
MINATAR = (ConvSpec(16, 3),)
"""The convolution of MinAtar's agents (Young & Tian, 2019, arXiv:1903.03176), for small images."""


@checked
def cnn(
    image_shape: tuple[Whole, Whole, Whole],
    out_features: Whole | None,
    *,
    convs: Sequence[ConvSpec] = NATURE,
    hidden: Sequence[Whole] = (512,),
    norm: NormKey = "none",
    activation: ActivationKey = "relu",
    init: InitKey = "torch",
    placement: Placement = "pre",
    norm_kwargs: Mapping[str, Any] | None = None,
) -> nn.Sequential:
    """Convolutions and an MLP behind them, ``(B, C, H, W) -> (B, out_features)``.

    Args:
        image_shape: (C, H, W); the default convolutions want at least 36×36.
        out_features: size of the output, linear; None ends with the last nonlinearity.
        convs: the convolutions, each followed by the nonlinearity; the Nature CNN's by default.
        hidden: sizes of the hidden linear layers.
        norm: a key of ``NORMS``.
        activation: a key of ``ACTIVATIONS``.
        init: a key of ``INITS``.
        placement: a normalizer goes ``"pre"`` or ``"post"`` the nonlinearity.
        norm_kwargs: options of the norm, as ``convert`` takes them.

    Raises:
        UsageError: an unknown word or option, or an image too small for the windows.
    """
    act = ACTIVATIONS[activation]
    channels, *sides = image_shape
    layers: list[nn.Module] = []
    for spec in convs:
        sides = [(n + 2 * spec.padding - spec.kernel_size) // spec.stride + 1 for n in sides]
        if min(sides) < 1:
            raise UsageError(f"image_shape {image_shape} is too small for the windows of {spec}")
        conv = nn.Conv2d(channels, spec.channels, spec.kernel_size, spec.stride, spec.padding)
        layers += [conv, act()]
        channels = spec.channels
    layers += [nn.Flatten(), *_linear(channels * prod(sides), hidden, out_features, act)]
    return normalized(layers, norm, init=init, placement=placement, norm_kwargs=norm_kwargs)


@checked
def normalized(
    layers: Sequence[nn.Module],
    norm: NormKey,
    *,
    init: InitKey = "torch",
    placement: Placement = "pre",
    norm_kwargs: Mapping[str, Any] | None = None,
) -> nn.Sequential:
    """Return ``layers``, one after the other, with a norm whose place is said.

    Hidden layers are all linear layers and convolutions but the last module. The initialisation
    is drawn while they are plain, so that every norm starts from the same draw.

    Args:
        layers: plain ones and what stands between them; each hidden one is followed by its
            nonlinearity.
        norm: a key of ``NORMS``.
        init: a key of ``INITS``.
        placement: a normalizer goes ``"pre"`` or ``"post"`` the nonlinearity.
        norm_kwargs: options of the norm, as ``convert`` takes them.

    Raises:
        UsageError: as ``convert`` and ``init_weights``.
    """
    net = nn.Sequential(*layers)
    init_weights(net, init)
    hidden = [str(i) for i, layer in enumerate(layers[:-1]) if n_spatial(layer) is not None]
    convert(net, norm, placement=placement, norm_kwargs=norm_kwargs, hidden=hidden)
    return net
