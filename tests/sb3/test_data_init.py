import copy
import pickle
import threading
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import FlattenExtractor

import wnrl.sb3  # noqa: F401 (registers the names of the policies)
from wnrl import NORMS
from wnrl.errors import UsageError

ROLLOUT = {"n_steps": 32, "batch_size": 16, "n_epochs": 1}
REPLAY = {"learning_starts": 40, "batch_size": 32, "train_freq": 4, "buffer_size": 200}
ARGUMENTS = {
    PPO: ROLLOUT,
    MaskablePPO: ROLLOUT,
    A2C: {"n_steps": 32},
    TRPO: {"n_steps": 32, "batch_size": 16},
    DQN: REPLAY,
    QRDQN: REPLAY,
    SAC: REPLAY,
    TD3: REPLAY,
    TQC: REPLAY,
    CrossQ: REPLAY,
}
ON_POLICY = (PPO, MaskablePPO, A2C, TRPO)
OFF_POLICY = (DQN, QRDQN, SAC, TD3, TQC, CrossQ)
CONTINUOUS = (SAC, TD3, TQC, CrossQ)


class Drifting(gym.Env):
    """Observations far from standardised; episodes of seven steps."""

    observation_space = spaces.Box(-100.0, 100.0, (5,))

    def __init__(self, continuous=False):
        self.action_space = spaces.Box(-1.0, 1.0, (2,)) if continuous else spaces.Discrete(2)

    def _obs(self):
        scale = np.array([0.01, 1.0, 5.0, 10.0, 20.0])
        return (3 * scale + scale * self.np_random.normal(size=5)).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        return self._obs(), 1.0, self.t == 7, False, {}

    def action_masks(self):
        return np.ones(2, dtype=bool)


def make(algorithm, *, data_init=32, **policy_kwargs):
    return algorithm(
        "WNMlpPolicy", Drifting(continuous=algorithm in CONTINUOUS), seed=0, device="cpu",
        policy_kwargs={"net_arch": [16, 16], "data_init": data_init, **policy_kwargs},
        **ARGUMENTS[algorithm],
    )  # fmt: skip


def outputs(policy, obs):
    """Pre-activations of the first layers that look at ``obs`` alone, ``(B, units)``."""
    names = {
        "mlp_extractor.policy_net.0", "mlp_extractor.value_net.0", "q_net.q_net.0",
        "quantile_net.quantile_net.0", "actor.latent_pi.0", "actor.mu.0",
    }  # fmt: skip
    with torch.no_grad():
        return {n: layer(obs) for n, layer in policy.named_modules() if n in names}


def is_standardised(out):
    mean, std = out.mean(0), out.std(0, correction=0)
    return torch.allclose(mean, torch.zeros(16), atol=1e-4) and torch.allclose(
        std, torch.ones(16), atol=1e-4
    )


