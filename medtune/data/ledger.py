"""The ledger: what became of every example and token, in sums that close."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from medtune.data.rows import PackedSplit

Entry = Mapping[str, Any]
COLUMNS = ("documents", "documents_kept", "overlong", "tokens_kept", "learned_tokens")


def ledger_entry(split: PackedSplit, source: str) -> dict[str, Any]:
    """Counts of one source's split.

    Tokens in = kept + dropped + cut; row room = kept tokens + padding.
    """
    store, pieces, rows = split.store, split.pieces, split.rows
    tokens_in = int(store.lengths.sum())
    kept = int((pieces.end - pieces.start).sum())
    dropped = int(store.lengths.sum() - store.lengths[np.unique(pieces.document)].sum())
    room = len(rows) * split.sequence_length
    return {
        "source": source,
        "documents": len(store),
        "documents_kept": int(len(np.unique(pieces.document))),
        "overlong": pieces.overlong,
        "dropped": pieces.dropped,
        "truncated": pieces.truncated,
        "tokens": tokens_in,
        "tokens_kept": kept,
        "tokens_dropped": dropped,
        "tokens_cut": tokens_in - kept - dropped,
        "learned_tokens": int(split.learned.sum()),
        "rows": len(rows),
        "sequence_length": split.sequence_length,
        "padding": room - kept,
        "utilisation": round(rows.utilisation(split.sequence_length), 5),
        "length_quantiles": quantiles(store.lengths),
        "cache": store.folder.name,
    }


def quantiles(lengths: np.typing.NDArray[np.int64]) -> dict[str, int]:
    """Lengths at the usual percentiles, in tokens."""
    points = {"min": 0, "p50": 50, "p90": 90, "p99": 99, "max": 100}
    return {name: int(np.percentile(lengths, point)) for name, point in points.items()}


def ledger_text(entries: Mapping[str, Entry]) -> str:
    """The ledger as an aligned plain-text table, one line per split."""
    header = ["split", "documents", "kept", "overlong", "tokens", "learned", "rows", "padding %"]
    body = [
        [
            name,
            *(f"{entry[key]:,}" for key in COLUMNS),
            f"{entry['rows']:,} x {entry['sequence_length']}",
            f"{100 * (1 - entry['utilisation']):.2f}",
        ]
        for name, entry in entries.items()
    ]
    widths = [max(len(row[column]) for row in [header, *body]) for column in range(len(header))]
    lines = [[cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in [header, *body]]
    return "\n".join("  ".join(line) for line in lines)
