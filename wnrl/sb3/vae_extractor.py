"""A trained VAE's encoder as what an agent sees: the bridge from ``wnrl.vae`` to SB3.

::

    policy_kwargs = dict(
        features_extractor_class=VAEExtractor,
        features_extractor_kwargs=dict(vae="runs/single/frames_CartPole-v1/frames/weight/seed0"),
    )
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn
from torch.func import functional_call

from wnrl.errors import UsageError
from wnrl.nn import fold
from wnrl.vae import VAE, VAEConfig, build, load
from wnrl.vae.config import SIZES
from wnrl.vae.construction import config_of

SHAPING = ("model", "dataset", "norm", "norm_kwargs", "norm_heads", "likelihood", *SIZES)
"""What decides how a VAE is built; the rest is how it was trained."""
RECIPES = "_wnrl_vaes"
"""The attribute of an observation space with the configurations of VAEs by folder."""


class VAEExtractor(BaseFeaturesExtractor):
    """The middle of the posterior, mu(x), of each frame of an observation.

    Weights are parameters (or buffers, where frozen) of this module alone: the VAE's layers are no
    submodules, so that nothing that goes through the layers of a policy finds them. SB3's
    orthogonal initialisation would draw them anew, and a policy's norm or data-dependent
    initialisation would change them. They run in eval mode always: batch norms use their running
    statistics, and an agent learns with the features that it acts on.

    A saved agent does not need the run folder. The weights are in its state dict; the configuration
    goes with the observation space, which SB3 saves with every agent and hands to its extractors.
    Where the folder is still there, it is read and must hold a VAE that is built alike.

    Args:
        observation_space: channel-first images with the size and the channels of the VAE's, or
            several such frames stacked along the channels, as ``VecFrameStack`` does.
        vae: a run folder of ``scripts/train_vae.py``.
        frozen: whether the weights stay as they are; else they are trained on with the agent's.

    Raises:
        UsageError: ``frozen`` is no bool, or the folder holds no trained VAE, one of other images,
            or another one than the saved agent, or another agent on this environment, has had from
            there.
    """

    def __init__(self, observation_space: spaces.Box, vae: str | Path, frozen: bool = True) -> None:
        model = _model(observation_space, str(vae))
        shape, (channels, *size) = observation_space.shape, model.image_shape
        if [*shape[1:]] != size or shape[0] % channels:
            raise UsageError(
                f"observation_space must have images of shape {model.image_shape}, or several of "
                f"them stacked, as the VAE in {vae}, got shape {shape}"
            )
        super().__init__(observation_space, shape[0] // channels * model.latent_dim)
        encoding = _Encoding(fold(model) if frozen else model)
        trained = set() if frozen else _used(encoding)
        self._keys = {name: name.replace(".", "_") for name in encoding.state_dict()}
        for name, value in encoding.state_dict().items():
            if name in trained:
                self.register_parameter(self._keys[name], nn.Parameter(value.clone()))
            else:
                self.register_buffer(self._keys[name], value.clone())
        self._skeleton = (encoding.to("meta"),)  # a tuple: no submodule

    def forward(self, observations: Tensor) -> Tensor:
        """Features ``(B, n_frames · Z)`` of images ``(B, n_frames · C, H, W)`` within [0, 1]."""
        (skeleton,) = self._skeleton
        weights = {name: getattr(self, key) for name, key in self._keys.items()}
        frames = observations.reshape(-1, *skeleton.model.image_shape)
        mu = functional_call(skeleton, weights, (frames,))
        return mu.reshape(observations.shape[0], -1)


class _Encoding(nn.Module):
    """Calls ``encode``, since ``functional_call`` calls ``forward``."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.encode(x)[0]


def _used(encoding: _Encoding) -> set[str]:
    """Return the names of the parameters that the features depend on: none of the decoder's."""
    with torch.enable_grad():
        encoding(torch.zeros(1, *encoding.model.image_shape)).sum().backward()
    used = {name for name, parameter in encoding.named_parameters() if parameter.grad is not None}
    encoding.zero_grad()
    return used


def _model(space: spaces.Box, folder: str) -> VAE:
    """In eval mode, the VAE in a folder, or, for weights that will follow, that of the space."""
    recipes: dict[str, dict[str, Any]] = vars(space).setdefault(RECIPES, {})
    if Path(folder).exists() or folder not in recipes:
        found = asdict(config_of(folder))
        known = recipes.get(folder, found)
        if other := [f"{name} {found[name]!r}" for name in SHAPING if found[name] != known[name]]:
            raise UsageError(  # SB3 would load what fits, and say that it is an older agent's
                f"run_folder {folder} holds another VAE than the one that the agent, or the "
                f"environment, has had from there: now it has {', '.join(other)}"
            )
        recipes[folder] = found
        return load(folder)
    with torch.random.fork_rng(devices=[]):
        return build(VAEConfig.from_json(recipes[folder])).eval()
