"""What the normalised policies of all algorithms share."""

import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn
from torch.optim import Optimizer

from wnrl.errors import UsageError, check_choice
from wnrl.nn import DataInitReport, WeightNormed, convert, data_init, plain_parts
from wnrl.nn.data_init import FEED_FORWARD
from wnrl.nn.projection import projected_weights
from wnrl.norms import NORMS
from wnrl.optim import WeightNormalized, project_after_step
from wnrl.sb3.data_init import FirstBatch, Observations, PolicyInit
from wnrl.sb3.fused import use_fused

Net = TypeVar("Net", bound=nn.Module)

HEAD_NORMS = {"weight": "weight", "weight_mean": "weight", "spectral": "spectral"}
"""What a head takes when it takes the norm at all; other norms are for hidden layers alone."""

POSITIONAL = ("observation_space", "action_space", "lr_schedule")
"""What SB3 constructs policies with by position."""

if TYPE_CHECKING:
    _Policy = BasePolicy
else:
    _Policy = object


class NormBase(_Policy):
    """Gives a policy of SB3 four more arguments, and its networks a norm.

    Mixins derive from it, one a family of algorithms, and stand in front of SB3's class. SB3
    builds and initialises its plain networks first, so that the initialisation (orthogonal, 0.01
    at the action head) is exactly SB3's. A mixin says where conversion follows:

    - where SB3 makes networks in methods of the policy, ``make_actor`` say, it overrides these
      and returns ``self._normed(super().make_actor(...), heads)``. Targets, which SB3 makes with
      the same methods, and optimizers, which it makes afterwards, are right by construction;
    - otherwise it overrides ``_after_init``, converts ``self`` there and makes the optimizer anew
      with ``self._renew_optimizer()``.

    After both, this class checks that every trained parameter is in an optimizer, and projects
    after each step where the norm asks for it. What is named ``*_target`` is not trained.

    Output heads stay plain under every norm unless asked for. Normalisers and projection leave
    them alone by definition, also where a squashing function follows, and spectral norm would undo
    the 0.01 of the action head. Weight norm could take them; what that did to returns is in
    docs/results.md. Under Adam it bounds how fast a head can grow: each step changes its length g
    by about one learning rate, however many inputs it has.

    Args:
        *args: those of the policy.
        norm: a key of ``NORMS``; None takes the class's own (``weight`` unless said otherwise).
        norm_kwargs: options of the norm, as ``wnrl.convert`` takes them.
        norm_heads: whether the output heads take the norm too, where it has a way.
        data_init: number of observations on which the hidden layers are initialised, once, before
            the first gradient step; ``wnrl.sb3.data_init`` says how. None leaves SB3's
            initialisation.
        **kwargs: those of the policy.

    Attributes:
        norm: the key in use.
        plain_parts: names of the layers that are plain though the norm is for such layers: those
            that it cannot be applied to, such as an LSTM under batch norm, and the heads under
            ``weight``, ``weight_mean`` and ``spectral`` unless ``norm_heads``. Norms of hidden
            layers alone do not list the heads, and targets, made like their originals, are left
            out.
        data_init_report: what ``wnrl.data_init`` did, once it was done in this process.

    Raises:
        UsageError: the norm or one of its options is unknown, ``data_init`` makes no sense, a
            parameter is in no optimizer, or the optimizer would normalise v.
    """

    default_norm: ClassVar[str] = "weight"
    policy_init: ClassVar[type[PolicyInit]] = FirstBatch
    """Where the observations of ``data_init`` come from."""
    data_init_report: DataInitReport

    def __init__(
        self,
        *args: Any,
        norm: str | None = None,
        norm_kwargs: dict[str, Any] | None = None,
        norm_heads: bool = False,
        data_init: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.norm = check_choice("norm", self.default_norm if norm is None else norm, NORMS)
        self.norm_kwargs = dict(norm_kwargs or {})
        self.norm_heads = norm_heads
        self.data_init = data_init
        self._arguments = named_arguments(super().__init__, *args, **kwargs)
        self._heads: list[nn.Module] = []
        self._init: PolicyInit | None = None
        super().__init__(*args, **kwargs)
        self._after_init()
        self.plain_parts = self._find_plain_parts()
        self._check_optimizers()
        for _, optimizer in self._optimizers():
            use_fused(optimizer)
        if NORMS[self.norm].projected or HEAD_NORMS.get(self.norm) == "weight":
            for part, optimizer in self._optimizers():
                spare_from_decay(optimizer, part)
        self._project_after_steps()
        if data_init is not None:
            self._init = self.policy_init(self, data_init)

    def _after_init(self) -> None:
        """Converts what SB3's constructor made, where no ``make_*`` did."""

    def _find_plain_parts(self) -> list[str]:
        """What the attribute ``plain_parts`` is to hold."""
        parts = plain_parts(self, self.norm)
        names = [name for name in parts if not _is_target(name.split(".")[0])]
        if self.norm in HEAD_NORMS and not self.norm_heads:
            return names
        # A head with a squashing function behind it looks like a hidden layer.
        heads = {id(head) for head in self._heads}
        return [name for name in names if id(self.get_submodule(name)) not in heads]

    def _normed(self, net: Net, heads: Iterable[str]) -> Net:
        """Gives ``net`` the norm, in place.

        Args:
            net: as SB3 made it.
            heads: names of its submodules that end in an output layer: ``("mu", "log_std")`` for
                the actor of SAC. Of each, the last linear layer is the head. A name that ``net``
                does not have is passed over: ``log_std`` is no layer under gSDE.
        """
        names = output_layers(net, heads)
        self._convert(net, names)
        self._heads += [net.get_submodule(name) for name in names]
        return net

    def _convert(self, net: nn.Module, heads: list[str]) -> None:
        """Gives the layers of ``net`` the norm; ``heads`` are its output layers."""
        convert(net, self.norm, skip=heads, norm_kwargs=self.norm_kwargs)
        head_norm = HEAD_NORMS.get(self.norm)
        if self.norm_heads and head_norm:
            options = NORMS[head_norm].layer_options
            kept = {key: value for key, value in self.norm_kwargs.items() if key in options}
            convert(net, head_norm, norm_kwargs=kept)  # only the heads are still plain

    def _renew_optimizer(self) -> None:
        """Makes ``self.optimizer`` anew: conversion has replaced parameters that it held."""
        if len(self.optimizer.param_groups) != 1:
            raise UsageError(
                f"{type(self).__name__} has an optimizer of {len(self.optimizer.param_groups)} "
                "parameter groups; a policy with a norm can have only one"
            )
        learning_rate = self.optimizer.param_groups[0]["lr"]
        self.optimizer = self.optimizer_class(
            self.parameters(),
            lr=learning_rate,  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )

    def _check_optimizers(self) -> None:
        """Raises UsageError if one trains what another part does already, or none does."""
        optimizers = [optimizer for _, optimizer in self._optimizers()]
        check_optimized(trained_parts(self), *optimizers)
        for optimizer in optimizers:
            if isinstance(optimizer, WeightNormalized) and HEAD_NORMS.get(self.norm) == "weight":
                raise UsageError(
                    f"norm {self.norm!r} trains v and g already, which "
                    f"{type(optimizer).__name__} would normalise again: take norm='none' with it"
                )

    def _optimizers(self) -> list[tuple[nn.Module, Optimizer]]:
        """The optimizers, each with the part of the policy that has it."""
        owned = [(part, getattr(part, "optimizer", None)) for part in self.modules()]
        return [(part, found) for part, found in owned if isinstance(found, Optimizer)]

    def _project_after_steps(self) -> None:
        """Puts projected rows back on the sphere after each step, where the norm asks for it."""
        if NORMS[self.norm].projected:
            for part, optimizer in self._optimizers():
                if projected_weights(stepped := _stepped_parts(part, optimizer)):
                    project_after_step(optimizer, stepped)

    def __getstate__(self) -> dict[str, Any]:
        drop_graphs(self)
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._project_after_steps()  # torch's optimizers lose their hooks in copies

    def set_training_mode(self, mode: bool) -> None:
        """As SB3's, which calls it before each rollout and before each update."""
        super().set_training_mode(mode)
        if self._init is not None:
            self._init.enter(mode)

    def _run_hidden(self, obs: Observations) -> None:
        """Runs the hidden layers that are trained, each once, on preprocessed observations.

        ``data_init`` sets the layers that this reaches.
        """
        raise NotImplementedError

    def _hidden_layers(self) -> list[str]:
        """The names of the layers that ``data_init`` is for."""
        heads = {id(head) for head in self._heads}
        parts = trained_parts(self).named_modules()
        return [name for name, p in parts if type(p) in FEED_FORWARD and id(p) not in heads]

    def _init_hidden(self, obs: Observations) -> DataInitReport:
        """Initialises what ``_run_hidden`` reaches, on preprocessed observations, and targets."""
        parts: Any = trained_parts(self)
        parts.forward = self._run_hidden
        heads = {id(head) for head in self._heads}
        skip = [name for name, part in parts.named_modules() if id(part) in heads]
        report = data_init(parts, obs, skip=skip)
        for name, target in self.named_children():
            if _is_target(name):
                target.load_state_dict(getattr(self, name.removesuffix("_target")).state_dict())
        return report

    def _get_constructor_parameters(self) -> dict[str, Any]:
        # SB3's own list lacks some, and has what a subclass may have chosen for itself.
        return {
            **self._arguments,
            "lr_schedule": self._dummy_schedule,
            "norm": self.norm,
            "norm_kwargs": self.norm_kwargs,
            "norm_heads": self.norm_heads,
            "data_init": self.data_init,
        }


def drop_graphs(policy: nn.Module) -> None:
    """Detaches what the last update left in SB3's distributions: no copy can have its graph."""
    for part in policy.modules():
        distribution = getattr(part, "action_dist", None)
        for name, value in vars(distribution).items() if distribution is not None else ():
            if isinstance(value, Tensor):
                setattr(distribution, name, value.detach())
            elif isinstance(value, torch.distributions.Distribution):
                setattr(distribution, name, None)  # the next forward makes it anew


def _is_target(name: str) -> bool:
    return name.endswith("_target")


def trained_parts(module: nn.Module) -> nn.Module:
    """The parts of ``module`` that an optimizer trains, under their names: all but targets."""
    trained = nn.Module()
    for name, child in module.named_children():
        if not _is_target(name):
            trained.add_module(name, child)
    for name, parameter in module.named_parameters(recurse=False):
        trained.register_parameter(name, parameter)
    return trained


def _stepped_parts(module: nn.Module, optimizer: Optimizer) -> nn.Module:
    """``trained_parts`` less children that another optimizer steps: a shared features extractor."""
    stepped = trained_parts(module)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, child in list(stepped.named_children()):
        if not any(id(p) in held for p in child.parameters()):
            delattr(stepped, name)
    return stepped


def spare_from_decay(optimizer: Optimizer, module: nn.Module) -> None:
    """Moves what weight decay is not for into a group without, before the first step.

    Decay of v only raises the effective learning rate, that of g shrinks w, and projection undoes
    that of the rows. What remains are plain weights with a length of their own: the output layers,
    where CrossQ with projected weights has its decay (Palenicek et al. 2025, arXiv:2502.07523).

    Args:
        optimizer: one without weight decay, or with several groups, stays as it is.
        module: has its parameters.
    """
    group, *others = optimizer.param_groups
    if others or not group.get("weight_decay") or isinstance(optimizer, WeightNormalized):
        return
    plain = {
        id(parameter)
        for layer in module.modules()
        if not (isinstance(layer, WeightNormed) or getattr(layer, "projected", False))
        for name, parameter in layer.named_parameters(recurse=False)
        if name.startswith("weight") and parameter.dim() > 1
    }
    decayed = [p for p in group["params"] if id(p) in plain]
    spared = [p for p in group["params"] if id(p) not in plain]
    if not decayed:
        group["weight_decay"] = 0.0
    elif spared:
        group["params"] = decayed
        optimizer.add_param_group({**group, "params": spared, "weight_decay": 0.0})


def output_layers(net: nn.Module, heads: Iterable[str]) -> list[str]:
    """The name of the last linear layer in each of the submodules ``heads`` that ``net`` has."""
    parts = dict(net.named_modules())
    found = []
    for head in heads:
        inside = parts[head].named_modules(prefix=head) if head in parts else ()
        layers = [name for name, part in inside if isinstance(part, nn.Linear)]
        found += layers[-1:]
    return found


def check_optimized(module: nn.Module, *optimizers: Optimizer) -> None:
    """Raises UsageError if a parameter of ``module`` is in none of the optimizers."""
    held = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
    lost = [name for name, p in module.named_parameters() if id(p) not in held]
    if lost:
        raise UsageError(f"parameters in no optimizer: {', '.join(lost)}")


def named_arguments(function: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The arguments of a policy's constructor by name, also where it passes them on as they come.

    The schedule is left out: loading a policy needs none, and not every schedule can be pickled.
    """
    signature = inspect.signature(function)
    named: dict[str, Any] = {}
    for name, value in signature.bind(*args, **kwargs).arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            named.update(value)
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            named.update(zip(POSITIONAL[len(named) :], value, strict=False))
        else:
            named[name] = value
    named.pop("lr_schedule", None)
    return named
