"""The files of a checkpoint that torch writes: the state and the ranks' random streams."""

import copy
import pickle
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor

from medtune.runtime.errors import ConfigError
from medtune.training.checkpoints import damage


class PlainFile(TorchCheckpointIO):
    """Writes straight to the file; Lightning builds the whole file in memory first, to be atomic."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Saves ``checkpoint`` at ``path``, which lies in a folder that is not yet whole."""
        torch.save(checkpoint, path)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """Reads what :meth:`save_checkpoint` wrote, by tensors and plain types alone."""
        del weights_only
        file = Path(path)
        return read_state(file.parent, file.name, map_location=map_location)


def read_state(path: Path, name: str, **how: Any) -> Any:
    """Reads a file of a checkpoint that torch wrote.

    Args:
        path: The checkpoint.
        name: The file in it.
        how: Further arguments of ``torch.load``.

    Raises:
        ConfigError: It is missing or damaged.
    """
    try:
        return torch.load(path / name, weights_only=True, **how)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise ConfigError(damage(path, name, error)) from error


def copied_to_host(value: Any, copies: dict[Any, Tensor] | None = None) -> Any:
    """A copy of a state in main memory that shares nothing with ``value``: training may go on meanwhile.

    Tensors that share their memory (tied weights) share that of one copy, so that it is written once.
    """
    copies = {} if copies is None else copies
    if isinstance(value, Tensor):
        place = (value.untyped_storage().data_ptr(), value.storage_offset(), value.shape, value.stride())
        key = (*place, value.dtype, value.device)
        if key not in copies:
            copies[key] = value.detach().to("cpu", copy=True)
        return copies[key]
    if isinstance(value, dict):
        items = ((name, copied_to_host(item, copies)) for name, item in value.items())
        return OrderedDict(items) if isinstance(value, OrderedDict) else dict(items)
    if type(value) in (list, tuple):
        return type(value)(copied_to_host(item, copies) for item in value)
    return copy.deepcopy(value)


def rng_state() -> dict[str, Any]:
    """The state of this process's random streams, in plain types and tensors."""
    name, keys, *rest = np.random.get_state()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Restores what :func:`rng_state` returned."""
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
