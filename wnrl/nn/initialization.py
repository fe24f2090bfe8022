"""Data-dependent initialisation (Salimans & Kingma 2016, arXiv:1602.07868, eq. 5 and 6)."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from wnrl.errors import UsageError, check_positive
from wnrl.nn.base import WeightNormed
from wnrl.nn.functional import transposed_groups, units_first
from wnrl.nn.normalizers import Normalized
from wnrl.nn.sites import WEIGHTED, check_values, n_spatial, skipped_modules
from wnrl.norms import fixes_length

CONSTANT = 1e-6
"""A feature that deviates by less than this share of its size does not vary: it is rounding."""
BEYOND = "keep their length: what they need is beyond"
REUSED = "used more than once: standardised at its first use"


@dataclass(frozen=True)
class DataInitReport:
    """What ``data_init`` did, by the names of ``module.named_modules()``."""

    initialised: list[str] = field(default_factory=list)
    """Layers, in the order in which they ran."""
    constant: dict[str, list[int]] = field(default_factory=dict)
    """Features that do not vary on these inputs: centred, with their length as it was."""
    incomplete: dict[str, str] = field(default_factory=dict)
    """Layers that are not standardised at every use, in mean and scale, and why."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Layers that were left as they were, and why."""

    def take(self, name: str, found: "DataInitReport") -> None:
        """Adds what was found for a layer that was initialised by itself, as ``name``."""
        self.initialised.extend(name for _ in found.initialised)
        self.constant.update((name, features) for features in found.constant.values())
        for reason in found.incomplete.values():
            explain(self.incomplete, name, reason)
        for reason in found.skipped.values():
            explain(self.skipped, name, reason)


def explain(reasons: dict[str, str], name: str, reason: str) -> None:
    """Adds ``reason`` to what ``reasons`` says of ``name``, once."""
    known = reasons.get(name)
    if known is None:
        reasons[name] = reason
    elif reason not in known:
        reasons[name] = f"{known}; {reason}"


