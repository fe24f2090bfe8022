"""VAEs on a GPU: the same numbers as on the CPU, and steps that never wait."""

import copy
from functools import partial

import pytest
import torch

from tests.vae.test_replay import CASES, STEPS, parameters, tiny_trainer
from tests.vae.tiny import build, images
from wnrl import NORMS, data, fold
from wnrl.compiling import compiled
from wnrl.data import Images
from wnrl.nn import cache
from wnrl.vae import Protocol, Trainer, VAEConfig, dreg, elbo, iwae, nll
from wnrl.vae import build as build_vae
from wnrl.vae.config import SAMPLES_ONLY
from wnrl.vae.models import MODELS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
]
every_model = pytest.mark.parametrize("name", MODELS)
every_norm = pytest.mark.parametrize("norm", NORMS)
VARIANTS = {
    "elbo": {},
    "clipped": {"max_grad_norm": 1.0, "optimizer": "adamax", "free_bits": 0.1},
    "averaged": {"ema_epochs": 1.0},
    "iwae": {"objective": "iwae", "train_samples": 3},
    "amp": {"amp": True},
}


@pytest.fixture
def no_waiting():
    """Whatever makes the host wait for the GPU is an error."""

    def start():
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")

    yield start
    torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def same_noise(monkeypatch):
    """The same noise on every device, from its beginning at each call of what this returns."""
    draw, source = torch.randn, torch.Generator()

    def same(*shape, device=None, dtype=None, generator=None):
        shape = tuple(shape[0]) if len(shape) == 1 else shape
        return draw(shape, dtype=dtype, generator=source).to(device or "cpu")

    monkeypatch.setattr(torch, "randn", same)
    return lambda: source.manual_seed(0)


def tiny_images(name):
    levels = 256 if name == "frames" else 2
    pixels = (images(name, 6) * (levels - 1)).to(torch.uint8)
    return Images("tiny", pixels, pixels, pixels, levels, "all of them")


@every_norm
@every_model
def test_terms_of_the_same_noise_are_those_of_the_cpu(name, norm, same_noise):
    model, x = build(name, norm).eval(), images(name)
    on_gpu = copy.deepcopy(model).cuda()
    same_noise()
    expected = model(x, 3)
    same_noise()
    for found, each in zip(on_gpu(x.cuda(), 3), expected, strict=True):
        torch.testing.assert_close(found.cpu(), each, atol=1e-2, rtol=1e-4)


