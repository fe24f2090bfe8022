import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3.common.logger import Logger
from torch.distributions import Categorical, kl_divergence

from tests.sb3.tasks import VECTOR, RandomTask, sample
from tests.sb3.test_families import make


@pytest.mark.parametrize("norm", ["weight", "weight_mean", "spectral", "batch"])
def test_the_step_of_trpo_moves_every_parameter_of_the_actor_and_no_other(norm):
    model = make("TRPO", norm=norm, norm_heads=True)
    found, compute = [], model._compute_actor_grad

    def spy(*args):
        found.append(compute(*args))
        return found[-1]

    model._compute_actor_grad = spy
    model.learn(16)
    names = {id(p): name for name, p in model.policy.named_parameters()}
    actor = {name for name in names.values() if name.startswith(("mlp_extractor.policy", "action"))}
    assert {names[id(p)] for p in found[0][0]} == actor
    assert norm != "weight" or any(name.endswith("_g") for name in actor)


def test_rows_are_on_the_sphere_after_an_update_of_trpo():
    policy = make("TRPO", norm="projected").learn(16).policy
    for net in (policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net):
        for layer in net[::2]:
            torch.testing.assert_close(layer.weight.norm(dim=1), torch.ones(8))


@pytest.mark.parametrize("norm", ["none", "weight"])
def test_hessian_vector_products_of_trpo_are_right(norm):
    model = make("TRPO", norm=norm, norm_heads=True)
    policy = model.policy.double()
    obs = torch.as_tensor(sample(VECTOR, 16)).double()
    parameters = [p for name, p in policy.named_parameters() if "value" not in name]
    old = Categorical(logits=torch.randn(16, 2).double())

    def gradient(create_graph=False):
        logits = policy.action_net(policy.mlp_extractor.forward_actor(obs))
        kl = kl_divergence(Categorical(logits=logits), old).mean()
        grads = torch.autograd.grad(kl, parameters, create_graph=create_graph)
        return torch.cat([grad.flatten() for grad in grads])

    vector = torch.randn_like(gradient())
    model.cg_damping = 0.0
    product = model.hessian_vector_product(parameters, gradient(create_graph=True), vector)
    start = torch.nn.utils.parameters_to_vector(parameters).detach()
    ahead, behind = (
        (torch.nn.utils.vector_to_parameters(start + step * vector, parameters), gradient())[1]
        for step in (1e-7, -1e-7)
    )
    torch.testing.assert_close(product, (ahead - behind) / 2e-7, rtol=1e-5, atol=1e-6)


def test_trpo_finds_steps_within_its_trust_region_under_weight_norm():
    model = make("TRPO")
    model.set_logger(Logger(None, []))
    model.learn(64, log_interval=100)
    values = model.logger.name_to_value
    assert values["train/is_line_search_success"] == 1.0
    assert 0 < values["train/kl_divergence_loss"] < model.target_kl


class OnlyTheFirst(RandomTask):
    def action_masks(self):
        return np.array([True, False])

    def step(self, action):
        assert action == 0
        return super().step(action)


@pytest.mark.parametrize("norm", ["weight", "layer", "batch"])
def test_masked_actions_are_never_taken(norm):
    model = MaskablePPO(
        "WNMlpPolicy", OnlyTheFirst(), n_steps=16, batch_size=16, device="cpu",
        policy_kwargs={"norm": norm, "net_arch": [8]},
    ).learn(32)  # fmt: skip
    masks = np.tile([False, True], (9, 1))
    actions, _ = model.predict(sample(VECTOR, 9), action_masks=masks)
    assert list(actions) == [1] * 9
