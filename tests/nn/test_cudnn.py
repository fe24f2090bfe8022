import pytest
import torch
from torch import nn
from torch.backends.cudnn import rnn

from wnrl import nn as wn
from wnrl.nn import cache, recurrence


@pytest.fixture
def flattened(monkeypatch):
    """torch's helper needs a GPU: one that lays tensors out in one buffer, by ``set_`` as it does.

    That moves the version of the tensor, and of what shares the counter with it.
    """
    calls = []

    def lay_out(parts, *sizes):
        calls.append(sizes)
        buffer = torch.cat([part.reshape(-1) for part in parts])
        start = 0
        for part in parts:
            part.set_(buffer[start : start + part.numel()].view(part.shape))
            start += part.numel()

    monkeypatch.setattr(torch, "_cudnn_rnn_flatten_weight", lay_out)
    monkeypatch.setattr(rnn, "get_cudnn_mode", {"LSTM": 2, "GRU": 3}.get)
    monkeypatch.setattr(recurrence, "cudnn_applies_to", lambda weights: True)
    return calls


def test_flat_weights_share_one_buffer_and_leave_the_biases_where_they_are(flattened):
    layer = wn.WNLSTM(3, 4, num_layers=2)
    addresses = [p.data_ptr() for p in layer.parameters()]
    weights = layer._weights()
    assert len({w.untyped_storage().data_ptr() for w in weights}) == 1
    assert [p.data_ptr() for p in layer.parameters()] == addresses
    for name, w in zip(layer.order, weights, strict=True):
        source = layer.compute_weight(name) if name in layer.computed else getattr(layer, name)
        assert torch.equal(w, source)


@pytest.mark.parametrize(
    ("layer", "sizes"),
    [
        (wn.WNLSTM(3, 4, 2, bidirectional=True), (4, 3, 2, 4, 0, 2, False, True)),
        (wn.WNLSTM(3, 4, proj_size=2, bias=False), (3, 3, 2, 4, 2, 1, False, False)),
        (wn.WNGRU(3, 4, batch_first=True), (4, 3, 3, 4, 0, 1, True, False)),
    ],
)
def test_torchs_helper_gets_the_sizes_that_nn_lstm_gives_it(flattened, layer, sizes):
    layer._weights()
    assert flattened == [sizes]


def test_gradients_go_through_the_buffer(flattened, monkeypatch):
    layer, x = wn.WNLSTM(3, 4), torch.randn(5, 2, 3)
    layer(x)[0].square().sum().backward()
    actual = [p.grad for p in layer.parameters()]
    layer.zero_grad()
    monkeypatch.setattr(recurrence, "cudnn_applies_to", lambda weights: False)
    layer(x)[0].square().sum().backward()
    for grad, p in zip(actual, layer.parameters(), strict=True):
        torch.testing.assert_close(grad, p.grad)


def test_a_frozen_layer_is_laid_out_once_and_a_changed_bias_is_seen(flattened, monkeypatch):
    monkeypatch.setattr(cache, "_checking", False)
    layer, x = wn.WNLSTM(3, 4), torch.randn(5, 2, 3)
    with wn.frozen(layer), torch.no_grad():
        for _ in range(3):
            before = layer(x)[0]
        assert len(flattened) == 1
        layer.bias_ih_l0.add_(1.0)
        assert not torch.equal(layer(x)[0], before)


def test_weights_on_a_cpu_are_not_laid_out():
    assert not recurrence.cudnn_applies_to(wn.WNLSTM(3, 4)._weights())


def test_laying_out_does_not_count_as_a_write_into_the_biases(flattened):
    layer = wn.WNLSTM(3, 4)
    before = [p._version for p in layer.parameters()]
    layer._weights()
    assert [p._version for p in layer.parameters()] == before


def test_two_forwards_before_a_backward_work(flattened, monkeypatch):
    layer, x = wn.WNLSTM(3, 4, num_layers=2), torch.randn(5, 2, 3)
    (layer(x)[0].square().sum() + layer(x + 1)[0].square().sum()).backward()
    actual = [p.grad for p in layer.parameters()]
    layer.zero_grad()
    monkeypatch.setattr(recurrence, "cudnn_applies_to", lambda weights: False)
    (layer(x)[0].square().sum() + layer(x + 1)[0].square().sum()).backward()
    for grad, p in zip(actual, layer.parameters(), strict=True):
        torch.testing.assert_close(grad, p.grad)


def test_tied_biases_are_laid_out_apart_and_both_get_their_share(flattened):
    layer, x = wn.WNGRU(3, 4), torch.randn(5, 2, 3)
    layer.bias_hh_l0 = layer.bias_ih_l0
    weights = layer._weights()
    assert weights[2].data_ptr() != weights[3].data_ptr()
    layer(x)[0].sum().backward()
    assert layer.bias_ih_l0.grad.abs().max() > 0


@pytest.mark.parametrize("plain", [nn.LSTM, nn.GRU])
def test_spectral_weights_are_laid_out_too(flattened, plain):
    net = nn.ModuleDict({"memory": plain(3, 4, num_layers=2)})
    wn.convert(net, "spectral")
    x = torch.randn(5, 2, 3)
    out = net["memory"].eval()(x)[0]
    mode = {nn.LSTM: 2, nn.GRU: 3}[plain]
    assert flattened == [(4, 3, mode, 4, 0, 2, False, False)]
    torch.testing.assert_close(out, wn.fold(net)["memory"](x)[0])
    out.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_every_recurrence_of_a_folded_network_is_laid_out(monkeypatch):
    done = []
    monkeypatch.setattr(nn.RNNBase, "flatten_parameters", lambda rnn: done.append(rnn))
    net = nn.ModuleDict({"ours": wn.WNLSTM(3, 4), "plain": nn.GRU(3, 4)})
    del done[:]
    folded = wn.fold(net)
    assert set(done) >= {folded["ours"], folded["plain"]}
    plain = net["ours"].to_plain()
    assert done[-1] is plain
