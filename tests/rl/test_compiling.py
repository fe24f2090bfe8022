import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO

import envs
from agents import AGENTS
from agents.config import ContinuousConfig, OffPolicyConfig
from wnrl.rl.compiling import CompileUpdates
from wnrl.rl.environments import vectorize
from wnrl.rl.training import learn, log_to

SIZES = {"n_envs": 2, "batch_size": 16, "net_arch": (16,), "critic_arch": (16,)}
ON_POLICY = {"n_steps": 16, "n_epochs": 2}
OFF_POLICY = {"learning_starts": 16, "buffer_size": 200, "train_freq": 4, "gradient_steps": 2}


def agent(algo, folder, norm="weight", device="cpu", **changes):
    row = AGENTS[algo]
    env_id = "Pendulum-v1" if issubclass(row.config, ContinuousConfig) else "CartPole-v1"
    sizes = SIZES | (OFF_POLICY if issubclass(row.config, OffPolicyConfig) else ON_POLICY)
    config = row.config()
    sizes = {name: size for name, size in sizes.items() if hasattr(config, name)}
    config = dataclasses.replace(config, **sizes, **changes)
    model = row.build(config, vectorize(envs.factory(env_id), 2, 0), norm, 0, device)
    folder.mkdir(exist_ok=True)
    log_to(model, folder)
    return model


def compiling(algo, backend="aot_eager"):
    return CompileUpdates(AGENTS[algo].compiled, AGENTS[algo].not_compiled, backend)


def trained(algo, folder, *callbacks, **others):
    model = agent(algo, folder, **others)
    learn(model, 64, *callbacks)
    return model.policy.parameters_to_vector()


@pytest.mark.parametrize("algo", [a for a, row in AGENTS.items() if row.compiled])
def test_compiled_updates_agree_with_plain_ones_without_a_fall_back(tmp_path, capsys, algo):
    plain = trained(algo, tmp_path)
    compiled = trained(algo, tmp_path, compiling(algo))
    assert "--compile" not in capsys.readouterr().err
    np.testing.assert_allclose(compiled, plain, rtol=0, atol=1e-4)


def test_distributions_refuse_a_nan_again_after_a_compiled_update(tmp_path):
    trained("ppo", tmp_path, compiling("ppo"))
    with pytest.raises(ValueError, match="logits"):
        torch.distributions.Categorical(logits=torch.tensor([torch.nan, 0.0]))


@pytest.mark.parametrize(("algo", "norm"), [
    ("dqn", "batch"), ("dqn", "projected"), ("sac", "batch"),
])  # fmt: skip
def test_norms_with_statistics_or_projection_are_compiled_as_well(tmp_path, capsys, algo, norm):
    plain = trained(algo, tmp_path, norm=norm)
    compiled = trained(algo, tmp_path, compiling(algo), norm=norm)
    assert "--compile" not in capsys.readouterr().err
    np.testing.assert_allclose(compiled, plain, rtol=0, atol=1e-4)


@pytest.mark.parametrize("norm", ["projected", "layer", "spectral"])
def test_a_target_of_crossq_is_compiled_as_well(tmp_path, capsys, norm):
    plain = trained("crossq", tmp_path, norm=norm, tau=0.1)
    compiled = trained("crossq", tmp_path, compiling("crossq"), norm=norm, tau=0.1)
    assert "--compile" not in capsys.readouterr().err
    np.testing.assert_allclose(compiled, plain, rtol=0, atol=1e-4)


@pytest.mark.parametrize("algo", [a for a, row in AGENTS.items() if row.compiled])
def test_everything_that_updates_call_is_there_to_be_compiled(tmp_path, algo):
    model = agent(algo, tmp_path, **({"tau": 0.1} if algo == "crossq" else {}))
    callback = compiling(algo)
    callback.init_callback(model)
    assert len(callback.targets) == len(AGENTS[algo].compiled)


