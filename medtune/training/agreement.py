"""What the ranks tell each other at the end of every step, without anyone waiting for the others."""

from typing import Any

import lightning.pytorch as L
import torch
import torch.distributed as dist


class Agreement:
    """A number that every rank gives at the end of a step, and the ranks' common one of a step ago.

    The sum or maximum travels while the next step is computed and is read at its end. One process alone
    needs nobody: it gets its own number at once.

    Args:
        op: ``max`` or ``sum``.
    """

    def __init__(self, op: str) -> None:
        self.op = {"max": dist.ReduceOp.MAX, "sum": dist.ReduceOp.SUM}[op]
        self._under_way: tuple[torch.Tensor, Any] | None = None

    def exchange(self, value: int, trainer: L.Trainer, device: torch.device) -> int:
        """Gives this rank's number of this step; returns all ranks' of the step before, 0 without one."""
        if trainer.world_size == 1:
            return value
        shared = torch.tensor([value], device=device)
        earlier, self._under_way = (
            self._under_way,
            (shared, dist.all_reduce(shared, op=self.op, async_op=True)),
        )
        if earlier is None:
            return 0
        earlier[1].wait()
        return int(earlier[0])

    def forget(self) -> None:
        """Waits for what is under way and drops it; all ranks do so after the same step."""
        if self._under_way is not None:
            self._under_way[1].wait()
        self._under_way = None
