"""What transformers must know to build a network: its files' ``config.json``, or what a model option says."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from medtune.config.schema import ModelConfig
from medtune.models.baichuan import BaichuanForCausalLM
from medtune.models.bloom import BloomForCausalLM
from medtune.models.folders import find_folder, read_settings
from medtune.models.rope import stretch_positions
from medtune.models.stored_quantization import PACKAGES, stored_method
from medtune.models.tokenizers import load_tokenizer
from medtune.runtime.errors import ConfigError

NETWORK_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "tie_word_embeddings",
)
# Keys of a config.json that transformers derives from another one when it builds a network anew.
DERIVED_KEYS = {
    "hidden_size": ("head_dim", "n_embed"),
    "num_attention_heads": ("head_dim", "num_key_value_heads"),
    "num_hidden_layers": ("layer_types",),
}
NATIVE_NETWORKS: dict[str, type[PreTrainedModel]] = {
    "baichuan": BaichuanForCausalLM,
    "bloom": BloomForCausalLM,
}
WRONG_VALUES = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
ROWS_MULTIPLE = 64  # a resized embedding is rounded up to it, for the matrix units of GPUs


def build_network_config(model: ModelConfig) -> PreTrainedConfig:
    """What transformers needs to build the network.

    With random weights the keys of ``model`` win over what is known of ``model.path``, and the tokenizer
    gives the special ids, and the vocabulary where nothing else does; with pretrained weights the file
    decides.

    Raises:
        ConfigError: An unknown architecture, or keys that do not go with it.
    """
    known = known_settings(model)
    model_type = model.model_type or known.get("model_type")
    if model_type is None:
        where = "there is no model.path to read it from"
        if model.path is not None:
            where = f"the config.json of model.path={model.path} does not name one"
        raise ConfigError(f"model.model_type is not set, and {where}")
    if model_type not in CONFIG_MAPPING or CONFIG_MAPPING[model_type] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ConfigError(
            f"model.model_type={model_type}: transformers has no such causal language model, and code that a "
            "model brings along is never run"
        )
    if known.get("model_type", model_type) != model_type:
        raise ConfigError(
            f"model.model_type={model_type}, but {model.path} is {known['model_type']}; leave it out"
        )
    given = {key: getattr(model, key) for key in NETWORK_KEYS if getattr(model, key) is not None}
    _check_given(model, model_type, given, known)
    tokenizer = load_tokenizer(model)
    network: PreTrainedConfig
    if model.init == "pretrained":
        network = _read_network(path_folder(model))
    else:
        derived = {"model_type", *(name for key in given for name in DERIVED_KEYS.get(key, ()))}
        kept = {key: value for key, value in known.items() if key not in derived}
        settings = _own_names(model_type, kept) | _tokenizer_settings(model, tokenizer, known)
        if "num_attention_heads" in given and hasattr(CONFIG_MAPPING[model_type](), "num_key_value_heads"):
            # Not the family's default, which goes with its default number of heads.
            settings.setdefault("num_key_value_heads", given["num_attention_heads"])
        network = AutoConfig.for_model(model_type, **(settings | _own_names(model_type, given)))
    _check_vocabulary(model, network, len(tokenizer))
    if model.rope_scaling:
        stretch_positions(network, model.rope_scaling)
    return network


def _read_network(folder: Path) -> PreTrainedConfig:
    """The ``config.json`` of ``folder`` as transformers reads it.

    Raises:
        ConfigError: A value that it does not take, or weights that are quantised in an unknown way.
    """
    method = stored_method(read_settings(folder / "config.json"))
    if method is not None and method not in PACKAGES:
        raise ConfigError(
            f"{folder / 'config.json'} has quantization_config ({method}): weights that are quantised in "
            f"such a way are not supported ({', '.join(PACKAGES)} are); take the unquantised model, with "
            "quantization=nf4 or int8 and an adapter"
        )
    try:
        network: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        family: Any = network_class(network)
        with torch.device("meta"):
            family._from_config(network)
    # What a wrong value leads to differs from family to family.
    except (*WRONG_VALUES, StrictDataclassError) as error:
        raise ConfigError(
            f"{folder / 'config.json'}: no {family_name(folder)} can be built from it "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error
    return network


def family_name(folder: Path) -> str:
    """The architecture that a folder names, for messages."""
    return str(read_settings(folder / "config.json").get("model_type"))


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    return next(iter(str(error).strip().splitlines()), "")


def network_class(network: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class of a causal language model: ours where there is one, else transformers'.

    Not by registering ours with transformers: older versions keep their own BLOOM without a word, and its
    packed documents see each other.
    """
    found: Any = NATIVE_NETWORKS.get(network.model_type) or MODEL_FOR_CAUSAL_LM_MAPPING[type(network)]
    return found  # type: ignore[no-any-return]


