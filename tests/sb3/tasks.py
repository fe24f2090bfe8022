"""Spaces and environments that the tests of policies share."""

import copy

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

VECTOR = spaces.Box(-1.0, 1.0, (5,))
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
DICT = spaces.Dict({"a": VECTOR, "b": spaces.Box(-1.0, 1.0, (2, 2))})
SPACES = {"Mlp": VECTOR, "Cnn": IMAGE, "MultiInput": DICT}


class RandomTask(gym.Env):
    """Random observations of any space, two actions unless said otherwise; episodes of 7 steps."""

    def __init__(self, observation_space=VECTOR, action_space=None):
        self.observation_space = copy.deepcopy(observation_space)
        self.action_space = action_space or spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.t += 1
        return self.observation_space.sample(), 1.0, self.t == 7, False, {}

    def action_masks(self):
        return np.ones(2, dtype=bool)


def sample(space, n=4):
    """Observations, always the same ones."""
    space = copy.deepcopy(space)
    space.seed(1)
    draws = [space.sample() for _ in range(n)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([draw[key] for draw in draws]) for key in space}
    return np.stack(draws)


def outputs(policy, obs):
    """All that the networks of a policy without recurrence make of ``obs``, in evaluation."""
    policy.set_training_mode(False)
    obs_tensor, _ = policy.obs_to_tensor(obs)
    actions = torch.zeros(4, dtype=torch.long, device=policy.device)
    with torch.no_grad():
        if hasattr(policy, "mlp_extractor"):
            return policy.evaluate_actions(obs_tensor, actions)
        nets = ("q_net", "q_net_target", "quantile_net", "quantile_net_target")
        return tuple(getattr(policy, net)(obs_tensor) for net in nets if hasattr(policy, net))
