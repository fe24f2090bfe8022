import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from tests.sb3.tasks import RandomTask
from tests.vae.written import write_run
from wnrl import data
from wnrl.errors import UsageError
from wnrl.sb3 import FoldedActor, VAEExtractor
from wnrl.vae import VAEConfig, build, load

FRAMES = spaces.Box(0, 255, (3, 64, 64), np.uint8)
CONFIG = VAEConfig("frames", "frames:CartPole-v1", norm="weight", latent_dim=5)


def written(folder, config=CONFIG):
    """A run folder with an untrained VAE."""
    shape, levels = data.dataset(config.dataset).shape, data.dataset(config.dataset).levels
    pixels = torch.randint(0, levels, (8, *shape), dtype=torch.uint8)
    model = build(config, data.Images(config.dataset, pixels, pixels, pixels, levels, ""))
    model.train()(pixels.float() / 255)  # running statistics move
    return write_run(folder, config, model.state_dict())


@pytest.fixture
def vae(tmp_path):
    return written(tmp_path / "vae")


def agent(vae, algorithm=PPO, policy="CnnPolicy", frozen=True, **policy_kwargs):
    kwargs = {
        "features_extractor_class": VAEExtractor,
        "features_extractor_kwargs": {"vae": str(vae), "frozen": frozen},
        "net_arch": [8],
        **policy_kwargs,
    }
    budget = {
        PPO: {"n_steps": 4, "batch_size": 4, "n_epochs": 1},
        DQN: {"buffer_size": 20, "learning_starts": 2, "batch_size": 2, "train_freq": 1,
              "target_update_interval": 2},
    }  # fmt: skip
    env = DummyVecEnv([lambda: RandomTask(FRAMES)])
    return algorithm(policy, env, policy_kwargs=kwargs, seed=0, device="cpu", **budget[algorithm])


def extractor(model):
    policy = model.policy
    return (
        policy.q_net.features_extractor if hasattr(policy, "q_net") else policy.features_extractor
    )


