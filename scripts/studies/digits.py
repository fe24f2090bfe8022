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


def all_arms(options: Mapping[str, Mapping[str, Any]]) -> list[Arm]:
    """Return the arms of every norm; ``options`` are by norm."""
    arms = []
    for norm, row in NORMS.items():
        own = options.get(norm, {})
        arms += [Arm(norm, norm, own), Arm(f"{norm}_init", norm, own, INIT, dash="--")]
        if row.reparametrizes:
            arms.append(Arm(f"{norm}_heads", norm, own, HEADS, dash=":"))
            arms.append(Arm(f"{norm}_paper", norm, own, {**INIT, **HEADS}, dash="-."))
    return arms


STUDY = Study(
    "digits",
    tasks=[DIGITS],
    arms=all_arms({"batch_renorm": {"warmup_steps": 100, "r_steps": 400, "d_steps": 400}}),
    baseline="none",
    seeds=range(8),
    tuned={"learning_rate": (1e-3, 3e-3, 1e-2)},
    tuning_seeds=range(1000, 1003),
)
