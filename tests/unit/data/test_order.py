"""The order of rows: whole steps, the same for any number of ranks, resumable by a step count."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtune.data.order import NO_ROW, StepPlan, StepSampler


def steps_of(num_rows, global_batch, micro, world, start=0, seed=3):
    """Per step: the rows of all ranks and micro batches, and the step's learned tokens."""
    learned = np.arange(num_rows) + 1
    plan = StepPlan(num_rows, global_batch, micro, world)
    ranks = []
    for rank in range(world):
        sampler = StepSampler(learned, np.arange(num_rows), plan, rank, seed)
        sampler.start(start)
        ranks.append(list(sampler))
    per_step = plan.accumulation
    steps = []
    for first in range(0, len(ranks[0]), per_step):
        items = [item for batches in ranks for batch in batches[first : first + per_step] for item in batch]
        (tokens,) = {tokens for _, tokens in items}
        rows = sorted(row for row, _ in items)
        assert tokens == sum(row + 1 for row in rows if row != NO_ROW)
        assert len(rows) == global_batch
        steps.append(rows)
    return steps


@given(num_rows=st.integers(1, 40), per_rank=st.integers(1, 3), seed=st.integers(0, 5))
def test_an_epoch_shows_every_row_once_whatever_ranks_and_accumulation(num_rows, per_rank, seed):
    global_batch = 4 * per_rank
    splits = [(1, 1), (1, 2), (2, 1), (4, 1), (2, 2)]
    all_steps = [
        steps_of(num_rows, global_batch, micro * per_rank, world, seed=seed) for micro, world in splits
    ]
    assert all(steps == all_steps[0] for steps in all_steps)
    shown = sorted(row for step in all_steps[0] for row in step if row != NO_ROW)
    assert shown == list(range(num_rows))


@pytest.mark.parametrize(("world_before", "world_after"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("start", [0, 1, 4, 5, 7])
def test_starting_at_a_step_shows_what_is_left(world_before, world_after, start):
    epochs = []
    for epoch in range(2):
        sampler = StepSampler(np.ones(18, dtype=int), np.arange(18), StepPlan(18, 4, 1, 1), 0, 3)
        sampler.start(epoch * 5)
        epochs.append(sampler.order())
    whole = np.concatenate(epochs)[start : 5 * (start // 5 + 1)]
    resumed = steps_of(18, 4, 2, world_after, start=start)
    assert [sorted(step) for step in whole.tolist()] == resumed


def test_a_second_pass_begins_at_the_beginning():
    sampler = StepSampler(np.ones(8, dtype=int), np.arange(8), StepPlan(8, 2, 2, 1), 0, 3)
    sampler.start(2)
    assert len(list(sampler)) == 2
    assert len(list(sampler)) == 4 == len(sampler)


def test_epochs_differ_and_fixed_order_is_kept():
    shuffled = StepSampler(np.ones(32, dtype=int), np.arange(32), StepPlan(32, 4, 4, 1), 0, 3)
    first = shuffled.order().tolist()
    shuffled.start(8)
    assert shuffled.order().tolist() != first
    fixed = StepSampler(np.ones(32, dtype=int), np.arange(32), StepPlan(32, 4, 4, 1), 0, None)
    assert fixed.order().ravel().tolist() == list(range(32))
