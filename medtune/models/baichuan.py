"""Baichuan-1 and -2, 7B and 13B, written against transformers 5 without remote code.

One file covers four published networks; what their layers share in attention (masks, ALiBi, the kernels) is
in :mod:`medtune.models.native_attention`. They share a pre-norm decoder with a fused ``W_pack``
projection and differ in two points, both read from ``config.json``:

* positions: rotary where ``max_position_embeddings`` is given (7B), else ALiBi (13B);
* output head: ``norm_head`` (Baichuan-2) projects on the unit vectors of the head's rows.

Nothing here is a buffer: slopes and rotary angles are computed once per forward, because a model that
is built on the meta device loses every non-persistent buffer when its weights are loaded.

Shapes: B batch, T new tokens, K cached and new tokens, H heads, D head size, C hidden, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from medtune.models.native_attention import Attend, alibi_slopes, build_attend
from medtune.models.native_causal_lm import NativeCausalLM, check_inputs, settle_cache

BAICHUAN2_VOCAB_SIZE = 125696
ROPE_THETA = 10000.0

Rotary = tuple[Tensor, Tensor]


class BaichuanConfig(PreTrainedConfig):
    """What the hub's ``config.json`` of the four Baichuan models holds.

    ``norm_head`` is our own key. None derives it as the published models allow: true for Baichuan-2's
    vocabulary, or where ``z_loss_weight``, a key of Baichuan-2 alone, is given. It is written out by
    ``save_pretrained``, so that a resized vocabulary does not lose it.
    """

    model_type = "baichuan"
    keys_to_ignore_at_inference = ["past_key_values"]

    vocab_size: int = 64000
    hidden_size: int = 5120
    intermediate_size: int = 13696
    num_hidden_layers: int = 40
    num_attention_heads: int = 40
    hidden_act: str = "silu"
    max_position_embeddings: int | None = None
    model_max_length: int | None = None
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    tie_word_embeddings: bool = False
    norm_head: bool | None = None
    z_loss_weight: float | None = None
    rope_parameters: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Derives ``norm_head`` and refuses what no Baichuan model has."""
        # The hub holds false or [false] here; the original code read the latter as true.
        self.had_checkpointing_key = kwargs.pop("gradient_checkpointing", None) is not None
        if self.norm_head is None:
            self.norm_head = self.vocab_size == BAICHUAN2_VOCAB_SIZE or self.z_loss_weight is not None
        if self.hidden_act != "silu":
            raise ValueError(f"hidden_act={self.hidden_act!r}: Baichuan's feed-forward layer is 'silu' only")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads "
                f"({self.num_attention_heads})"
            )
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]

    def to_dict(self) -> dict[str, Any]:
        """As on the hub, for those who read it there.

        A key that a layout does not have is absent, not null, and Baichuan-7B, which vLLM tells from the
        13B layout by that, is spelled with a capital C.
        """
        optional = ("max_position_embeddings", "model_max_length", "z_loss_weight")
        values = {k: v for k, v in super().to_dict().items() if v is not None or k not in optional}
        if (values.get("rope_parameters") or {}).get("rope_type", "default") == "default":
            values.pop("rope_parameters", None)
        if values.pop("had_checkpointing_key", False):
            values["gradient_checkpointing"] = False
        if self.uses_rotary_positions and not self.norm_head and values.get("architectures"):
            values["architectures"] = ["BaiChuanForCausalLM"]
        return values

    def to_diff_dict(self) -> dict[str, Any]:
        """What ``config.json`` gets: the type has its old name too, for older readers."""
        values: dict[str, Any] = super().to_diff_dict()
        return values | ({"torch_dtype": values["dtype"]} if "dtype" in values else {})

    @property
    def uses_rotary_positions(self) -> bool:
        """Whether this is the 7B layout; the 13B layout has ALiBi."""
        return self.max_position_embeddings is not None


def rotary_angles(position_ids: Tensor, config: BaichuanConfig) -> Rotary:
    """Cosine and sine of the rotation (arXiv:2104.09864), fp32 [B, 1, T, D], in the half-and-half layout."""
    frequencies, scale = rotary_frequencies(position_ids, config)
    angles = position_ids[:, None, :, None].float() * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos() * scale, angles.sin() * scale


def rotary_frequencies(position_ids: Tensor, config: BaichuanConfig) -> tuple[Tensor, float]:
    """The angle per position of each pair of a head's numbers, fp32 [D / 2], and a factor for both."""
    kind = (config.rope_parameters or {}).get("rope_type", "default")
    if kind != "default":
        # These two go by the length of the longest row; of the others nobody has to wait for a device.
        length = int(position_ids.max()) + 1 if kind in ("dynamic", "longrope") else None
        return ROPE_INIT_FUNCTIONS[kind](config, position_ids.device, length)
    head_size = config.hidden_size // config.num_attention_heads
    exponents = torch.arange(0, head_size, 2, device=position_ids.device, dtype=torch.float32) / head_size
    return ROPE_THETA**-exponents, 1.0


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the halves of each head by the angles of its position; the products are fp32."""
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


class BaichuanRMSNorm(nn.Module):
    """Root mean square norm (arXiv:1910.07467). The name makes transformers initialise it to ones."""

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and type as ``x``."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class BaichuanAttention(nn.Module):
    """Multi-head attention whose query, key and value rows lie in one matrix, in that order."""

    def __init__(self, config: BaichuanConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.num_heads = config.num_attention_heads
        self.W_pack = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, attend: Attend, rotary: Rotary | None, cache: Cache | None) -> Tensor:
        """[B, T, C] to [B, T, C]."""
        batch, length, hidden = x.shape
        packed = self.W_pack(x).view(batch, length, 3, self.num_heads, hidden // self.num_heads)
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
        if rotary is not None:
            query, key = rotate(query, *rotary), rotate(key, *rotary)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        attended = attend(query, key, value).transpose(1, 2).reshape(batch, length, hidden)
        projected: Tensor = self.o_proj(attended)
        return projected


class BaichuanMLP(nn.Module):
    """Gated feed-forward layer (arXiv:2002.05202)."""

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] to [B, T, C]."""
        projected: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return projected


