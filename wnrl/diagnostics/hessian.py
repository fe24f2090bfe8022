"""How sharply a loss bends: extreme eigenvalues of its Hessian, by Lanczos' method.

The Hessian is never built: each step multiplies it with one vector, which costs about one backward
through the gradient (Pearlmutter, 1994). Weight-normalized layers have right second derivatives.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wnrl.errors import UsageError
from wnrl.limits import Whole

Matvec = Callable[[Tensor], Tensor]
Values = NDArray[np.float64]
NO_SECOND = "torch::autograd::Error"
"""The node of a backward under ``once_differentiable``, behind which torch sees no parameter."""


@dataclass(frozen=True)
class Curvature:
    """Result of ``curvature``; the eigenvalues are inside of the spectrum, and near its ends."""

    largest: float
    """The largest eigenvalue: gradient descent is stable for learning rates below 2/largest."""
    smallest: float
    """The smallest; below zero where the loss bends downwards."""
    condition: float
    """The largest |eigenvalue| over the mean one: the average condition number. It is a lower bound
    on the condition number, which itself is infinite for most networks. One is a bowl as round as
    can be; the number of parameters, a ravine with one steep direction."""
    condition_error: float
    """The relative standard error of ``condition``, 0.2 say, that comes from its one random vector;
    it falls as parameters grow in number, and not with ``steps``."""


def curvature(
    loss: Callable[[], Tensor],
    parameters: Iterable[nn.Parameter],
    *,
    steps: Whole = 20,
    seed: int = 0,
) -> Curvature:
    """Return extreme eigenvalues of the Hessian of ``loss`` in ``parameters``, and its condition.

    With weight norm they are those in (g, v): what the optimizer meets. No gradient is accumulated,
    and torch's random generators stay as they are. The host waits once. cuDNN's recurrences
    cannot be differentiated twice, so that cuDNN is off while ``loss`` runs; torch's own kernels
    and its CPU recurrences can. Memory is ``steps`` times that of the parameters.

    Args:
        loss: computes a scalar; whatever else it does (running statistics) is the caller's.
        parameters: what to differentiate by; those that need no gradient are left out.
        steps: products with the Hessian; 20 give the ends of the spectrum to a few per cent.
        seed: of the first vector.

    Raises:
        UsageError: no parameter needs a gradient, ``loss`` is no scalar, depends on none of them or
            has no second derivative.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        raise UsageError("parameters must hold one that needs a gradient")
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        value = loss()
        if value.numel() != 1 or not value.requires_grad:
            raise UsageError(
                "loss must be a scalar that depends on the parameters, "
                f"got shape {tuple(value.shape)}, requires_grad={value.requires_grad}"
            )
        grads = torch.autograd.grad(value, trained, create_graph=True, materialize_grads=True)
        flat = torch.cat([grad.flatten() for grad in grads])
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(flat.shape, generator=generator, dtype=flat.dtype).to(flat.device)
    values, shares = ritz_values(*lanczos(_products(flat, trained), start, steps))
    sizes = np.abs(values)
    mean = float(shares @ sizes)  # Gauss quadrature, of n eigenvalues with a share of 1/n each
    condition = float(sizes.max()) / mean if mean != 0 else math.inf
    # of vᵀ|H|v for v on the sphere: 2/(n + 2) times the variance of the |eigenvalues|
    variance = max(float(shares @ sizes**2) - mean**2, 0.0)
    error = math.sqrt(2 * variance / (flat.numel() + 2)) / mean if mean != 0 else math.inf
    return Curvature(float(values.max()), float(values.min()), condition, error)


def _products(gradient: Tensor, parameters: list[nn.Parameter]) -> Matvec:
    """Return ``v ↦ Hv`` from a gradient with its graph, which stays for further products."""
    if any(node.name() == NO_SECOND for node in _graph(gradient)):
        raise UsageError("loss has an operation that is differentiable once (once_differentiable)")

    def product(vector: Tensor) -> Tensor:
        if not gradient.requires_grad:  # of a linear loss
            return torch.zeros_like(vector)
        try:
            parts = torch.autograd.grad(
                gradient, parameters, vector, retain_graph=True, materialize_grads=True
            )
        except (NotImplementedError, RuntimeError) as error:
            if not any(word in str(error) for word in ("derivative", "differentiate")):
                raise
            raise UsageError(
                f"loss has an operation without a second derivative ({error}); a recurrent layer "
                'can run as WNLSTM(..., backend="python")'
            ) from error
        return torch.cat([part.flatten() for part in parts])

    return product


def _graph(tensor: Tensor) -> set[Any]:
    """Return the nodes of the graph behind a tensor."""
    found: set[Any] = set()
    ahead = [tensor.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in found:
            found.add(node)
            ahead += [function for function, _ in node.next_functions]
    return found


@torch.no_grad()
def lanczos(matvec: Matvec, start: Tensor, steps: Whole) -> tuple[Tensor, Tensor]:
    """Run Lanczos' recurrence, with full reorthogonalisation (Golub & Van Loan, section 10.3).

    Args:
        matvec: multiplies a symmetric n × n matrix with a vector ``(n,)``.
        start: the first vector, ``(n,)``, of any length above zero; a random one.
        steps: products; more than n are not done.

    Returns:
        The diagonal ``(k,)`` and the off-diagonal ``(k,)`` of the tridiagonal matrix, for
        ``ritz_values``; the last off-diagonal number is what the recurrence has left over. Nothing
        is brought to the host.
    """
    steps = min(steps, start.numel())
    basis = start.new_zeros(steps, start.numel())
    diagonal, off_diagonal = start.new_zeros(steps), start.new_zeros(steps)
    vector = start / torch.linalg.vector_norm(start)
    for step in range(steps):
        basis[step] = vector
        with torch.enable_grad():
            image = matvec(vector).detach()
        diagonal[step] = image @ vector
        for _ in range(2):  # once leaves rounding errors that bring back vectors found before
            image = image - basis[: step + 1].T @ (basis[: step + 1] @ image)
        length = torch.linalg.vector_norm(image)
        off_diagonal[step] = length
        vector = image / length.clamp_min(torch.finfo(length.dtype).tiny)
    return diagonal, off_diagonal


def ritz_values(diagonal: Tensor, off_diagonal: Tensor) -> tuple[Values, Values]:
    """Return eigenvalues of the tridiagonal matrix of ``lanczos``, with one synchronisation.

    Where the recurrence ended early, because its vectors span an invariant subspace, what it did
    afterwards is rounding errors and is left out.

    Returns:
        The Ritz values, ascending, and their shares in the start vector, which sum to 1: nodes and
        weights of the Gauss quadrature over the spectrum (Golub & Welsch, 1969). NaN if a product
        was not finite.
    """
    tolerance = 10 * torch.finfo(diagonal.dtype).eps
    alpha, beta = torch.stack([diagonal, off_diagonal]).cpu().double().numpy()
    if not np.isfinite(alpha).all():
        return np.full(1, np.nan), np.ones(1)
    scale = max(np.abs(alpha).max(), np.abs(beta).max())
    ended = np.flatnonzero(beta <= tolerance * scale)
    size = int(ended[0]) + 1 if ended.size else len(alpha)
    between = beta[: size - 1]
    matrix = np.diag(alpha[:size]) + np.diag(between, 1) + np.diag(between, -1)
    values, vectors = np.linalg.eigh(matrix)
    return values, vectors[0] ** 2
