"""Storing the frozen base weights in 4 or 8 bits through bitsandbytes, on GPU and CPU."""

import os
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedConfig

from medtune.config.schema import Config
from medtune.runtime.errors import ConfigError

BLOCK = 64  # weights that share one 4-bit constant; the CPU kernels take nothing else


def quantization_arguments(config: Config, network: PreTrainedConfig) -> dict[str, Any]:
    """Keyword arguments of ``from_pretrained`` that quantise while loading; none without quantisation.

    Raises:
        ConfigError: A width of ``network`` is no multiple of 64.
    """
    if config.quantization.name == "none":
        return {}
    check_widths(config.quantization.name, network)
    return {"quantization_config": bits_and_bytes(config), "device_map": {"": local_device(config)}}


def check_widths(name: str, network: PreTrainedConfig) -> None:
    """Raises ConfigError for a network whose matrices do not split into blocks, before anything loads."""
    widths = {"hidden_size": network.hidden_size}
    for key in ("intermediate_size", "head_dim"):
        if getattr(network, key, None):
            widths[key] = getattr(network, key)
    if "head_dim" in widths:
        heads = getattr(network, "num_key_value_heads", None) or network.num_attention_heads
        widths["num_key_value_heads * head_dim"] = heads * widths.pop("head_dim")
    problems = [
        f"quantization={name} needs widths that are multiples of {BLOCK}, but model.{key} is {width}"
        for key, width in widths.items()
        if width % BLOCK
    ]
    if problems:
        raise ConfigError(problems)


def bits_and_bytes(config: Config) -> BitsAndBytesConfig:
    """The bitsandbytes settings of ``quantization``; the head keeps its type."""
    if config.quantization.name == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=config.quantization.double_quant,
        bnb_4bit_compute_dtype=compute_dtype(config),
    )


def compute_dtype(config: Config) -> torch.dtype:
    """Type of the 4-bit products."""
    name = config.quantization.compute_dtype
    if name == "auto":
        name = "bfloat16" if config.trainer.precision.startswith("bf16") else "float32"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def local_device(config: Config) -> torch.device:
    """This process's device: quantised weights are made where they stay."""
    if config.trainer.accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
