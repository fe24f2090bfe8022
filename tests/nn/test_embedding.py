import pytest
import torch
from torch import nn

from wnrl import nn as wn
from wnrl.errors import UsageError


@pytest.mark.parametrize("count", [3, 40])
@pytest.mark.parametrize("by_frequency", [False, True])
@pytest.mark.parametrize("scale", ["linear", "exp"])
def test_few_and_many_indices_give_the_same_numbers_and_gradients(count, by_frequency, scale):
    torch.manual_seed(0)
    layer = wn.WNEmbedding(10, 4, scale_grad_by_freq=by_frequency, scale=scale)
    plain = layer.to_plain()
    x = torch.randint(10, (count,))
    torch.testing.assert_close(layer(x), plain(x))
    (layer(x) ** 3).sum().backward()
    (plain(x) ** 3).sum().backward()
    expected = torch.autograd.grad(
        layer.compute_weight("weight"), (layer.weight_v, layer.weight_g), plain.weight.grad
    )
    torch.testing.assert_close((layer.weight_v.grad, layer.weight_g.grad), expected)


@pytest.mark.parametrize("count", [3, 40])
def test_the_padding_row_stays_zero(count):
    layer = wn.WNEmbedding(10, 4, padding_idx=-1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    x = torch.tensor([9, 1, 2]).repeat(count // 3)
    layer(x).square().sum().backward()
    optimizer.step()
    assert layer.padding_idx == 9
    assert torch.count_nonzero(layer(torch.tensor(9))) == 0


def test_the_padding_row_is_zero_at_the_papers_start_too():
    drawn = wn.WNEmbedding(10, 4, padding_idx=3, v_init_std=0.05)
    converted = wn.WNEmbedding.from_plain(nn.Embedding(10, 4, padding_idx=3), v_init_std=0.05)
    converted.reset_parameters()
    for layer in (drawn, converted):
        assert torch.count_nonzero(layer.weight[3]) == 0
        torch.testing.assert_close(layer.weight.norm(dim=1).sum(), torch.tensor(9.0))


def test_no_index_at_all_gives_an_empty_result():
    assert wn.WNEmbedding(10, 4)(torch.zeros(0, 3, dtype=torch.long)).shape == (0, 3, 4)


def test_what_a_computed_weight_cannot_do_is_refused():
    with pytest.raises(UsageError, match=r"max_norm must be None, got 1\.0"):
        wn.WNEmbedding(10, 4, max_norm=1.0)
    with pytest.raises(UsageError, match="sparse must be False"):
        wn.WNEmbedding.from_plain(nn.Embedding(10, 4, sparse=True))
