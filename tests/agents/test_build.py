import dataclasses
from contextlib import closing

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import (
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
    VectorizedActionNoise,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import envs
from agents import AGENTS
from agents.config import ContinuousConfig, OffPolicyConfig
from wnrl.errors import UsageError
from wnrl.rl.environments import first_env_seed, vectorize, vectorize_for_evaluation
from wnrl.rl.evaluation import evaluate
from wnrl.rl.models import extractor, policy_name
from wnrl.rl.run import log_to
from wnrl.runs import EventFile
from wnrl.sb3.extractors import SmallCNN
from wnrl.sb3.parts import batch_norms

TINY_OFF_POLICY = {
    "learning_starts": 16,
    "buffer_size": 200,
    "batch_size": 8,
    "train_freq": 4,
    "gradient_steps": 2,
    "target_update_interval": 8,
}
TINY_ON_POLICY = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "n_critic_updates": 2}
TAXI = next(env_id for env_id in gym.registry if env_id.startswith("Taxi-"))
# Each algorithm in one environment that it can learn in.
TASKS = {
    algo: "Pendulum-v1" if issubclass(agent.config, ContinuousConfig) else "CartPole-v1"
    for algo, agent in AGENTS.items()
} | {"maskable_ppo": TAXI}
IMAGE_ALGOS = [algo for algo in AGENTS if algo != "crossq"]


def tiny(config, **changes):
    """``config`` with so few steps that it learns in a moment."""
    sizes = TINY_OFF_POLICY if isinstance(config, OffPolicyConfig) else TINY_ON_POLICY
    sizes = {name: size for name, size in sizes.items() if hasattr(config, name)}
    return dataclasses.replace(
        config, **{"n_envs": 2, "total_timesteps": 64, "net_arch": (16,), **sizes, **changes}
    )


def build(algo, env_id=None, norm="weight", seed=0, **changes):
    env_id = env_id or TASKS[algo]
    config = tiny(AGENTS[algo].preset(env_id), **changes)
    env = vectorize(envs.factory(env_id), config.n_envs, 0, config.normalize, config.gamma)
    return AGENTS[algo].build(config, env, norm, seed, "cpu")


@pytest.mark.parametrize(
    ("algo", "env_id"),
    [
        (algo, env_id)
        for algo, agent in AGENTS.items()
        for env_id in (key.replace("TMaze-*", "TMaze-v0") for key in agent.presets)
        if "*" not in env_id and "Lunar" not in env_id
    ],
)
def test_presets_train(algo, env_id):
    model = build(algo, env_id)
    before = model.policy.parameters_to_vector()
    model.learn(64)
    assert model.num_timesteps == 64
    after = model.policy.parameters_to_vector()
    assert np.isfinite(after).all()
    assert not np.array_equal(after, before)


@pytest.mark.parametrize("algo", AGENTS)
def test_the_norm_and_its_switches_reach_the_policy(algo):
    model = build(algo, norm="layer", norm_heads=True)
    assert model.policy.norm == "layer"
    assert model.policy.norm_heads
    assert any(isinstance(part, torch.nn.LayerNorm) for part in model.policy.modules())


@pytest.mark.parametrize("algo", [algo for algo in AGENTS if algo != "recurrent_ppo"])
def test_data_dependent_initialisation_reaches_the_policy(algo):
    assert build(algo, norm="none", data_init=32).policy.data_init == 32


@pytest.mark.parametrize("algo", AGENTS)
def test_each_run_owns_the_seeds_of_its_environments(algo):
    seen = build(algo, seed=3, normalize="none").env.reset()
    alone = gym.make(TASKS[algo])
    for k in range(2):
        np.testing.assert_array_equal(seen[k], alone.reset(seed=first_env_seed(3) + k)[0])


