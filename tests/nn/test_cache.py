import copy
import gc
import pickle
import threading
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, prune, vector_to_parameters
from torch.optim.optimizer import _global_optimizer_post_hooks
from torch.optim.swa_utils import AveragedModel

from tests.nn.cases import CASES, out
from wnrl import nn as wn
from wnrl.errors import UsageError
from wnrl.nn import cache
from wnrl.nn.cache import StaleWeightError, frozen, invalidate, shared_weights

# torch's own remark about a plain nn.LSTM as well.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@pytest.fixture(autouse=True)
def _unchecked():
    before = cache.check(False)
    yield
    cache.check(before)


@pytest.fixture
def counted(monkeypatch):
    """The number of effective weights that were computed."""
    calls = []

    def count(original):
        def compute_weight(self, name="weight"):
            calls.append(name)
            return original(self, name)

        return compute_weight

    for kind in (wn.WeightNormed, wn.WNMaskedLinear):
        monkeypatch.setattr(kind, "compute_weight", count(kind.compute_weight))
    return calls


def model():
    torch.manual_seed(0)
    return nn.Sequential(wn.WNLinear(3, 4), nn.Tanh(), wn.WNLinear(4, 2))


X = torch.linspace(-1, 1, 6).reshape(2, 3)


def grads_everywhere(net):
    for p in net.parameters():
        p.grad = torch.full_like(p, 0.5)


def step(optimizer, **kwargs):
    def write(net):
        grads_everywhere(net)
        optimizer(net.parameters(), lr=0.1, **kwargs).step()

    return write


def load(assign):
    def write(net):
        state = {key: value * 2 + 1 for key, value in net.state_dict().items()}
        net.load_state_dict(state, assign=assign)

    return write


def each(change):
    def write(net):
        with torch.no_grad():
            for p in net.parameters():
                change(p)

    return write


def new_data(p):
    p.data = p.data * 2 + 1


def new_parameters(net):
    for layer in (net[0], net[2]):
        for name, p in list(layer._parameters.items()):
            setattr(layer, name, nn.Parameter(p.detach() * 2 + 1))


def from_vector(net):
    vector_to_parameters(parameters_to_vector(net.parameters()).detach() * 2 + 1, net.parameters())


def assigned(net):
    net[0].weight = torch.ones(4, 3)


def initialised(net):
    nn.init.constant_(net[2].weight, 0.7)


def swapped(net):
    other = copy.deepcopy(net)
    each(lambda p: p.add_(1.0))(other)
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        torch.utils.swap_tensors(p, q)


WRITERS = {
    **{
        f"{name.__name__}-{kind}": step(name, **{kind: True})
        for name in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
        for kind in ("foreach", "fused")
    },
    "SGD-loop": step(torch.optim.SGD, foreach=False),
    "Adam-loop": step(torch.optim.Adam, foreach=False),
    "RMSprop": step(torch.optim.RMSprop),
    "load_state_dict": load(assign=False),
    "load_state_dict-assign": load(assign=True),
    "to-float64-and-back": lambda net: each(lambda p: p.add_(1.0))(net.double()) or net.float(),
    "vector_to_parameters": from_vector,
    "in-place": each(lambda p: p.mul_(2.0)),
    "in-place-item": each(lambda p: p.select(0, 0).add_(1.0)),
    "detached": each(lambda p: p.detach().add_(1.0)),
    "foreach": lambda net: torch._foreach_add_([p.detach() for p in net.parameters()], 1.0),
    "new-data": each(new_data),
    "new-parameters": new_parameters,
    "assigned-weight": assigned,
    "initialised-weight": initialised,
    "swapped": swapped,
}


@pytest.mark.parametrize("scoped", [frozen, shared_weights])
@pytest.mark.parametrize("writer", WRITERS)
def test_what_changes_the_weights_is_seen_at_the_next_forward(scoped, writer):
    net = model()
    with scoped(net), torch.no_grad():
        before = net(X)
        WRITERS[writer](net)
        after = net(X)
    assert not torch.equal(after, before)
    assert torch.equal(after, net(X))


