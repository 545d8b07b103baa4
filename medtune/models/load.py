"""Building the network as the settings say, ready to train or to answer."""

import logging
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from medtune.config.schema import WHOLE_MODELS, Config, ModelConfig, QuantizationConfig
from medtune.models.attention_choice import choose_attention
from medtune.models.folders import (
    ADAPTER_FILE,
    check_adapter_weights,
    check_model_folder,
    find_weights,
    has_tokenizer,
    is_adapter,
    read_settings,
)
from medtune.models.freezing import freeze
from medtune.models.network import (
    NETWORK_KEYS,
    ROWS_MULTIPLE,
    build_network_config,
    first_line,
    network_class,
    path_folder,
)
from medtune.models.placing import (
    answering_types,
    cast_shared_matrices,
    is_drawn,
    place_whole,
    prepare_for,
    training_types,
)
from medtune.models.quantize import (
    compute_dtype,
    keep_exact_on_cpu,
    quantization_arguments,
    set_compute_dtype,
)
from medtune.models.soft_prompt import add_prompt, is_prompt, load_prompt
from medtune.models.stored_quantization import check_stored, stored_method
from medtune.models.tokenizers import load_tokenizer
from medtune.models.trainable import prepare_training
from medtune.runtime.errors import ConfigError

if TYPE_CHECKING:
    from peft import PeftModel

logger = logging.getLogger(__name__)


def load_model(
    config: Config, *, for_training: bool, weights: str | None = None, place: bool = True
) -> "PreTrainedModel | PeftModel":
    """The network with its weights, quantised and adapted as the settings say.

    Args:
        config: The whole configuration.
        for_training: Train mode, no cache, gradient checkpointing as set. Else eval mode.
        weights: A model or adapter folder, or a run folder, in place of ``config.weights``. An adapter is
            put on the model of ``config.model``; without one, on the base that it names.
        place: Give the weights their final type, on the CPU. False leaves them as the files have them, mapped
            into memory, or without values on the meta device; whoever places them then calls
            :func:`medtune.models.placing.prepare_for` part by part.

    Returns:
        A transformers model, or peft's wrapper around one; it lies on the CPU unless quantised.

    Raises:
        ConfigError: What is asked for cannot be found, read or combined.
    """
    given = weights or config.weights
    folder = find_weights(given) if given else None
    if folder is not None and is_adapter(folder):
        check_adapter_weights("weights", folder)
    if folder is None:
        source = config.model
    elif is_adapter(folder):
        source = _base_of_adapter(config.model, folder)
    else:
        source = _model_in(config.model, folder)
    based = replace(config, model=source)
    merges = _merges(config, folder)
    model = _with_merged(based, merges, for_training) if merges else _load_base(based, for_training)
    model.config.use_cache = not for_training  # whatever a training run wrote into the file
    if for_training:
        prepare_training(model, config)
    adapted = _adapted(model, config, folder, for_training).train(for_training)
    if for_training:
        _check_new_rows(adapted, config)
        cast_shared_matrices(adapted, config)
    adapted.merged_adapters = [path for _, path in merges]  # for who writes it
    if place and not is_quantized(model):
        place_whole(adapted, prepare_for(adapted, config, for_training))
    return adapted


def is_quantized(model: Any) -> bool:
    """Whether bitsandbytes holds the weights, which it has placed itself."""
    return bool(getattr(model, "is_quantized", False))


def _adapted(
    model: PreTrainedModel, config: Config, folder: Path | None, for_training: bool
) -> "PreTrainedModel | PeftModel":
    """``model`` with the adapter in ``folder``, or the one that is configured, or as it is."""
    # The imports are here, since peft costs seconds and draws bitsandbytes in.
    if folder is not None and is_adapter(folder):
        from medtune.models.adapters import load_adapter

        _give_values(model, config, for_training)
        if is_prompt(folder):
            return load_prompt(model, folder, trainable=for_training)
        return load_adapter(model, folder, trainable=for_training)
    if config.adapter.name == "freeze" and for_training:
        return freeze(model, config.adapter)
    if config.adapter.name in WHOLE_MODELS or (folder is not None and not for_training):
        return model
    if config.adapter.name == "prompt_tuning":
        return _with_prompt(model, config)
    return _with_new_adapter(model, config)


