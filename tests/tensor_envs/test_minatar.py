"""MinAtar's games as torch code against the package's, with the package's draws put in.

A batch plays side by side in both. Half of the environments act at random; the others plan with the
tensor form itself, since random play hardly reaches half of the rules.
"""

import collections

import gymnasium as gym
import numpy as np
import pytest
import torch

from envs import GAMES
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
    state["player"][4:6] = torch.tensor([20, 8])


def late_breakout(game, state):
    game.brick_map[:] = 0
    game.brick_map[1, 1::3] = 1
    state["bricks"][:] = torch.tensor([0b0010010010, 0, 0])


def above_breakout(game, state):
    game.ball_y = 0
    state["places"][0, 1] = 0


def late_freeway(game, state):
    game.terminate_timer = 60
    state["chicken"][2] = 60


def late_seaquest(game, state):
    game.ramp_index, game.e_spawn_speed, game.move_speed, game.diver_count = 18, 2, 2, 5
    game.oxygen = 30
    state["sub"][3:5] = torch.tensor([30, 5])
    state["sub"][9] = 18


def full_seaquest(game, state):
    """Six divers on board, one more at the player, two fish one cell before two bullets."""
    game.diver_count, game.sub_y, game.surface, game.divers = 6, 1, False, [[5, 1, True, 3]]
    game.e_fish = [[x, y, True, 5] for x, y in ((3, 4), (7, 6))]
    game.f_bullets = [[x, y, True] for x, y in ((2, 4), (6, 6))]
    game.shot_timer = 4
    state["sub"][1], state["sub"][4:7] = 1, torch.tensor([6, 0, 4])
    state["divers"][:, 0] = torch.tensor([5, 1, 1, 3])
    state["enemies"][0, 3], state["enemies"][0, 5] = 1 << 53, 1 << 57
    state["bullets"][:] = torch.tensor([[6, 2], [6, 4], [1, 1]])


def indebted_seaquest(game, state):
    """One diver less than none, as after surfacing with six."""
    game.diver_count, game.sub_y, game.surface = -1, 1, False
    state["sub"][1], state["sub"][4:6] = 1, torch.tensor([-1, 0])


def late_space_invaders(game, state):
    game.ramp_index, game.enemy_move_interval = 5, 7
    game.alien_map[:] = 0
    game.alien_map[7:9, 0:2] = 1
    state["cannon"][4] = 7
    state["maps"][0] = torch.tensor([0] * 7 + [0b11] * 2 + [0])


def last_space_invaders(game, state):
    """Two aliens of the fastest wave, each below a shot that is about to hit."""
    game.ramp_index, game.enemy_move_interval = 6, 6
    game.alien_map[:] = 0
    game.alien_map[4, [3, 8]] = game.f_bullet_map[5, [3, 8]] = 1
    state["cannon"][4] = 6
    state["maps"][0] = torch.tensor([0] * 4 + [0b100001000] + [0] * 5)
    state["maps"][1] = torch.tensor([0] * 5 + [0b100001000] + [0] * 4)


def landing_space_invaders(game, state):
    game.alien_map[9, 0] = 1
    game.alien_move_timer = 1
    state["cannon"][2] = 1
    state["maps"][0, 9] = 1


