"""Half precision that leaves buffers in float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch.plugins.precision.half import HalfPrecision
from torch import nn


@contextmanager
def kept_buffers(module: nn.Module) -> Iterator[None]:
    """Gives buffers their float32 values back after the block.

    A cast of the whole module rounds the rotary frequencies to 8 bits too, which turns distant
    positions into others.
    """
    kept = [
        (owner, name, buffer.clone())
        for owner in module.modules()
        for name, buffer in owner.named_buffers(recurse=False)
        if buffer.dtype == torch.float32
    ]
    yield
    for owner, name, value in kept:
        owner._buffers[name] = value.to(owner._buffers[name].device)  # type: ignore[union-attr]


class HalfParameters(HalfPrecision):
    """``bf16-true`` as Lightning has it, but for the buffers."""

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Casts the parameters."""
        with kept_buffers(module):
            return super().convert_module(module)
