"""The ways to adapt a frozen base, as peft's settings: what each adapts, and with which shape."""

from typing import Any

from peft import IA3Config, LoraConfig, PeftConfig, VeraConfig
from torch import nn
from transformers import PreTrainedModel

from medtune.config.schema import ALL_LINEAR, Config
from medtune.models.baichuan import NormHead
from medtune.runtime.errors import ConfigError

SUMS = ("lora", "rslora", "pissa")
"""Methods whose updates are B·A alone, so that several add up and may be written as one."""

# What (IA)^3 scales, by the names of a family: keys, values, and what enters the second feed-forward layer.
# Baichuan and BLOOM hold queries, keys and values in one matrix, so the queries are scaled too. That adds
# nothing to what can be learned: a query's factor could as well stand at the key, as both are multiplied.
IA3_TARGETS = (
    ("k_proj", "v_proj", "down_proj"),
    ("W_pack", "down_proj"),
    ("query_key_value", "dense_4h_to_h"),
)
SECOND_LAYERS = ("down_proj", "dense_4h_to_h")  # of the feed-forward part: scaled at their input


def method_settings(model: PreTrainedModel, config: Config) -> PeftConfig:
    """Peft's settings of the configured method.

    Raises:
        ConfigError: A module that the network does not have, or that could not be adapted right.
    """
    build = {"vera": _vera, "ia3": _ia3}.get(config.adapter.name, _lora)
    common = {"modules_to_save": whole_modules(model, config) or None, "task_type": "CAUSAL_LM"}
    return build(model, config, common)


def _lora(model: PreTrainedModel, config: Config, common: dict[str, Any]) -> PeftConfig:
    return LoraConfig(
        r=config.adapter.rank,
        lora_alpha=config.adapter.alpha,  # type: ignore[arg-type]  # declared int, used as a number
        lora_dropout=config.adapter.dropout,
        target_modules=target_modules(model, config),
        use_rslora=config.adapter.name == "rslora",
        use_dora=config.adapter.name == "dora",
        bias="none",
        **common,
    )


def _vera(model: PreTrainedModel, config: Config, common: dict[str, Any]) -> PeftConfig:
    return VeraConfig(
        r=config.adapter.rank,
        vera_dropout=config.adapter.dropout,
        target_modules=target_modules(model, config),
        projection_prng_key=config.seed,
        save_projection=True,  # torch does not promise the same random numbers in its next version
        **common,
    )


def _ia3(model: PreTrainedModel, config: Config, common: dict[str, Any]) -> PeftConfig:
    targets = ia3_targets(model, config)
    second = [target for target in targets if target.rpartition(".")[2] in SECOND_LAYERS]
    return IA3Config(target_modules=targets, feedforward_modules=second, **common)


def target_modules(model: PreTrainedModel, config: Config) -> list[str] | str:
    """Names of the modules to adapt: the adapter's, else the family's, else every linear layer but the head.

    Raises:
        ConfigError: A name without a linear layer; peft skips it silently where another name matches.
    """
    key = "adapter.target_modules" if config.adapter.target_modules is not None else "model.lora_targets"
    targets = config.adapter.target_modules or config.model.lora_targets
    if not targets or targets == ALL_LINEAR:
        return ALL_LINEAR
    check_targets(model, key, targets)
    return list(targets)


def ia3_targets(model: PreTrainedModel, config: Config) -> list[str]:
    """Names of the modules that (IA)^3 scales: the adapter's, else those of the paper.

    Raises:
        ConfigError: Names that the network does not have; a family that names its layers otherwise.
    """
    targets = config.adapter.target_modules
    if isinstance(targets, list):
        check_targets(model, "adapter.target_modules", targets)
        return list(targets)
    available = linear_names(model)
    for names in IA3_TARGETS:
        if targets is None and available >= set(names):
            return list(names)
    why = f"{model.config.model_type} names its keys, values and feed-forward layers otherwise"
    if targets is not None:
        why = f"{targets} would scale whole layers in and out, which (IA)^3 does not mean"
    raise ConfigError(
        f"adapter=ia3: {why}; name the modules in adapter.target_modules (linear layers are "
        f"{', '.join(sorted(available))})"
    )


def linear_names(model: nn.Module) -> set[str]:
    """The last parts of the names of all linear layers."""
    linear = (name for name, module in model.named_modules() if isinstance(module, nn.Linear))
    return {name.rpartition(".")[2] for name in linear}


def check_targets(model: PreTrainedModel, key: str, targets: list[str]) -> None:
    """Raises ConfigError for names without a linear layer, and for a head that could not be merged."""
    _check_head(model, key, targets)
    available = linear_names(model)
    unknown = [target for target in targets if target.rpartition(".")[2] not in available]
    if unknown:
        raise ConfigError(
            f"{key} names {', '.join(unknown)}, which {model.config.model_type} does not have; "
            f"its linear layers are {', '.join(sorted(available))}"
        )


def _check_head(model: PreTrainedModel, key: str, targets: list[str]) -> None:
    """Raises ConfigError for a head whose adapter could not be merged into the same function."""
    head: Any = model.get_output_embeddings()
    reason = "it is the embedding too" if is_tied(model) else None
    if isinstance(head, NormHead):
        reason = "its rows are normalised after a merge"
    names = [name for name, module in model.named_modules() if module is head]
    if reason is not None and {target.rpartition(".")[2] for target in targets} & set(names):
        raise ConfigError(
            f"{key} names the output head {names[0]}, but {reason}, so the adapter could not be merged into "
            "the same function; leave it out"
        )


def is_tied(model: PreTrainedModel) -> bool:
    """Whether the output head is the embedding."""
    head: Any = model.get_output_embeddings()
    return head is not None and head.weight is getattr(model.get_input_embeddings(), "weight", None)


def whole_modules(model: PreTrainedModel, config: Config) -> list[str]:
    """``adapter.modules_to_save``, looked over.

    Raises:
        ConfigError: A module that is not there, is quantised, or shares its weights with another; an
            embedding that grew and is not among them.
    """
    wanted = config.adapter.modules_to_save
    key = "adapter.modules_to_save"
    last_names = {name.rpartition(".")[2]: module for name, module in model.named_modules() if name}
    unknown = [name for name in wanted if name.rpartition(".")[2] not in last_names]
    if unknown:
        raise ConfigError(
            f"{key} names {', '.join(unknown)}, which {model.config.model_type} does not have; "
            f"its modules are {', '.join(sorted(name for name in last_names if not name.isdigit()))}"
        )
    chosen = {name: last_names[name.rpartition(".")[2]] for name in wanted}
    ends = {"the embedding": model.get_input_embeddings(), "the head": model.get_output_embeddings()}
    for name, module in chosen.items():
        if is_tied(model) and any(module is end for end in ends.values()):
            raise ConfigError(
                f"{key} names {name}, but this model's embedding and head are one matrix, and a trained copy "
                "of one of them would part them; leave it out, or train with adapter=none or freeze"
            )
        if any(hasattr(weight, "quant_state") or hasattr(weight, "SCB") for weight in module.parameters()):
            raise ConfigError(
                f"{key} names {name}, whose weights quantization={config.quantization.name} freezes; leave "
                "it to adapter.target_modules, or set quantization=none"
            )
    if config.model.resize_embeddings and wanted:
        missing = [what for what, module in ends.items() if all(module is not own for own in chosen.values())]
        if missing:
            raise ConfigError(
                f"model.resize_embeddings=true adds rows to the embedding and the head, but {key} leaves out "
                f"{' and '.join(missing)}; name both, or train with adapter=none"
            )
    return list(wanted)