LATE = {
    "MinAtarAsterix-v1": [late_asterix],
    "MinAtarBreakout-v1": [late_breakout, above_breakout],
    "MinAtarFreeway-v1": [late_freeway],
    "MinAtarSeaquest-v1": [late_seaquest, full_seaquest, indebted_seaquest],
    "MinAtarSpaceInvaders-v1": [late_space_invaders, last_space_invaders, landing_space_invaders],
}
"""What puts one environment, in the package and here, into a part of its game seldom reached."""


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
        late = LATE[env_id][k // 4 % len(LATE[env_id])]
        late(oracles[k].game, {name: leaf[k] for name, leaf in episodes.state.items()})
        oracles[k + 1].env._elapsed_steps = 4995
        episodes.steps[k + 1] = 4995
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
        u = torch.tensor(draws, dtype=torch.float64)
        episodes, step = advance(env, episodes, actions, u)
        pictures, rewards, terminated, truncated = map(np.stack, zip(*seen, strict=True))
        np.testing.assert_array_equal(step.rewards, rewards)
        np.testing.assert_array_equal(step.terminated, terminated)
        np.testing.assert_array_equal(step.truncated, truncated & ~terminated)
        np.testing.assert_array_equal(step.final_obs.numpy() * 255, pictures)
        np.testing.assert_array_equal(episodes.obs.numpy() * 255, np.stack(afterwards))
        after, rewards, over = env.step(before, actions, u[:, : env.step_draws])
        yield before, after, rewards, over, step.truncated


def asterix_rules(before, after, over, rewards):
    (columns, _, _), (next_columns, _, _) = (x["things"].unbind(-2) for x in (before, after))
    player, next_player = before["player"], after["player"]
    gone = ((columns >= 0) & (next_columns < 0)).sum(-1)
    return {
        "gold is taken": rewards > 0,
        "an enemy ends the game": over,
        "a thing leaves": gone > rewards,
        "nothing appears where all rows are full": (player[:, 2] == 0) & (columns >= 0).all(-1),
        "things get faster": (next_player[:, 5] > player[:, 5]) & (next_player[:, 5] % 2 == 0),
        "it is as hard as can be": next_player[:, 5] == 9,
    }


def breakout_rules(before, after, over, rewards):
    row, next_row = before["places"][:, 0, 1], after["places"][:, 0, 1]
    (down, right, hit, _), (next_down, next_right, next_hit, _) = (
        x["moving"].unbind(-1) for x in (before, after)
    )
    bounced = (row == 8) & (next_row == 8)
    return {
        "a brick is broken": rewards > 0,
        "the next brick is passed": (hit > 0) & (next_hit > 0) & (rewards == 0),
        "a brick is broken from above": (rewards > 0) & (down > 0),
        "a wall": (right != next_right) & ~bounced,
        "the top": (next_row == 0) & (next_down > 0),
        "the paddle's near side": bounced & (right == next_right),
        "the paddle's far side": bounced & (right != next_right),
        "the ball is lost": over,
        "new bricks": after["bricks"].sum(-1) > before["bricks"].sum(-1),
    }


def freeway_rules(before, after, over, rewards):
    row, next_row = before["chicken"][:, 0], after["chicken"][:, 0]
    columns, next_columns = before["cars"][:, 0], after["cars"][:, 0]
    return {
        "it arrives": rewards > 0,
        "a car hits it": (next_row == 9) & (row < 8) & (rewards == 0),
        "a car leaves on the right": ((columns == 9) & (next_columns == 0)).any(-1),
        "a car leaves on the left": ((columns == 0) & (next_columns == 9)).any(-1),
        "time is over": over,
    }


def n_cells(words):
    return ((words.unsqueeze(-1) >> torch.arange(60)) & 1).sum((-1, -2))


def seaquest_rules(before, after, over, rewards):
    sub, next_sub = before["sub"], after["sub"]
    n_divers, next_n_divers = sub[:, 4], next_sub[:, 4]
    surfaces = (sub[:, 5] == 0) & (next_sub[:, 1] == 0)
    (fish, subs, *bits), (next_fish, next_subs, *_) = (
        x["enemies"].unbind(1) for x in (before, after)
    )
    column, row = next_sub[:, :2].long().unbind(-1)
    met_diver = (after["divers"][:, :2] == next_sub[:, :2, None]).all(1).any(-1)
    bullets = after["enemy_bullets"].sum(1).gather(1, (row - 1).clamp(0).unsqueeze(-1))[:, 0]
    bullets = (bullets >> column) & 1 > 0
    interval = (5 - (sub[:, 9] / 2).floor()).clamp(min=2).long().unsqueeze(-1)
    new = ((next_fish | next_subs) >> (10 * (interval - 1))) & 0b1000000001
    shoot = (subs & ~(bits[0] | bits[1] | bits[2] | bits[3])).any(-1)
    breathes = (sub[:, 3] > 0) & ~surfaces
    return {
        "a fish is shot": (rewards == 1) & (n_cells(fish) > n_cells(next_fish)),
        "a submarine is shot": (rewards == 1) & (n_cells(subs) > n_cells(next_subs)),
        "two are shot at once": (rewards == 2) & ~surfaces,
        "a submarine that is shot shoots": (rewards == 1) & shoot & (n_cells(fish) == 0),
        "a diver is taken": next_n_divers > n_divers,
        "a seventh diver is left": (n_divers == 6) & met_diver,
        "it surfaces with a few divers": surfaces & (next_n_divers >= 0) & ~over,
        "it surfaces with six": surfaces & (next_n_divers == -1) & (rewards > 0),
        "it surfaces with less than none": surfaces & (next_n_divers < -1),
        "it surfaces with none": surfaces & over & (next_n_divers == 0),
        "the tank is empty": over & (sub[:, 3] <= 0),
        "a bullet ends the game": over & breathes & bullets,
        "an enemy ends the game": over & breathes & ~bullets,
        "a submarine shoots": shoot,
        "an enemy does not appear": (sub[:, 7] == 0) & (new.sum(-1) == 0) & (rewards == 0),
        "enemies are as many and as fast as can be": next_sub[:, 9] == 19,
    }


def space_invaders_rules(before, after, over, rewards):
    cannon, next_cannon = before["cannon"], after["cannon"]
    aliens, next_aliens = before["maps"][:, 0], after["maps"][:, 0]
    at = 1 << next_cannon[:, 0].long()
    turns = cannon[:, 5] != next_cannon[:, 5]
    bomb, alien = after["maps"][:, 2, -1] & at > 0, next_aliens[:, -1] & at > 0
    moves = cannon[:, 2] == 0
    return {
        "an alien is shot": rewards == 1,
        "two are shot at once": rewards == 2,
        "a wave is over": (next_cannon[:, 4] < cannon[:, 4]),
        "aliens turn at the left": turns & (cannon[:, 5] < 0),
        "aliens turn at the right": turns & (cannon[:, 5] > 0),
        "few aliens are faster": moves & (next_cannon[:, 2] + 1 < next_cannon[:, 4]),
        "the fastest wave is over": (cannon[:, 4] == 6) & (next_aliens.sum(-1) > aliens.sum(-1)),
        "a bomb ends the game": over & bomb,
        "an alien ends the game": over & alien,
        "aliens land": over & ~bomb & ~alien,
        "a bomb and a shot pass": (before["maps"][:, 1, 1:] & before["maps"][:, 2, :-1]).any(-1),
    }


RULES = {
    "MinAtarAsterix-v1": asterix_rules,
    "MinAtarBreakout-v1": breakout_rules,
    "MinAtarFreeway-v1": freeway_rules,
    "MinAtarSeaquest-v1": seaquest_rules,
    "MinAtarSpaceInvaders-v1": space_invaders_rules,
}
"""What may happen in a game: from a step to where, in a batch, it happens."""


@pytest.mark.parametrize("env_id", GAMES)
def test_a_game_is_the_packages_step_for_step(env_id):
    steps = list(play(env_id, n_envs=16, n_steps=80, n_plans=8, depth=6))
    for happened in (2, 3, 4):  # rewards, ends, truncations
        assert sum(step[happened].sum() for step in steps) > 0


@pytest.mark.slow
@pytest.mark.parametrize("env_id", GAMES)
def test_ten_thousand_random_steps_and_as_many_planned_ones_follow_every_rule(env_id):
    times = collections.Counter()
    for before, after, rewards, over, _ in play(env_id, 40, 500, n_plans=24, depth=12):
        for rule, happens in RULES[env_id](before, after, over, rewards).items():
            times[rule] += int(happens.sum())
    print(env_id, dict(times))
    assert not [rule for rule, n in times.items() if n == 0]
