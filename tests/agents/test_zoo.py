"""rl-baselines3-zoo's tuned values, each trained for a moment with a weight-normalized policy."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from agents import AGENTS
from agents.config import OffPolicyConfig
from agents.config_file import ZOO_NAMES
from agents.defaults import of_flags
from agents.run import factory_of
from wnrl.errors import UsageError
from wnrl.nn import WNLinear
from wnrl.rl.environments import vectorize
from wnrl.rl.run import learn

STEPS = 500
ENTRIES = yaml.safe_load(Path(__file__).with_name("zoo.yml").read_text(encoding="utf-8"))
CASES = [
    (ZOO_NAMES.get(algo, algo), env_id, entry)
    for algo, entries in ENTRIES.items()
    for env_id, entry in entries.items()
]


def shortened(config):
    """Return ``config`` with rollouts, warm-up and buffer so small that 500 steps are learned from.

    A last minibatch of one sample is not left over, which would be refused.
    """
    if isinstance(config, OffPolicyConfig):
        return replace(
            config,
            total_timesteps=STEPS,
            learning_starts=min(config.learning_starts, 100),
            buffer_size=min(config.buffer_size, 10_000),
        )
    n_steps = min(config.n_steps, max(2, 256 // config.n_envs))
    return replace(config, total_timesteps=STEPS, n_steps=n_steps)


def read(folder, algo, env_id, entry):
    """Return settings and hyperparameters as ``--config`` has them."""
    path = folder / f"{algo}.yml"
    path.write_text(yaml.safe_dump({env_id: entry}), encoding="utf-8")
    return of_flags(config=path, env_id=env_id)


def test_every_entry_is_understood(tmp_path):
    assert len(CASES) >= 74
    for algo, env_id, entry in CASES:
        settings = read(tmp_path, algo, env_id, entry)
        config = settings.config
        assert (settings.algo, settings.norm) == (algo, "weight")
        assert (config.total_timesteps, config.n_envs) == (
            entry["n_timesteps"],
            entry.get("n_envs", 1),
        )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")  # rollouts are short
@pytest.mark.parametrize(
    ("algo", "env_id", "entry"), CASES, ids=[f"{algo}-{env_id}" for algo, env_id, _ in CASES]
)
def test_an_entry_trains_with_another_policy_word(tmp_path, algo, env_id, entry):
    settings = read(tmp_path, algo, env_id, entry)
    config = shortened(settings.config)
    try:
        make = factory_of(settings)
    except UsageError as error:
        pytest.skip(str(error))
    with closing(vectorize(make, config.n_envs, 0, config.normalize, config.gamma)) as env:
        model = AGENTS[algo].build(config, env, "weight", 0, "cpu")
        before = model.policy.parameters_to_vector()
        learn(model, STEPS)
    after = model.policy.parameters_to_vector()
    assert model.num_timesteps >= STEPS
    assert any(isinstance(part, WNLinear) for part in model.policy.modules())
    assert np.isfinite(after).all()
    assert not np.array_equal(after, before)
