"""Random numbers from a counter: what they look like, and what they do not depend on."""

import numpy as np
import pytest
import torch
from scipy import stats

from wnrl.population.random import bits, fork, member_keys, permutation, uniform

KEYS = member_keys(range(40))
MASK = 2**64 - 1


def splitmix64(state, n):
    """Return the first n numbers of the published generator, in Python's whole numbers."""
    numbers = []
    for _ in range(n):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        numbers.append(z ^ (z >> 31))
    return numbers


def test_the_numbers_are_those_of_the_published_generator():
    ours = bits(KEYS[:2], 0, 20)
    for key, row in zip(KEYS[:2].tolist(), ours.tolist(), strict=True):
        assert [number & MASK for number in row] == splitmix64(key & MASK, 20)


def test_a_number_depends_on_its_key_and_place_alone():
    together = uniform(KEYS, 100, 50)
    assert torch.equal(uniform(KEYS[3:4], 110, 5), together[3:4, 10:15])
    assert torch.equal(uniform(KEYS, torch.tensor(100), 50), together)
    assert torch.equal(permutation(KEYS[3:4], 7, 30), permutation(KEYS, 7, 30)[3:4])


def test_streams_and_neighbouring_seeds_have_no_number_in_common():
    streams = [bits(fork(KEYS, stream), 0, 100) for stream in range(4)]
    numbers = torch.stack([bits(KEYS, 0, 100), *streams]).flatten()
    assert len(numbers.unique()) == len(numbers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_numbers_are_uniform_and_never_zero_or_one(dtype):
    u = uniform(KEYS, 0, 5000, dtype)
    assert u.dtype == dtype
    assert 0 < u.min() < 1e-4
    assert 1 - 1e-4 < u.max() < 1
    assert stats.kstest(u.flatten().double().numpy(), "uniform").pvalue > 0.01
    assert stats.kstest(u[0].double().numpy(), "uniform").pvalue > 0.01


def test_the_largest_and_the_smallest_uniform_number_are_inside(monkeypatch):
    for extreme in (0, -1):  # no bit set, and all of them
        monkeypatch.setattr(
            "wnrl.population.random.bits", lambda *_, value=extreme: torch.tensor([[value]])
        )
        assert 0 < uniform(KEYS, 0, 1).item() < 1


def test_pairs_of_successive_numbers_and_of_neighbouring_members_fill_the_square():
    u = uniform(KEYS, 0, 5000).double().numpy()
    for x, y in ((u[:, :-1], u[:, 1:]), (u[:-1], u[1:])):
        counts, _, _ = np.histogram2d(x.ravel(), y.ravel(), bins=16, range=[[0, 1], [0, 1]])
        assert stats.chisquare(counts.ravel()).pvalue > 0.01
        assert abs(np.corrcoef(x.ravel(), y.ravel())[0, 1]) < 0.01


def test_a_permutation_has_every_place_once():
    orders = permutation(KEYS, 0, 257)
    assert torch.equal(orders.sort(dim=1).values, torch.arange(257).expand(40, -1))


def test_every_order_comes_equally_often():
    orders = permutation(member_keys(range(6000)), 0, 3)
    counts = (orders * torch.tensor([9, 3, 1])).sum(1).unique(return_counts=True)[1]
    assert len(counts) == 6
    assert stats.chisquare(counts.numpy()).pvalue > 0.01
