"""Folded networks: what was tied stays tied, and ONNX takes what torch can export."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from wnrl import convert, fold
from wnrl import nn as wn
from wnrl.errors import UsageError
from wnrl.nn.spectral import SpectralLinear


def pair(norm, **options):
    net = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "plain": nn.Linear(4, 4)})
    net["b"].bias = net["a"].bias
    net["plain"].bias = net["a"].bias
    net["b"].weight = net["a"].weight
    convert(net, norm, skip=("plain",), norm_kwargs=options)
    return net


@pytest.mark.parametrize("norm", ["weight", "spectral"])
def test_tied_weights_and_biases_stay_tied_also_with_plain_layers(norm):
    net = pair(norm)
    folded = fold(net)
    assert folded["a"].weight is folded["b"].weight
    assert folded["a"].bias is folded["b"].bias is folded["plain"].bias
    x = torch.randn(3, 4)
    for name, layer in net.eval().items():
        torch.testing.assert_close(folded.eval()[name](x), layer(x))
    assert not {id(p) for p in net.parameters()} & {id(p) for p in folded.parameters()}


def test_spectral_weights_whose_vectors_went_apart_keep_their_functions_instead():
    net = pair("spectral")
    nn.init.orthogonal_(net["a"].weight)
    with torch.no_grad():
        net["a"].weight.mul_(torch.tensor([[3.0], [1.0], [1.0], [1.0]]))
    net["a"].running_u_weight.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    net["b"].running_u_weight.copy_(torch.tensor([0.8, 0.6, 0.0, 0.0]))
    net.eval()
    folded, x = fold(net), torch.randn(3, 4)
    assert folded["a"].weight is not folded["b"].weight
    for name in ("a", "b"):
        torch.testing.assert_close(folded[name](x), net[name](x))


def test_weights_of_one_pair_that_are_computed_otherwise_are_not_tied():
    a = wn.WNLinear(4, 4)
    b = wn.WNLinear(4, 4, eps=1.0)
    b.weight_v, b.weight_g = a.weight_v, a.weight_g
    folded = fold(nn.ModuleList([a, b]))
    assert folded[0].weight is not folded[1].weight
    torch.testing.assert_close(folded[1].weight, b.weight)


def test_ties_inside_of_a_layer_that_is_folded_by_itself_stay():
    lstm = wn.WNLSTM(4, 4, num_layers=2)
    lstm.bias_ih_l1 = lstm.bias_ih_l0
    lstm.weight_ih_l1_v, lstm.weight_ih_l1_g = lstm.weight_ih_l0_v, lstm.weight_ih_l0_g
    folded = fold(lstm)
    assert folded.bias_ih_l1 is folded.bias_ih_l0
    assert folded.weight_ih_l1 is folded.weight_ih_l0
    assert folded.bias_ih_l0 is not lstm.bias_ih_l0


class Doubled(wn.WNLinear):
    def forward(self, input):
        return 2 * super().forward(input)


class DoubledToo(Doubled):
    def to_plain(self):
        return nn.Sequential(super().to_plain(), nn.Upsample(scale_factor=2))


class Renamed(wn.WNLinear):
    pass


class DoubledSpectral(SpectralLinear):
    def forward(self, input):
        return 2 * super().forward(input)


@pytest.mark.parametrize("layer", [Doubled(4, 3), DoubledSpectral.from_plain(nn.Linear(4, 3))])
def test_a_forward_of_its_own_that_folding_would_lose_is_an_error(layer):
    net = nn.Sequential(layer, nn.ReLU())
    with pytest.raises(UsageError, match=r"^0 is a Doubled\w* with a forward of its own"):
        fold(net)


def test_subclasses_with_the_forward_or_a_plain_form_of_their_own_are_folded():
    assert type(fold(nn.Sequential(Renamed(4, 3)))[0]) is nn.Linear
    assert type(fold(nn.Sequential(DoubledToo(4, 3)))[0]) is nn.Sequential


def test_a_network_without_values_is_not_folded():
    with pytest.raises(UsageError, match=r"^0 is on the device meta"):
        fold(nn.Sequential(wn.WNLinear(4, 3, device="meta")))


class Absolute(nn.Module):
    def forward(self, x):
        return x.abs()


def test_parametrized_biases_that_are_equal_are_no_tied_ones():
    net = nn.Sequential(wn.WNLinear(4, 4), wn.WNLinear(4, 4))
    for layer in net:
        nn.init.zeros_(layer.bias)
        parametrize.register_parametrization(layer, "bias", Absolute())
    folded = fold(net)
    assert folded[0].bias is not folded[1].bias
    assert not folded[0].bias.any()


@pytest.mark.parametrize("norm", ["weight", "spectral"])
def test_each_layer_of_a_folded_copy_is_in_the_mode_of_its_original(norm):
    net = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4))
    net[0].eval()
    convert(net, norm)
    assert [part.training for part in net] == [False, True]
    assert [part.training for part in fold(net)] == [False, True]


class Memory(nn.Module):
    """Words through an embedding and a recurrent layer to a head."""

    def __init__(self, layer):
        super().__init__()
        self.words, self.memory = nn.Embedding(9, 6), layer
        self.head = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))

    def forward(self, words):
        return self.head(self.memory(self.words(words))[0])


def decoder(kind, axes):
    return nn.Sequential(kind(4, 6, 3, stride=2), nn.ReLU(), kind(6, 2, 3)), (2, 4, *[5] * axes)


NETWORKS = {
    "lstm": lambda: (Memory(nn.LSTM(6, 8, batch_first=True)), None),
    "lstm deep": lambda: (
        Memory(nn.LSTM(6, 4, 2, bidirectional=True, batch_first=True)),
        None,
    ),
    "gru": lambda: (Memory(nn.GRU(6, 8, batch_first=True)), None),
    "transposed1d": lambda: decoder(nn.ConvTranspose1d, 1),
    "transposed2d": lambda: decoder(nn.ConvTranspose2d, 2),
    "transposed3d": lambda: decoder(nn.ConvTranspose3d, 3),
    "conv1d": lambda: (
        nn.Sequential(nn.Conv1d(4, 6, 3), nn.ReLU(), nn.Conv1d(6, 2, 2)),
        (2, 4, 5),
    ),
    "conv3d": lambda: (
        nn.Sequential(nn.Conv3d(4, 6, 3), nn.ReLU(), nn.Conv3d(6, 2, 2)),
        (2, 4, 5, 5, 5),
    ),
}


EXPORTED = [
    *[(name, "weight") for name in NETWORKS],
    *[("lstm", key) for key in ("layer", "rms", "spectral")],
    ("gru", "spectral"),
    *[("transposed2d", key) for key in ("weight_mean", "spectral", "batch")],
]


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore:The tensor attributes .*_flat_weights",  # torch's own, for a plain nn.LSTM too
)
@pytest.mark.filterwarnings("ignore:norm .* left .* as they were")
@pytest.mark.parametrize(("name", "key"), EXPORTED)
def test_onnx_of_a_folded_network_computes_the_same(name, key, tmp_path):
    torch.manual_seed(0)
    net, shape = NETWORKS[name]()
    generator = torch.Generator().manual_seed(1)
    x = (
        torch.randint(9, (2, 5), generator=generator)
        if shape is None
        else torch.randn(shape, generator=generator)
    )
    convert(net, key)
    net(x)  # running statistics
    folded = fold(net.eval())
    path = tmp_path / "net.onnx"
    torch.onnx.export(folded, (x,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (actual,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(actual, net(x).detach().numpy(), atol=1e-5)
