"""From rows to the tensors of a micro batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from medtune.data.rows.order import NO_ROW, Item
from medtune.data.rows.split import IGNORE_INDEX, NO_SOURCE, PackedSplit

MULTIPLE = 8  # row lengths are rounded up to it: aligned kernels, and fewer shapes


class Collator:
    """Turns (epoch, row, step_tokens) items into a batch; the row's arrays are written straight into it.

    Args:
        split: The rows.
        pad_id: Token of the padding.
        width: Least number of columns, so that all batches have one shape.

    In a worker process it arranges the rows of an epoch itself: they are a function of the epoch.

    The batch, a dict:
        input_ids, labels, position_ids, document_ids, source_ids: int64 tensors [B, T]. T is the longest
            row of the batch, or ``width``. Labels are unshifted. Positions restart at each document;
            documents count from 1 in each row, and padding, on the right, is document 0. Sources are
            indices into the split's ``source_names``, of padding -1.
        step_tokens: Learned tokens of the whole optimizer step, over all micro batches and ranks.
        packed: Whether any row holds more than one document.
        rows: Row numbers, for error messages.
        epoch: Whose rows these are.
        sources: Number of sources.
    """

    def __init__(self, split: PackedSplit, pad_id: int, width: int | None = None) -> None:
        self.split = split
        self.pad_id = pad_id
        self.width = width

    def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
        """Builds the batch of one micro batch's items, all of one epoch."""
        split, (epoch, _, step_tokens) = self.split, items[0]
        rows = [row for _, row, _ in items]
        lengths = split.rows_of(epoch).lengths
        longest = max((int(lengths[row]) for row in rows if row != NO_ROW), default=1)
        width = min(-(-longest // MULTIPLE) * MULTIPLE, max(split.sequence_length, longest))
        width = max(width, self.width or 0)
        arrays = np.zeros((5, len(rows), width), dtype=np.int64)
        arrays[0] = self.pad_id
        arrays[1] = IGNORE_INDEX
        # Padding goes on counting where the row ends, so that a row of one document stays plainly causal.
        arrays[2] = np.arange(width)
        arrays[4] = NO_SOURCE
        documents = [split.fill(epoch, row, *arrays[:, at]) for at, row in enumerate(rows) if row != NO_ROW]
        input_ids, labels, position_ids, document_ids, source_ids = torch.from_numpy(arrays).unbind(0)
        return {
            "input_ids": input_ids,
            "labels": labels,
            "position_ids": position_ids,
            "document_ids": document_ids,
            "source_ids": source_ids,
            "step_tokens": step_tokens,
            "packed": max(documents, default=1) > 1,
            "rows": rows,
            "epoch": epoch,
            "sources": len(split.source_names),
        }
