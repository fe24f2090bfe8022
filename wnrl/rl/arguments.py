"""The arguments of SB3's constructors, out of hyperparameters that have SB3's names."""

import inspect
from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import Any

from stable_baselines3.common.utils import LinearSchedule

from wnrl.errors import check_choice
from wnrl.networks import ACTIVATIONS

OPTIMIZERS: dict[str, str] = {
    "adam": "torch.optim:Adam",
    "adamw": "torch.optim:AdamW",
    "adamax": "torch.optim:Adamax",
    "rmsprop": "torch.optim:RMSprop",
    "rmsprop_tf": "stable_baselines3.common.sb2_compat.rmsprop_tf_like:RMSpropTFLike",
}
"""Importable names of optimizers, which have their default arguments."""
SCHEDULED = ("learning_rate", "clip_range")
OURS = ("norm", "norm_kwargs", "norm_heads", "placement", "data_init")
FURTHER = ("policy_kwargs", "optimizer_kwargs")


def plain_policy(algorithm: Any) -> Any:
    """Return SB3's own policy for vectors."""
    return next(iter(algorithm.policy_aliases.values()))


def algorithm_arguments(algorithm: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that an algorithm takes, with schedules as SB3 has them."""
    arguments = _taken_by(algorithm, values)
    for name in SCHEDULED:
        if values.get(f"{name}_schedule") == "linear":
            arguments[name] = LinearSchedule(values[name], values.get(f"{name}_end", 0.0), 1.0)
    return arguments


def policy_arguments(algorithm: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that our policy for an algorithm takes.

    Raises:
        UsageError: There is no such nonlinearity.
    """
    name = check_choice("activation_fn", values["activation_fn"], ACTIVATIONS)
    arguments = {
        **_taken_by(plain_policy(algorithm), values),
        **{name: values[name] for name in OURS if name in values},
        "net_arch": list(values["net_arch"]),
        "activation_fn": ACTIVATIONS[name],
    }
    arguments.pop("use_sde", None)  # SB3 hands it on itself
    optimizer, options = values["optimizer"], dict(values.get("optimizer_kwargs", {}))
    if optimizer != "adam":
        arguments["optimizer_class"] = resolve_name(OPTIMIZERS[optimizer])
    if optimizer == "adamw":  # torch's default decay is 0.01
        options = {"weight_decay": values["weight_decay"], **options}
    return arguments | ({"optimizer_kwargs": options} if options else {})


def _taken_by(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that ``function`` has arguments for."""
    names = inspect.signature(function).parameters.keys() - {*FURTHER}
    return {name: value for name, value in values.items() if name in names}
