"""Layers of any shape against plain torch on g v/‖v‖, as hypothesis draws them."""

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.nn.utils.weight_norm import WeightNorm

from wnrl import fold, load_weights, state_dict_as
from wnrl.nn import WEIGHT_NORMED
from wnrl.nn.plain import LAYOUTS

SETTINGS = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
PLAIN = {kind.__name__: kind for kind in WEIGHT_NORMED}
SMALL = st.integers(1, 4)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "scale": st.just("exp"),
        "v_init_std": st.sampled_from([0.05, 3.0]),
        "eps": st.sampled_from([1e-12, 1e-2]),
        "g_rate": st.sampled_from([0.5, 3.0, 8.0]),
    },
)


@st.composite
def feed_forward(draw):
    """A plain layer of any kind but a recurrent one, and an input for it."""
    batch = draw(st.integers(0, 3))
    if draw(st.integers(0, 4)) == 0:
        inputs, bias = draw(SMALL), draw(st.booleans())
        rows = draw(st.sampled_from([(batch,), (2, batch), ()]))
        return nn.Linear(inputs, draw(SMALL), bias=bias), torch.randn(*rows, inputs)
    if draw(st.integers(0, 4)) == 0:
        layer = nn.Embedding(draw(st.integers(2, 6)), draw(SMALL))
        return layer, torch.randint(layer.num_embeddings, draw(st.sampled_from([(3,), (2, 5), ()])))
    axes, transposed = draw(st.integers(1, 3)), draw(st.booleans())
    groups, stride, dilation = (draw(st.integers(1, 2)) for _ in range(3))
    kernel = [draw(st.integers(1, 3)) for _ in range(axes)]
    channels = [groups * draw(st.integers(1, 2)) for _ in range(2)]
    options = {
        "groups": groups,
        "stride": stride,
        "dilation": dilation,
        "bias": draw(st.booleans()),
    }
    options["padding"] = draw(st.integers(0, 1))
    if transposed:
        options["output_padding"] = min(draw(st.integers(0, 1)), max(stride, dilation) - 1)
    elif draw(st.booleans()):
        options["padding_mode"] = draw(st.sampled_from(["circular", "reflect", "replicate"]))
    name = f"Conv{'Transpose' * transposed}{axes}d"
    x = torch.randn(batch, channels[0], *[draw(st.integers(6, 7)) for _ in range(axes)])
    return PLAIN[name](*channels, kernel, **options), x


@st.composite
def recurrent(draw):
    """A plain LSTM or GRU, and an input: padded, packed or a single sequence."""
    kind = draw(st.sampled_from([nn.LSTM, nn.GRU]))
    size, hidden = draw(SMALL), draw(st.integers(2, 4))
    layer = kind(
        size,
        hidden,
        num_layers=draw(st.integers(1, 2)),
        bias=draw(st.booleans()),
        batch_first=draw(st.booleans()),
        bidirectional=draw(st.booleans()),
        **({"proj_size": draw(st.integers(0, hidden - 1))} if kind is nn.LSTM else {}),
    )
    length = draw(st.integers(1, 4))
    form = draw(st.sampled_from(["padded", "single", "packed"]))
    if form == "single":
        return layer, torch.randn(length, size)
    n = draw(st.integers(1, 3))
    x = torch.randn(*((n, length) if layer.batch_first else (length, n)), size)
    if form == "padded":
        return layer, x
    lengths = torch.tensor([draw(st.integers(1, length)) for _ in range(n)])
    return layer, pack_padded_sequence(x, lengths, layer.batch_first, enforce_sorted=False)


def cast(x, dtype):
    if isinstance(x, PackedSequence):
        return x.to(dtype)
    return x.to(dtype) if x.is_floating_point() else x


def flat(result):
    """Every tensor of an output."""
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, PackedSequence):
        return [result.data]
    return [tensor for part in result for tensor in flat(part)]


def near(got, wanted, dtype, size=0.0):
    """As close as rounding lets two orders of a sum be, whose terms are up to ``size``."""
    digits = 2e-5 if dtype is torch.float32 else 1e-11
    for one, other in zip(got, wanted, strict=True):
        size = max([size, *other.detach().abs().flatten().tolist()])
        torch.testing.assert_close(one, other, rtol=digits, atol=digits * size)


