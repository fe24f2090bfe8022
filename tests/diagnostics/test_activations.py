import math

import pytest
import torch
from torch import nn

from wnrl import convert
from wnrl.diagnostics import dormant_share, effective_rank, recorded
from wnrl.errors import UsageError


def with_singular_values(values, rows=12, columns=8, dtype=torch.float64):
    u, _ = torch.linalg.qr(torch.randn(rows, len(values), dtype=dtype))
    v, _ = torch.linalg.qr(torch.randn(columns, len(values), dtype=dtype))
    return u @ torch.diag(torch.tensor(values, dtype=dtype)) @ v.T


def test_units_that_are_zero_on_every_row_are_dormant():
    activations = torch.tensor([[0.0, 1.0, -2.0, 0.0], [0.0, 3.0, 2.0, 1e-9]])
    assert dormant_share(activations).item() == 0.25


def test_a_unit_is_dormant_up_to_tau_times_the_mean_of_all():
    activations = torch.tensor([[1.0, 1.0, 0.1]])  # mean 0.7; the third has 1/7 of it
    assert dormant_share(activations, tau=0.14).item() == 0.0
    assert dormant_share(activations, tau=0.15).item() == pytest.approx(1 / 3)


def test_units_of_a_feature_map_are_its_channels():
    maps = torch.zeros(2, 4, 3, 3)
    maps[1, 2, 0, 0] = 1.0
    assert dormant_share(maps).item() == 0.75


def test_signs_do_not_cancel():
    assert dormant_share(torch.tensor([[1.0, 1.0], [-1.0, 1.0]]), tau=0.5).item() == 0.0


def test_a_layer_of_zeros_is_dormant_altogether():
    assert dormant_share(torch.zeros(3, 4)).item() == 1.0


@pytest.mark.parametrize(("values", "rank"), [([1.0], 1), ([5.0, 5.0, 5.0], 3), ([1.0] * 8, 8)])
def test_rank_of_equal_singular_values_is_their_number(values, rank):
    assert effective_rank(with_singular_values(values)).item() == rank


def test_singular_values_of_the_last_percent_do_not_count():
    assert effective_rank(with_singular_values([98.0, 1.5, 0.3, 0.2])).item() == 2
    assert effective_rank(with_singular_values([98.0, 0.9, 0.6, 0.5])).item() == 3


def test_rank_at_another_share():
    matrix = with_singular_values([6.0, 3.0, 1.0])
    assert [effective_rank(matrix, share).item() for share in (0.5, 0.8, 1.0)] == [1, 2, 3]


def test_rank_of_zeros_is_zero():
    assert effective_rank(torch.zeros(4, 3)).item() == 0


def test_rank_of_what_is_not_finite_is_no_number():
    features = torch.ones(4, 3)
    features[0, 0] = math.nan
    assert math.isnan(effective_rank(features).item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_results_are_at_least_single_precision(dtype):
    activations = torch.ones(4, 300, dtype=dtype)
    expected = torch.promote_types(dtype, torch.float32)
    assert effective_rank(activations).dtype == dormant_share(activations).dtype == expected
    assert effective_rank(activations).item() == 1


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: dormant_share(torch.ones(3)), r"activations must be \(B, U, ...\), got shape"),
        (lambda: dormant_share(torch.ones(0, 3)), "activations must be"),
        (lambda: dormant_share(torch.ones(2, 3), tau=-0.1), "tau must be at least 0, got -0.1"),
        (lambda: dormant_share(torch.ones(2, 3), tau=math.nan), "tau must be"),
        (lambda: effective_rank(torch.ones(3)), r"features must be \(B, F\), got shape \(3,\)"),
        (
            lambda: effective_rank(torch.ones(2, 3), share=0.0),
            "share must be a number above 0, up to 1",
        ),
        (
            lambda: effective_rank(torch.ones(2, 3), share=1.1),
            "share must be a number above 0, up to 1",
        ),
    ],
)
def test_arguments_without_a_meaning_are_refused(call, said):
    with pytest.raises(UsageError, match=said):
        call()


def test_hidden_activations_and_features_of_an_mlp_are_recorded():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(5, 3)
    with recorded(net, heads=["2"]) as seen:
        net(x)
    hidden = net[1](net[0](x)).detach()
    assert seen.hidden.keys() == {"1"}
    assert seen.features.keys() == {"2"}
    assert torch.equal(seen.hidden["1"], hidden)
    assert torch.equal(seen.features["2"], hidden)
    assert not seen.hidden["1"].requires_grad


def test_what_squashes_an_output_is_not_hidden():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.Tanh())
    with recorded(net, heads=["2"]) as seen:
        net(torch.randn(5, 3))
    assert seen.hidden.keys() == {"1"}


def test_calls_stand_one_after_the_other():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    with recorded(net) as seen:
        net(torch.randn(5, 3))
        net(torch.randn(2, 3))
    assert seen.hidden["1"].shape == (7, 4)


@pytest.mark.parametrize("norm", ["none", "weight", "layer"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_outputs_of_an_lstm_are_recorded_sequence_after_sequence(norm, batch_first):
    net = nn.ModuleDict({"lstm": nn.LSTM(3, 4, batch_first=batch_first)})
    convert(net, norm)
    x = torch.randn(5, 2, 3)  # (T, N, F)
    with recorded(net) as seen:
        out, _ = net["lstm"](x.transpose(0, 1) if batch_first else x)
    by_sequence = out if batch_first else out.transpose(0, 1)
    assert torch.equal(seen.hidden["lstm"], by_sequence.reshape(10, 4))


def test_packed_and_unbatched_sequences_are_recorded_as_rows():
    net = nn.ModuleDict({"lstm": nn.LSTM(3, 4)})
    packed = nn.utils.rnn.pack_sequence([torch.randn(3, 3), torch.randn(2, 3)])
    for sequences in (packed, torch.randn(5, 3)):
        with recorded(net) as seen:
            net["lstm"](sequences)
        assert seen.hidden["lstm"].shape == (5, 4)


def test_no_hook_is_left_behind():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(ZeroDivisionError), recorded(net, heads=["2"]):
        raise ZeroDivisionError
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


def test_a_head_that_is_not_there_is_named():
    recording = recorded(nn.Sequential(nn.Linear(3, 4)), heads=["value_net"])
    with pytest.raises(UsageError, match="heads must be submodules, got value_net"), recording:
        pass
