"""The rows of the table of algorithms, and how the hyperparameters for a task are found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from wnrl.errors import check_choice

# Families of tasks, as patterns of their ids.
ATARI = ("ALE/*", "*NoFrameskip-v4")
MINATAR = "MinAtar*"
MUJOCO = ("Ant-v*", "HalfCheetah-v*", "Hopper-v*", "Humanoid-v*", "Swimmer-v*", "Walker2d-v*")


@dataclass(frozen=True)
class Agent:
    """One row of the table of algorithms."""

    config: type[Any]
    """The dataclass of its hyperparameters; its defaults are for tasks without a preset."""
    presets: Mapping[str, Any]
    """From an environment's id, or a pattern such as ``ALE/*``, to tuned hyperparameters."""
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """From the name of a published recipe to the hyperparameters that it changes in any preset."""
    compiled: Sequence[str] = ()
    """Methods that ``train`` calls, as <part of the policy>.<method>, for ``torch.compile``."""
    not_compiled: str = ""
    """The reason why there are none."""

    def build(self, *arguments: Any) -> Any:
        """Return the SB3 model, as ``agents.assembly.assemble`` does."""
        from agents.assembly import assemble  # which imports SB3

        return assemble(*arguments)

    def preset(self, env_id: str, variant: str | None = None) -> Any:
        """Return the hyperparameters for ``env_id``: its preset, its family's, or the defaults.

        Args:
            env_id: an environment's id; a module in front of it, as in ``ale_py:ALE/Pong-v5``,
                is passed over.
            variant: a key of ``variants``.

        Raises:
            UsageError: no such variant.
        """
        env_id = env_id.rpartition(":")[2]
        keys = [key for key in self.presets if key == env_id]
        keys += [key for key in self.presets if fnmatchcase(env_id, key)]
        preset = self.presets[keys[0]] if keys else self.config()
        if variant is None:
            return preset
        return replace(preset, **self.variants[check_choice("variant", variant, self.variants)])
