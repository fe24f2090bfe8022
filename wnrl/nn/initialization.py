"""Data-dependent initialisation (Salimans & Kingma 2016, arXiv:1602.07868, eq. 5 and 6)."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from wnrl.errors import UsageError
from wnrl.limits import Positive
from wnrl.nn.base import WeightNormed
from wnrl.nn.functional import transposed_groups, units_first
from wnrl.nn.normalizers import Normalized
from wnrl.nn.norms import fixes_length
from wnrl.nn.sites import WEIGHTED, check_values, n_spatial, skipped_modules

CONSTANT = 1e-6
"""A feature that deviates by less than this share of its size does not vary: it is rounding."""


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


@dataclass(eq=False)
class Target:
    """A layer, or the normalizer behind one, whose output is to be standardised."""

    name: str
    """How it is reported."""
    report: DataInitReport
    module: Any
    n_spatial: int
    """The number of axes of its output behind that of the features."""
    goal: float
    """The standard deviation that its output gets."""
    behind: nn.Module | None = None
    """The normalizer behind a layer."""
    normalizes: bool = False
    """Whether it is a normalizer."""
    done: bool = False
    length: Tensor | None = None
    """What a constant feature keeps, ``(C,)`` or ``()``; None if the scale cannot be set."""

    def explain(self, reason: str) -> None:
        """Report, once, why the layer is not standardised at every use, in mean and scale."""
        known = self.report.incomplete.setdefault(self.name, reason)
        if reason not in known:
            self.report.incomplete[self.name] = f"{known}; {reason}"

    def to_unit(self, *_: Any) -> None:
        """Before the first call, take bias and length away, but for a plain weight's."""
        module = self.module
        if self.done:
            return
        if getattr(module, "bias", None) is not None:
            module.bias.zero_()
        if isinstance(module, WeightNormed):
            g = module.pair()[1]
            self.length = module.length(g).detach().flatten().clone()
            g.copy_(module.from_length(torch.ones_like(g)))
        elif getattr(module, "weight", None) is not None and not fixes_length(module):
            self.length = module.weight.new_ones(())
            if self.normalizes:
                module.weight.fill_(1.0)

    def standardise(self, _: nn.Module, args: tuple[Tensor, ...], t: Tensor) -> Tensor | None:
        """After the first call, set scale and shift by equation 6; return what the output becomes.

        A layer that is used twice is initialised once.
        """
        if self.done:
            self.explain("used more than once: standardised at its first use")
            return None
        self.done = True
        mean, std = statistics(t, t.dim() - 1 - self.n_spatial, self.name)
        scale, shift = torch.ones_like(mean), torch.zeros_like(mean)
        if self.length is not None:
            scale = self.goal / std
            constant = std <= CONSTANT * (mean.square() + std.square()).sqrt()
            limits = torch.finfo(self.length.dtype)
            fits = (scale <= limits.max) & (scale >= limits.tiny)
            beyond = ~constant & ~(fits & ((mean * scale).abs() <= limits.max))
            if constant.any():
                self.report.constant[self.name] = constant.nonzero().flatten().tolist()
            if beyond.any():
                which = beyond.nonzero().flatten().tolist()
                limit = f"what they need is beyond {limits.dtype}"
                self.explain(f"features {which} keep their length: {limit}")
            scale = torch.where(constant | beyond, self.length.to(std), scale)
            self.multiply(scale)
        if (bias := getattr(self.module, "bias", None)) is not None:
            shift = -mean * scale
            bias.copy_(shift)
        if not self.normalizes:
            self.report.initialised.append(self.name)
        if self.length is None and not self.normalizes:
            self.explain("its norm fixes the length of w: only the mean was set")
        elif bias is None and self.behind is None:
            it = "its normalizer" if self.normalizes else "it"
            self.explain(f"{it} has no bias: only the deviation was set")
        view = [-1, *[1] * self.n_spatial]
        return (t * scale.view(view) + shift.view(view)).to(t.dtype)

    def multiply(self, scale: Tensor) -> None:
        """Multiply the unit output by ``scale``, ``(C,)``."""
        if isinstance(self.module, WeightNormed):
            g = self.module.pair()[1]
            g.copy_(self.module.from_length(scale.view_as(g)))
            return
        groups = transposed_groups(self.module)
        rows = units_first(self.module.weight, groups)
        units = (groups, -1) if groups else (-1,)
        rows *= scale.view(*units, *[1] * (rows.dim() - len(units)))


def set_statistics(norm: Any, x: Tensor, name: str) -> None:
    """Set the running statistics of ``norm``, where it has some, to those of ``x``, (B, C, …)."""
    if getattr(norm, "running_mean", None) is not None:
        mean, std = statistics(x, 1, name)
        norm.running_mean.copy_(mean)
        if hasattr(norm, "running_var"):
            norm.running_var.copy_(std.square())


