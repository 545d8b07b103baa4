"""Storing the frozen base weights in 4 or 8 bits through bitsandbytes, on GPU and CPU."""

import os
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel

from medtune.config.schema import FOUR_BITS, Config
from medtune.models.placing import PRODUCTS
from medtune.runtime.errors import ConfigError

# The 4-bit kernels of the CPU take matrices of these multiples only; every published network has them.
INPUT_BLOCK = 64
OUTPUT_BLOCK = 32


def quantization_arguments(
    config: Config, network: PreTrainedConfig, is_stored: bool = False
) -> dict[str, Any]:
    """Keyword arguments of ``from_pretrained`` that quantise while loading; none without quantisation.

    Args:
        config: The whole configuration.
        network: Gives the widths.
        is_stored: The files hold quantised weights, which say themselves how.

    Raises:
        ConfigError: 4 bits, and a width of ``network`` that does not split into blocks.
    """
    placed = {"device_map": {"": local_device(config)}}
    if is_stored:
        return placed
    if config.quantization.name == "none":
        return {}
    check_widths(config.quantization.name, network)
    return {"quantization_config": bits_and_bytes(config), **placed}


def check_widths(name: str, network: PreTrainedConfig) -> None:
    """Raises ConfigError for a network whose matrices do not split into 4-bit blocks."""
    if name not in FOUR_BITS:
        return
    head_dim = getattr(network, "head_dim", None) or network.hidden_size // network.num_attention_heads
    key_heads = getattr(network, "num_key_value_heads", None) or network.num_attention_heads
    widths = (
        ("hidden_size", network.hidden_size, INPUT_BLOCK),
        ("intermediate_size", getattr(network, "intermediate_size", INPUT_BLOCK), INPUT_BLOCK),
        ("num_attention_heads * head size", network.num_attention_heads * head_dim, INPUT_BLOCK),
        ("num_key_value_heads * head size", key_heads * head_dim, OUTPUT_BLOCK),
    )
    problems = [
        f"quantization={name} needs model.{key} ({width}) to be a multiple of {block}; use quantization=int8"
        for key, width, block in widths
        if width % block
    ]
    if problems:
        raise ConfigError(problems)


def bits_and_bytes(config: Config) -> BitsAndBytesConfig:
    """The bitsandbytes settings of ``quantization``.

    Linear layers of the decoder are packed. Head, embedding and norms keep the type of frozen weights,
    adapters that of trained ones (placing.py). peft's ``prepare_model_for_kbit_training`` would make float32
    copies of the former, which costs gigabytes for a large vocabulary and is rounded by autocast before each
    product; what else it does, gradients below a frozen embedding, non-reentrant checkpoints do not need.
    """
    if config.quantization.name == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=config.quantization.name,
        bnb_4bit_use_double_quant=config.quantization.double_quant,
        bnb_4bit_compute_dtype=compute_dtype(config),
    )


def keep_exact_on_cpu(model: PreTrainedModel) -> None:
    """Keeps the 4-bit weights of a CPU model as they are stored.

    On processors with AVX512-BF16 bitsandbytes otherwise repacks them at the first evaluation, for good:
    the constants are rounded to bf16, later training steps pass no gradient through the base, and
    dequantising reads the new order as the old one.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def set_compute_dtype(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Makes 4-bit layers compute as this run does, not as the one that wrote them."""
    for module in model.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype = dtype  # type: ignore[assignment]
            module.compute_type_is_set = True  # type: ignore[assignment]  # else the first input decides


def compute_dtype(config: Config) -> torch.dtype:
    """Type of the 4-bit products."""
    name = config.quantization.compute_dtype
    if name == "auto":
        return PRODUCTS[config.trainer.precision]
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def local_device(config: Config) -> torch.device:
    """This process's device: quantised weights are made where they stay."""
    if config.trainer.accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
