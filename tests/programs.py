"""Arguments of the programs that train: a preset, and some flags that are given."""

from dataclasses import fields

from agents import defaults
from scripts import train_agent, train_vae
from wnrl import vae
from wnrl.vae.presets import USUAL


def agent_args(algo="ppo", env_id=None, variant=None, **others):
    """Return what ``train_agent.py`` is told."""
    return train_agent.Args(**vars(defaults.preset_of(algo, env_id, variant)) | others)


def vae_args(model="mlp", dataset="digits", preset=USUAL, **values):
    """Return what ``train_vae.py`` is told; the others of ``values`` are settings of the run."""
    names = {field.name for field in fields(train_vae.Args)}
    own = {name: values.pop(name) for name in names & values.keys()}
    config = vae.preset(model, dataset, preset, **values)
    return train_vae.Args(preset=preset, config=config, **own)
