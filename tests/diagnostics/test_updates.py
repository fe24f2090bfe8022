from contextlib import nullcontext

import pytest
import torch
from torch import nn

from wnrl import convert
from wnrl.diagnostics import effective_weights, first_step, gradient_norms, relative_change
from wnrl.optim import WNAdam, project_


def network(norm="none"):
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    convert(net, norm)
    return net


def loss(net):
    generator = torch.Generator().manual_seed(3)
    return net(torch.randn(8, 3, generator=generator, dtype=torch.float64)).square().mean()


def train(net, optimizer, factor=1.0):
    optimizer.zero_grad()
    (factor * loss(net)).backward()
    optimizer.step()


def length(layer):
    return torch.cat([p.grad.flatten() for p in layer.parameters()]).norm()


def test_change_under_gradient_descent_is_the_learning_rate_times_gradient_over_weight():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = effective_weights(net)
    train(net, optimizer)
    change = relative_change(before, effective_weights(net))
    by_hand = 0.1 * net[0].weight.grad.norm() / before["0.weight"].norm()
    assert torch.allclose(change["0.weight"], by_hand)
    assert change.keys() == {"0.weight", "2.weight"}


@pytest.mark.parametrize("norm", ["weight", "projected", "weight_mean", "spectral"])
def test_change_is_that_of_the_weight_as_applied(norm):
    net = network(norm)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda *_: project_(net))
    with first_step(net, optimizer) as step:
        loss(net).backward()
        before = effective_weights(net)["0.weight"]
        optimizer.step()
    after = effective_weights(net)["0.weight"]
    by_hand = (after - before).norm() / before.norm()
    assert by_hand > 0
    assert torch.allclose(step.relative_change["0.weight"], by_hand)


def test_optimizers_that_own_the_norm_are_seen_as_well():
    net = network()
    optimizer = WNAdam(net.parameters(), lr=0.1)
    before = net[0].weight.detach().clone()
    with first_step(net, optimizer) as step:
        train(net, optimizer)
    by_hand = (net[0].weight.detach() - before).norm() / before.norm()
    assert torch.allclose(step.relative_change["0.weight"], by_hand)
    assert step.gradient_norms.keys() == {"0", "2"}


def test_gradient_norms_are_those_of_the_layers():
    net = network("weight")
    assert gradient_norms(net) == {}
    loss(net).backward()
    norms = gradient_norms(net)
    assert norms.keys() == {"0", "2"}
    assert torch.allclose(norms["0"], length(net[0]))


def test_gradients_of_a_step_are_those_before_clipping():
    net = network("weight")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with first_step(net, optimizer) as step:
        loss(net).backward()
        by_hand = length(net[0])
        nn.utils.clip_grad_norm_(net.parameters(), 1e-3)
        optimizer.step()
    assert torch.allclose(step.gradient_norms["0"], by_hand)


def test_the_gradients_that_count_are_the_last_before_the_step():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with first_step(net, optimizer) as step:
        (7 * loss(net)).backward()  # as the loss of an actor goes through a critic
        train(net, optimizer)
        by_hand = length(net[0])
        (7 * loss(net)).backward()
    assert torch.allclose(step.gradient_norms["0"], by_hand)


def test_only_the_first_step_counts():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with first_step(net, optimizer) as step:
        train(net, optimizer)
        first = {**step.relative_change}, {**step.gradient_norms}
        train(net, optimizer, 100.0)
    assert (step.relative_change, step.gradient_norms) == first


def test_only_what_the_optimizer_has_is_seen():
    net = network()
    optimizer = torch.optim.SGD(net[2].parameters(), lr=0.1)
    with first_step(net, optimizer) as step:
        train(net, optimizer)
    assert step.gradient_norms.keys() == {"2"}
    assert step.relative_change.keys() == {"2.weight"}


def test_a_parameter_of_the_module_itself_has_its_own_name():
    net = nn.Module()
    net.log_std = nn.Parameter(torch.ones(2))
    (3 * net.log_std[0]).backward()
    assert gradient_norms(net)["log_std"].item() == 3.0


def test_sparse_gradients_have_a_length():
    net = nn.Sequential(nn.Embedding(5, 2, sparse=True))
    net(torch.tensor([1, 1, 3])).sum().backward()
    assert gradient_norms(net)["0"].item() == pytest.approx((2 * 2**2 + 2 * 1**2) ** 0.5)


def test_seeing_a_step_changes_no_bit_and_leaves_no_hook():
    trained = []
    for seen in (False, True):
        torch.manual_seed(1)
        net = network("weight")
        optimizer = torch.optim.Adam(net.parameters())
        with first_step(net, optimizer) if seen else nullcontext():
            for _ in range(3):
                train(net, optimizer)
        assert not optimizer._optimizer_step_pre_hooks
        assert not optimizer._optimizer_step_post_hooks
        assert not any(p._post_accumulate_grad_hooks for p in net.parameters())
        trained.append(net.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


def test_without_a_step_there_is_nothing_to_tell():
    net = network()
    with first_step(net, torch.optim.SGD(net.parameters(), lr=0.1)) as step:
        loss(net).backward()
    assert not step.done
    assert step.gradient_norms == step.relative_change == {}
