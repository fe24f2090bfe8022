"""Gradient steps as a CUDA graph replays them: the same operations, the same Python numbers."""

import pytest
import torch

from tests.emulated import Emulated
from tests.vae.tiny import build, images
from wnrl import NORMS
from wnrl.data import Images
from wnrl.vae import Trainer, VAEConfig
from wnrl.vae.models import MODELS

STEPS = 8
VARIANTS = {
    "warm-up": {"warm_up_epochs": 2.0, "beta": 0.5, "free_bits": 0.1},
    "clipped": {"max_grad_norm": 0.1, "schedule": "iwae"},
    "averaged": {"ema_epochs": 1.0},
    "iwae": {"objective": "iwae", "train_samples": 3},
    "dreg": {"objective": "dreg", "train_samples": 3},
    "amp": {"amp": True},
}
CASES = [
    *[("mlp", norm, {}) for norm in NORMS],
    *[(model, "weight", {}) for model in MODELS],
    *[("mlp", "weight", change) for change in VARIANTS.values()],
]


def tiny_trainer(name, norm, change, device="cpu"):
    levels = 256 if name == "frames" else 4
    pixels = (images(name, 8) * (levels - 1)).to(torch.uint8)
    dataset = "frames:CartPole-v1" if name == "frames" else "digits"
    config = VAEConfig(
        name, dataset, norm=norm, batch_size=4, epochs=None, n_steps=10, n_logs=1, **change
    )
    few = Images("tiny", pixels, pixels, pixels, levels, "all of them")
    made = Trainer(build(name, norm).to(device), few, config)
    made.model.train()
    return made


def state(made):
    moments = [t for each in made.optimizer.state.values() for t in each.values()]
    return [*made.model.state_dict().values(), *moments]


def parameters(made):
    return torch.cat([p.detach().flatten() for p in made.parameters])


@pytest.mark.parametrize(("name", "norm", "change"), CASES)
@pytest.mark.usefixtures("unchecked")
def test_replayed_steps_are_those_that_python_makes(name, norm, change):
    plain, replayed = (tiny_trainer(name, norm, change) for _ in range(2))
    replayed._recorded_step = Emulated(
        replayed._gradient_step, replayed.device, lambda: state(replayed), [replayed.generator]
    )
    begun = parameters(plain)
    for _ in range(STEPS):
        plain._advance()
        replayed._advance()
    apart, moved = parameters(replayed) - parameters(plain), parameters(plain) - begun
    assert apart.norm() < 1e-3 * moved.norm()  # Adam blows roundings up
    torch.testing.assert_close(replayed.sums, plain.sums)
    if plain.average is not None:
        for key, expected in plain.average.tensors.items():
            torch.testing.assert_close(replayed.average.tensors[key], expected)
    assert replayed.names == plain.names
