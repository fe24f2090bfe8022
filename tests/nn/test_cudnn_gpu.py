"""What the recurrences rely on where cuDNN runs them, to be decided by a GPU.

``filterwarnings = error`` makes torch's warning about weights that are not in one buffer a failure.
"""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from wnrl import convert, fold
from wnrl import nn as wn
from wnrl.nn import cache

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
    # A CPU's remark, of which one test has need on its way.
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]
LAYERS = {
    "lstm": lambda: wn.WNLSTM(16, 32),
    "lstm deep": lambda: wn.WNLSTM(16, 32, num_layers=2, bidirectional=True),
    "lstm no bias": lambda: wn.WNLSTM(16, 32, bias=False, batch_first=True),
    "lstm projected": lambda: wn.WNLSTM(16, 32, proj_size=8),
    "lstm projected no bias": lambda: wn.WNLSTM(16, 32, proj_size=8, bias=False),
    "gru": lambda: wn.WNGRU(16, 32),
    "gru deep": lambda: wn.WNGRU(16, 32, num_layers=2, bidirectional=True),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def on_device(name):
    torch.manual_seed(0)
    return LAYERS[name]().to(DEVICE)


def inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(5, 5, 16, generator=generator).to(DEVICE, dtype)


def same(ours, theirs, tolerance=1e-5):
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


@pytest.fixture
def laid_out(monkeypatch):
    """Counts how often weights are laid out for cuDNN."""
    calls, lay_out = [], torch._cudnn_rnn_flatten_weight

    def count(*args):
        calls.append(args[2:])
        return lay_out(*args)

    monkeypatch.setattr(torch, "_cudnn_rnn_flatten_weight", count)
    return calls


@every_layer
def test_weights_are_parts_of_one_buffer_with_the_values_of_the_computed_ones(name):
    layer = on_device(name)
    versions = [p._version for p in layer.parameters()]
    addresses = [p.data_ptr() for p in layer.parameters()]
    weights = layer._weights()
    assert len({w.untyped_storage().data_ptr() for w in weights}) == 1
    for key, weight in zip(layer.order, weights, strict=True):
        same(weight, layer.compute_weight(key) if key in layer.computed else getattr(layer, key), 0)
    assert [p._version for p in layer.parameters()] == versions
    assert [p.data_ptr() for p in layer.parameters()] == addresses


@every_layer
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_every_type_runs_as_the_plain_layer_does_and_without_a_warning(name, dtype):
    layer = on_device(name).to(dtype)
    x = inputs(dtype)
    tolerance, wide = (1e-5, dtype) if dtype.itemsize > 2 else (2e-2, torch.float32)
    expected = fold(layer).to(wide)(x.to(wide))[0].to(dtype)  # torch's own warns in bfloat16
    same(layer(x)[0], expected, tolerance)
    with torch.no_grad():
        same(layer(x)[0], expected, tolerance)
        with wn.frozen(layer):
            same(layer(x)[0], expected, tolerance)
            same(layer(x)[0], expected, tolerance)


@every_layer
def test_gradients_are_those_of_the_plain_layer_after_two_forwards(name):
    layer, x = on_device(name), inputs()
    plain = fold(layer)
    for net in (layer, plain):
        (net(x)[0].square().sum() + net(x + 1)[0].square().sum()).backward()
    for key, p in plain.named_parameters():
        if key not in layer.computed:
            same(getattr(layer, key).grad, p.grad, 1e-3)
            continue
        v, g = layer.pair(key)
        w, length = p.grad, v.norm(dim=1, keepdim=True)
        by_g = (w * v).sum(1, keepdim=True) / length
        same(g.grad, by_g, 1e-3)
        same(v.grad, g / length * w - g * by_g / length.square() * v, 1e-3)


@every_layer
def test_a_packed_sequence_runs_as_in_the_plain_layer(name):
    layer = on_device(name)
    packed = pack_sequence([inputs()[0, :n] for n in (5, 3, 2)])
    same(layer(packed)[0].data, fold(layer)(packed)[0].data)


@every_layer
def test_frozen_lays_out_once_and_then_allocates_what_the_plain_layer_does(
    name, laid_out, monkeypatch
):
    monkeypatch.setattr(cache, "_checking", False)
    layer, x = on_device(name).eval(), inputs()
    plain = fold(layer)
    with torch.no_grad(), wn.frozen(layer):
        states = layer(x)[1]
        plain(x)
        del laid_out[:]
        used = []
        for net in (plain, layer):
            before = torch.cuda.memory_stats()["allocated_bytes.all.allocated"]
            net(x, states)
            used.append(torch.cuda.memory_stats()["allocated_bytes.all.allocated"] - before)
    assert laid_out == []
    assert used[1] == used[0]


@pytest.mark.parametrize("name", ["lstm deep", "gru"])
def test_frozen_follows_a_fused_optimizer(name, laid_out):
    layer, x = on_device(name), inputs()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1, fused=True)
    layer(x)[0].square().sum().backward()
    with wn.frozen(layer), torch.no_grad():
        before = layer(x)[0]
        optimizer.step()
        after = layer(x)[0]
        same(after, fold(layer)(x)[0])
    assert not torch.equal(before, after)


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@every_layer
def test_a_copy_of_a_frozen_layer_has_a_buffer_of_its_own(name, copier):
    layer, x = on_device(name), inputs()
    with wn.frozen(layer), torch.no_grad():
        expected = layer(x)[0]
        twin = copier(layer)
        for p in twin.parameters():
            p.mul_(0.5)
        same(layer(x)[0], expected, 0)
        same(twin(x)[0], fold(twin)(x)[0])


