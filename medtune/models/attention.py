"""Forward arguments that keep the documents of a packed row apart, for every family.

Transformers derives document bounds from restarting positions, but only without a 2-D mask and without
a cache, and drops them silently otherwise. So what a family's attention needs is made here, from document
ids, and handed over finished; it is used as it is, whatever else is given.

Shapes: B rows, T tokens in a row, K cached and new tokens, N documents of all rows together.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from medtune.runtime.errors import ConfigError
from medtune.runtime.families import NATIVE_FAMILIES, packing_refusal

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


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
        attention: ``model.config._attn_implementation``.
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
    if model_type in NATIVE_FAMILIES:
        inputs: dict[str, Any] = {"document_ids": document_ids}
    elif attention == "flash_attention_2":
        bounds, longest = document_bounds(document_ids)
        inputs = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}
        inputs |= {"max_length_q": longest, "max_length_k": longest}
    elif attention == "flex_attention":
        inputs = {"attention_mask": block_mask(document_ids.shape, document_ids.device, document_ids)}
    else:
        allowed = document_mask(document_ids)
        # Eager attention adds its mask, and would add 1 for true.
        mask = additive_mask(allowed, dtype) if attention == "eager" else allowed
        inputs = {"attention_mask": mask}
    return {**inputs, "position_ids": position_ids, "use_cache": False}


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


def document_bounds(document_ids: Tensor) -> tuple[Tensor, int]:
    """Where documents begin in the rows laid end to end, as kernels for several lengths take it.

    Args:
        document_ids: [B, T]; a row's padding is a document of its own.

    Returns:
        int32 [N + 1], the last being B * T; and the length of the longest document.
    """
    begins = torch.ones_like(document_ids, dtype=torch.bool)
    begins[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    starts = begins.flatten().nonzero().squeeze(1)
    bounds = torch.cat([starts, starts.new_full((1,), document_ids.numel())]).to(torch.int32)
    return bounds, int(bounds.diff().max())


def block_mask(
    shape: Sequence[int],
    device: torch.device,
    document_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    past: int = 0,
) -> "BlockMask":
    """Which blocks of pairs FlexAttention computes: causal by column, and within a document.

    Args:
        shape: B and T.
        device: Of the products.
        document_ids: [B, T]; None: a document per row.
        attention_mask: [B, K], 0 for padding.
        past: Cached columns left of the first query.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    def may_see(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = key <= query + past
        if document_ids is not None:
            seen = seen & (document_ids[row, query] == document_ids[row, key])
        if attention_mask is not None:
            # A padding query sees itself, so that no row of the softmax is empty.
            seen = seen & ((attention_mask[row, key] != 0) | (key == query + past))
        return seen

    batch, length = shape
    rows = batch if document_ids is not None or attention_mask is not None else None
    return create_block_mask(may_see, rows, None, length, past + length, device=str(device))
