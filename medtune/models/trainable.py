"""What a network must be like to be trained as the settings say, and how it is made ready."""

import logging

from transformers import PreTrainedConfig, PreTrainedModel

from medtune.config.schema import WHOLE_MODELS, Config
from medtune.models.rope import context_length, independent_length
from medtune.runtime.errors import ConfigError
from medtune.runtime.families import FLOAT16_OVERFLOWS, float16_refusal, packing_refusal

logger = logging.getLogger(__name__)


CHECKPOINTING_FROM = 1_000_000_000  # parameters; below, activations fit and recomputing only costs time


def prepare_training(model: PreTrainedModel, config: Config) -> None:
    """Refuses what would go wrong in silence; gradient checkpointing where set, or the model is large."""
    if config.quantization.name != "none" and config.adapter.name in WHOLE_MODELS and config.weights is None:
        raise ConfigError(
            f"quantization={config.quantization.name} freezes every weight; train with adapter=lora"
        )
    check_float16(config, model.config)
    check_packing(config, model.config)
    check_rotation(config, model.config)
    warn_of_short_context(config, model.config)
    checkpointing = config.model.gradient_checkpointing
    if checkpointing is None:
        checkpointing = model.num_parameters() > CHECKPOINTING_FROM
    if checkpointing:
        enable_checkpointing(model)


def enable_checkpointing(model: PreTrainedModel) -> None:
    """Recomputes each decoder layer in the backward pass; also below a frozen embedding."""
    # transformers 5.2x renamed the method; the old name warns and goes with version 6.
    name = "activation_checkpointing_enable"
    enable = getattr(model, name if hasattr(model, name) else "gradient_checkpointing_enable")
    # Reentrant checkpoints pass no gradient where their input asks for none, as under a frozen embedding.
    enable({"use_reentrant": False})


def longest_document(config: Config) -> int:
    """Most tokens of a document, those of a trained prompt among them."""
    return config.data.sequence_length + virtual_tokens(config)


def virtual_tokens(config: Config) -> int:
    """Tokens of a trained prompt in front of each document."""
    adapter = config.adapter
    return adapter.num_virtual_tokens if adapter.name == "prompt_tuning" else 0


def check_float16(config: Config, network: PreTrainedConfig) -> None:
    """Raises ConfigError for a family that overflows the type of the products."""
    reason = FLOAT16_OVERFLOWS.get(network.model_type)
    if config.trainer.precision == "16-mixed" and reason is not None:
        raise ConfigError(float16_refusal(network.model_type, reason))


def check_packing(config: Config, network: PreTrainedConfig) -> None:
    """Raises ConfigError where packed rows would be computed otherwise than their documents alone."""
    if config.data.packing == "none":
        return
    refusal = packing_refusal(network.model_type)
    window, length = getattr(network, "sliding_window", None), config.data.sequence_length
    if refusal is None and window is not None and length > window:
        refusal = (
            f"data.sequence_length={length} is longer than the model's sliding window of {window} tokens, "
            "which a packed row would not keep; shorten it, or set data.packing=none"
        )
    if refusal is not None:
        raise ConfigError(refusal)


def check_rotation(config: Config, network: PreTrainedConfig) -> None:
    """Raises ConfigError where a document would be rotated by the length of another one in its batch."""
    limit, data = independent_length(network), config.data
    if limit is None or longest_document(config) <= limit:
        return
    if data.packing != "none" or data.micro_batch_size != 1:
        raise ConfigError(
            f"rope_type={network.rope_parameters['rope_type']} chooses the frequencies of a whole batch by "
            f"its longest row, once that is longer than {limit} tokens, so documents would change with what "
            "lies beside them; set data.packing=none and data.micro_batch_size=1, or data.sequence_length="
            f"{limit - virtual_tokens(config)}, or take model.rope_scaling.rope_type=yarn or linear"
        )


def warn_of_short_context(config: Config, network: PreTrainedConfig) -> None:
    """Says before the fit, not after it, that documents may be longer than the model can take."""
    context = context_length(network)
    if context is not None and longest_document(config) > context:
        added = f" and adapter.num_virtual_tokens={virtual_tokens(config)}" if virtual_tokens(config) else ""
        logger.warning(
            "warning: data.sequence_length=%d%s is longer than the model's context of %d tokens; a document "
            "beyond it is learned at positions that the model was not made for, and none can be answered",
            *(config.data.sequence_length, added, context),
        )