@pytest.mark.parametrize("algo", AGENTS)
def test_one_seed_gives_one_agent(algo):
    first, second = build(algo, seed=3).learn(32), build(algo, seed=3).learn(32)
    other = build(algo, seed=4).learn(32)
    vectors = [model.policy.parameters_to_vector() for model in (first, second, other)]
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert not np.array_equal(vectors[0], vectors[2])


@pytest.mark.parametrize("algo", AGENTS)
@pytest.mark.parametrize(("optimizer", "decay"), [("adamw", 0.1), ("adamw", 0), ("adamax", 0)])
def test_the_optimizer_is_the_chosen_one(algo, optimizer, decay):
    model = build(algo, norm="none", optimizer=optimizer, weight_decay=decay)
    owners = [part for part in model.policy.modules() if hasattr(part, "optimizer")]
    used = [owner.optimizer for owner in owners if owner.optimizer is not None]
    assert {type(o).__name__.lower() for o in used} == {optimizer}
    assert {o.param_groups[0]["weight_decay"] for o in used} == {decay}


@pytest.mark.parametrize("algo", AGENTS)
def test_arguments_of_the_optimizer_reach_it(algo):
    others = {"use_rms_prop": False} if algo == "a2c" else {}
    model = build(algo, optimizer_kwargs={"eps": 0.25}, **others)
    owners = [part for part in model.policy.modules() if hasattr(part, "optimizer")]
    used = [owner.optimizer for owner in owners if owner.optimizer is not None]
    assert {type(optimizer).__name__ for optimizer in used} == {"Adam"}
    assert {optimizer.param_groups[0]["eps"] for optimizer in used} == {0.25}


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_crossq_keeps_its_first_beta(optimizer):
    model = build("crossq", optimizer=optimizer)
    assert model.critic.optimizer.param_groups[0]["betas"] == (0.5, 0.999)


def test_every_hyperparameter_reaches_sb3():
    model = build("recurrent_ppo", "CartPoleNoVel-v1", "none", net_arch=(64,))
    assert (model.n_steps, model.batch_size, model.n_epochs) == (16, 16, 2)
    assert (model.gamma, model.gae_lambda, model.ent_coef) == (0.98, 0.8, 0.0)
    assert model.lr_schedule(0.5) == pytest.approx(5e-4)
    assert model.clip_range(0.5) == pytest.approx(0.1)
    assert model.policy.lstm_actor.hidden_size == 64
    assert model.policy.activation_fn is torch.nn.ReLU
    assert model.policy.net_arch == [64]
    assert model.get_vec_normalize_env().gamma == 0.98


def test_a_recurrent_policy_has_the_chosen_cell():
    model = build("recurrent_ppo", cell="gru", lstm_hidden_size=8).learn(32)
    assert type(model.policy).__name__ == "WNMlpGruPolicy"
    assert "GRU" in type(model.policy.lstm_actor).__name__


