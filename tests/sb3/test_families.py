"""What holds for every policy of PPO, A2C, TRPO, MaskablePPO, DQN and QRDQN under every norm."""

import copy
import functools
import pickle

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, TRPO, CrossQ, MaskablePPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

import wnrl.sb3 as wn
from tests.sb3.tasks import SPACES, VECTOR, RandomTask, outputs, sample
from wnrl import NORMS, WNConv2d, WNLinear
from wnrl.errors import UsageError
from wnrl.optim import WNAdam
from wnrl.sb3.common import use_fused

PAIRED = [name for name, norm in NORMS.items() if norm.paired]
REPLAY = {
    "learning_starts": 8, "batch_size": 8, "buffer_size": 200, "train_freq": 4,
    "target_update_interval": 16,
}  # fmt: skip
ALGORITHMS = {
    "PPO": (PPO, {"n_steps": 16, "batch_size": 16, "n_epochs": 2}),
    "A2C": (A2C, {"n_steps": 8}),
    "TRPO": (TRPO, {"n_steps": 16, "batch_size": 16, "n_critic_updates": 2}),
    "MaskablePPO": (MaskablePPO, {"n_steps": 16, "batch_size": 16, "n_epochs": 2}),
    "DQN": (DQN, REPLAY),
    "QRDQN": (QRDQN, REPLAY),
}
OFF_POLICY = ["DQN", "QRDQN"]
KINDS = list(SPACES)
EVERY = [(name, kind) for name in ALGORITHMS for kind in KINDS]
FAMILIES = [(name, kind) for name, kind in EVERY if kind == "Mlp" or name in ("PPO", "DQN")]


def make(name, kind="Mlp", env=None, *, stock=False, others=None, **policy_kwargs):
    algorithm, arguments = ALGORITHMS[name]
    extra = {"n_quantiles": 5} if name == "QRDQN" else {}
    return algorithm(
        f"{kind}Policy" if stock else f"WN{kind}Policy", env or RandomTask(SPACES[kind]), seed=0,
        device="cpu", policy_kwargs={"net_arch": [8, 8], **extra, **policy_kwargs},
        **{**arguments, **(others or {})},
    )  # fmt: skip


@functools.cache
def trained(name, norm, kind="Mlp"):
    """A model that has learnt for a while, and its parameters before."""
    model = make(name, kind, norm=norm)
    before = {key: p.detach().clone() for key, p in model.policy.named_parameters()}
    return model.learn(32), before


