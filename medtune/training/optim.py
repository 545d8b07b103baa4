"""Optimizer, parameter groups and the learning rate over the steps."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from medtune.config.schema import OptimConfig, ScheduleConfig


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Splits the trained parameters: matrices decay, norms, biases and other vectors do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if _is_matrix(p)], "weight_decay": weight_decay},
        {"params": [p for p in trained if not _is_matrix(p)], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _is_matrix(parameter: nn.Parameter) -> bool:
    # Under ZeRO-3 a parameter is an empty vector between its uses; its own shape is kept beside it.
    shape: tuple[int, ...] = getattr(parameter, "ds_shape", parameter.shape)
    # The factors of (IA)^3 are [1, n] and [n, 1]: decay would pull them to 0, which switches channels off.
    return sum(side > 1 for side in shape) > 1


def build_optimizer(model: nn.Module, config: OptimConfig) -> Optimizer:
    """Builds the optimizer over the parameters that are trained.

    Raises:
        ValueError: Nothing in the model is trained.
    """
    groups = parameter_groups(model, config.weight_decay)
    if not groups:
        raise ValueError("no parameter of the model is trained; set adapter=lora, or quantization=none")
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr)
    first, second = config.betas
    return torch.optim.AdamW(groups, lr=config.lr, betas=(first, second), eps=config.eps, fused=True)


def warmup_steps(config: ScheduleConfig, total_steps: int) -> int:
    """Steps of the warm-up, at most all of them."""
    wanted = (
        math.ceil(config.warmup_ratio * total_steps) if config.warmup_steps is None else config.warmup_steps
    )
    return min(wanted, total_steps)


def learning_rate_factor(step: int, config: ScheduleConfig, total_steps: int) -> float:
    """The share of the peak learning rate that the update number ``step`` (from 0) uses.

    The warm-up rises in equal parts and its first update is not wasted on 0. The decay is
    transformers' ``get_cosine_schedule_with_warmup`` (or the linear one), lifted to end at
    ``min_lr_ratio``.
    """
    warmup = warmup_steps(config, total_steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.name == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    share = 1.0 - progress if config.name == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.min_lr_ratio + (1.0 - config.min_lr_ratio) * share


def build_schedule(optimizer: Optimizer, config: ScheduleConfig, total_steps: int) -> LambdaLR:
    """Builds the scheduler that is stepped after every update."""
    factor: Callable[[int], float] = lambda step: learning_rate_factor(step, config, total_steps)  # noqa: E731
    return LambdaLR(optimizer, factor)
