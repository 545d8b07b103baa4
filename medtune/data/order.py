"""In which order rows are learned: a pure function of (seed, epoch), the same for any number of ranks."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NO_ROW = -1  # fills the last step of an epoch: a row without tokens, so that no row is dropped


@dataclass(frozen=True)
class StepPlan:
    """How rows make steps.

    Attributes:
        num_rows: Rows in an epoch.
        rows_per_step: ``data.global_batch_size``.
        micro_batch_size: Rows in one forward pass on one device.
        world_size: Data-parallel ranks.
    """

    num_rows: int
    rows_per_step: int
    micro_batch_size: int
    world_size: int

    @property
    def accumulation(self) -> int:
        """Forward passes per step on each rank."""
        return self.rows_per_step // (self.micro_batch_size * self.world_size)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps that show every row once; the last may be partly filled."""
        return -(-self.num_rows // self.rows_per_step)


class StepSampler:
    """A batch sampler that emits whole optimizer steps and carries each step's learned tokens.

    Step k of an epoch holds the same rows for every number of ranks and any accumulation; rank r
    takes its share. Items are (row, learned tokens of the whole step), so the exact divisor of the
    loss (DESIGN, promise 1) needs no communication and survives worker processes.

    Lightning's DeepSpeed strategy reads ``batch_size``.

    Args:
        learned: Learned tokens of every row of the split.
        rows: The rows to show, ``plan.num_rows`` of them.
        plan: How they make steps.
        global_rank: This rank.
        shuffle_seed: Seed of the epochs' orders; None keeps the order of ``rows``.
    """

    def __init__(
        self,
        learned: NDArray[np.int64],
        rows: NDArray[np.int64],
        plan: StepPlan,
        global_rank: int,
        shuffle_seed: int | None,
    ) -> None:
        self.learned = learned
        self.rows = rows
        self.plan = plan
        self.global_rank = global_rank
        self.shuffle_seed = shuffle_seed
        self.batch_size = plan.micro_batch_size
        self.epoch = 0
        self._first_step = 0

    def __len__(self) -> int:
        return self.plan.steps_per_epoch * self.plan.accumulation

    def start(self, global_step: int) -> None:
        """Lets the next iteration go on where ``global_step`` optimizer steps have ended."""
        self.epoch, self._first_step = divmod(global_step, self.plan.steps_per_epoch)

    def order(self) -> NDArray[np.int64]:
        """Rows of the current epoch, filled to whole steps, shape [steps, rows_per_step]."""
        plan, rows = self.plan, self.rows
        if self.shuffle_seed is not None:
            rows = np.random.default_rng([self.shuffle_seed, self.epoch]).permutation(rows)
        missing = plan.steps_per_epoch * plan.rows_per_step - plan.num_rows
        return np.concatenate([rows, np.full(missing, NO_ROW)]).reshape(-1, plan.rows_per_step)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        plan = self.plan
        first, self._first_step = self._first_step, 0
        for step in self.order()[first:]:
            step_tokens = int(self.learned[step[step != NO_ROW]].sum())
            shares = step.reshape(plan.accumulation, plan.world_size, plan.micro_batch_size)
            for micro_batch in shares[:, self.global_rank]:
                yield [(int(row), step_tokens) for row in micro_batch]