def updated(model, seed=1):
    """The parameters of ``model`` after one more update from what it has collected."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (what SB3's buffers draw from)
    if hasattr(model, "replay_buffer"):
        model.train(gradient_steps=2, batch_size=8)
    else:
        model.train()
    return dict(model.policy.named_parameters())


@pytest.mark.parametrize("norm", PAIRED)
@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_paired_norms_start_as_the_same_function_as_stock_at_the_same_seed(name, kind, norm):
    stock = make(name, kind, stock=True).policy
    ours = make(name, kind, norm=norm).policy
    obs = sample(SPACES[kind])
    for expected, actual in zip(outputs(stock, obs), outputs(ours, obs), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_an_activation_that_draws_numbers_leaves_the_start_as_stock_has_it():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.Parameter(torch.rand(()))

        def forward(self, x):
            return torch.tanh(x) * self.gate

    stock, ours = (
        SAC(policy, "Pendulum-v1", seed=0, policy_kwargs={"net_arch": [8], "activation_fn": Gated})
        for policy in ("MlpPolicy", "WNMlpPolicy")
    )
    obs, actions = torch.randn(4, 3), torch.rand(4, 1)
    for theirs, mine in zip(stock.critic(obs, actions), ours.critic(obs, actions), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_norm_none_learns_the_very_parameters_that_stock_learns(name):
    model = make(name, stock=True)
    use_fused(model.policy.optimizer)  # as ours, which differs from the loop in the last digits
    stock = model.learn(64).policy.state_dict()
    ours = make(name, norm="none").learn(64).policy.state_dict()
    assert stock.keys() == ours.keys()
    for key, value in stock.items():
        assert torch.equal(ours[key], value)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("name", "kind"), FAMILIES)
def test_every_trained_parameter_is_in_the_optimizer_once_and_moves(name, kind, norm):
    model, before = trained(name, norm, kind)
    policy = model.policy
    held = [p for group in policy.optimizer.param_groups for p in group["params"]]
    names = {id(p): key for key, p in policy.named_parameters() if "_target" not in key}
    assert sorted(id(p) for p in held) == sorted(names)
    parameters = dict(policy.named_parameters())
    still = [key for key in names.values() if torch.equal(parameters[key], before[key])]
    assert still == []


@pytest.mark.parametrize(("name", "kind", "layer"), [
    *((name, "Mlp", WNLinear) for name in ALGORITHMS), ("DQN", "Cnn", WNConv2d),
])  # fmt: skip
def test_weight_is_the_norm_of_the_named_policies_unless_said_otherwise(name, kind, layer):
    policy = make(name, kind).policy
    assert policy.norm == "weight"
    assert any(isinstance(module, layer) for module in policy.modules())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_saved_agent_acts_the_same_and_its_next_update_is_the_same(tmp_path, name, norm):
    model = trained(name, norm)[0]
    model.save(tmp_path / "model")
    again = type(model).load(tmp_path / "model", env=RandomTask(), device="cpu")
    assert again.policy.norm == norm
    obs = sample(VECTOR)
    for expected, actual in zip(
        outputs(model.policy, obs), outputs(again.policy, obs), strict=True
    ):
        assert torch.equal(actual, expected)
    twin = copy.deepcopy(model)  # others use the cached model
    buffer = "replay_buffer" if name in OFF_POLICY else "rollout_buffer"
    setattr(again, buffer, copy.deepcopy(getattr(model, buffer)))
    again.set_logger(model.logger)
    expected, actual = updated(twin), updated(again)
    for key, value in expected.items():
        assert torch.equal(actual[key], value), key
    again.learn(32, reset_num_timesteps=False)
    assert again.num_timesteps == 64


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_copies_of_a_trained_policy_are_equal_and_train_on(name, norm):
    model = trained(name, norm)[0]
    obs = sample(VECTOR)
    for way in (copy.deepcopy, lambda policy: pickle.loads(pickle.dumps(policy))):
        policy = way(model.policy)
        for expected, actual in zip(outputs(model.policy, obs), outputs(policy, obs), strict=True):
            assert torch.equal(actual, expected)
        held = {id(p) for group in policy.optimizer.param_groups for p in group["params"]}
        assert held <= {id(p) for p in policy.parameters()}
        for parameter in policy.parameters():
            parameter.grad = torch.ones_like(parameter)
        policy.optimizer.step()
        for layer in policy.modules():
            if getattr(layer, "projected", False) and layer.weight.grad is not None:
                torch.testing.assert_close(layer.weight.norm(dim=1), torch.ones(8))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_policy_save_and_load_keep_every_argument(tmp_path, name):
    arguments = {
        "net_arch": [7, 5],
        "activation_fn": torch.nn.ELU,
        "norm": "batch",
        "norm_kwargs": {"eps": 1e-3},
        "norm_heads": True,
        "data_init": 4,
        "optimizer_class": torch.optim.SGD,
        "optimizer_kwargs": {"momentum": 0.5},
    }
    if name not in OFF_POLICY:
        arguments |= {"share_features_extractor": False, "ortho_init": False}
    policy = make(name, **arguments).policy
    policy.save(tmp_path / "policy.pt")
    again = type(policy).load(tmp_path / "policy.pt", device="cpu")
    kept = again._get_constructor_parameters()
    assert {key: kept[key] for key in arguments} == arguments
    obs = sample(VECTOR)
    for expected, actual in zip(outputs(policy, obs), outputs(again, obs), strict=True):
        assert torch.equal(actual, expected)


LOAD = """
import sys, warnings
import numpy as np, stable_baselines3, sb3_contrib
warnings.simplefilter("error")
import wnrl.sb3
for name in sys.argv[2:]:
    algorithm = getattr(stable_baselines3, name, None) or getattr(sb3_contrib, name)
    model = algorithm.load(f"{sys.argv[1]}/{name}", device="cpu")
    actions, _ = model.predict(np.load(f"{sys.argv[1]}/obs.npy"), deterministic=True)
    print(name, *actions)
