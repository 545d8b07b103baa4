"""Building the network and its tokenizer as the settings say, ready to train or to answer."""

import logging
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from medtune.config.schema import Config, ModelConfig
from medtune.models.folders import (
    ADAPTER_FILE,
    TOKENIZER_FILES,
    check_model_folder,
    find_folder,
    find_weights,
    has_tokenizer,
    is_adapter,
    read_settings,
)
from medtune.models.quantize import keep_exact_on_cpu, quantization_arguments
from medtune.models.tokenizers import BaichuanTokenizer
from medtune.runtime.errors import ConfigError
from medtune.runtime.families import packing_refusal

if TYPE_CHECKING:
    from peft import PeftModel

logger = logging.getLogger(__name__)

CHECKPOINTING_FROM = 1_000_000_000  # parameters; below, activations fit and recomputing only costs time

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
    "hidden_size": ("head_dim",),
    "num_attention_heads": ("head_dim", "num_key_value_heads"),
    "num_hidden_layers": ("layer_types",),
}


def load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of ``model``, with an EOS and a padding token.

    Raises:
        ConfigError: It cannot be found or read, or has no EOS token.
    """
    key, name = ("model.tokenizer", model.tokenizer) if model.tokenizer else ("model.path", model.path)
    if name is None:
        raise ConfigError("neither model.tokenizer nor model.path is set; give a folder or hub id")
    folder = find_folder(key, name, None if model.tokenizer else model.revision, weights=False)
    if not has_tokenizer(folder):
        raise ConfigError(f"{key}={name} holds no tokenizer: looked for {', '.join(TOKENIZER_FILES)}")
    tokenizer = _read_tokenizer(key, folder)
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"{key}={name}: the tokenizer has no EOS token, so no answer could end; "
            "name one as eos_token in its tokenizer_config.json"
        )
    _settle_padding(tokenizer)
    return tokenizer


def _read_tokenizer(key: str, folder: Path) -> PreTrainedTokenizerBase:
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        read_settings(folder / name)  # its message names the file
    try:
        tokenizer: PreTrainedTokenizerBase = _tokenizer_class(folder).from_pretrained(folder)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{key}={folder}: its tokenizer cannot be read ({error}); fetch it again"
        ) from error
    return tokenizer


def _tokenizer_class(folder: Path) -> Any:
    """Baichuan's own class for its sentencepiece files, else transformers' choice."""
    if (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file():
        settings = read_settings(folder / "tokenizer_config.json") | read_settings(folder / "config.json")
        if settings.get("tokenizer_class") == "BaichuanTokenizer" or settings.get("model_type") == "baichuan":
            return BaichuanTokenizer
    return AutoTokenizer


def _settle_padding(tokenizer: PreTrainedTokenizerBase) -> None:
    """Gives the tokenizer a padding token; any will do, since padding is told by its place, not its id."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
        logger.info("the tokenizer has no padding token; rows are filled with %s", tokenizer.pad_token)
    elif tokenizer.pad_token_id == tokenizer.eos_token_id:
        logger.info("padding and EOS share the token %s; EOS is learned all the same", tokenizer.pad_token)


def load_model(
    config: Config, *, for_training: bool, weights: str | None = None
) -> "PreTrainedModel | PeftModel":
    """The network with its weights, quantised and adapted as the settings say.

    Args:
        config: The whole configuration.
        for_training: Train mode, no cache, gradient checkpointing as set. Else eval mode.
        weights: A model or adapter folder, or a run folder, in place of ``config.weights``. An adapter is
            put on the model of ``config.model``; without one, on the base that it names.

    Returns:
        A transformers model, or peft's wrapper around one; it lies on the CPU unless quantised.

    Raises:
        ConfigError: What is asked for cannot be found, read or combined.
    """
    given = weights or config.weights
    folder = find_weights(given) if given else None
    if folder is None:
        model = _load_base(config)
    elif is_adapter(folder):
        model = _load_base(replace(config, model=_base_of_adapter(config.model, folder)))
    else:
        model = _load_base(replace(config, model=_model_in(config.model, folder)))
    model.config.use_cache = not for_training  # whatever a training run wrote into the file
    if for_training:
        _prepare_training(model, config)
    return _adapted(model, config, folder, for_training).train(for_training)


