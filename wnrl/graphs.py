"""CUDA graphs: the kernels of a function, recorded once and launched again as one.

A replay works in the memory of the recorded call and with its Python numbers. So what changes from
call to call is a tensor that stays where it is, and what a function keeps from one call to the next
it writes in place.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

WARM_UP = 2
"""Calls before the recording, in which libraries are loaded and memory is taken for good."""


class Replayed:
    """A function of numbers on a GPU, whose third call is recorded and replayed from then on.

    Args:
        function: takes 0-dimensional tensors, int64 or float64, and returns tensors, or tuples or
            dictionaries of them. It reads no value back.
        device: where it works.
    """

    def __init__(self, function: Callable[..., Any], device: torch.device) -> None:
        self.function, self.device = function, device
        self.numbers: tuple[Tensor, ...] = ()
        self.calls = 0
        self.replay: Callable[[], Any] = lambda: None

    def __call__(self, *numbers: int | float) -> Any:
        """Return what the function returns of these numbers; the next call leaves it alone."""
        if not self.calls:
            kinds = (torch.int64 if isinstance(n, int) else torch.float64 for n in numbers)
            self.numbers = tuple(torch.zeros((), dtype=kind, device=self.device) for kind in kinds)
        for tensor, number in zip(self.numbers, numbers, strict=True):
            tensor.fill_(number)
        self.calls += 1
        if self.calls <= WARM_UP:
            return self.warm_up()
        if self.calls == WARM_UP + 1:
            self.replay = self.record()
        return pytree.tree_map_only(Tensor, torch.clone, self.replay())

    def warm_up(self) -> Any:
        """Call the function on the stream on which it will be recorded."""
        self.stream = torch.cuda.Stream(self.device)
        around = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(around)
        with torch.cuda.stream(self.stream):
            outputs = self.function(*self.numbers)
        around.wait_stream(self.stream)
        return outputs

    def record(self) -> Callable[[], Any]:
        """Record the kernels that the function launches, none of which runs; return the replay."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            outputs = self.function(*self.numbers)

        def replay() -> Any:
            graph.replay()
            return outputs

        return replay
