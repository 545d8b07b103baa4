"""What the networks that are written here share around their layers: arguments, cache, head, loss.

Shapes: B batch, T new tokens, C hidden, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple


class NativeCausalLM(nn.Module):
    """The forward of a causal language model; comes before transformers' classes among a network's bases.

    The network has transformers' ``base_model`` and ``lm_head``.
    """

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        document_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits, and the mean loss over ``labels`` (unshifted, -100 left out) where given.

        Arguments are those of the decoder and of :func:`kept_positions`.
        """
        outputs = self.base_model(  # type: ignore[operator]
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            document_ids=document_ids,
            **kwargs,
        )
        logits = self.lm_head(kept_positions(outputs.last_hidden_state, logits_to_keep))  # type: ignore[operator]
        return CausalLMOutputWithPast(
            loss=None if labels is None else self.label_loss(logits, labels, **kwargs),
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
        )

    def label_loss(self, logits: Tensor, labels: Tensor, **kwargs: Any) -> Tensor:
        """Mean cross-entropy of the learned labels, as transformers counts it."""
        loss: Tensor = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **kwargs)  # type: ignore[operator,union-attr]
        return loss


def kept_positions(hidden: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    """The positions [B, T, C] that the head projects.

    An int keeps the last ones (0: all), a 1-D tensor those columns, a 2-D int tensor columns per row; a
    2-D bool tensor [B, T] flattens to [kept, C].
    """
    if isinstance(logits_to_keep, int):
        return hidden[:, -logits_to_keep:] if logits_to_keep else hidden
    if logits_to_keep.dim() == 1:
        return hidden[:, logits_to_keep]
    if logits_to_keep.dtype == torch.bool:
        return hidden[logits_to_keep]
    return hidden.take_along_dim(logits_to_keep[..., None], dim=1)


def check_inputs(input_ids: Tensor | None, inputs_embeds: Tensor | None, more: dict[str, Any]) -> None:
    """Raises ValueError for both or neither of the inputs, or where attention weights are asked for."""
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("give either input_ids or inputs_embeds")
    if more.get("output_attentions"):
        raise ValueError("output_attentions=True: attention weights are not kept")


def settle_cache(
    decoder: PreTrainedModel, given: Cache | None, use_cache: bool | None, document_ids: Tensor | None
) -> Cache | None:
    """The cache that a forward fills: the given one, a new one, or none, as for packed or recomputed rows."""
    if document_ids is not None or (decoder.gradient_checkpointing and decoder.training):
        return None
    wanted = decoder.config.use_cache if use_cache is None else use_cache
    return DynamicCache(config=decoder.config) if wanted and given is None else given
