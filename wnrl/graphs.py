"""CUDA graphs: the kernels of a function, recorded once and launched again as one.

A replay works in the memory of the recorded call and with its Python numbers. So what changes from
call to call is a tensor that stays where it is, and what a function keeps from one call to the next
it writes in place.
"""

import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

WARM_UP = 2
"""Calls before the recording, in which libraries are loaded and memory is taken for good."""


class Replayed:
    """A function on a GPU, whose third call is recorded and replayed from then on.

    Args:
        function: takes tensors, those of numbers 0-dimensional, int64 or float64, and returns
            tensors, or tuples or dictionaries of them. It reads no value back.
        device: where it works.
        generators: what it draws from besides the global generator.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        device: torch.device,
        generators: Sequence[torch.Generator] = (),
    ) -> None:
        self.function, self.device, self.generators = function, device, generators
        self.inputs: tuple[Tensor, ...] = ()
        self.calls = 0
        self.replay: Callable[[], Any] = lambda: None

    def __call__(self, *values: int | float | Tensor) -> Any:
        """Return what the function returns of these values; the next call leaves it alone.

        Args:
            *values: numbers, or tensors of one shape in every call.
        """
        if not self.calls:
            self.inputs = tuple(self._place_for(value) for value in values)
        for place, value in zip(self.inputs, values, strict=True):
            place.copy_(value) if isinstance(value, Tensor) else place.fill_(value)
        self.calls += 1
        if self.calls <= WARM_UP:
            return self.warm_up()
        if self.calls == WARM_UP + 1:
            self.replay = self.record()
        return pytree.tree_map_only(Tensor, torch.clone, self.replay())

    def _place_for(self, value: int | float | Tensor) -> Tensor:
        if isinstance(value, Tensor):
            return torch.empty_like(value)
        kind = torch.int64 if isinstance(value, int) else torch.float64
        return torch.zeros((), dtype=kind, device=self.device)

    def warm_up(self) -> Any:
        """Call the function on the stream on which it will be recorded."""
        self.stream = torch.cuda.Stream(self.device)
        around = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(around)
        with torch.cuda.stream(self.stream):
            outputs = self.function(*self.inputs)
        around.wait_stream(self.stream)
        return outputs

    def record(self) -> Callable[[], Any]:
        """Record the kernels that the function launches, none of which runs; return the replay."""
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        collects = gc.isenabled()
        gc.disable()  # an older graph that is destroyed meanwhile spoils this one
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                outputs = self.function(*self.inputs)
        finally:
            if collects:
                gc.enable()
        # Before a recording torch sets the place in the random numbers to zero, on its stream.
        torch.cuda.current_stream(self.device).wait_stream(self.stream)

        def replay() -> Any:
            graph.replay()
            return outputs

        return replay
