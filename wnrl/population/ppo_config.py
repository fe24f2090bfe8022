"""PPO's hyperparameters by SB3's names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from wnrl.limits import Fraction, FromZero, Positive, TwoOrMore, Whole, check_minibatches
from wnrl.population.config import MemberConfig, Schedule


@dataclass(frozen=True, kw_only=True)
class PPOConfig(MemberConfig):
    """Hyperparameters of one member; the defaults are SB3's.

    Raises:
        UsageError: a value with which training could not run.
    """

    members: ClassVar[tuple[str, ...]] = (
        *MemberConfig.members,
        "clip_range",
        "ent_coef",
        "gae_lambda",
    )
    algorithm: ClassVar[str] = "PPO"
    adam_eps: ClassVar[float] = 1e-5
    elsewhere: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **MemberConfig.elsewhere,
        "critic_arch": (None,),
        "use_sde": (False,),
        "sde_sample_freq": (),
        "target_kl": (None,),
        "clip_range_vf": (None,),
    }

    n_envs: Whole = 8
    """Environments that step together."""
    n_steps: Whole = 2048
    """Steps of each environment between updates."""
    batch_size: TwoOrMore = 64
    """Samples in a minibatch."""
    n_epochs: Whole = 10
    """Passes over the samples of an update."""
    gae_lambda: Fraction = 0.95
    """Trace of the generalised advantage estimate."""
    clip_range: Positive = 0.2
    """How far the ratio of new to old policy may leave 1."""
    clip_range_schedule: Schedule = "constant"
    """linear: falls to zero at the end of training."""
    normalize_advantage: bool = True
    """Standardise the advantages of each minibatch."""
    ent_coef: FromZero = 0.0
    """Weight of the entropy bonus."""
    vf_coef: FromZero = 0.5
    """Weight of the value loss."""
    max_grad_norm: Positive = 0.5
    """Gradients are scaled down to this length."""
    ortho_init: bool = True
    """Orthogonal initialisation, 0.01 at the action head."""
    log_std_init: float = 0.0
    """Initial log standard deviation of continuous actions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minibatches(self)

    @property
    def steps(self) -> int:
        """Steps of each environment in an iteration."""
        return self.n_steps

    @property
    def minibatches(self) -> int:
        """Minibatches of an epoch; the last one may be smaller."""
        return -(-self.samples // self.batch_size)