def test_dqn_explores_and_moves_its_target_in_environment_steps():
    model = build("dqn", exploration_fraction=0.5, exploration_final_eps=0.2)
    assert model.exploration_schedule(0.75) == pytest.approx(0.6)
    assert model.exploration_schedule(0.5) == pytest.approx(0.2)
    model.set_logger(Logger(None, []))
    moved = []
    target = model.q_net_target.state_dict()
    before = {name: value.clone() for name, value in target.items()}
    for _ in range(8 // model.n_envs):
        with torch.no_grad():
            next(model.q_net.parameters()).add_(1.0)
        model._on_step()
        moved.append(any(not torch.equal(before[name], target[name]) for name in target))
    assert moved == [False, False, False, True]


def test_minus_one_gradient_steps_are_as_many_as_steps_over_all_environments():
    model = build("dqn", gradient_steps=-1, n_envs=2, train_freq=4, total_timesteps=64)
    model.learn(64)
    # After the 16 steps of the start: six rollouts of 4 steps in 2 environments, less the first
    # one, which ends where learning_starts does.
    assert model._n_updates == 64 - 16


@pytest.mark.parametrize(
    ("noise_type", "kind"),
    [("normal", NormalActionNoise), ("ornstein-uhlenbeck", OrnsteinUhlenbeckActionNoise)],
)
def test_td3_explores_with_the_chosen_noise_in_each_environment(noise_type, kind):
    model = build("td3", noise_type=noise_type, noise_std=0.3)
    assert isinstance(model.action_noise, kind)
    np.testing.assert_array_equal(model.action_noise._sigma, [0.3])
    model.learn(8)
    assert isinstance(model.action_noise, VectorizedActionNoise)
    assert build("td3", noise_std=0.0).action_noise is None


def test_critics_can_be_larger_than_the_actor():
    model = build("sac", net_arch=(8,), critic_arch=(24, 24), n_critics=3)
    assert model.actor.latent_pi[0].out_features == 8
    assert len(model.critic.q_networks) == 3
    assert model.critic.q_networks[0][2].out_features == 24


@pytest.mark.parametrize("algo", ["sac", "tqc", "crossq", "ppo", "a2c", "trpo"])
def test_state_dependent_exploration_trains(algo):
    model = build(algo, "Pendulum-v1", use_sde=True, sde_sample_freq=4).learn(32)
    assert model.use_sde
    assert np.isfinite(model.policy.parameters_to_vector()).all()


def test_an_observation_kept_once_needs_half_the_memory():
    twice, once = (build("dqn", optimize_memory_usage=kept) for kept in (False, True))
    assert not hasattr(once.replay_buffer, "next_observations")
    assert hasattr(twice.replay_buffer, "next_observations")
    once.learn(64)


@pytest.mark.parametrize("algo", AGENTS)
def test_a_model_with_schedules_survives_saving(algo, tmp_path):
    model = build(algo, learning_rate=1e-3, learning_rate_schedule="linear").learn(32)
    model.save(tmp_path / "model.zip")
    again = type(model).load(tmp_path / "model.zip", device="cpu")
    assert again.lr_schedule(0.25) == pytest.approx(2.5e-4)
    np.testing.assert_array_equal(
        again.policy.parameters_to_vector(), model.policy.parameters_to_vector()
    )


def test_the_options_of_a_norm_reach_the_policy(tmp_path):
    model = build("ppo", norm="batch", norm_kwargs={"momentum": 0.3}, placement="post")
    assert {part.momentum for part in batch_norms(model.policy)} == {0.3}
    first, second = model.policy.mlp_extractor.policy_net
    assert isinstance(first, torch.nn.Linear)
    assert batch_norms(second)
    model.save(tmp_path / "model.zip")
    assert type(model).load(tmp_path / "model.zip", device="cpu").policy.placement == "post"


def test_crossq_has_one_place_for_its_normalizers():
    with pytest.raises(UsageError, match="placement must be 'pre' for CrossQ"):
        build("crossq", norm="batch_renorm", placement="post")


def test_an_episode_can_be_what_an_update_waits_for():
    model = build("sac", n_envs=1, train_freq=1, train_freq_unit="episode", gradient_steps=-1)
    model.learn(250)
    assert model.num_timesteps == 400  # two of Pendulum's episodes
    assert model._n_updates == 400


def test_a_masked_agent_never_takes_an_action_that_is_ruled_out():
    make = envs.factory(TAXI, max_episode_steps=30)
    config = tiny(AGENTS["maskable_ppo"].preset(TAXI))
    model = AGENTS["maskable_ppo"].build(config, vectorize(make, 2, 0), "weight", 0, "cpu")
    taken = []

    def watch(env):
        def step(action):
            taken.append(bool(env.get_wrapper_attr("action_masks")()[action]))
            return type(env).step(env, action)

        env.step = step

    for env in model.env.unwrapped.envs:
        watch(env)
    model.learn(64)
    with closing(vectorize_for_evaluation(make, 2, model.env)) as evaluation:
        for env in evaluation.unwrapped.envs:
            watch(env)
        evaluate(model, evaluation, 2, seed=0)
    assert len(taken) >= 64 + 60
    assert all(taken)


def test_a_masked_agent_needs_masks():
    with pytest.raises(UsageError, match="MaskablePPO needs an environment with a method action_m"):
        build("maskable_ppo", "CartPole-v1")


def test_events_land_in_the_file_itself(tmp_path):
    model = build("recurrent_ppo", "CartPoleNoVel-v1")
    log_to(model, EventFile(tmp_path))
    model.learn(64)
    (path,) = tmp_path.rglob("*")
    assert "train/loss" in EventAccumulator(str(path)).Reload().Tags()["scalars"]


@pytest.mark.parametrize(
    ("space", "name"),
    [
        (spaces.Box(-1, 1, (3,)), "WNMlpPolicy"),
        (spaces.Discrete(3), "WNMlpPolicy"),
        (spaces.Box(0, 255, (40, 40, 3), np.uint8), "WNCnnPolicy"),
        (spaces.Dict({"a": spaces.Discrete(2)}), "WNMultiInputPolicy"),
    ],
)
def test_the_policy_fits_the_observations(space, name):
    assert policy_name(space) == name
    assert policy_name(space, "Gru") == name.replace("Policy", "GruPolicy")


@pytest.mark.parametrize(
    ("shape", "small"),
    [((36, 36, 1), False), ((35, 36, 1), True), ((4, 10, 10), True), ((3, 64, 64), False)],
)
def test_images_too_small_for_sb3s_convolutions_have_smaller_ones(shape, small):
    space = spaces.Box(0, 255, shape, np.uint8)
    assert extractor(space) == ({"features_extractor_class": SmallCNN} if small else {})
    assert extractor(spaces.Box(-1, 1, shape)) == {}


BOX, CHOICE = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)
PICTURE = spaces.Box(0, 255, (36, 36, 1), np.uint8)


