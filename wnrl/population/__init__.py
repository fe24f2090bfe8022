"""Many runs as one batch: members of one cohort differ in seed, learning rate and the like.

``train`` trains every norm at every learning rate with every seed. ``wnrl.population.run`` makes
ordinary run folders of a cohort, and ``compare.py`` takes populations where they pay.
"""

from wnrl.arguments import guard
from wnrl.population.api import COHORTS, Member, Runs, VAEMember, train

__all__ = ["COHORTS", "Member", "Runs", "VAEMember", "train"]

guard(globals(), __all__)
