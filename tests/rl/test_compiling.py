import dataclasses
from contextlib import nullcontext

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO

import envs
from agents import AGENTS
from agents.config import ContinuousConfig, OffPolicyConfig
from wnrl.rl.compiling import compiled_updates
from wnrl.rl.environments import vectorize
from wnrl.rl.run import learn

SIZES = {"n_envs": 2, "batch_size": 16, "net_arch": (16,), "critic_arch": (16,)}
ON_POLICY = {"n_steps": 16, "n_epochs": 2}
OFF_POLICY = {"learning_starts": 16, "buffer_size": 200, "train_freq": 4, "gradient_steps": 2}


def agent(algo, norm="weight", device="cpu", **changes):
    row = AGENTS[algo]
    env_id = "Pendulum-v1" if issubclass(row.config, ContinuousConfig) else "CartPole-v1"
    if algo == "maskable_ppo":
        env_id = next(known for known in gym.registry if known.startswith("Taxi-"))
    sizes = SIZES | (OFF_POLICY if issubclass(row.config, OffPolicyConfig) else ON_POLICY)
    config = row.config()
    sizes = {name: size for name, size in sizes.items() if hasattr(config, name)}
    config = dataclasses.replace(config, **sizes, **changes)
    return row.build(config, vectorize(envs.factory(env_id), 2, 0), norm, 0, device)


def trained(algo, backend=None, **others):
    """The parameters after some updates, compiled if there is a backend."""
    model = agent(algo, **others)
    with compiled_updates(model, AGENTS[algo].compiled, backend) if backend else nullcontext():
        learn(model, 64)
    return model.policy.parameters_to_vector()


COMPILED = [algo for algo, row in AGENTS.items() if row.compiled]


@pytest.mark.parametrize(
    ("algo", "others"),
    [
        *((algo, {}) for algo in COMPILED),
        ("dqn", {"norm": "batch"}),
        ("dqn", {"norm": "projected"}),
        ("sac", {"norm": "batch"}),
        *(("crossq", {"norm": norm, "tau": 0.1}) for norm in ("projected", "spectral")),
    ],
)
def test_compiled_updates_agree_with_plain_ones_without_a_fall_back(capsys, algo, others):
    plain = trained(algo, **others)
    compiled = trained(algo, "aot_eager", **others)
    assert "--compile" not in capsys.readouterr().err
    np.testing.assert_allclose(compiled, plain, rtol=0, atol=1e-4)


def test_distributions_refuse_a_nan_again_after_a_compiled_update():
    trained("ppo", "aot_eager")
    with pytest.raises(ValueError, match="logits"):
        torch.distributions.Categorical(logits=torch.tensor([torch.nan, 0.0]))


@pytest.mark.parametrize("algo", COMPILED)
def test_everything_that_updates_call_is_there_to_be_compiled(algo):
    model = agent(algo, **({"tau": 0.1} if algo == "crossq" else {}))
    with compiled_updates(model, AGENTS[algo].compiled, "aot_eager") as calls:
        assert len(calls) == len(AGENTS[algo].compiled)


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
def test_policies_that_see_images_are_compiled(capsys, algorithm):
    sizes = {
        PPO: {"n_steps": 16, "batch_size": 8, "n_epochs": 1},
        DQN: {"learning_starts": 4, "buffer_size": 50, "batch_size": 8, "train_freq": 8},
    }
    methods = AGENTS["ppo" if algorithm is PPO else "dqn"].compiled
    vectors, graphs = [], []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    for is_compiled in (False, True):
        model = algorithm("WNCnnPolicy", Noise(), seed=0, device="cpu", **sizes[algorithm])
        with compiled_updates(model, methods, backend) if is_compiled else nullcontext():
            learn(model, 32)
        vectors.append(model.policy.parameters_to_vector())
    assert "--compile" not in capsys.readouterr().err
    assert any(node.target is torch.conv2d for graph in graphs for node in graph.graph.nodes)
    np.testing.assert_allclose(vectors[0], vectors[1], rtol=0, atol=1e-4)


def test_updates_alone_call_what_the_backend_made():
    calls = []

    def backend(graph, inputs):
        def run(*args):
            calls.append(graph)
            return graph(*args)

        return run

    trained("ppo", backend)
    assert len(calls) == 2 * 2 * 2  # updates, epochs, minibatches


def test_a_trained_model_is_a_plain_one_and_can_be_saved(tmp_path):
    model = agent("sac")
    with compiled_updates(model, AGENTS["sac"].compiled, "aot_eager"):
        learn(model, 64)
    for part in model.policy.modules():
        assert not {"forward", "action_log_prob"} & vars(part).keys()
    assert "train" not in vars(model)
    model.save(tmp_path / "model.zip")
    assert (tmp_path / "model.zip").exists()


def test_a_network_that_the_compiler_cannot_take_says_so_once_and_is_trained(capsys):
    def failing_backend(graph, inputs):
        raise RuntimeError("this backend fails on every graph")

    plain = trained("ppo")
    compiled = trained("ppo", failing_backend)
    told = capsys.readouterr().err
    assert told.count("--compile: evaluate_actions of PPO with weight on cpu is not compiled") == 1
    assert "this backend fails on every graph" in told
    assert np.array_equal(compiled, plain)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch, while it compiles
@pytest.mark.parametrize("algo", ["ppo", "dqn", "sac"])
def test_inductor_agrees_with_plain_updates(capsys, algo):
    plain = trained(algo)
    compiled = trained(algo, "inductor")
    assert "--compile" not in capsys.readouterr().err
    np.testing.assert_allclose(compiled, plain, rtol=0, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # of torch, while it compiles
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("algo", COMPILED)
def test_cuda_graphs_agree_with_plain_updates(capsys, algo):
    plain = trained(algo, device="cuda")
    compiled = trained(algo, "inductor", device="cuda")
    assert "--compile" not in capsys.readouterr().err
    np.testing.assert_allclose(compiled, plain, rtol=0, atol=1e-3)