class Noise(gym.Env):
    """Pictures of nothing."""

    observation_space = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return self._draw(), {}

    def step(self, action):
        return self._draw(), 1.0, bool(self.np_random.random() < 0.1), False, {}

    def _draw(self):
        return self.np_random.integers(0, 256, (1, 36, 36)).astype(np.uint8)


@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_policies_that_see_images_are_compiled(tmp_path, capsys, algorithm):
    sizes = {
        PPO: {"n_steps": 16, "batch_size": 8, "n_epochs": 1},
        DQN: {"learning_starts": 4, "buffer_size": 50, "batch_size": 8, "train_freq": 8},
    }
    vectors, calls = [], []

    def backend(graph, inputs):
        calls.append(graph)
        return graph

    for callbacks in ([], [compiling("ppo" if algorithm is PPO else "dqn", backend)]):
        model = algorithm("WNCnnPolicy", Noise(), seed=0, device="cpu", **sizes[algorithm])
        log_to(model, tmp_path)
        learn(model, 32, *callbacks)
        vectors.append(model.policy.parameters_to_vector())
    assert "--compile" not in capsys.readouterr().err
    assert any(node.target is torch.conv2d for graph in calls for node in graph.graph.nodes)
    np.testing.assert_allclose(vectors[0], vectors[1], rtol=0, atol=1e-4)


def test_updates_call_what_the_backend_made(tmp_path):
    calls = []

    def backend(graph, inputs):
        def run(*args):
            calls.append(graph)
            return graph(*args)

        return run

    trained("ppo", tmp_path, compiling("ppo", backend))
    assert len(calls) == 2 * 2 * 2  # updates, epochs, minibatches


def test_a_trained_model_is_a_plain_one_and_can_be_saved(tmp_path):
    model = agent("sac", tmp_path)
    learn(model, 64, compiling("sac"))
    for part in model.policy.modules():
        assert not {"forward", "action_log_prob"} & vars(part).keys()
    model.save(tmp_path / "model.zip")
    assert (tmp_path / "model.zip").exists()


@pytest.mark.parametrize(
    ("algo", "reason"),
    [("recurrent_ppo", "no LSTM with gradients"), ("trpo", "no second derivatives")],
)
def test_an_algorithm_that_cannot_be_compiled_says_so_and_is_trained(
    tmp_path, capsys, algo, reason
):
    plain = trained(algo, tmp_path)
    assert np.array_equal(trained(algo, tmp_path, compiling(algo)), plain)
    assert f"is not compiled: torch.compile has {reason}" in capsys.readouterr().err


def test_a_network_that_the_compiler_cannot_take_says_so_once_and_is_trained(tmp_path, capsys):
    def failing_backend(graph, inputs):
        raise RuntimeError("this backend fails on every graph")

    plain = trained("ppo", tmp_path)
    found = trained("ppo", tmp_path, compiling("ppo", failing_backend))
    told = capsys.readouterr().err
    assert told.count("--compile: evaluate_actions of PPO with weight on cpu is not compiled") == 1
    assert "this backend fails on every graph" in told
    assert np.array_equal(found, plain)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch, while it compiles
@pytest.mark.parametrize("algo", ["ppo", "dqn", "sac"])
def test_inductor_agrees_with_plain_updates(tmp_path, capsys, algo):
    plain = trained(algo, tmp_path)
    compiled = trained(algo, tmp_path, compiling(algo, "inductor"))
    assert "--compile" not in capsys.readouterr().err
    np.testing.assert_allclose(compiled, plain, rtol=0, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # of torch, while it compiles
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("algo", ["ppo", "dqn", "sac"])
def test_cuda_graphs_agree_with_plain_updates(tmp_path, capsys, algo):
    plain = trained(algo, tmp_path, device="cuda")
    compiled = trained(algo, tmp_path, compiling(algo, "inductor"), device="cuda")
    assert "--compile" not in capsys.readouterr().err
    np.testing.assert_allclose(compiled, plain, rtol=0, atol=1e-3)
