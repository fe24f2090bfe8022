"""Data-dependent initialisation (Salimans & Kingma 2016, arXiv:1602.07868, eq. 5 and 6)."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from wnrl.errors import check_positive
from wnrl.nn.base import WeightNormed
from wnrl.nn.convert import WEIGHTED
from wnrl.nn.convertible import check_values
from wnrl.nn.normalised import Normalised
from wnrl.nn.slots import N_SPATIAL, is_nonlinear, skipped_modules
from wnrl.nn.standardise import DataInitReport, Layer, Norm, Target, set_statistics

FEED_FORWARD = N_SPATIAL


@torch.no_grad()
def data_init(
    module: nn.Module, *inputs: Any, init_scale: float = 1.0, skip: Iterable[str] = ()
) -> DataInitReport:
    """Scales and shifts each layer so that its pre-activations are standardised on ``inputs``.

    In one forward pass, layer by layer: with ``t = v·x/‖v‖`` (eq. 5) and the mean and population
    deviation of t over batch and positions, ``g := init_scale/σ[t]`` and
    ``b := −μ[t] init_scale/σ[t]`` (eq. 6). Plain layers are treated alike: their weight is scaled.
    Behind a normaliser that ``convert`` put before the nonlinearity, it is the normaliser's output
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
    behind: dict[int, nn.Module] = {}  # the normaliser behind a layer
    for part in net.modules():
        if isinstance(part, Normalised) and not is_nonlinear(part.layer):
            behind[id(part.layer)] = part.norm
    owners = _kept(net, skipped)
    targets: list[Target] = []
    for path, part in net.named_modules():
        if id(part) in skipped or isinstance(part, nn.Embedding):
            continue
        norm = behind.get(id(part))
        name = path if norm is None else path.removesuffix(".layer")
        if type(part) not in FEED_FORWARD:
            if isinstance(part, (*WEIGHTED, WeightNormed)):
                report.skipped[name] = f"{type(part).__name__} has no pre-activation of its own"
            continue
        own = {id(p): key for key, p in part.named_parameters(recurse=False)}
        if tied := [key for key in own if key in owners]:
            kind = own[tied[0]].removesuffix("_g").removesuffix("_v")
            report.skipped[name] = f"shares its {kind} with {owners[tied[0]]}"
            continue
        owners |= dict.fromkeys(own, name)
        n_spatial = FEED_FORWARD[type(part)]
        scaled_later = getattr(norm, "weight", None) is not None
        goal = 1.0 if scaled_later else init_scale
        targets.append(Layer(name, part, n_spatial, goal, norm))
        if norm is not None:
            targets.append(Norm(name, norm, n_spatial, init_scale))
    return targets


def _follow_nonlinearities(net: nn.Module, skipped: set[int]) -> list[RemovableHandle]:
    """Gives normalisers behind nonlinearities the statistics of what they first see."""
    first: set[int] = set()

    names = {
        id(part.norm): name
        for name, part in net.named_modules()
        if isinstance(part, Normalised) and is_nonlinear(part.layer)
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
        if id(part) in skipped or type(part) not in FEED_FORWARD
        for parameter in part.parameters(recurse=False)
    }
