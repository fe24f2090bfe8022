"""Settings from a file: a run's ``config.json``, or an entry of rl-baselines3-zoo in YAML.

The zoo writes schedules as ``lin_0.001``, and what is no plain YAML as Python in a string. Of such
strings, ``dict(...)``, literals and names are understood; nothing is evaluated.
"""

import ast
import contextlib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents import AGENTS
from agents.settings import CHOSEN_AGAIN, Settings
from wnrl.errors import UsageError, as_usage_error, check_choice, extra, printable

ZOO_NAMES = {"ppo_lstm": "recurrent_ppo", "ppo_mask": "maskable_ppo"}
ATARI_WRAPPER = "stable_baselines3.common.atari_wrappers.AtariWrapper"
POLICY = "policy_kwargs"
UNKNOWN_HERE = (
    "env_wrapper", "vec_env_wrapper", "callback", "replay_buffer_class", "monitor_kwargs",
)  # fmt: skip


def read_config_file(path: Path, algo: str | None, env_id: str | None) -> dict[str, Any]:
    """Return the settings that a file has; what it leaves out is for the defaults.

    Args:
        path: ``config.json`` of a run, or a YAML file of the zoo, with an entry an environment, or
            that of one of its trained agents, ``config.yml``.
        algo: The algorithm, where the file does not say it; the zoo's files are named after theirs.
        env_id: The environment, if another one or one of many is wanted.

    Raises:
        UsageError: There is no such file or entry, it is damaged, or has what has no flag here.
    """
    with as_usage_error(f"config {path} cannot be read", OSError, ValueError):
        text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        settings = _of_run(path, algo)
    else:
        check_choice("the end of config", path.suffix, (".json", ".yml", ".yaml"))
        settings = _of_zoo(path, _yaml(path, text), algo, env_id)
    return settings | ({"env_id": env_id} if env_id else {})


def _of_run(path: Path, algo: str | None) -> dict[str, Any]:
    from wnrl.runs.files import read_json  # which imports torch

    try:
        settings = read_json(path)
    except UsageError as error:
        told = f"{error}; a run's is taken as the run wrote it, with other flags for changes"
        raise UsageError(f"config {told}") from error
    if "algo" not in settings:
        raise UsageError(f"config {path} is not that of an agent: it has no algo")
    if algo not in (None, settings["algo"]):
        raise UsageError(f"config {path} is of algo {settings['algo']!r}, asked: {algo!r}")
    return {name: value for name, value in settings.items() if name not in CHOSEN_AGAIN}


def _yaml(path: Path, text: str) -> Any:
    with extra("lab", f"config {path}"):
        yaml: Any = importlib.import_module("yaml")
    # It knows the two classes of Python's that files of trained agents have.
    loader: Any = type("Loader", (yaml.SafeLoader,), {})

    def parts(made: Any, node: Any) -> Any:
        return made.construct_sequence(node, deep=True)

    python = "tag:yaml.org,2002:python/"
    loader.add_constructor(python + "tuple", parts)
    ordered = python + "object/apply:collections.OrderedDict"
    loader.add_constructor(ordered, lambda made, node: dict(parts(made, node)[0]))
    kinds = yaml.YAMLError, ValueError, TypeError, IndexError, RecursionError
    with as_usage_error(f"config {path} is no YAML", *kinds):
        return yaml.load(text, loader)


def _of_zoo(path: Path, content: Any, algo: str | None, env_id: str | None) -> dict[str, Any]:
    algo = algo or ZOO_NAMES.get(path.stem, path.stem)
    if algo not in AGENTS:
        raise UsageError(f"config {path}: its name is none of an algorithm, so say --algo")
    if not isinstance(content, Mapping):
        raise UsageError(f"config {path} has no entries")
    if not env_id:
        raise UsageError(f"config {path}: say for which environment, with --env-id")
    entry: Any = content
    if "n_timesteps" not in content:
        name = env_id.rpartition(":")[2]
        atari = name.startswith("ALE/") or "NoFrameskip" in name
        entry = content.get(name) or (content.get("atari") if atari else content.get("default"))
        if not isinstance(entry, Mapping):
            raise UsageError(f"config {path} has no entry for {name!r}, and no default")
    with as_usage_error(f"config {path}, {env_id}", UsageError, say=str):
        return {"algo": algo, **settings_of_entry(algo, entry)}


