"""BLOOM whose packed documents stay apart, with the kernels of the other networks that are written here.

Transformers' own network swallows position ids, so that its packed documents see each other, refuses the
masks that would help, and knows eager attention only. This one has its weights, names and results; attention
alone is replaced. ALiBi is taken as slope * (j - i) in fp32 and rounded once; transformers rounds slope * j.

Shapes: B batch, T new tokens, H heads, D head size, C hidden.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BloomConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.bloom import modeling_bloom

from medtune.models.native_attention import Attend, alibi_slopes, build_attend
from medtune.models.native_causal_lm import NativeCausalLM, check_inputs, settle_cache


class BloomAttention(modeling_bloom.BloomAttention):
    """Multi-head attention whose query, key and value rows lie in one matrix, head by head."""

    def forward(self, x: Tensor, residual: Tensor, attend: Attend, cache: Cache | None) -> Tensor:  # type: ignore[override]
        """[B, T, C] to [B, T, C], the residual added."""
        query, key, value = self.query_key_value(x).unflatten(-1, (self.num_heads, 3, -1)).unbind(-2)
        query, key, value = (each.transpose(1, 2) for each in (query, key, value))
        if cache is not None:
            assert self.layer_idx is not None
            key, value = cache.update(key, value, self.layer_idx)
        attended = attend(query, key, value).transpose(1, 2).flatten(2)
        return residual + F.dropout(self.dense(attended), self.hidden_dropout, self.training)


class BloomBlock(modeling_bloom.BloomBlock):
    """Attention and feed-forward, each behind a norm and added to the stream, or to the norm's output."""

    def __init__(self, config: BloomConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.self_attention = BloomAttention(config, layer_idx)

    def forward(self, x: Tensor, attend: Attend, past_key_values: Cache | None = None) -> Tensor:  # type: ignore[override]
        """[B, T, C] to [B, T, C]. The cache goes by keyword: checkpointing looks for it there."""
        normed = self.input_layernorm(x)
        after_norm = self.apply_residual_connection_post_layernorm
        x = self.self_attention(normed, normed if after_norm else x, attend, past_key_values)
        normed = self.post_attention_layernorm(x)
        output: Tensor = self.mlp(normed, normed if after_norm else x)
        return output


class BloomModel(modeling_bloom.BloomModel):
    """The decoder without its head."""

    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_flash_attn = True

    def __init__(self, config: BloomConfig) -> None:
        super().__init__(config)
        self.h = torch.nn.ModuleList(BloomBlock(config, i) for i in range(config.num_hidden_layers))
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        document_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states [B, T, C] after the last norm.

        Args:
            input_ids: [B, T]; or give ``inputs_embeds``.
            past_key_values: Filled in place.
            attention_mask: See :func:`build_attend`.
            inputs_embeds: [B, T, C].
            use_cache: None follows the configuration.
            output_hidden_states: Also return the input of each layer and the last output.
            document_ids: [B, T], for packed rows: a token sees its own document only. No cache is kept.
            **kwargs: What transformers hands to every model and this one has no use for.

        Raises:
            ValueError: Both or neither of ``input_ids`` and ``inputs_embeds``; attention weights asked for.
        """
        check_inputs(input_ids, inputs_embeds, kwargs)
        embedded = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        x = self.word_embeddings_layernorm(embedded)
        past_key_values = settle_cache(self, past_key_values, use_cache, document_ids)
        attend = build_attend(
            self.config._attn_implementation,
            x,
            attention_mask=attention_mask,
            document_ids=document_ids,
            past=past_key_values.get_seq_length() if past_key_values is not None else 0,
            slopes=alibi_slopes(self.num_heads),
            dropout=self.config.attention_dropout if self.training else 0.0,
        )
        states = [x]
        for block in self.h:
            x = block(x, attend, past_key_values=past_key_values)
            if output_hidden_states:
                states.append(x)
        x = self.ln_f(x)
        return BaseModelOutputWithPast(
            last_hidden_state=x,
            past_key_values=past_key_values,
            hidden_states=(*states[:-1], x) if output_hidden_states else None,
        )


class BloomForCausalLM(NativeCausalLM, modeling_bloom.BloomForCausalLM):
    """The decoder with its head, which is the embedding."""

    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_flash_attn = True

    def __init__(self, config: BloomConfig) -> None:
        # Not the parent's, which would make transformers' decoder.
        PreTrainedModel.__init__(self, config)
        self.transformer = BloomModel(config)
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]
