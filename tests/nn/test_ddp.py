import pytest
import torch
import torch.distributed as dist

from tests.nn.cases import CASES, NORMED, PASTS, out
from tests.nn.ddp_workers import inputs

ALL = {**CASES, **NORMED}


@pytest.fixture(scope="module")
def trained(fresh, tmp_path_factory):
    """The folder of the gradients that each of two processes got."""
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("needs gloo")
    folder = tmp_path_factory.mktemp("ddp")
    fresh("import sys; from tests.nn.ddp_workers import train; train(sys.argv[1])", folder)
    return folder


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("past", PASTS, ids=lambda past: past.__name__)
def test_two_processes_agree_on_the_mean_gradient(trained, name, past):
    layer = ALL[name].build()
    sum(out(layer(inputs(ALL[name], rank))).square().sum() / 2 for rank in (0, 1)).backward()
    first, second = (torch.load(trained / f"{name}-{past.__name__}-{rank}.pt") for rank in (0, 1))
    for key, p in layer.named_parameters():
        assert torch.equal(first[key], second[key])
        torch.testing.assert_close(first[key], p.grad, rtol=1e-4, atol=1e-4)
