"""Tasks of memory: what was seen before decides what is right now.

Each has a field ``memory``, the number of steps for which something has to be remembered.
"""

from dataclasses import dataclass

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from wnrl.limits import Limited, Whole, WholeFromZero
from wnrl.tensor_envs.core import State

FORWARD, UP, DOWN = range(3)  # the T-maze's actions
FIXATE, MATCH, NO_MATCH = range(3)  # delayed match's


@dataclass(frozen=True)
class TMaze(Limited):
    """``TMaze-v0``: a corridor with a junction at its end; a sign at its start says where to turn.

    The T-maze of Bakker (2001, "Reinforcement Learning with Long Short-Term Memory"). The
    observation, ``(3,)``, is two signs, up and down, of which one is 1 in the first cell alone, and
    whether this is the junction. Actions are forward, up and down. Turning up or down at the
    junction ends the episode: with 1 where the sign pointed, else with -1. A step into a wall costs
    0.1. An agent with memory can have 1; one without cannot have more than 0 on average. There is
    time for as many errors as steps.

    Raises:
        UsageError: ``memory`` is not above zero.
    """

    memory: Whole = 8
    """Cells of the corridor, the first one included; the junction is behind them."""

    observation_space = spaces.Box(0.0, 1.0, (3,), np.float32)
    action_space = spaces.Discrete(3)
    reset_draws = 1
    step_draws = 0

    @property
    def max_episode_steps(self) -> int:
        """Twice the way to the end."""
        return 2 * (self.memory + 1)

    def reset(self, u: Tensor) -> State:
        """Return the first cell, with a sign drawn anew."""
        signs = _one_of_two(u[..., 0])
        return {"signs": signs, "cell": torch.zeros_like(u[..., 0], dtype=torch.int64)}

    def observe(self, state: State) -> Tensor:
        """Return the signs, in the first cell, and whether this is the junction, ``(*B, 3)``."""
        cell = state["cell"][..., None]
        signs = state["signs"] * (cell == 0)
        return torch.cat((signs, (cell == self.memory).to(signs.dtype)), -1)

    def step(self, state: State, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        """Go forward, or turn."""
        signs, cell = state["signs"], state["cell"]
        at_junction, forward = cell == self.memory, actions == FORWARD
        turned_well = torch.where(actions == UP, signs[..., 0], signs[..., 1])
        terminated = at_junction & ~forward
        hits_wall = at_junction == forward
        rewards = torch.where(terminated, turned_well * 2 - 1, hits_wall.to(signs.dtype) * -0.1)
        return {"signs": signs, "cell": cell + (forward & ~at_junction)}, rewards, terminated


@dataclass(frozen=True)
class RepeatPrevious(Limited):
    """``RepeatPrevious-v0``: cards are dealt; name the suit of the one ``memory`` cards ago.

    POPGym's task (Morad et al., 2023, arXiv:2303.01859), whose k is ``memory`` + 1: its easy,
    medium and hard ones have 3, 31 and 63 here. Cards come from one deck of 52, from two where
    ``memory`` is 31 or more, from three at 63, and so on. The observation, ``(4,)``, is 1 at the
    suit of the newest card; actions are the suits. Where that many cards lie, right is rewarded
    and wrong costs, each by one part of the rest of the cards: the best return is 1, that of chance
    -0.5. The episode is truncated when the last card lies.

    Raises:
        UsageError: ``memory`` is negative.
    """

    memory: WholeFromZero = 3
    """How many cards ago; 0 is the one that is seen."""

    observation_space = spaces.Box(0.0, 1.0, (4,), np.float32)
    action_space = spaces.Discrete(4)
    reset_draws = 1
    step_draws = 1

    @property
    def n_cards(self) -> int:
        """The number of cards of all decks."""
        return 52 * (1 + (self.memory + 1) // 32)

    @property
    def max_episode_steps(self) -> int:
        """One step for each card after the first."""
        return self.n_cards - 1

    def reset(self, u: Tensor) -> State:
        """Return one card of shuffled decks."""
        undealt = torch.full_like(u[..., 0], self.n_cards / 4)[..., None].expand(*u.shape[:-1], 4)
        nothing = torch.full_like(undealt[..., :1], -1, dtype=torch.int64)
        return self._deal(undealt, nothing.expand(*u.shape[:-1], self.memory), u)

    def observe(self, state: State) -> Tensor:
        """Return the newest card's suit, ``(*B, 4)``."""
        return _one_hot(state["suits"][..., -1:], state["undealt"])

    def step(self, state: State, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        """Name a suit; a card is dealt."""
        asked = state["suits"][..., 0]
        part = 1 / (self.n_cards - self.memory - 1)
        rewards = (actions == asked).to(u.dtype) * (2 * part) - part
        rewards = rewards.masked_fill(asked < 0, 0)
        state = self._deal(state["undealt"], state["suits"][..., 1:], u)
        return state, rewards, torch.zeros_like(asked, dtype=torch.bool)

    def _deal(self, undealt: Tensor, suits: Tensor, u: Tensor) -> State:
        """Return the state after one more card: a suit is as probable as it has cards left.

        That is dealing from shuffled decks, with nothing to shuffle.
        """
        below = undealt.cumsum(-1)
        suit = (u * below[..., -1:] >= below[..., :3]).sum(-1, keepdim=True)
        return {
            "undealt": undealt - _one_hot(suit, undealt),
            "suits": torch.cat((suits, suit), -1),  # the last memory + 1, -1 where none was dealt
        }


@dataclass(frozen=True)
class DelayedMatch(Limited):
    """``DelayedMatch-v0``: a sample, a delay, a test; say whether both show the same.

    Delayed match to sample, as monkeys do it (Miller, Erickson & Desimone, 1996, J. Neurosci. 16),
    with the actions and rewards of NeuroGym (Molano-Mazón et al., 2022). One of two stimuli is
    shown for one step; after ``memory`` blank ones, one is shown until the answer: the same with
    probability 0.5. The observation, ``(3,)``, is whether to wait and the two stimuli. Actions are
    wait, match and no match. A right answer has 1 and a wrong one 0, and ends the episode; any
    before the test costs 0.1. Without memory the best return is 0.5 on average.

    Raises:
        UsageError: ``memory`` is negative.
    """

    memory: WholeFromZero = 8
    """Steps of the delay."""

    observation_space = spaces.Box(0.0, 1.0, (3,), np.float32)
    action_space = spaces.Discrete(3)
    reset_draws = 2
    step_draws = 0

    @property
    def max_episode_steps(self) -> int:
        """Twice the steps to the answer."""
        return 2 * (self.memory + 2)

    def reset(self, u: Tensor) -> State:
        """Return a sample that is shown and a test that is to come."""
        return {
            "sample": _one_of_two(u[..., 0]),
            "test": _one_of_two(u[..., 1]),
            "shown": torch.zeros_like(u[..., 0], dtype=torch.int64),
        }

    def observe(self, state: State) -> Tensor:
        """Return whether to wait, and the stimuli, ``(*B, 3)``."""
        shown = state["shown"][..., None]
        wait = (shown <= self.memory).to(state["sample"].dtype)
        stimuli = torch.where(shown == 0, state["sample"], state["test"] * (1 - wait))
        return torch.cat((wait, stimuli), -1)

    def step(self, state: State, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        """Wait, or answer."""
        tested, answered = state["shown"] > self.memory, actions != FIXATE
        matches = (state["sample"] * state["test"]).sum(-1)
        right = torch.where(actions == MATCH, matches, 1 - matches)
        rewards = answered * torch.where(tested, right, -0.1)
        return {**state, "shown": state["shown"] + 1}, rewards, tested & answered


def _one_of_two(u: Tensor) -> Tensor:
    """Return 1 at one of two places, ``(*B, 2)``, in the dtype of ``u`` ``(*B)``."""
    first = (u < 0.5).to(u.dtype)
    return torch.stack((first, 1 - first), -1)


def _one_hot(suit: Tensor, like: Tensor) -> Tensor:
    """Return 1 at the suit, ``(*B, 4)``; ``suit`` is ``(*B, 1)``."""
    return torch.zeros_like(like).scatter_(-1, suit, 1)
