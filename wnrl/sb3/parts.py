"""The networks of a policy of SB3, and what the norms of ours ask of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn
from torch.optim import Optimizer

from wnrl.nn.spectral import Spectral, nearer_vector, power_iteration
from wnrl.norms import NORMS
from wnrl.sb3.conversion import Conversion

Observations = Tensor | dict[str, Tensor]


def map_obs(obs: Observations, function: Callable[[Tensor], Tensor]) -> Observations:
    """Return ``function`` of the observations, or of each part of dict observations."""
    if isinstance(obs, dict):
        return {key: function(value) for key, value in obs.items()}
    return function(obs)


def cat_obs(parts: Sequence[Any]) -> Observations:
    """Return batches of observations as one."""
    if isinstance(parts[0], dict):
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    return torch.cat(list(parts))


def is_target(name: str) -> bool:
    """Return whether the part of that name is a target network, as SB3 names them."""
    return name.endswith("_target")


def trained_parts(module: nn.Module) -> nn.Module:
    """Return the parts of ``module`` that an optimizer trains, under their names: no targets."""
    trained = nn.Module()
    for name, child in module.named_children():
        if not is_target(name):
            trained.add_module(name, child)
    for name, parameter in module.named_parameters(recurse=False):
        trained.register_parameter(name, parameter)
    return trained


def drop_graphs(policy: nn.Module) -> None:
    """Detach what the last update left in SB3's distributions: no copy can have its graph."""
    for part in policy.modules():
        distribution = getattr(part, "action_dist", None)
        for name, value in vars(distribution).items() if distribution is not None else ():
            if isinstance(value, Tensor):
                setattr(distribution, name, value.detach())
            parts = value if isinstance(value, list) else [value]  # one for each of several actions
            if any(isinstance(part, torch.distributions.Distribution) for part in parts):
                setattr(distribution, name, None)  # the next forward makes it anew


def batch_norms(*modules: nn.Module) -> list[nn.Module]:
    """Return the modules that track statistics of the batch, each once.

    They are told by their buffers, ``running_mean`` or ``running_var``, as torch's have them.
    """
    tracked = {"running_mean", "running_var"}
    parts = dict.fromkeys(part for module in modules for part in module.modules())
    return [p for p in parts if tracked & dict(p.named_buffers(recurse=False)).keys()]


@contextmanager
def batch_statistics(norms: Sequence[nn.Module], mode: bool) -> Iterator[None]:
    """Have ``norms`` use and track the statistics of the batch, or else the running ones."""
    before = [norm.training for norm in norms]
    try:
        for norm in norms:
            norm.training = mode
        yield
    finally:
        for norm, training in zip(norms, before, strict=True):
            norm.training = training


class Stepped(nn.Module):
    """Mixin for a module with an optimizer: ``after_step`` follows each of its steps.

    SB3's loops step optimizers themselves. Whatever is assigned to ``optimizer`` is followed, the
    one that SB3 makes, one for fine-tuning, in a wrapper too, and that of a copy; one that was
    replaced is not.
    """

    norm: str = "none"
    if TYPE_CHECKING:  # the classes of SB3 behind a mixin have what it asks for

        def __getattr__(self, name: str) -> Any: ...

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "optimizer" and value is not None:
            _followed(value).register_step_post_hook(self._stepped)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if "optimizer" in state:
            self.optimizer = state["optimizer"]  # copies of optimizers have lost what follows

    def _stepped(self, optimizer: Optimizer, *_: Any) -> None:
        if optimizer is _followed(self.optimizer):
            self.after_step()

    def after_step(self) -> None:
        """Put the rows that the optimizer steps back on the sphere, where the norm asks for it."""
        if (after_step := NORMS[self.norm].after_step) is not None:
            held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
            children = [p for p in self.children() if any(id(q) in held for q in p.parameters())]
            after_step(nn.ModuleList(children))


def _followed(optimizer: Any) -> Any:
    """Return an optimizer, or the one in a wrapper that has no hooks, such as accelerate's."""
    while not hasattr(optimizer, "_optimizer_step_post_hooks") and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


