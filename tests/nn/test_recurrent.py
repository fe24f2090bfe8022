import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from wnrl import nn as wn
from wnrl.errors import UsageError

# torch's own remark about a plain nn.LSTM as well.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")

SETTINGS = {
    "simple": {},
    "deep": {"num_layers": 3},
    "bidirectional": {"bidirectional": True, "num_layers": 2},
    "batch-first": {"batch_first": True},
    "no-bias": {"bias": False, "num_layers": 2},
}
KINDS = {"lstm": (wn.WNLSTM, nn.LSTM), "gru": (wn.WNGRU, nn.GRU)}
every_setting = pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
every_kind = pytest.mark.parametrize("kind", KINDS)
every_backend = pytest.mark.parametrize("backend", ["torch", "python"])
LENGTHS = [3, 5, 2, 5]


def pair(kind, setting, backend="torch"):
    ours, theirs = KINDS[kind]
    torch.manual_seed(0)
    plain = theirs(3, 4, **setting)
    return ours.from_plain(plain, backend=backend), plain


def states_of(kind, setting, *shape):
    rows = setting.get("num_layers", 1) * (2 if setting.get("bidirectional") else 1)
    torch.manual_seed(1)
    h = torch.randn(rows, *shape, setting.get("proj_size", 4))
    return (h, torch.randn(rows, *shape, 4)) if kind == "lstm" else h


def flat(result):
    """Output and states of either kind, as a list of tensors."""
    output, states = result
    if isinstance(output, nn.utils.rnn.PackedSequence):
        output = output.data
    return [output, *(states if isinstance(states, tuple) else (states,))]


def assert_same(actual, expected):
    for a, e in zip(flat(actual), flat(expected), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-6)


@every_kind
@every_setting
@every_backend
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "hx"])
def test_padded_sequences_give_torchs_numbers_and_gradients(kind, setting, backend, given):
    layer, plain = pair(kind, setting, backend)
    x = torch.randn((4, 5, 3) if setting.get("batch_first") else (5, 4, 3))
    hx = states_of(kind, setting, 4) if given else None
    assert_same(layer(x, hx), plain(x, hx))
    sum(part.square().sum() for part in flat(layer(x, hx))).backward()
    biases = {n: p.grad.clone() for n, p in layer.named_parameters() if n.startswith("bias")}
    plain.zero_grad()
    sum(part.square().sum() for part in flat(plain(x, hx))).backward()
    for name, grad in biases.items():
        torch.testing.assert_close(grad, plain.get_parameter(name).grad, rtol=1e-4, atol=1e-4)


@every_kind
@every_setting
@every_backend
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "hx"])
def test_an_unbatched_sequence_gives_torchs_numbers(kind, setting, backend, given):
    layer, plain = pair(kind, setting, backend)
    x = torch.randn(5, 3)
    hx = states_of(kind, setting) if given else None
    assert_same(layer(x, hx), plain(x, hx))


@every_kind
@every_setting
@every_backend
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "hx"])
def test_packed_sequences_give_torchs_numbers(kind, setting, backend, given):
    layer, plain = pair(kind, setting, backend)
    first = setting.get("batch_first", False)
    x = torch.randn((4, 5, 3) if first else (5, 4, 3))
    packed = pack_padded_sequence(x, LENGTHS, batch_first=first, enforce_sorted=False)
    hx = states_of(kind, setting, 4) if given else None
    actual, expected = layer(packed, hx), plain(packed, hx)
    assert_same(actual, expected)
    torch.testing.assert_close(
        pad_packed_sequence(actual[0])[0], pad_packed_sequence(expected[0])[0]
    )


@every_backend
@pytest.mark.parametrize("setting", [SETTINGS["simple"], SETTINGS["bidirectional"]])
def test_projections_give_torchs_numbers(setting, backend):
    setting = {**setting, "proj_size": 2}
    layer, plain = pair("lstm", setting, backend)
    x, hx = torch.randn(5, 4, 3), states_of("lstm", setting, 4)
    assert_same(layer(x, hx), plain(x, hx))
    assert_same(layer(x), plain(x))
    assert layer.weight_hr_l0_g.shape == (2, 1)


@every_kind
@every_backend
def test_dropout_acts_between_layers_in_train_mode_only(kind, backend):
    ours, _ = KINDS[kind]
    layer = ours(3, 4, 2, dropout=0.5, backend=backend)
    x = torch.randn(5, 4, 3)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
    assert_same(layer(x), layer.to_plain()(x))


@every_kind
@every_backend
def test_one_call_equals_single_steps_with_the_state_handed_on(kind, backend):
    layer, _ = pair(kind, SETTINGS["deep"], backend)
    x, hx = torch.randn(6, 2, 3), None
    outputs = []
    for t in range(6):
        output, hx = layer(x[t : t + 1], hx)
        outputs.append(output)
    assert_same((torch.cat(outputs), hx), layer(x))


@every_kind
@every_backend
def test_a_call_computes_each_weight_once_at_any_length(kind, backend, monkeypatch):
    layer, _ = pair(kind, SETTINGS["deep"], backend)
    calls = []
    original = wn.WeightNormed.compute_weight
    monkeypatch.setattr(
        wn.WeightNormed,
        "compute_weight",
        lambda self, name: calls.append(name) or original(self, name),
    )
    layer(torch.randn(50, 2, 3))
    assert sorted(calls) == sorted(layer.computed)


