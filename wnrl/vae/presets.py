"""Settings that are known to work, or published, for a model and a data set."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from wnrl.errors import UsageError, check_choice
from wnrl.vae.config import VAEConfig
from wnrl.vae.models import MODELS

USUAL = "default"

Variants = Mapping[str, Mapping[str, Any]]
"""Settings of ``VAEConfig`` by the name of the variant; what is not there has its default."""

# Burda et al.'s architecture (2016, arXiv:1509.00519), in 20 epochs: minutes on one core.
_MNIST: Mapping[str, Any] = {
    "epochs": 20, "batch_size": 100, "learning_rate": 1e-3, "n_samples": 100,
}  # fmt: skip
_MLP = {
    USUAL: _MNIST,
    "150": {**_MNIST, "epochs": 150, "n_samples": 1000},
    # Their training: 3^i epochs at 1e-3 · 10^(−i/7), which is for a GPU.
    "long": {**_MNIST, "epochs": 3280, "batch_size": 20, "schedule": "iwae", "n_samples": 5000},
}
# Salimans & Kingma's convolutions (2016, arXiv:1602.07868, section 5.2): their optimizer and
# averaging, in as many epochs as a CPU has patience for, and in theirs.
_ADAMAX: Mapping[str, Any] = {
    "epochs": 5, "batch_size": 100, "optimizer": "adamax", "learning_rate": 2e-3,
    "schedule": "constant", "ema_epochs": 1.0, "n_samples": 100,
}  # fmt: skip
_CONV = {USUAL: _ADAMAX, "long": {**_ADAMAX, "epochs": 300, "ema_epochs": 10.0, "n_samples": 1000}}
# The code that their DRAW started from has 100 epochs, and 64 steps with attention.
_CLIPPED: Mapping[str, Any] = {
    "epochs": 10, "batch_size": 100, "learning_rate": 1e-3, "schedule": "constant",
    "max_grad_norm": 10.0, "n_samples": 100,
}  # fmt: skip
_LONG_DRAW = {**_CLIPPED, "epochs": 100, "n_samples": 1000}
# World Models trains for one epoch of 10 000 episodes (Ha & Schmidhuber, 2018); these are fewer.
_FRAMES = {"epochs": 20, "learning_rate": 1e-3, "n_samples": 100}

GENERAL: dict[str, Variants] = {
    "mlp": _MLP,
    "mlp2": _MLP,
    "conv": _CONV,
    "conv_iaf": _CONV,
    "draw": {USUAL: _CLIPPED, "long": _LONG_DRAW},
    "draw_attention": {
        USUAL: _CLIPPED,
        "long": {**_LONG_DRAW, "draw_steps": 64, "learning_rate": 3e-4},
    },
    "frames": {USUAL: _FRAMES, "long": {**_FRAMES, "epochs": 300, "n_samples": 1000}},
}
"""Variants by model: ``default`` is for a CPU, ``long`` for a GPU."""
_DIGITS = {"epochs": 100, "batch_size": 64, "n_samples": 1000}
_CIFAR10 = {name: {**settings, "latent_dim": 128} for name, settings in _CONV.items()}
PRESETS: dict[tuple[str, str], Variants] = {
    **{(model, "digits"): {USUAL: {**GENERAL[model][USUAL], **_DIGITS}} for model in GENERAL},
    ("mlp", "digits"): {USUAL: {"latent_dim": 16}},  # chosen on the validation split
    ("conv", "cifar10"): _CIFAR10,
    ("conv_iaf", "cifar10"): _CIFAR10,
}
"""Variants by model and data set, where they differ from the model's."""


def preset(model: str, dataset_name: str, variant: str = USUAL, **settings: Any) -> VAEConfig:
    """Return the settings for a model, a data set and a variant of them, some changed.

    Args:
        model: a key of ``MODELS``.
        dataset_name: the data set.
        variant: a name of the preset's.
        settings: of ``VAEConfig``; those that are None stay the preset's.

    Raises:
        UsageError: There is no such preset or setting, or a value is one that no run can have.
    """
    check_choice("model", model, MODELS)
    variants = PRESETS.get((model, dataset_name)) or GENERAL.get(model) or {USUAL: {}}
    name = f"preset of model {model!r} on dataset {dataset_name!r}"
    usual = variants[check_choice(name, variant, variants)]
    asked = {name: value for name, value in settings.items() if value is not None}
    if unknown := asked.keys() - {field.name for field in fields(VAEConfig)}:
        raise UsageError(f"{min(unknown)} is no setting of a VAE run")
    if "n_steps" in asked:
        asked.setdefault("epochs", None)
    return VAEConfig(model, dataset_name, **{**usual, **asked})
