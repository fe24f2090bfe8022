"""MLP VAEs of one norm and shape, trained as one batch (Kingma & Welling, 2014, arXiv:1312.6114).

Models, losses, schedules and bounds are those of ``wnrl.vae``: with the random numbers of its
``Trainer`` a member has its parameters.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from wnrl.data import Images
from wnrl.diagnostics import effective_weights, gradient_norms, weight_lengths
from wnrl.errors import UsageError
from wnrl.population.cohort import Members
from wnrl.population.config import shared
from wnrl.population.memory import CHUNK_ON_CPU, bytes_of_vae, check_memory
from wnrl.population.optim import check_after_step, without_denormals
from wnrl.population.random import Number, fork, permutation, uniform
from wnrl.population.rows import Tensors, below, stacked
from wnrl.population.states import ALL, clone, copy_, part, put_back_
from wnrl.vae.config import SCHEDULES, VAEConfig
from wnrl.vae.construction import build
from wnrl.vae.inputs import binarised
from wnrl.vae.measure import IMAGES
from wnrl.vae.model import VAE, Terms
from wnrl.vae.objectives import Validation, loss, measures_of, share_of_beta
from wnrl.vae.posteriors import DiagonalNormal, Source

ORDERS, PIXELS, NOISE = range(3)
"""Streams of random numbers of a member."""
HAS: Mapping[str, tuple[Any, ...]] = {
    "model": ("mlp",),
    "objective": ("elbo", "iwae"),
    "train_chunk": (None,),
    "ema_epochs": (0.0,),
    "amp": (False,),
}
"""The settings of which a population has some values alone."""
BY_THEMSELVES = ("batch", "spectral")
"""Norms whose members it updates one by one: torch's kernels for several round differently."""
VALIDATED = 2**17
"""Images times samples that are validated in one pass, over all members."""


def check(config: VAEConfig) -> None:
    """Raise UsageError for what a population of VAEs does not have."""
    for name, values in HAS.items():
        if (value := getattr(config, name)) not in values:
            has = " or ".join(map(str, values))
            raise UsageError(f"VAEs in a population have {name} {has} alone, got {value!r}")
    check_after_step(config.norm)


class Draws(NamedTuple):
    """What is random in a gradient step."""

    rows: Tensor
    """Which images, ``(P, B)`` int64."""
    pixels: Tensor
    """What grey levels are held against, uniform in (0, 1), ``(P, B, C, H, W)``; overwritten."""
    noise: Tensor
    """Standard normal, ``(P, K, B, Z)``."""


class Update(NamedTuple):
    """What a gradient step did."""

    before: Tensor
    """Parameters before it, ``(P, D)``."""
    gradients: Tensor
    """Before clipping, ``(P, D)``."""


