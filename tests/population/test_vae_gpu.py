"""Cohorts of VAEs on a GPU: as on the CPU, replayed as they are launched, and never waited for."""

import pytest
import torch

from tests.population.test_vae import VARIANTS, configs, digits, state
from wnrl.population.vae import VAECohort

__all__ = ["digits"]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
]
ON_GPU = [name for name in VARIANTS if "data_init" not in name]  # which a CPU does
every_variant = pytest.mark.parametrize("variant", ON_GPU)
some_variants = pytest.mark.parametrize("variant", ["weight", "batch", "spectral", "iwae", "grey"])
STEPS = 6


def made(images, variant, device="cuda", **arguments):
    return VAECohort(images, configs(2, **VARIANTS[variant]), device=device, **arguments)


def trained(cohort, n_steps=STEPS):
    for _ in range(n_steps):
        cohort.iterate()
    return cohort


@every_variant
def test_a_gpu_begins_as_a_cpu(variant, digits):
    on_cpu, on_gpu = (trained(made(digits, variant, device), 1) for device in ("cpu", "cuda"))
    torch.testing.assert_close(on_gpu.sums.cpu(), on_cpu.sums, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(on_gpu.params.cpu(), on_cpu.params, rtol=0, atol=2e-3)


@every_variant
def test_a_cuda_graph_replays_what_is_launched_otherwise(variant, digits):
    launched, replayed = (trained(made(digits, variant, graph=graph)) for graph in (False, True))
    assert replayed._stepped.calls == STEPS
    torch.testing.assert_close(replayed.sums, launched.sums, rtol=1e-4, atol=1e-3)
    for expected, got in zip(state(launched), state(replayed), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@some_variants
def test_a_step_that_is_measured_stands_among_replayed_ones(variant, digits):
    measured, replayed = made(digits, variant), trained(made(digits, variant))
    for step in range(STEPS):
        update = measured.iterate(measured=step == STEPS - 2)
        assert (update is not None) == (step == STEPS - 2)
    for expected, got in zip(state(replayed), state(measured), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@every_variant
def test_gradient_steps_never_wait_for_the_gpu(variant, digits):
    cohort = trained(made(digits, variant))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        cohort.iterate()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@some_variants
def test_bounds_are_those_of_each_model(variant, digits):
    cohort = trained(made(digits, variant))
    bounds = cohort.validate()
    for k in range(2):
        cohort.validation.model.load_state_dict(cohort.vae(k).state_dict())
        for tag, bound in cohort.validation.bounds().items():
            torch.testing.assert_close(bounds[tag][k], bound, rtol=1e-4, atol=1e-3)


@some_variants
def test_a_cohort_goes_on_from_its_state_on_either_device(variant, digits):
    cohort, on_cpu, again = (made(digits, variant, device) for device in ("cuda", "cpu", "cuda"))
    on_cpu.restore(trained(cohort).state())
    trained(again, 1).restore(on_cpu.state())
    assert all(map(torch.equal, state(again), state(cohort)))
    for each in (cohort, on_cpu, again):
        each.iterate()
    torch.testing.assert_close(again.params, cohort.params, rtol=0, atol=1e-4)
    torch.testing.assert_close(on_cpu.params, cohort.params.cpu(), rtol=0, atol=2e-3)