def _adapted(
    model: PreTrainedModel, config: Config, folder: Path | None, for_training: bool
) -> "PreTrainedModel | PeftModel":
    """``model`` with the adapter in ``folder``, or the one that is configured, or as it is."""
    # The imports are here, since peft costs seconds and draws bitsandbytes in.
    if folder is not None and is_adapter(folder):
        from medtune.models.adapters import load_adapter

        return load_adapter(model, folder, trainable=for_training)
    if config.adapter.name == "lora" and (folder is None or for_training):
        from medtune.models.adapters import add_adapter

        return add_adapter(model, config)
    return model


def _model_in(model: ModelConfig, folder: Path) -> ModelConfig:
    """``model`` with everything that the files of ``folder`` decide taken from there."""
    unset: dict[str, Any] = dict.fromkeys((*NETWORK_KEYS, "model_type", "revision"))
    tokenizer = None if has_tokenizer(folder) else model.tokenizer or model.path
    return replace(model, **unset, path=str(folder), init="pretrained", tokenizer=tokenizer)


def _base_of_adapter(model: ModelConfig, folder: Path) -> ModelConfig:
    if model.path is not None or model.init == "random":
        return model
    base = read_settings(folder / ADAPTER_FILE).get("base_model_name_or_path")
    if not base:
        raise ConfigError(f"weights={folder} is an adapter that names no base; set model.path to its base")
    return replace(model, path=base)


def _load_base(config: Config) -> PreTrainedModel:
    if config.model.init == "random":
        return _build_random(config)
    folder = _path_folder(config.model, weights=True)
    check_model_folder("model.path", folder)
    return _load_folder(config, folder, build_network_config(config.model))


def _check_packing(config: Config, network: PreTrainedConfig) -> None:
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


def _warn_of_short_context(config: Config, network: PreTrainedConfig) -> None:
    """Says before the fit, not after it, that documents may be longer than the model can take."""
    context, length = getattr(network, "max_position_embeddings", None), config.data.sequence_length
    if context is not None and length > context:
        logger.warning(
            "warning: data.sequence_length=%d is longer than the model's context of %d tokens; a document "
            "beyond it is learned at positions that the model was not made for, and none can be answered",
            *(length, context),
        )


def _load_folder(config: Config, folder: Path, network: PreTrainedConfig) -> PreTrainedModel:
    """Loads ``folder`` and refuses weights that do not fit it exactly."""
    loaded: tuple[PreTrainedModel, dict[str, Any]] = AutoModelForCausalLM.from_pretrained(  # type: ignore[assignment]
        folder,
        config=network,
        dtype=weights_dtype(config),
        attn_implementation=_attention(config, network),
        ignore_mismatched_sizes=True,  # so that they are reported together, below
        output_loading_info=True,
        **quantization_arguments(config, network),
    )
    model, report = loaded
    mismatched = [
        f"{name} {tuple(found)} instead of {tuple(due)}" for name, found, due in report["mismatched_keys"]
    ]
    problems = [
        f"model.path={folder}: {len(names)} weights are {kind}: {', '.join(sorted(names)[:5])}"
        for kind, names in (
            ("missing", report["missing_keys"]),
            ("unknown to the architecture", report["unexpected_keys"]),
            ("of another shape than config.json says", mismatched),
        )
        if names
    ]
    if problems:
        raise ConfigError(problems)
    keep_exact_on_cpu(model)
    return model