def features_like_those_of(net, vae, x):
    with torch.no_grad():
        torch.testing.assert_close(net(x), load(vae).encode(x)[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("norm", ["none", "weight", "batch", "layer", "spectral"])
@pytest.mark.parametrize("frozen", [True, False])
def test_features_are_the_middle_of_the_posterior_in_either_mode(norm, frozen, tmp_path):
    vae = written(tmp_path / "vae", replace(CONFIG, norm=norm))
    net = VAEExtractor(FRAMES, vae, frozen)
    assert net.features_dim == 5
    for mode in (True, False):
        features_like_those_of(net.train(mode), vae, torch.rand(3, 3, 64, 64))


@pytest.mark.parametrize("policy", ["CnnPolicy", "WNCnnPolicy"])
@pytest.mark.parametrize("vae_norm", ["none", "weight"])
def test_no_initialisation_of_the_policy_reaches_the_encoder(policy, vae_norm, tmp_path):
    vae = written(tmp_path / "vae", replace(CONFIG, norm=vae_norm))
    model = agent(vae, policy=policy, frozen=False)
    features_like_those_of(extractor(model), vae, torch.rand(2, 3, 64, 64))


@pytest.mark.parametrize("norm", ["batch", "projected"])
def test_the_norm_of_the_policy_does_not_reach_the_encoder(norm, vae):
    model = agent(vae, policy="WNCnnPolicy", norm=norm, data_init=4)
    model.learn(8)
    features_like_those_of(extractor(model), vae, torch.rand(2, 3, 64, 64))


@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_a_frozen_encoder_stays_as_it_is_and_is_in_no_optimizer(algorithm, vae):
    model = agent(vae, algorithm)
    assert list(extractor(model).parameters()) == []
    model.learn(8)
    features_like_those_of(extractor(model), vae, torch.rand(2, 3, 64, 64))


def test_an_encoder_that_is_trained_on_moves_and_its_decoder_is_no_parameter(vae):
    model = agent(vae, frozen=False)
    before = {name: p.clone() for name, p in extractor(model).named_parameters()}
    assert before
    assert all(name.startswith("model_encoder") for name in before)
    model.learn(8)
    moved = {name for name, p in extractor(model).named_parameters() if not p.equal(before[name])}
    assert moved == set(before)


def test_stacked_frames_have_features_each(vae):
    net = VAEExtractor(spaces.Box(0, 255, (6, 64, 64), np.uint8), vae)
    x = torch.rand(2, 6, 64, 64)
    assert net.features_dim == 10
    mu = load(vae).encode(torch.cat([x[:, :3], x[:, 3:]]))[0]
    torch.testing.assert_close(net(x), torch.cat(mu.chunk(2), 1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("algorithm", [PPO, DQN])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_saved_agent_does_not_need_the_run_folder(algorithm, frozen, vae, tmp_path):
    model = agent(vae, algorithm, frozen=frozen)
    model.learn(4)
    model.save(tmp_path / "agent.zip")
    shutil.rmtree(vae)
    obs = np.random.default_rng(0).integers(0, 256, (4, 3, 64, 64), dtype=np.uint8)
    x = torch.from_numpy(obs).float() / 255
    expected = extractor(model)(x)
    for env in (None, DummyVecEnv([lambda: RandomTask(FRAMES)])):
        loaded = algorithm.load(tmp_path / "agent.zip", env=env, device="cpu")
        assert torch.equal(extractor(loaded)(x), expected)
        actions = (m.predict(obs, deterministic=True)[0] for m in (model, loaded))
        assert np.array_equal(*actions)
    loaded.learn(4)
    loaded.save(tmp_path / "again.zip")
    assert algorithm.load(tmp_path / "again.zip", device="cpu").policy is not None


def test_a_saved_policy_does_not_need_the_run_folder(vae, tmp_path):
    policy = agent(vae).policy
    policy.save(str(tmp_path / "policy.zip"))
    shutil.rmtree(vae)
    loaded = type(policy).load(str(tmp_path / "policy.zip"), device="cpu")
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(loaded.features_extractor(x), policy.features_extractor(x))


@pytest.mark.parametrize("frozen", [True, False])
def test_an_agent_with_a_vae_can_be_exported_for_any_number_of_observations(frozen, vae):
    actor = FoldedActor(agent(vae, frozen=frozen).policy)
    obs = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    batch = {"obs": {0: torch.export.Dim("batch")}}
    exported = torch.export.export(actor, (), {"obs": obs[:2]}, dynamic_shapes=batch).module()
    assert torch.equal(exported(obs=obs), actor(obs=obs))


def test_a_folder_that_holds_another_vae_by_now_is_refused(vae, tmp_path):
    agent(vae).save(tmp_path / "agent.zip")
    written(vae, replace(CONFIG, epochs=7))
    PPO.load(tmp_path / "agent.zip", device="cpu")  # trained for longer, but built alike
    written(vae, replace(CONFIG, norm="layer", latent_dim=4))
    with pytest.raises(UsageError, match=r"another VAE .* now it has norm 'layer', latent_dim 4$"):
        PPO.load(tmp_path / "agent.zip", device="cpu")
    assert agent(vae).policy.features_extractor.features_dim == 4  # an environment of its own


def test_a_vae_whose_output_layers_became_plain_is_another_one(vae, tmp_path):
    written(vae, replace(CONFIG, norm="weight"))
    agent(vae).save(tmp_path / "agent.zip")
    written(vae, replace(CONFIG, norm="weight", norm_heads=False))
    with pytest.raises(UsageError, match=r"another VAE .* now it has norm_heads False$"):
        PPO.load(tmp_path / "agent.zip", device="cpu")


def test_a_word_is_not_taken_for_frozen(vae):
    with pytest.raises(UsageError, match="frozen must be True or False, got 'no'"):
        VAEExtractor(FRAMES, vae, "no")


def test_undivided_observations_are_refused(vae):
    with pytest.raises(UsageError, match=r"x must be within \[0, 1\], .* to 255"):
        VAEExtractor(FRAMES, vae)(torch.full((2, 3, 64, 64), 255.0))


def test_images_of_another_shape_are_refused(vae):
    with pytest.raises(
        UsageError, match=r"images of shape \(3, 64, 64\).* got shape \(3, 84, 84\)"
    ):
        VAEExtractor(spaces.Box(0, 255, (3, 84, 84), np.uint8), vae)
    with pytest.raises(UsageError, match=r"got shape \(4, 64, 64\)"):
        VAEExtractor(spaces.Box(0, 255, (4, 64, 64), np.uint8), vae)


def test_a_folder_without_a_vae_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no trained VAE"):
        VAEExtractor(FRAMES, tmp_path / "nothing")
