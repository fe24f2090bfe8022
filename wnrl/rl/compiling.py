"""``--compile``: the networks of an update run through ``torch.compile``.

SB3's ``train`` leaves no place where a compiled function could be handed in: it calls methods of
the policy, which rollouts, evaluations and diagnostics call too, and these want the plain ones. So
inside one ``with`` around ``learn`` the model has another ``train``, which puts the compiled
methods in place, calls SB3's, and takes them away again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch.distributions import Distribution

from wnrl.compiling import compiled
from wnrl.rl.hardware import has_images

Method = tuple[Any, str, Callable[..., Any]]
LATE = ("action_log_prob",)
"""Methods that SAC goes back through after others: the graphs of those would take their memory."""


@contextmanager
def compiled_updates(
    model: BaseAlgorithm, methods: Sequence[str], backend: str | Callable[..., Any] = "inductor"
) -> Iterator[list[Method]]:
    """Compile what updates of ``model`` call; results agree to rounding, not bit for bit.

    Args:
        model: The agent.
        methods: What its ``train`` calls, as <part of the policy>.<method>; a part that the policy
            lacks is passed over.
        backend: Of ``torch.compile``.

    Yields:
        Each part, the name of its method, and the method compiled; on a GPU also how optimizers
        zero gradients.
    """
    torch.compiler.reset()  # what earlier runs of this process left counts against a limit
    graphs = model.device.type == "cuda" and backend == "inductor"
    where = f"{type(model).__name__} with {getattr(model.policy, 'norm', 'none')} on {model.device}"
    parts = dict(model.policy.named_modules(remove_duplicate=False))
    calls: list[Method] = []
    for target in methods:
        part, _, method = target.rpartition(".")
        if part in parts:
            call = compiled(
                getattr(parts[part], method),
                f"{target} of {where}",
                graphs=graphs and method not in LATE,
                # what SB3 asks of a space of images cannot be traced; all else is one graph
                fullgraph=not has_images(model.observation_space),
                backend=backend,
            )
            calls.append((parts[part], method, call))
    if graphs:
        # A run of a graph writes over the gradients of the one before, and torch takes those as
        # they are where a parameter has none: all have some, zeroed, to which they are added.
        for parameter in model.policy.parameters():
            parameter.grad = torch.zeros_like(parameter)
        for optimizer in {p.optimizer for p in parts.values() if hasattr(p, "optimizer")}:
            calls.append((optimizer, "zero_grad", partial(optimizer.zero_grad, set_to_none=False)))
    plain: Callable[..., None] = model.train  # type: ignore[attr-defined]

    def train(*args: Any, **kwargs: Any) -> None:
        validates = Distribution._validate_args
        Distribution.set_default_validate_args(False)  # as compiling does, for good
        for owner, method, call in calls:
            setattr(owner, method, call)
        try:
            plain(*args, **kwargs)
        finally:
            for owner, method, _ in calls:
                delattr(owner, method)
            Distribution.set_default_validate_args(validates)  # it is what finds a NaN

    model.train = train  # type: ignore[attr-defined]
    try:
        yield calls
    finally:
        del model.train  # type: ignore[attr-defined]
