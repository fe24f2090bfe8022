"""How the networks of a recurrent policy leave out the steps that only pad a sequence.

RecurrentPPO learns from sequences, and fills up the short ones with zeros to the length of the
longest. Its losses leave the padding out, but the policy is not told which steps these are: a batch
norm would count zeros among its examples, and a convolutional network would look at each of them.

What pads a sequence stands at its end, and its observation and action are zero in every component.
A real step can look like that too (an empty observation, action 0), so what is done with such steps
has to be right for it as well. Equal observations have equal features, which are computed once for
all of them; and a batch norm takes its statistics from the other steps, and normalises these by its
running statistics, as in evaluation.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from wnrl.sb3.batch_statistics import batch_norms

Observations = Tensor | dict[str, Tensor]
Hooks = tuple[RemovableHandle, RemovableHandle]


class Rows(NamedTuple):
    """Indices of the rows of a batch, in two parts."""

    real: Tensor
    padded: Tensor

    def join(self, real: Tensor, padded: Tensor) -> Tensor:
        """The whole batch from what was computed for its parts."""
        return torch.cat([real, padded])[torch.cat(self).argsort()]


def find_padding(obs: Observations, actions: Tensor, n_seq: int) -> Rows:
    """Tells steps that are certainly real from those that look like padding.

    Args:
        obs: ``(N * T, ...)``, sequence after sequence, or a dict of such.
        actions: ``(N * T,)`` or ``(N * T, size)``.
        n_seq: N.
    """
    parts = [*(obs.values() if isinstance(obs, dict) else [obs]), actions]
    zero = torch.stack([(part == 0).reshape(len(part), -1).all(1) for part in parts]).all(0)
    zero = zero.view(n_seq, -1)
    zero[:, 0] = False  # a sequence has at least one step
    padded = zero.flip(1).cumprod(1).flip(1).flatten()  # 1 where all is zero from here on
    return Rows((padded == 0).nonzero().flatten(), padded.nonzero().flatten())


@contextmanager
def padding_left_out(
    policy: ActorCriticPolicy, obs: Observations, actions: Tensor, n_seq: int
) -> Iterator[None]:
    """Within it, the features extractors and batch norms of ``policy`` leave padding out.

    A batch norm in a user's own extractor that gets more or fewer rows than there are steps counts
    all of them.

    Args:
        policy: whose forwards within the scope are all of ``obs``.
        obs: as for ``find_padding``.
        actions: as for ``find_padding``.
        n_seq: as for ``find_padding``.
    """
    extractors = _extractors(policy)
    norms = [norm for norm in batch_norms(policy) if norm.training]
    rows = find_padding(obs, actions, n_seq) if extractors or norms else None
    if rows is None or not len(rows.padded):
        yield
        return
    # In an extractor the real steps come first, then one for all that pads.
    n_real = len(rows.real)
    order = torch.arange(n_real + 1, device=rows.real.device)
    inner = Rows(order[:n_real], order[n_real:])
    inside = {id(norm) for norm in batch_norms(*extractors)}
    with ExitStack() as hooks:
        for extractor in extractors:
            _close(hooks, _compute_padding_once(extractor, rows))
        for norm in norms:
            _close(hooks, _count_real_steps(norm, inner if id(norm) in inside else rows))
        yield


def _extractors(policy: ActorCriticPolicy) -> list[nn.Module]:
    """The features extractors that have something to compute, each once."""
    both = (policy.pi_features_extractor, policy.vf_features_extractor)
    found = {id(part): part for part in both if any(True for _ in part.parameters())}
    return list(found.values())


def _close(stack: ExitStack, hooks: Hooks) -> None:
    for hook in hooks:
        stack.callback(hook.remove)


def _compute_padding_once(extractor: nn.Module, rows: Rows) -> Hooks:
    chosen = torch.cat([rows.real, rows.padded[:1]])

    def select(_: nn.Module, args: tuple[Any, ...]) -> Any:
        (obs,) = args
        if isinstance(obs, dict):
            return ({key: value[chosen] for key, value in obs.items()},)
        return obs[chosen]

    def restore(_: nn.Module, args: tuple[Any, ...], features: Tensor) -> Tensor:
        return rows.join(features[:-1], features[-1:].expand(len(rows.padded), -1))

    return extractor.register_forward_pre_hook(select), extractor.register_forward_hook(restore)


def _count_real_steps(norm: nn.Module, rows: Rows) -> Hooks:
    n_rows = len(rows.real) + len(rows.padded)
    given: list[Tensor] = []

    def select(_: nn.Module, args: tuple[Any, ...]) -> Any:
        (x,) = args
        if len(x) != n_rows:
            return None
        given.append(x)
        return x[rows.real]

    def restore(_: nn.Module, args: tuple[Any, ...], real: Tensor) -> Any:
        if not given:
            return None
        mode, norm.training = norm.training, False
        padded = norm.forward(given.pop()[rows.padded])
        norm.training = mode
        return rows.join(real, padded)

    return norm.register_forward_pre_hook(select), norm.register_forward_hook(restore)
