import dataclasses
import re

import gymnasium as gym
import numpy as np
import pytest
import torch

import envs
from agents import AGENTS
from agents.recurrent_ppo import RecurrentPPOConfig
from wnrl.rl.environments import vectorize, vectorize_for_evaluation
from wnrl.rl.evaluation import Curve, _tell_cut, evaluate, evaluate_point
from wnrl.rl.recording import film
from wnrl.rl.run import BeforeRollouts
from wnrl.sb3 import Diagnostics

FACTORY = envs.factory("CartPoleNoVel-v1")
PENDULUM = envs.factory("Pendulum-v1", max_episode_steps=9)
CONFIG = RecurrentPPOConfig(
    n_envs=2, n_steps=16, batch_size=16, n_epochs=2, lstm_hidden_size=8, normalize="both"
)


def agent(seed=0):
    env = vectorize(FACTORY, CONFIG.n_envs, seed, CONFIG.normalize)
    return AGENTS["recurrent_ppo"].build(CONFIG, env, "weight", seed, "cpu"), env


def learn(model, evaluation, curve, steps, n_episodes=2, others=(), **going_on):
    """Train with a curve as a run does; return where its best points were."""
    best = []

    def point():
        if evaluate_point(model, evaluation, curve, n_episodes, seed=7):
            best.append(model.num_timesteps)

    pauses = BeforeRollouts(lambda: point() if curve.is_due(model.num_timesteps) else None)
    model.learn(steps, [*others, pauses], **going_on)
    point()
    return best


def test_environments_count_on_from_the_seed():
    first = vectorize(FACTORY, 3, seed=5).reset()
    np.testing.assert_array_equal(vectorize(FACTORY, 3, seed=5).reset(), first)
    np.testing.assert_array_equal(vectorize(FACTORY, 1, seed=6).reset(), first[1:2])
    assert len(np.unique(first, axis=0)) == 3


def test_evaluation_sees_observations_as_the_agent_and_raw_rewards_and_updates_nothing():
    model, env = agent()
    model.learn(64)
    evaluation = vectorize_for_evaluation(FACTORY, 2, env)
    count = env.obs_rms.count
    observed = evaluation.reset()
    np.testing.assert_allclose(
        observed, env.normalize_obs(evaluation.get_original_obs()), rtol=1e-6
    )
    _, rewards, _, _ = evaluation.step(np.zeros(2, dtype=int))
    np.testing.assert_array_equal(rewards, 1.0)
    assert env.obs_rms.count == count
    model.learn(64)
    assert evaluation.obs_rms.count == env.obs_rms.count > count


def test_evaluation_without_scaling_is_raw():
    env = vectorize(FACTORY, 2, 0)
    evaluation = vectorize_for_evaluation(FACTORY, 2, env)
    np.testing.assert_array_equal(evaluation.reset(), vectorize(FACTORY, 2, 0).reset())


def test_evaluation_repeats_itself():
    model, env = agent()
    evaluation = vectorize_for_evaluation(FACTORY, 3, env)
    first = evaluate(model, evaluation, 7, seed=4)
    assert len(first[0]) == len(first[1]) == 7
    assert evaluate(model, evaluation, 7, seed=4) == first
    assert evaluate(model, evaluation, 7, seed=5) != first


def test_evaluation_in_training_leaves_training_as_it_is():
    trained = []
    for n_points in (None, 4):
        model, env = agent()
        if n_points:
            evaluation = vectorize_for_evaluation(FACTORY, 2, env)
            learn(model, evaluation, Curve(128 / n_points), 128, others=[Diagnostics()])
        else:
            model.learn(128, Diagnostics())
        trained.append(model.policy.parameters_to_vector())
    np.testing.assert_array_equal(trained[0], trained[1])


@pytest.mark.parametrize(
    ("n_points", "steps"), [(1, [128]), (2, [64, 128]), (3, [64, 96, 128]), (50, [32, 64, 96, 128])]
)
def test_evaluations_are_evenly_spaced_and_end_with_training(n_points, steps):
    model, env = agent()
    curve = Curve(128 / n_points)
    learn(model, vectorize_for_evaluation(FACTORY, 2, env), curve, 128)
    assert curve.steps == steps
    assert curve.as_json().keys() == {"steps", "eval/mean_reward"}
    assert len(curve.returns) == len(steps)


def test_last_point_of_the_curve_is_the_trained_agent():
    model, env = agent()
    evaluation, curve = vectorize_for_evaluation(FACTORY, 2, env), Curve(32)
    learn(model, evaluation, curve, 64, n_episodes=4)
    returns, _ = evaluate(model, evaluation, 4, seed=7)
    assert curve.returns[-1] == np.mean(returns)
    assert torch.is_grad_enabled()