class Target(ABC):
    """A layer, or the normalizer behind one, whose output is to be standardised.

    Args:
        name: how it is reported.
        module: the layer or the normalizer.
        n_spatial: the number of axes of its output behind that of the features.
        goal: the standard deviation that its output gets.
        norm: the normalizer behind a layer.
    """

    def __init__(
        self, name: str, module: Any, n_spatial: int, goal: float, norm: nn.Module | None = None
    ) -> None:
        self.name, self.module, self.n_spatial = name, module, n_spatial
        self.goal, self.norm, self.done = goal, norm, False

    def hook(self, report: DataInitReport) -> list[RemovableHandle]:
        """Standardises at the first call: a layer that is used twice is initialised once."""
        lengths: list[Tensor | None] = []

        def before(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            if not self.done:
                lengths.append(self.to_unit((*args, *kwargs.values())[0]))

        def after(_: nn.Module, args: tuple[Tensor, ...], t: Tensor) -> Tensor | None:
            if self.done:
                explain(report.incomplete, self.name, REUSED)
                return None
            self.done = True
            return self.standardise(t, lengths[0], report)

        pre = self.module.register_forward_pre_hook(before, with_kwargs=True)
        return [pre, self.module.register_forward_hook(after)]

    def standardise(self, t: Tensor, length: Tensor | None, report: DataInitReport) -> Tensor:
        """Sets scale and shift by equation 6; returns what the output becomes."""
        mean, std = statistics(t, t.dim() - 1 - self.n_spatial, self.name)
        scale, shift = torch.ones_like(mean), torch.zeros_like(mean)
        if length is not None:
            scale = self.goal / std
            constant = std <= CONSTANT * (mean.square() + std.square()).sqrt()
            beyond = ~constant & ~_fits(scale, mean * scale, length.dtype)
            if constant.any():
                report.constant[self.name] = constant.nonzero().flatten().tolist()
            if beyond.any():
                which = beyond.nonzero().flatten().tolist()
                explain(report.incomplete, self.name, f"features {which} {BEYOND} {length.dtype}")
            scale = torch.where(constant | beyond, length.to(std), scale)
            self.set_scale(scale)
        if getattr(self.module, "bias", None) is not None:
            shift = -mean * scale
            self.module.bias.copy_(shift)
        self.note(report, scaled=length is not None)
        view = [-1, *[1] * self.n_spatial]
        return (t * scale.view(view) + shift.view(view)).to(t.dtype)

    @abstractmethod
    def to_unit(self, x: Tensor) -> Tensor | None:
        """Takes bias and length away, for an input ``x``.

        Returns:
            The length ``(C,)`` that a constant feature keeps; None if the scale cannot be set.
        """

    @abstractmethod
    def set_scale(self, scale: Tensor) -> None:
        """Multiplies the unit output by ``scale``, ``(C,)``."""

    @abstractmethod
    def note(self, report: DataInitReport, scaled: bool) -> None:
        """Writes down what was done and what could not be."""


class Layer(Target):
    """A linear layer or a convolution."""

    def to_unit(self, x: Tensor) -> Tensor | None:
        """Bias 0 and g 1; a plain weight stays, and counts as the unit."""
        layer = self.module
        if layer.bias is not None:
            layer.bias.zero_()
        if fixes_length(layer):
            return None
        if not isinstance(layer, WeightNormed):
            features = layer.out_channels if self.n_spatial else layer.out_features
            return layer.weight.new_ones(features)
        g = layer.pair()[1]
        length = layer.length(g).detach().flatten().clone()
        g.copy_(layer.from_length(torch.ones_like(g)))
        return length

    def set_scale(self, scale: Tensor) -> None:
        """Sets g, or multiplies the plain weight."""
        layer = self.module
        if isinstance(layer, WeightNormed):
            g = layer.pair()[1]
            g.copy_(layer.from_length(scale.view_as(g)))
        else:
            groups = transposed_groups(layer)
            rows = units_first(layer.weight, groups)
            units = (groups, -1) if groups else (-1,)
            rows *= scale.view(*units, *[1] * (rows.dim() - len(units)))

    def note(self, report: DataInitReport, scaled: bool) -> None:
        """A layer that ran, perhaps without its mean or its deviation."""
        report.initialised.append(self.name)
        if not scaled:
            report.incomplete[self.name] = "its norm fixes the length of w: only the mean was set"
        elif self.module.bias is None and self.norm is None:
            explain(report.incomplete, self.name, "it has no bias: only the deviation was set")


class Norm(Target):
    """The normalizer behind a layer, in front of the nonlinearity."""

    def to_unit(self, x: Tensor) -> Tensor | None:
        """Bias 0 and scale 1, where there are any, and the running statistics of ``x``."""
        norm = self.module
        set_statistics(norm, x, x.dim() - 1 - self.n_spatial, self.name)
        if getattr(norm, "bias", None) is not None:
            norm.bias.zero_()
        if getattr(norm, "weight", None) is None:
            return None
        return torch.ones_like(norm.weight.fill_(1.0))

    def set_scale(self, scale: Tensor) -> None:
        """Sets the normalizer's own scale."""
        self.module.weight.copy_(scale)

    def note(self, report: DataInitReport, scaled: bool) -> None:
        """A normalizer without bias, which leaves the mean as it is."""
        if getattr(self.module, "bias", None) is None:
            reason = "its normalizer has no bias: only the deviation was set"
            explain(report.incomplete, self.name, reason)


def _fits(scale: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
    """Where ``dtype`` holds both: neither overflows, nor does the scale underflow."""
    limits = torch.finfo(dtype)
    return (scale <= limits.max) & (scale >= limits.tiny) & (shift.abs() <= limits.max)


def set_statistics(norm: Any, x: Tensor, axis: int, name: str) -> None:
    """Sets the running statistics of ``norm``, where it has some, to those of ``x``."""
    if getattr(norm, "running_mean", None) is not None:
        mean, std = statistics(x, axis, name)
        norm.running_mean.copy_(mean)
        if hasattr(norm, "running_var"):
            norm.running_var.copy_(std.square())


def statistics(t: Tensor, axis: int, name: str) -> tuple[Tensor, Tensor]:
    """Mean and population deviation of each feature, ``(C,)``, over all processes."""
    rows = t.detach().movedim(axis, 0).flatten(1)  # (C, batch and positions)
    # Squares of float32 overflow from 1e19 on; Apple's GPUs have no wider type.
    rows = rows.to(torch.float32 if t.device.type == "mps" else torch.float64)
    together = distributed.is_available() and distributed.is_initialized()
    total = torch.cat([rows.sum(1), rows.new_tensor([rows.shape[1]])])
    if together:
        distributed.all_reduce(total)
    count = total[-1]
    mean = total[:-1] / count
    squares = (rows - mean.unsqueeze(1)).square().sum(1)
    if together:
        distributed.all_reduce(squares)
    if count < 2:
        raise UsageError(f"data_init needs more than one value for each feature, {name} has one")
    if not (mean.isfinite() & squares.isfinite()).all():
        raise UsageError(f"data_init met pre-activations of {name} that are not finite")
    return mean, (squares / count).sqrt()


@torch.no_grad()
def data_init(
    module: nn.Module, *inputs: Any, init_scale: float = 1.0, skip: Iterable[str] = ()
) -> DataInitReport:
    """Scales and shifts each layer so that its pre-activations are standardised on ``inputs``.

    In one forward pass, layer by layer: with ``t = v·x/‖v‖`` (eq. 5) and the mean and population
    deviation of t over batch and positions, ``g := init_scale/σ[t]`` and
    ``b := −μ[t] init_scale/σ[t]`` (eq. 6). Plain layers are treated alike: their weight is scaled.
    Behind a normalizer that ``convert`` put before the nonlinearity, it is the normalizer's output
    that is standardised, and its running statistics become those of this batch.

    It is one call and leaves no flag: nothing of it is repeated when a checkpoint is loaded. Where
    ``torch.distributed`` is initialised, each process calls it with its share of the batch and the
    same weights (call it on the ``DistributedDataParallel`` module), and the statistics are those
    of all. Target networks and other copies have to be loaded again afterwards.

    Args:
        module: plain or converted; called as ``module(*inputs)``, in the mode it is in.
        *inputs: a batch that represents the data.
        init_scale: the standard deviation afterwards.
        skip: names of layers, or of parts with all that is in them, to leave as they are; heads
            whose gain was chosen belong here.

    Returns:
        The layers that were initialised, and all that needs to be known about the others.

    Raises:
        UsageError: ``init_scale`` is not above zero, ``skip`` has an unknown name, a layer is lazy
            or sees one value for each feature, or pre-activations are not finite. The module is
            unchanged.
    """
    check_positive(init_scale=init_scale)
    net = module.module if isinstance(module, DistributedDataParallel) else module
    skipped = skipped_modules(net, skip)
    check_values(net)
    report = DataInitReport()
    targets = _targets(net, skipped, init_scale, report)
    saved = copy.deepcopy(net.state_dict())  # with what is no tensor, such as extra state
    handles = [handle for target in targets for handle in target.hook(report)]
    handles += _follow_nonlinearities(net, skipped)
    try:
        net(*inputs)
    except BaseException:
        net.load_state_dict(saved)
        raise
    finally:
        for handle in handles:
            handle.remove()
    for target in targets:
        if not target.done:
            report.skipped.setdefault(target.name, "these inputs did not reach it")
    return report


def _targets(
    net: nn.Module, skipped: set[int], init_scale: float, report: DataInitReport
) -> list[Target]:
    """What will be standardised; ``report`` takes what cannot be."""
    behind: dict[int, nn.Module] = {}  # the normalizer behind a layer
    for part in net.modules():
        if isinstance(part, Normalized) and n_spatial(part.layer) is not None:
            behind[id(part.layer)] = part.norm
    owners = _kept(net, skipped)
    targets: list[Target] = []
    for path, part in net.named_modules():
        if id(part) in skipped or isinstance(part, nn.Embedding):
            continue
        norm = behind.get(id(part))
        name = path if norm is None else path.removesuffix(".layer")
        if n_spatial(part) is None:
            if isinstance(part, (*WEIGHTED, WeightNormed)):
                report.skipped[name] = f"{type(part).__name__} has no pre-activation of its own"
            continue
        own = {id(p): key for key, p in part.named_parameters(recurse=False)}
        if not any(p.requires_grad for p in part.parameters(recurse=False)):
            report.skipped[name] = "is frozen: none of its parameters requires grad"
            continue
        if tied := [key for key in own if key in owners]:
            kind = own[tied[0]].removesuffix("_g").removesuffix("_v")
            report.skipped[name] = f"shares its {kind} with {owners[tied[0]]}"
            continue
        owners |= dict.fromkeys(own, name)
        axes = n_spatial(part) or 0
        scaled_later = getattr(norm, "weight", None) is not None
        goal = 1.0 if scaled_later else init_scale
        targets.append(Layer(name, part, axes, goal, norm))
        if norm is not None:
            targets.append(Norm(name, norm, axes, init_scale))
    return targets


def _follow_nonlinearities(net: nn.Module, skipped: set[int]) -> list[RemovableHandle]:
    """Gives normalizers behind nonlinearities the statistics of what they first see."""
    first: set[int] = set()

    names = {
        id(part.norm): name
        for name, part in net.named_modules()
        if isinstance(part, Normalized) and n_spatial(part.layer) is None
    }

    def before(norm: Any, args: tuple[Tensor, ...]) -> None:
        if id(norm) not in first:
            first.add(id(norm))
            set_statistics(norm, args[0], 1, names[id(norm)])

    return [
        part.register_forward_pre_hook(before)
        for part in net.modules()
        if id(part) in names and id(part) not in skipped
    ]


def _kept(net: nn.Module, skipped: set[int]) -> dict[int, str]:
    """The parameters that must stay as they are, by identity, with the name of their module."""
    return {
        id(parameter): path
        for path, part in net.named_modules()
        if id(part) in skipped or n_spatial(part) is None
        for parameter in part.parameters(recurse=False)
    }
