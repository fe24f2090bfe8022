"""Settings that are known to work, or published, for a model and a data set."""

from dataclasses import fields, replace
from typing import Any

from wnrl.data import FRAMES
from wnrl.errors import UsageError, check_choice
from wnrl.vae.config import VAEConfig
from wnrl.vae.models import MODELS

USUAL = "default"

Variants = dict[str, VAEConfig]


def _each(variants: Variants, **changes: Any) -> Variants:
    return {name: replace(config, **changes) for name, config in variants.items()}


# Burda et al.'s architecture (2016, arXiv:1509.00519), in 20 epochs: minutes on one core.
_MNIST = VAEConfig(
    dataset="mnist", latent_dim=50, epochs=20, batch_size=100, learning_rate=1e-3, n_samples=100
)
_MLP = {
    USUAL: _MNIST,
    "150": replace(_MNIST, epochs=150, n_samples=1000),
    # Their training: 3^i epochs at 1e-3 · 10^(−i/7), which is for a GPU.
    "long": replace(_MNIST, epochs=3280, batch_size=20, schedule="iwae", n_samples=5000),
}
# Salimans & Kingma's convolutions (2016, arXiv:1602.07868, section 5.2): their optimizer and
# averaging, in as many epochs as a CPU has patience for, and in theirs.
_USUAL_CONV = VAEConfig(
    "conv", "mnist", epochs=5, batch_size=100, optimizer="adamax", learning_rate=2e-3,
    schedule="constant", ema_epochs=1.0, n_samples=100,
)  # fmt: skip
_CONV = {
    USUAL: _USUAL_CONV,
    "long": replace(_USUAL_CONV, epochs=300, ema_epochs=10.0, n_samples=1000),
}
# The code that their DRAW started from has 100 epochs, and 64 steps with attention.
_USUAL_DRAW = VAEConfig(
    "draw", "mnist", draw_steps=10, epochs=10, batch_size=100, learning_rate=1e-3,
    schedule="constant", max_grad_norm=10.0, n_samples=100,
)  # fmt: skip
_DRAW = {USUAL: _USUAL_DRAW, "long": replace(_USUAL_DRAW, epochs=100, n_samples=1000)}
_ATTENTION = _each(_DRAW, model="draw_attention")
_ATTENTION["long"] = replace(_ATTENTION["long"], draw_steps=64, learning_rate=3e-4)

# World Models trains for one epoch of 10 000 episodes (Ha & Schmidhuber, 2018); these are fewer.
_USUAL_FRAMES = VAEConfig(
    "frames", f"{FRAMES}CartPole-v1", epochs=20, learning_rate=1e-3, n_samples=100
)

GENERAL: dict[str, Variants] = {
    "mlp": _MLP,
    "mlp2": _each(_MLP, model="mlp2", hidden=None, latent_dim=None),
    "conv": _CONV,
    "conv_iaf": _each(_CONV, model="conv_iaf"),
    "draw": _DRAW,
    "draw_attention": _ATTENTION,
    "frames": {USUAL: _USUAL_FRAMES, "long": replace(_USUAL_FRAMES, epochs=300, n_samples=1000)},
}
"""Variants by model: ``default`` is for a CPU, ``long`` for a GPU."""
_DIGITS: dict[str, Any] = {"dataset": "digits", "epochs": 100, "batch_size": 64, "n_samples": 1000}
_CIFAR10: dict[str, Any] = {"dataset": "cifar10", "likelihood": None, "latent_dim": 128}
PRESETS: dict[tuple[str, str], Variants] = {
    **{
        (model, "digits"): {USUAL: replace(variants[USUAL], likelihood=None, **_DIGITS)}
        for model, variants in GENERAL.items()
    },
    ("mlp", "digits"): {USUAL: VAEConfig(latent_dim=16)},  # chosen on the validation split
    **{(model, "cifar10"): _each(GENERAL[model], **_CIFAR10) for model in ("conv", "conv_iaf")},
}
"""Variants by model and data set, where they differ from the model's."""


def preset(model: str, dataset_name: str, variant: str = USUAL) -> VAEConfig:
    """Return the settings for a model, a data set and a variant of them.

    Raises:
        UsageError: There is no such model, data set or variant.
    """
    check_choice("model", model, MODELS)
    if (variants := PRESETS.get((model, dataset_name))) is None:
        usual = GENERAL.get(model) or {USUAL: VAEConfig(model)}
        variants = _each(usual, dataset=dataset_name, likelihood=None)
    name = f"preset of model {model!r} on dataset {dataset_name!r}"
    return variants[check_choice(name, variant, variants)]


def configured(model: str, dataset_name: str, variant: str = USUAL, **settings: Any) -> VAEConfig:
    """Return a preset with other settings in the place of its own.

    Args:
        model: as for ``preset``, and so are the next two.
        dataset_name: the data set.
        variant: of the preset.
        settings: of ``VAEConfig``; those that are None stay the preset's.

    Raises:
        UsageError: There is no such preset or setting, or a value is one that no run can have.
    """
    chosen = preset(model, dataset_name, variant)
    asked = {name: value for name, value in settings.items() if value is not None}
    if unknown := asked.keys() - {field.name for field in fields(VAEConfig)}:
        raise UsageError(f"{min(unknown)} is no setting of a VAE run")
    if "n_steps" in asked:
        asked.setdefault("epochs", None)
    return replace(chosen, **asked)
