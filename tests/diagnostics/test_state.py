import random

import numpy as np
import pytest
import torch
from torch import nn

from wnrl import convert
from wnrl.diagnostics import preserve_state, to_floats


@pytest.mark.parametrize("norm", ["batch", "batch_renorm", "mean", "spectral"])
def test_statistics_and_modes_come_back(norm):
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout())
    convert(net, norm)
    net.train()
    net[2].eval()
    buffers = {name: (b, b.clone()) for name, b in net.named_buffers()}
    modes = [part.training for part in net.modules()]
    assert buffers
    with preserve_state(net):
        net.train()
        net(torch.randn(8, 3))
        changed = any(not torch.equal(b, kept) for b, kept in buffers.values())
        net.eval()
    assert changed
    assert [part.training for part in net.modules()] == modes
    for name, buffer in net.named_buffers():
        same, kept = buffers[name]
        assert buffer is same
        assert torch.equal(buffer, kept)


def draws():
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002


def seed_all():
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)


def look_and_fail(net):
    with preserve_state(net):
        draws()
        raise ZeroDivisionError


def test_random_generators_come_back_also_after_an_error():
    net = nn.Linear(1, 1)
    seed_all()
    expected = draws()
    seed_all()
    with pytest.raises(ZeroDivisionError):
        look_and_fail(net)
    assert draws() == expected


def test_scalars_of_any_type_and_shape_become_numbers():
    given = {"a": torch.tensor([1.5]), "b": torch.tensor(2), "c": torch.tensor(0.1).double()}
    assert to_floats(given) == {"a": 1.5, "b": 2.0, "c": pytest.approx(0.1)}
    assert to_floats({}) == {}
