import warnings

import pytest
import torch
from torch import nn

from tests.nn.cases import CASES
from wnrl import NORMS, WNLinear, convert, fold, frozen, shared_weights
from wnrl.errors import UsageError
from wnrl.nn import WNLSTM

FEED_FORWARD = [name for name in CASES if "lstm" not in name and "gru" not in name]


@pytest.mark.parametrize("name", FEED_FORWARD)
@pytest.mark.parametrize("options", [{}, {"scale": "exp", "g_rate": 2.0, "eps": 1e-2}])
def test_a_symbolic_trace_keeps_v_and_g_as_parameters(name, options):
    case = CASES[name]
    if "padding_idx" in case.kwargs:
        options = {}  # a row of zeros has no logarithm
    layer = nn.Sequential(case.build(**options))
    with frozen(layer):
        traced = torch.fx.symbolic_trace(layer)
    assert dict(traced.named_parameters()).keys() == dict(layer.named_parameters()).keys()
    x = case.input()
    layer(x).square().sum().backward()
    gradients = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    traced(x).square().sum().backward()
    for parameter, gradient in zip(layer.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.filterwarnings("ignore")  # torch deprecates it
@pytest.mark.parametrize("scope", [frozen, shared_weights])
def test_a_jit_trace_inside_a_scope_follows_v_and_g(scope):
    net, x = nn.Sequential(WNLinear(3, 2)), torch.randn(2, 3)
    with scope(net), torch.no_grad():
        net(x)
        traced = torch.jit.trace(net, x)
    with torch.no_grad():
        net[0].weight_g.mul_(2)
    torch.testing.assert_close(traced(x), net(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("key", NORMS)
def test_a_jit_trace_of_any_norm_computes_the_same(key):
    net, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(5, 3)
    convert(net, key)
    torch.testing.assert_close(torch.jit.trace(net.eval(), x)(x), net(x))


def test_what_cannot_be_traced_is_an_error():
    with pytest.raises(UsageError, match="got Proxy"):
        torch.fx.symbolic_trace(WNLSTM(3, 4))


@pytest.mark.filterwarnings("ignore")
def test_the_older_onnx_exporter_takes_weight_norm(tmp_path):
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    convert(net)
    path = tmp_path / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, torch.randn(1, 3), path, dynamo=False)
    assert path.stat().st_size > 0


@pytest.mark.parametrize("key", NORMS)
def test_torchscript_of_a_norm_it_does_not_know_is_refused_with_what_to_take_instead(key):
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    convert(net, key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates it
        if key in ("none", "projected", "batch", "layer", "rms"):
            torch.jit.script(net)
            return
        with pytest.raises(
            UsageError, match=r"^torch\.jit\.script takes no \w+: use torch\.export"
        ):
            torch.jit.script(net)
        if NORMS[key].layers and not NORMS[key].normalizers:
            torch.jit.script(fold(net))
    x = torch.randn(2, 3)
    exported = torch.export.export(net.eval(), (x,)).module()
    torch.testing.assert_close(exported(x), net(x))
