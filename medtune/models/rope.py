"""Rotary positions beyond a model's context, as transformers names and computes them."""

from typing import Any

from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from medtune.runtime.errors import ConfigError

WITH_ORIGINAL_LENGTH = ("yarn", "llama3", "longrope")
"""Types that keep the context of the pretraining beside the new one."""


def stretch_positions(network: PreTrainedConfig, scaling: dict[str, Any]) -> None:
    """Sets ``model.rope_scaling`` in a network's configuration, and its new context.

    Raises:
        ConfigError: No rotary positions, or keys and values that do not go with the type.
    """
    length = getattr(network, "max_position_embeddings", None)
    if not getattr(network, "rope_parameters", None) or length is None:
        raise ConfigError(
            f"model.rope_scaling: {network.model_type} as configured has no rotary positions to stretch; "
            "leave it out"
        )
    kind, factor = scaling["rope_type"], scaling.get("factor")
    parameters = {**network.rope_parameters, **scaling}
    if kind in WITH_ORIGINAL_LENGTH:
        length = parameters.setdefault("original_max_position_embeddings", length)
    network.rope_parameters = parameters
    if kind != "dynamic":  # which takes the old context for the start of its stretching
        network.max_position_embeddings = int(length * factor)
    _check_keys(network, scaling)


def _check_keys(network: PreTrainedConfig, scaling: dict[str, Any]) -> None:
    kind = scaling["rope_type"]
    head_size = getattr(network, "head_dim", None) or network.hidden_size // network.num_attention_heads
    for key in ("short_factor", "long_factor"):
        factors = scaling.get(key)
        if kind == "longrope" and (not isinstance(factors, list) or len(factors) != head_size // 2):
            raise ConfigError(
                f"model.rope_scaling.{key} must be a list of {head_size // 2} numbers, one for each pair of "
                f"a head's {head_size}"
            )
    try:
        network.validate_rope()
        ROPE_INIT_FUNCTIONS[kind](network, "cpu")
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"model.rope_scaling ({kind}): {error}") from error


def context_length(network: PreTrainedConfig) -> int | None:
    """Tokens that the model was made, or stretched, to take; None without a limit."""
    length = getattr(network, "max_position_embeddings", None) or getattr(network, "model_max_length", None)
    parameters = getattr(network, "rope_parameters", None) or {}
    if length is not None and parameters.get("rope_type") == "dynamic":
        return int(length * parameters["factor"])
    return length


def independent_length(network: PreTrainedConfig) -> int | None:
    """Most tokens of a batch's longest row up to which a token's rotation follows from its position alone.

    ``dynamic`` and ``longrope`` choose the frequencies of all rows by the longest.
    """
    parameters = getattr(network, "rope_parameters", None) or {}
    limits = {
        "dynamic": getattr(network, "max_position_embeddings", None),
        "longrope": parameters.get("original_max_position_embeddings"),
    }
    return limits.get(parameters.get("rope_type", "default"))