@pytest.mark.parametrize("ours", [wn.WNLSTMCell, wn.WNGRUCell])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2,), ()], ids=["batched", "unbatched"])
@pytest.mark.parametrize("transform", [False, True])
def test_cells_give_torchs_numbers(ours, bias, shape, transform):
    torch.manual_seed(0)
    plain = ours.plain_type(3, 4, bias=bias)
    cell = ours.from_plain(plain)
    x, h = torch.randn(*shape, 3), torch.randn(*shape, 4)
    hx = (h, h + 1) if ours is wn.WNLSTMCell else h
    for given in (None, hx):
        expected = plain(x, given)
        if transform:
            actual = torch.vmap(lambda x, given=given: cell(x, given))(x.unsqueeze(0))
            actual = torch.utils._pytree.tree_map(lambda t: t.squeeze(0), actual)
        else:
            actual = cell(x, given)
        torch.testing.assert_close(actual, expected)


def test_a_cell_stepped_inside_shared_weights_is_the_lstm():
    lstm, _ = pair("lstm", {})
    cell = wn.WNLSTMCell(3, 4)
    cell.load_state_dict(
        {k.removesuffix("_l0").replace("_l0_", "_"): v for k, v in lstm.state_dict().items()}
    )
    x, hx, outputs = torch.randn(6, 2, 3), None, []
    with wn.shared_weights(cell):
        for step in x:
            hx = cell(step, hx)
            outputs.append(hx[0])
    torch.testing.assert_close(torch.stack(outputs), lstm(x)[0])


@every_backend
def test_states_may_come_as_a_list(backend):
    layer, plain = pair("lstm", {}, backend)
    x, hx = torch.randn(5, 4, 3), states_of("lstm", {}, 4)
    assert_same(layer(x, list(hx)), plain(x, hx))


def test_the_sizes_that_sb3_reads_are_there():
    layer = wn.WNLSTM(3, 4, num_layers=2)
    assert (layer.input_size, layer.hidden_size, layer.num_layers) == (3, 4, 2)
    assert layer.flatten_parameters() is None


def test_reading_an_unknown_attribute_fails_as_everywhere():
    with pytest.raises(AttributeError, match="weight_ih_l7"):
        _ = wn.WNLSTM(3, 4).weight_ih_l7


@pytest.mark.parametrize(
    ("x", "hx", "message"),
    [
        ((5, 2, 4), None, r"3 features in the last, got \(5, 2, 4\)"),
        ((5, 2, 1, 3), None, r"2 or 3 axes, .* got \(5, 2, 1, 3\)"),
        ((5, 2, 3), ((1, 2, 4), (1, 2, 3)), r"hx must have shape \(1, 2, 4\), got \(1, 2, 3\)"),
        ((5, 2, 3), ((1, 2, 4),), "hx must hold 2 tensors, got 1"),
        ((5, 3), ((1, 1, 4), (1, 1, 4)), r"hx must have shape \(1, 4\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(x, hx, message):
    hx = None if hx is None else tuple(torch.zeros(shape) for shape in hx)
    with pytest.raises(UsageError, match=message):
        wn.WNLSTM(3, 4)(torch.zeros(x), hx)


def test_states_that_are_no_tensors_are_refused_in_a_line():
    x, state = torch.zeros(5, 2, 3), torch.zeros(1, 2, 4)
    with pytest.raises(UsageError, match=r"^hx must hold 2 tensors, got 3$"):
        wn.WNLSTM(3, 4)(x, 3)
    with pytest.raises(UsageError, match=r"^hx must have shape \(1, 2, 4\), got \(tensor.{1,80}$"):
        wn.WNGRU(3, 4)(x, (state,))


def test_shapes_that_do_not_fit_a_cell_are_refused():
    with pytest.raises(UsageError, match=r"input must have shape \(N, 3\), got \(2, 4\)"):
        wn.WNGRUCell(3, 4)(torch.zeros(2, 4))
    with pytest.raises(UsageError, match=r"hx must have shape \(N, 4\), got \(2, 3\)"):
        wn.WNGRUCell(3, 4)(torch.zeros(2, 3), torch.zeros(2, 3))


def test_an_unknown_backend_is_refused():
    with pytest.raises(UsageError, match="backend must be one of torch, python, got 'jit'"):
        wn.WNLSTM(3, 4, backend="jit")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@every_kind
@pytest.mark.parametrize("setting", [*SETTINGS.values(), {"proj_size": 2}])
def test_cudnn_gets_flat_weights_and_gives_the_plain_numbers(kind, setting):
    if kind == "gru" and "proj_size" in setting:
        pytest.skip("a GRU has no projection")
    layer, plain = (part.cuda() for part in pair(kind, setting))
    x = torch.randn(5, 4, 3, device="cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(layer(x), plain(x))
        flat(layer(x))[0].square().sum().backward()
        plain.zero_grad()
        flat(plain(x))[0].square().sum().backward()
        with torch.no_grad(), wn.frozen(layer):
            assert_same(layer(x), plain(x))
            storages = {w.untyped_storage().data_ptr() for w in layer._weights()}
    assert len(storages) == 1
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
