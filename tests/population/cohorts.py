"""What is true of a cohort whatever its networks are."""

import torch
from torch.utils import _pytree as pytree

from wnrl.population.states import part
from wnrl.runs.files import read_values, write_values


def trained(kind, env, configs, iterations, **arguments):
    """Return a cohort of these members after some iterations."""
    cohort = kind(env, configs, **arguments)
    for _ in range(iterations):
        cohort.iterate()
    return cohort


def assert_equal(tree, other):
    """Assert that two trees hold the same numbers."""
    assert all(map(torch.equal, pytree.tree_leaves(tree), pytree.tree_leaves(other)))


def assert_companions_change_no_bit(kind, env, configs, iterations):
    """Assert that member 3 alone, eight members and all of them end with the same numbers."""
    alone, few, many = (
        trained(kind, env, some, iterations) for some in (configs[3:4], configs[:8], configs)
    )
    assert_equal(alone.agents, part(few.agents, slice(3, 4)))
    assert_equal(few.agents, part(many.agents, slice(8)))
    assert torch.equal(alone.evaluate(3)[0][0], many.evaluate(3)[0][3])


def assert_a_restored_cohort_goes_on(kind, env, configs, halted_after, path):
    """Assert that a cohort that is written and read in between ends with the same bits."""
    whole, halted = (trained(kind, env, configs, n) for n in (2 * halted_after, halted_after))
    write_values(path, "cohort", halted.state())
    resumed = kind(env, configs)
    resumed.restore(read_values(path, "cohort"))
    resumed.train()
    whole.train()
    assert resumed.steps == configs[0].total_timesteps
    assert_equal(resumed._kept(), whole._kept())


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


def assert_what_is_almost_nothing_becomes_zero(cohort):
    """Assert that an iteration leaves no number that a CPU is slow with where a unit is off."""
    for values in cohort.optimizer_state.values():
        values.fill_(torch.finfo(values.dtype).tiny)
    cohort.params.zero_()  # nothing flows to hidden units
    cohort.iterate()
    for values in cohort.optimizer_state.values():
        sizes = values.abs()
        assert (sizes == 0).any()
        assert not ((sizes > 0) & (sizes < torch.finfo(values.dtype).tiny)).any()
