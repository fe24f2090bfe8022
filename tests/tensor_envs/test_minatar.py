"""MinAtar's games as torch code against the package's, with the package's draws put in.

A batch plays side by side in both. Half of the environments act at random; the others plan with the
tensor form itself, since random play hardly reaches half of the rules.
"""

import gymnasium as gym
import numpy as np
import pytest
import torch

import envs  # noqa: F401 - registers the games
from wnrl.tensor_envs import make
from wnrl.tensor_envs.core import advance, begin

pytest.importorskip("minatar")


class Recorder:
    """A package's generator that notes each draw as uniforms, a list for each call."""

    def __init__(self, generator):
        self.generator = generator
        self.calls = []

    def rand(self, *shape):
        drawn = self.generator.rand(*shape)
        self.calls.append(np.ravel(drawn).tolist())
        return drawn

    def randint(self, low, high=None, size=None):
        drawn = self.generator.randint(low, high, size)
        low, high = (0, low) if high is None else (low, high)
        self.calls.append(((np.ravel(drawn) - low + 0.5) / (high - low)).tolist())
        return drawn

    def spent(self):
        calls, self.calls = self.calls, []
        return calls


class Oracle:
    """One environment of Gymnasium's with the package's game inside."""

    def __init__(self, env_id, seed):
        self.env = gym.make(env_id, disable_env_checker=True)
        self.env.reset()
        package = self.env.unwrapped._game
        self.game = package.env
        self.sticks = package.random = Recorder(np.random.RandomState(seed))
        self.draws = self.game.random = Recorder(np.random.RandomState(seed + 1000))

    def reset(self, n_draws):
        obs, _ = self.env.reset()
        return obs, self._uniforms(n_draws)

    def step(self, action, n_draws):
        *seen, _ = self.env.step(action)
        return seen, self.sticks.spent()[0] + self._uniforms(n_draws - 1)

    def _uniforms(self, n_draws):
        calls = self.draws.spent()
        if hasattr(self.game, "divers") and len(calls) == 2:  # a diver's, which follow an enemy's
            calls = [[0.5] * 3, *calls]
        drawn = [u for call in calls for u in call]
        return drawn + [0.5] * (n_draws - len(drawn))


def late_asterix(game, state):
    game.ramp_index, game.spawn_speed, game.move_speed, game.ramp_timer = 8, 2, 1, 20
    state["player"][..., 4:6] = torch.tensor([20, 8])


def late_breakout(game, state):
    game.brick_map[:] = 0
    game.brick_map[1, 1::3] = 1
    state["bricks"][:] = torch.tensor([0b0010010010, 0, 0])


def late_freeway(game, state):
    game.terminate_timer = 60
    state["chicken"][..., 2] = 60


def late_seaquest(game, state):
    game.ramp_index, game.e_spawn_speed, game.move_speed, game.diver_count = 18, 2, 2, 5
    game.oxygen = 30
    state["sub"][..., 3:5] = torch.tensor([30, 5])
    state["sub"][..., 9] = 18


def late_space_invaders(game, state):
    game.ramp_index, game.enemy_move_interval = 5, 7
    game.alien_map[:] = 0
    game.alien_map[7:9, 0:2] = 1
    state["cannon"][..., 4] = 7
    state["maps"][0] = torch.tensor([0] * 7 + [0b11] * 2 + [0])


LATE = {
    "MinAtarAsterix-v1": late_asterix,
    "MinAtarBreakout-v1": late_breakout,
    "MinAtarFreeway-v1": late_freeway,
    "MinAtarSeaquest-v1": late_seaquest,
    "MinAtarSpaceInvaders-v1": late_space_invaders,
}
"""What puts one environment, in the package and here, into a late part of its game."""


def worth(state):
    """Return what a planner gives for a state: divers on board, waves, the way across."""
    if "sub" in state:
        return 0.5 * state["sub"][..., 4] + 0.8 * state["sub"][..., 9]
    if "chicken" in state:
        return -0.05 * state["chicken"][..., 0]
    return 0.0


def planned(env, state, generator, n_plans, depth):
    """Return the first actions of the best of some random plans, played ahead by ``env``."""
    n_actions = int(env.action_space.n)
    batch = next(iter(state.values())).shape[:1]
    state = {name: leaf.expand(n_plans, *leaf.shape).clone() for name, leaf in state.items()}
    plans = torch.randint(n_actions, (depth, n_plans, *batch), generator=generator)
    total, alive = torch.zeros(plans.shape[1:]).double(), 1.0
    for actions in plans:
        u = torch.rand(*actions.shape, env.step_draws, generator=generator).double()
        state, rewards, over = env.step(state, actions, u)
        total += alive * (rewards - 20 * over)
        alive = alive * ~over * 0.95
    best = (total + alive * worth(state)).argmax(0)
    return plans[0].gather(0, best.unsqueeze(0))[0]


def play(env_id, n_envs, n_steps, n_plans, depth):
    """Play both forms with the same draws, assert that they agree, yield what happened."""
    env = make(env_id)
    oracles = [Oracle(env_id, seed) for seed in range(n_envs)]
    generator = torch.Generator().manual_seed(0)
    firsts = [oracle.reset(env.reset_draws) for oracle in oracles]
    episodes = begin(env, torch.tensor([u for _, u in firsts], dtype=torch.float64))
    for k in range(0, n_envs, 4):
        LATE[env_id](oracles[k].game, {n: leaf[k] for n, leaf in episodes.state.items()})
        oracles[k + 1].env._elapsed_steps = 4970
        episodes.steps[k + 1] = 4970
    np.testing.assert_array_equal(
        episodes.obs[1::4].numpy() * 255, np.stack([obs for obs, _ in firsts[1::4]])
    )
    for _ in range(n_steps):
        actions = torch.randint(int(env.action_space.n), (n_envs,), generator=generator)
        if n_plans:
            plans = planned(env, episodes.state, generator, n_plans, depth)
            actions[: n_envs // 2] = plans[: n_envs // 2]
        seen, afterwards, draws = [], [], []
        for oracle, action in zip(oracles, actions.tolist(), strict=True):
            (obs, *result), u = oracle.step(action, env.step_draws)
            seen.append((obs, *result))
            first_obs, first_u = oracle.reset(env.reset_draws) if any(result[1:3]) else (obs, None)
            afterwards.append(first_obs)
            draws.append(u + (first_u or [0.5] * env.reset_draws))
        before = episodes.state
        episodes, step = advance(env, episodes, actions, torch.tensor(draws, dtype=torch.float64))
        pictures, rewards, terminated, truncated = map(np.stack, zip(*seen, strict=True))
        np.testing.assert_array_equal(step.rewards, rewards)
        np.testing.assert_array_equal(step.terminated, terminated)
        np.testing.assert_array_equal(step.truncated, truncated & ~terminated)
        np.testing.assert_array_equal(step.final_obs.numpy() * 255, pictures)
        np.testing.assert_array_equal(episodes.obs.numpy() * 255, np.stack(afterwards))
        yield before, step


@pytest.mark.parametrize("env_id", LATE)
def test_a_game_is_the_packages_step_for_step(env_id):
    steps = [step for _, step in play(env_id, n_envs=16, n_steps=100, n_plans=12, depth=8)]
    assert sum(step.rewards.sum() for step in steps) > 0
    assert any(step.terminated.any() for step in steps)
    assert any(step.truncated.any() for step in steps)
