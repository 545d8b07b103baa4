"""NEFTune (arXiv:2310.05914): uniform noise on the embedded tokens while a model is fitted."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class EmbeddingNoise:
    """Adds noise of uniform [-1, 1] * alpha / sqrt(L * C) to each embedded token inside :meth:`on`.

    L is the number of tokens of the document that the token is in, so that a document gets the same noise
    packed, padded or alone; C is the width. The paper's L is that of the padded sequence.

    Args:
        model: transformers' or peft's. Its embedding keeps a hook that does nothing outside :meth:`on`.
        alpha: Size of the noise.
    """

    def __init__(self, model: Any, alpha: float) -> None:
        self.alpha = alpha
        self.scale: Tensor | None = None
        embedding: nn.Module = model.get_input_embeddings()
        embedding.register_forward_hook(self._add)

    @contextmanager
    def on(self, document_ids: Tensor) -> Iterator[None]:
        """Within the block embedded tokens are noisy.

        Args:
            document_ids: int64 [B, T], 0 for padding.
        """
        self.scale = self.alpha * document_lengths(document_ids).rsqrt()[..., None]
        yield
        self.scale = None

    def _add(self, embedding: nn.Module, inputs: Any, embedded: Tensor) -> Tensor | None:
        if self.scale is None:
            return None
        noise = torch.empty_like(embedded).uniform_(-1.0, 1.0)
        scale: Tensor = self.scale / embedded.shape[-1] ** 0.5
        return embedded + noise * scale.to(embedded.dtype)


def document_lengths(document_ids: Tensor) -> Tensor:
    """How many tokens the document of each token has; float32 [B, T]. Padding counts as one document."""
    # A row has no more documents than tokens; their number would have to be waited for.
    counts = torch.nn.functional.pad(torch.zeros_like(document_ids), (0, 1))
    counts.scatter_add_(1, document_ids, torch.ones_like(document_ids))
    return counts.gather(1, document_ids).float()
