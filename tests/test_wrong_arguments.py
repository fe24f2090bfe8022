"""What every public function and constructor says to arguments that make no sense.

Each parameter in turn gets values of other types and out of range, the others are right. The call
succeeds or raises UsageError: an error in torch's or Python's words names no argument.
"""

import importlib
import inspect
import tempfile
import warnings
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import gymnasium
import pytest
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.logger import configure
from stable_baselines3.dqn import MlpPolicy
from torch import nn

from wnrl import study, vae
from wnrl.data import Images, load
from wnrl.errors import UsageError

ROOMS = (
    "wnrl", "wnrl.nn", "wnrl.networks", "wnrl.optim", "wnrl.diagnostics", "wnrl.data", "wnrl.vae",
    "wnrl.sb3", "wnrl.runs", "wnrl.study", "wnrl.tensor_envs", "wnrl.population",
)  # fmt: skip
WRONG = (None, "nonsense", 1.5, -1, object(), [], {}, nn.Linear)
NOT_CALLED = {
    # A caller derives from these, catches or receives them, but constructs none.
    "WeightNormed", "WeightNormalized", "VAE", "StaleWeightError", "Stopped", "Work",
    "Batch", "Member", "Runs",
    "carry_out", "carry_out_batch",  # need a whole run
}  # fmt: skip
EXEMPT = {
    ("device", "nonsense"): "torch lists the devices that there are",
    ("values", None): "what cannot be written is a TypeError of the writer",
}


@cache
def digits():
    images = load("digits")
    return Images("digits", images.train[:32], images.valid[:8], images.test[:8], 17, "test")


def config():
    return vae.VAEConfig(hidden=(4,), latent_dim=2, epochs=None, n_steps=1, n_samples=2, n_logs=1)


def model():
    return vae.build(config(), digits())


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


@cache
def likelihood():
    return vae.nll(model(), digits(), vae.Protocol("digits", n_samples=2))


@cache
def agent():
    agent = DQN("MlpPolicy", "CartPole-v1", device="cpu", policy_kwargs={"net_arch": [4]})
    agent.set_logger(configure(None, []))
    return agent


def folder():
    return Path(tempfile.mkdtemp())


def file():
    path = folder() / "file"
    path.write_text("text")
    return path


def positional(name):
    """Arguments of ``*args``: for policies the spaces and a rate, for data_init a batch."""
    if name == "data_init":
        return net(), torch.ones(8, 3)
    if "Policy" not in name:
        return ()
    image = gymnasium.spaces.Box(0, 255, (3, 36, 36), "uint8")
    vector = gymnasium.spaces.Box(-1, 1, (3,))
    continuous = any(algo in name for algo in ("SAC", "TD3", "TQC", "CrossQ"))
    actions = vector if continuous else gymnasium.spaces.Discrete(2)
    return image if "Cnn" in name else vector, actions, lambda progress: 1e-3


