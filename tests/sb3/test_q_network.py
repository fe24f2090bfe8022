import numpy as np
import pytest
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.utils import get_parameters_by_name
from stable_baselines3.dqn.policies import DQNPolicy

import wnrl.sb3 as wn
from tests.sb3.tasks import VECTOR, RandomTask, outputs, sample
from tests.sb3.test_families import make
from wnrl import NORMS, WNLinear

NETS = {"DQN": "q_net", "QRDQN": "quantile_net"}
BATCH_NORMS = ["mean", "weight_mean", "batch", "batch_renorm"]


def nets(model, name):
    return getattr(model.policy, NETS[name]), getattr(model.policy, f"{NETS[name]}_target")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NETS)
def test_targets_start_equal_and_follow_in_weights_and_statistics(name, norm):
    model = make(name, norm=norm)
    obs = sample(VECTOR)
    online, target = outputs(model.policy, obs)
    assert torch.equal(online, target)
    model.learn(30)  # the last update of targets is at 16 steps
    online, target = outputs(model.policy, obs)
    assert not torch.allclose(online, target)
    model._n_calls = 15
    model._on_step()
    online, target = outputs(model.policy, obs)
    torch.testing.assert_close(online, target, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", BATCH_NORMS)
@pytest.mark.parametrize("name", NETS)
def test_statistics_move_in_learning_and_what_sb3_copies_of_them_is_in_floats(name, norm):
    model = make(name, norm=norm)
    network, _ = nets(model, name)
    before = {k: v.clone() for k, v in network.state_dict().items() if "running_" in k}
    model.learn(24)
    after = network.state_dict()
    assert before
    assert all(not torch.equal(after[key], value) for key, value in before.items())
    assert all(value.is_floating_point() for value in get_parameters_by_name(network, ["running_"]))


@pytest.mark.parametrize("tau", [0.3, 1.0])
@pytest.mark.parametrize("name", NETS)
def test_targets_average_in_the_parameters_that_are_trained(name, tau):
    model = make(name, others={"tau": tau}).learn(30)
    network, target = nets(model, name)
    expected = {
        key: tau * p.detach() + (1 - tau) * dict(target.named_parameters())[key].detach()
        for key, p in network.named_parameters()
    }
    model._n_calls = 15
    model._on_step()
    for key, parameter in target.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[key])


@pytest.mark.parametrize("name", NETS)
def test_averaged_targets_are_not_put_back_on_the_sphere(name):
    model = make(name, norm="projected", others={"tau": 0.5, "learning_rate": 0.1}).learn(30)
    layer, averaged = (getattr(n, NETS[name])[0].weight.norm(dim=1) for n in nets(model, name))
    torch.testing.assert_close(layer, torch.ones(8))
    assert (averaged < 1 - 1e-6).all()


@pytest.mark.parametrize("norm", BATCH_NORMS)
@pytest.mark.parametrize("name", NETS)
def test_targets_stay_in_evaluation(name, norm):
    model = make(name, norm=norm).learn(24)
    model.policy.set_training_mode(True)
    network, target = nets(model, name)
    assert network.training
    assert not any(part.training for part in target.modules())


@pytest.mark.parametrize(("norm_heads", "head"), [(False, torch.nn.Linear), (True, WNLinear)])
@pytest.mark.parametrize("name", NETS)
def test_output_heads_take_the_norm_only_when_asked(name, norm_heads, head):
    model = make(name, norm_heads=norm_heads)
    for network in nets(model, name):
        assert type(getattr(network, NETS[name])[-1]) is head
        assert type(getattr(network, NETS[name])[0]) is WNLinear
    listed = [] if norm_heads else [f"{NETS[name]}.{NETS[name]}.4"]
    assert model.policy.plain_parts == listed


class OwnPolicy(DQNPolicy):
    """A user's policy: another network, and an argument of its own."""

    def __init__(self, *args, slope=0.1, **kwargs):
        self.slope = slope
        super().__init__(*args, **kwargs)

    def make_q_net(self):
        network = super().make_q_net()
        network.q_net[1] = torch.nn.LeakyReLU(self.slope)
        return network


WNOwnPolicy = wn.with_norm(OwnPolicy, "layer")


def test_a_users_own_dqn_policy_gets_a_norm_and_is_loaded_again(tmp_path):
    model = DQN(
        WNOwnPolicy, RandomTask(), learning_starts=8, batch_size=8, device="cpu",
        policy_kwargs={"slope": 0.3, "net_arch": [8, 8]},
    ).learn(24)  # fmt: skip
    assert sum(isinstance(m, torch.nn.LayerNorm) for m in model.policy.q_net.modules()) == 2
    assert model.policy.norm == "layer"
    model.save(tmp_path / "model")
    again = DQN.load(tmp_path / "model", device="cpu")
    assert again.policy.q_net.q_net[1].negative_slope == 0.3
    obs = sample(VECTOR)
    np.testing.assert_array_equal(
        again.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]
    )
    model.policy.save(tmp_path / "policy.pt")
    policy = WNOwnPolicy.load(tmp_path / "policy.pt", device="cpu")
    assert policy._get_constructor_parameters()["slope"] == 0.3
