"""Liger's fused kernels (github.com/linkedin/Liger-Kernel, extra ``gpu``)."""

import importlib.util
import logging

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from medtune.config.schema import Config
from medtune.runtime.families import NATIVE_FAMILIES

logger = logging.getLogger(__name__)


def use_fused_kernels(config: Config) -> bool:
    """What ``model.fused_kernels`` means on this machine."""
    if config.model.fused_kernels is not None:
        return config.model.fused_kernels
    if config.deterministic:
        return False
    on_gpu = config.trainer.accelerator != "cpu" and torch.cuda.is_available()
    return on_gpu and importlib.util.find_spec("liger_kernel") is not None


def fused_cross_entropy(head: nn.Module, hidden: Tensor, labels: Tensor) -> Tensor | None:
    """The summed cross-entropy of a plain linear head, its logits never in memory; None where it cannot be.

    Args:
        head: Any output head. One of another class (a normalised one, an adapter's) is left to the caller.
        hidden: [N, C].
        labels: [N], all learned.

    Returns:
        float32 [1].
    """
    if type(head) is not nn.Linear or not hidden.requires_grad or not len(labels):
        return None
    from liger_kernel.transformers.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyLoss

    # Chunks add up the weight's gradient: in bfloat16 the later ones would be rounded away.
    loss = LigerFusedLinearCrossEntropyLoss(reduction="sum", accum_dtype=torch.float32)
    return loss(head.weight, hidden, labels, head.bias).float().reshape(1)  # type: ignore[no-any-return]


def use_fused_layers(model: PreTrainedModel) -> None:
    """Puts Liger's norms, rotary positions and feed-forward products into a family of transformers' own.

    For the rest of the process: Liger also replaces them in the family's module. Networks that are written
    here, and families that Liger does not know, keep theirs.
    """
    from liger_kernel.transformers import monkey_patch

    model_type = model.config.model_type
    if model_type in NATIVE_FAMILIES or model_type not in monkey_patch.MODEL_TYPE_TO_APPLY_LIGER_FN:
        logger.info("kernels: Liger's for the loss, where the head is plainly linear and the data one source")
        return
    # The loss is ours in either case: see training/token_losses.py.
    monkey_patch._apply_liger_kernel_to_instance(
        model=model, cross_entropy=False, fused_linear_cross_entropy=False
    )
    logger.info("kernels: Liger's for the loss, norms, positions and feed-forward products")
