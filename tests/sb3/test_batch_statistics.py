import copy

import numpy as np
import pytest
import torch
from gymnasium import Env, spaces
from sb3_contrib import TQC, CrossQ
from stable_baselines3 import SAC, TD3

from wnrl import NORMS
from wnrl.sb3.parts import batch_norms, batch_statistics

ALGORITHMS = {"SAC": SAC, "TD3": TD3, "TQC": TQC, "CrossQ": CrossQ}
WITH_TARGETS = ["SAC", "TD3", "TQC"]
BATCH_NORMS = ["mean", "weight_mean", "batch", "batch_renorm"]
STEPS = 6


class Task(Env):
    """Observations whose distribution moves with time."""

    def __init__(self, observation_space=None):
        self.observation_space = observation_space or spaces.Box(-np.inf, np.inf, (3,))
        self.action_space = spaces.Box(-1.0, 1.0, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        return self._obs(), float(action[0]), self.t == 9, False, {}

    def _obs(self):
        if isinstance(self.observation_space, spaces.Dict):
            return {"a": self.np_random.normal(self.t, 1.0, 3).astype(np.float32)}
        if self.observation_space.dtype == np.uint8:
            shape = self.observation_space.shape
            return self.np_random.integers(0, 255, shape).astype(np.uint8)
        return self.np_random.normal(self.t, 1.0, 3).astype(np.float32)


def make(name, norm, space=None, alias="WNMlpPolicy", **policy_kwargs):
    """A model that has data to learn from and has not learnt."""
    model = ALGORITHMS[name](
        alias, Task(space), learning_starts=20, batch_size=8, buffer_size=100, seed=0,
        device="cpu", policy_kwargs={"net_arch": [6, 6], "norm": norm, **policy_kwargs},
    )  # fmt: skip
    return model.learn(20)


def update(model, steps):
    model.train(gradient_steps=steps, batch_size=8)
    return model


def counts(module):
    """How many batches each batch norm in ``module`` has tracked."""
    names = ("running_steps", "num_batches_tracked")
    found = [
        getattr(norm, name) for norm in batch_norms(module) for name in names if hasattr(norm, name)
    ]
    return {int(count) for count in found}


def rows(values):
    """What a critic returned, ``(B, …)``."""
    return values if isinstance(values, torch.Tensor) else torch.cat(values, dim=1)


def running(module):
    return {k: v.clone() for k, v in module.state_dict().items() if "running_" in k}


def same(one, other):
    return all(torch.equal(value, other[key]) for key, value in one.items())


def batch(n=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(n, 5, generator=generator) * 2 - 1
    return draw[:, :3] + seed, draw[:, 3:]


@pytest.mark.parametrize("norm", BATCH_NORMS)
@pytest.mark.parametrize(
    ("name", "actor_updates"), [("SAC", 6), ("TQC", 6), ("TD3", 3), ("CrossQ", 2)]
)
def test_statistics_move_once_for_each_update_of_their_network(name, actor_updates, norm):
    policy = update(make(name, norm), STEPS).policy
    assert counts(policy.critic) == {STEPS}
    assert counts(policy.actor) == {actor_updates}


@pytest.mark.parametrize("name", WITH_TARGETS)
def test_shared_features_extractor_learns_its_statistics_with_the_actor_alone(name):
    space = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    model = make(name, "batch_renorm", space, "WNCnnPolicy", share_features_extractor=True)
    policy = update(model, STEPS).policy
    assert counts(policy.actor.features_extractor) == counts(policy.actor)
    assert counts(policy.actor.mu if name == "TD3" else policy.actor.latent_pi) == counts(
        policy.actor
    )
    assert counts(torch.nn.ModuleList(policy.critic.q_networks)) == {STEPS}


@pytest.mark.parametrize("name", WITH_TARGETS)
def test_initialisation_on_the_first_batch_does_not_keep_networks_from_learning_it(name):
    space = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    policy = make(name, "batch_renorm", space, "WNCnnPolicy", data_init=4).policy
    policy.set_training_mode(True)
    policy.actor(torch.zeros(4, *space.shape) + torch.arange(4.0).view(4, 1, 1, 1))
    assert policy.data_initialised
    assert counts(policy.actor.features_extractor) == {1}


@pytest.mark.parametrize("norm", BATCH_NORMS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_acting_leaves_statistics_alone_and_treats_each_observation_by_itself(name, norm):
    model = update(make(name, norm), 2)
    before = running(model.policy)
    obs = batch()[0].numpy()
    together, _ = model.predict(obs, deterministic=True)
    alone = np.concatenate([model.predict(one[None], deterministic=True)[0] for one in obs])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)
    assert same(before, running(model.policy))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_critic_uses_running_statistics_where_an_actor_or_nobody_learns_from_it(name):
    policy = update(make(name, "batch"), 2).policy
    policy.set_training_mode(True)
    obs, actions = batch()
    before = running(policy.critic)
    with torch.no_grad():
        expected = rows(policy.critic(obs, actions))
    assert torch.equal(rows(policy.critic(obs, actions.clone().requires_grad_())), expected)
    if name == "TD3":
        assert torch.equal(policy.critic.q1_forward(obs, actions), expected[:, :1])
    assert same(before, running(policy.critic))
    learning = rows(policy.critic(obs, actions))
    assert not torch.equal(learning, expected)
    assert not same(before, running(policy.critic))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_next_actions_are_drawn_with_running_statistics(name):
    policy = update(make(name, "batch"), 2).policy
    policy.set_training_mode(True)
    obs, _ = batch()
    before = running(policy.actor)
    with torch.no_grad():
        one = policy.actor(obs, deterministic=True) if name != "TD3" else policy.actor(obs)
    policy.set_training_mode(False)
    torch.testing.assert_close(one, policy._predict(obs, deterministic=True), rtol=0, atol=0)
    assert same(before, running(policy.actor))


@pytest.mark.parametrize("name", WITH_TARGETS)
def test_joint_statistics_are_those_of_both_batches_and_outputs_those_of_the_first(name):
    policy = make(name, "batch").policy
    policy.set_training_mode(True)
    (obs, actions), (next_obs, next_actions) = batch(), batch(seed=1)
    both = torch.cat([obs, next_obs]), torch.cat([actions, next_actions])
    start = running(policy.critic)
    expected = rows(policy.critic(*both))
    expected_running = running(policy.critic)
    policy.critic.load_state_dict(start, strict=False)
    with torch.no_grad():
        policy.critic_target(next_obs, next_actions)
    actual = rows(policy.critic(obs, actions))
    assert len(actual) == 8
    torch.testing.assert_close(actual, expected[:8])
    assert same(expected_running, running(policy.critic))


@pytest.mark.parametrize("name", WITH_TARGETS)
def test_next_batch_is_used_once_and_not_at_all_without_batch_statistics(name):
    for norm in ("batch", "layer"):
        policy = make(name, norm).policy
        policy.set_training_mode(True)
        sizes = []
        policy.critic.q_networks[0].register_forward_pre_hook(
            lambda _, args, sizes=sizes: sizes.append(len(args[0]))
        )
        with torch.no_grad():
            policy.critic_target(*batch(seed=1))
        policy.critic(*batch())
        policy.critic(*batch())
        assert sizes == ([16, 8] if norm == "batch" else [8, 8])


@pytest.mark.parametrize("norm", BATCH_NORMS)
@pytest.mark.parametrize("name", WITH_TARGETS)
def test_targets_use_the_batch_in_updates_alone_and_track_nothing(name, norm):
    policy = make(name, norm).policy
    pair, target = batch(seed=1), policy.critic_target
    before = {key: value.clone() for key, value in target.state_dict().items()}
    found = []
    with torch.no_grad():
        for training in (False, True, False):
            policy.set_training_mode(training)
            found.append(rows(target(*pair)))
        assert same(before, target.state_dict())
        with batch_statistics(batch_norms(target), True):
            net = copy.deepcopy(torch.nn.ModuleList(target.q_networks))
            expected = torch.cat([q(torch.cat(pair, dim=1)) for q in net], dim=1)
    evaluated, learnt_from, again = found
    assert torch.equal(learnt_from.flatten(1), expected)
    assert not torch.allclose(learnt_from, evaluated)
    assert torch.equal(again, evaluated)


@pytest.mark.parametrize("shared", [True, False])
def test_an_extractor_that_the_actor_trains_is_evaluated_in_critic_and_target_alike(shared):
    space = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    model = make("SAC", "batch", space, "WNCnnPolicy", share_features_extractor=shared)
    policy, modes = model.policy, []
    for network in (policy.critic, policy.critic_target):
        norm = batch_norms(network.features_extractor)[0]
        norm.register_forward_pre_hook(lambda norm, _: modes.append(norm.training))
    policy.set_training_mode(True)
    obs, actions = torch.rand(8, *space.shape), torch.zeros(8, 2)
    with torch.no_grad():
        policy.critic_target(obs, actions)
    policy.critic(obs, actions)
    assert modes == [not shared] * 2


@pytest.mark.parametrize("name", ALGORITHMS)
def test_critics_take_observations_and_actions_by_name(name):
    policy = make(name, "batch").policy
    policy.set_training_mode(True)
    (obs, actions), (next_obs, next_actions) = batch(), batch(seed=1)
    second = "action" if name == "TQC" else "actions"  # as upstream has them
    start, found = running(policy.critic), []
    for by_name in (False, True):
        policy.critic.load_state_dict(start, strict=False)
        if name in WITH_TARGETS:
            both = {"obs": next_obs, second: next_actions}
            with torch.no_grad():
                policy.critic_target(**both) if by_name else policy.critic_target(*both.values())
        if by_name:
            found.append(rows(policy.critic(obs, **{second: actions})))
        else:
            found.append(rows(policy.critic(obs, actions)))
    assert torch.equal(*found)


def test_a_look_at_the_target_outside_of_training_joins_no_batch():
    policy = make("SAC", "batch").policy
    policy.set_training_mode(False)
    with torch.no_grad():
        policy.critic_target(*batch(seed=1))
    policy.set_training_mode(True)
    sizes = []
    policy.critic.q_networks[0].register_forward_pre_hook(lambda _, x: sizes.append(len(x[0])))
    policy.critic(*batch())
    assert sizes == [8]


def test_copies_join_the_batches_of_their_own_target():
    policy = make("SAC", "batch_renorm").policy
    policy.set_training_mode(True)
    with torch.no_grad():
        policy.critic_target(*batch(seed=1))  # waits for the critic of the original
    twin = copy.deepcopy(policy)
    sizes = []
    twin.critic.q_networks[0].register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    twin.set_training_mode(True)
    twin.critic(*batch())
    with torch.no_grad():
        twin.critic_target(*batch(seed=1))
    twin.critic(*batch())
    assert sizes == [8, 16]
    assert counts(policy.critic) == {0}


def test_joint_statistics_take_dict_observations():
    space = spaces.Dict({"a": spaces.Box(-np.inf, np.inf, (3,))})
    policy = update(make("SAC", "batch_renorm", space, "WNMultiInputPolicy"), 2).policy
    assert counts(policy.critic) == {2}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_forward_that_fails_leaves_batch_norms_in_evaluation(name):
    policy = make(name, "batch").policy
    policy.set_training_mode(True)
    obs, actions = batch()
    with pytest.raises(RuntimeError):
        policy.critic(obs, actions[:, :1])
    assert not any(norm.training for norm in batch_norms(policy.actor, policy.critic))
    assert len(rows(policy.critic(obs, actions))) == 8


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_no_hook_stands_on_a_network(name, norm):
    if (name, norm) in {("CrossQ", "none"), ("CrossQ", "weight"), ("CrossQ", "spectral")}:
        policy = make(name, norm, batch_norm=False, tau=0.1).policy
    else:
        policy = make(name, norm).policy
    for part in policy.modules():
        assert not part._forward_hooks
        assert not part._forward_pre_hooks