@every_norm
@every_model
def test_nll_is_that_of_the_cpu(name, norm, same_noise):
    model, few = build(name, norm).eval(), tiny_images(name)
    protocol = Protocol("tiny", n_samples=200 if name != "frames" else 50)
    measured = []
    for each in (model, copy.deepcopy(model).cuda(), fold(model).cuda()):
        same_noise()
        measured.append(nll(each, few, protocol, rows=100))
    on_cpu, on_gpu, folded = measured
    torch.testing.assert_close(on_gpu.per_image_nll, on_cpu.per_image_nll, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(folded.per_image_nll, on_cpu.per_image_nll, atol=1e-3, rtol=1e-4)
    assert on_gpu.images_crc32 == on_cpu.images_crc32


@every_model
def test_nll_is_the_same_a_second_time(name):
    model, few = build(name, "weight").eval().cuda(), tiny_images(name)
    first, second = (nll(model, few, Protocol("tiny", n_samples=50)) for _ in range(2))
    torch.testing.assert_close(second.per_image_nll, first.per_image_nll, atol=1e-3, rtol=1e-6)


@every_norm
@every_model
def test_no_bound_waits_for_the_gpu(name, norm, no_waiting):
    model, x = build(name, norm).cuda().train(), images(name).cuda()
    samples_only = name in SAMPLES_ONLY
    chunk = None if norm in ("batch_renorm", "spectral") else 2  # which nothing computes again

    def step():
        for bound in (elbo(model, x).value, iwae(model, x, 3), iwae(model, x, 4, chunk=chunk)):
            bound.mean().backward()
        if not samples_only:
            dreg(model.eval(), x, 3).mean().backward()
            model.train()

    step()  # libraries are loaded and memory is taken
    no_waiting()
    step()


@pytest.mark.parametrize(
    ("name", "norm", "variant"),
    [
        *[("mlp", norm, "elbo") for norm in NORMS],
        *[(name, "weight", variant) for name in ("mlp2", "conv_iaf") for variant in VARIANTS],
        *[("draw_attention", norm, "clipped") for norm in ("none", "weight", "projected", "layer")],
    ],
)
def test_a_training_step_never_waits_for_the_gpu(name, norm, variant, no_waiting):
    digits = data.load("digits")
    sizes = {"draw_steps": 2} if name == "draw_attention" else {}
    config = VAEConfig(
        name, norm=norm, batch_size=32, epochs=None, n_steps=6, **sizes, **VARIANTS[variant]
    )
    trainer = Trainer(build_vae(config, digits).cuda(), digits, config)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    for _ in range(3):  # the third is recorded
        trainer._advance()
    no_waiting()
    for _ in range(2):
        trainer._advance()
    torch.cuda.set_sync_debug_mode("default")
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    moved = [not torch.equal(p, q) for p, q in zip(before, trainer.model.parameters(), strict=True)]
    assert any(moved)


@pytest.mark.parametrize(("name", "norm", "change"), CASES)
def test_a_cuda_graph_replays_what_is_launched_otherwise(name, norm, change):
    launched, again, replayed = (tiny_trainer(name, norm, change, "cuda") for _ in range(3))
    begun = parameters(launched)
    for each in (launched, again):
        each._recorded_step = each._gradient_step
    for _ in range(STEPS):
        for each in (launched, again, replayed):
            each._advance()
    apart, moved = (parameters(launched) - other for other in (parameters(replayed), begun))
    chance = parameters(launched) - parameters(again)  # cuDNN adds in an order of its own
    assert apart.norm() < 1e-2 * moved.norm() + 5 * chance.norm()
    torch.testing.assert_close(replayed.sums, launched.sums, rtol=1e-2, atol=1e-3)


def test_a_step_with_shared_weights_is_recorded_in_the_check_mode_too(request):
    request.addfinalizer(partial(cache.check, cache.check()))
    replayed = tiny_trainer("draw", "weight", {}, "cuda")
    for _ in range(STEPS):
        replayed._advance()
    assert replayed.sums.isfinite().all()


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
def test_a_compiled_model_is_recorded_too(capsys):
    launched = tiny_trainer("mlp", "weight", {}, "cuda")
    replayed = tiny_trainer("mlp", "weight", {}, "cuda")
    launched._recorded_step = launched._gradient_step
    replayed.forward = compiled(replayed.model.forward, "mlp")
    for _ in range(STEPS):
        launched._advance()
        replayed._advance()
    torch.testing.assert_close(replayed.sums, launched.sums, rtol=1e-3, atol=1e-3)
    assert capsys.readouterr().err == ""


@every_model
def test_it_learns_on_a_gpu_and_goes_on_from_its_state(name):
    few = tiny_images(name)
    dataset = "frames:CartPole-v1" if name == "frames" else "digits"
    config = VAEConfig(name, dataset, batch_size=2, epochs=None, n_steps=8, n_logs=2)
    trainer = Trainer(build(name, "weight").cuda(), few, config)
    logs = list(trainer.run())
    assert [log.step for log in logs] == [4, 8]
    other = Trainer(build(name, "weight", seed=3).cuda(), few, config)
    other.restore(trainer.state())
    protocol = Protocol("tiny", n_samples=5)
    first, second = (nll(t.model, few, protocol).per_image_nll for t in (trainer, other))
    torch.testing.assert_close(first, second, atol=1e-3, rtol=1e-6)


def test_chunks_have_the_value_and_gradient_of_all_samples_on_a_gpu():
    model, x = build("mlp2", "weight").cuda().double(), images("mlp2").cuda().double()
    split, parts = torch.Generator("cuda").manual_seed(0), []
    for k in (2, 2, 1):
        parts.append(model.log_weights(x, k, split))
    whole = iwae_of(torch.cat(parts))
    bound = iwae(model, x, 5, torch.Generator("cuda").manual_seed(0), chunk=2)
    torch.testing.assert_close(bound, whole)
    for found, expected in zip(slopes(bound, model), slopes(whole, model), strict=True):
        torch.testing.assert_close(found, expected)


def iwae_of(log_weights):
    return log_weights.logsumexp(0) - torch.tensor(float(len(log_weights))).log().to(log_weights)


def slopes(bound, model):
    return torch.autograd.grad(bound.mean(), list(model.parameters()), retain_graph=True)


@every_model
def test_tensors_of_two_devices_are_refused_in_one_line(name):
    model, x = build(name).cuda(), images(name)
    with pytest.raises(ValueError, match=r"x must be on cuda:0, as the model is, got cpu"):
        model.log_weights(x, 2)
    with pytest.raises(ValueError, match=r"z must be on cuda:0, as the model is, got cpu"):
        model.decode(model.draw_prior(2).cpu())
