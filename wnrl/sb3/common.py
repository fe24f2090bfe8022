"""What the normalised policies of all algorithms share, and what their optimizers must have."""

import copy
import inspect
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim import Adam, AdamW, Optimizer

from wnrl.errors import StateError, UsageError, check_choice
from wnrl.nn import plain_parts
from wnrl.norms import NORMS
from wnrl.optim import WeightNormalized, layer_weights
from wnrl.sb3.conversion import Conversion, output_layers
from wnrl.sb3.data_init import FirstBatch
from wnrl.sb3.parts import Part, drop_graphs, follow, is_target, part_class, trained_parts


class NormBase(FirstBatch):
    """Gives a policy of SB3 five more arguments, and its networks a norm.

    Mixins derive from it, one a family of algorithms, and stand in front of SB3's class. SB3
    builds and initialises its plain networks first, so that the initialisation (orthogonal, 0.01
    at the action head) is exactly SB3's. A mixin says where conversion follows:

    - where SB3 makes networks in methods of the policy, ``make_actor`` say, it overrides these
      and returns ``self._normed(super().make_actor(...), heads)``. Targets, which SB3 makes with
      the same methods, and optimizers, which it makes afterwards, are right by construction;
    - otherwise it overrides ``_after_init``, converts ``self`` there and makes the optimizer anew.

    After both, this class checks that every trained parameter is in an optimizer. What is named
    ``*_target`` is not trained. For ``data_init``, a mixin says in ``_run_hidden`` how its networks
    are run.

    Output heads stay plain under every norm unless asked for. Normalizers and projection leave
    them alone by definition, also where a squashing function follows, and spectral norm would undo
    the 0.01 of the action head. Weight norm could take them; what that did to returns is in
    docs/results.md. Under Adam it bounds how fast a head can grow: each step changes its length g
    by about one learning rate, however many inputs it has.

    Args:
        *args: those of the policy.
        norm: a key of ``NORMS``; None takes the class's own (``weight`` unless said otherwise).
        norm_kwargs: options of the norm, as ``wnrl.convert`` takes them.
        placement: whether normalizers stand in front of the nonlinearity (``pre``) or behind it
            (``post``).
        norm_heads: whether the output heads take the norm too, if it reparametrises layers.
        data_init: number of observations on which the hidden layers are initialised, once, before
            the first gradient step; ``wnrl.sb3.data_init`` says how. None leaves SB3's
            initialisation.
        **kwargs: those of the policy.

    Attributes:
        norm: the key in use.
        plain_parts: names of the layers that are plain though the norm is for such layers: those
            that it cannot be applied to, such as an LSTM under batch norm, and the heads under
            norms that reparametrise layers, such as ``weight``, unless ``norm_heads``. Norms of
            hidden layers alone do not list the heads, and targets, made like their originals, are
            left out.
        data_init_report: what ``wnrl.data_init`` did, once it was done in this process.

    Raises:
        UsageError: an argument, the norm or one of its options is unknown or of another type, the
            networks have no layer that the norm is for, ``data_init`` makes no sense, a parameter
            is in no optimizer, or the optimizer would normalise v.
    """

    default_norm: ClassVar[str] = "weight"
    own_names: tuple[str, ...] = ("norm", "norm_kwargs", "placement", "norm_heads", "data_init")
    """Arguments that SB3's class behind the mixin does not have."""

    def __init__(
        self,
        *args: Any,
        norm: str | None = None,
        norm_kwargs: dict[str, Any] | None = None,
        placement: str = "pre",
        norm_heads: bool = False,
        data_init: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.norm = check_choice("norm", self.default_norm if norm is None else norm, NORMS)
        self.norm_kwargs = dict(norm_kwargs or {})
        self.placement = placement
        self.norm_heads = norm_heads
        self.data_init = data_init
        try:
            self._arguments = named_arguments(super().__init__, *args, **kwargs)
        except TypeError as error:  # says what, but not whose
            raise UsageError(f"{type(self).__name__} {error}") from None
        self._heads: list[nn.Module] = []
        super().__init__(*args, **kwargs)
        self._after_init()
        follow(self)
        self.plain_parts = self._find_plain_parts()
        self._check_norm_has_a_place()
        self._prepare_optimizers()
        self.expect_data()

    def _after_init(self) -> None:
        """Convert what SB3's constructor made, where no ``make_*`` did."""

    def _find_plain_parts(self) -> list[str]:
        """Return what the attribute ``plain_parts`` is to hold."""
        parts = plain_parts(self, self.norm)
        names = [name for name in parts if not is_target(name.split(".")[0])]
        if NORMS[self.norm].reparametrizes and not self.norm_heads:
            return names
        # A head with a squashing function behind it looks like a hidden layer.
        return [name for name in names if self.get_submodule(name) not in self._heads]

    def _normed(self, net: Any, heads: Iterable[str], mixin: type[Part] = Part) -> Any:
        """Give ``net`` the norm, in place.

        Args:
            net: the policy, or a network as SB3 made it.
            heads: names of its submodules that end in an output layer: ``("mu", "log_std")`` for
                the actor of SAC. Of each, the last linear layer is the head.
            mixin: what a network becomes, but for the policy itself.
        """
        names, conversion = output_layers(net, heads), self._conversion()
        if net is self:
            conversion.apply(net, names)
        else:
            origin: Any = (mixin, type(net))  # the mixin's methods in front of its own
            net.__class__ = part_class(*origin)
            net.convert(conversion, names)
        self._heads += [net.get_submodule(name) for name in names]
        return net

    def _conversion(self) -> Conversion:
        """Return what gives networks the norm."""
        with torch.random.fork_rng(devices=[]):  # one that draws: the critic starts as stock's
            kinds = (type(self.activation_fn()),)
        return Conversion(self.norm, self.norm_kwargs, self.norm_heads, kinds, self.placement)

    def _prepare_optimizers(self) -> None:
        """Check that the optimizers have all that is trained, and fit them to the norm."""
        optimizers = find_optimizers(self)
        check_optimized(trained_parts(self), *(optimizer for _, optimizer in optimizers))
        weight_normed = any(name.endswith("weight_g") for name, _ in self.named_parameters())
        for part, optimizer in optimizers:
            if weight_normed and isinstance(optimizer, WeightNormalized):
                raise UsageError(
                    "a network with weight norm trains v and g already, which "
                    f"{type(optimizer).__name__} would normalise again: take norm='none' with it"
                )
            use_fused(optimizer)
            if weight_normed or NORMS[self.norm].after_step is not None:
                spare_from_decay(optimizer, part)

    def _check_norm_has_a_place(self) -> None:
        """Raise UsageError if the norm is for layers that the networks do not have."""
        norm = NORMS[self.norm]
        if self.norm == "none" or norm.reparametrizes or any(map(norm.reached, self.modules())):
            return
        if not NormBase._hidden_layers(self):
            raise UsageError(
                f"norm {self.norm!r} is for hidden layers, and the networks have none: "
                f"net_arch={self.net_arch!r}"
            )

    def __getstate__(self) -> dict[str, Any]:
        drop_graphs(self)
        return super().__getstate__()  # type: ignore[no-untyped-call]

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As torch's, but nothing is loaded if anything does not fit.

        Raises:
            StateError: the state is of other networks or of another norm; without ``strict``, one
                of the tensors that both have is of another shape.
        """
        before = copy.deepcopy(self.state_dict())
        try:
            result = super().load_state_dict(state_dict, strict=strict)
        except RuntimeError as error:
            super().load_state_dict(before)
            raise StateError(
                f"the state is of another policy than {type(self).__name__} with norm "
                f"{self.norm!r}: {' '.join(str(error).split())}"
            ) from None
        # What fits is known: with assign, parameters could not be put back as they were.
        return super().load_state_dict(state_dict, strict, assign=True) if assign else result

    def _get_constructor_parameters(self) -> dict[str, Any]:
        # SB3's own list lacks some, and has what a subclass may have chosen for itself.
        chosen = {name: getattr(self, name) for name in self.own_names}
        return {**self._arguments, "lr_schedule": self._dummy_schedule, **chosen}


def named_arguments(function: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return the arguments of a policy's constructor by name, also where it passes them on.

    The schedule is left out: loading a policy needs none, and not every schedule can be pickled.
    """
    signature = inspect.signature(function)
    signature.bind(*args, **kwargs)
    names = [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    names += ("observation_space", "action_space", "lr_schedule")[len(names) :]  # as SB3 calls it
    named = {**dict(zip(names, args, strict=False)), **kwargs}
    named.pop("lr_schedule", None)
    return named


def find_optimizers(policy: nn.Module) -> list[tuple[nn.Module, Optimizer]]:
    """The optimizers of a policy, each with the part of it that has it."""
    owned = [(part, getattr(part, "optimizer", None)) for part in policy.modules()]
    return [(part, found) for part, found in owned if isinstance(found, Optimizer)]


def check_optimized(module: nn.Module, *optimizers: Optimizer) -> None:
    """Raises UsageError if a parameter of ``module`` is in none of the optimizers."""
    held = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
    lost = [name for name, p in module.named_parameters() if id(p) not in held]
    if lost:
        raise UsageError(f"parameters in no optimizer: {', '.join(lost)}")


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
    layers = [layer for layer in module.modules() if not getattr(layer, "projected", False)]
    plain = {weight for layer in layers for weight in layer_weights(layer)}
    decayed = [p for p in group["params"] if p in plain]
    spared = [p for p in group["params"] if p not in plain]
    if not decayed:
        group["weight_decay"] = 0.0
    elif spared:
        group["params"] = decayed
        optimizer.add_param_group({**group, "params": spared, "weight_decay": 0.0})


def use_fused(optimizer: Optimizer) -> None:
    """Lets an Adam that has not stepped yet use torch's fused kernel, if nobody chose otherwise.

    On a CPU torch's Adam loops over the parameters in Python, a dozen operations for each; weight
    norm has two for each weight. The fused kernel is the same rule in one call: for the small
    networks of PPO and DQN that is a tenth of an update, plain or normalised.

    A choice is ``optimizer_kwargs`` with ``fused``, ``foreach`` or ``differentiable``. Optimizers
    of other types, subclasses of Adam among them, stay as they are. What a fused Adam computes
    differs from the loop's in the last digits.
    """
    if type(optimizer) in (Adam, AdamW):
        for options in (optimizer.defaults, *optimizer.param_groups):
            if options["fused"] is options["foreach"] is None and not options["differentiable"]:
                options["fused"] = True