"""


def test_saved_models_load_in_a_fresh_process_that_imports_wnrl_sb3_alone(fresh, tmp_path):
    obs = sample(VECTOR, n=16)
    np.save(tmp_path / "obs.npy", obs)
    expected = ""
    for name in ALGORITHMS:
        model = trained(name, "weight")[0]
        model.save(tmp_path / name)
        expected += " ".join([name, *map(str, model.predict(obs, deterministic=True)[0])]) + "\n"
    assert fresh(LOAD, tmp_path, *ALGORITHMS) == expected


@pytest.mark.parametrize("norm", ["weight", "projected", "batch"])
@pytest.mark.parametrize("name", ["PPO", "DQN"])
def test_fused_optimizers_learn_what_the_others_learn(name, norm):
    learnt = [
        make(name, norm=norm, optimizer_kwargs={"eps": 1e-5, "fused": fused}).learn(48).policy
        for fused in (False, True)
    ]
    expected, actual = (policy.state_dict() for policy in learnt)
    assert learnt[1].optimizer.param_groups[0]["fused"]
    for key, value in expected.items():
        torch.testing.assert_close(actual[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", [RMSpropTFLike, torch.optim.Adamax, torch.optim.SGD])
@pytest.mark.parametrize("name", ["A2C", "DQN"])
def test_projected_rows_stay_on_the_sphere_under_any_optimizer(name, optimizer):
    policy = make(name, norm="projected", optimizer_class=optimizer).learn(32).policy
    layers = [m for m in policy.modules() if getattr(m, "projected", False)]
    assert len(layers) == 4
    for layer in layers:
        torch.testing.assert_close(layer.weight.norm(dim=1), torch.ones(8))


def test_a2c_keeps_its_own_optimizer_under_every_norm():
    for norm in NORMS:
        policy = trained("A2C", norm)[0].policy
        assert type(policy.optimizer) is torch.optim.RMSprop
        assert policy.optimizer.param_groups[0]["eps"] == 1e-5


@pytest.mark.parametrize("name", ["PPO", "A2C", "DQN"])
def test_optimizer_side_weight_norm_trains_a_plain_policy(name):
    model = make(name, norm="none", optimizer_class=WNAdam).learn(32)
    assert isinstance(model.policy.optimizer, WNAdam)
    state = model.policy.optimizer.state_dict()["state"]
    assert any("v" in moments for moments in state.values())


@pytest.mark.parametrize("norm", ["weight", "weight_mean"])
def test_an_optimizer_that_would_normalise_v_again_is_refused(norm):
    with pytest.raises(UsageError, match=r"v and g already, which WNAdam would .* norm='none'"):
        make("PPO", norm=norm, optimizer_class=WNAdam)


@pytest.mark.parametrize("norm", NORMS)
def test_state_dependent_exploration_trains(norm):
    env = RandomTask(action_space=spaces.Box(-1.0, 1.0, (2,)))
    sde = {"use_sde": True, "sde_sample_freq": 4}
    for name in ("PPO", "A2C"):
        model = make(name, env=env, others=sde, norm=norm, squash_output=True, full_std=False)
        before = model.policy.log_std.detach().clone()
        model.learn(32)
        assert not torch.equal(model.policy.log_std, before)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", ["PPO", "A2C", "TRPO", "MaskablePPO"])
def test_features_extractors_are_shared_or_not_as_asked(name, shared):
    policy = make(name, "Cnn", share_features_extractor=shared).learn(16).policy
    assert (policy.pi_features_extractor is policy.vf_features_extractor) == shared
    assert isinstance(policy.vf_features_extractor.cnn[0], WNConv2d)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_normalised_environments_are_learnt_from_and_saved_with_their_agent(tmp_path, name):
    env = VecNormalize(DummyVecEnv([RandomTask]))
    model = make(name, env=env).learn(32)
    model.save(tmp_path / "model")
    env.save(str(tmp_path / "statistics.pkl"))
    again = type(model).load(tmp_path / "model", device="cpu")
    statistics = VecNormalize.load(str(tmp_path / "statistics.pkl"), DummyVecEnv([RandomTask]))
    obs = 5 * sample(VECTOR, n=32)
    seen, seen_again = env.normalize_obs(obs), statistics.normalize_obs(obs)
    np.testing.assert_array_equal(seen, seen_again)
    np.testing.assert_array_equal(
        model.predict(seen, deterministic=True)[0],
        again.predict(seen_again, deterministic=True)[0],
    )


@pytest.mark.parametrize("name", ALGORITHMS)
def test_sb3_looks_the_policies_up_by_name_as_zoo_files_have_them(name):
    kinds = {kind: make(name, kind).policy_class.__name__ for kind in KINDS}
    family = {"MaskablePPO": "Maskable", "DQN": "DQN", "QRDQN": "QRDQN"}.get(name, "")
    assert kinds == {kind: f"WN{family}{kind}Policy" for kind in KINDS}
    assert all(hasattr(wn, word) for word in kinds.values())


def test_images_of_atari_size_are_learnt_from_by_name():
    frames = spaces.Box(0, 255, (84, 84, 4), np.uint8)  # channels last, as SB3's wrappers stack
    model = PPO("WNCnnPolicy", RandomTask(frames), n_steps=8, batch_size=8, device="cpu").learn(8)
    assert model.policy.features_extractor.cnn[0].weight.shape == (32, 4, 8, 8)
    assert model.predict(sample(frames, 2))[0].shape == (2,)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.filterwarnings("ignore:You are trying to run")
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_policies_are_initialised_and_learn_on_a_gpu(tmp_path, name, norm):
    algorithm, arguments = ALGORITHMS[name]
    model = algorithm(
        "WNMlpPolicy", RandomTask(), seed=0, device="cuda",
        policy_kwargs={"net_arch": [8, 8], "norm": norm, "data_init": 8}, **arguments,
    ).learn(48)  # fmt: skip
    assert model.policy.data_initialised
    assert all(p.is_cuda and p.isfinite().all() for p in model.policy.parameters())
    model.save(tmp_path / "model")
    again = algorithm.load(tmp_path / "model", device="cpu")
    obs = sample(VECTOR)
    for expected, actual in zip(
        outputs(model.policy, obs), outputs(again.policy, obs), strict=True
    ):
        torch.testing.assert_close(actual, expected.cpu(), rtol=1e-3, atol=1e-4)


PARTS = {
    DQN: "q_net",
    QRDQN: "quantile_net",
    SAC: "actor",
    TD3: "actor",
    TQC: "actor",
    CrossQ: "actor",
}


@pytest.mark.parametrize("norm", ["none", "weight", "weight_mean", "projected", "layer"])
@pytest.mark.parametrize(("algorithm", "part"), PARTS.items())
def test_a_part_is_saved_and_loaded_by_itself_as_stock_ones_are(algorithm, part, norm, tmp_path):
    task = "CartPole-v1" if "q_net" in part or "quantile" in part else "Pendulum-v1"
    kwargs = {"norm": norm, "norm_heads": True, "net_arch": [8, 8]}
    if algorithm is CrossQ and norm in ("none", "weight"):
        kwargs["batch_norm"] = False
    if norm == "weight":
        kwargs |= {"norm_kwargs": {"g_rate": 4.0}, "data_init": 8}
    policy = algorithm("WNMlpPolicy", task, device="cpu", policy_kwargs=kwargs).policy
    net = getattr(policy, part)
    net.save(tmp_path / "part")
    again = type(net).load(tmp_path / "part", device="cpu")
    assert type(again) is type(net)
    assert again.norm == norm
    obs = torch.as_tensor(np.stack([policy.observation_space.sample() for _ in range(3)]))
    for network in (net, again):
        network.set_training_mode(False)
    with torch.no_grad():
        assert torch.equal(again._predict(obs, True), net._predict(obs, True))
