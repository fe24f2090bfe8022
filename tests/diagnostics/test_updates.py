import pytest
import torch
from torch import nn

from wnrl import convert
from wnrl.diagnostics import StepWatch, effective_weights
from wnrl.optim import WNAdam, project_


def network(norm="none"):
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    convert(net, norm)
    return net


def loss(net):
    generator = torch.Generator().manual_seed(3)
    return net(torch.randn(8, 3, generator=generator, dtype=torch.float64)).square().mean()


def test_change_under_gradient_descent_is_the_learning_rate_times_gradient_over_weight():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    watch = StepWatch(net, optimizer)
    loss(net).backward()
    weight = net[0].weight.detach().clone()
    by_hand = 0.1 * net[0].weight.grad.norm() / weight.norm()
    optimizer.step()
    assert torch.allclose(watch.relative_change["0.weight"], by_hand)
    assert watch.relative_change.keys() == {"0.weight", "2.weight"}


@pytest.mark.parametrize("norm", ["weight", "projected", "weight_mean", "spectral"])
def test_change_is_that_of_the_weight_as_applied(norm):
    net = network(norm)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda *_: project_(net))
    watch = StepWatch(net, optimizer)
    loss(net).backward()
    before = effective_weights(net)["0.weight"]
    optimizer.step()
    after = effective_weights(net)["0.weight"]
    by_hand = (after - before).norm() / before.norm()
    assert by_hand > 0
    assert torch.allclose(watch.relative_change["0.weight"], by_hand)


def test_optimizers_that_own_the_norm_are_watched_as_well():
    net = network()
    optimizer = WNAdam(net.parameters(), lr=0.1)
    watch = StepWatch(net, optimizer)
    loss(net).backward()
    before = net[0].weight.detach().clone()
    optimizer.step()
    by_hand = (net[0].weight.detach() - before).norm() / before.norm()
    assert torch.allclose(watch.relative_change["0.weight"], by_hand)
    assert watch.gradient_norms.keys() == {"0", "2"}


def test_gradient_norms_are_those_before_clipping():
    net = network("weight")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    watch = StepWatch(net, optimizer)
    loss(net).backward()
    by_hand = torch.cat([p.grad.flatten() for p in net[0].parameters()]).norm()
    nn.utils.clip_grad_norm_(net.parameters(), 1e-3)
    optimizer.step()
    assert torch.allclose(watch.gradient_norms["0"], by_hand)


def test_the_gradients_that_count_are_the_last_before_the_step():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    watch = StepWatch(net, optimizer)
    (7 * loss(net)).backward()  # as the loss of an actor goes through a critic
    optimizer.zero_grad()
    loss(net).backward()
    by_hand = torch.cat([p.grad.flatten() for p in net[0].parameters()]).norm()
    optimizer.step()
    (7 * loss(net)).backward()
    assert torch.allclose(watch.gradient_norms["0"], by_hand)


def test_only_the_first_step_counts():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    watch = StepWatch(net, optimizer)
    loss(net).backward()
    optimizer.step()
    first = {**watch.relative_change}
    for group in optimizer.param_groups:
        group["lr"] = 10.0
    loss(net).backward()
    optimizer.step()
    assert watch.relative_change == first


def test_only_what_the_optimizer_has_is_watched():
    net = network()
    optimizer = torch.optim.SGD(net[2].parameters(), lr=0.1)
    watch = StepWatch(net, optimizer)
    loss(net).backward()
    optimizer.step()
    assert watch.gradient_norms.keys() == {"2"}
    assert watch.relative_change.keys() == {"2.weight"}


def test_a_parameter_of_the_module_itself_has_its_own_name():
    net = nn.Module()
    net.log_std = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    watch = StepWatch(net, optimizer)
    (3 * net.log_std[0]).backward()
    optimizer.step()
    assert watch.gradient_norms["log_std"].item() == 3.0


def test_sparse_gradients_have_a_length():
    net = nn.Sequential(nn.Embedding(5, 2, sparse=True))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    watch = StepWatch(net, optimizer)
    net(torch.tensor([1, 1, 3])).sum().backward()
    optimizer.step()
    assert watch.gradient_norms["0"].item() == pytest.approx((2 * 2**2 + 2 * 1**2) ** 0.5)


def test_watching_changes_no_bit_and_leaves_no_hook():
    trained = []
    for watched in (False, True):
        torch.manual_seed(1)
        net = network("weight")
        optimizer = torch.optim.Adam(net.parameters())
        watch = StepWatch(net, optimizer) if watched else None
        for _ in range(3):
            optimizer.zero_grad()
            loss(net).backward()
            optimizer.step()
        if watch is not None:
            watch.close()
        assert not optimizer._optimizer_step_pre_hooks
        assert not optimizer._optimizer_step_post_hooks
        assert not any(p._post_accumulate_grad_hooks for p in net.parameters())
        trained.append(net.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


def test_without_a_step_there_is_nothing_to_tell():
    net = network()
    watch = StepWatch(net, torch.optim.SGD(net.parameters(), lr=0.1))
    loss(net).backward()
    watch.close()
    assert watch.gradient_norms == {}
    assert watch.relative_change == {}
