"""Strategies by name: builders for the ``strategy`` node, and what cannot work under each.

Nothing heavy is imported before a builder is called, so that the launcher can ask for problems.
"""

import importlib.util
import os
from typing import TYPE_CHECKING, Any

from medtune.config.instantiate import instantiate
from medtune.config.schema import Config

if TYPE_CHECKING:
    from lightning.pytorch.strategies import Strategy

BUILDERS = "medtune.training.strategies"


def ddp(find_unused_parameters: bool = False, bucket_cap_mb: int | None = None) -> "Strategy":
    """A copy of the model on each device; gradients are averaged (torch's DistributedDataParallel).

    Args:
        find_unused_parameters: For models of which a step uses only a part; costs a walk over the graph.
        bucket_cap_mb: Size of a gradient bucket. None: torch's own.
    """
    from lightning.pytorch.strategies import DDPStrategy

    more: dict[str, Any] = {} if bucket_cap_mb is None else {"bucket_cap_mb": bucket_cap_mb}
    return DDPStrategy(find_unused_parameters=find_unused_parameters, gradient_as_bucket_view=True, **more)


def zero(
    stage: int,
    offload_optimizer: bool = False,
    offload_parameters: bool = False,
    overlap_comm: bool = True,
    reduce_bucket_size: int | None = None,
    allgather_bucket_size: int | None = None,
) -> "Strategy":
    """DeepSpeed's ZeRO (arXiv:1910.02054), on GPUs or CPU ranks.

    Args:
        stage: 1 shards the optimizer state, 2 the gradients too, 3 the parameters too.
        offload_optimizer: Keep the optimizer state in host memory and update there.
        offload_parameters: Stage 3: keep the parameters in host memory between uses.
        overlap_comm: Send gradients while the backward pass goes on; costs a second buffer.
        reduce_bucket_size: Elements in a buffer of gradients. None: 200 million, on CPU ranks 2 million.
        allgather_bucket_size: The same for gathered parameters.
    """
    _prepare_deepspeed()
    from medtune.training.zero import ZeroStrategy

    buckets = {"reduce_bucket_size": reduce_bucket_size, "allgather_bucket_size": allgather_bucket_size}
    return ZeroStrategy(
        stage=stage,
        offload_optimizer=offload_optimizer,
        offload_parameters=offload_parameters,
        overlap_comm=overlap_comm,
        **{key: size for key, size in buckets.items() if size is not None},
    )


def fsdp(reshard_after_forward: bool = True) -> "Strategy":
    """Fully sharded data parallelism (torch's ``fully_shard``, FSDP2), layer by layer.

    Args:
        reshard_after_forward: Free a layer's gathered weights after its forward pass (ZeRO-3's memory);
            false keeps them for the backward pass (ZeRO-2's memory, less traffic).
    """
    from medtune.training.fsdp import FullyShardedStrategy

    return FullyShardedStrategy(reshard_after_forward=reshard_after_forward)


def build_strategy(config: Config, world_size: int) -> "Strategy | str":
    """The strategy that a run uses; without a node one device, or DDP over several."""
    if not config.strategy:
        return ddp() if world_size > 1 else "auto"
    if on_cpu(config):
        # Read by deepspeed at its import; on a machine with GPUs it would choose them.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    strategy: Strategy = instantiate(config.strategy)
    if hasattr(strategy, "exclude_frozen_parameters"):
        strategy.exclude_frozen_parameters = config.adapter.name != "none"
    return strategy


def on_cpu(config: Config) -> bool:
    """Whether the fit runs on CPU ranks."""
    import torch

    return config.trainer.accelerator == "cpu" or not torch.cuda.is_available()


def layout_of(config: Config) -> str:
    """How a run's checkpoints are laid out: ``file``, ``zero1`` to ``zero3``, or ``fsdp``."""
    name = strategy_name(config)
    if name == "zero":
        return f"zero{config.strategy.get('stage')}"
    return "fsdp" if name == "fsdp" else "file"


def strategy_name(config: Config) -> str:
    """The builder's name, ``auto`` without one, the whole target when it is not ours."""
    target = str(config.strategy.get("_target_", f"{BUILDERS}.auto"))
    return target.removeprefix(f"{BUILDERS}.")


def strategy_problems(config: Config) -> list[str]:
    """What cannot work, a sentence each; imports nothing heavy."""
    name = strategy_name(config)
    problems = []
    if name == "zero":
        problems += _zero_problems(config)
    if config.checkpoint.asynchronous and name in ("zero", "fsdp"):
        problems.append(
            f"checkpoint.asynchronous=true with strategy={name}: its ranks write their shards together, "
            "straight from the state that training changes; set "
            "checkpoint.asynchronous=false, or use strategy=ddp"
        )
    return problems


def _zero_problems(config: Config) -> list[str]:
    node, problems = config.strategy, []
    if importlib.util.find_spec("deepspeed") is None:
        problems.append(
            "strategy: ZeRO needs the package deepspeed, which is not installed: "
            "pip install 'medtune[deepspeed]', or take strategy=fsdp"
        )
    if node.get("stage") not in (1, 2, 3):
        problems.append(f"strategy.stage={node.get('stage')} must be 1, 2 or 3")
    if node.get("offload_parameters") and node.get("stage") != 3:
        problems.append(
            f"strategy.offload_parameters=true needs strategy.stage=3 (it is {node.get('stage')}): "
            "the other stages keep every parameter on the device"
        )
    return problems


def _prepare_deepspeed() -> None:
    """Sets what deepspeed reads from the environment at its import."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
