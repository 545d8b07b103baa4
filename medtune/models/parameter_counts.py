"""How many parameters a network has, and how many of them learn."""

import logging
from typing import Any, NamedTuple

from torch import Tensor, nn

logger = logging.getLogger(__name__)


class ParameterCounts(NamedTuple):
    """Parameters that learn, and all of them."""

    trained: int
    total: int


def count_parameters(model: nn.Module) -> ParameterCounts:
    """Counts each parameter once, tied ones too; before a strategy divides them into ranks' shares."""
    sizes = [(parameter.requires_grad, size_of(parameter)) for parameter in model.parameters()]
    return ParameterCounts(sum(size for learns, size in sizes if learns), sum(size for _, size in sizes))


def size_of(parameter: Tensor) -> int:
    """The numbers that a parameter stands for; 4-bit weights are held as bytes of two."""
    state: Any = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(state.shape.numel())


def log_trained_share(what: str, model: nn.Module) -> None:
    """Logs how many parameters learn."""
    trained, total = count_parameters(model)
    share = 100 * trained / total
    logger.info("%s: %s of %s parameters learn (%.2f %%)", what, f"{trained:,}", f"{total:,}", share)