def _with_prompt(model: PreTrainedModel, config: Config) -> PreTrainedModel:
    """``model`` behind a trained prompt, fresh or an earlier one."""
    from medtune.models.adapter_folders import check_base, find_adapter

    _give_values(model, config, for_training=True)
    if config.adapter.start is None:
        return add_prompt(model, config)
    start = find_adapter("adapter.start", config.adapter.start)
    if not is_prompt(start):
        raise ConfigError(f"adapter.start={start} holds no trained prompt, but adapter=prompt_tuning")
    check_base("adapter.start", start, model, config)
    return load_prompt(model, start, trainable=True, key="adapter.start")


def _with_new_adapter(model: PreTrainedModel, config: Config) -> "PeftModel":
    from medtune.models.adapter_folders import check_base, find_adapter
    from medtune.models.adapters import add_adapter, continue_adapter

    adapter = config.adapter
    # What begins with values of the base, or of files, cannot begin on mere shapes.
    is_plain = adapter.name in ("lora", "rslora") and not adapter.modules_to_save
    if not is_plain or adapter.start or adapter.stack:
        _give_values(model, config, for_training=True)
    stack = [str(find_adapter("adapter.stack", path)) for path in adapter.stack]
    for path in stack:
        check_base("adapter.stack", Path(path), model, config)
    config = replace(config, adapter=replace(adapter, stack=stack))
    if adapter.start is None:
        return add_adapter(model, config)
    start = find_adapter("adapter.start", adapter.start)
    check_base("adapter.start", start, model, config)
    return continue_adapter(model, start, config)


def _give_values(model: PreTrainedModel, config: Config, for_training: bool) -> None:
    """Draws the weights of a network that is mere shapes."""
    if not is_drawn(model):
        place_whole(model, prepare_for(model, config, for_training))


def _merges(config: Config, folder: Path | None) -> list[tuple[str, Path]]:
    """The adapters to fold into the base first, each with the key that asks for it."""
    from medtune.models.adapter_folders import with_merged_below

    adapter = config.adapter
    if folder is not None and is_adapter(folder):
        return with_merged_below([], [("weights", str(folder))])
    if folder is not None:
        return []
    starts = [("adapter.start", adapter.start)] if adapter.start else []
    above = [*starts, *(("adapter.stack", path) for path in adapter.stack)]
    return with_merged_below([("adapter.merge", path) for path in adapter.merge], above)


def _with_merged(config: Config, merges: list[tuple[str, Path]], for_training: bool) -> PreTrainedModel:
    """The network with earlier adapters folded in, and quantised after that where it is to be."""
    from medtune.models.adapter_folders import check_base
    from medtune.models.merging import merge_earlier

    whole = replace(config, quantization=QuantizationConfig())
    model = _load_base(whole, for_training)
    _give_values(model, whole, for_training)
    for key, folder in merges:
        if key == "adapter.merge":
            check_base(key, folder, model, config)
        model = merge_earlier(model, folder, key)
        logger.info("merged %s", folder)
    return model if config.quantization.name == "none" else _quantized(config, model, for_training)


def _model_in(model: ModelConfig, folder: Path) -> ModelConfig:
    """``model`` with everything that the files of ``folder`` decide taken from there."""
    unset: dict[str, Any] = dict.fromkeys((*NETWORK_KEYS, "model_type", "revision"))
    unset["rope_scaling"] = {}
    tokenizer = None if has_tokenizer(folder) else model.tokenizer or model.path
    return replace(model, **unset, path=str(folder), init="pretrained", tokenizer=tokenizer)


def _base_of_adapter(model: ModelConfig, folder: Path) -> ModelConfig:
    if model.path is not None or model.init == "random":
        return model
    base = read_settings(folder / ADAPTER_FILE).get("base_model_name_or_path")
    if not base:
        raise ConfigError(f"weights={folder} is an adapter that names no base; set model.path to its base")
    return replace(model, path=base)


def _load_base(config: Config, for_training: bool) -> PreTrainedModel:
    """The network without an adapter; random weights have no values yet, unless they are quantised."""
    folder = None
    if config.model.init == "pretrained":
        folder = path_folder(config.model, weights=True)
        check_model_folder("model.path", folder)
    network = build_network_config(config.model)
    attention = choose_attention(config, network, for_training)
    if folder is None:
        return _build_random(config, network, attention, for_training)
    model = _load_folder(config, folder, network, attention, for_training)
    if config.model.resize_embeddings:
        _resize_embeddings(model, config)
    return model