# torch itself refuses to swap a tensor that a graph refers to.
@pytest.mark.parametrize("writer", sorted(WRITERS.keys() - {"swapped"}))
def test_what_changes_the_weights_is_seen_by_shared_weights_with_grad(writer):
    net = model()
    with shared_weights(net):
        before = net(X).detach()
        WRITERS[writer](net)
        after = net(X).detach()
    assert not torch.equal(after, before)
    assert torch.equal(after, net(X))


def test_an_average_of_the_weights_is_seen():
    net = model()
    average = AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    average.update_parameters(net)
    each(lambda p: p.add_(1.0))(net)
    with frozen(average), torch.no_grad():
        before = average(X)
        average.update_parameters(net)
        assert not torch.equal(average(X), before)
        assert torch.equal(average(X), copy.deepcopy(average)(X))


@every_case
def test_a_frozen_layer_gives_what_it_gives_unfrozen(case):
    layer, x = case.build(), case.input()
    with torch.no_grad():
        expected = out(layer(x))
    with frozen(layer), torch.no_grad():
        assert torch.equal(out(layer(x)), expected)
        assert torch.equal(out(layer(x)), expected)


@every_case
def test_frozen_weights_are_computed_once(case, counted):
    layer, x = case.build(), case.input()
    with frozen(layer), torch.no_grad():
        for _ in range(5):
            layer(x)
    assert sorted(counted) == sorted(layer.computed)


@every_case
def test_shared_weights_are_computed_once_and_give_the_gradients_of_a_loop(case, counted):
    layer, x = case.build(), case.input()
    inputs = [x * k if x.is_floating_point() else x for k in (1, 2, 3)]
    sum(out(layer(part)).square().sum() for part in inputs).backward()
    expected = [p.grad for p in layer.parameters()]
    layer.zero_grad()
    counted.clear()
    with shared_weights(layer):
        losses = [out(layer(part)).square().sum() for part in inputs]
    sum(losses).backward()
    assert sorted(counted) == sorted(layer.computed)
    for p, grad in zip(layer.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scoped", [frozen, shared_weights])
def test_a_forward_without_grad_takes_no_gradient_away(scoped):
    net = model()
    net(X).sum().backward()
    expected = [p.grad for p in net.parameters()]
    net.zero_grad()
    with scoped(net):
        with torch.no_grad():
            net(X)
        with torch.inference_mode():
            net(X)
        net(X).sum().backward()
    for p, grad in zip(net.parameters(), expected, strict=True):
        assert torch.equal(p.grad, grad)


def test_weights_kept_in_inference_mode_serve_forwards_without_it_and_gradients_of_the_input():
    net, x = model(), X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(net(x).sum(), x)
    with frozen(net):
        with torch.inference_mode():
            kept = net(X).clone()
        with torch.no_grad():
            assert torch.equal(net(X), kept)
        (actual,) = torch.autograd.grad(net(x).sum(), x)
    assert torch.equal(actual, expected)


def test_no_new_tensor_gets_the_address_of_a_parameter_whose_weight_is_kept():
    layer = wn.WNLinear(3, 4)
    with frozen(layer), torch.no_grad():
        layer(X)
        address = layer.weight_v.data_ptr()
        layer.weight_v.data = torch.ones(4, 3)
        assert address not in {p.data_ptr() for p in [torch.empty(4, 3) for _ in range(1000)]}


def test_parameters_made_in_inference_mode_which_count_no_writes_are_never_kept(counted):
    with torch.inference_mode():
        layer = wn.WNLinear(3, 4)
    with frozen(layer), torch.inference_mode():
        before = layer(X)
        layer.weight_g.mul_(2)
        assert not torch.equal(layer(X), before)
    assert len(counted) == 2


def test_shared_weights_can_go_through_several_backwards():
    net = model()
    with shared_weights(net):
        for _ in range(3):
            net(X).sum().backward()
    shared = [p.grad for p in net.parameters()]
    net.zero_grad()
    for _ in range(3):
        net(X).sum().backward()
    for p, grad in zip(net.parameters(), shared, strict=True):
        assert torch.equal(p.grad, grad)


def test_shared_weights_can_be_differentiated_twice():
    net = model()

    def second(loss):
        first = torch.autograd.grad(loss, list(net.parameters()), create_graph=True)
        return torch.autograd.grad(sum(d.square().sum() for d in first), list(net.parameters()))

    expected = second((net(X) * net(X + 1)).sum())
    with shared_weights(net):
        actual = second((net(X) * net(X + 1)).sum())
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e)


