import copy
import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import TQC, CrossQ, RecurrentPPO
from stable_baselines3 import SAC, TD3
from torch import nn

from tests.sb3.tasks import DICT, IMAGE, VECTOR, RandomTask, sample
from tests.sb3.test_families import make
from wnrl import WNConv2d, WNLinear, fold
from wnrl.errors import UsageError
from wnrl.sb3 import FoldedActor

BOX = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([1.0, 5.0], np.float32))
ACTIONS = {
    "one of two": spaces.Discrete(2),
    "vector": BOX,
    "several": spaces.MultiDiscrete([2, 3]),
    "bits": spaces.MultiBinary(3),
}


def same_actions(model, obs):
    policy = model.policy
    expected, _ = policy.predict(obs, deterministic=True)
    actor = FoldedActor(policy)
    assert not any(isinstance(part, WNLinear | WNConv2d) for part in actor.modules())
    with torch.no_grad():
        actions = actor(policy.obs_to_tensor(obs)[0])
    np.testing.assert_allclose(actions.numpy(), expected, rtol=1e-5, atol=1e-6)
    return actor


@pytest.mark.parametrize("actions", ACTIONS)
def test_a_folded_actor_takes_the_actions_of_its_policy(actions):
    model = make("PPO", env=RandomTask(action_space=ACTIONS[actions]), norm_heads=True).learn(16)
    same_actions(model, sample(VECTOR, 20))


@pytest.mark.parametrize("name", ["A2C", "TRPO", "MaskablePPO", "DQN", "QRDQN"])
def test_folded_actors_of_other_families_do_as_well(name):
    same_actions(make(name).learn(16), sample(VECTOR, 20))


@pytest.mark.parametrize("algorithm", [SAC, TD3, TQC, CrossQ])
def test_actions_of_continuous_algorithms_are_scaled_to_the_action_space(algorithm):
    model = algorithm(
        "WNMlpPolicy", RandomTask(action_space=BOX), learning_starts=4, device="cpu",
        policy_kwargs={"net_arch": [8]},
    ).learn(8)  # fmt: skip
    same_actions(model, sample(VECTOR, 20))


def test_state_dependent_noise_and_squashing_are_folded_after_learning():
    env = RandomTask(action_space=BOX)
    model = make("PPO", env=env, others={"use_sde": True}, squash_output=True).learn(16)
    same_actions(model, sample(VECTOR, 20))


def test_a_stock_policy_is_folded_after_learning_too():
    same_actions(make("PPO", stock=True).learn(16), sample(VECTOR, 20))


@pytest.mark.parametrize(("name", "kind", "space"), [
    ("PPO", "Mlp", VECTOR), ("PPO", "MultiInput", DICT), ("DQN", "Mlp", VECTOR),
    ("DQN", "Cnn", IMAGE),
])  # fmt: skip
def test_a_loaded_zip_runs_in_onnxruntime_with_the_same_actions(tmp_path, name, kind, space):
    model = make(name, kind).learn(16)
    model.save(tmp_path / "model")
    policy = type(model).load(tmp_path / "model", device="cpu").policy
    example, _ = policy.obs_to_tensor(sample(space, 2))
    batch = {0: torch.export.Dim("batch")}
    shapes = {"obs": dict.fromkeys(example, batch) if isinstance(example, dict) else batch}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter deprecates its own calls
        program = torch.onnx.export(
            FoldedActor(policy), (), kwargs={"obs": example}, dynamo=True, verbose=False,
            dynamic_shapes=shapes,
        )  # fmt: skip
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    obs = sample(space, 9)
    given = policy.obs_to_tensor(obs)[0]
    tensors = given.values() if isinstance(given, dict) else [given]
    inputs = zip(session.get_inputs(), tensors, strict=True)
    (actions,) = session.run(None, {entry.name: t.numpy() for entry, t in inputs})
    np.testing.assert_array_equal(actions, model.predict(obs, deterministic=True)[0])


def test_an_actor_stays_as_it_is_while_its_policy_learns_on():
    model = make("PPO").learn(16)
    obs = torch.as_tensor(sample(VECTOR, 20))
    actor = FoldedActor(model.policy)
    weight = actor.policy.action_net.weight.clone()
    model.learn(16)
    assert torch.equal(actor.policy.action_net.weight, weight)
    assert not torch.equal(model.policy.action_net.weight, weight)
    assert not hasattr(actor.policy, "optimizer")
    assert actor(obs).shape == (20,)


def test_a_policy_is_folded_right_after_learning():
    for name in ("PPO", "DQN"):
        policy = make(name).learn(16).policy
        folded = fold(policy)
        assert not any(isinstance(part, WNLinear) for part in folded.modules())
        obs = sample(VECTOR, 20)
        np.testing.assert_array_equal(
            folded.predict(obs, deterministic=True)[0], policy.predict(obs, deterministic=True)[0]
        )


class Masked(RandomTask):
    def action_masks(self):
        return np.ones(sum(getattr(self.action_space, "nvec", [2] * 3)), dtype=bool)


@pytest.mark.parametrize("actions", ["several", "bits"])
@pytest.mark.parametrize("name", ["PPO", "A2C", "MaskablePPO"])
def test_a_policy_of_several_actions_is_copied_right_after_learning(name, actions):
    policy = make(name, env=Masked(action_space=ACTIONS[actions])).learn(16).policy
    obs = sample(VECTOR, 20)
    for twin in (copy.deepcopy(policy), fold(policy)):
        twin.train()
        np.testing.assert_array_equal(
            twin.predict(obs, deterministic=True)[0], policy.predict(obs, deterministic=True)[0]
        )


@pytest.mark.parametrize("wrong", [nn.Linear(2, 2), "model.zip", None])
def test_what_is_no_policy_is_refused(wrong):
    with pytest.raises(UsageError, match="policy must be a BasePolicy, got"):
        FoldedActor(wrong)


def test_recurrent_policies_are_refused_with_the_way_to_go():
    model = RecurrentPPO("WNMlpLstmPolicy", RandomTask(), device="cpu", n_steps=8, batch_size=8)
    with pytest.raises(UsageError, match=r"acts with a state.* wnrl\.fold\(policy\)"):
        FoldedActor(model.policy)
