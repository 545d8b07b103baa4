"""Who this process is among the ranks that torchrun started, and how they exchange small things."""

import os
import sys
from typing import TypeVar

Value = TypeVar("Value")


def global_rank() -> int:
    """This process's number over all machines; 0 when it runs alone."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """This process's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """Number of processes of the run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def gather(value: Value) -> list[Value]:
    """Every rank's ``value``, in the order of the ranks, on every rank; all ranks must call it."""
    if world_size() == 1:
        return [value]
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo")
    values: list[Value] = [value] * world_size()
    dist.all_gather_object(values, value)
    return values


def leave() -> None:
    """Closes the ranks' connections once all have come this far.

    Left to the interpreter's end, gloo's threads are destroyed while they run, and the process aborts.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def interleave(shares: list[list[Value]]) -> list[Value]:
    """Undoes ``items[rank::world_size]``: the items in their first order."""
    total = sum(len(share) for share in shares)
    return [shares[index % len(shares)][index // len(shares)] for index in range(total)]
