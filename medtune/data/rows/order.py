"""In which order rows are learned: a pure function of (seed, epoch), the same for any number of ranks."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Item = tuple[int, int, int]  # epoch, row of that epoch, learned tokens of the row's whole step

NO_ROW = -1  # fills the last step of an epoch: a row without tokens, so that no row is dropped


class RowSource(Protocol):
    """Where rows come from, such as a :class:`~medtune.data.rows.split.PackedSplit`."""

    @property
    def is_constant(self) -> bool:
        """Whether every epoch has the same rows."""

    @property
    def digest(self) -> str:
        """Of the tokens that rows are made of."""

    def learned_of(self, epoch: int) -> Ints:
        """Learned tokens of each row of an epoch."""


@dataclass(frozen=True)
class StepPlan:
    """How rows make steps. Epochs may differ in their rows; they are counted when first asked for.

    Attributes:
        source: The rows.
        rows_per_step: ``data.global_batch_size``.
        micro_batch_size: Rows in one forward pass on one device.
        world_size: Data-parallel ranks.
        chosen: Rows to show in each epoch, in this order; None: all of them.
    """

    source: RowSource
    rows_per_step: int
    micro_batch_size: int
    world_size: int
    chosen: Ints | None = None
    _counts: dict[int, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def accumulation(self) -> int:
        """Forward passes per step on each rank."""
        return self.rows_per_step // (self.micro_batch_size * self.world_size)

    def rows_of(self, epoch: int) -> int:
        """Rows shown in an epoch."""
        if self.chosen is not None:
            return len(self.chosen)
        key = 0 if self.source.is_constant else epoch
        if key not in self._counts:
            self._counts[key] = len(self.source.learned_of(key))
        return self._counts[key]

    def steps_of(self, epoch: int) -> int:
        """Optimizer steps that show every row of an epoch once; the last may be partly filled."""
        return -(-self.rows_of(epoch) // self.rows_per_step)

    def epoch_of(self, step: int) -> tuple[int, int]:
        """The epoch in which the step after ``step`` optimizer steps lies, and the steps done in it."""
        if self.source.is_constant:
            return divmod(step, self.steps_of(0))
        epoch = 0
        while step >= self.steps_of(epoch):
            step -= self.steps_of(epoch)
            epoch += 1
        return epoch, step

    def epochs_at(self, step: int) -> float:
        """Epochs done after ``step`` optimizer steps."""
        epoch, done = self.epoch_of(step)
        return epoch + done / self.steps_of(epoch)

    def total_steps(self, epochs: float) -> int:
        """Optimizer steps of so many epochs; a part of an epoch is rounded up to whole steps."""
        whole, rest = divmod(epochs, 1)
        if self.source.is_constant:
            steps = int(whole) * self.steps_of(0)
        else:
            steps = sum(self.steps_of(epoch) for epoch in range(int(whole)))
        # Less than the rounding of a decimal fraction is no further step.
        return steps + int(np.ceil(rest * self.steps_of(int(whole)) - 1e-6)) if rest else steps


class StepSampler:
    """A batch sampler that emits whole optimizer steps and carries each step's learned tokens.

    Step k of an epoch holds the same rows for every number of ranks and any accumulation; rank r
    takes its share. Items are (epoch, row, learned tokens of the whole step), so the exact divisor of
    the loss (DESIGN, promise 1) needs no communication, and a worker process that gets one needs to
    know nothing else.

    Lightning's DeepSpeed strategy reads ``batch_size``.

    Args:
        plan: The rows and how they make steps.
        global_rank: This rank.
        shuffle_seed: Seed of the epochs' orders; None keeps the order of the rows.
    """

    def __init__(self, plan: StepPlan, global_rank: int, shuffle_seed: int | None) -> None:
        self.plan = plan
        self.global_rank = global_rank
        self.shuffle_seed = shuffle_seed
        self.batch_size = plan.micro_batch_size
        self.epoch = 0
        self._first_step = 0

    def __len__(self) -> int:
        return self.plan.steps_of(self.epoch) * self.plan.accumulation

    def start(self, global_step: int) -> None:
        """Lets the next iteration go on where ``global_step`` optimizer steps have ended."""
        self.epoch, self._first_step = self.plan.epoch_of(global_step)

    def order(self) -> Ints:
        """Rows of the current epoch, filled to whole steps, shape [steps, rows_per_step]."""
        plan = self.plan
        rows = np.arange(plan.rows_of(self.epoch)) if plan.chosen is None else plan.chosen
        if self.shuffle_seed is not None:
            rows = np.random.default_rng([self.shuffle_seed, self.epoch]).permutation(rows)
        missing = -len(rows) % plan.rows_per_step
        return np.concatenate([rows, np.full(missing, NO_ROW)]).reshape(-1, plan.rows_per_step)

    def __iter__(self) -> Iterator[list[Item]]:
        plan, epoch = self.plan, self.epoch
        first, self._first_step = self._first_step, 0
        learned = plan.source.learned_of(epoch)
        for step in self.order()[first:]:
            step_tokens = int(learned[step[step != NO_ROW]].sum())
            shares = step.reshape(plan.accumulation, plan.world_size, plan.micro_batch_size)
            for micro_batch in shares[:, self.global_rank]:
                yield [(epoch, int(row), step_tokens) for row in micro_batch]
