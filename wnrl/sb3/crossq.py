"""Policy with a norm for CrossQ."""

import warnings
from typing import Any

from sb3_contrib.common.torch_layers import BatchRenorm1d as StockBatchRenorm
from sb3_contrib.crossq.policies import CrossQPolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from wnrl.errors import UsageError
from wnrl.nn import convert, plain_parts
from wnrl.norms import NORMS
from wnrl.sb3.batch_statistics import CriticForward, batch_norms
from wnrl.sb3.common import HEAD_NORMS
from wnrl.sb3.continuous import ContinuousMixin
from wnrl.sb3.crossq_target import JointForward, MoveTarget, check_tau
from wnrl.sb3.data_init import Observations
from wnrl.sb3.parts import is_target


class CrossQMixin(ContinuousMixin):
    """``ContinuousMixin`` for CrossQ, whose networks have places for normalizers of their own.

    sb3-contrib's networks have batch renormalisation in front of every linear layer. What stands
    there is the norm's choice:

    - a norm with a normalizer (``batch``, ``batch_renorm``, ``layer``, ``rms``, ``mean``,
      ``weight_mean``) puts it into these places. ``batch_renorm`` is CrossQ as sb3-contrib has it,
      but that variances are those of the population, smaller by a factor of 1 − 1/(2 B) for the
      2 B examples of a joint batch, and that a feature which is constant on a batch has a gradient
      of zero after the warm-up, where sb3-contrib's is NaN. ``layer`` and ``rms`` leave out the
      place in front of the first layer: an observation normalised by itself loses a part of what
      it says;
    - ``none``, ``weight`` and ``spectral`` leave them out: there is no normalizer at all. CrossQ
      leans on its normalizer where others have targets, and with neither it learns late, if at
      all: a warning says so unless ``batch_norm=False`` asks for it or ``tau`` gives it a target;
    - ``projected`` keeps batch renormalisation: CrossQ with projected weights (Palenicek et al.
      2025, arXiv:2502.07523) has both, the one for the scale of activations and the other for that
      of the weights. Alone, with ``batch_norm=False``, it is what it is in the other algorithms.

    sb3-contrib's arguments are the defaults of batch norms: ``batch_norm_momentum``,
    ``batch_norm_eps`` and ``renorm_warmup_steps``, after which r and d are limited by their final
    values at once. ``norm_kwargs`` has precedence.

    sb3-contrib's loop runs (s, a) and (s', a') as one batch, so statistics are joint, and has no
    target networks. ``tau`` gives the critic one, as Palenicek et al. have it; how it is run and
    moved is said in ``wnrl.sb3.crossq_target``.

    Args:
        *args: those of the policy.
        tau: how far, from above 0 to 1, the critic's target moves to the critic after each gradient
            step; None for no target.
        **kwargs: those of ``ContinuousMixin`` and of the policy. ``batch_norm`` takes batch
            renormalisation away from ``projected`` (False), or puts it beside ``weight`` and
            ``spectral`` (True).

    Attributes:
        normalizer: the key of ``NORMS`` whose normalizer stands in these places, or None.
        critic_target: the target, if there is one.

    Raises:
        UsageError: ``tau`` is out of range, or ``batch_norm`` or ``joint_statistics`` contradicts
            the norm or the algorithm.
    """

    actor_kwargs: dict[str, Any]
    critic_kwargs: dict[str, Any]
    batch_norm_params: dict[str, Any]

    def __init__(self, *args: Any, tau: float | None = None, **kwargs: Any) -> None:
        self.tau = check_tau(tau)
        super().__init__(*args, **kwargs)

    def _find_plain_parts(self) -> list[str]:
        if self.normalizer != self.norm:
            return super()._find_plain_parts()
        parts = plain_parts(self, HEAD_NORMS.get(self.norm, "none"))
        return [name for name in parts if not is_target(name.split(".")[0])]

    def _build(self, lr_schedule: Schedule) -> None:
        if not self.joint_statistics:
            raise UsageError(
                "joint_statistics must be True for CrossQ: its loop has one batch of (s, a) and "
                "(s', a')"
            )
        batch_norm = self._arguments.get("batch_norm")
        self.normalizer = self._choose_normalizer(batch_norm)
        if self.normalizer is None and batch_norm is None and self.tau is None:
            warnings.warn(self._without_normalizer(), stacklevel=2)
        for arguments in (self.actor_kwargs, self.critic_kwargs):
            arguments["batch_norm"] = self.normalizer is not None
        super()._build(lr_schedule)
        if self.tau is not None:
            self.critic_target = self.make_critic()
            self.critic_target.load_state_dict(self.critic.state_dict())
            self.critic_target.set_training_mode(False)

    def _watch_critic(self, norms: list[nn.Module]) -> None:
        if self.tau is not None:
            self._joint = JointForward(self.critic, norms, self.critic_target)
        elif norms:
            CriticForward(self.critic, norms)

    def _prepare_optimizers(self) -> None:
        super()._prepare_optimizers()
        self._move_target()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._move_target()  # as for projection

    def _move_target(self) -> None:
        """Has the target follow each step of the critic's optimizer."""
        if self.tau is not None:
            move = MoveTarget(self.critic, self.critic_target, self.tau, self._joint.target_norms)
            self.critic.optimizer.register_step_post_hook(move)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        # sb3-contrib's own True would be taken for a caller's.
        asked = self._arguments.get("batch_norm")
        own = {"batch_norm": asked, "tau": self.tau}
        return {**super()._get_constructor_parameters(), **own}

    def _choose_normalizer(self, batch_norm: bool | None) -> str | None:
        """The key of ``NORMS`` whose normalizer stands in CrossQ's places."""
        choice = NORMS[self.norm]
        own = choice.normalizers is not None
        if (own and batch_norm is False) or (self.norm == "none" and batch_norm):
            raise UsageError(
                f"batch_norm={batch_norm} contradicts norm {self.norm!r}: norm 'batch_renorm' is "
                "CrossQ with batch renormalisation, norm 'none' CrossQ without"
            )
        if own:
            return self.norm
        kept = choice.projected if batch_norm is None else batch_norm
        return "batch_renorm" if kept else None

    def _without_normalizer(self) -> str:
        beside = "" if self.norm == "none" else f"batch_norm=True puts one beside {self.norm!r}, "
        return (
            f"CrossQ with norm {self.norm!r} has no normalizer and no target, and learns late, if "
            f"at all: {beside}norm='projected' and norm='batch_renorm' have a normalizer, "
            "tau=0.005 gives it a target, and batch_norm=False says that neither is wanted"
        )

    def _convert(self, net: nn.Module, heads: list[str]) -> None:
        if self.normalizer is not None:
            self._fill_places(net, self.normalizer)
        if self.normalizer != self.norm:
            super()._convert(net, heads)
            return
        parts = [name for name, _ in net.named_children() if name != "features_extractor"]
        convert(net, self.norm, skip=parts, norm_kwargs=self.norm_kwargs)
        if layer_norm := HEAD_NORMS.get(self.norm):
            options = NORMS[layer_norm].layer_options
            kept = {key: value for key, value in self.norm_kwargs.items() if key in options}
            convert(net, layer_norm, skip=() if self.norm_heads else heads, norm_kwargs=kept)

    def _run_hidden(self, obs: Observations) -> None:
        """As elsewhere; normalizers in front of layers take their statistics from ``obs``."""
        norms = batch_norms(self.actor.latent_pi, *self.critic.q_networks)
        hooks = [norm.register_forward_pre_hook(_take_statistics) for norm in norms]
        try:
            super()._run_hidden(obs)
        finally:
            for hook in hooks:
                hook.remove()

    def _fill_places(self, net: nn.Module, key: str) -> None:
        """Puts the normalizer of ``key`` where sb3-contrib has batch renormalisation."""
        choice = NORMS[key]
        assert choice.normalizers is not None
        options = self._normalizer_options(key)
        for parent in list(net.modules()):
            for index, (name, child) in enumerate(list(parent.named_children())):
                if isinstance(child, StockBatchRenorm):
                    norm = choice.normalizers[0](child.num_features, **options)
                    if index == 0 and not batch_norms(norm):
                        norm = nn.Identity()
                    setattr(parent, name, norm.to(child.scale.device))

    def _normalizer_options(self, key: str) -> dict[str, Any]:
        """sb3-contrib's arguments, as far as the normalizer has them, then ``norm_kwargs``."""
        known = NORMS[key].options
        stock = self.batch_norm_params
        options: dict[str, Any] = {}
        if "momentum" in known:
            options["momentum"] = stock["batch_norm_momentum"]
            options["eps"] = stock["batch_norm_eps"]
            options["warmup_steps"] = stock["renorm_warmup_steps"]
        if key == self.norm:
            options |= self.norm_kwargs
        if "r_steps" in known:
            opened = options["warmup_steps"] + 1
            options = {"r_steps": opened, "d_steps": opened, **options}
        return {name: value for name, value in options.items() if name in known}


def _take_statistics(norm: Any, args: tuple[Tensor]) -> None:
    """Forward pre-hook: the statistics of a batch ``(B, C)`` become the running ones."""
    norm.running_mean.copy_(args[0].mean(0))
    if hasattr(norm, "running_var"):
        norm.running_var.copy_(args[0].var(0, correction=0))


class WNCrossQMlpPolicy(CrossQMixin, CrossQPolicy):
    """sb3-contrib's ``MlpPolicy`` for CrossQ, with a norm.

    The default, ``weight``, has no normalizer, without which CrossQ learns late, if at all: take
    ``batch_norm=True`` or ``tau=0.005`` with it, or norm ``projected``, or ``batch_renorm``, which
    is CrossQ itself.
    """
