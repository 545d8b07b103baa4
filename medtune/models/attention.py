"""Forward arguments that keep the documents of a packed row apart, for every family.

Transformers derives document bounds from restarting positions, but only without a 2-D mask and without
a cache, and drops them silently otherwise. So the mask is built here and handed over finished: a 4-D
mask is used as it is, whatever else is given.
"""

from typing import Any

import torch
from torch import Tensor

from medtune.runtime.errors import ConfigError
from medtune.runtime.families import packing_refusal


def attention_inputs(
    model_type: str,
    attention: str,
    document_ids: Tensor,
    position_ids: Tensor,
    packed: bool,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Keyword arguments for ``model.forward``, beside ``input_ids``.

    Args:
        model_type: The family, ``model.config.model_type``.
        attention: ``sdpa`` or ``eager``, ``model.config._attn_implementation``.
        document_ids: [B, T], 1, 2, ... along a row, 0 for padding.
        position_ids: [B, T], restarting at each document.
        packed: False promises one document per row, padded on the right. A causal model then needs no
            mask: no token sees the padding behind it.
        dtype: Of the attention products, for the additive mask of ``eager``: autocast's type under
            autocast, else the weights'.

    Raises:
        ConfigError: ``packed`` with a family that is not known to keep documents apart.
    """
    if not packed:
        return {"use_cache": False}
    refusal = packing_refusal(model_type)
    if refusal is not None:
        raise ConfigError([refusal])
    allowed = document_mask(document_ids)
    # Eager attention adds its mask, and would add 1 for true; Baichuan adds ALiBi to the pairs itself.
    if attention == "eager" and model_type != "baichuan":
        allowed = additive_mask(allowed, dtype)
    return {"attention_mask": allowed, "position_ids": position_ids, "use_cache": False}


def document_mask(document_ids: Tensor) -> Tensor:
    """Which token each token may see: bool [B, 1, T, T], itself and those before it in its document.

    Padding is a document of its own, so that no row of the softmax is empty.
    """
    same = document_ids[:, None, :, None] == document_ids[:, None, None, :]
    return same.tril_()


def additive_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where ``allowed``, else the least number of ``dtype``."""
    zero = torch.zeros((), dtype=dtype, device=allowed.device)
    return torch.where(allowed, zero, torch.finfo(dtype).min)
