"""Packing places every token once, never over length; best-fit equals the item-by-item method."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtune.data.rows.packing import Rows, best_fit_decreasing, joined, pack

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


def rows_as_lists(rows: Rows) -> list[list[tuple[int, int, int]]]:
    """Each row's pieces as (document, start, end)."""
    pieces = list(zip(rows.document.tolist(), rows.start.tolist(), rows.end.tolist(), strict=True))
    bounds = rows.offsets.tolist()
    return [pieces[first:last] for first, last in zip(bounds[:-1], bounds[1:], strict=True)]


@given(lengths=LENGTHS, capacity=st.integers(40, 64))
def test_best_fit_equals_the_item_by_item_method(lengths, capacity):
    bins = best_fit_decreasing(np.array(lengths), capacity)
    used = np.bincount(bins, weights=lengths)
    assert set(bins) == set(range(len(used)))
    assert sorted((capacity - used).astype(int)) == best_fit_item_by_item(lengths, capacity)


@settings(max_examples=150)
@given(
    lengths=LENGTHS,
    capacity=st.integers(40, 64),
    seed=st.integers(0, 3) | st.tuples(st.integers(0, 3), st.integers(0, 3)),
    packing=st.sampled_from(["bfd", "concat", "none"]),
    repeats=st.integers(0, 30),
    num_groups=st.integers(0, 3),
)
def test_every_token_is_placed_once_and_no_row_is_too_long(
    lengths, capacity, seed, packing, repeats, num_groups
):
    documents = np.array([*range(len(lengths)), *(number % len(lengths) for number in range(repeats))])
    ends = np.array(lengths)[documents]
    starts = documents % ends // 2
    groups = documents % num_groups if num_groups else None
    rows = pack(documents, starts, ends, capacity, packing, seed, groups)
    placed = Counter(
        (document, token)
        for row in rows_as_lists(rows)
        for document, start, end in row
        for token in range(start, end)
    )
    given_tokens = Counter(
        (document, token)
        for document, start, end in zip(documents.tolist(), starts.tolist(), ends.tolist(), strict=True)
        for token in range(start, end)
    )
    assert placed == given_tokens
    assert rows.lengths.max() <= capacity
    assert rows.lengths.min() > 0
    assert rows.lengths.sum() == (ends - starts).sum()
    if packing != "concat":
        assert len(rows.document) == len(documents), "a document was split"
    if num_groups and packing != "none":
        mixed = [
            row for row in rows_as_lists(rows) if len({document % num_groups for document, *_ in row}) > 1
        ]
        assert mixed == []


def test_concat_fills_every_row_but_the_last_of_each_group():
    ends = np.arange(1, 60)
    rows = pack(np.arange(59), np.zeros(59, dtype=int), ends, 32, "concat", 1, np.arange(59) % 2)
    assert sorted(rows.lengths)[2:] == [32] * (len(rows) - 2)
    assert len(rows) == -(-sum(ends[::2]) // 32) - (-sum(ends[1::2]) // 32)


@pytest.mark.parametrize("packing", ["bfd", "concat"])
def test_the_seed_decides_which_documents_meet(packing):
    ends = np.full(64, 9)
    packed = [pack(np.arange(64), ends * 0, ends, 32, packing, seed).document.tolist() for seed in (1, 1, 2)]
    assert packed[0] == packed[1] != packed[2]


def test_rows_are_joined_one_part_after_the_other():
    first = Rows(np.array([0, 2, 3]), np.array([4, 1, 7]), np.zeros(3, dtype=int), np.array([2, 3, 4]))
    second = Rows(np.array([0, 1]), np.array([9]), np.array([5]), np.array([6]))
    assert rows_as_lists(joined([first, second])) == [[(4, 0, 2), (1, 0, 3)], [(7, 0, 4)], [(9, 5, 6)]]


def test_lengths_like_promptcblues_leave_hardly_any_padding():
    """Mean 192 tokens, a long tail: facts/promptcblue.md. Budgets of DESIGN, section 6."""
    lengths = np.clip(np.random.default_rng(0).lognormal(5.1, 0.55, 60_000), 20, 1000).astype(int)
    for length, least in ((1024, 0.997), (2048, 0.9985), (4096, 0.999)):
        rows = pack(np.arange(len(lengths)), lengths * 0, lengths, length, "bfd", 0)
        assert rows.utilisation(length) >= least


def test_a_document_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="a document of 9 tokens does not fit rows of 8"):
        pack(np.arange(2), np.zeros(2, dtype=int), np.array([3, 9]), 8, "bfd", 0)
