"""Room for the tokens of a trained prompt (models/soft_prompt.py) in front of every document of a batch."""

from typing import Any

import torch
from torch import Tensor

from medtune.data.rows.collate import MULTIPLE
from medtune.data.rows.split import IGNORE_INDEX, NO_SOURCE


def with_virtual_tokens(batch: dict[str, Any], virtual: range) -> dict[str, Any]:
    """Puts the ids ``virtual`` in front of each document; rows grow by as many tokens for each.

    Args:
        batch: See docs/architecture.md; its tensors are int64 [B, T].
        virtual: P ids. They are never labels, and the positions of a document's own tokens begin at P.

    Returns:
        The batch with wider tensors; everything else is the same.
    """
    documents = batch["document_ids"]
    before = torch.nn.functional.pad(documents[:, :-1], (1, 0))
    starts = (documents != before) & (documents > 0)
    count = len(virtual)
    # Each column moves on by the tokens of all documents that begin at or before it.
    moved = torch.arange(documents.shape[1]) + count * starts.cumsum(1)
    width = -(-(int(moved.max()) + 1) // MULTIPLE) * MULTIPLE
    columns = torch.arange(width).repeat(len(documents), 1)
    positions = torch.where(documents > 0, batch["position_ids"] + count, moved)
    wide = {
        "input_ids": spread(batch["input_ids"], moved, torch.zeros_like(columns)),
        "labels": spread(batch["labels"], moved, torch.full_like(columns, IGNORE_INDEX)),
        "position_ids": spread(positions, moved, columns),
        "document_ids": spread(documents, moved, torch.zeros_like(columns)),
        "source_ids": spread(batch["source_ids"], moved, torch.full_like(columns, NO_SOURCE)),
    }
    rows, firsts = starts.nonzero(as_tuple=True)
    rows, places = rows[:, None], moved[rows, firsts][:, None] + torch.arange(-count, 0)
    wide["input_ids"][rows, places] = torch.tensor(virtual)
    wide["position_ids"][rows, places] = torch.arange(count)
    for name in ("document_ids", "source_ids"):
        wide[name][rows, places] = batch[name][starts][:, None]
    return {**batch, **wide}


def spread(values: Tensor, columns: Tensor, into: Tensor) -> Tensor:
    """``into`` [B, W] with ``values`` [B, T] at ``columns`` [B, T]."""
    return into.scatter(1, columns, values)
