"""Which implementation of attention a network gets."""

import importlib.util
from typing import Any

from transformers import PreTrainedConfig

from medtune.config.schema import GPU_ATTENTION, Config
from medtune.models.network import network_class
from medtune.models.quantize import local_device
from medtune.runtime.errors import ConfigError
from medtune.runtime.families import NATIVE_FAMILIES

# How transformers says that a family has an implementation; every family has eager.
SUPPORT = {
    "eager": "",
    "sdpa": "_supports_sdpa",
    "flex_attention": "_supports_flex_attn",
    "flash_attention_2": "_supports_flash_attn",
}

FLEX_HEAD_SIZE = 16


def choose_attention(config: Config, network: PreTrainedConfig, for_training: bool) -> str:
    """``model.attention`` where the family has it; ``auto`` settled; what decodes answers is ``sdpa``."""
    family: Any = network_class(network)
    wanted = config.model.attention
    if wanted == "auto" or (not for_training and wanted in GPU_ATTENTION):
        return _best_attention(config, family, network, for_training)
    if not getattr(family, SUPPORT[wanted], True):
        raise ConfigError(
            f"model.attention={wanted}: {network.model_type} has no such attention in transformers; set "
            "model.attention=eager"
        )
    return wanted


def flex_takes(network: PreTrainedConfig) -> bool:
    """Whether FlexAttention can serve a network: heads of at least 16 numbers, no dropout on the weights."""
    head_size = getattr(network, "head_dim", None) or network.hidden_size // network.num_attention_heads
    return head_size >= FLEX_HEAD_SIZE and not getattr(network, "attention_dropout", 0)


def _best_attention(config: Config, family: Any, network: PreTrainedConfig, for_training: bool) -> str:
    """The fastest kernel that the family, this process's device and the precision allow."""
    candidates = ["sdpa"]
    on_gpu = local_device(config).type == "cuda"
    if config.deterministic and for_training and on_gpu:
        return "eager"  # the others' backward passes on GPUs add in no fixed order
    # Kernels that know the bounds of documents; a row that is one document needs them for ALiBi only.
    is_dense = config.data.packing == "none" and network.model_type not in NATIVE_FAMILIES
    if for_training and not is_dense and on_gpu:
        if flex_takes(network):
            candidates = ["flex_attention", *candidates]
        if config.trainer.precision != "32-true" and importlib.util.find_spec("flash_attn"):
            candidates = ["flash_attention_2", *candidates]
    return next((name for name in candidates if getattr(family, SUPPORT[name])), "eager")
