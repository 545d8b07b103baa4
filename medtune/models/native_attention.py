"""Softmax attention of the networks that are written here: with ALiBi or without, in four implementations.

What all layers share (masks, biases, document bounds) is made once per forward by :func:`build_attend`;
a layer only hands over its queries, keys and values.

Shapes: B batch, T new tokens, K cached and new tokens, H heads, D head size.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from medtune.models.attention import additive_mask, block_mask, document_bounds

RECOMPILE_LIMIT = 64

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""query [B, H, T, D], key and value [B, H, K, D] to [B, H, T, D]."""


def build_attend(
    implementation: str,
    hidden: Tensor,
    *,
    attention_mask: Tensor | None = None,
    document_ids: Tensor | None = None,
    past: int = 0,
    slopes: Tensor | None = None,
    dropout: float = 0.0,
) -> Attend:
    """The attention that every layer of one forward calls; always causal by column.

    Args:
        implementation: As transformers names them: ``eager``, ``sdpa``, ``flex_attention`` or
            ``flash_attention_2``.
        hidden: [B, T, ...], the input of the first layer; its device and type are those of the products.
        attention_mask: None; a 2-D padding mask over all K columns; or for ``eager`` and ``sdpa`` a finished
            4-D mask, bool (true: may see) or float (0: may see), which then is the whole answer.
        document_ids: [B, T], see :func:`medtune.models.attention.attention_inputs`.
        past: Cached columns left of the first query.
        slopes: ALiBi's, fp32 [H] (see :func:`alibi_slopes`). None: no bias.
        dropout: On the attention weights.

    Raises:
        ValueError: The mask does not cover the K columns, or the implementation cannot serve the arguments.
    """
    if document_ids is not None and (past or attention_mask is not None):
        raise ValueError("document_ids go with no cache and no attention_mask: packed rows are for training")
    if slopes is not None:
        slopes = slopes.to(hidden.device)
    if implementation == "flash_attention_2":
        return flash_attend(hidden, attention_mask, document_ids, past, slopes, dropout)
    if implementation == "flex_attention":
        return flex_attend(hidden, attention_mask, document_ids, past, slopes, dropout)
    return dense_attend(implementation, hidden, attention_mask, document_ids, past, slopes, dropout)


def alibi_slopes(num_heads: int) -> Tensor:
    """Slopes of ALiBi (arXiv:2108.12409), fp32 [H].

    For a head count that is no power of two, every other slope of the next power is appended, not sorted in.
    """
    power = 1 << (num_heads.bit_length() - 1)

    def geometric(n: int) -> list[float]:
        return [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)]

    slopes = geometric(power) + geometric(2 * power)[0::2][: num_heads - power]
    return torch.tensor(slopes, dtype=torch.float32)  # whatever the default type is, as under bf16-true


def dense_attend(
    implementation: str,
    hidden: Tensor,
    attention_mask: Tensor | None,
    document_ids: Tensor | None,
    past: int,
    slopes: Tensor | None,
    dropout: float,
) -> Attend:
    """``eager`` and ``sdpa``: one mask for all layers; none where torch's kernel needs none."""
    length, is_eager = hidden.shape[1], implementation == "eager"
    mask: Tensor | None = None
    if slopes is not None:
        allowed = allowed_pairs(attention_mask, document_ids, length, past, hidden.device)
        mask = alibi_mask(allowed, slopes, product_dtype(hidden))
    elif (
        attention_mask is not None
        or document_ids is not None
        or (length > 1 and (past > 0 or is_eager))  # sdpa's own causal mask knows no cache
    ):
        mask = allowed_pairs(attention_mask, document_ids, length, past, hidden.device)
        if is_eager:
            mask = additive_mask(mask, product_dtype(hidden))
    product = eager_attention if is_eager else sdpa_attention
    return lambda query, key, value: product(query, key, value, mask, dropout)


def eager_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float = 0.0
) -> Tensor:
    """Attention in plain products, softmax in fp32; without a mask, every query sees every key."""
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores + mask
    weights: Tensor = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    return F.dropout(weights, dropout) @ value


def sdpa_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float = 0.0
) -> Tensor:
    """Attention by torch's kernels; without a mask it is causal, or one query over all keys."""
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=mask is None and query.shape[-2] > 1
    )


def allowed_pairs(
    attention_mask: Tensor | None,
    document_ids: Tensor | None,
    query_length: int,
    past: int,
    device: torch.device,
) -> Tensor:
    """Which key each query may see: bool [1 or B, 1, T, K]; arguments as of :func:`build_attend`.

    Raises:
        ValueError: The mask does not cover the K columns.
    """
    if attention_mask is not None and attention_mask.dim() == 4:
        return attention_mask if attention_mask.dtype == torch.bool else attention_mask == 0
    columns = torch.arange(past + query_length, device=device)
    queries = columns[past:, None]
    causal = (columns <= queries)[None, None]
    if document_ids is not None:
        return causal & (document_ids[:, None, :, None] == document_ids[:, None, None, :])
    if attention_mask is None:
        return causal
    check_columns(attention_mask, columns.numel())
    # A padding query sees itself, so that no row of the softmax is empty.
    return causal & (attention_mask[:, None, None, :].bool() | (columns == queries))


