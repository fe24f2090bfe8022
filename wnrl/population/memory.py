"""How much memory a cohort takes, and how many members the memory holds.

An estimate, from what an iteration was seen to keep, on the safe side of it.
"""

from math import prod

import torch
from gymnasium import spaces

from wnrl.errors import UsageError
from wnrl.population.config import DQNConfig, PPOConfig
from wnrl.runs.machine import free_memory
from wnrl.tensor_envs.core import TensorEnv
from wnrl.vae.config import VAEConfig
from wnrl.vae.measure import IMAGES
from wnrl.vae.model import VAE

COPIES = 9
"""Of a member's parameters: they, two of the optimizer, the best, and those that wait to be
evaluated."""
IN_A_CHECKPOINT = 3
"""More of them in a checkpoint, of agents."""
IN_AN_UPDATE = 5
"""More of them in an update: gradients, computed weights and what their gradients are made of."""
OF_A_SAMPLE = 5
"""Of a number of a sample: as steps, stacked, in order, shuffled, and the draws in int64."""
OF_A_UNIT = 6
"""Numbers that an update keeps for each hidden unit and sample."""
OF_A_PIXEL = 8
"""The like of ``SmallCNN``: windows and maps."""
OF_A_MEMORY = 64
"""The like of a recurrent unit; by formula it is a quarter."""
CHUNK_ON_CPU = 8
"""Members that a CPU updates together: what they need stays in its cache."""
SHARE = 0.9
"""Of the free memory that a cohort may take."""


def bytes_of_ppo(config: PPOConfig, env: TensorEnv, width: int, itemsize: int) -> tuple[int, int]:
    """Return the bytes of a member, and those that it takes besides while it is updated.

    Args:
        config: of the members.
        env: the environment.
        width: numbers of a member's parameters.
        itemsize: bytes of a number.
    """
    actions = env.action_space
    n_actions = int(actions.n) if isinstance(actions, spaces.Discrete) else prod(actions.shape)
    draws = env.step_draws + env.reset_draws + n_actions
    units = getattr(config, "n_lstm_layers", 0) * getattr(config, "lstm_hidden_size", 0)
    sample = OF_A_SAMPLE * (2 * prod(env.observation_space.shape) + draws + 2 * n_actions + 8)
    sample += 4 * 4 * units  # before and after, as steps and stacked; two networks of two states
    order = 8 * config.n_epochs * config.samples * (config.minibatches > 1)
    hidden = OF_A_UNIT * sum(config.net_arch) + OF_A_MEMORY * units
    active = IN_AN_UPDATE * width + 2 * min(config.batch_size, config.samples) * hidden
    kept = (COPIES + IN_A_CHECKPOINT) * width + config.samples * sample
    return itemsize * kept + order, itemsize * active


def bytes_of_dqn(config: DQNConfig, env: TensorEnv, width: int, itemsize: int) -> tuple[int, int]:
    """Return the like for a member of DQN: its replay buffer counts twice, once in a checkpoint."""
    shape = env.observation_space.shape
    inputs, picture = prod(shape), len(shape) == 3
    replay = config.rows * config.n_envs * bytes_of_transition(inputs, itemsize, picture)
    draws = config.samples * OF_A_SAMPLE * (2 * inputs + env.step_draws + env.reset_draws + 4)
    samples = config.updates * config.batch_size
    units = sum(config.net_arch) + (OF_A_PIXEL * inputs if picture else 0)
    hidden = OF_A_UNIT * config.batch_size * units
    kept = itemsize * ((COPIES + IN_A_CHECKPOINT + 2) * width + draws) + 2 * replay + 8 * samples
    recalled = OF_A_SAMPLE * samples * bytes_of_transition(inputs, itemsize)
    return kept, itemsize * (IN_AN_UPDATE * width + hidden) + recalled


def bytes_of_transition(inputs: int, itemsize: int, picture: bool = False) -> int:
    """Return the bytes of a step: two observations, in bytes if a picture, a reward, an action."""
    return 2 * inputs * (1 if picture else itemsize) + itemsize + 9


def bytes_of_vae(
    config: VAEConfig, model: VAE, n_train: int, device: torch.device
) -> tuple[int, int]:
    """Return the like for a VAE that learns ``n_train`` images, in float32.

    A GPU keeps what a recorded step works in beside that of steps that are launched.
    """
    width = sum(parameter.numel() for parameter in model.parameters())
    pixels, outputs = prod(model.image_shape), prod(model.params_shape)
    n_samples = max(config.batch_size * config.train_samples, IMAGES)  # IMAGES are validated
    units = n_samples * (2 * sum(config.hidden or ()) + pixels + outputs + model.latent_dim)
    draws = 8 * OF_A_SAMPLE * config.batch_size * pixels
    active = 4 * (IN_AN_UPDATE * width + OF_A_UNIT * units) + draws
    return 4 * COPIES * width + 24 * n_train, active * (1 if device.type == "cpu" else 2)


def members_that_fit(each: tuple[int, int], chunk: int | None, device: torch.device) -> int:
    """Return how many members the free memory of a device holds.

    Args:
        each: from ``bytes_of``.
        chunk: members that are updated together; None: all.
        device: where they are trained.
    """
    kept, active = each
    room = min(SHARE * free_memory(device), 2.0**62)  # a whole number, also where it is infinite
    n_together = int(room // (kept + active))
    if chunk is None or n_together <= chunk:
        return n_together
    return int((room - chunk * active) // kept)


def check_memory(
    n_members: int, each: tuple[int, int], chunk: int | None, device: torch.device
) -> None:
    """Raise UsageError if a device has no room for so many members; arguments as above."""
    fit = members_that_fit(each, chunk, device)
    if n_members > fit:
        needed = n_members * each[0] + min(chunk or n_members, n_members) * each[1]
        raise UsageError(
            f"a cohort of {n_members} members needs about {needed / 2**30:.2g} GiB, and {device} "
            f"has {SHARE * free_memory(device) / 2**30:.2g} GiB for it: {fit} members fit"
        )
