"""The digits under every norm, bare and as the paper of weight norm has it: an hour on two cores.

That paper initialises every network from data, and its output layers are plain. The arms are a
norm alone, with either of these (``_init``, ``_heads``) and with both (``_paper``); norms of hidden
layers leave heads plain anyway. Batch renormalisation opens at step 100 of 800.
"""

from collections.abc import Mapping
from typing import Any

from scripts.studies._tasks import DIGITS
from wnrl import NORMS
from wnrl.study import Arm, Study

INIT, HEADS = {"data_init": 500}, {"norm_heads": False}


def arms_of(norm: str, options: Mapping[str, Any]) -> list[Arm]:
    """Return the arms of one norm with options of its own."""
    arms = [Arm(norm, norm, options), Arm(f"{norm}_init", norm, options, INIT, dash="--")]
    if NORMS[norm].reparametrizes:
        arms.append(Arm(f"{norm}_heads", norm, options, HEADS, dash=":"))
        arms.append(Arm(f"{norm}_paper", norm, options, {**INIT, **HEADS}, dash="-."))
    return arms


def all_arms(options: Mapping[str, Mapping[str, Any]]) -> list[Arm]:
    """Return the arms of every norm; ``options`` are by norm."""
    return [arm for norm in NORMS for arm in arms_of(norm, options.get(norm, {}))]


STUDY = Study(
    "digits",
    tasks=[DIGITS],
    arms=all_arms({"batch_renorm": {"warmup_steps": 100, "r_steps": 400, "d_steps": 400}}),
    baseline="none",
    seeds=range(8),
    tuned={"learning_rate": (1e-3, 3e-3, 1e-2)},
    tuning_seeds=range(1000, 1003),
)