@pytest.mark.parametrize("algorithm", ON_POLICY)
def test_on_policy_networks_are_standardised_on_the_first_rollout_before_the_first_update(
    algorithm,
):
    model = make(algorithm)
    states = []

    class AtRolloutEnd(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            obs = torch.as_tensor(model.rollout_buffer.observations).flatten(0, 1)
            twin = copy.deepcopy(model.policy)
            twin.set_training_mode(True)  # as train() begins
            states.append((outputs(model.policy, obs), outputs(twin, obs)))

    model.learn(32, AtRolloutEnd())
    before, after = states[0]
    assert after.keys() == {"mlp_extractor.policy_net.0", "mlp_extractor.value_net.0"}
    assert not any(is_standardised(out) for out in before.values())
    assert all(is_standardised(out) for out in after.values())


def with_first_batch(algorithm, **others):
    """A model after its first update, at a learning rate of zero, and what it learnt from."""
    model = make(algorithm, **others)
    model.lr_schedule = lambda _: 0.0  # so that the networks stay what they were initialised to
    batches, sample = [], model.replay_buffer.sample

    def spy(*args, **kwargs):
        batches.append(sample(*args, **kwargs))
        return batches[-1]

    model.replay_buffer.sample = spy
    model.learn(44)
    first = "observations" if algorithm in (SAC, TQC) else "next_observations"
    return model, getattr(batches[0], first)


class Walk(Drifting):
    """What is observed goes one way: the first steps of an episode are nothing like the last."""

    def _obs(self):
        return (self.t + self.np_random.normal(size=5)).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        return obs, reward, False, self.t == 100, info


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_what_a_policy_is_initialised_on_is_a_random_draw_of_the_rollout(algorithm):
    env = make_vec_env(Walk, n_envs=2, seed=0)
    model = algorithm(
        "WNMlpPolicy", env, n_steps=96, learning_rate=0.0, seed=0, device="cpu",
        policy_kwargs={"net_arch": [16], "data_init": 40},
    )  # fmt: skip
    model.learn(192)
    obs = torch.as_tensor(model.rollout_buffer.observations).reshape(-1, 5)
    for out in outputs(model.policy, obs).values():  # its first 20 steps have a fifth of the spread
        assert out.mean(0).abs().max() < 0.5
        assert (out.std(0) - 1).abs().max() < 0.25


@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_off_policy_networks_are_standardised_on_the_first_batch_before_it_is_learnt_from(
    algorithm,
):
    model, obs = with_first_batch(algorithm)
    (first,) = outputs(model.policy, obs).values()
    assert is_standardised(first)


@pytest.mark.parametrize("algorithm", [DQN, QRDQN, SAC, TD3, TQC])
def test_targets_are_loaded_again(algorithm):
    policy = with_first_batch(algorithm)[0].policy
    targets = [name for name, _ in policy.named_children() if name.endswith("_target")]
    assert targets
    for name in targets:
        online = getattr(policy, name.removesuffix("_target")).state_dict()
        for key, value in getattr(policy, name).state_dict().items():
            torch.testing.assert_close(value, online[key])


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_is_initialised_and_trains_with_the_parameters_its_optimizer_has(norm):
    for algorithm in (PPO, DQN, SAC):
        model = make(algorithm, norm=norm)
        parameters = {id(p) for p in model.policy.parameters()}
        model.learn(64)
        assert parameters == {id(p) for p in model.policy.parameters()}
        assert model.policy.data_initialised
        assert model.policy.data_init_report.initialised
        assert all(p.isfinite().all() for p in model.policy.parameters())


def test_the_number_of_observations_is_the_one_asked_for():
    model, obs = with_first_batch(DQN, data_init=20)
    (first,) = outputs(model.policy, obs[:20]).values()
    assert is_standardised(first)


@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_output_heads_keep_their_initialisation(algorithm):
    heads = {}
    for count in (None, 16):
        model = make(algorithm, data_init=count, norm_heads=True)
        model.lr_schedule = lambda _: 0.0
        model.learn(64)
        heads[count] = {
            name: value.clone()
            for name, value in model.policy.state_dict().items()
            if name.startswith(("action_net", "value_net", "q_net.q_net.4"))
        }
    assert heads[None]
    for name, value in heads[None].items():
        assert torch.equal(heads[16][name], value)


class Ratios(BaseCallback):
    """How far the policy that is about to learn is from the stored log-probabilities."""

    def __init__(self):
        super().__init__()
        self.largest = []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        policy = copy.deepcopy(self.model.policy)
        policy.set_training_mode(True)
        buffer = copy.deepcopy(self.model.rollout_buffer)
        for batch in buffer.get(batch_size=None):
            with torch.no_grad():
                log_prob = policy.evaluate_actions(batch.observations, batch.actions.flatten())[1]
            self.largest.append((log_prob - batch.old_log_prob).abs().max().item())


@pytest.mark.parametrize("algorithm", [PPO, MaskablePPO, A2C])
def test_learning_starts_from_log_probabilities_that_agree_with_the_stored_ones(algorithm):
    model = make(algorithm, ortho_init=False)  # no gain of 0.01 hides the difference
    obs = torch.as_tensor(np.stack([model.env.reset()[0] for _ in range(4)]))
    untouched = copy.deepcopy(model.policy)
    ratios = Ratios()
    model.learn(64, ratios)
    assert max(ratios.largest) < 1e-5
    fresh = make(algorithm, ortho_init=False)
    fresh.lr_schedule = lambda _: 0.0
    fresh.learn(32)
    difference = fresh.policy.get_distribution(obs).distribution.logits - (
        untouched.get_distribution(obs).distribution.logits
    )
    assert difference.abs().max() > 0.01  # the initialisation did change what the policy does


def test_gradients_of_the_first_update_are_those_of_the_initialised_policy():
    model = make(PPO, ortho_init=False, data_init=8)
    policy = model.policy
    policy.set_training_mode(False)
    obs = torch.as_tensor(np.stack([model.env.reset()[0] for _ in range(8)]))
    with torch.no_grad():
        actions, _, stored = policy(obs)
    policy.set_training_mode(True)
    _, log_prob, _ = policy.evaluate_actions(obs, actions)
    torch.testing.assert_close(log_prob, stored)
    shifted = torch.autograd.grad(log_prob.sum(), policy.action_net.weight)[0]
    plain = policy.get_distribution(obs).log_prob(actions)
    assert not torch.allclose(plain, stored)
    torch.testing.assert_close(
        shifted, torch.autograd.grad(plain.sum(), policy.action_net.weight)[0]
    )
    policy.set_training_mode(False)
    policy.set_training_mode(True)
    torch.testing.assert_close(policy.evaluate_actions(obs, actions)[1], plain)


@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_it_happens_once_and_is_not_repeated_after_loading(tmp_path, algorithm):
    model = make(algorithm).learn(64)
    report = model.policy.data_init_report
    model.learn(32, reset_num_timesteps=False)
    assert model.policy.data_init_report is report
    model.save(tmp_path / "model")
    again = algorithm.load(tmp_path / "model", env=Drifting(), device="cpu")
    again.learn(64, reset_num_timesteps=False)
    assert not hasattr(again.policy, "data_init_report")
    model.policy.save(tmp_path / "policy.pt")
    policy = type(model.policy).load(tmp_path / "policy.pt", device="cpu")
    assert policy.data_init == 32
    assert policy.data_initialised


@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_a_model_saved_before_its_first_update_is_initialised_after_loading(tmp_path, algorithm):
    make(algorithm).save(tmp_path / "model")
    again = algorithm.load(tmp_path / "model", env=Drifting(), device="cpu")
    assert not again.policy.data_initialised
    again.learn(64)
    assert again.policy.data_initialised


def test_two_runs_with_one_seed_are_equal():
    for algorithm in (PPO, SAC):
        first, second = (make(algorithm).learn(64).policy.state_dict() for _ in range(2))
        assert all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize("way", [copy.deepcopy, lambda policy: pickle.loads(pickle.dumps(policy))])
@pytest.mark.parametrize("training", [False, True])
def test_a_policy_that_waits_for_its_first_batch_can_be_copied(way, training):
    policy = make(DQN).policy
    policy.set_training_mode(training)
    twin = way(policy)
    twin.set_training_mode(True)
    twin.q_net(torch.randn(32, 5))
    assert twin.data_initialised
    assert not policy.data_initialised


def test_dict_and_image_observations_are_seen_as_the_networks_see_them():
    space = spaces.Dict(
        {"vector": spaces.Box(-1.0, 1.0, (3,)), "image": spaces.Box(0, 255, (1, 36, 36), np.uint8)}
    )

    class Task(Drifting):
        observation_space = space

        def _obs(self):
            return self.observation_space.sample()

    for algorithm in (PPO, DQN):
        model = algorithm(
            "WNMultiInputPolicy", Task(), device="cpu", **ARGUMENTS[algorithm],
            policy_kwargs={"data_init": 16, "net_arch": [8]},
        ).learn(64)  # fmt: skip
        names = model.policy.data_init_report.initialised
        assert any("features_extractor.extractors.image.cnn.0" in name for name in names)


class Images(Drifting):
    observation_space = spaces.Box(0, 255, (1, 36, 36), np.uint8)

    def _obs(self):
        return self.observation_space.sample()


class Locked(FlattenExtractor):
    """A features extractor that cannot be copied."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.lock = threading.Lock()


def test_a_policy_that_cannot_be_copied_is_initialised():
    kwargs = {"data_init": 32, "features_extractor_class": Locked}
    model = PPO("WNMlpPolicy", "CartPole-v1", device="cpu", **ROLLOUT, policy_kwargs=kwargs)
    assert model.learn(32).policy.data_initialised


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("algorithm", [PPO, MaskablePPO, A2C, TRPO, RecurrentPPO])
def test_features_extractors_learn_after_it_whether_they_are_shared_or_not(algorithm, share):
    recurrent = algorithm is RecurrentPPO
    model = algorithm(
        "WNCnnLstmPolicy" if recurrent else "WNCnnPolicy", Images(), device="cpu", seed=0,
        **ARGUMENTS.get(algorithm, ROLLOUT),
        policy_kwargs={
            "share_features_extractor": share,
            "features_extractor_kwargs": {"features_dim": 8},
            "data_init": 32,
            **({"lstm_hidden_size": 8} if recurrent else {}),
        },
    )  # fmt: skip
    policy = model.policy
    created = dict(policy.named_parameters())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "data_init left layers as they were: .*lstm")
        model.learn(32)
    assert policy.data_initialised
    # The very tensors, since the optimizer has them, and with gradients of the first update.
    assert all(p is created[name] for name, p in policy.named_parameters())
    moved = {name: p.clone() for name, p in policy.named_parameters()}
    model.learn(32, reset_num_timesteps=False)
    still = [name for name, p in policy.named_parameters() if torch.equal(p, moved[name])]
    assert still == []


@pytest.mark.parametrize("norm", ["none", "weight", "layer"])
def test_layers_that_were_frozen_stay_as_they_are_and_are_named(norm):
    model = make(DQN, norm=norm)
    first, second = model.policy.q_net.q_net[0], model.policy.q_net.q_net[2]
    first.requires_grad_(False)
    before = [copy.deepcopy(layer.state_dict()) for layer in (first, second)]
    with pytest.warns(UserWarning, match=r"data_init left .*: is frozen"):
        model.learn(44)
    assert model.policy.data_initialised
    assert all(torch.equal(first.state_dict()[key], value) for key, value in before[0].items())
    assert any(not torch.equal(second.state_dict()[key], v) for key, v in before[1].items())


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_networks_that_were_trained_before_are_not_initialised(algorithm):
    model = make(algorithm)
    part = getattr(model.policy, "actor", model.policy)
    loss = sum(parameter.square().sum() for parameter in part.parameters())
    loss.backward()
    with pytest.warns(UserWarning, match="data_init=32 is left out: the networks were trained"):
        part.optimizer.step()
    assert model.policy.data_initialised  # in what is saved, too
    model.learn(64)
    assert not hasattr(model.policy, "data_init_report")


def test_too_few_observations_are_told_and_used():
    with pytest.warns(UserWarning, match=r"data_init=64, but the first training batch has 32 obs"):
        make(DQN, data_init=64).learn(44)
    with pytest.warns(UserWarning, match=r"data_init=64, but the first rollout has 32 obs"):
        model = make(PPO, data_init=64).learn(32)
    assert model.policy.data_initialised


def test_one_observation_is_refused():
    model = PPO(
        "WNMlpPolicy", Drifting(), n_steps=2, batch_size=2, device="cpu",
        policy_kwargs={"data_init": 8},
    )  # fmt: skip
    model.policy.set_training_mode(False)
    with torch.no_grad():
        model.policy(torch.zeros(1, 5))
    with pytest.raises(UsageError, match="needs two observations, the first rollout has 1"):
        model.policy.set_training_mode(True)


@pytest.mark.parametrize("wrong", [1, 0, -3, 2.5, True, "64"])
def test_a_number_that_makes_no_sense_is_refused_at_construction(wrong):
    with pytest.raises(UsageError, match=f"data_init must be .* got {wrong!r}"):
        make(PPO, data_init=wrong)


def test_recurrent_policies_initialise_their_features_extractor_and_say_what_they_leave():
    model = RecurrentPPO(
        "WNCnnLstmPolicy", Images(), n_steps=16, batch_size=16, device="cpu",
        policy_kwargs={"data_init": 16, "lstm_hidden_size": 8},
    )  # fmt: skip
    with pytest.warns(UserWarning, match=r"left layers as they were: .*lstm_actor: "):
        model.learn(16)
    report = model.policy.data_init_report
    assert report.initialised == [
        f"features_extractor.{n}" for n in ("cnn.0", "cnn.2", "cnn.4", "linear.0")
    ]
    assert {"lstm_actor", "lstm_critic"} <= report.skipped.keys()


def test_networks_without_hidden_layers_refuse_it_at_construction():
    with pytest.raises(UsageError, match="data_init=8 has no hidden layer to initialise in WNMlpL"):
        RecurrentPPO("WNMlpLstmPolicy", Drifting(), device="cpu", policy_kwargs={"data_init": 8})
    with pytest.raises(UsageError, match="no hidden layer"):
        make(DQN, net_arch=[], norm="weight")
