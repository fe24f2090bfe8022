"""What decides a VAE run, and the settings that are known to work for a model and a data set."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from wnrl.data import dataset
from wnrl.errors import UsageError, check_choice, check_positive
from wnrl.networks import ACTIVATIONS
from wnrl.norms import NORMS
from wnrl.vae.models import MODELS

# Their statistics are those of the minibatch, and of one image there are none.
BATCH_STATISTICS = ("weight_mean", "mean", "batch", "batch_renorm")
# Where a run was done: in its config.json too, and no part of what model it is.
MACHINE = ("device", "threads")

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.05 + 0.475 * (1 + math.cos(math.pi * max(0.0, 2 * done - 1))),
}
"""From the share of the training that is done to the factor of the learning rate. ``cosine`` stays
at 1 for the first half and falls to 0.05 over the second."""


@dataclass(frozen=True)
class VAEConfig:
    """One VAE run; the same values on the same machine give the same bits.

    Raises:
        UsageError: a value that no run can have.
    """

    model: str = "mlp"
    """A key of ``wnrl.vae.models.MODELS``."""
    dataset: str = "digits"
    """What ``wnrl.data.load`` reads: a key of ``DATASETS``, or ``frames:<env id>``."""
    norm: str = "weight"
    """A key of ``wnrl.NORMS``."""
    seed: int = 0
    """Seeds two generators alike: one draws the initial weights; the other order, binarisation and
    noise in training."""
    hidden: tuple[int, ...] = (200, 200)
    """Widths of the encoder's hidden layers; the decoder mirrors them."""
    latent_dim: int = 16
    """Number of latent variables."""
    activation: str = "tanh"
    """A key of ``wnrl.networks.ACTIVATIONS``."""
    epochs: int | None = 100
    """Passes over the training set (its last, partial batch left out); or give ``n_steps``."""
    n_steps: int | None = None
    """Gradient steps, instead of ``epochs``."""
    batch_size: int = 64
    """Images in a gradient step."""
    learning_rate: float = 4e-3
    """Adam's step size at the start."""
    schedule: str = "cosine"
    """A key of ``SCHEDULES``."""
    n_samples: int = 1000
    """K importance samples an image for the reported NLL."""
    n_logs: int = 50
    """How many points the learning curves have."""

    def __post_init__(self) -> None:
        check_choice("model", self.model, MODELS)
        dataset(self.dataset)
        check_choice("norm", self.norm, NORMS)
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("schedule", self.schedule, SCHEDULES)
        if (self.epochs is None) == (self.n_steps is None):
            raise UsageError(
                "give exactly one of epochs and n_steps, "
                f"got epochs={self.epochs!r} and n_steps={self.n_steps!r}"
            )
        for name in ("latent_dim", "epochs", "n_steps", "batch_size", "learning_rate", "n_samples",
                     "n_logs"):  # fmt: skip
            value = getattr(self, name)
            if value is not None:
                check_positive(**{name: value})
        if self.batch_size == 1 and self.norm in BATCH_STATISTICS:
            raise UsageError(f"batch_size must be at least 2 for norm {self.norm!r}, got 1")
        if not self.hidden or min(self.hidden) < 1:
            raise UsageError(f"hidden must be widths above zero, got {self.hidden!r}")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed must be from 0 to 2^32 - 1, got {self.seed!r}")

    def total_steps(self, n_train: int) -> int:
        """Gradient steps of the whole run.

        Args:
            n_train: images in the training set.

        Raises:
            UsageError: a batch does not fit into the training set.
        """
        if self.batch_size > n_train:
            raise UsageError(
                f"batch_size must be at most the {n_train} training images, got {self.batch_size}"
            )
        return self.n_steps or (self.epochs or 0) * (n_train // self.batch_size)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "VAEConfig":
        """The config from the values in a run's ``config.json``.

        Args:
            values: every field by its name; those of ``MACHINE`` may stand beside them.

        Raises:
            UsageError: ``values`` has other keys.
        """
        known = {field.name for field in fields(cls)}
        found = {name: value for name, value in values.items() if name not in MACHINE}
        if found.keys() != known:
            odd = ", ".join(sorted(found.keys() ^ known))
            raise UsageError(f"not the configuration of a VAE run; missing or unknown: {odd}")
        return cls(**{**found, "hidden": tuple(found["hidden"])})


PRESETS: dict[tuple[str, str], VAEConfig] = {
    # Values chosen on the validation split.
    ("mlp", "digits"): VAEConfig(),
    # Burda et al.'s architecture with one stochastic layer, in 20 epochs: minutes on one core.
    ("mlp", "mnist"): VAEConfig(
        dataset="mnist",
        latent_dim=50,
        epochs=20,
        batch_size=100,
        learning_rate=1e-3,
        n_samples=100,
    ),
}
"""Settings by (model, data set)."""
