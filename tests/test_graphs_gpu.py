"""CUDA graphs, and the random numbers that they draw."""

import pytest
import torch

from wnrl.graphs import Replayed

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
CYCLES = 10**8
"""Of a GPU that does nothing: some 50 ms."""


def test_the_first_replay_waits_for_what_a_recording_did_on_its_stream(monkeypatch):
    begin = torch.cuda.CUDAGraph.capture_begin

    def begin_late(graph, *args, **kwargs):  # as on a GPU that other programs use
        torch.cuda._sleep(CYCLES)
        begin(graph, *args, **kwargs)

    def drawn():
        torch.cuda._sleep(2 * CYCLES)
        return torch.rand(4, generator=generator, device="cuda")

    monkeypatch.setattr(torch.cuda.CUDAGraph, "capture_begin", begin_late)
    generator, launched = (torch.Generator("cuda").manual_seed(0) for _ in range(2))
    replayed = Replayed(drawn, torch.device("cuda"), [generator])
    for _ in range(5):
        expected = torch.rand(4, generator=launched, device="cuda")
        assert torch.equal(replayed(), expected)
