"""Train one agent with one normalisation, and evaluate it.

    python scripts/train_agent.py --algo ppo --env-id CartPole-v1 --norm weight --seed 0

Hyperparameters come from the preset of the algorithm and environment; each is a flag as well.
With ``--resume`` a run that was stopped goes on from its last checkpoint, on the CPU with the same
result as if it had not been stopped, and a finished one goes on to a larger ``--total-timesteps``;
``--run-dir <folder> --resume`` is enough, for what is not given is what the run has.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts import _cli

if __name__ == "__main__":
    _cli.start()

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import tyro

from agents import AGENTS
from agents import run as runner
from agents.config import Config
from wnrl.errors import UsageError, check_choice
from wnrl.norms import NORMS
from wnrl.runs import CONFIG, Options, read_config

RUNNING = ("run_dir", "resume", "checkpoint_minutes", "keep_checkpoint", "config")  # no settings


@dataclass(frozen=True, kw_only=True)
class Args:
    """One run. ``Args.of`` fills ``config`` with the preset."""

    algo: str = "ppo"
    """ppo, a2c, trpo, dqn, qrdqn, sac, td3, tqc, crossq or recurrent_ppo, each with its own flags:
    --algo sac --help shows those of SAC."""
    env_id: str = "CartPole-v1"
    """Environment: an id of Gymnasium's registry, ours included, or module:Env-v0."""
    variant: str | None = None
    """A published recipe on top of the preset, such as salimans2016 for dqn."""
    norm: str = "weight"
    """Normalisation: none, weight, weight_mean, mean, projected, batch, batch_renorm, layer, rms or
    spectral; a key of wnrl.NORMS."""
    seed: int = 0
    """Seeds the network, the actions and the environments."""
    device: str = "auto"
    """auto (a GPU where there is one and the network is not small), cpu, cuda or cuda:<k>."""
    run_dir: Path | None = None
    """The run's folder; runs/single/<task>/<algo>/<norm>/seed<k> unless said otherwise."""
    resume: bool = False
    """Go on where the run in the folder was stopped, or to more steps; begins where it is empty, if
    --algo or --env-id says with what. Flags that are not given mean what that run has."""
    checkpoint_minutes: float = 10.0
    """Time between the checkpoints for --resume; longer where they take long to write."""
    keep_checkpoint: bool = True
    """Leave one in a finished run too, which can then be extended; it has the replay buffer."""
    eval_episodes: int = 20
    """Episodes of the evaluation after training."""
    eval_points: int = 20
    """Evaluations during training, for the learning curve."""
    eval_point_episodes: int = 5
    """Episodes of each of them."""
    threads: int | None = None
    """CPU threads of torch; one for a small network, a few for a larger one if not given."""
    compile: bool = False
    """Compile the networks for the updates; CUDA graphs on a GPU."""
    config: tyro.conf.OmitArgPrefixes[Config]
    """Hyperparameters, with SB3's names; the defaults are those of the preset, or of the run that
    goes on."""

    @classmethod
    def of(
        cls, algo: str = "ppo", env_id: str | None = None, variant: str | None = None, **others: Any
    ) -> "Args":
        """Return arguments with the preset of ``algo`` and ``env_id``, or with ``config``.

        Without ``env_id`` it is the first one that the algorithm has a preset for.

        Raises:
            UsageError: There is no such algorithm or variant.
        """
        row = AGENTS[check_choice("algo", algo, AGENTS)]
        env_id = env_id or next(iter(row.presets))
        others.setdefault("config", row.preset(env_id, variant))
        return cls(algo=algo, env_id=env_id, variant=variant, **others)

    def __post_init__(self) -> None:
        if self.threads is not None:
            _cli.check_threads(self.threads)
        self.options()
        self.as_config()

    @property
    def folder(self) -> Path:
        """The run's folder."""
        task = Path("runs", "single", re.sub("[/:]", "_", self.env_id))
        return self.run_dir or task / self.algo / self.norm / f"seed{self.seed}"

    def options(self) -> Options:
        """Return how the run is carried out."""
        return Options(self.resume, self.checkpoint_minutes, self.keep_checkpoint)

    def as_config(self) -> dict[str, Any]:
        """Return every value that decides what the run does."""
        values = {name: value for name, value in asdict(self).items() if name not in RUNNING}
        return runner.complete(**values, **asdict(self.config))


def train(args: Args, *reports: Callable[..., None]) -> dict[str, Any]:
    """Do the run; ``reports`` are ``agents.run.train_agent``'s."""
    return runner.train_agent(args.folder, args.as_config(), args.options(), *reports)


def main(args: Args) -> int:
    """Print the run folder, train, print the result; return 1 if the run failed."""
    with _cli.progress_bar() as progress:
        result = train(args, progress, lambda: print(args.folder, flush=True))
    if result["status"] == "failed":
        print(f"failed: {result['reason']}")
        return 1
    print(
        f"final_return {result['final_return']:.1f} over {len(result['eval_returns'])} episodes, "
        f"best_return {result['best_return']:.1f} at step {result['best_step']}, "
        f"{result['steps_per_second']:.0f} steps/s"
    )
    return 0


def preset_of(argv: Sequence[str]) -> Args:
    """Return what the flags that are not given mean.

    With ``--resume`` it is what the run in the folder has, else the preset for the algorithm and
    environment that are given.

    Raises:
        UsageError: There is no such variant, or the folder holds no run of an agent, and nothing
            says which one to begin.
    """
    scan = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("algo", "env_id", "variant", "norm", "seed", "run_dir"):
        scan.add_argument(f"--{name.replace('_', '-')}", f"--{name}", nargs="?", const="")
    scan.add_argument("--help", "-h", action="store_true")
    scan.add_argument("--resume", action=argparse.BooleanOptionalAction)
    given, _ = scan.parse_known_args(argv)
    algo = given.algo if given.algo in AGENTS else "ppo"  # which Args refuses
    preset = Args.of(algo, given.env_id, given.variant or None)
    if not given.resume:
        return preset
    where = replace(
        preset,
        seed=int(given.seed) if given.seed and given.seed.isdecimal() else 0,
        norm=given.norm if given.norm in NORMS else preset.norm,
        run_dir=Path(given.run_dir) if given.run_dir else None,
    )
    folder = where.folder
    earlier = read_config(folder)
    if earlier and "algo" not in earlier:
        raise UsageError(
            f"run_dir {folder} holds a run of another program: its {CONFIG} has no algo"
        )
    if not (earlier or given.algo or given.env_id or given.run_dir == "" or given.help):
        raise UsageError(
            f"run_dir {folder} holds no run to go on with; to begin one there, say which: "
            "--algo or --env-id"
        )
    if earlier.get("algo") not in AGENTS or given.algo not in (None, earlier["algo"]):
        return preset
    kind = AGENTS[earlier["algo"]].config
    config = kind(**{f.name: earlier[f.name] for f in fields(kind) if f.name in earlier})
    chosen_again = ("device", "threads")  # it may go on elsewhere
    others = {f.name: earlier[f.name] for f in fields(Args) if f.name in earlier}
    others = {name: value for name, value in others.items() if name not in chosen_again}
    return replace(preset, config=config, **others)


if __name__ == "__main__":
    _cli.run(main, Args, description=__doc__, default=preset_of)