class BaichuanDecoderLayer(GradientCheckpointingLayer):
    """Attention and feed-forward, each behind a norm and added to the stream."""

    def __init__(self, config: BaichuanConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = BaichuanAttention(config, layer_idx)
        self.mlp = BaichuanMLP(config)
        self.input_layernorm = BaichuanRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = BaichuanRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x: Tensor,
        attend: Attend,
        rotary: Rotary | None,
        past_key_values: Cache | None = None,
    ) -> Tensor:
        """[B, T, C] to [B, T, C]. The cache goes by keyword: checkpointing looks for it there."""
        x = x + self.self_attn(self.input_layernorm(x), attend, rotary, past_key_values)
        layer_output: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return layer_output


class NormHead(nn.Linear):
    """Projects on the unit vectors of its rows, and never writes them back.

    The original overwrites the weight with its unit rows at the first evaluation, which changes the size
    of later gradients. As a subclass of Linear it is found by peft and left alone by quantisation.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] to float32 [..., V].

        Products are divided by the rows' lengths, so that a frozen head needs no matrix of unit rows (a copy
        of 1.3 GB in bfloat16). A trained one needs matrices of its size for the gradient of the lengths.
        """
        lengths = torch.linalg.vector_norm(self.weight, dim=1, dtype=torch.float32).clamp_min(1e-12)
        logits: Tensor = F.linear(x, self.weight) / lengths
        return logits


class BaichuanPreTrainedModel(PreTrainedModel):
    """What transformers must know to load, shard and checkpoint the network."""

    config: BaichuanConfig
    config_class = BaichuanConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["BaichuanDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    # The hub's 7B files hold the rotary frequencies, which follow from the head size.
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq"]
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_flash_attn = True


class BaichuanModel(BaichuanPreTrainedModel):
    """The decoder without its head."""

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(BaichuanDecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = BaichuanRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
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
            attention_mask: See :func:`build_attend`.
            position_ids: [B, T], for rotary positions only. None counts the columns.
            past_key_values: Filled in place.
            inputs_embeds: [B, T, C].
            use_cache: None follows the configuration.
            output_hidden_states: Also return the input of each layer and the last output.
            document_ids: [B, T], for packed rows: a token sees its own document only. No cache is kept.
            **kwargs: What transformers hands to every model and this one has no use for.

        Raises:
            ValueError: Both or neither of ``input_ids`` and ``inputs_embeds``; attention weights asked for.
        """
        check_inputs(input_ids, inputs_embeds, kwargs)
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        past_key_values = settle_cache(self, past_key_values, use_cache, document_ids)
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        rotary = self._rotary(x, position_ids, past)
        attend = build_attend(
            self.config._attn_implementation,
            x,
            attention_mask=attention_mask,
            document_ids=document_ids,
            past=past,
            slopes=alibi_slopes(self.config.num_attention_heads) if rotary is None else None,
        )
        states = [x]
        for layer in self.layers:
            x = layer(x, attend, rotary, past_key_values=past_key_values)
            if output_hidden_states:
                states.append(x)
        x = self.norm(x)
        return BaseModelOutputWithPast(
            last_hidden_state=x,
            past_key_values=past_key_values,
            hidden_states=(*states[:-1], x) if output_hidden_states else None,
        )

    def _rotary(self, x: Tensor, position_ids: Tensor | None, past: int) -> Rotary | None:
        """The angles that all layers share; None with ALiBi."""
        if not self.config.uses_rotary_positions:
            return None
        if position_ids is None:
            position_ids = torch.arange(past, past + x.shape[1], device=x.device)[None]
        return rotary_angles(position_ids, self.config)


class BaichuanForCausalLM(NativeCausalLM, BaichuanPreTrainedModel, GenerationMixin):
    """The decoder with its head."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__(config)
        self.model = BaichuanModel(config)
        head = NormHead if config.norm_head else nn.Linear
        self.lm_head = head(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def label_loss(self, logits: Tensor, labels: Tensor, **kwargs: Any) -> Tensor:
        """The mean cross-entropy, and Baichuan-2's z-loss where its weight is set."""
        loss = super().label_loss(logits, labels, **kwargs)
        if self.config.z_loss_weight:
            # As the original has it: the largest logit, not the log of the sum, over every position that
            # predicts one, padding included.
            loss = loss + self.config.z_loss_weight * logits[:, :-1].max(dim=-1).values.square().mean()
        return loss

    def _get_resized_lm_head(self, old_lm_head: nn.Linear, *args: Any, **kwargs: Any) -> nn.Linear:
        """Keeps the head's class; transformers would put a plain Linear in its place."""
        resized: nn.Linear = super()._get_resized_lm_head(old_lm_head, *args, **kwargs)
        if isinstance(old_lm_head, NormHead):
            resized.__class__ = NormHead
        return resized