def test_each_new_best_is_told_once_and_equals_are_not_better(monkeypatch):
    scores = iter([1.0, 3.0, 3.0, 2.0])
    monkeypatch.setattr("wnrl.rl.evaluation.evaluate", lambda *_: ([next(scores)], [1]))
    model, env = agent()
    curve = Curve(32)
    assert learn(model, vectorize_for_evaluation(FACTORY, 2, env), curve, 128) == [32, 64]
    assert curve.returns == [1.0, 3.0, 3.0, 2.0]


@pytest.mark.parametrize(("n", "mean"), [(1, 0.0), (10, 9.0), (11, 9.5), (20, 18.5), (21, 19.0)])
def test_the_final_window_is_the_last_tenth_of_the_curve(n, mean):
    assert Curve(1, list(range(n)), [float(k) for k in range(n)]).window == mean


@pytest.mark.parametrize("every", [32, 2.56])
def test_a_curve_goes_on_at_the_distance_of_its_points_and_has_no_step_twice(every):
    model, env = agent()
    evaluation, first = vectorize_for_evaluation(FACTORY, 2, env), Curve(every)
    learn(model, evaluation, first, 64)
    longer = Curve(**dataclasses.asdict(first))
    learn(model, evaluation, longer, 64, reset_num_timesteps=False)
    assert longer.steps == [32, 64, 96, 128]
    assert longer.returns[:2] == first.returns


class Endless(gym.Env):
    """Never ends an episode; one reward a step."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 1.0, False, False, {}


def test_an_evaluation_cuts_episodes_that_never_end_and_says_so_once(monkeypatch, capsys):
    monkeypatch.setattr("wnrl.rl.environments.LONGEST_EPISODE", 5)
    monkeypatch.setattr("wnrl.rl.evaluation.LONGEST_EPISODE", 5)
    _tell_cut.cache_clear()
    config = AGENTS["ppo"].config(n_envs=2, n_steps=8, batch_size=16, n_epochs=1)
    model = AGENTS["ppo"].build(config, vectorize(Endless, 2, 0), "weight", 0, "cpu")
    evaluation = vectorize_for_evaluation(Endless, 2, None)
    for _ in range(2):
        assert evaluate(model, evaluation, 3, seed=0) == ([5.0] * 3, [5] * 3)
    (told,) = capsys.readouterr().err.splitlines()
    assert re.match("evaluation: episodes were cut after 5 steps, .*--max-episode-st", told)


def exploring(algo, every):
    """An agent with state-dependent exploration, and what draws its noise."""
    config = AGENTS[algo].config(n_envs=3, net_arch=(8,), use_sde=True, sde_sample_freq=every)
    model = AGENTS[algo].build(config, vectorize(PENDULUM, 3, 0), "weight", 0, "cpu")
    return model, getattr(model, "actor", None) or model.policy


@pytest.mark.parametrize("algo", ["ppo", "sac"])
def test_drawn_actions_of_state_dependent_exploration_have_the_trained_spread(algo):
    model, actor = exploring(algo, -1)
    env = vectorize_for_evaluation(PENDULUM, 2, None)

    def returns(seed):
        torch.manual_seed(seed)
        return evaluate(model, env, 2, 0, deterministic=False)[0]

    assert returns(0) == returns(0) != returns(1)
    torch.nn.init.constant_(actor.log_std, -30.0)
    assert returns(1) == pytest.approx(evaluate(model, env, 2, 0)[0])


@pytest.mark.parametrize("algo", ["ppo", "sac"])
@pytest.mark.parametrize(("every", "times"), [(-1, 1), (4, 3)])
def test_noise_of_state_dependent_exploration_is_drawn_as_often_as_in_training(
    monkeypatch, algo, every, times
):
    model, actor = exploring(algo, every)
    drawn = []
    monkeypatch.setattr(actor, "reset_noise", drawn.append)
    env = vectorize_for_evaluation(PENDULUM, 2, None)
    evaluate(model, env, 2, 0)
    assert drawn == []
    evaluate(model, env, 2, 0, deterministic=False)
    assert drawn == [2] * times
    shown = envs.factory("Pendulum-v1", max_episode_steps=9, render_mode="rgb_array")
    film(model, vectorize_for_evaluation(shown, 1, None), 0, deterministic=False)
    assert drawn == [2] * times + [1] * times


def test_an_evaluation_leaves_an_environments_own_limit_alone(monkeypatch, capsys):
    monkeypatch.setattr("wnrl.rl.environments.LONGEST_EPISODE", 5)
    model, env = agent()
    evaluation = vectorize_for_evaluation(FACTORY, 2, env)
    assert max(evaluate(model, evaluation, 4, seed=0)[1]) > 5
    assert capsys.readouterr().err == ""