def known_settings(model: ModelConfig) -> dict[str, Any]:
    """The ``config.json`` of ``model.path``; what the option says, with random weights and no folder here."""
    if model.path is None:
        return dict(model.architecture)
    if model.init == "random" and model.architecture and not Path(model.path).expanduser().is_dir():
        return dict(model.architecture)
    return read_settings(path_folder(model) / "config.json")


def path_folder(model: ModelConfig, weights: bool = False) -> Path:
    """The folder of ``model.path``."""
    if model.path is None:
        raise ConfigError("model.path is not set; give a folder or hub id, or set model.init=random")
    return find_folder("model.path", model.path, model.revision, weights)


def _own_names(model_type: str, settings: dict[str, Any]) -> dict[str, Any]:
    """``settings`` under the names that the family itself gives them, so that none is there twice."""
    names: dict[str, str] = CONFIG_MAPPING[model_type].attribute_map
    return {names.get(key, key): value for key, value in settings.items()}


def _check_given(model: ModelConfig, model_type: str, given: dict[str, Any], known: dict[str, Any]) -> None:
    if model.init == "pretrained":
        problems = [
            f"model.{key}={value}, but {model.path} has {known.get(key)}; with model.init=pretrained the "
            f"files decide, so leave model.{key} out"
            for key, value in given.items()
            if value != known.get(key)
        ]
    else:
        default = CONFIG_MAPPING[model_type]()
        hidden, heads = (
            given.get(key, known.get(key, getattr(default, key)))
            for key in ("hidden_size", "num_attention_heads")
        )
        keys = [f"model.{key}" for key in given] + [f"model.architecture.{key}" for key in model.architecture]
        problems = [
            f"{key}={value}: {model_type} has no such setting"
            for key, value in zip(keys, [*given.values(), *model.architecture.values()], strict=True)
            if not hasattr(default, key.rpartition(".")[2])
        ]
        if hidden % heads:
            problems.append(
                f"model.hidden_size ({hidden}) must be a multiple of model.num_attention_heads ({heads})"
            )
        keys_of = given.get("num_key_value_heads")
        if keys_of and heads % keys_of:
            problems.append(
                f"model.num_attention_heads ({heads}) must be a multiple of model.num_key_value_heads "
                f"({keys_of})"
            )
    if problems:
        raise ConfigError(problems)


def _tokenizer_settings(
    model: ModelConfig, tokenizer: PreTrainedTokenizerBase, known: dict[str, Any]
) -> dict[str, Any]:
    """What a new network takes from its tokenizer; the vocabulary only where nothing else gives it."""
    settings = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    if "vocab_size" not in known:
        settings["vocab_size"] = len(tokenizer)
    elif model.resize_embeddings and len(tokenizer) > known["vocab_size"]:
        settings["vocab_size"] = -(-len(tokenizer) // ROWS_MULTIPLE) * ROWS_MULTIPLE
    return settings


def _check_vocabulary(model: ModelConfig, network: PreTrainedConfig, num_tokens: int) -> None:
    """Raises ConfigError when the tokenizer makes ids that the embedding has, and gets, no row for."""
    is_drawn = model.init == "random"
    if num_tokens <= network.vocab_size or (model.resize_embeddings and not is_drawn):
        return
    remedy = "set model.resize_embeddings=true to train rows for the others"
    if is_drawn and model.vocab_size is not None:
        remedy = f"leave model.vocab_size={model.vocab_size} out"
    raise ConfigError(
        f"the tokenizer ({model.tokenizer or model.path}) has {num_tokens} tokens, but the embedding has "
        f"{network.vocab_size} rows; use the model's own tokenizer, or {remedy}"
    )