class Part(Stepped):
    """Mixin for an actor, a critic or a Q-network: what a norm asks of its forward.

    ``part.save(path)`` and ``type(part).load(path)`` are SB3's, whose critics are saved but cannot
    be loaded; the constructor that loading calls takes two arguments more.

    Args:
        *args: those of SB3's network.
        conversion: what gives it its norm.
        heads: names of its output layers.
        **kwargs: those of SB3's network.

    Attributes:
        norms: batch norms that use and track the batch in forwards that the network learns from,
            and running statistics in all others.
        policy: the policy, if it has to be initialised on observations; in a tuple, as all others,
            so that it is not registered as a submodule.
        online: of a target, the network that it follows.
        vectors: of a target with spectral layers, their singular vectors.
    """

    conversion: Any
    norms: Sequence[nn.Module] = ()
    policy: tuple[Any, ...] = ()
    online: tuple[Any, ...] = ()
    vectors: "tuple[TargetVectors, ...]" = ()

    def __init__(self, *args: Any, conversion: Conversion, heads: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.convert(conversion, heads)

    def convert(self, conversion: Conversion, heads: list[str]) -> None:
        """Take the norm."""
        self.norm, self.conversion, self.heads = conversion.norm, conversion, heads
        conversion.apply(self, heads)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        stock: dict[str, Any] = super()._get_constructor_parameters()  # type: ignore[misc]
        return {**stock, "conversion": self.conversion, "heads": self.heads}

    def after_step(self) -> None:
        """As every module's; the policy's initialisation on data comes too late behind it."""
        super().after_step()
        for policy in self.policy:
            policy.trained_before()

    def prepare(self, obs: Observations) -> None:
        """Do what has to be done before a forward with ``obs``, as the policy is given them."""
        for vectors in self.vectors:
            vectors.step(self.online[0].training)
        for policy in self.policy:
            policy.see_batch(obs)

    def forward(self, obs: Observations, *args: Any, **kwargs: Any) -> Any:
        """Return what SB3's network returns."""
        self.prepare(obs)
        return self.run(self.training and torch.is_grad_enabled(), obs, *args, **kwargs)

    def run(self, learning: bool, obs: Observations, *args: Any, **kwargs: Any) -> Any:
        """Return what SB3's network returns, with the statistics of the batch if ``learning``."""
        with batch_statistics(self.norms, learning):
            return super().forward(obs, *args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _empty_part, self.origin, self.__getstate__()  # type: ignore[no-untyped-call]


@cache
def part_class(*origin: Any) -> Any:
    """Return the class of a mixin and a network, always the same one, under the latter's name."""
    stock = origin[1]
    names = {"__module__": stock.__module__, "__doc__": stock.__doc__, "origin": origin}
    return type(stock.__name__, origin, names)


def _empty_part(*origin: Any) -> Any:
    return part_class(*origin).__new__(part_class(*origin))


class TargetVectors(nn.Module):
    """The singular vectors u of one target under spectral norm, saved with the policy.

    The loops of stable-baselines3 average the weights of a target, and copy its buffers named
    ``running_*``, the vectors u of spectral layers among them. But the first singular vector of
    averaged weights is not that of the latest ones, and divided by too small a number a target's w
    has a spectral norm above 1.

    Averaged weights move slowly, so that one power iteration in each update, begun where the last
    one ended, keeps a target's own vectors. Where weights were copied, as in DQN by default, the
    copied vector is the better one, and is taken.

    Args:
        target: has spectral layers.
    """

    def __init__(self, target: nn.Module) -> None:
        super().__init__()
        self.used = [  # in tuples, so that the layers are not registered here as well
            (layer, name, f"u_{place}_{name}".replace(".", "_"))
            for place, layer in target.named_modules()
            if isinstance(layer, Spectral)
            for name in layer.computed
        ]
        for layer, name, own in self.used:
            self.register_buffer(own, layer.vector(name).clone())

    @torch.no_grad()
    def step(self, learning: bool) -> None:
        """Have the target use its vectors, ``learning`` says after a step in an update."""
        for layer, name, own in self.used:
            weight, kept, used = getattr(layer, name), self.get_buffer(own), layer.vector(name)
            u = nearer_vector(weight, kept, used, layer.rows_dim)
            if learning:
                u = power_iteration(weight, u, layer.rows_dim)
                kept.copy_(u)
            used.copy_(u)


def follow(policy: BasePolicy) -> None:
    """Tell the targets of ``policy`` what they follow, and keep ``<target>_vectors`` of them."""
    for name, target in list(policy.named_children()):
        if is_target(name) and isinstance(target, Part):
            target.online = (policy.get_submodule(name.removesuffix("_target")),)
            vectors = TargetVectors(target)
            if vectors.used:
                policy.add_module(f"{name}_vectors", vectors)
                target.vectors = (vectors,)
