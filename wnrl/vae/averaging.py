"""Weights averaged over the last epochs (Polyak & Juditsky, 1992), as the weight norm paper has."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from wnrl.norms import NORMS


class Average:
    """An exponential average of a model's parameters and buffers.

    In the first steps, where an exponential average would be that of the initial weights, the rate
    is 1 / (steps + 1): the plain mean of what has been. Of weight norm v and g are averaged, the
    parameters that are trained, and w follows from them: its rows have the averaged lengths, where
    the mean of w itself would be shorter. Batch norms have the averaged mean and variance.

    Args:
        model: its state is where the average starts.
        horizon: gradient steps that it reaches back over, about.
    """

    def __init__(self, model: nn.Module, horizon: float) -> None:
        self.horizon, self.n_updates = max(1.0, horizon), 0
        self.tensors = copy.deepcopy(model.state_dict())

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the present weights in, after a gradient step."""
        self.n_updates += 1
        rate = max(1 / self.horizon, 1 / (self.n_updates + 1))
        now = model.state_dict(keep_vars=True)
        floats = [name for name, value in now.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self.tensors[name] for name in floats], [now[name] for name in floats], rate
        )
        for name in now.keys() - set(floats):
            self.tensors[name].copy_(now[name])

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Give ``model`` the averaged weights; its last ones come back at the end.

        The mean of points on a sphere is inside of it: projected rows are put back on theirs, and
        so are the vectors of spectral norms, on the way to those of the averaged weights.
        """
        last = copy.deepcopy(model.state_dict())
        model.load_state_dict(self.tensors)
        for norm in NORMS.values():
            if norm.after_averaging is not None:
                norm.after_averaging(model)
        try:
            yield
        finally:
            model.load_state_dict(last)

    def state_dict(self) -> dict[str, Any]:
        """Return what ``load_state_dict`` takes."""
        return {"n_updates": self.n_updates, "tensors": self.tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from another average's state."""
        for name, value in self.tensors.items():
            value.copy_(state["tensors"][name])
        self.n_updates = state["n_updates"]
