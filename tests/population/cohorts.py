"""What is true of a cohort whatever its networks are."""

import torch
from torch.utils import _pytree as pytree

from wnrl.population.states import part


def assert_equal(tree, other):
    """Assert that two trees hold the same numbers."""
    assert all(map(torch.equal, pytree.tree_leaves(tree), pytree.tree_leaves(other)))


def assert_companions_change_no_bit(trained, configs):
    """Assert that member 3 alone, eight members and all of them end with the same numbers.

    Args:
        trained: returns a cohort of these members, trained.
        configs: of more than eight members.
    """
    alone, few, many = (trained(some) for some in (configs[3:4], configs[:8], configs))
    assert_equal(alone.agents, part(few.agents, slice(3, 4)))
    assert_equal(few.agents, part(many.agents, slice(8)))
    assert torch.equal(alone.evaluate(3)[0][0], many.evaluate(3)[0][3])


def assert_others_are_untouched(cohorts, place, iterations):
    """Assert that a member whose parameters become NaN changes no bit of the others.

    Args:
        cohorts: two that are alike.
        place: of the member.
        iterations: of training.
    """
    good, bad = cohorts
    bad.per_member["learning_rate"][place] = torch.nan
    for _ in range(iterations):
        good.iterate()
        bad.iterate()
    rest = torch.arange(len(good.members)) != place
    assert bad.finite().tolist() == rest.tolist()
    assert torch.equal(good.params[rest], bad.params[rest])
