import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.nn.cases import NORMED, out
from wnrl import nn as wn
from wnrl.errors import UsageError

LSTMS = [wn.LayerNormLSTM, wn.RMSNormLSTM]
every_lstm = pytest.mark.parametrize("kind", LSTMS)


def by_hand(layer, x):
    """The equations of the docstring, one sequence batch, one layer, one direction."""
    centred = isinstance(layer, wn.LayerNormLSTM)

    def norm(x, scale, shift):
        if centred:
            x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + layer.eps).sqrt() * scale
        return x if shift is None else x + shift

    h = c = torch.zeros(x.shape[1], layer.hidden_size)
    outputs = []
    for step in x:
        gates = norm(step @ layer.weight_ih_l0.T, layer.scale_ih_l0, layer.bias_ih_l0)
        gates = gates + norm(h @ layer.weight_hh_l0.T, layer.scale_hh_l0, layer.bias_hh_l0)
        i, f, g, o = gates.chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * norm(c, layer.scale_c_l0, getattr(layer, "shift_c_l0", None)).tanh()
        outputs.append(h)
    return torch.stack(outputs), (h.unsqueeze(0), c.unsqueeze(0))


def perturbed(layer):
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return layer


@every_lstm
def test_it_computes_the_equations(kind):
    torch.manual_seed(0)
    layer, x = perturbed(kind(3, 4)), torch.randn(5, 2, 3)
    torch.testing.assert_close(layer(x), by_hand(layer, x))


@every_lstm
def test_gradients_of_all_parameters_are_finite_and_not_zero(kind):
    torch.manual_seed(0)
    layer = perturbed(kind(3, 4, num_layers=2, bidirectional=True, proj_size=2))
    layer(torch.randn(5, 2, 3))[0].square().sum().backward()
    for name, p in layer.named_parameters():
        assert p.grad.isfinite().all(), name
        assert p.grad.abs().sum() > 0, name


@every_lstm
def test_scaling_the_weights_leaves_the_output_alone(kind):
    layer, x = kind(3, 4, eps=1e-12), torch.randn(5, 2, 3)
    before = layer(x)[0]
    with torch.no_grad():
        layer.weight_ih_l0.mul_(5.0)
        layer.weight_hh_l0.mul_(0.3)
    torch.testing.assert_close(layer(x)[0], before, rtol=1e-4, atol=1e-5)


@every_lstm
def test_it_starts_with_the_plain_layers_parameters_and_scales_of_one(kind):
    plain = nn.LSTM(3, 4, 2, batch_first=True)
    layer = kind.from_plain(plain.eval())
    for name, p in plain.named_parameters():
        assert layer.get_parameter(name) is p
    assert torch.equal(layer.scale_hh_l1, torch.ones(16))
    assert torch.equal(layer.scale_c_l0, torch.ones(4))
    assert hasattr(layer, "shift_c_l0") == (kind is wn.LayerNormLSTM)
    assert not layer.training


@every_lstm
@pytest.mark.parametrize("backwards", [False, True])
def test_a_packed_sequence_gives_what_each_sequence_gives_alone(kind, backwards):
    layer = kind(3, 4, bidirectional=backwards)
    lengths, x = [3, 5, 1], torch.randn(5, 3, 3)
    packed, (h, c) = layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
    padded, _ = pad_packed_sequence(packed)
    for n, length in enumerate(lengths):
        out, (h_n, c_n) = layer(x[:length, n])
        torch.testing.assert_close(padded[:length, n], out)
        torch.testing.assert_close(h[:, n], h_n)
        torch.testing.assert_close(c[:, n], c_n)


@every_lstm
def test_batch_first_and_dropout_are_those_of_an_lstm(kind):
    layer, x = kind(3, 4, 2, batch_first=True, dropout=0.5), torch.randn(2, 5, 3)
    assert layer(x)[0].shape == (2, 5, 4)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])


@pytest.mark.parametrize(
    ("cell", "lstm"),
    [(wn.LayerNormLSTMCell, wn.LayerNormLSTM), (wn.RMSNormLSTMCell, wn.RMSNormLSTM)],
)
@pytest.mark.parametrize("shape", [(2,), ()], ids=["batched", "unbatched"])
def test_a_cell_is_a_step_of_the_lstm(cell, lstm, shape):
    layer = perturbed(lstm(3, 4))
    step = cell(3, 4)
    step.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
    x, hx, outputs = torch.randn(5, *shape, 3), None, []
    for part in x:
        hx = step(part, hx)
        outputs.append(hx[0])
    torch.testing.assert_close(torch.stack(outputs), layer(x)[0])


def test_norms_are_those_of_torch():
    x, scale, shift = torch.randn(2, 8), torch.randn(8), torch.randn(8)
    normalise = wn.normed_lstm.normalise
    expected = F.layer_norm(x, (8,), scale, shift, 1e-5)
    torch.testing.assert_close(normalise(x, True, scale, shift, 1e-5), expected)
    expected = F.rms_norm(x, (8,), scale, 1e-5) + shift
    torch.testing.assert_close(normalise(x, False, scale, shift, 1e-5), expected)


def test_a_gru_is_refused():
    with pytest.raises(UsageError, match="must be a LSTM, got GRU"):
        wn.LayerNormLSTM.from_plain(nn.GRU(3, 4))


def test_the_input_of_a_cell_is_checked():
    with pytest.raises(UsageError, match=r"input must have shape \(N, 3\), got \(2, 4\)"):
        wn.RMSNormLSTMCell(3, 4)(torch.zeros(2, 4))


@pytest.mark.parametrize("cell", [wn.LayerNormLSTMCell, wn.WNLSTMCell])
@pytest.mark.parametrize("shape", [(1, 4), (2, 1), (4,), (2, 5)])
def test_states_of_a_cell_that_would_be_broadcast_are_refused(cell, shape):
    with pytest.raises(UsageError, match=r"hx must have shape \(N, 4\)"):
        cell(3, 4)(torch.zeros(2, 3), (torch.zeros(shape), torch.zeros(2, 4)))


@pytest.mark.parametrize("register", ["register_forward_hook", "register_full_backward_pre_hook"])
@pytest.mark.parametrize("kind", [wn.LayerNormLSTM, wn.RMSNormLSTMCell])
def test_hooks_that_would_be_lost_are_refused(kind, register):
    plain = kind.plain_type(3, 4)
    getattr(plain, register)(lambda *_: None)
    with pytest.raises(UsageError, match="hooks that conversion would lose"):
        kind.from_plain(plain)


def test_an_eps_of_zero_is_refused():
    with pytest.raises(UsageError, match="eps must be above zero"):
        wn.LayerNormLSTM(3, 4, eps=0.0)


@pytest.mark.parametrize("case", NORMED.values(), ids=NORMED)
def test_reset_parameters_draws_as_the_constructor_does(case):
    layer, fresh = case.build(), case.build()
    for parameter in layer.parameters():
        nn.init.constant_(parameter, 7.0)
    torch.manual_seed(0)
    layer.reset_parameters()
    for name, value in fresh.state_dict().items():
        assert torch.equal(layer.state_dict()[name], value), name


@pytest.mark.parametrize("case", NORMED.values(), ids=NORMED)
def test_autocast_trains_and_stays_near_float32(case):
    layer, x = case.build(), case.input()
    expected = out(layer(x))
    with torch.autocast("cpu", torch.bfloat16):
        result = out(layer(x))
    assert (result.float() - expected).norm() < 0.1 * expected.norm()
    result.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())
    assert all(p.grad.isfinite().all() for p in layer.parameters())
