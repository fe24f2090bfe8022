import resource
from dataclasses import asdict, replace
from functools import partial

import pytest
import torch
from torch import nn

from tests.vae.written import finish, write_run
from wnrl import NORMS, data, fold
from wnrl.errors import UsageError
from wnrl.norms import Norm
from wnrl.runs import write_json
from wnrl.vae import VAE, Protocol, VAEConfig, build, load, nll
from wnrl.vae.construction import save_weights
from wnrl.vae.inputs import binarise
from wnrl.vae.likelihoods import LIKELIHOODS
from wnrl.vae.models import MODELS

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


def test_a_data_set_without_training_images_is_refused(digits):
    with pytest.raises(UsageError, match="split 'train' of dataset 'digits' has no images"):
        build(CONFIG, replace(digits, train=digits.train[:0]))


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
    write_run(tmp_path, config, model.state_dict())
    loaded = load(tmp_path)
    assert not loaded.training
    assert torch.equal(loaded.encode(x)[0], model.eval().encode(x)[0])


@pytest.mark.parametrize("room", [0, 100, 3000, 20_000])
def test_a_full_disk_is_told_as_one_and_leaves_no_half_a_model(room, tmp_path):
    weights = {"raw": {"w": torch.zeros(10_000)}}
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, most))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_weights("raw", weights, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert not list(tmp_path.iterdir())


def test_loading_refuses_a_folder_without_a_trained_vae(tmp_path):
    with pytest.raises(UsageError, match=r"holds no trained VAE: no config.json"):
        load(tmp_path)
    write_json(tmp_path / "config.json", asdict(CONFIG))
    with pytest.raises(UsageError, match=r"has no model.pt: it is not finished$"):
        load(tmp_path)
    finish(tmp_path, "failed")
    with pytest.raises(UsageError, match=r"has no model.pt: its run failed$"):
        load(tmp_path)


def test_loading_refuses_the_run_of_an_agent(tmp_path):
    write_json(tmp_path / "config.json", {"algo": "ppo", "norm": "none"})
    with pytest.raises(UsageError) as refused:
        load(tmp_path)
    told = "holds a run of another program: its config.json has no dataset"
    assert str(refused.value) == f"run_dir {tmp_path} {told}"


def test_loading_refuses_a_configuration_that_is_not_whole(tmp_path):
    write_run(tmp_path, CONFIG, {})
    write_json(tmp_path / "config.json", asdict(CONFIG) | {"depth": 3})
    with pytest.raises(UsageError) as refused:
        load(tmp_path)
    told = "holds no trained VAE: not the configuration of a VAE run; missing or unknown: depth"
    assert str(refused.value) == f"run_folder {tmp_path} {told}"


@pytest.mark.parametrize("changes", [{"norm": "weight"}, {"hidden": (7,)}])
def test_loading_refuses_the_weights_of_another_model(changes, tmp_path):
    write_run(tmp_path, CONFIG, build(replace(CONFIG, **changes)).state_dict())
    with pytest.raises(UsageError, match=r"has a model.pt of another VAE than its config.json: \S"):
        load(tmp_path)


def test_loading_runs_no_code_from_a_checkpoint(tmp_path):
    write_run(tmp_path, CONFIG)
    torch.save(build(CONFIG), tmp_path / "model.pt")
    finish(tmp_path)  # with a checksum that is right
    with pytest.raises(UsageError, match=r"model.pt is damaged or no VAE of wnrl: Weights only"):
        load(tmp_path)


@pytest.mark.parametrize("name", MODELS)
def test_reloading_every_model_and_folding_it_gives_the_same_nll(name, tmp_path):
    dataset = "frames:CartPole-v1" if name == "frames" else "digits"
    config = VAEConfig(name, dataset, **({"draw_steps": 2} if "draw" in name else {}))
    shape, levels = data.dataset(dataset).shape, data.dataset(dataset).levels
    pixels = torch.randint(0, levels, (4, *shape), dtype=torch.uint8)
    images = data.Images(dataset, pixels, pixels, pixels, levels, "all of them")
    model = build(config, images)
    write_run(tmp_path, config, model.state_dict())
    protocol = Protocol(dataset, n_samples=3)
    loaded = load(tmp_path)
    found = [nll(m, images, protocol) for m in (model, loaded, fold(loaded))]
    torch.testing.assert_close(found[1].per_image_nll, found[0].per_image_nll, atol=1e-6, rtol=1e-9)
    torch.testing.assert_close(found[2].per_image_nll, found[0].per_image_nll, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_likelihood_comes_back_with_its_run(likelihood, digits, tmp_path):
    config = replace(CONFIG, likelihood=likelihood, norm="weight")
    model = build(config, digits)
    write_run(tmp_path, config, model.state_dict())
    protocol = Protocol("digits", n_samples=3)
    first, second = (nll(m, digits, protocol) for m in (model, load(tmp_path)))
    assert first.nll == pytest.approx(second.nll, abs=1e-6)
    assert first.kind == second.kind == LIKELIHOODS[likelihood].meaning


def test_either_kind_of_weights_can_be_had(digits, tmp_path):
    states = [build(replace(CONFIG, seed=seed), digits).state_dict() for seed in (1, 2)]
    write_run(tmp_path, CONFIG, {"raw": states[0], "averaged": states[1]}, "averaged")
    key = "encoder.0.weight"
    assert torch.equal(load(tmp_path).state_dict()[key], states[1][key])
    assert torch.equal(load(tmp_path, "averaged").state_dict()[key], states[1][key])
    assert torch.equal(load(tmp_path, "raw").state_dict()[key], states[0][key])
    with pytest.raises(UsageError, match="weights must be one of raw, averaged, got 'last'"):
        load(tmp_path, "last")


@pytest.mark.parametrize("norm", ["none", "weight", "batch"])
def test_data_init_is_done_once_and_never_again_on_loading(norm, digits, tmp_path):
    config = replace(CONFIG, norm=norm, data_init=200)
    model = build(config, digits)
    mu, log_var = model.eval().encode(binarise(digits.train, 17))
    for output in (mu, log_var):
        torch.testing.assert_close(output.mean(0), torch.zeros(3), atol=0.3, rtol=0)
        torch.testing.assert_close(output.std(0), torch.ones(3), atol=0.3, rtol=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)  # what training does
    write_run(tmp_path, config, model.state_dict())
    state = load(tmp_path).state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


OUTPUTS = {
    "mlp": ["encoder.4", "decoder.4"],
    "mlp2": ["encoder.4", "upper_encoder.4", "upper_decoder.4", "decoder.4"],
    "conv": ["encoder.head", "decoder.head"],
    "conv_iaf": ["encoder.head", "decoder.head"],
    "draw": ["to_posterior", "write.what"],
    "draw_attention": ["to_posterior", "write.what"],
    "frames": ["encoder.9", "decoder.8"],
}


@pytest.mark.parametrize("name", MODELS)
def test_output_layers_stay_plain_on_request(name):
    dataset = "frames:CartPole-v1" if name == "frames" else "digits"
    plain, heads = (
        build(VAEConfig(name, dataset, norm="weight", norm_heads=kept)) for kept in (False, True)
    )
    assert plain.output_layers() == heads.output_layers() == OUTPUTS[name]
    assert not any(hasattr(plain.get_submodule(layer), "weight_g") for layer in OUTPUTS[name])
    assert all(hasattr(heads.get_submodule(layer), "weight_g") for layer in OUTPUTS[name])


def test_options_of_the_norm_reach_it_and_wrong_ones_are_refused(digits):
    model = build(replace(CONFIG, norm="batch", norm_kwargs={"momentum": 0.02}), digits)
    assert model.encoder[0].norm.momentum == 0.02
    with pytest.raises(UsageError, match="momentun"):
        build(replace(CONFIG, norm="batch", norm_kwargs={"momentun": 0.02}), digits)


def test_images_of_another_data_set_are_refused(digits):
    with pytest.raises(UsageError, match=r"images must have shape \(1, 28, 28\), got \(1, 8, 8\)"):
        build(VAEConfig(dataset="mnist"), digits)


class Own(VAE):
    """A VAE of a user's."""

    def __init__(self, image_shape, latent_dim, bias=True, *, likelihood=None):
        super().__init__(image_shape, latent_dim, likelihood)
        n = image_shape[1] * image_shape[2]
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(n, 2 * latent_dim))
        self.decoder = nn.Linear(latent_dim, n, bias)


def broken(image_shape, latent_dim=3, *, likelihood=None):
    return {}["a layer"]


def test_a_model_of_ones_own_may_leave_sizes_to_the_run(monkeypatch, digits):
    monkeypatch.setitem(MODELS, "own", Own)
    with pytest.raises(UsageError, match=r"model own cannot be built: TypeError: .*'latent_dim'"):
        build(VAEConfig("own"), digits)
    assert build(VAEConfig("own", latent_dim=3), digits).latent_dim == 3


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (broken, r"model own cannot be built: KeyError: 'a layer' \(test_construction.py, line"),
        (
            lambda image_shape: None,
            "model own cannot be built: TypeError: .* argument 'likelihood'",
        ),
        (partial(Own, latent_dim=3, bias=False), "decoder, the last layer, must have a bias"),
    ],
    ids=["broken", "without a likelihood", "without a bias"],
)
def test_a_model_of_ones_own_that_cannot_be_built_is_told_in_a_line(
    monkeypatch, digits, model, message
):
    monkeypatch.setitem(MODELS, "own", model)
    with pytest.raises(UsageError, match=message):
        build(VAEConfig("own"), digits)


def test_a_norm_of_ones_own_that_does_not_take_a_layer_is_told_in_a_line(monkeypatch, digits):
    normalizers = tuple(partial(nn.GroupNorm, 2) for _ in range(4))
    norm = Norm("group norm", colour="#117733", dash="--", normalizers=normalizers)
    monkeypatch.setitem(NORMS, "groups", norm)
    with pytest.raises(UsageError, match="model mlp cannot be built: ValueError: num_channels"):
        build(VAEConfig(norm="groups", hidden=(5,)), digits)
