import json
from dataclasses import asdict, replace

import pytest
import torch

from wnrl import NORMS, data
from wnrl.errors import UsageError
from wnrl.vae import VAEConfig, build, load
from wnrl.vae.build import save_checkpoint

CONFIG = VAEConfig(norm="none", hidden=(20, 12), latent_dim=3)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.mark.parametrize("norm", [key for key, norm in NORMS.items() if norm.paired])
def test_a_norm_that_changes_nothing_at_the_start_is_the_same_function_as_none(norm, digits):
    plain = build(CONFIG, digits)
    normed = build(replace(CONFIG, norm=norm), digits)
    x, z = torch.rand(5, 1, 8, 8), torch.randn(5, 3)
    torch.testing.assert_close(normed.encode(x), plain.encode(x), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(normed.decode(z), plain.decode(z), atol=1e-6, rtol=1e-5)


def test_the_seed_decides_the_weights(digits):
    first, again, other = (build(replace(CONFIG, seed=s), digits).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["encoder.0.weight"], other["encoder.0.weight"])


def test_building_leaves_the_global_random_state_alone(digits):
    before = torch.random.get_rng_state()
    build(CONFIG, digits)
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_untrained_model_predicts_about_the_training_mean(digits):
    means = digits.train.float().mean(0) / 16
    predicted = build(CONFIG, digits).sample(2000).mean(0)
    assert (predicted - means).abs().max() < 0.1


@pytest.mark.parametrize("norm", NORMS)
def test_loading_a_run_folder_gives_the_same_function_back(norm, digits, tmp_path):
    config = replace(CONFIG, norm=norm)
    model = build(config, digits).train()
    x = torch.rand(30, 1, 8, 8)
    model.encode(x)  # running statistics move
    (tmp_path / "config.json").write_text(json.dumps(asdict(config)))
    save_checkpoint(model, tmp_path)
    loaded = load(tmp_path)
    assert not loaded.training
    assert torch.equal(loaded.encode(x)[0], model.eval().encode(x)[0])


def test_loading_refuses_a_folder_without_a_trained_vae(tmp_path):
    with pytest.raises(UsageError, match=r"holds no trained VAE: no config.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"holds no trained VAE: no model.pt"):
        load(tmp_path)


def test_loading_refuses_the_run_of_an_agent(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"algo": "ppo", "norm": "none"}))
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(UsageError) as refused:
        load(tmp_path)
    message = str(refused.value)
    assert "\n" not in message
    assert message.startswith(f"run_folder {tmp_path} holds no trained VAE: not the configuration")


def test_loading_runs_no_code_from_a_checkpoint(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(asdict(CONFIG)))
    torch.save(build(CONFIG), tmp_path / "model.pt")
    with pytest.raises(Exception, match=r"[Ww]eights[_ ]only"):
        load(tmp_path)
