"""A split as rows to learn: overlong examples settled, documents packed, learned tokens counted."""

import logging
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from medtune.config.schema import DataConfig
from medtune.data.packing import Ints, Rows, pack, row_sums
from medtune.data.store import TokenStore

IGNORE_INDEX = -100  # cross_entropy leaves these labels out of the loss

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pieces:
    """Documents after ``data.overlong``: index, first token used, one past the last.

    Attributes:
        overlong: Examples longer than a row.
        dropped: Of these, left out.
        truncated: Of these, cut.
    """

    document: Ints
    start: Ints
    end: Ints
    overlong: int = 0
    dropped: int = 0
    truncated: int = 0


class PackedSplit:
    """The rows of one split for one objective."""

    def __init__(self, store: TokenStore, data: DataConfig, split: str, objective: str, seed: int) -> None:
        self.store = store
        self.objective = objective
        self.sequence_length = data.sequence_length
        self.pieces = settle_lengths(store, data, split)
        self.rows = pack(
            self.pieces.document, self.pieces.start, self.pieces.end, data.sequence_length, data.packing, seed
        )
        if not len(self.rows):
            raise ValueError(
                f"split {split!r} of data={data.name} has no examples left with data.overlong="
                f"{data.overlong}: all {len(store)} are longer than "
                f"data.sequence_length={data.sequence_length}; raise it"
            )

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def learned(self) -> Ints:
        """Learned tokens of each row."""
        return row_sums(learned_of_pieces(self.store, self.rows, self.objective), self.rows.offsets)

    def fill(
        self,
        row: int,
        input_ids: NDArray[np.int64],
        labels: NDArray[np.int64],
        position_ids: NDArray[np.int64],
        document_ids: NDArray[np.int64],
    ) -> int:
        """Writes a row into arrays of at least its length; returns how many documents it holds."""
        rows = self.rows
        first, last = int(rows.offsets[row]), int(rows.offsets[row + 1])
        at = 0
        for number, piece in enumerate(range(first, last), start=1):
            document, start, end = int(rows.document[piece]), int(rows.start[piece]), int(rows.end[piece])
            until = at + end - start
            ids = self.store.input_ids(document)[start:end]
            input_ids[at:until] = ids
            position_ids[at:until] = np.arange(end - start)
            document_ids[at:until] = number
            for learned_start, learned_end in self.learned_spans(document, start, end):
                labels[at + learned_start - start : at + learned_end - start] = ids[
                    learned_start - start : learned_end - start
                ]
            at = until
        return last - first

    def learned_spans(self, document: int, start: int, end: int) -> list[tuple[int, int]]:
        """Learned stretches of a piece. Its first token is never one: nothing in the row predicts it."""
        if self.objective == "pretrain":
            return [(start + 1, end)]
        clipped = [(max(int(a), start + 1), min(int(b), end)) for a, b in self.store.spans(document)]
        return [(a, b) for a, b in clipped if a < b]


def settle_lengths(store: TokenStore, data: DataConfig, split: str) -> Pieces:
    """Applies ``data.overlong``. ``concat`` needs no rule, since it cuts every document where a row ends.

    Raises:
        ValueError: Examples are too long and ``data.overlong=error``, or a response alone is.
    """
    lengths = store.lengths
    everything = Pieces(np.arange(len(lengths)), np.zeros_like(lengths), lengths.copy())
    long = np.flatnonzero(lengths > data.sequence_length)
    if data.packing == "concat" or not len(long):
        return everything
    if data.overlong == "error":
        raise ValueError(overlong_message(store, data, split, long))
    if data.overlong == "drop":
        log.warning("data: %d overlong examples of %s are left out (data.overlong=drop)", len(long), split)
        kept = np.flatnonzero(lengths <= data.sequence_length)
        return Pieces(kept, np.zeros_like(kept), lengths[kept], overlong=len(long), dropped=len(long))
    if data.overlong == "split":
        return split_long(lengths, data.sequence_length, len(long))
    start = truncated_starts(store, data, split, long)
    log.warning("data: %d prompts of %s are cut from the left (data.overlong=truncate)", len(long), split)
    return Pieces(everything.document, start, everything.end, overlong=len(long), truncated=len(long))


def overlong_message(store: TokenStore, data: DataConfig, split: str, long: Ints) -> str:
    """How many are too long, which, and what to change."""
    lengths = store.lengths[long]
    worst = int(long[np.argmax(lengths)])
    return (
        f"{len(long)} of {len(store)} examples in {data.splits[split]} are longer than "
        f"data.sequence_length={data.sequence_length} (the longest, line {int(store.lines[worst])}, has "
        f"{int(lengths.max())} tokens; half of them have at most {int(np.median(lengths))}). Raise "
        "data.sequence_length, or choose data.overlong=drop, data.overlong=truncate (cuts prompts from the "
        "left, keeps responses whole) or, for texts, data.overlong=split"
    )


def truncated_starts(store: TokenStore, data: DataConfig, split: str, long: Ints) -> Ints:
    """First token kept of each example when prompts are cut from the left.

    Raises:
        ValueError: A response does not fit; cutting it would lose its end.
    """
    start = np.zeros(len(store), dtype=np.int64)
    for index in long.tolist():
        start[index] = store.lengths[index] - data.sequence_length
        spans = store.spans(index)
        if len(spans) and start[index] >= int(spans[0, 0]):
            response = int(store.lengths[index]) - int(spans[0, 0])
            raise ValueError(
                f"{data.splits[split]}:{int(store.lines[index])}: the response has {response} tokens but "
                f"data.sequence_length is {data.sequence_length}, which must hold it and a token of the "
                "prompt; raise it, or drop such examples with data.overlong=drop"
            )
    return start


def split_long(lengths: Ints, sequence_length: int, overlong: int) -> Pieces:
    """Cuts each document into pieces of at most ``sequence_length`` tokens."""
    parts = -(-lengths // sequence_length)
    document = np.repeat(np.arange(len(lengths)), parts)
    part = np.arange(len(document)) - np.repeat(np.cumsum(parts) - parts, parts)
    start = part * sequence_length
    return Pieces(document, start, np.minimum(start + sequence_length, lengths[document]), overlong=overlong)


def learned_of_pieces(store: TokenStore, rows: Rows, objective: str) -> Ints:
    """Learned tokens of each piece of ``rows``."""
    if objective == "pretrain":
        everything: Ints = np.maximum(rows.end - rows.start - 1, 0)
        return everything
    documents, starts, ends = store.span_table
    whole = np.zeros(len(store), dtype=np.int64)
    np.add.at(whole, documents, ends - np.maximum(starts, 1))
    counts: Ints = whole[rows.document]
    cut = np.flatnonzero((rows.start > 0) | (rows.end < store.lengths[rows.document]))
    for piece in cut.tolist():
        spans = store.spans(int(rows.document[piece]))
        counts[piece] = overlap(spans, int(rows.start[piece]) + 1, int(rows.end[piece]))
    return counts


def overlap(spans: NDArray[np.int32], start: int, end: int) -> int:
    """Tokens of ``spans`` within ``start:end``."""
    return int(np.maximum(np.minimum(spans[:, 1], end) - np.maximum(spans[:, 0], start), 0).sum())