TASK = study.Task("digits", "mlp", "wnrl.vae.run:train", study.NLL)
PARAMETER = nn.Parameter(torch.ones(3))
RIGHT = {
    "activations": torch.ones(5, 3),
    "after": {"a": torch.zeros(3)},
    "arm": study.Arm("weight"),
    "arms": (study.Arm("none"), study.Arm("weight")),
    "algo": "mlp",
    "base": torch.optim.SGD,
    "baseline": "none",
    "before": {"a": torch.ones(3)},
    "bound": vae.Elbo(torch.ones(3), torch.ones(1, 3)),
    "config": config,
    "dataset": "digits",
    "dataset_name": "digits",
    "device": "cpu",
    "embedding_dim": 3,
    "env_id": "CartPole-v1",
    "features": torch.randn(9, 3),
    "fill": None,
    "first": likelihood,
    "folder": folder,
    "g": torch.ones(4, 1),
    "hidden": (4,),
    "hidden_size": 4,
    "image_shape": (1, 8, 8),
    "images": digits,
    "in_channels": 2,
    "in_features": 3,
    "init": "torch",
    "input_size": 3,
    "kernel_size": 3,
    "key": "nll",
    "keys": ("n",),
    "kind": "bernoulli",
    "kl": torch.ones(1, 3),
    "kl_groups": torch.ones(1, 3),
    "layer": nn.Linear(3, 4),
    "levels": 17,
    "likelihood": lambda: vae.LIKELIHOODS["bernoulli"](1),
    "log_joint": torch.ones(2, 3),
    "log_posterior": torch.ones(2, 3),
    "log_ratio": torch.ones(1, 3),
    "loss": lambda: lambda: PARAMETER.square().sum(),
    "mask": torch.ones(4, 3),
    "matvec": lambda: lambda x: 2 * x,
    "meaning": "ones",
    "metric": study.NLL,
    "model": model,
    "module": net,
    "name": "digits",
    "norm": "weight",
    "num_embeddings": 5,
    "num_features": 3,
    "observation_space": gymnasium.spaces.Box(0, 255, (1, 8, 8), "uint8"),
    "optimizer": lambda: torch.optim.SGD(net().parameters(), lr=0.1),
    "out_channels": 3,
    "out_features": 4,
    "parameters": lambda: [PARAMETER],
    "params": lambda: net().parameters(),
    "path": lambda: folder() / "new",
    "policy": lambda: agent().policy,
    "policy_class": MlpPolicy,
    "protocol": vae.Protocol("digits", n_samples=2),
    "read": lambda: lambda folder: digits(),
    "reconstruction": torch.ones(3),
    "run_folder": folder,
    "runner": "wnrl.vae.run:train",
    "scalars": {"a": torch.ones(())},
    "second": likelihood,
    "settings": {},
    "shape": (1, 8, 8),
    "split": "test",
    "state_dict": lambda: net().state_dict(),
    "task": TASK,
    "tasks": (TASK,),
    "test": lambda: digits().test,
    "train": lambda: digits().train,
    "v": torch.ones(4, 3),
    "vae": folder,
    "valid": lambda: digits().valid,
    "value": {"a": 1},
    "values": {"a": 1},
    "x": lambda: digits().test[:2].float() / 16,
}
"""Right values by the name of a parameter; functions make one anew."""
BY_TYPE = {int: 2, float: 1.0, str: "a", bool: True, torch.Tensor: torch.ones(3)}
"""And of parameters with other names."""
SPECIAL = {
    ("LogStep", "scalars"): {"a": 1.0},
    ("Terms", "reconstruction"): torch.ones(1, 3),
    ("Meaning", "steps"): lambda: lambda settings: 1,
    ("Metric", "steps"): "epoch",
    ("Run", "config"): {"a": 1},
    ("open_run", "config"): {"a": 1},
    ("reopen_run", "config"): {"a": 1},
    ("preset", "model"): "mlp",
    ("check_finite", "model"): agent,
    ("cnn", "image_shape"): (1, 36, 36),
    ("World", "base"): "CartPole-v1",
}
"""And by the names of a function and its parameter."""


def right(target, parameter):
    by_type = BY_TYPE.get(parameter.annotation)
    value = SPECIAL.get((target.__name__, parameter.name), RIGHT.get(parameter.name, by_type))
    return value() if inspect.isfunction(value) or hasattr(value, "cache_info") else value


def public():
    """Every callable once, however many rooms export it and whatever it is called there."""
    seen = set()
    for room in ROOMS:
        module = importlib.import_module(room)
        own = (name for name, value in vars(module).items() if not name.startswith("_")
               and getattr(value, "__module__", None) == room)  # fmt: skip
        for name in getattr(module, "__all__", own):
            value = getattr(module, name)
            if callable(value) and name not in NOT_CALLED:
                constructor = value.__init__ if inspect.isclass(value) else value
                key = (constructor, str(inspect.signature(value)))
                if key not in seen:
                    seen.add(key)
                    yield pytest.param(value, id=f"{room}.{name}")


def error_of(target, args, kwargs):
    """None where a call succeeds or raises UsageError, else what it raised."""
    try:
        with warnings.catch_warnings(), ExitStack() as stack:
            warnings.simplefilter("ignore")
            result = target(*args, **kwargs)
            if hasattr(result, "__enter__"):
                stack.enter_context(result)
            elif inspect.isgenerator(result):
                next(result, None)
    except UsageError:
        return None
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


@pytest.mark.parametrize("target", [*public()])
def test_a_wrong_argument_is_told_in_words(target, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # where a folder is made that is called nonsense
    args = positional(target.__name__)
    parameters = [
        parameter for parameter in list(inspect.signature(target).parameters.values())
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]  # fmt: skip
    if target.__name__ == "data_init":
        parameters = parameters[1:]
    given = [p for p in parameters if p.default is inspect.Parameter.empty]
    assert error_of(target, args, {p.name: right(target, p) for p in given}) is None
    told = {}
    for parameter in parameters:
        for wrong in WRONG:
            if {(parameter.name, None), (parameter.name, str(wrong))} & EXEMPT.keys():
                continue
            if inspect.isclass(wrong) and "Callable" in str(parameter.annotation):
                continue  # what it returns is another matter
            kwargs = {p.name: right(target, p) for p in given} | {parameter.name: wrong}
            if error := error_of(target, args, kwargs):
                told[parameter.name, str(wrong)] = error
    assert told == {}
