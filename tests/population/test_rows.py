"""Networks as rows, and back."""

import pytest
import torch
from torch import nn

from wnrl.networks import mlp
from wnrl.norms import NORMS
from wnrl.population.rows import Rows, Slot


def networks(norm, n=3):
    made = []
    for seed in range(n):
        torch.manual_seed(seed)
        net = mlp(4, (8,), 2, norm=norm)
        net(torch.randn(16, 4))  # batch norms move, and count
        made.append(net)
    return made


@pytest.mark.parametrize("norm", NORMS)
def test_what_was_stacked_is_what_is_loaded(norm):
    nets = networks(norm)
    rows = Rows.of(dict(nets[0].named_parameters())), Rows.of(dict(nets[0].named_buffers()))
    matrices = [r.stack(nets) for r in rows]
    target = mlp(4, (8,), 2, norm=norm)
    for r, matrix in zip(rows, matrices, strict=True):
        r.load(matrix[1], target)
    for name, value in nets[1].state_dict().items():
        assert torch.equal(target.state_dict()[name], value), name


def test_views_are_views_under_the_names_of_the_module():
    nets = networks("weight")
    rows = Rows.of(dict(nets[0].named_parameters()))
    matrix = rows.stack(nets)
    views = rows.views(matrix)
    assert {name: view.shape for name, view in views.items()} == {
        name: (3, *p.shape) for name, p in nets[0].named_parameters()
    }
    views["0.weight_g"][1] = 7.0
    rows.load(matrix[1], nets[1])
    assert (nets[1][0].weight_g == 7).all()
    assert (nets[2][0].weight_g != 7).all()


def test_gaps_between_slots_stay_zero():
    rows = Rows((Slot("weight", (1, 2), 1), Slot("bias", (1,), 4)), 6)
    matrix = rows.stack([nn.Linear(2, 1)])
    assert matrix[0, [0, 3, 5]].abs().sum() == 0
    assert matrix[0, [1, 2, 4]].abs().min() > 0


def test_columns_are_those_of_the_named_tensors():
    rows = Rows.of(dict(nn.Linear(2, 3).named_parameters()))
    assert rows.columns(["bias"]).tolist() == [False] * 6 + [True] * 3


def test_a_network_without_buffers_has_empty_rows():
    nets = networks("none")
    assert Rows.of(dict(nets[0].named_buffers())).stack(nets).shape == (3, 0)
