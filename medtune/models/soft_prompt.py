"""Prompt tuning (arXiv:2104.08691): trained vectors in front of every document, over a frozen network.

They are tokens of their own, numbered on from the vocabulary's last row, which the embedding knows: whoever
makes input ids puts them in front of a document or prompt. So they lie in packed rows too, under every kernel
and strategy, and answers need nothing else. Folders are peft's (``PROMPT_TUNING``), the same function there.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from medtune.config.schema import Config
from medtune.models.folders import ADAPTER_FILE, ADAPTER_WEIGHTS, read_settings
from medtune.models.parameter_counts import log_trained_share
from medtune.runtime.errors import ConfigError

PEFT_TYPE = "PROMPT_TUNING"
PROMPT = "prompt"  # the parameter's own name
WEIGHTS_KEY = "prompt_embeddings"  # peft's


class PromptedEmbedding(nn.Embedding):
    """An embedding with further rows, trained apart from the others.

    Attributes:
        prompt: [P, C], of the ids from ``num_embeddings`` on.
    """

    prompt: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        """Embeds ids [..., T] below ``num_embeddings`` + P."""
        known = super().forward(input.clamp(max=self.num_embeddings - 1))
        added = F.embedding((input - self.num_embeddings).clamp(min=0), self.prompt).to(known.dtype)
        return torch.where((input >= self.num_embeddings)[..., None], added, known)


def virtual_ids(model: Any) -> range:
    """The ids that stand in front of every document; empty without prompt tuning."""
    embedding = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    if not isinstance(embedding, PromptedEmbedding):
        return range(0)
    # Under ZeRO-3 a parameter is an empty vector between its uses.
    count = getattr(embedding.prompt, "ds_shape", embedding.prompt.shape)[0]
    return range(embedding.num_embeddings, embedding.num_embeddings + count)


def add_prompt(model: PreTrainedModel, config: Config) -> PreTrainedModel:
    """Freezes ``model`` and puts ``adapter.num_virtual_tokens`` vectors before it.

    They begin as the embeddings of tokens drawn from the vocabulary, as the paper found best without words.
    """
    weight = embedding_of(model).weight
    generator = torch.Generator().manual_seed(config.seed)
    drawn = torch.randint(len(weight), (config.adapter.num_virtual_tokens,), generator=generator)
    _put(model, weight.detach()[drawn.to(weight.device)].float().clone(), trainable=True)
    log_trained_share("adapter", model)
    return model


def is_prompt(folder: Path) -> bool:
    """Whether an adapter folder holds a trained prompt."""
    return read_settings(folder / ADAPTER_FILE).get("peft_type") == PEFT_TYPE


def load_prompt(
    model: PreTrainedModel, folder: Path, trainable: bool, key: str = "weights"
) -> PreTrainedModel:
    """Puts the prompt in ``folder`` before ``model``.

    Raises:
        ConfigError: It is damaged, or of another width.
    """
    try:
        values = load_file(folder / ADAPTER_WEIGHTS)[WEIGHTS_KEY]
    except (KeyError, OSError, SafetensorError) as error:
        raise ConfigError(f"{key}={folder}: {ADAPTER_WEIGHTS} cannot be read ({error})") from error
    width = embedding_of(model).embedding_dim
    if values.dim() != 2 or values.shape[1] != width:
        raise ConfigError(
            f"{key}={folder} does not fit this base: its vectors are {tuple(values.shape)}, and the model's "
            f"width is {width}"
        )
    _put(model, values.float(), trainable)
    if trainable:
        log_trained_share("adapter", model)
    return model


def save_prompt(model: PreTrainedModel, weights: dict[str, Tensor], folder: Path) -> None:
    """Writes peft's folder of a prompt.

    Args:
        model: Names the base, and its shape.
        weights: The network's tensors by name, the prompt's among them.
        folder: Made if it is not there.
    """
    from peft import PromptTuningConfig  # here, since peft costs seconds

    name = next(name for name in weights if name.rpartition(".")[2] == PROMPT)
    count, width = weights[name].shape
    network: Any = model.config
    settings = PromptTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=count,
        token_dim=width,
        num_transformer_submodules=1,
        num_attention_heads=network.num_attention_heads,
        num_layers=network.num_hidden_layers,
        base_model_name_or_path=network._name_or_path,
        inference_mode=True,
    )
    folder.mkdir(parents=True, exist_ok=True)
    settings.save_pretrained(str(folder))
    save_file({WEIGHTS_KEY: weights[name].contiguous()}, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def embedding_of(model: PreTrainedModel) -> nn.Embedding:
    """The plain embedding of a network.

    Raises:
        ConfigError: It is of another kind, as one that scales.
    """
    embedding: Any = model.get_input_embeddings()
    if type(embedding) not in (nn.Embedding, PromptedEmbedding):
        raise ConfigError(
            f"adapter=prompt_tuning: the embedding of {model.config.model_type} is a "
            f"{type(embedding).__name__}, which does more than to look rows up; set adapter=lora"
        )
    found: nn.Embedding = embedding
    return found


def _put(model: PreTrainedModel, values: Tensor, trainable: bool) -> None:
    model.requires_grad_(False)
    embedding: Any = embedding_of(model)
    # The class alone changes: the embedding keeps its name, and a head that is tied to it stays so.
    embedding.__class__ = PromptedEmbedding
    values = values.to(embedding.weight.device)
    embedding.register_parameter(PROMPT, nn.Parameter(values, requires_grad=trainable))
