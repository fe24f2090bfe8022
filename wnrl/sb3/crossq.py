"""Policy with a norm for CrossQ."""

from typing import Any

from sb3_contrib.common.torch_layers import BatchRenorm1d as StockBatchRenorm
from sb3_contrib.crossq.policies import CrossQPolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from wnrl.errors import UsageError
from wnrl.nn import convert, plain_parts
from wnrl.norms import NORMS
from wnrl.sb3.common import HEAD_NORMS, output_layers
from wnrl.sb3.continuous import ContinuousMixin


class CrossQMixin(ContinuousMixin):
    """``ContinuousMixin`` for CrossQ, whose networks have places for normalisers of their own.

    sb3-contrib's networks have batch renormalisation in front of every linear layer of the critics,
    and behind the last nonlinearity of the actor as well. What stands there is the norm's choice:

    - a norm with a normaliser (``batch``, ``batch_renorm``, ``layer``, ``rms``, ``mean``,
      ``weight_mean``) puts it into these places. ``batch_renorm`` is CrossQ as sb3-contrib has it,
      with the statistics of the population in the place of the unbiased ones: a factor of
      1 + 1/(4 B) in a standard deviation;
    - ``none``, ``weight`` and ``spectral`` leave them out: there is no normaliser at all;
    - ``projected`` keeps batch renormalisation: CrossQ with projected weights (Palenicek et al.
      2025, arXiv:2502.07523) has both, the one for the scale of activations and the other for that
      of the weights. Alone, with ``batch_norm=False``, it is what it is in the other algorithms.

    sb3-contrib's arguments are the defaults of batch norms: ``batch_norm_momentum``,
    ``batch_norm_eps`` and ``renorm_warmup_steps``, after which r and d are limited by their final
    values at once. ``norm_kwargs`` has precedence.

    sb3-contrib's loop runs (s, a) and (s', a') as one batch, so statistics are joint, and has no
    target networks.

    Args:
        *args: those of the policy.
        **kwargs: those of ``ContinuousMixin`` and of the policy. ``batch_norm`` takes batch
            renormalisation away from ``projected`` (False), or puts it beside ``weight`` and
            ``spectral`` (True).

    Raises:
        UsageError: ``batch_norm`` or ``joint_statistics`` contradicts the norm or the algorithm.
    """

    def _find_plain_parts(self) -> list[str]:
        if self.normaliser != self.norm:
            return super()._find_plain_parts()
        return plain_parts(self, HEAD_NORMS.get(self.norm, "none"))

    actor_kwargs: dict[str, Any]
    critic_kwargs: dict[str, Any]
    batch_norm_params: dict[str, Any]

    def _build(self, lr_schedule: Schedule) -> None:
        if not self.joint_statistics:
            raise UsageError(
                "joint_statistics must be True for CrossQ: its loop has one batch of (s, a) and "
                "(s', a')"
            )
        self.normaliser = self._choose_normaliser(self._arguments.get("batch_norm"))
        for arguments in (self.actor_kwargs, self.critic_kwargs):
            arguments["batch_norm"] = self.normaliser is not None
        super()._build(lr_schedule)

    def _choose_normaliser(self, batch_norm: bool | None) -> str | None:
        """The key of ``NORMS`` whose normaliser stands in CrossQ's places."""
        choice = NORMS[self.norm]
        own = choice.normalisers is not None
        if (own and batch_norm is False) or (self.norm == "none" and batch_norm):
            raise UsageError(
                f"batch_norm={batch_norm} contradicts norm {self.norm!r}: norm 'batch_renorm' is "
                "CrossQ with batch renormalisation, norm 'none' CrossQ without"
            )
        if own:
            return self.norm
        kept = choice.projected if batch_norm is None else batch_norm
        return "batch_renorm" if kept else None

    def _normed(self, net: Any, heads: Any) -> Any:
        """Gives ``net`` the norm, in place; ``heads`` as for ``NormBase``."""
        if self.normaliser is not None:
            self._fill_places(net, self.normaliser)
        if self.normaliser != self.norm:
            return super()._normed(net, heads)
        parts = [name for name, _ in net.named_children() if name != "features_extractor"]
        convert(net, self.norm, skip=parts, norm_kwargs=self.norm_kwargs)
        if layer_norm := HEAD_NORMS.get(self.norm):
            options = NORMS[layer_norm].layer_options
            kept = {key: value for key, value in self.norm_kwargs.items() if key in options}
            skip = () if self.norm_heads else output_layers(net, heads)
            convert(net, layer_norm, skip=skip, norm_kwargs=kept)
        return net

    def _fill_places(self, net: nn.Module, key: str) -> None:
        """Puts the normaliser of ``key`` wherever sb3-contrib has batch renormalisation."""
        choice = NORMS[key]
        assert choice.normalisers is not None
        options = self._normaliser_options(key)
        for parent in list(net.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, StockBatchRenorm):
                    norm = choice.normalisers[0](child.num_features, **options)
                    setattr(parent, name, norm.to(child.scale.device))

    def _normaliser_options(self, key: str) -> dict[str, Any]:
        """sb3-contrib's arguments, as far as the normaliser has them, then ``norm_kwargs``."""
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


class WNCrossQMlpPolicy(CrossQMixin, CrossQPolicy):
    """sb3-contrib's ``MlpPolicy`` for CrossQ, with a norm."""