def test_a_change_of_requires_grad_is_seen_by_shared_weights():
    net = model()
    with shared_weights(net):
        net(X)
        net[0].weight_v.requires_grad_(False)
        net(X).sum().backward()
    assert net[0].weight_v.grad is None
    assert net[0].weight_g.grad is not None


def hidden_write(net):
    """As SB3's ``polyak_update`` writes: through ``.data``, in place."""
    for p in net.parameters():
        p.data.mul_(0.5).add_(1.0)


@pytest.mark.parametrize("scoped", [frozen, shared_weights])
def test_a_write_without_a_trace_is_right_when_the_scope_ends(scoped):
    net = model()
    with frozen(net), torch.no_grad():
        with scoped(net):
            net(X)
            hidden_write(net)
        inside = net(X)
    assert torch.equal(inside, copy.deepcopy(net)(X))
    assert torch.equal(net(X), inside)


@pytest.mark.parametrize("grad", [False, True])
def test_invalidate_makes_a_write_without_a_trace_right(grad):
    net = model()
    with shared_weights(net), torch.set_grad_enabled(grad):
        net(X)
        hidden_write(net)
        invalidate(net)
        assert torch.equal(net(X), copy.deepcopy(net)(X))


@pytest.mark.parametrize("grad", [False, True])
def test_the_check_mode_finds_a_write_without_a_trace(grad):
    net = model()
    cache.check(True)
    with shared_weights(net), torch.set_grad_enabled(grad):
        net(X)
        net(X)
        hidden_write(net)
        with pytest.raises(StaleWeightError, match=r"weight of WNLinear\(in_features=3"):
            net(X)


def test_the_check_mode_needs_no_values():
    net = model().to("meta")
    cache.check(True)
    with shared_weights(net):
        assert net(X.to("meta")).shape == net(X.to("meta")).shape == (len(X), 2)


def test_the_check_mode_says_whether_it_was_on():
    assert cache.check(True) is False
    assert cache.check(False) is True


def test_scopes_end_with_an_exception_and_nest():
    net = model()
    with pytest.raises(KeyError), frozen(net), frozen(net[0]), shared_weights(net):
        raise KeyError
    assert all(layer._cache is None for layer in (net[0], net[2]))
    with frozen(net):
        with frozen(net):
            pass
        assert net[0]._cache is not None
    assert net[0]._cache is None


@pytest.mark.parametrize("scoped", [frozen, shared_weights])
def test_a_scope_decorates_a_function(scoped, counted):
    net = model()

    @scoped(net)
    def twice():
        return net(X) + net(X)

    with torch.no_grad():
        for calls in (1, 2):
            twice()
            assert len(counted) == 2 * calls
    assert net[0]._cache is None


def test_leaving_a_scope_that_was_not_entered_is_refused():
    with pytest.raises(UsageError, match="had not been entered"):
        frozen(model()).__exit__(None, None, None)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_made_inside_a_scope_is_in_none(clone):
    net = model()
    with shared_weights(net):
        net(X)
        with torch.no_grad():
            net(X)
        copied = clone(net)
    assert copied[0]._cache is None
    each(lambda p: p.add_(1.0))(copied)
    with frozen(copied), torch.no_grad():
        assert not torch.equal(copied(X), net(X))


def test_sharing_belongs_to_the_thread_that_opened_the_scope(counted):
    net = model()
    failures = []

    def other():
        try:
            counted.clear()
            for _ in range(2):
                net(X).sum().backward()
            assert len(counted) == 4
        except Exception as error:
            failures.append(error)

    with shared_weights(net):
        loss = net(X).sum()
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        (loss + net(X).sum()).backward()
    assert failures == []


def test_a_rollout_thread_always_sees_whole_weights_while_another_trains():
    net = nn.Sequential(wn.WNLinear(1, 1, bias=False))
    stop, bad = threading.Event(), []

    def roll_out():
        while not stop.is_set():
            with frozen(net), torch.no_grad():
                for _ in range(20):
                    value = net(torch.ones(1, 1)).item()
                    if abs(abs(value) - round(abs(value))) > 1e-4:
                        bad.append(value)

    nn.init.ones_(net[0].weight)
    threads = [threading.Thread(target=roll_out) for _ in range(2)]
    for thread in threads:
        thread.start()
    for k in range(300):
        with torch.no_grad(), frozen(net):
            net[0].weight_g.fill_(float(k % 5))
            assert net(torch.ones(1, 1)).item() == pytest.approx(k % 5)
    stop.set()
    for thread in threads:
        thread.join()
    assert bad == []
    assert net[0]._cache is None


