"""The loss of each source of a mix: the terms of the total, added up apart."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medtune.data.rows.split import NO_SOURCE
from medtune.training import losses


class SourceSums:
    """Cross-entropy and learned tokens by source on this rank, since they were last cleared.

    Args:
        names: Of the sources, in the order of the batches' ``source_ids``. Empty: nothing is added up, since
            there is one source and the total says it all.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.clear()

    def clear(self) -> None:
        """Starts anew."""
        self._ce_sums: Tensor | float = 0.0
        self._tokens = np.zeros(len(self.names), dtype=np.int64)

    def add(self, token_losses: Tensor, batch: Mapping[str, Any]) -> None:
        """Adds one micro batch, whose ``next_sources`` and ``source_tokens`` :func:`prepare` made.

        Args:
            token_losses: [N], see :func:`losses.token_cross_entropy`.
            batch: The micro batch.
        """
        assert batch["sources"] == len(self.names), (batch["sources"], self.names)
        sums = losses.sum_by_source(token_losses.detach(), batch["next_sources"], len(self.names))
        self._ce_sums = self._ce_sums + sums
        self._tokens += batch["source_tokens"]

    def to_tensor(self, device: torch.device) -> Tensor:
        """What has to be added up over the ranks before :meth:`means`, float64 [2 * sources]."""
        sums = torch.zeros(2, len(self.names), dtype=torch.float64, device=device)
        sums[0] += self._ce_sums
        sums[1] += torch.from_numpy(self._tokens).to(device)
        return sums.flatten()

    def means(self, key: str, sums: Sequence[float]) -> dict[str, float]:
        """The losses as ``key/<source>``; sources without a learned token have none.

        Args:
            key: ``train/loss`` or ``val/loss``.
            sums: The values of :meth:`to_tensor`, summed over the ranks.
        """
        count = len(self.names)
        triples = zip(self.names, sums[:count], sums[count:], strict=True)
        return {f"{key}/{name}": ce_sum / tokens for name, ce_sum, tokens in triples if tokens}


def prepare(batch: dict[str, Any], by_source: bool) -> None:
    """Replaces ``source_ids`` by what :meth:`SourceSums.add` needs; on the CPU, where counting is free.

    Adds ``next_sources``, that of each learned label, int64 [N], and ``source_tokens``, the learned tokens of
    each source; without ``by_source`` nothing.
    """
    source_ids = batch.pop("source_ids")
    if not by_source:
        return
    following = F.pad(source_ids[:, 1:], (0, 1), value=NO_SOURCE)[:, batch["columns"]]
    batch["next_sources"] = following.flatten()[batch["learned"]]
    batch["source_tokens"] = torch.bincount(batch["next_sources"], minlength=batch["sources"]).numpy()
