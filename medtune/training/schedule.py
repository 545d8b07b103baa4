"""The learning rate over the steps."""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from medtune.config.schema import ScheduleConfig


def warmup_steps(config: ScheduleConfig, total_steps: int) -> int:
    """Steps of the warm-up, at most all of them."""
    return steps_of(config.warmup_steps, config.warmup_ratio, total_steps)


def decay_steps(config: ScheduleConfig, total_steps: int) -> int:
    """Steps of wsd's decay, at most those after the warm-up."""
    after = total_steps - warmup_steps(config, total_steps)
    return min(steps_of(config.decay_steps, config.decay_ratio, total_steps), after)


def steps_of(steps: int | None, share: float, total_steps: int) -> int:
    """``steps`` where it is given, else ``share`` of all, rounded up; at most all of them."""
    return min(math.ceil(share * total_steps) if steps is None else steps, total_steps)


def learning_rate_factor(step: int, config: ScheduleConfig, total_steps: int) -> float:
    """The share of the peak learning rate that the update number ``step`` (from 0) uses.

    The warm-up rises in equal parts and its first update is not wasted on 0. The decay is
    transformers' ``get_cosine_schedule_with_warmup`` (or the linear one), lifted to end at
    ``min_lr_ratio``. ``wsd`` stays at the peak until its own decay (arXiv:2404.06395).
    """
    warmup = warmup_steps(config, total_steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.name == "constant":
        return 1.0
    start = total_steps - decay_steps(config, total_steps) if config.name == "wsd" else warmup
    progress = min(1.0, max(0, step - start) / max(1, total_steps - start))
    shape = config.decay_shape if config.name == "wsd" else config.name
    return config.min_lr_ratio + (1.0 - config.min_lr_ratio) * DECAYS[shape](progress)


# What is left of the learning rate after a share of the decay.
DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
    "sqrt": lambda progress: 1.0 - math.sqrt(progress),
}


def build_schedule(optimizer: Optimizer, config: ScheduleConfig, total_steps: int) -> LambdaLR:
    """Builds the scheduler that is stepped after every update; each group keeps its share of the rate."""
    factor: Callable[[int], float] = lambda step: learning_rate_factor(step, config, total_steps)  # noqa: E731
    return LambdaLR(optimizer, factor)