def formula(layer, name):
    """The weight by equation 2, from leaves of its own, and these."""
    dim, groups = layer.unit_axis
    v, g = (p.detach().double().requires_grad_() for p in layer.pair(name))
    length = layer.g_rate * g
    length = length.exp() if layer.scale == "exp" else length
    if groups == 1:
        axes = [axis for axis in range(v.dim()) if axis != dim]
        w = length * v / (v.square().sum(axes, keepdim=True) + layer.eps).sqrt()
    else:
        rows = v.unflatten(0, (groups, -1))
        axes = [1, *range(3, rows.dim())]
        w = length.unsqueeze(1) * rows / (rows.square().sum(axes, keepdim=True) + layer.eps).sqrt()
        w = w.flatten(0, 1)
    return w, v, g


def train_like_plain(plain, x, dtype, size, options):
    plain = plain.to(dtype)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if name.startswith("weight"):
                parameter *= size
    x = cast(x, dtype)
    layer = WEIGHT_NORMED[type(plain)].from_plain(plain, **options)
    start = [layer.compute_weight(name) for name in layer.computed]
    near(start, [getattr(plain, name) for name in layer.computed], dtype)
    with torch.no_grad():
        for name in layer.computed:
            for part in layer.pair(name):
                part *= 1 + 0.1 * torch.rand_like(part)
    references = {name: formula(layer, name) for name in layer.computed}
    plain = copy.deepcopy(plain)
    with torch.no_grad():
        for name, (w, _, _) in references.items():
            getattr(plain, name).copy_(w)
    ours, theirs = flat(layer(x)), flat(plain(x))
    near(ours, theirs, dtype)
    for outputs in (ours, theirs):
        sum(out.square().sum() for out in outputs).backward()
    for name, (w, v, g) in references.items():
        by_w = getattr(plain, name).grad.double()
        by_v, by_g = torch.autograd.grad(w, (v, g), by_w)
        got_v, got_g = (p.grad for p in layer.pair(name))
        # Most of its terms may cancel.
        terms = (by_w.norm() * w.norm() / v.norm()).item()
        near([got_v], [by_v.to(dtype)], dtype, terms)
        near([got_g], [by_g.to(dtype)], dtype, (by_w.norm() * layer.g_rate).item())
    for name, parameter in layer.named_parameters():
        if name.startswith("bias"):
            near([parameter.grad], [getattr(plain, name).grad], dtype)
    return layer, x, theirs


TORCHS = {
    "weight_norm": lambda layer, name, dim: WeightNorm.apply(layer, name, dim),
    "parametrize": lambda layer, name, dim: parametrizations.weight_norm(layer, name, dim),
}


def check_layer(plain, x, dtype, size, options):
    layer, x, wanted = train_like_plain(plain, x, dtype, size, options)
    with torch.no_grad():
        near(flat(fold(layer)(x)), wanted, dtype)
        net = nn.Sequential(layer)
        for layout in LAYOUTS:
            if layer.unit_axis[1] > 1 and layout != "plain":
                continue
            state = state_dict_as(net, layout)
            again = nn.Sequential(type(layer).from_plain(copy.deepcopy(plain), **options))
            load_weights(again, state, layout)
            near(flat(again[0](x)), wanted, dtype)
            bare = nn.Sequential(copy.deepcopy(plain))
            load_weights(bare, state, layout)
            near(flat(bare[0](x)), wanted, dtype)
            if layout != "plain":
                theirs = nn.Sequential(copy.deepcopy(plain))
                for name in layer.computed:
                    TORCHS[layout](theirs[0], name, layer.unit_axis[0])
                theirs.load_state_dict(state)
                near(flat(theirs[0](x)), wanted, dtype)


WARNINGS = pytest.mark.filterwarnings(
    "ignore:.*weight_norm. is deprecated:FutureWarning",
    "ignore:LSTM with projections is not supported with oneDNN",
)
DTYPES = st.sampled_from([torch.float32, torch.float64])


@WARNINGS
@SETTINGS
@given(feed_forward(), DTYPES, st.sampled_from([1e-9, 1.0, 1e3]), OPTIONS)
def test_layers_fold_and_layouts_are_plain_torch_on_the_formula(drawn, dtype, size, options):
    check_layer(*drawn, dtype, size, options)


@WARNINGS
@SETTINGS
@given(recurrent(), DTYPES, OPTIONS)
def test_recurrent_layers_are_plain_torch_on_the_formula(drawn, dtype, options):
    check_layer(*drawn, dtype, 1.0, options)
