"""The order of rows: whole steps, the same for any number of ranks, resumable by a step count."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtune.data.rows.order import NO_ROW, StepPlan, StepSampler


@dataclass
class Counted:
    """Rows of which the r-th of epoch e teaches ``100 * e + r + 1`` tokens; later epochs repeat these."""

    sizes: list[int]

    @property
    def is_constant(self):
        return len(self.sizes) == 1

    def learned_of(self, epoch):
        number = epoch % len(self.sizes)
        return 100 * number + np.arange(self.sizes[number]) + 1


def plan_of(sizes, rows_per_step=4, micro=1, world=1, chosen=None):
    return StepPlan(Counted(sizes), rows_per_step, micro, world, chosen)


def steps_from(plan, start, seed=3):
    """The rest of an epoch: per step, the sorted (epoch, row) of all ranks and micro batches."""
    ranks = []
    for rank in range(plan.world_size):
        sampler = StepSampler(plan, rank, seed)
        sampler.start(start)
        ranks.append(list(sampler))
    steps = []
    for first in range(0, len(ranks[0]), plan.accumulation):
        items = [
            item
            for batches in ranks
            for batch in batches[first : first + plan.accumulation]
            for item in batch
        ]
        (tokens,) = {tokens for _, _, tokens in items}
        (epoch,) = {epoch for epoch, _, _ in items}
        shown = plan.source.learned_of(epoch)
        assert tokens == sum(shown[row] for _, row, _ in items if row != NO_ROW)
        assert len(items) == plan.rows_per_step
        steps.append(sorted((epoch, row) for epoch, row, _ in items))
    return steps


def run_from(plan, start, stop, seed=3):
    """The steps ``start`` to ``stop`` of a run, across epochs."""
    steps = []
    while start < stop:
        rest = steps_from(plan, start, seed)[: stop - start]
        start += len(rest)
        steps += rest
    return steps


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    per_rank=st.integers(1, 3),
    seed=st.integers(0, 5),
    resume=st.integers(0, 30),
)
def test_a_run_is_a_partition_whatever_ranks_accumulation_and_resume_point(sizes, per_rank, seed, resume):
    layouts = [(1, 1), (1, 2), (2, 1), (4, 1), (2, 2), (1, 4)]
    plans = [plan_of(sizes, 4 * per_rank, micro * per_rank, world) for micro, world in layouts]
    stop = plans[0].total_steps(3)
    runs = [run_from(plan, 0, stop, seed) for plan in plans]
    assert all(run == runs[0] for run in runs)
    shown = sorted(item for step in runs[0] for item in step if item[1] != NO_ROW)
    assert shown == [(epoch, row) for epoch in range(3) for row in range(sizes[epoch % len(sizes)])]
    resume = min(resume, stop)
    for plan in plans[1:3]:
        assert run_from(plan, resume, stop, seed) == runs[0][resume:]


@pytest.mark.parametrize("world_after", [1, 2])
@pytest.mark.parametrize("start", [0, 1, 4, 5, 7])
def test_starting_at_a_step_shows_what_is_left(world_after, start):
    epochs = []
    for epoch in range(2):
        sampler = StepSampler(plan_of([18]), 0, 3)
        sampler.start(epoch * 5)
        epochs.append(sampler.order())
    whole = np.concatenate(epochs)[start : 5 * (start // 5 + 1)].tolist()
    resumed = steps_from(plan_of([18], 4, 2, world_after), start)
    assert [sorted(step) for step in whole] == [[row for _, row in step] for step in resumed]


def test_a_second_pass_begins_at_the_beginning():
    sampler = StepSampler(plan_of([8], 2, 2), 0, 3)
    sampler.start(2)
    assert len(list(sampler)) == 2
    assert len(list(sampler)) == 4 == len(sampler)


def test_a_sampler_is_as_long_as_its_epoch():
    sampler = StepSampler(plan_of([5, 12], 4, 2, 1), 0, 3)
    assert len(sampler) == 2 * 2 == len(list(sampler))
    sampler.start(2)
    assert (sampler.epoch, len(sampler)) == (1, 3 * 2)


def test_epochs_differ_and_fixed_order_is_kept():
    shuffled = StepSampler(plan_of([32]), 0, 3)
    first = shuffled.order().tolist()
    shuffled.start(8)
    assert shuffled.order().tolist() != first
    fixed = StepSampler(plan_of([32]), 0, None)
    assert fixed.order().ravel().tolist() == list(range(32))


def test_only_chosen_rows_are_shown_when_some_are():
    plan = plan_of([9], 2, chosen=np.array([1, 4, 8]))
    assert (plan.rows_of(0), plan.steps_of(0)) == (3, 2)
    assert StepSampler(plan, 0, None).order().tolist() == [[1, 4], [8, NO_ROW]]


@pytest.mark.parametrize(
    ("sizes", "step", "epoch", "done", "epochs"),
    [
        pytest.param([10], 0, 0, 0, 0.0, id="start"),
        pytest.param([10], 7, 2, 1, 2 + 1 / 3, id="constant"),
        pytest.param([10, 4, 1], 3, 1, 0, 1.0, id="end_of_an_epoch"),
        pytest.param([10, 4, 1], 4, 2, 0, 2.0, id="epoch_of_one_step"),
        pytest.param([10, 4, 1], 6, 3, 1, 3 + 1 / 3, id="later"),
    ],
)
def test_a_step_lies_in_an_epoch(sizes, step, epoch, done, epochs):
    plan = plan_of(sizes)
    assert plan.epoch_of(step) == (epoch, done)
    assert plan.epochs_at(step) == pytest.approx(epochs, abs=1e-12)


@pytest.mark.parametrize(
    ("sizes", "epochs", "steps"),
    [
        pytest.param([10], 3, 9, id="whole"),
        pytest.param([10], 0.5, 2, id="half_is_rounded_up"),
        pytest.param([400], 1.1, 110, id="a_decimal_fraction_is_no_further_step"),
        pytest.param([10, 4, 1], 2, 4, id="different_epochs"),
        pytest.param([10, 4, 20], 2.4, 6, id="part_of_a_different_epoch"),
    ],
)
def test_epochs_are_so_many_steps(sizes, epochs, steps):
    assert plan_of(sizes).total_steps(epochs) == steps


def test_rows_of_an_epoch_are_counted_once():
    asked = []

    class Asked(Counted):
        def learned_of(self, epoch):
            asked.append(epoch)
            return super().learned_of(epoch)

    plan = StepPlan(Asked([10, 4]), 4, 1, 1)
    assert plan.total_steps(4) == plan.total_steps(4) == 8
    assert asked == [0, 1, 2, 3]