class WithNoise(nn.Module):
    """A VAE that can be given the noise of its samples, as the one network of a member."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def networks(self) -> list[nn.Module]:
        """Return the networks of a member, as a ``Layout`` asks for them."""
        return [self]

    def forward(self, x: Tensor, n_samples: int, source: Source, noise: Tensor | None) -> Terms:
        """Return the terms at K samples of noise from a generator, or from ``(K, B, Z)``."""
        if noise is None:
            return self.vae(x, n_samples, source)
        q = DiagonalNormal(*self.vae.encode(x))
        return self.vae.terms(x, q, q.at(noise))


class VAECohort(Members):
    """A cohort of VAEs, which begin as ``wnrl.vae.build`` makes them.

    Args:
        images: what they learn, on the device whole.
        members: their configurations, which may differ in ``VAEConfig.members``.
        device: where everything is.
        chunk: members that are updated together; None: a few on a CPU, else all.
        graph: replay gradient steps as CUDA graphs, on a GPU.

    Attributes:
        step: gradient steps done.
        total_steps: of the whole run.
        names: tags of what ``sums`` adds up, once a step was done.
        sums: bounds and terms of the batches since they were last asked for, ``(P, n)``.

    Raises:
        UsageError: what the members may not differ in, what the engine does not have, or more
            members than the memory holds.
    """

    def __init__(
        self,
        images: Images,
        members: Sequence[VAEConfig],
        *,
        device: torch.device | str = "cpu",
        chunk: int | None = None,
        graph: bool = True,
    ) -> None:
        config = shared(members)
        check(config)
        self.images, self.members, self.config = images, tuple(members), config
        self.steps_per_epoch = config.steps_per_epoch(len(images.train))
        self.total_steps = config.total_steps(len(images.train))
        device = torch.device(device)
        on_cpu = 1 if config.norm in BY_THEMSELVES else CHUNK_ON_CPU
        self.chunk = chunk or (on_cpu if device.type == "cpu" else len(members))
        self.bytes = bytes_of_vae(config, build(config), len(images.train), device)
        check_memory(len(members), self.bytes, self.chunk, device)
        models = [WithNoise(build(member, images)) for member in members]
        self._take(stacked(models), graph, device)
        self.net = copy.deepcopy(models[0]).to(device).train()
        self.validation = Validation(self.net.vae, images, config)
        self.pixels = images.train.to(device)
        self.step = 0
        self.sums: Tensor | None = None
        self.names: list[str] = []
        self._order: tuple[int, Tensor] = (-1, self.keys)
        self._stepped = self._graphed(self._step)

    @without_denormals()
    @torch.no_grad()
    def iterate(self, draws: Draws | None = None, *, measured: bool = False) -> Update | None:
        """Do a gradient step.

        Args:
            draws: the random numbers; None makes them.
            measured: return what it did, without a CUDA graph.
        """
        config, step = self.config, self.step
        self.step += 1
        factor = SCHEDULES[config.schedule](self.step / self.total_steps)
        share = share_of_beta(config, step, self.steps_per_epoch)
        update = Update(self.params.clone(), torch.empty_like(self.params)) if measured else None
        given: tuple[Tensor, Tensor | None, Tensor | None] = draws or (self.rows(step), None, None)
        if draws is None and update is None:
            means = self._stepped(step, factor, share, given[0])
        else:
            means = self._step(step, factor, share, *given, update)
        self.sums = means if self.sums is None else self.sums + means
        return update

    def logs_at(self, step: int) -> bool:
        """Return whether a point of the curves is due after so many steps."""
        every = max(1, self.total_steps // self.config.n_logs)
        return step % every == 0 or step == self.total_steps

    def rows(self, step: int) -> Tensor:
        """Return which images the batches of a step have, ``(P, B)``.

        Each pass over the images has an order of its own; its last, partial batch is left out.
        """
        done, batch = divmod(step, self.steps_per_epoch)
        if self._order[0] != done:
            n = len(self.pixels)
            self._order = done, permutation(fork(self.keys, ORDERS), done * n, n)
        first = batch * self.config.batch_size
        return self._order[1][:, first : first + self.config.batch_size]

    def _step(
        self,
        step: Number,
        factor: Number,
        share: Number,
        rows: Tensor,
        u: Tensor | None = None,
        noise: Tensor | None = None,
        update: Update | None = None,
    ) -> Tensor:
        """Do a gradient step, in place. No number in Python changes from one to the next.

        Args:
            step: how many were before it.
            factor: of the learning rates.
            share: of the members' beta that counts.
            rows: the images of each batch, as ``Draws`` has them.
            u: ``pixels`` of ``Draws``; None makes them, and so it is with ``noise``.
            noise: the like.
            update: where the gradients are to be written.

        Returns:
            Bounds and terms, ``(P, n)``.
        """
        config, plan, terms = self.config, self.plan, []

        def of_member(params: Any, buffers: Any, x: Tensor, z: Tensor, kl_weight: Tensor) -> Any:
            return loss(self._model(params, buffers, z), x, None, config, kl_weight)

        gradients = vmap(grad(of_member, has_aux=True))
        rates, betas = self.per_member["learning_rate"] * factor, self.per_member["beta"] * share
        whole = self.params, self.buffers, self.optimizer_state, rates
        given = self.keys, betas, rows, u, noise, update
        for members in self._chunks():
            params, buffers, state, rate = part(whole, members)
            keys, kl_weight, images, levels, z, measured = part(given, members)
            x = self._inputs(keys, step, images, levels)
            z = self._noise(keys, step) if z is None else z
            grads, moved = torch.empty_like(params), clone(plan.buffer_views(buffers))
            computed, means = gradients(plan.views(params), moved, x, z, kl_weight)
            copy_(plan.views(grads), computed)
            copy_(plan.buffer_views(buffers), moved)
            if measured is not None:
                measured.gradients.copy_(grads)
            self._update_(params, grads, state, step + 1, rate)
            self.names = list(means)
            terms.append(torch.stack(list(means.values()), 1))
        return torch.cat(terms)

    def _model(
        self, params: Tensors, buffers: Tensors, noise: Tensor | None = None
    ) -> Callable[..., Terms]:
        """Return the model of one member as a function."""

        def forward(x: Tensor, n_samples: int = 1, generator: Source = None) -> Terms:
            return functional_call(self.net, (params, buffers), (x, n_samples, generator, noise))

        return forward

    def _inputs(self, keys: Tensor, step: Number, rows: Tensor, u: Tensor | None) -> Tensor:
        """Return images as models take them, ``(P, B, C, H, W)``: ``training_inputs`` of each."""
        levels, likelihood = self.images.levels, self.net.vae.likelihood
        pixels = self.pixels.index_select(0, rows.flatten()).unflatten(0, rows.shape)
        if likelihood.levels != 2 or levels == 2:
            return pixels.float() / (levels - 1)
        if u is None:
            n = pixels[0].numel()
            u = uniform(fork(keys, PIXELS), step * n, n).view(pixels.shape)
        return binarised(pixels, levels, u)

    def _noise(self, keys: Tensor, step: Number) -> Tensor:
        """Return the noise of the samples, ``(P, K, B, Z)``."""
        config = self.config
        shape = config.train_samples, config.batch_size, self.net.vae.latent_dim
        n = math.prod(shape)
        return torch.special.ndtri(uniform(fork(keys, NOISE), step * n, n)).unflatten(1, shape)

    def validate(self) -> Tensors:
        """Return the members' bounds on the validation split, ``(P,)`` each, by tag."""

        def bounds(params: Tensors, buffers: Tensors) -> Tensors:
            return self.validation.bounds(self._model(params, buffers))

        most = max(1, VALIDATED // (IMAGES * self.config.train_samples))
        each = vmap(bounds, randomness="same", chunk_size=min(self.chunk, most))
        return each(self.plan.views(self.params), self.plan.buffer_views(self.buffers))

    def vae(self, index: int, weights: tuple[Tensor, Tensor] | None = None) -> VAE:
        """Return the model of a member, a copy.

        Args:
            index: of the member.
            weights: of all members; None for the present ones.
        """
        net = self.plan.load(*(weights or (self.params, self.buffers)), index)
        return copy.deepcopy(net.vae).to(self.params.device)

    def measures(self, index: int, update: Update) -> dict[str, Tensor]:
        """Return how layers of a member fared in the last step, as its trainer has it, by tag."""
        before, after = self.vae(index, (update.before, self.buffers)), self.vae(index)
        gradients = below(self.plan.views(update.gradients[index : index + 1]), "vae.")
        for name, parameter in after.named_parameters():
            parameter.grad = gradients[name][0]
        lengths = gradient_norms(after)
        moved = measures_of(lengths, effective_weights(before), effective_weights(after))
        return weight_lengths(after) | moved

    def _kept(self) -> dict[str, Any]:
        """Return the tensors that training goes on from, but for ``sums``."""
        return {"params": self.params, "buffers": self.buffers, "optimizer": self.optimizer_state}

    def state(self, members: slice = ALL) -> dict[str, Any]:
        """Return everything that training goes on from, as tensors and numbers, copies."""
        return clone(part({"step": self.step, "sums": self.sums, **self._kept()}, members))

    def restore(self, state: Mapping[str, Any], members: slice = ALL) -> None:
        """Go on from what ``state`` returned of these members; UsageError if of other ones."""
        put_back_(part(self._kept(), members), state)
        self.step, sums = state["step"], state["sums"]
        if sums is None:
            self.sums = None
            return
        if self.sums is None:
            self.sums = self.params.new_zeros(len(self.params), sums.shape[1])
        self.sums[members] = sums