@pytest.mark.parametrize("name", ["lstm deep", "lstm projected", "gru"])
def test_a_frozen_layer_that_moves_and_changes_type_is_laid_out_anew(name):
    layer, x = on_device(name), inputs()
    with wn.frozen(layer), torch.no_grad():
        expected = layer(x)[0]
        same(layer.double()(x.double())[0].float(), expected)
        same(layer.float().cpu()(x.cpu())[0], expected.cpu(), 1e-4)
        same(layer.to(DEVICE)(x)[0], expected)
        assert len({w.untyped_storage().data_ptr() for w in layer._weights()}) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_layer
def test_autocast_trains_and_stays_near_float32(name, dtype):
    layer, x = on_device(name), inputs()
    expected = layer(x)[0]
    with torch.autocast(DEVICE, dtype=dtype):
        out = layer(x)[0]
        with torch.no_grad(), wn.frozen(layer):
            same(layer(x)[0].float(), expected, 5e-2)
    same(out.float(), expected, 5e-2)
    out.float().square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == p.dtype for p in layer.parameters())


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_inference_mode_and_a_loaded_state_give_the_right_weights(name):
    layer, other, x = on_device(name), on_device(name), inputs()
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.5)
    with torch.inference_mode(), wn.frozen(layer):
        layer(x)
    with wn.frozen(layer), torch.no_grad():
        layer(x)
        layer.load_state_dict(other.state_dict())
        same(layer(x)[0], other(x)[0], 0)
    layer(x)[0].sum().backward()


@pytest.mark.parametrize("plain", [nn.LSTM, nn.GRU])
def test_spectral_recurrences_are_laid_out_too(plain):
    net = nn.ModuleDict({"memory": plain(16, 32)}).to(DEVICE)
    convert(net, "spectral")
    layer, x = net["memory"], inputs()
    layer(x)[0].square().sum().backward()
    same(layer.eval()(x)[0], fold(layer)(x)[0])
    assert all(p.grad is not None for p in layer.parameters())


@every_layer
def test_a_folded_network_is_laid_out_and_so_does_not_warn(name):
    net, x = (
        nn.ModuleDict({"memory": on_device(name), "plain": nn.LSTM(16, 32)}).to(DEVICE),
        inputs(),
    )
    folded = fold(net)
    for part in folded.values():
        part(x)
    on_device(name).to_plain()(x)
