"""Whole converted networks in the places where models go: files, ensembles, exports, processes."""

import copy
import io

import cloudpickle
import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state

from wnrl import NORMS, convert, data_init, fold
from wnrl.optim import WNSGD, param_groups

PAST_WARM_UP = {"warmup_steps": 0, "r_steps": 1, "d_steps": 1, "momentum": 0.5}


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 16), nn.Tanh(), nn.Linear(16, 2)
    )


def trained(key, seed=0):
    """A converted network after a few steps, in evaluation."""
    net = network(seed)
    convert(net, key)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for step in range(3):
        optimizer.zero_grad()
        net(images(step)).square().mean().backward()
        optimizer.step()
    return net.eval()


def images(seed=9):
    return torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def through_cloudpickle(net, key):
    return cloudpickle.loads(cloudpickle.dumps(net))


def through_torch_save(net, key):
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def through_its_state(net, key):
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    twin = network(seed=5)
    convert(twin, key)
    twin.load_state_dict(torch.load(file, weights_only=True))
    return twin.eval()


@pytest.mark.parametrize("way", [through_cloudpickle, through_torch_save, through_its_state])
@pytest.mark.parametrize("key", NORMS)
def test_a_trained_network_comes_back_equal_and_goes_on_training(key, way):
    net = trained(key)
    twin = way(net, key)
    assert torch.equal(twin(images()), net(images()))
    twin.train()(images()).sum().backward()
    assert all(p.grad is not None for p in twin.parameters())


@pytest.mark.parametrize("key", NORMS)
def test_an_ensemble_runs_under_vmap(key):
    nets = [trained(key, seed) for seed in range(3)]
    parameters, buffers = stack_module_state(nets)
    shell, x = copy.deepcopy(nets[0]), images()

    def call(parameters, buffers):
        return functional_call(shell, (parameters, buffers), (x,))

    out = torch.vmap(call)(parameters, buffers)
    torch.testing.assert_close(out, torch.stack([net(x) for net in nets]))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("key", NORMS)
def test_a_network_is_one_graph_for_torch_compile(key, training):
    torch.compiler.reset()  # the limit of recompilations counts over all tests
    net = trained(key).train(training)
    expected = copy.deepcopy(net)(images())
    compiled = torch.compile(copy.deepcopy(net), fullgraph=True, backend="aot_eager")
    out = compiled(images())
    torch.testing.assert_close(out, expected)
    out.sum().backward()


@pytest.mark.parametrize("backend", ["aot_eager", "aot_eager_decomp_partition"])
@pytest.mark.parametrize("key", ["mean", "batch", "batch_renorm", "spectral"])
def test_compiled_gradients_are_those_of_eager_mode_where_buffers_move(key, backend):
    torch.compiler.reset()
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4))
    convert(net, key, norm_kwargs=PAST_WARM_UP if key == "batch_renorm" else {})
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(16, 6) * 2 + 1)
        for parameter in net.parameters():  # so that u and the statistics are far from what follows
            parameter.add_(torch.randn_like(parameter) * 0.3)
    twin, x = copy.deepcopy(net), torch.randn(16, 6)
    for run in (net, torch.compile(twin, fullgraph=True, backend=backend)):
        run(x).square().sum().backward()
    for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, ours.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(twin.state_dict(), net.state_dict())


@pytest.mark.parametrize("key", NORMS)
def test_an_exported_program_computes_the_same(key):
    net = trained(key)
    program = torch.export.export(net, (images(),))
    torch.testing.assert_close(program.module()(images()), net(images()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("key", NORMS)
def test_onnx_of_the_folded_network_runs_in_onnxruntime(key, tmp_path):
    net = trained(key)
    path = tmp_path / "net.onnx"
    torch.onnx.export(fold(net), (images(),), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {session.get_inputs()[0].name: images().numpy()})
    np.testing.assert_allclose(out, net(images()).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("key", NORMS)
def test_autocast_to_bf16_trains_and_stays_near_float32(key):
    net = trained(key).train()
    expected = copy.deepcopy(net)(images())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(images())
    torch.testing.assert_close(out.float(), expected, atol=0.05, rtol=0.05)
    out.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert {p.dtype for p in (*net.parameters(), *net.buffers()) if p.dim()} == {torch.float32}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("key", NORMS)
def test_a_gpu_initialises_and_trains_as_the_cpu_does(key):
    results = []
    for device in ("cpu", "cuda"):
        net = network().to(device)
        convert(net, key)
        data_init(net, images(1).to(device))
        optimizer = WNSGD(param_groups(net, lr=0.01))
        for step in range(3):
            optimizer.zero_grad()
            net(images(step).to(device)).square().mean().backward()
            optimizer.step()
        results.append(fold(net.eval())(images().to(device)).cpu())
    torch.testing.assert_close(*results, atol=2e-2, rtol=2e-2)


BOTH_WORKERS = """
import os, sys, torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from wnrl import NORMS, convert
rank, folder = int(os.fork() == 0), sys.argv[1]
distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
states = {}
for key in NORMS:
    torch.manual_seed(rank)  # DDP gives all processes the weights of the first
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    convert(net, key)
    net = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        net(torch.randn(8, 6)).square().mean().backward()
        optimizer.step()
    states[key] = dict(net.module.named_parameters())
torch.save(states, f"{folder}/rank{rank}.pt")
distributed.barrier()
os._exit(rank == 0 and os.wait()[1] != 0)  # gloo's threads can abort an orderly exit
"""


def test_two_processes_keep_equal_parameters_under_ddp(fresh, tmp_path):
    fresh(BOTH_WORKERS, tmp_path)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert list(first) == list(NORMS)
    for key, parameters in first.items():
        for name, parameter in parameters.items():
            assert torch.equal(parameter, second[key][name]), (key, name)
