"""Activation checkpointing runs a forward twice, and the second time counts for nothing."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from wnrl import NORMS, convert
from wnrl.errors import UsageError

OPTIONS = {"batch_renorm": {"warmup_steps": 0, "r_steps": 1, "d_steps": 1, "r_max": 1.1}}


def trained(norm):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 30), nn.ReLU(), nn.Linear(30, 1))
    convert(net, norm, norm_kwargs=OPTIONS.get(norm))
    for _ in range(3):
        net(torch.randn(50, 6) * 2 + 1)
    for part in net.modules():
        if hasattr(part, "vector"):  # far from that of its weight, as after large steps
            part.vector().copy_(nn.functional.normalize(torch.randn_like(part.vector()), dim=0))
    return net


def gradients(net, run, x):
    net.zero_grad()
    run(net, x).square().sum().backward()
    return [p.grad for p in net.parameters()], [b.clone() for b in net.buffers()]


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("norm", sorted(set(NORMS) - {"batch"}))  # torch's counts twice
def test_gradients_and_statistics_are_those_of_one_forward(norm, reentrant):
    net = trained(norm)
    x = torch.randn(50, 6, requires_grad=True)
    expected = gradients(copy.deepcopy(net), lambda net, x: net(x), x)
    found = gradients(net, lambda net, x: checkpoint(net, x, use_reentrant=reentrant), x)
    for one, other in zip(expected, found, strict=True):
        assert all(map(torch.equal, one, other))


@pytest.mark.parametrize("norm", sorted(set(NORMS) - {"batch_renorm", "spectral"}))
def test_what_selective_checkpointing_saves_is_given_to_the_same_operation(norm):
    def policy(context, op, *args, **kwargs):
        saved = op in (torch.ops.aten.sub.Tensor, torch.ops.aten.mul.Tensor)
        return CheckpointPolicy.MUST_SAVE if saved else CheckpointPolicy.PREFER_RECOMPUTE

    def run(net, x):
        contexts = partial(create_selective_checkpoint_contexts, policy)
        return checkpoint(net, x, use_reentrant=False, context_fn=contexts)

    x = torch.randn(50, 6, requires_grad=True)
    expected, _ = gradients(trained(norm), lambda net, x: net(x), x)
    found, _ = gradients(trained(norm), run, x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize(
    ("norm", "moved"),
    [("batch_renorm", "statistics that have"), ("spectral", "a vector u that has")],
)
def test_what_has_moved_since_is_an_error(norm, moved, learns):
    net = trained(norm).requires_grad_(learns)
    x = torch.randn(50, 6, requires_grad=True)
    first = checkpoint(net, x, use_reentrant=False)
    net(x + 1)
    with pytest.raises(UsageError, match=f"{moved} moved"):
        first.sum().backward()


def test_a_plain_forward_before_one_that_is_computed_anew_is_no_matter():
    net = trained("spectral")
    x = torch.randn(50, 6)
    twin = copy.deepcopy(net)
    expected = gradients(twin, lambda net, x: net(x) + net(x), x)
    found = gradients(net, lambda net, x: net(x) + checkpoint(net, x, use_reentrant=False), x)
    for one, other in zip(expected, found, strict=True):
        assert all(map(torch.equal, one, other))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize(
    ("norm", "outside"), [("batch_renorm", True), ("spectral", True), ("spectral", False)]
)
def test_compiled_code_that_is_computed_anew_is_an_error(norm, outside, reentrant):
    torch.compiler.reset()
    net = trained(norm)
    again = partial(checkpoint, use_reentrant=reentrant)
    if outside:
        run = partial(again, torch.compile(net, backend="aot_eager"))
    else:
        run = torch.compile(partial(again, net), backend="aot_eager")
    out = run(torch.randn(50, 6, requires_grad=True))
    with pytest.raises(UsageError, match="or the checkpoint there"):
        out.sum().backward()