def _build_random(config: Config) -> PreTrainedModel:
    """The architecture with fresh weights: equal for equal seeds, whatever was drawn before."""
    network = build_network_config(config.model)
    attention = _attention(config, network)
    quantized = quantization_arguments(config, network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            network, dtype=weights_dtype(config), attn_implementation=attention
        )
    if not quantized:
        return model
    # bitsandbytes quantises while loading, so the weights take the way over a folder.
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        quantized_model = _load_folder(config, Path(folder), network)
    quantized_model.config._name_or_path = quantized_model.name_or_path = ""
    return quantized_model


def build_network_config(model: ModelConfig) -> PreTrainedConfig:
    """What transformers needs to build the network: ``model.path``'s config.json and the keys of ``model``.

    With random weights the keys of ``model`` win, and the tokenizer gives the vocabulary and its special
    ids; with pretrained weights the file decides.

    Raises:
        ConfigError: An unknown architecture, or keys that do not go with it.
    """
    known = _known_settings(model)
    model_type = model.model_type or known.get("model_type")
    if model_type is None:
        raise ConfigError("model.model_type is not set, and there is no model.path to read it from")
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
        network = AutoConfig.from_pretrained(_path_folder(model))
    else:
        derived = {"model_type", *(name for key in given for name in DERIVED_KEYS.get(key, ()))}
        known = {key: value for key, value in known.items() if key not in derived}
        network = AutoConfig.for_model(model_type, **(known | _tokenizer_settings(tokenizer, known) | given))
    _check_vocabulary(model, network, len(tokenizer))
    return network


def _known_settings(model: ModelConfig) -> dict[str, Any]:
    return read_settings(_path_folder(model) / "config.json") if model.path is not None else {}


def _path_folder(model: ModelConfig, weights: bool = False) -> Path:
    """The folder of ``model.path``."""
    if model.path is None:
        raise ConfigError("model.path is not set; give a folder or hub id, or set model.init=random")
    return find_folder("model.path", model.path, model.revision, weights)


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
        problems = [
            f"model.{key}={value}: {model_type} has no such setting"
            for key, value in given.items()
            if not hasattr(default, key)
        ]
        if hidden % heads:
            problems.append(
                f"model.hidden_size ({hidden}) must be a multiple of model.num_attention_heads ({heads})"
            )
    if problems:
        raise ConfigError(problems)


def _tokenizer_settings(tokenizer: PreTrainedTokenizerBase, known: dict[str, Any]) -> dict[str, Any]:
    """What a new network takes from its tokenizer; the vocabulary only where nothing else gives it."""
    settings = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    if "vocab_size" not in known:
        settings["vocab_size"] = len(tokenizer)
    return settings


def _check_vocabulary(model: ModelConfig, network: PreTrainedConfig, num_tokens: int) -> None:
    """Raises ConfigError when the tokenizer makes ids that the embedding has no row for."""
    if num_tokens > network.vocab_size:
        raise ConfigError(
            f"the tokenizer ({model.tokenizer or model.path}) has {num_tokens} tokens, but the embedding has "
            f"{network.vocab_size} rows; use the model's own tokenizer, or with model.init=random raise "
            "model.vocab_size"
        )


def weights_dtype(config: Config) -> torch.dtype:
    """Type of the loaded weights, ``model.dtype``."""
    name = config.model.dtype
    if name == "auto":
        name = "bfloat16" if config.trainer.precision == "bf16-true" else "float32"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _attention(config: Config, network: PreTrainedConfig) -> str:
    """``model.attention`` where the family has it."""
    family: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(network)]
    if config.model.attention == "sdpa" and not family._supports_sdpa:
        raise ConfigError(
            f"model.attention=sdpa: {network.model_type} has no such attention in transformers; set "
            "model.attention=eager"
        )
    return config.model.attention


def _prepare_training(model: PreTrainedModel, config: Config) -> None:
    """Refuses what would go wrong in silence; gradient checkpointing where set, or the model is large."""
    if config.quantization.name != "none" and config.adapter.name == "none" and config.weights is None:
        raise ConfigError(
            f"quantization={config.quantization.name} freezes every weight; train with adapter=lora"
        )
    _check_packing(config, model.config)
    _warn_of_short_context(config, model.config)
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
