import pytest
import torch

from wnrl.errors import UsageError
from wnrl.tensor_envs import TENSOR_ENVS, make
from wnrl.tensor_envs.core import advance, begin, normal

EVERY = [
    *TENSOR_ENVS,
    "Pendulum-obs_noise0.1-reward_noise0.5-obs_dropout0.2-delay2-sticky0.25-hidden1-v1",
    "RepeatPrevious-delay1-sticky0.25-memory2-v0",
]


def uniform(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64).clamp_min(1e-9)


def some_actions(env, *shape, seed=1):
    u = uniform(*shape, *env.action_space.shape, seed=seed)
    if hasattr(env.action_space, "n"):
        return (u * int(env.action_space.n)).long()
    low, high = map(torch.as_tensor, (env.action_space.low, env.action_space.high))
    return low + u * (high - low)


@pytest.mark.parametrize("env_id", EVERY)
def test_a_vector_of_any_batch_shape_is_its_environments_one_by_one(env_id):
    env = make(env_id)
    first, draws = uniform(2, 3, env.reset_draws), env.step_draws + env.reset_draws
    together = begin(env, first)
    alone = begin(env, first[1, 2])
    for k in range(30):
        actions, u = some_actions(env, 2, 3, seed=k), uniform(2, 3, draws, seed=100 + k)
        together, step = advance(env, together, actions, u)
        alone, lone_step = advance(env, alone, actions[1, 2], u[1, 2])
        for all_of_them, one in zip((*step, together.obs, together.steps),
                                    (*lone_step, alone.obs, alone.steps), strict=True):  # fmt: skip
            assert one.shape == all_of_them.shape[2:]
            torch.testing.assert_close(all_of_them[1, 2], one, rtol=0, atol=1e-12)


@pytest.mark.parametrize("env_id", EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_types_are_those_of_the_contract(env_id, dtype):
    env = make(env_id)
    episodes = begin(env, uniform(2, 3, env.reset_draws).to(dtype))
    actions = some_actions(env, 2, 3)
    actions = actions if actions.dtype == torch.int64 else actions.to(dtype)
    u = uniform(2, 3, env.step_draws + env.reset_draws).to(dtype)
    after, step = advance(env, episodes, actions, u)
    for obs in (episodes.obs, after.obs, step.final_obs):
        assert (obs.shape, obs.dtype) == ((2, 3, *env.observation_space.shape), dtype)
    assert (step.rewards.shape, step.rewards.dtype) == ((2, 3), dtype)
    for flags in (step.terminated, step.truncated):
        assert (flags.shape, flags.dtype) == ((2, 3), torch.bool)
    for name, leaf in after.state.items():
        assert (leaf.shape, leaf.dtype) == (episodes.state[name].shape, episodes.state[name].dtype)


@pytest.mark.parametrize("env_id", EVERY)
def test_a_step_changes_none_of_its_arguments(env_id):
    env = make(env_id)
    episodes = begin(env, uniform(2, 3, env.reset_draws))
    actions, u = some_actions(env, 2, 3), uniform(2, 3, env.step_draws + env.reset_draws)
    arguments = [*episodes.state.values(), episodes.obs, episodes.steps, actions, u]
    before = [tensor.clone() for tensor in arguments]
    after, step = advance(env, episodes, actions, u)
    for tensor in (after.obs, step.final_obs):
        tensor.zero_()  # an observation is nobody's memory but its own
    for tensor, copy in zip(arguments, before, strict=True):
        assert torch.equal(tensor, copy)


@pytest.mark.parametrize("env_id", EVERY)
def test_a_step_asks_for_no_value_and_stays_on_the_device_of_its_draws(env_id):
    env = make(env_id)  # a meta tensor has no values, and takes none from another device
    episodes = begin(env, torch.empty(2, 3, env.reset_draws, device="meta"))
    actions = some_actions(env, 2, 3).to("meta")
    u = torch.empty(2, 3, env.step_draws + env.reset_draws, device="meta")
    after, step = advance(env, episodes, actions, u)
    assert all(part.is_meta for part in (*after.state.values(), after.obs, after.steps, *step))


def test_what_ends_begins_anew_in_the_same_step_and_shows_both_observations():
    env = make("CartPole-v1")
    episodes = begin(env, uniform(1, 2, 4))
    episodes.state["x"][0, 0, 0] = 3.0
    u = uniform(1, 2, 4, seed=1)
    after, step = advance(env, episodes, torch.zeros(1, 2, dtype=torch.int64), u)
    assert step.terminated.tolist() == [[True, False]]
    assert step.final_obs[0, 0, 0] > 2.4
    assert torch.equal(after.obs[0, 0], u[0, 0] * 0.1 - 0.05)
    assert torch.equal(after.obs[0, 1], step.final_obs[0, 1])
    assert after.steps.tolist() == [[0, 1]]


def test_an_episode_that_ends_itself_at_the_time_limit_is_not_truncated():
    env = make("CartPole-v1")
    episodes = begin(env, uniform(1, 2, 4))
    episodes.state["x"][0, 0, 0] = 3.0
    episodes.steps.fill_(env.max_episode_steps - 1)
    actions = torch.zeros(1, 2, dtype=torch.int64)
    after, step = advance(env, episodes, actions, uniform(1, 2, 4))
    assert step.terminated.tolist() == [[True, False]]
    assert step.truncated.tolist() == [[False, True]]
    assert after.steps.tolist() == [[0, 0]]


def test_an_id_without_a_tensor_form_is_refused_with_those_that_have_one():
    with pytest.raises(UsageError, match=r"^env_id must be one of CartPole-v1.*, got 'Lander-v3'"):
        make("Lander-v3")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normals_are_the_quantiles_of_the_normal_distribution(dtype):
    u = torch.tensor([2.0**-25, 1e-4, 0.1, 0.5, 0.9, 1 - 2.0**-24], dtype=dtype)
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {}
    torch.testing.assert_close(normal(u), torch.special.ndtri(u), **tolerance)
