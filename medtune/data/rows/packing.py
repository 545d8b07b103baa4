"""Which documents share a row: index arithmetic only, no tokens are touched."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Rows as pieces of documents.

    Row r holds the pieces ``offsets[r]:offsets[r + 1]``; piece p is the tokens
    ``start[p]:end[p]`` of document ``document[p]``.
    """

    offsets: Ints
    document: Ints
    start: Ints
    end: Ints

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> Ints:
        """Tokens in each row."""
        return row_sums(self.end - self.start, self.offsets)

    def utilisation(self, sequence_length: int) -> float:
        """Share of the rows' room that tokens fill."""
        return float(self.lengths.sum() / (len(self) * sequence_length)) if len(self) else 1.0


def row_sums(values: Ints, offsets: Ints) -> Ints:
    """Sums of ``values[offsets[r]:offsets[r + 1]]`` for every row r."""
    sums: Ints = np.concatenate([[0], np.cumsum(values)])
    result: Ints = sums[offsets[1:]] - sums[offsets[:-1]]
    return result


def pack(
    documents: Ints,
    start: Ints,
    end: Ints,
    sequence_length: int,
    packing: str,
    seed: int | Sequence[int],
    groups: Ints | None = None,
) -> Rows:
    """Arranges documents into rows.

    A document that is given several times is placed as often, possibly twice in one row: a row's documents
    never see each other, so that this is no worse than two rows of a step.

    Args:
        documents: Their indices in the store.
        start: First token used of each (0 unless the prompt was cut from the left).
        end: One past its last.
        sequence_length: Room of a row.
        packing: ``bfd``, ``concat`` or ``none``; see ``data.packing``.
        seed: Order among documents of equal length (bfd) or of all documents (concat), so that a
            file sorted by task does not give rows of one task.
        groups: A number for each document; those with different ones never share a row.

    Raises:
        ValueError: A document is longer than a row and the packing does not cut.
    """
    lengths = end - start
    if packing != "concat" and len(lengths) and int(lengths.max()) > sequence_length:
        raise ValueError(f"a document of {int(lengths.max())} tokens does not fit rows of {sequence_length}")
    if packing == "none":
        return Rows(np.arange(len(documents) + 1), documents, start, end)
    order = np.random.default_rng(seed).permutation(len(documents))
    if groups is None:
        return arrange(documents, start, end, order, sequence_length, packing)
    by_group = order[np.argsort(groups[order], kind="stable")]
    bounds = np.flatnonzero(np.diff(groups[by_group])) + 1
    return joined(
        [
            arrange(documents, start, end, chosen, sequence_length, packing)
            for chosen in np.split(by_group, bounds)
        ]
    )


def arrange(
    documents: Ints, start: Ints, end: Ints, chosen: Ints, sequence_length: int, packing: str
) -> Rows:
    """Arranges those documents that are chosen, in that order, by ``bfd`` or ``concat``."""
    if packing == "concat":
        return concatenate(documents[chosen], start[chosen], end[chosen], sequence_length)
    bins = best_fit_decreasing((end - start)[chosen], sequence_length)
    by_bin = chosen[stable_order(bins)]
    counts = np.bincount(bins) if len(bins) else np.zeros(0, dtype=np.int64)
    return Rows(np.concatenate([[0], np.cumsum(counts)]), documents[by_bin], start[by_bin], end[by_bin])


def joined(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, one part after the other."""
    before = np.cumsum([0, *(len(part.document) for part in parts)])
    offsets = [part.offsets[:-1] + first for part, first in zip(parts, before[:-1], strict=True)]
    return Rows(
        np.concatenate([*offsets, before[-1:]]),
        np.concatenate([part.document for part in parts]),
        np.concatenate([part.start for part in parts]),
        np.concatenate([part.end for part in parts]),
    )


def best_fit_decreasing(lengths: Ints, capacity: int) -> Ints:
    """Bin of each item: longest first, each into the fullest bin that still has room.

    Works on distinct lengths: after an item of length L went into a bin with residual r, that bin
    stays the best fit while r - L >= L, so it takes floor(r / L) items at once. The result equals
    the item-by-item method, at a cost of distinct lengths times distinct residuals.

    Args:
        lengths: Positive lengths, none over ``capacity``.
        capacity: Room of a bin.

    Returns:
        Bin number per item, bins numbered from 0 without gaps.
    """
    by_length = stable_order(capacity - lengths)
    counts_of_all = np.bincount(lengths)
    distinct = np.flatnonzero(counts_of_all)
    counts = counts_of_all[distinct]
    bin_of = np.empty(len(lengths), dtype=np.int64)
    open_bins: dict[int, list[Ints]] = defaultdict(list)  # residual -> bins, in arrays
    residuals = 0  # bit r is set when some open bin has residual r
    num_bins = position = 0
    for length, count in zip(distinct[::-1].tolist(), counts[::-1].tolist(), strict=True):
        items = by_length[position : position + count]
        position += count
        while len(items):
            fitting = residuals >> length
            if fitting:
                residual = length + (fitting & -fitting).bit_length() - 1
                bins = np.concatenate(open_bins.pop(residual))
                residuals &= ~(1 << residual)
            else:
                residual = capacity
                fresh = -(-len(items) // (capacity // length))
                bins = np.arange(num_bins, num_bins + fresh)
                num_bins += fresh
            depth = residual // length
            full, rest = divmod(min(len(items), len(bins) * depth), depth)
            placed = full * depth + rest
            bin_of[items[:placed]] = np.repeat(bins, depth)[:placed]
            items = items[placed:]
            for left, group in (
                (residual - depth * length, bins[:full]),
                (residual - rest * length, bins[full : full + 1]),
                (residual, bins[full + 1 :]),
            ):
                if left > 0 and len(group):
                    open_bins[left].append(group)
                    residuals |= 1 << left
    return bin_of


def stable_order(values: Ints) -> Ints:
    """The order that sorts ``values`` (0 to 2**32), equal ones as they stand: several times argsort's speed.

    NumPy sorts 16-bit numbers by radix, and others by comparing; so this sorts halves.
    """
    order: Ints = np.argsort((values & 0xFFFF).astype(np.uint16), kind="stable")
    high = (values >> 16).astype(np.uint16)
    return order[np.argsort(high[order], kind="stable")] if high.any() else order


def concatenate(documents: Ints, start: Ints, end: Ints, sequence_length: int) -> Rows:
    """Joins documents in order and cuts the stream every ``sequence_length`` tokens; none is lost."""
    lengths = end - start
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    cuts = np.unique(np.concatenate([bounds, np.arange(0, bounds[-1], sequence_length)]))
    piece_starts, piece_ends = cuts[:-1], cuts[1:]
    owner = np.searchsorted(bounds, piece_starts, side="right") - 1
    shift = start[owner] - bounds[owner]
    rows = -(-int(bounds[-1]) // sequence_length)
    offsets = np.searchsorted(piece_starts, np.arange(rows) * sequence_length)
    return Rows(
        np.concatenate([offsets, [len(piece_starts)]]),
        documents[owner],
        piece_starts + shift,
        piece_ends + shift,
    )
