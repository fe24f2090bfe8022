"""What a step of the parameters is made of: the optimizer of SB3's policy, and projections."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from wnrl.errors import UsageError
from wnrl.nn.projection import is_projected, project_, projected_weights, to_length_one_
from wnrl.norms import NORMS
from wnrl.optim import layer_weights
from wnrl.population.config import MemberConfig
from wnrl.population.optim import Adam, Adamax, RMSprop
from wnrl.population.rows import LOG_STD, Layout


def optimizer_of(config: MemberConfig, plan: Layout, like: Tensor) -> Adam:
    """Return the optimizer with the options that SB3's policy gives it."""
    if config.optimizer == "adamax":
        return Adamax()
    if config.optimizer == "rmsprop":
        return RMSprop()
    if config.optimizer == "adam":
        return Adam(eps=config.adam_eps)
    actor, decayed = plan.net.networks()[0], None
    if any(name.endswith("weight_g") for name in plan.params) or projected_names(config.norm, plan):
        plain = {
            id(weight)
            for layer in actor.modules()
            if not is_projected(layer)
            for weight in layer_weights(layer)
        }
        decayed = torch.zeros_like(like[:1])
        for name, view in plan.views(decayed).items():
            view.fill_(name != LOG_STD and id(actor.get_parameter(name)) in plain)
    return Adam(weight_decay=config.weight_decay, decayed=decayed)


def check_after_step(norm: str) -> Callable[..., object] | None:
    """Return what follows a step of the optimizer, nothing or projections, else UsageError."""
    after_step = NORMS[norm].after_step
    if after_step not in (None, project_):
        raise UsageError(f"norm {norm!r} has a step of its own, unknown to a population")
    return after_step


def projected_names(norm: str, plan: Layout) -> list[str]:
    """Return the names of the weights whose rows are put back on the sphere after each step."""
    if check_after_step(norm) is None:
        return []
    chosen = {id(weight) for weight, _ in projected_weights(plan.net)}
    return [name for name, p in plan.net.networks()[0].named_parameters() if id(p) in chosen]


def project_members_(params: Tensor, plan: Layout, names: Sequence[str]) -> None:
    """Put the rows of the weights of these names back on the unit sphere, in ``(P, D)``."""
    if names:
        views = plan.views(params)
        for name in names:
            to_length_one_(views[name].flatten(2), [-1])