def statistics(t: Tensor, axis: int, name: str) -> tuple[Tensor, Tensor]:
    """Return mean and population deviation of each feature, ``(C,)``, over all processes."""
    rows = t.detach().movedim(axis, 0).flatten(1)  # (C, batch and positions)
    # Squares of float32 overflow from 1e19 on; Apple's GPUs have no wider type.
    rows = rows.to(torch.float32 if t.device.type == "mps" else torch.float64)
    total = _over_processes(torch.cat([rows.sum(1), rows.new_tensor([rows.shape[1]])]))
    count = total[-1]
    mean = total[:-1] / count
    squares = _over_processes((rows - mean.unsqueeze(1)).square().sum(1))
    if count < 2:
        raise UsageError(f"data_init needs more than one value for each feature, {name} has one")
    if not (mean.isfinite() & squares.isfinite()).all():
        raise UsageError(f"data_init met pre-activations of {name} that are not finite")
    return mean, (squares / count).sqrt()


def _over_processes(total: Tensor) -> Tensor:
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(total)
    return total


@torch.no_grad()
def data_init(
    module: nn.Module, *inputs: Any, init_scale: Positive = 1.0, skip: Iterable[str] = ()
) -> DataInitReport:
    """Scale and shift each layer so that its pre-activations are standardised on ``inputs``.

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
    net = module.module if isinstance(module, DistributedDataParallel) else module
    skipped = skipped_modules(net, skip)
    check_values(net)
    report = DataInitReport()
    targets, normalizers = _targets(net, skipped, init_scale, report)
    saved = copy.deepcopy(net.state_dict())  # with what is no tensor, such as extra state

    def before(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        if norm in normalizers:  # for the first time
            set_statistics(norm, args[0], normalizers.pop(norm))

    handles = [target.module.register_forward_pre_hook(target.to_unit) for target in targets]
    handles += [target.module.register_forward_hook(target.standardise) for target in targets]
    handles += [norm.register_forward_pre_hook(before) for norm in normalizers]
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
) -> tuple[list[Target], dict[nn.Module, str]]:
    """Return what will be standardised, and normalizers whose statistics will be set, with names.

    ``report`` takes what cannot be standardised.
    """
    targets: list[Target] = []
    normalizers: dict[nn.Module, str] = {}
    behind: dict[nn.Module, nn.Module] = {}  # the normalizer behind a layer
    owners: dict[Tensor, str] = {}  # the module of each parameter that must stay as it is
    for path, part in net.named_modules():
        if isinstance(part, Normalized) and n_spatial(part.layer) is not None:
            behind[part.layer] = part.norm
        elif isinstance(part, Normalized) and id(part.norm) not in skipped:
            normalizers[part.norm] = path
        if id(part) in skipped or n_spatial(part) is None:
            owners |= dict.fromkeys(part.parameters(recurse=False), path)
    for path, part in net.named_modules():
        if id(part) in skipped or isinstance(part, nn.Embedding):
            continue
        norm, axes = behind.get(part), n_spatial(part)
        name = path if norm is None else path.removesuffix(".layer")
        if axes is None:
            if isinstance(part, (*WEIGHTED, WeightNormed)):
                report.skipped[name] = f"{type(part).__name__} has no pre-activation of its own"
            continue
        own = {parameter: key for key, parameter in part.named_parameters(recurse=False)}
        tied = [parameter for parameter in own if parameter in owners]
        held = [*part.named_parameters(), *(norm.named_parameters("norm") if norm else ())]
        if frozen := [key for key, parameter in held if not parameter.requires_grad]:
            report.skipped[name] = f"is frozen: {', '.join(frozen)}"
            continue
        written = ("weight_g" if isinstance(part, WeightNormed) else "weight", "bias")
        if lost := [k for k in written if k not in part._parameters and hasattr(part, k)]:
            report.skipped[name] = f"is pruned or parametrized: {', '.join(lost)}"
            continue
        if tied:
            kind = own[tied[0]].removesuffix("_g").removesuffix("_v")
            report.skipped[name] = f"shares its {kind} with {owners[tied[0]]}"
            continue
        owners |= dict.fromkeys(own, name)
        scaled_later = getattr(norm, "weight", None) is not None
        goal = 1.0 if scaled_later else init_scale
        targets.append(Target(name, report, part, axes, goal, norm))
        if norm is not None:
            targets.append(Target(name, report, norm, axes, init_scale, normalizes=True))
            normalizers[norm] = name
    return targets, normalizers