def check_columns(attention_mask: Tensor, columns: int) -> None:
    """Raises ValueError unless a 2-D mask covers the cached and the new tokens."""
    if attention_mask.shape[-1] != columns:
        raise ValueError(
            f"attention_mask has {attention_mask.shape[-1]} columns, but there are {columns} cached and new "
            "tokens"
        )


def alibi_mask(allowed: Tensor, slopes: Tensor, dtype: torch.dtype) -> Tensor:
    """ALiBi and the allowed pairs as one additive mask [1 or B, H, T, K], shared by all layers.

    The bias is slope * (j - i) over columns j and i. Left padding, packed documents and the cache all
    keep that difference, so positions are not needed. It is taken in fp32 and rounded once: slope * j in
    bf16 would be off by 15 at 4096 tokens.
    """
    query_length, num_columns = allowed.shape[-2:]
    columns = torch.arange(num_columns, device=allowed.device, dtype=torch.float32)
    distance = columns - columns[num_columns - query_length :, None]
    bias = torch.empty((len(slopes), query_length, num_columns), device=allowed.device, dtype=dtype)
    torch.mul(distance, slopes[:, None, None], out=bias)
    least = torch.finfo(dtype).min
    if len(allowed) == 1:  # in place: at 4096 tokens and 40 heads a copy is 1.3 GB
        return bias.masked_fill_(~allowed[0], least)[None]
    return torch.where(allowed, bias, least)


def product_dtype(hidden: Tensor) -> torch.dtype:
    """Type of the attention products: autocast's where it is on, so that no layer converts the mask again."""
    device_type = hidden.device.type
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else hidden.dtype


def flex_attend(
    hidden: Tensor,
    attention_mask: Tensor | None,
    document_ids: Tensor | None,
    past: int,
    slopes: Tensor | None,
    dropout: float,
) -> Attend:
    """Torch's FlexAttention: blocks that no query sees are skipped, and ALiBi is added inside the kernel."""
    if dropout:
        raise ValueError(f"flex_attention knows no attention dropout ({dropout}); use sdpa")
    if attention_mask is not None:
        if attention_mask.dim() != 2:
            raise ValueError("flex_attention takes a 2-D attention_mask or document_ids, no finished mask")
        check_columns(attention_mask, past + hidden.shape[1])
    elif document_ids is None and not past:
        # So that packed and unpacked rows are one graph.
        document_ids = torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device)
    blocks = block_mask(hidden.shape[:2], hidden.device, document_ids, attention_mask, past)
    bias: Callable[..., Tensor] | None = None
    if slopes is not None:

        def bias(score: Tensor, _row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return score + slopes[head] * (key - query - past)

    kernel = flex_kernel(hidden.device.type)
    return lambda query, key, value: kernel(query, key, value, score_mod=bias, block_mask=blocks)


@cache
def flex_kernel(device_type: str) -> Callable[..., Tensor]:
    """FlexAttention, compiled where it is fast; plain products elsewhere."""
    from torch.nn.attention.flex_attention import flex_attention

    if device_type != "cuda":
        return flex_attention
    # Rows of another length, a batch of one, and evaluation are graphs of their own. Beyond the limit torch
    # would go on uncompiled, with scores of length x length in float32.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
    return torch.compile(flex_attention)


def flash_attend(
    hidden: Tensor,
    attention_mask: Tensor | None,
    document_ids: Tensor | None,
    past: int,
    slopes: Tensor | None,
    dropout: float,
) -> Attend:
    """FlashAttention's kernel for rows of several lengths (the package flash_attn), with its own ALiBi."""
    if past or attention_mask is not None:
        raise ValueError("flash_attention_2 is for training: it takes no cache and no mask; use sdpa")
    from flash_attn import flash_attn_varlen_func

    batch, length = hidden.shape[:2]
    if document_ids is None:
        document_ids = torch.ones((batch, length), dtype=torch.long, device=hidden.device)
    bounds, longest = document_bounds(document_ids)
    dtype = product_dtype(hidden)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # In half precision, which is all that the kernels know: a norm under autocast, before a quantised
        # projection, hands on float32.
        rows = (x.transpose(1, 2).flatten(0, 1).to(dtype) for x in (query, key, value))
        attended: Tensor = flash_attn_varlen_func(
            *rows,
            cu_seqlens_q=bounds,
            cu_seqlens_k=bounds,
            max_seqlen_q=longest,
            max_seqlen_k=longest,
            dropout_p=dropout,
            causal=True,
            alibi_slopes=slopes,
        )
        return attended.view(batch, length, *attended.shape[1:]).transpose(1, 2)

    return attend