def settings_of_entry(algo: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an entry of the zoo says, in our words.

    Args:
        algo: A key of ``AGENTS``.
        entry: As YAML gives it.

    Raises:
        UsageError: It has what has no flag here, a wrapper or a callback say.
    """
    entry = {name: _literal(name, value) for name, value in entry.items()}
    known = Settings(config=AGENTS[algo].config()).to_json()
    # What an entry leaves out is as SB3 has it, which our defaults are but for these.
    settings: dict[str, Any] = {"n_envs": 1}
    if "noise_std" in known and "noise_type" not in entry:
        settings["noise_std"] = 0.0
    for name in UNKNOWN_HERE:
        if entry.pop(name, None) not in (None, [], {}, ATARI_WRAPPER, [ATARI_WRAPPER]):
            remedy = "; register an environment that has it" if name == "env_wrapper" else ""
            raise UsageError(f"{name} cannot be taken over{remedy}")
    policy = _mapping(POLICY, entry.pop(POLICY, None))
    if word := str(entry.pop("policy", "")):
        settings |= ({"net_arch": ()} if "Cnn" in word else {}) | _norm_of(algo, word)
    if "n_timesteps" in entry:
        steps = entry.pop("n_timesteps")
        is_whole = isinstance(steps, float) and steps.is_integer()
        settings["total_timesteps"] = int(steps) if is_whole else steps
    further = _mapping("normalize_kwargs", entry.pop("normalize_kwargs", None))
    if "normalize" in entry:
        settings["normalize"] = _normalize(entry.pop("normalize"), further)
    match entry.get("train_freq"):
        case [frequency, unit]:
            settings |= {"train_freq": frequency, "train_freq_unit": unit}
            del entry["train_freq"]
    for name in ("learning_rate", "clip_range"):
        if str(entry.get(name)).startswith("lin_"):
            settings[name] = _literal(name, entry.pop(name).removeprefix("lin_"))
            settings[f"{name}_schedule"] = "linear"
    for name, part in ((POLICY, _policy(policy)), ("algorithm_kwargs", entry)):
        settings |= {key: value for key, value in part.items() if key in known}
        if further := {key: value for key, value in part.items() if key not in known}:
            settings[name] = further
    return settings


def _norm_of(algo: str, word: str) -> dict[str, str]:
    """Return the norm that the name of a policy has: ours begin with one, SB3's have none."""
    import wnrl.sb3  # noqa: F401 (registers the names of the policies)

    policies = AGENTS[algo].config.algorithm.policy_aliases
    if word not in policies:
        raise UsageError(f"policy {word!r} is none of SB3's or ours for {algo}")
    norm = getattr(policies[word], "default_norm", None)
    return {} if norm is None else {"norm": norm}


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping | None):
        raise UsageError(f"{name} must be a dict, got {value!r}")
    return dict(value or {})


def _normalize(value: Any, further: Mapping[str, Any]) -> str:
    if not value:
        return "none"
    asked = {} if value is True else _mapping("normalize", value)
    asked = {"norm_obs": True, "norm_reward": True, **asked, **further}
    words = {(0, 0): "none", (1, 0): "obs", (0, 1): "reward", (1, 1): "both"}
    word = words[bool(asked.pop("norm_obs")), bool(asked.pop("norm_reward"))]
    if asked:
        raise UsageError(f"normalize: {min(asked)} has no flag here")
    return word


def _policy(policy: dict[str, Any]) -> dict[str, Any]:
    """Return what the arguments of a policy say in our words."""
    from wnrl.networks import ACTIVATIONS
    from wnrl.rl.models import OPTIMIZERS

    told = dict(policy)
    arch = told.get("net_arch")
    if isinstance(arch, list) and len(arch) == 1 and isinstance(arch[0], Mapping):
        arch = arch[0]  # as SB3 1 had it
    if isinstance(arch, Mapping):
        with as_usage_error("net_arch needs lists for pi and vf or qf", LookupError, TypeError):
            told["net_arch"] = tuple(arch["pi"])
            told["critic_arch"] = tuple(arch["vf"] if "vf" in arch else arch["qf"])
    activations = {kind.__name__: word for word, kind in ACTIVATIONS.items()}
    optimizers = {name.rpartition(":")[2]: word for word, name in OPTIMIZERS.items()}
    for name, word, words in (
        ("activation_fn", "activation_fn", activations),
        ("optimizer_class", "optimizer", optimizers),
    ):
        if name in told:
            told[word] = words[check_choice(name, str(told.pop(name)).rpartition(".")[2], words)]
    return told


def _literal(name: str, value: Any) -> Any:
    """Return what a string says, where a number, a dict or a class stands in it."""
    if not isinstance(value, str):
        return value
    for number in (int, float):  # 1e-3 without a point is a string for YAML
        with contextlib.suppress(ValueError):
            return number(value)
    if not value.strip().startswith(("dict(", "{")):
        return value
    try:
        return _value(ast.parse(value.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise UsageError(f"{name} is not understood: {printable(value)}") from error


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=parts):
            return {part.arg: _value(part.value) for part in parts}
        case ast.Dict(keys=keys, values=values):
            return {ast.literal_eval(k): _value(v) for k, v in zip(keys, values, strict=True) if k}
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_value(part) for part in parts]
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ast.literal_eval(node)