def test_parameters_in_shared_memory_are_never_kept(counted):
    net = model().share_memory()
    with frozen(net), torch.no_grad():
        net(X)
        net(X)
        assert len(counted) == 4
        hidden_write(net)
        assert torch.equal(net(X), copy.deepcopy(net)(X))


def test_nothing_watches_optimizers_outside_of_a_scope():
    def hooks():
        return len(_global_optimizer_post_hooks)

    before = hooks()
    with frozen(model()):
        with shared_weights(model()):
            assert hooks() == before + 2
        assert hooks() == before + 1
    assert hooks() == before


def test_importing_the_package_hooks_nothing(fresh):
    program = (
        "import torch\n"
        "from torch.nn.modules import module\n"
        "from torch.optim import optimizer\n"
        "import wnrl, wnrl.nn, wnrl.vae\n"
        "both = vars(module) | vars(optimizer)\n"
        "hooks = [v for n, v in both.items() if n.startswith('_global_') and n.endswith('hooks')]\n"
        "assert hooks and not any(hooks), hooks"
    )
    fresh(program)


def test_sharing_memory_inside_a_scope_is_seen():
    net = model()
    with frozen(net), torch.no_grad():
        net(X)
        net.share_memory()
        hidden_write(net)
        assert torch.equal(net(X), copy.deepcopy(net)(X))


def test_transforms_get_no_kept_weights():
    net = model()
    params = {name: p.detach() for name, p in net.named_parameters()}
    stacked = {name: torch.stack([p, p + 1]) for name, p in params.items()}

    def call(params):
        return torch.func.functional_call(net, params, (X,))

    expected = torch.vmap(call)(stacked)
    with shared_weights(net), torch.no_grad():
        before = net(X)
        torch.testing.assert_close(torch.vmap(call)(stacked), expected)
        torch.testing.assert_close(call({n: p + 1 for n, p in params.items()}), expected[1])
        assert torch.equal(net(X), before)


def test_compiled_code_gets_no_kept_weights():
    net = model()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    with torch.no_grad():
        compiled(X)
        with frozen(net):
            net(X)
            compiled(X)
            hidden_write(net)
            torch.testing.assert_close(compiled(X), copy.deepcopy(net)(X))
    torch._dynamo.reset()


def test_a_parametrized_or_pruned_direction_is_not_kept():
    net = model()
    prune.l1_unstructured(net[0], "weight_v", amount=1)
    with frozen(net), torch.no_grad():
        net(X)
        net[0].weight_v_orig.data.mul_(3.0)
        net[0].weight_v = net[0].weight_v_orig * net[0].weight_v_mask + 1.0
        assert torch.equal(net(X), net(X))
        expected = wn.weight_norm(net[0].weight_v, net[0].weight_g)
        assert torch.equal(net[0]._weights()[0], expected)


def test_a_layer_used_twice_is_frozen_once():
    layer = wn.WNLinear(3, 3)
    net = nn.Sequential(layer, layer)
    with frozen(net):
        assert layer._cache.scopes.total() == 1
    assert layer._cache is None


def test_a_module_without_weight_normalized_layers_can_be_frozen():
    net = nn.Linear(3, 2)
    with frozen(net), shared_weights(net):
        assert net(X).requires_grad


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(wn.WNLinear(3, 4), (2, 3)), (wn.WNLSTMCell(3, 4), (2, 3)), (wn.WNLSTM(3, 4), (5, 2, 3))],
    ids=["linear", "cell", "lstm"],
)
def test_shared_weights_go_with_their_loss(layer, shape):
    with shared_weights(layer):
        output = layer(torch.randn(*shape))
        loss = (output[0] if isinstance(output, tuple) else output).sum()
        kept = [weakref.ref(w) for w in layer._cache.weights(layer) if w.grad_fn is not None]
    loss.backward()
    del loss, output
    gc.collect()
    assert kept
    assert [weight() for weight in kept] == [None] * len(kept)
