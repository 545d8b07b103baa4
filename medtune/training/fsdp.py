"""FSDP2: ``fully_shard`` on every decoder layer and on the whole, in Lightning's ModelParallelStrategy."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint import state_dict_loader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard

from medtune.models.placing import Prepare, parts
from medtune.models.shardable import make_shardable
from medtune.training.restoring import check_shapes, not_taken_up


class FullyShardedStrategy(ModelParallelStrategy):
    """Shards parameters, gradients and optimizer state over all ranks.

    Checkpoints are torch's distributed ones and can be resumed on another number of ranks.

    Args:
        reshard_after_forward: See :func:`medtune.training.strategies.fsdp`.
    """

    def __init__(self, reshard_after_forward: bool = True) -> None:
        super().__init__(tensor_parallel_size=1)
        self.reshard_after_forward = reshard_after_forward

    def setup_environment(self) -> None:
        """Puts every rank of every machine into one data-parallel mesh."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def place_model(self, model: nn.Module, prepare: Prepare) -> nn.Module:
        """Shards ``model`` in place, a layer at a time: a device never holds it whole."""
        mesh = self.device_mesh["data_parallel"]
        for part in parts(model):
            prepare(part)
            make_shardable(part)
            fully_shard(part, mesh=mesh, reshard_after_forward=self.reshard_after_forward)
        return model

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Loads model and optimizer in place and returns the rest.

        Lightning's own asks the checkpoint for every parameter; one of an adapter leaves the frozen out.
        """
        path = Path(self.broadcast(checkpoint_path))
        model, optimizer = self.model, self.optimizers[0]
        assert model is not None
        assert self.lightning_module is not None
        strict = self.lightning_module.strict_loading
        named = model.named_parameters(remove_duplicate=False)  # tied weights have two names, as saved
        trained = {name for name, parameter in named if strict or parameter.requires_grad}
        weights = {name: value for name, value in get_model_state_dict(model).items() if name in trained}
        moments = get_optimizer_state_dict(model, optimizer)
        state: dict[str, Any] = {"state_dict": weights, "optimizer_0": moments}
        try:
            metadata = FileSystemReader(path).read_metadata().state_dict_metadata
            check_shapes(saved_shapes(metadata), self.lightning_module)
            state_dict_loader.load(state, checkpoint_id=path)
        except CheckpointException as error:  # not an Exception: nothing else would catch it
            cause, _ = next(iter(error.failures.values()))
            raise not_taken_up(path.parent, cause) from error
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise not_taken_up(path.parent, error) from error
        set_model_state_dict(model, weights, options=StateDictOptions(strict=strict))
        set_optimizer_state_dict(model, optimizer, optim_state_dict=state["optimizer_0"])
        rest: dict[str, Any] = torch.load(path / "meta.pt", map_location="cpu", weights_only=weights_only)
        return rest


def saved_shapes(metadata: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The whole shapes of the weights that torch's checkpoint holds, by their names in the module."""
    prefix = "state_dict."
    return {
        name.removeprefix(prefix): tuple(item.size)
        for name, item in metadata.items()
        if name.startswith(prefix) and hasattr(item, "size")
    }
