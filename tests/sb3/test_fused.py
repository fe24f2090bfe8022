import pytest
import torch
from stable_baselines3 import DQN, PPO, SAC

import wnrl.sb3  # noqa: F401 (registers the names of the policies)
from wnrl.sb3.common import use_fused


def make(algorithm, env="CartPole-v1", **policy_kwargs):
    fast = {"n_steps": 64} if algorithm is PPO else {"learning_starts": 10, "train_freq": 4}
    return algorithm(
        "WNMlpPolicy", env, seed=0, device="cpu", batch_size=32,
        policy_kwargs={"net_arch": [16], **policy_kwargs}, **fast,
    )  # fmt: skip


@pytest.mark.parametrize("norm", ["none", "weight", "projected"])
@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_a_fused_adam_learns_what_the_loop_learns(algorithm, norm):
    learned = []
    for kwargs in ({"optimizer_kwargs": {"eps": 1e-5, "fused": False}}, {}):
        if kwargs == {} and algorithm is DQN:
            kwargs = {"optimizer_kwargs": {"eps": 1e-5}}
        model = make(algorithm, norm=norm, **kwargs)
        assert model.policy.optimizer.param_groups[0]["fused"] is (len(learned) == 1)
        learned.append(model.learn(128).policy.state_dict())
    loop, fused = learned
    assert loop.keys() == fused.keys()
    for name in loop:
        torch.testing.assert_close(fused[name], loop[name], rtol=0, atol=1e-5)


def test_every_adam_of_a_policy_is_fused():
    policy = make(SAC, "Pendulum-v1").policy
    for optimizer in (policy.actor.optimizer, policy.critic.optimizer):
        assert [group["fused"] for group in optimizer.param_groups] == [True]


@pytest.mark.parametrize("choice", [{"fused": False}, {"foreach": True}])
def test_a_choice_of_the_implementation_is_kept(choice):
    groups = make(PPO, optimizer_kwargs=choice).policy.optimizer.param_groups
    assert groups[0]["fused"] is choice.get("fused")
    assert groups[0]["foreach"] is choice.get("foreach")


def test_other_optimizers_stay_as_they_are():
    class Own(torch.optim.Adam):
        pass

    for kind in (Own, torch.optim.SGD):
        optimizer = kind([torch.nn.Parameter(torch.ones(2))], lr=0.1)
        use_fused(optimizer)
        assert optimizer.param_groups[0]["fused"] is None


def test_a_saved_agent_goes_on_with_a_fused_adam(tmp_path):
    model = make(PPO).learn(64)
    model.save(tmp_path / "model")
    again = PPO.load(tmp_path / "model", env=model.get_env(), device="cpu")
    assert again.policy.optimizer.param_groups[0]["fused"] is True
    again.learn(64, reset_num_timesteps=False)
    steps = {float(state["step"]) for state in again.policy.optimizer.state.values()}
    assert steps == {40.0}
