"""Batches: every array to the token, padding, and worker processes."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from medtune.config.schema import DataConfig
from medtune.data.rows.collate import Collator
from medtune.data.rows.order import NO_ROW, StepPlan, StepSampler
from medtune.data.rows.split import IGNORE_INDEX, PackedSplit
from tests.unit.data.made_parts import make_part, plain

ARRAYS = ("input_ids", "labels", "position_ids", "document_ids", "source_ids")


class Through:
    """A dataset whose items are the sampler's."""

    def __getitem__(self, item):
        return item


def split_of(*parts, **data):
    settings = DataConfig(**{"mix": [part.name for part in parts], "sequence_length": 12, **data})
    return PackedSplit(parts, settings, "train", 0, is_train=True)


@pytest.fixture(scope="module")
def mixed():
    """Epochs that differ: all of ``a``, and a part of ``b``, which is learned whole."""
    rng = np.random.default_rng(0)
    first, second = ([plain(length, 2) for length in rng.integers(3, 13, 40).tolist()] for _ in range(2))
    return split_of(make_part(first, "a", weight=3), make_part(second, "b", "pretrain", weight=1))


def test_a_batch_to_the_token():
    a, b = make_part([plain(5, 2), plain(3)], "a"), make_part([plain(4)], "b", "pretrain")
    split = split_of(a, b, packing="none")
    batch = Collator(split, pad_id=9)([(0, 2, 7), (0, NO_ROW, 7), (0, 0, 7)])
    none, tail = IGNORE_INDEX, [5, 6, 7]
    expected = {
        "input_ids": [[4, 5, 6, 7, 9, 9, 9, 9], [9] * 8, [4, 5, 6, 7, 8, 9, 9, 9]],
        "labels": [[none, 5, 6, 7, *[none] * 4], [none] * 8, [none, none, none, 7, 8, *[none] * 3]],
        "position_ids": [[0, 1, 2, 3, 4, *tail], [0, 1, 2, 3, 4, *tail], [0, 1, 2, 3, 4, *tail]],
        "document_ids": [[1] * 4 + [0] * 4, [0] * 8, [1] * 5 + [0] * 3],
        "source_ids": [[1] * 4 + [-1] * 4, [-1] * 8, [0] * 5 + [-1] * 3],
    }
    assert {name: batch[name].tolist() for name in ARRAYS} == expected
    assert all(batch[name].dtype == torch.int64 for name in ARRAYS)
    others = {name: value for name, value in batch.items() if name not in ARRAYS}
    assert others == {"step_tokens": 7, "packed": False, "rows": [2, NO_ROW, 0], "epoch": 0, "sources": 2}


def test_a_packed_row_restarts_positions_and_names_each_documents_source():
    split = split_of(make_part([plain(5), plain(3)], "a"), make_part([plain(4)], "b", "pretrain"))
    batch = Collator(split, pad_id=0)([(0, 0, 1)])
    assert batch["packed"]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 1, 2]]
    assert batch["document_ids"].tolist() == [[1] * 4 + [2] * 5 + [3] * 3]
    assert batch["source_ids"].tolist() == [[1] * 4 + [0] * 8]


def test_sources_have_the_same_numbers_in_a_split_of_some_of_them():
    split = split_of(make_part([plain(4)], "b"), mix=["a", "b", "c"])
    batch = Collator(split, pad_id=0)([(0, 0, 1)])
    assert (batch["source_ids"][0, :4].tolist(), batch["sources"]) == ([1] * 4, 3)
    assert split.draw_of(0).documents.tolist() == [1]


@pytest.mark.parametrize(
    ("length", "width"),
    [pytest.param(5, 8, id="rounded_up"), pytest.param(12, 12, id="never_over_the_sequence_length")],
)
def test_a_batch_is_as_wide_as_its_longest_row(length, width):
    split = split_of(make_part([plain(length), plain(3)], "a"), packing="none")
    assert Collator(split, 0)([(0, 1, 1), (0, 0, 1)])["input_ids"].shape == (2, width)


def test_a_step_without_rows_is_one_multiple_wide(mixed):
    batch = Collator(mixed, pad_id=0)([(0, NO_ROW, 5)])
    assert batch["input_ids"].shape == (1, 8)
    assert not batch["document_ids"].any()


def test_batches_of_a_step_hold_the_tokens_that_it_says(mixed):
    plan, collate = StepPlan(mixed, 8, 2, 2), Collator(mixed, 0)
    for epoch in range(3):
        first = plan.total_steps(epoch)
        learned, said = np.zeros(plan.steps_of(epoch), dtype=int), []
        for rank in range(2):
            sampler = StepSampler(plan, rank, 0)
            sampler.start(first)
            batches = [collate(items) for items in sampler]
            said.append([batch["step_tokens"] for batch in batches[:: plan.accumulation]])
            counts = [int((batch["labels"] != IGNORE_INDEX).sum()) for batch in batches]
            learned += np.array(counts).reshape(-1, plan.accumulation).sum(axis=1)
            assert {batch["epoch"] for batch in batches} == {epoch}
        assert said[0] == said[1] == learned.tolist()


def test_a_worker_process_makes_the_same_batches_of_every_epoch(mixed):
    """Its copy of the split has packed no epoch when it gets the first item of one."""
    plan = StepPlan(mixed, 4, 2, 1)
    loaders = [
        DataLoader(
            Through(),
            batch_sampler=StepSampler(plan, 0, 3),
            collate_fn=Collator(mixed, 0),
            num_workers=workers,
            persistent_workers=workers > 0,
            multiprocessing_context="fork" if workers else None,
        )
        for workers in (0, 1)
    ]
    for epoch in (0, 3):
        for loader in loaders:
            loader.batch_sampler.start(plan.total_steps(epoch))
        for here, there in zip(*loaders, strict=True):
            assert here["epoch"] == epoch == there["epoch"]
            assert all(torch.equal(here[name], there[name]) for name in ARRAYS)