def _resize_embeddings(model: PreTrainedModel, config: Config) -> None:
    """Gives the embedding and the head rows for all tokens of the tokenizer.

    New rows are drawn around the mean of the old ones, as transformers does (nlp.stanford.edu/~johnhew/vocab-
    expansion.html), so that they neither win nor lose against the others at first.
    """
    num_tokens, rows = len(load_tokenizer(config.model)), embedding_rows(model)
    if num_tokens <= rows:
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model.resize_token_embeddings(num_tokens, pad_to_multiple_of=ROWS_MULTIPLE)
    logger.info(
        "the embedding grows from %d to %d rows for %d tokens", rows, embedding_rows(model), num_tokens
    )


def _check_new_rows(model: Any, config: Config) -> None:
    """Raises ConfigError where rows may have been added at an end of the network that does not learn."""
    if not config.model.resize_embeddings or config.model.init == "random" or config.weights is not None:
        return
    ends = {"embedding": model.get_input_embeddings(), "head": model.get_output_embeddings()}
    left = [
        f"the {name}"
        for name, module in ends.items()
        if not any(p.requires_grad for p in module.parameters())
    ]
    if left:
        adapter = config.adapter
        remedy = "name both in adapter.trainable"
        if adapter.start:
            remedy = f"adapter.start={adapter.start} does not train both, so start anew or set adapter=none"
        raise ConfigError(
            "model.resize_embeddings=true adds rows to the embedding and the head, but "
            f"adapter={adapter.name} would leave those of {' and '.join(left)} as they are drawn; {remedy}"
        )


def embedding_rows(model: Any) -> int:
    """Tokens that the network can read."""
    return int(model.get_input_embeddings().num_embeddings)


def _load_folder(
    config: Config, folder: Path, network: PreTrainedConfig, attention: str, for_training: bool
) -> PreTrainedModel:
    """Loads ``folder`` and refuses weights that do not fit it exactly.

    In the type of the files: then the weights are mapped into memory, and no process has a copy of its own.
    """
    method = stored_method(network.to_dict())
    if method is not None:
        check_stored(method, config, folder, for_training)
    quantized = quantization_arguments(config, network, is_stored=method is not None)
    try:
        loaded: tuple[PreTrainedModel, dict[str, Any]] = network_class(network).from_pretrained(  # type: ignore[assignment]
            folder,
            config=network,
            dtype=_frozen_type(config, network, for_training) if quantized else "auto",
            attn_implementation=attention,
            ignore_mismatched_sizes=True,  # so that they are reported together, below
            output_loading_info=True,
            **quantized,
        )
    # What a damaged file leads to differs from format to format.
    except (AttributeError, LookupError, RuntimeError, TypeError, UnpicklingError, ValueError) as error:
        raise ConfigError(
            f"model.path={folder}: its weights or generation_config.json cannot be loaded "
            f"({type(error).__name__}: {first_line(error)}); fetch it again"
        ) from error
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
    if method is not None:
        set_compute_dtype(model, compute_dtype(config))
    return model


def _build_random(
    config: Config, network: PreTrainedConfig, attention: str, for_training: bool
) -> PreTrainedModel:
    """The architecture on the meta device; quantised, with weights, since bitsandbytes needs their values."""
    with torch.device("meta"):
        model: PreTrainedModel = network_class(network)._from_config(
            network, dtype=torch.float32, attn_implementation=attention
        )
    if config.quantization.name == "none":
        return model
    place_whole(model, prepare_for(model, config, for_training))
    return _quantized(config, model, for_training)


def _quantized(config: Config, model: PreTrainedModel, for_training: bool) -> PreTrainedModel:
    """``model``, which has values, with its linear layers quantised."""
    network = model.config
    quantized_model: PreTrainedModel = network_class(network).from_pretrained(
        None,
        config=network,
        state_dict=model.state_dict(),
        dtype=_frozen_type(config, network, for_training),
        attn_implementation=network._attn_implementation,
        **quantization_arguments(config, network),
    )
    # Where peft expects a text.
    quantized_model.config._name_or_path = quantized_model.name_or_path = network._name_or_path or ""
    keep_exact_on_cpu(quantized_model)
    return quantized_model


def _frozen_type(config: Config, network: PreTrainedConfig, for_training: bool) -> torch.dtype:
    """Of the weights that quantisation leaves alone."""
    stored = network.dtype if isinstance(network.dtype, torch.dtype) else torch.float32
    return (training_types if for_training else answering_types)(config, stored).frozen
