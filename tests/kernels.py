"""GPU attention kernels on the CPU: torch's plain FlexAttention, and flash_attn by its contract."""

import math
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention


@contextmanager
def plain_flex(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """FlexAttention uncompiled, with the gradients that torch has for it but refuses on CPUs.

    The refusal concerns the compiled kernel; without the compiler, masks and biases act in plain products.
    """
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
        # Said by torch of itself when its compiler is imported, which transformers does before each use.
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        yield


@contextmanager
def documented_flash(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package flash_attn whose function does in plain products what flash_attn 2's documentation says."""
    package = types.ModuleType("flash_attn")
    package.flash_attn_varlen_func = flash_attn_varlen_func  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    yield


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    causal: bool = False,
    alibi_slopes: Tensor | None = None,
) -> Tensor:
    """q, k, v [tokens, H, D]; the bias is -slope * |i + keys - queries - j|; causal to the lower right."""
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    assert causal
    assert dropout_p == 0
    assert alibi_slopes is None or alibi_slopes.dtype == torch.float32
    assert int(cu_seqlens_q[-1]) == len(q)
    pieces = []
    for start, stop in zip(cu_seqlens_q[:-1].tolist(), cu_seqlens_q[1:].tolist(), strict=True):
        assert stop - start <= max_seqlen_q == max_seqlen_k
        query, key, value = (x[start:stop].transpose(0, 1) for x in (q, k, v))
        places = torch.arange(stop - start)
        distance = places[:, None] - places
        scores = query @ key.transpose(1, 2) / math.sqrt(q.shape[-1])
        if alibi_slopes is not None:
            scores = scores - alibi_slopes[:, None, None] * distance.abs()
        scores = scores.masked_fill(distance < 0, -math.inf)
        pieces.append((scores.softmax(-1) @ value).transpose(0, 1))
    return torch.cat(pieces)
