"""The tasks of memory against themselves written plainly, one episode at a time."""

import numpy as np
import pytest
import torch

from wnrl.errors import UsageError
from wnrl.tensor_envs import DelayedMatch, RepeatPrevious, TMaze
from wnrl.tensor_envs.core import advance, begin
from wnrl.tensor_envs.memory import DOWN, FIXATE, FORWARD, MATCH, NO_MATCH, UP


class PlainTMaze:
    def __init__(self, length, first_obs):
        self.length, self.cell, self.goal = length, 0, UP if first_obs[0] else DOWN

    def obs(self):
        up, down = self.cell == 0 and self.goal == UP, self.cell == 0 and self.goal == DOWN
        return [up, down, self.cell == self.length]

    def step(self, action, _):
        at_junction = self.cell == self.length
        if at_junction and action != FORWARD:
            return (1.0 if action == self.goal else -1.0), True
        hits_wall = at_junction == (action == FORWARD)
        self.cell += not hits_wall
        return (-0.1 if hits_wall else 0.0), False


class PlainRepeatPrevious:
    def __init__(self, lag, first_obs):
        self.lag, self.dealt = lag, [int(np.argmax(first_obs))]
        self.n_cards = 52 * (1 + (lag + 1) // 32)

    def obs(self):
        return [suit == self.dealt[-1] for suit in range(4)]

    def step(self, action, next_obs):
        reward = 0.0
        if len(self.dealt) > self.lag:
            right = action == self.dealt[-1 - self.lag]
            reward = (1 if right else -1) / (self.n_cards - self.lag - 1)
        self.dealt.append(int(np.argmax(next_obs)))  # the draw itself is another test's
        return reward, False


class PlainDelayedMatch:
    def __init__(self, delay, first_obs):
        self.delay, self.time, self.sample = delay, 0, [*first_obs[1:]]

    def obs(self):
        if self.time == 0:
            return [1, *self.sample]
        return [1, 0, 0] if self.time <= self.delay else [0, *self.test]

    def step(self, action, next_obs):
        tested = self.time > self.delay
        self.time += 1
        if self.time == self.delay + 1:
            self.test = [*next_obs[1:]]
        if action == FIXATE:
            return 0.0, False
        if not tested:
            return -0.1, False
        return float((self.test == self.sample) == (action == MATCH)), True


PLAIN = [
    (TMaze(1), PlainTMaze),
    (TMaze(5), PlainTMaze),
    (RepeatPrevious(0), PlainRepeatPrevious),
    (RepeatPrevious(3), PlainRepeatPrevious),
    (RepeatPrevious(31), PlainRepeatPrevious),
    (DelayedMatch(0), PlainDelayedMatch),
    (DelayedMatch(4), PlainDelayedMatch),
]


@pytest.mark.parametrize(("env", "plain"), PLAIN)
def test_episodes_are_those_of_the_task_written_plainly(env, plain):
    n_envs, n_steps = 12, 250
    generator = torch.Generator().manual_seed(0)

    def draw(n):
        return torch.rand(n_envs, n, generator=generator, dtype=torch.float64)

    episodes = begin(env, draw(env.reset_draws))
    tasks = [plain(env.memory, obs.tolist()) for obs in episodes.obs]
    times = [0] * n_envs
    ends = set()
    for _ in range(n_steps):
        actions = (draw(1)[:, 0] ** 2 * int(env.action_space.n)).long()  # the first more often
        episodes, step = advance(env, episodes, actions, draw(env.step_draws + env.reset_draws))
        for k in range(n_envs):
            reward, terminated = tasks[k].step(int(actions[k]), step.final_obs[k].tolist())
            times[k] += 1
            truncated = times[k] == env.max_episode_steps and not terminated
            assert float(step.rewards[k]) == pytest.approx(reward, abs=1e-12)
            assert (bool(step.terminated[k]), bool(step.truncated[k])) == (terminated, truncated)
            assert step.final_obs[k].tolist() == [float(number) for number in tasks[k].obs()]
            if terminated or truncated:
                ends.add((terminated, truncated))
                tasks[k], times[k] = plain(env.memory, episodes.obs[k].tolist()), 0
    assert ends


@pytest.mark.parametrize("memory", [3, 31, 63])
def test_decks_are_dealt_without_putting_back_and_every_order_is_as_probable(memory):
    env = RepeatPrevious(memory)
    u = torch.rand(env.n_cards, 2000, 1)
    state = env.reset(u[0])
    dealt = [env.observe(state)]
    for draws in u[1:]:
        state = env.step(state, torch.zeros(2000, dtype=torch.int64), draws)[0]
        dealt.append(env.observe(state))
    cards = torch.stack(dealt)  # (cards, 2000, 4)
    assert (cards.sum(0) == env.n_cards / 4).all()
    same = (cards[1:] * cards[:-1]).sum(-1).mean(1)  # neighbours have one suit this often:
    expected = (env.n_cards / 4 - 1) / (env.n_cards - 1)
    assert (same - expected).abs().max() < 4.5 * (expected * (1 - expected) / 2000) ** 0.5
    assert (cards.mean(1) - 0.25).abs().max() < 4.5 * (0.25 * 0.75 / 2000) ** 0.5


def returns(env, policy):
    """Mean return of 2,000 episodes of ``policy(obs_so_far) -> actions``."""
    draws = env.step_draws + env.reset_draws
    episodes = begin(env, torch.rand(2000, env.reset_draws))
    seen, total, going_on = [episodes.obs], torch.zeros(2000), torch.ones(2000)
    for _ in range(env.max_episode_steps):
        episodes, step = advance(env, episodes, policy(seen), torch.rand(2000, draws))
        seen.append(episodes.obs)
        total += going_on * step.rewards
        going_on *= ~(step.terminated | step.truncated)
    return float(total.mean())


def test_memory_earns_in_the_t_maze_what_is_promised():
    def turn(sign):
        return torch.where(sign[:, 0] == 1, UP, DOWN)

    def remembering(seen):
        return torch.where(seen[-1][:, 2] == 1, turn(seen[0]), FORWARD)

    def forgetting(seen):
        return torch.where(seen[-1][:, 2] == 1, UP, FORWARD)

    assert returns(TMaze(6), remembering) == 1
    assert returns(TMaze(6), forgetting) == pytest.approx(0, abs=0.1)


def test_memory_earns_in_repeat_previous_what_is_promised():
    def remembering(seen):
        return seen[max(0, len(seen) - 4)].argmax(-1)

    def forgetting(seen):
        return torch.randint(4, (2000,))

    assert returns(RepeatPrevious(3), remembering) == pytest.approx(1, abs=1e-5)
    assert returns(RepeatPrevious(3), forgetting) == pytest.approx(-0.5, abs=0.02)


def test_memory_earns_in_delayed_match_what_is_promised():
    def answer(seen, same):
        return torch.where(seen[-1][:, 0] == 1, FIXATE, torch.where(same, MATCH, NO_MATCH))

    def remembering(seen):
        return answer(seen, (seen[0][:, 1:] == seen[-1][:, 1:]).all(-1))

    def forgetting(seen):
        return answer(seen, torch.ones(2000, dtype=torch.bool))

    assert returns(DelayedMatch(6), remembering) == 1
    assert returns(DelayedMatch(6), forgetting) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(
    ("env", "wrong"), [(TMaze, 0), (TMaze, -1), (RepeatPrevious, -1), (DelayedMatch, -1)]
)
def test_a_memory_that_is_none_is_refused(env, wrong):
    with pytest.raises(
        UsageError, match=rf"memory must be (above zero|a whole number from zero on), got {wrong}"
    ):
        env(memory=wrong)
