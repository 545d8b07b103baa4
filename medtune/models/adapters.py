"""Low-rank adapters (arXiv:2106.09685) through peft: adding, loading, merging."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from medtune.config.schema import Config
from medtune.models.baichuan import NormHead
from medtune.runtime.errors import ConfigError

logger = logging.getLogger(__name__)

ALL_LINEAR = "all-linear"  # peft's name for every linear layer but the output head


def add_adapter(model: PreTrainedModel, config: Config) -> PeftModel:
    """Wraps ``model``: a fresh adapter that changes nothing yet, and a frozen base.

    Raises:
        ConfigError: A target module that the network does not have.
    """
    settings = LoraConfig(
        r=config.adapter.rank,
        lora_alpha=config.adapter.alpha,  # type: ignore[arg-type]  # declared int, used as a number
        lora_dropout=config.adapter.dropout,
        target_modules=target_modules(model, config),
        bias="none",
        task_type="CAUSAL_LM",
    )
    # Seeded apart, so that every rank draws the same adapter and no other random stream moves.
    with torch.random.fork_rng(devices=[]), _without_rename_warning():
        torch.manual_seed(config.seed)
        wrapped = get_peft_model(model, settings)
    log_trainable_share(wrapped)
    return wrapped


def load_adapter(model: PreTrainedModel, folder: Path, trainable: bool) -> PeftModel:
    """Wraps ``model`` with the adapter that lies in ``folder``."""
    with _without_rename_warning():
        wrapped = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    if trainable:
        log_trainable_share(wrapped)
    return wrapped


@contextmanager
def _without_rename_warning() -> Iterator[None]:
    """Hides that peft asks a model for ``is_gradient_checkpointing``, which transformers renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        yield


def target_modules(model: PreTrainedModel, config: Config) -> list[str] | str:
    """Names of the modules to adapt: the adapter's, else the family's, else every linear layer but the head.

    Raises:
        ConfigError: A name without a linear layer; peft skips it silently where another name matches.
    """
    key = "adapter.target_modules" if config.adapter.target_modules is not None else "model.lora_targets"
    targets = config.adapter.target_modules or config.model.lora_targets
    if not targets:
        return ALL_LINEAR
    _check_head(model, key, targets)
    linear = (name for name, module in model.named_modules() if isinstance(module, nn.Linear))
    available = {name.rpartition(".")[2] for name in linear}
    unknown = [target for target in targets if target.rpartition(".")[2] not in available]
    if unknown:
        raise ConfigError(
            f"{key} names {', '.join(unknown)}, which {model.config.model_type} does not have; "
            f"its linear layers are {', '.join(sorted(available))}"
        )
    return list(targets)


def _check_head(model: PreTrainedModel, key: str, targets: list[str]) -> None:
    """Raises ConfigError for a head whose adapter could not be merged into the same function."""
    head: Any = model.get_output_embeddings()
    tied = head is not None and head.weight is getattr(model.get_input_embeddings(), "weight", None)
    reason = "it is the embedding too" if tied else None
    if isinstance(head, NormHead):
        reason = "its rows are normalised after a merge"
    names = [name for name, module in model.named_modules() if module is head]
    if reason is not None and {target.rpartition(".")[2] for target in targets} & set(names):
        raise ConfigError(
            f"{key} names the output head {names[0]}, but {reason}, so the adapter could not be merged into "
            "the same function; leave it out"
        )


def log_trainable_share(model: PeftModel) -> None:
    """Logs how many parameters learn."""
    trainable, total = model.get_nb_trainable_parameters()
    share = 100 * trainable / total
    logger.info("adapter: %s of %s parameters learn (%.2f %%)", f"{trainable:,}", f"{total:,}", share)


def merge_adapter(model: PeftModel) -> PreTrainedModel:
    """Folds the adapter into its base and returns the base; ``model`` must not be used afterwards.

    A quantised base is dequantised first. The adapter was trained on those very weights: merged into the
    unquantised original, or quantised again, the result would be another function.
    """
    base = model.get_base_model()
    assert isinstance(base, PreTrainedModel)
    if getattr(base, "hf_quantizer", None) is None:
        merged: PreTrainedModel = model.merge_and_unload()
        return merged
    updates: dict[str, Any] = {
        name: module for name, module in base.named_modules() if isinstance(module, LoraLayer)
    }
    model.unload()
    base.dequantize()
    for name, update in updates.items():
        weight = base.get_parameter(f"{name}.weight")
        weight.data += update.get_delta_weight(update.active_adapters[0]).to(weight.dtype)
    return base
