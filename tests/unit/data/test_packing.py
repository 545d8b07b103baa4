"""Packing places every token once, never over length; best-fit equals the item-by-item method."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtune.data.packing import best_fit_decreasing, pack

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=120)


def best_fit_item_by_item(lengths: list[int], capacity: int) -> list[int]:
    """The textbook method: each item, longest first, into the fullest bin with room."""
    room: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [index for index, left in enumerate(room) if left >= length]
        chosen = min(fitting, key=room.__getitem__) if fitting else len(room)
        if not fitting:
            room.append(capacity)
        room[chosen] -= length
    return sorted(room)


@given(lengths=LENGTHS, capacity=st.integers(40, 64))
def test_best_fit_equals_the_item_by_item_method(lengths, capacity):
    bins = best_fit_decreasing(np.array(lengths), capacity)
    used = np.bincount(bins, weights=lengths)
    assert set(bins) == set(range(len(used)))
    assert sorted((capacity - used).astype(int)) == best_fit_item_by_item(lengths, capacity)


@settings(max_examples=60)
@given(
    lengths=LENGTHS,
    capacity=st.integers(40, 64),
    seed=st.integers(0, 3),
    packing=st.sampled_from(["bfd", "concat", "none"]),
)
def test_every_token_is_placed_once_and_no_row_is_too_long(lengths, capacity, seed, packing):
    ends = np.array(lengths)
    rows = pack(np.arange(len(ends)), np.zeros_like(ends), ends, capacity, packing, seed)
    placed = [
        (int(document), token)
        for document, start, end in zip(rows.document, rows.start, rows.end, strict=True)
        for token in range(start, end)
    ]
    assert sorted(placed) == [
        (document, token) for document, end in enumerate(lengths) for token in range(end)
    ]
    assert rows.lengths.max() <= capacity
    assert rows.lengths.sum() == sum(lengths)
    if packing != "concat":
        assert len(rows.document) == len(lengths), "a document was split"


def test_concat_cuts_where_rows_end_and_keeps_what_is_left_of_a_truncated_document():
    rows = pack(np.array([7]), np.array([2]), np.array([12]), 4, "concat", seed=0)
    assert rows.document.tolist() == [7, 7, 7]
    assert rows.start.tolist() == [2, 6, 10]
    assert rows.end.tolist() == [6, 10, 12]
    assert rows.lengths.tolist() == [4, 4, 2]


def test_the_seed_decides_which_equal_documents_meet():
    lengths = np.full(64, 10)
    packed = [
        pack(np.arange(64), lengths * 0, lengths, 40, "bfd", seed).document.tolist() for seed in (0, 0, 1)
    ]
    assert packed[0] == packed[1] != packed[2]


def test_a_document_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="41 tokens does not fit rows of 40"):
        pack(np.array([0]), np.array([0]), np.array([41]), 40, "bfd", seed=0)


def test_promptcblue_like_lengths_fill_their_rows():
    """DESIGN's budget: 99.7 / 99.85 / 99.9 % at 1024 / 2048 / 4096."""
    rng = np.random.default_rng(0)
    lengths = np.clip(np.exp(rng.normal(5.0, 0.8, 50_000)), 12, 1000).astype(np.int64)
    for capacity, least in [(1024, 0.997), (2048, 0.9985), (4096, 0.999)]:
        rows = pack(np.arange(len(lengths)), lengths * 0, lengths, capacity, "bfd", seed=0)
        assert rows.utilisation(capacity) >= least
