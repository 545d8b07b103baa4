"""Models whose files hold quantised weights: what may be done with them here."""

import importlib.util
from pathlib import Path
from typing import Any

import torch

from medtune.config.schema import WHOLE_MODELS, Config
from medtune.runtime.errors import ConfigError

PACKAGES = {"bitsandbytes": (), "gptq": ("gptqmodel", "optimum"), "awq": ("gptqmodel",)}
"""Methods by the packages that they need beside medtune's own."""
ADAPTED_BY = ("none", "lora", "rslora")  # what peft has for the layers of GPTQ and AWQ


def stored_method(settings: dict[str, Any]) -> str | None:
    """How the weights beside a ``config.json`` are quantised; None where they are not."""
    quantized = settings.get("quantization_config")
    if quantized is None:
        return None
    return str(quantized.get("quant_method") if isinstance(quantized, dict) else quantized)


def check_stored(method: str, config: Config, folder: Path, for_training: bool) -> None:
    """Raises ConfigError for what cannot be done with weights that ``folder`` holds quantised."""
    problems = list(_problems(method, config, for_training))
    if problems:
        raise ConfigError([f"model.path={folder} holds {method} weights: {problem}" for problem in problems])


def _problems(method: str, config: Config, for_training: bool) -> list[str]:
    adapter = config.adapter.name
    problems = []
    if config.quantization.name != "none":
        problems.append(f"they are quantised already; set quantization=none, not {config.quantization.name}")
    if for_training and config.weights is None and adapter in WHOLE_MODELS:
        problems.append(f"they cannot be trained themselves, as adapter={adapter} would; set adapter=lora")
    if config.adapter.merge and for_training:
        problems.append(
            "adapter.merge cannot fold anything into them; use adapter.stack, or the original model"
        )
    if method == "bitsandbytes":
        return problems
    missing = [name for name in PACKAGES[method] if importlib.util.find_spec(name) is None]
    if missing:
        problems.append(f"reading them needs packages that are not here: pip install {' '.join(missing)}")
    if config.trainer.accelerator == "cpu" or not torch.cuda.is_available():
        problems.append("their kernels are for GPUs; take the unquantised model, with quantization=nf4")
    if for_training and adapter not in (*ADAPTED_BY, "freeze"):
        problems.append(f"adapter={adapter} is not made for them; set adapter=lora or rslora")
    if for_training and config.strategy.get("_target_", "").rpartition(".")[2] in ("fsdp", "zero"):
        problems.append("they cannot be divided over devices; set strategy=ddp")
    return problems


def check_mergeable(model: Any) -> None:
    """Raises ConfigError for a base that an adapter cannot be folded into."""
    settings = getattr(model.config, "quantization_config", None)
    method = getattr(settings, "quant_method", None)
    name = str(getattr(method, "value", method))
    if name in PACKAGES and name != "bitsandbytes":
        raise ConfigError(
            f"the base holds {name} weights, which an adapter cannot be folded into without quantising them "
            "anew, to another function; set export.merge=false, which writes the adapter"
        )
