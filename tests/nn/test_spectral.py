import copy
import inspect
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence

from tests.nn.cases import out
from wnrl import convert, fold
from wnrl.errors import UsageError
from wnrl.nn.spectral import SPECTRAL, SpectralLinear, SpectralLSTM

FEED_FORWARD = [
    (nn.Linear(5, 4), (3, 5)),
    (nn.Conv1d(4, 6, 3, groups=2), (3, 4, 7)),
    (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (3, 4, 7, 7)),
    (nn.Conv3d(2, 3, 2), (2, 2, 4, 4, 4)),
    (nn.ConvTranspose1d(4, 6, 3), (3, 4, 7)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (3, 4, 5, 5)),
    (nn.ConvTranspose3d(2, 3, 2), (2, 2, 3, 3, 3)),
]


@pytest.mark.parametrize(("plain", "shape"), FEED_FORWARD)
def test_the_weight_is_divided_by_its_largest_singular_value(plain, shape):
    ours = SPECTRAL[type(plain)].from_plain(copy.deepcopy(plain)).eval()
    dim = 1 if "Transpose" in type(plain).__name__ else 0
    matrix = plain.weight.detach().movedim(dim, 0).flatten(1)
    x = torch.randn(shape)
    with torch.no_grad():
        plain_twin = copy.deepcopy(plain)
        plain_twin.weight /= torch.linalg.matrix_norm(matrix, 2)
    torch.testing.assert_close(ours(x), plain_twin(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.to_plain()(x), plain_twin(x), atol=1e-5, rtol=1e-5)
    assert type(ours.to_plain()) is type(plain)
    assert not dict(ours.to_plain().named_buffers())


def test_value_and_gradient_are_those_of_torchs_parametrization():
    plain = nn.Linear(6, 4).double()
    theirs = parametrizations.spectral_norm(copy.deepcopy(plain), n_power_iterations=200).eval()
    ours = SpectralLinear.from_plain(copy.deepcopy(plain)).eval()
    x = torch.randn(3, 6, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs.train()(x))
    ours(x).square().sum().backward()
    theirs(x).square().sum().backward()
    original = theirs.parametrizations.weight.original
    torch.testing.assert_close(ours.weight.grad, original.grad, atol=1e-9, rtol=1e-6)


def test_u_follows_the_weight_in_training_and_rests_in_evaluation():
    layer = SpectralLinear.from_plain(nn.Linear(6, 4))
    nn.init.normal_(layer.weight)
    before = layer.running_u_weight.clone()
    layer.eval()(torch.randn(2, 6))
    assert torch.equal(before, layer.running_u_weight)
    layer.train()
    for _ in range(100):
        layer(torch.randn(2, 6))
    assert torch.linalg.matrix_norm(layer.compute_weight(), 2).item() == pytest.approx(1, rel=1e-6)


def test_two_forwards_before_a_backward_give_finite_gradients():
    layer = SpectralLinear.from_plain(nn.Linear(6, 4))
    (layer(torch.randn(2, 6)) + layer(torch.randn(2, 6))).sum().backward()
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("layer", [nn.Linear(6, 4), nn.GRU(6, 4)])
def test_a_backward_has_the_vector_of_its_forward_whatever_is_written_to_the_buffer(layer):
    layer = SPECTRAL[type(layer)].from_plain(layer).eval()
    x, twin = torch.randn(3, 2, 6), copy.deepcopy(layer)
    losses = [out(part(x)).square().sum() for part in (twin, layer)]
    layer.train()(x)
    layer.load_state_dict(layer.state_dict())
    for loss in losses:
        loss.backward()
    for ours, theirs in zip(layer.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_a_weight_without_direction_leaves_the_vector_for_the_next(value):
    layer = SpectralLinear.from_plain(nn.Linear(6, 4))
    weight, before = layer.weight.detach().clone(), layer.vector().clone()
    nn.init.constant_(layer.weight, value)
    layer(torch.randn(2, 6))
    assert torch.equal(layer.vector(), before)
    with torch.no_grad():
        layer.weight.copy_(weight)
    assert layer(torch.randn(2, 6)).isfinite().all()


def test_vectors_that_are_found_anew_are_in_the_same_buffers():
    layer = SpectralLinear.from_plain(nn.Linear(6, 4))
    held = layer.vector()
    nn.init.normal_(layer.weight)
    layer.find_vectors()
    assert layer.vector() is held
    assert torch.linalg.matrix_norm(layer.compute_weight(), 2).item() == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("plain_class", [nn.LSTM, nn.GRU])
def test_recurrent_weights_of_every_layer_and_direction_have_norm_one(plain_class):
    net = nn.ModuleDict({"rnn": plain_class(3, 5, num_layers=2, bidirectional=True)})
    plain = copy.deepcopy(net["rnn"])
    assert convert(net, "spectral") == ["rnn"]
    x = torch.randn(7, 2, 3)
    with torch.no_grad():
        for name, weight in plain.named_parameters():
            if name.startswith("weight_hh"):
                weight /= torch.linalg.matrix_norm(weight, 2)
    torch.testing.assert_close(net["rnn"](x)[0], plain(x)[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fold(net)["rnn"](x)[0], plain(x)[0], atol=1e-5, rtol=1e-5)
    net["rnn"](x)[0].square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_the_lstm_survives_copies_after_a_training_forward():
    lstm = SpectralLSTM.from_plain(nn.LSTM(3, 5))
    x = torch.randn(4, 2, 3)
    lstm(x)[0].sum().backward()
    lstm.eval()
    for twin in (copy.deepcopy(lstm), pickle.loads(pickle.dumps(lstm))):
        assert torch.equal(twin(x)[0], lstm(x)[0])
        with torch.no_grad():
            twin.weight_hh_l0.mul_(torch.rand(()))
            twin.weight_ih_l0.add_(1)
        assert not torch.equal(twin(x)[0], lstm(x)[0])


RECURRENT = [
    nn.LSTM(3, 5, num_layers=2, dropout=0.5),
    nn.LSTM(3, 5, bidirectional=True, batch_first=True, proj_size=2),
    nn.GRU(3, 5, num_layers=2, bias=False, bidirectional=True),
]


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("plain", RECURRENT)
def test_recurrent_layers_are_called_and_checked_as_torchs(plain):
    ours = SPECTRAL[type(plain)].from_plain(copy.deepcopy(plain)).eval()
    theirs = ours.to_plain()
    packed = pack_padded_sequence(torch.randn(4, 2, 3), [2, 4], enforce_sorted=False)
    _, states = theirs(torch.randn(2, 2, 3))
    for args in ((torch.randn(2, 2, 3), states), (packed,), (torch.randn(4, 3),)):
        torch.testing.assert_close(ours(*args), theirs(*args))
    with pytest.raises(UsageError, match="3 features"):
        ours(torch.randn(4, 2, 5))


@pytest.mark.parametrize("plain", [nn.LSTM(3, 5), nn.GRU(3, 5)])
def test_a_forward_changes_nothing_of_the_layer_that_other_threads_or_copies_see(
    plain, monkeypatch
):
    layer = SPECTRAL[type(plain)].from_plain(plain)
    mode = layer.mode.lower()
    run, seen = getattr(torch._VF, mode), []

    def watched(*args):
        seen.extend(copy.deepcopy(layer)._flat_weights)
        return run(*args)

    monkeypatch.setattr(torch._VF, mode, watched)
    layer(torch.randn(4, 2, 3))
    assert len(seen) == 4
    assert all(map(torch.equal, seen, layer.parameters()))


@pytest.mark.parametrize("kind", SPECTRAL)
def test_a_spectral_layer_names_its_arguments_as_torch_does(kind):
    ours, theirs = SPECTRAL[kind].forward, kind.forward
    assert [*inspect.signature(ours).parameters] == [*inspect.signature(theirs).parameters]


def test_a_transposed_convolution_takes_an_output_size():
    layer = SPECTRAL[nn.ConvTranspose2d].from_plain(nn.ConvTranspose2d(4, 6, 3, stride=2)).eval()
    x = torch.randn(2, 4, 5, 5)
    expected = layer.to_plain()(x, output_size=[12, 12])
    assert expected.shape == (2, 6, 12, 12)
    torch.testing.assert_close(layer(x, output_size=[12, 12]), expected)


@pytest.mark.parametrize("size", [1e-41, 1e-38, 1e-30, 1e25])
@pytest.mark.parametrize(
    ("plain", "shape"),
    [
        (nn.Linear(6, 4), (3, 2, 6)),
        (nn.Conv2d(6, 4, 2), (2, 6, 5, 5)),
        (nn.ConvTranspose1d(6, 4, 2), (2, 6, 5)),
        (nn.GRU(6, 4), (3, 2, 6)),
    ],
)
def test_weights_of_any_size_get_norm_one(plain, shape, size):
    """1e-41 is no normal number, and one over it is infinite."""
    tiny, one, back = copy.deepcopy(plain), copy.deepcopy(plain), 2.0 ** -round(math.log2(size))
    with torch.no_grad():
        for name, weight in tiny.named_parameters():
            if name in ("weight", "weight_hh_l0"):
                weight *= size
                one.get_parameter(name).copy_(
                    weight.double() * back
                )  # exact: the digits that are left
    ours, theirs = (SPECTRAL[type(plain)].from_plain(p) for p in (tiny, one))
    x = torch.randn(shape)
    for mode in (True, True, False):
        torch.testing.assert_close(ours.train(mode)(x), theirs.train(mode)(x))
    torch.testing.assert_close(ours.to_plain()(x), theirs.to_plain()(x))


def test_a_weight_without_values_has_no_spectral_norm():
    with pytest.raises(UsageError, match=r"^0: spectral norm needs the values of weight"):
        convert(nn.Sequential(nn.Linear(3, 2, device="meta")), "spectral")


@pytest.mark.parametrize(
    ("value", "wrong"), [(0.0, "zeros alone"), (math.nan, "not finite"), (math.inf, "not finite")]
)
def test_a_weight_of_zeros_or_of_no_numbers_has_no_spectral_norm(value, wrong):
    layer = nn.Linear(3, 2)
    nn.init.constant_(layer.weight, value)
    with pytest.raises(UsageError, match=f"^0: spectral norm .* got weight of .*{wrong}$"):
        convert(nn.Sequential(layer), "spectral")
