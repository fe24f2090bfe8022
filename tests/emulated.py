"""What a GPU would mind, without one: operations that wait, tensors of the CPU, CUDA graphs."""

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from wnrl.graphs import Replayed

READS = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2", "is_nonzero")
"""Operations that wait for values, by which a recording would fail."""


class Operations(TorchDispatchMode):
    """The operations inside, in their order.

    Attributes:
        reads: names of those that read a value back.
        devices: of all tensors but numbers, which kernels take from the CPU too.
    """

    def __init__(self):
        super().__init__()
        self.kept, self.reads, self.devices = [], [], set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        outputs = func(*args, **(kwargs or {}))
        leaves = pytree.tree_leaves((args, kwargs, outputs))
        self.devices |= {t.device.type for t in leaves if isinstance(t, torch.Tensor) and t.dim()}
        if func.overloadpacket.__name__ in READS:
            self.reads.append(str(func))
        is_new = not all(returned.alias_info for returned in func._schema.returns)
        if is_new or func._schema.is_mutable:  # else it is a view, which stays one
            kept = func, args, kwargs or {}, outputs if is_new else ()
            self.kept.append(pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, kept))
        return outputs

    def again(self):
        """Do them again, with the numbers that they had, on what is now in their tensors."""
        for func, args, kwargs, outputs in self.kept:
            fresh = pytree.tree_leaves(func(*args, **kwargs))
            for before, now in zip(pytree.tree_leaves(outputs), fresh, strict=False):
                if isinstance(before, torch.Tensor):
                    before.copy_(now)


class Emulated(Replayed):
    """Replays operations instead of kernels.

    Args:
        function: as ``Replayed`` has it.
        device: the CPU.
        state: returns the tensors that the function changes and that matter, which a recording
            leaves as they are.
        generators: as ``Replayed`` has them.
    """

    def __init__(self, function, device, state, generators=()):
        super().__init__(function, device, generators)
        self.state = state

    def warm_up(self):
        return self.function(*self.inputs)

    def record(self):
        state = self.state()
        before = [tensor.clone() for tensor in state]
        numbers = [generator.get_state() for generator in self.generators]
        with Operations() as operations:
            outputs = self.function(*self.inputs)
        assert operations.reads == []
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)
        for generator, place in zip(self.generators, numbers, strict=True):
            generator.set_state(place)

        def replay():
            operations.again()
            return outputs

        return replay