class Masked(gym.Env):
    """Has spaces, and masks, and is never played."""

    def __init__(self, seen, acted):
        self.observation_space, self.action_space = seen, acted

    def action_masks(self):
        return np.ones(2, bool)


@pytest.mark.parametrize(
    ("algo", "seen", "acted", "changes", "message"),
    [
        ("ppo", spaces.Text(4), CHOICE, {}, r"must be Box or discrete, .* got Text\(1, 4"),
        ("ppo", spaces.Tuple([BOX]), CHOICE, {}, "observations must be Box or discrete"),
        (
            "ppo",
            spaces.Dict(a=BOX, b=spaces.Sequence(BOX)),
            CHOICE,
            {},
            "discrete, .* got Seq",
        ),
        ("ppo", spaces.Box(-1, 1, (0,)), CHOICE, {}, r"must hold a number or more, got Box\("),
        ("ppo", spaces.Dict(a=spaces.Discrete(3, start=1)), CHOICE, {}, "observations must count"),
        ("recurrent_ppo", BOX, BOX, {"shared_lstm": True}, "You must choose between shared LSTM"),
        ("dqn", BOX, CHOICE, {"optimize_memory_usage": True, "n_steps": 3}, "doesn't support"),
        (
            "dqn",
            CHOICE,
            CHOICE,
            {"normalize": "reward"},
            "'reward' with a replay buffer is not for D",
        ),
        ("ppo", BOX, spaces.Discrete(2, start=1), {}, "actions must count from 0, got Discrete"),
        ("a2c", BOX, spaces.MultiDiscrete([2, 2], start=[0, -1]), {}, "actions must count from 0"),
        *((a, BOX, spaces.Dict({"a": CHOICE}), {}, "only supports .* as action") for a in AGENTS),
        *((a, BOX, BOX, {}, "only supports .*Discrete") for a in ("dqn", "qrdqn")),
        *((a, BOX, CHOICE, {}, "only supports .*Box") for a in ("sac", "td3", "tqc", "crossq")),
        *(
            (a, CHOICE, CHOICE, {"use_sde": True}, "be used with continuous actions")
            for a in ("ppo", "a2c", "trpo", "recurrent_ppo")
        ),
        ("sac", BOX, spaces.Box(-np.inf, np.inf, (2,)), {}, "must have a finite lower and upper"),
        ("ppo", spaces.Box(-1, 1, ()), BOX, {}, "observations must hold a number or more"),
        ("ppo", spaces.Box(-1, 1, (0,)), BOX, {}, "observations must hold a number or more"),
        ("ppo", BOX, spaces.Box(-1, 1, (0,)), {}, "actions must hold a number or more"),
        ("crossq", PICTURE, BOX, {}, "CrossQ has no policy for observations like Box"),
        ("crossq", spaces.Dict({"a": BOX}), BOX, {}, "CrossQ has no policy for observations"),
        ("sac", spaces.Dict({"a": BOX}), BOX, {"n_steps": 3}, "N-step returns are not supported"),
        (
            "dqn",
            spaces.Dict({"a": BOX}),
            CHOICE,
            {"optimize_memory_usage": True},
            "does not support optimize_memory_usage",
        ),
        (
            "ppo",
            spaces.Dict({"a": spaces.Box(0, 255, (10, 10, 3), np.uint8)}),
            BOX,
            {},
            "Kernel size can't be greater than actual input size",
        ),
    ],
)
def test_an_environment_that_does_not_fit_is_refused_in_one_line(
    algo, seen, acted, changes, message
):
    config = AGENTS[algo].config(**{"n_envs": 2, **changes})

    def build_there():
        env = vectorize(lambda: Masked(seen, acted), 2, 0)
        AGENTS[algo].build(config, env, "weight", 0, "cpu")

    with pytest.raises(UsageError, match=message) as refused:
        build_there()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("algo", AGENTS)
