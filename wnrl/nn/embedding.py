"""The weight-normalized embedding."""

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from wnrl.errors import UsageError
from wnrl.nn.base import WeightNormed
from wnrl.nn.effective import effective_weight
from wnrl.nn.functional import weight_norm


class WNEmbedding(WeightNormed):
    """``nn.Embedding`` with w = g · v / ‖v‖, one length g for each row.

    Arguments are those of ``nn.Embedding`` and of ``WeightNormed``. The row of ``padding_idx`` is
    zero, so it starts as g = 0 and, getting no gradient, stays there.

    Attributes:
        weight_v: directions, ``(num_embeddings, embedding_dim)``.
        weight_g: lengths, ``(num_embeddings, 1)``.
        weight: the effective weight, ``(num_embeddings, embedding_dim)``.

    Raises:
        UsageError: ``max_norm``, which writes into the weight, or ``sparse``, whose gradients do
            not go through a norm.
    """

    plain_type = nn.Embedding
    arguments: ClassVar[tuple[str, ...]] = (
        "num_embeddings",
        "embedding_dim",
        "padding_idx",
        "max_norm",
        "norm_type",
        "scale_grad_by_freq",
        "sparse",
    )
    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None
    max_norm: float | None
    norm_type: float
    scale_grad_by_freq: bool
    sparse: bool
    weight_g: nn.Parameter
    weight_v: nn.Parameter
    weight = effective_weight()

    def _configure(self, plain: nn.Module, *options: Any) -> None:
        super()._configure(plain, *options)
        if self.max_norm is not None:
            raise UsageError(
                f"max_norm must be None, got {self.max_norm}: it would write into a computed "
                "weight; the length of a row is its weight_g"
            )
        if self.sparse:
            raise UsageError("sparse must be False: a sparse gradient does not go through a norm")

    def forward(self, input: Tensor) -> Tensor:
        """Indices ``(*)`` to rows of the effective weight, ``(*, embedding_dim)``."""
        if self._scope is None and 0 < input.numel() < self.num_embeddings:
            # Fewer rows than the table has: normalise those alone.
            rows = self._look_up(input, self.weight_v).reshape(-1, self.embedding_dim)
            lengths = self._length(self._look_up(input, self.weight_g).reshape(-1, 1))
            return weight_norm(rows, lengths, 0, self.eps).reshape(*input.shape, self.embedding_dim)
        (weight,) = self._weights()
        return self._look_up(input, weight)

    def _look_up(self, input: Tensor, table: Tensor) -> Tensor:
        return F.embedding(
            input, table, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq
        )
