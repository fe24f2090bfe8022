"""All that a run of an agent is told, as one value."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from agents import AGENTS
from agents.config import Config, Keywords
from wnrl.errors import check_choice
from wnrl.limits import Limited, Seed, Threads, Whole

ENVIRONMENT = ("env_id", "env_kwargs", "max_episode_steps", "frame_stack")
"""Settings that say what the environment of an agent is."""
CHOSEN_AGAIN = ("device", "threads")
"""Those that say where a run is: another one that is made like it may be elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Settings(Limited):
    """Each field, of ``config`` too, is a flag of ``train_agent.py``, and in ``config.json``.

    Raises:
        UsageError: a number that cannot be.
    """

    algo: str = "ppo"
    """ppo, a2c, maskable_ppo, trpo, dqn, qrdqn, sac, td3, ddpg, tqc, crossq or recurrent_ppo, each
    with its own flags: --algo sac --help shows those of SAC."""
    env_id: str = "CartPole-v1"
    """Environment: an id of Gymnasium's registry, ours included (--list envs shows them), or
    module:Env-v0, whose module may stand in the current folder."""
    env_kwargs: Keywords = field(default_factory=dict, hash=False)
    """Arguments of the environment: --env-kwargs continuous True gravity -5."""
    max_episode_steps: Whole | None = None
    """Steps after which episodes are cut, instead of the environment's own limit."""
    subprocesses: bool = False
    """Step each environment in a process of its own: on two cores, worth it where a step takes more
    than a quarter of a millisecond, which classic control does not."""
    variant: str | None = None
    """A published recipe on top of the preset, such as salimans2016 for dqn."""
    norm: str = "weight"
    """Normalisation: none, weight, weight_mean, mean, projected, batch, batch_renorm, layer, rms or
    spectral; a key of wnrl.NORMS."""
    seed: Seed = 0
    """Seeds the network, the actions and the environments."""
    device: str = "auto"
    """auto (a GPU where there is one and the network is not small), cpu, cuda or cuda:<k>."""
    threads: Threads | None = None
    """CPU threads of torch; if not given, one for a small network, a few for a larger one, never
    more than OMP_NUM_THREADS."""
    compile: bool = False
    """Compile the networks for the updates; CUDA graphs on a GPU."""
    film: bool = True
    """Film the trained agent for TensorBoard, where the environment can be drawn."""
    eval_episodes: Whole = 20
    """Episodes of the evaluation after training."""
    eval_points: Whole = 20
    """Evaluations during training, for the learning curve."""
    eval_point_episodes: Whole = 5
    """Episodes of each of them."""
    config: Config
    """Hyperparameters of the algorithm."""

    @property
    def usual_folder(self) -> Path:
        """Return where the run goes if nothing else is said."""
        task = Path("runs", "single", re.sub("[/:]", "_", self.env_id))
        return task / self.algo / self.norm / f"seed{self.seed}"

    def to_json(self) -> dict[str, Any]:
        """Return all that the run is told, as its ``config.json`` has it."""
        own = {f.name: getattr(self, f.name) for f in fields(Settings) if f.name != "config"}
        return own | asdict(self.config)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Settings":
        """Return what is told in ``values``; what is not there has its default.

        Raises:
            UsageError: there is no such algorithm, or a value cannot be used.
        """
        kind = AGENTS[check_choice("algo", values["algo"], AGENTS)].config
        return Settings(**_taken(Settings, values) | {"config": kind(**_taken(kind, values))})


def _taken(kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of ``values`` that a dataclass has fields for."""
    return {f.name: values[f.name] for f in fields(kind) if f.name in values}