def test_an_unknown_norm_is_refused(algo):
    with pytest.raises(UsageError, match=r"norm must be one of .* did you mean 'weight'"):
        build(algo, norm="weigth")


class Picture(gym.Env):
    """Three steps of noise in channel-last pictures, or a Dict with one."""

    def __init__(self, actions, side=36, in_dict=False):
        self.in_dict, self.side = in_dict, side
        picture = spaces.Box(0, 255, (side, side, 1), np.uint8)
        self.observation_space = spaces.Dict({"p": picture, "x": BOX}) if in_dict else picture
        self.action_space = actions

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 3
        return self.seen(), {}

    def step(self, action):
        self.left -= 1
        return self.seen(), 1.0, self.left == 0, False, {}

    def action_masks(self):
        return np.ones(2, bool)

    def seen(self):
        picture = self.np_random.integers(0, 256, (self.side, self.side, 1), np.uint8)
        return {"p": picture, "x": np.zeros(2, np.float32)} if self.in_dict else picture


@pytest.mark.parametrize(("side", "in_dict"), [(36, False), (10, False), (36, True)])
@pytest.mark.parametrize("algo", IMAGE_ALGOS)
def test_agents_of_pictures_train_and_are_evaluated(algo, side, in_dict):
    config = tiny(AGENTS[algo].config(), normalize="both")
    actions = BOX if issubclass(type(config), ContinuousConfig) else CHOICE

    def picture():
        return Picture(actions, side, in_dict)

    env = vectorize(picture, 2, 0, config.normalize)
    model = AGENTS[algo].build(config, env, "weight", 0, "cpu").learn(32)
    with closing(vectorize_for_evaluation(picture, 2, model.env)) as env:
        assert env.observation_space == model.observation_space
        returns, lengths = evaluate(model, env, 3, seed=1)
    assert returns == [3.0] * 3
    assert lengths == [3] * 3
