"""``--compile``: the networks of an update run through ``torch.compile``.

SB3's ``train`` stays as it is; between ``on_rollout_end`` and the next ``on_rollout_start`` the
methods that it calls are compiled ones. Rollouts, evaluations, diagnostics and what is saved see
the plain modules. On a GPU CUDA graphs are captured (``mode="reduce-overhead"``).
"""

import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn
from torch.distributions import Distribution
from torch.utils import _pytree as pytree

from wnrl.rl.hardware import has_images


class CompileUpdates(BaseCallback):
    """Compiles what updates call; where that fails, says so on stderr and goes on without.

    Results agree with those of plain modules to rounding, not bit for bit.

    Args:
        methods: what ``train`` calls, as <part of the policy>.<method>; a part that the policy
            lacks is passed over.
        refused: the reason where an algorithm has none.
        backend: of ``torch.compile``; inductor makes code, aot_eager only traces.
    """

    def __init__(
        self, methods: Sequence[str], refused: str = "", backend: str = "inductor"
    ) -> None:
        super().__init__()
        self.methods, self.refused, self.backend = methods, refused, backend
        self.targets: list[tuple[nn.Module, str, Callable[..., Any]]] = []
        self.validates = Distribution._validate_args

    def _init_callback(self) -> None:
        torch.compiler.reset()  # what earlier runs of this process left counts against a limit
        self.targets = []
        if self.refused:
            _tell(f"{type(self.model).__name__} is not compiled: {self.refused}")
        parts = dict(self.model.policy.named_modules(remove_duplicate=False))
        for target in self.methods:
            part, _, method = target.rpartition(".")
            if part in parts:
                compiled = self._compiled(parts[part], method, target)
                self.targets.append((parts[part], method, compiled))

    def _compiled(self, owner: nn.Module, method: str, name: str) -> Callable[..., Any]:
        """The method compiled, which falls back to the plain one for good when that fails."""
        plain = getattr(owner, method)
        on_gpu = self.model.device.type == "cuda"
        # what SB3 asks of a space of images cannot be traced; all else is one graph, or is told
        fullgraph = not has_images(self.model.observation_space)
        options: dict[str, Any] = {"backend": self.backend, "fullgraph": fullgraph}
        if on_gpu and self.backend == "inductor":
            options["mode"] = "reduce-overhead"
        compiled: Callable[..., Any] = torch.compile(plain, **options)
        chosen = compiled

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal chosen
            try:
                with warnings.catch_warnings():  # tracing looks at gradients of inputs
                    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not")
                    found = chosen(*args, **kwargs)
            except Exception as error:
                if chosen is plain or not _is_from_compiler(error):
                    raise
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
                norm = getattr(self.model.policy, "norm", "none")
                where = f"{type(self.model).__name__} with {norm} on {self.model.device}"
                _tell(f"{name} of {where} is not compiled: {reason}")
                chosen = plain
                found = plain(*args, **kwargs)
            if on_gpu and chosen is compiled:  # the next replay of a graph writes over its outputs
                return pytree.tree_map_only(torch.Tensor, torch.clone, found)
            return found

        return call

    def _on_rollout_end(self) -> None:
        self.validates = Distribution._validate_args
        if self.targets:  # as the first compilation does, for good and in the whole process
            Distribution.set_default_validate_args(False)
        for owner, method, call in self.targets:
            setattr(owner, method, call)

    def _switch_off(self) -> None:
        for owner, method, _ in self.targets:
            vars(owner).pop(method, None)
        Distribution.set_default_validate_args(self.validates)  # it is what finds a NaN

    def _on_rollout_start(self) -> None:
        self._switch_off()

    def _on_training_end(self) -> None:
        self._switch_off()

    def _on_step(self) -> bool:
        return True


def _is_from_compiler(error: Exception) -> bool:
    """Whether tracing or compiling failed, rather than what was compiled."""
    return type(error).__module__.startswith(
        ("torch._dynamo", "torch._inductor", "torch._functorch")
    )


def _tell(message: str) -> None:
    print(f"--compile: {message}", file=sys.stderr)
