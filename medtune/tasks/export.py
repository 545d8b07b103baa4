"""``task=export``: trained weights as a Hugging Face folder that transformers loads by itself."""

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from medtune.config.checks import GGUF_CONVERTER
from medtune.config.schema import AdapterConfig, Config, QuantizationConfig
from medtune.generation.engine import TransformersEngine
from medtune.generation.settings import SamplingSettings
from medtune.models.load import load_model
from medtune.models.soft_prompt import virtual_ids
from medtune.models.tokenizers import load_tokenizer
from medtune.runtime.errors import ConfigError
from medtune.runtime.record import RunFolder, write_json
from medtune.tasks.gguf import convert
from medtune.tasks.weights import checkpoint_in, settle_weights
from medtune.training.card import run_of
from medtune.training.weights import write_model

PROBES = ("你好", "患者：头痛三天，怎么办？", "The patient has a fever.")
PROBE_TOKENS = 16

log = logging.getLogger(__name__)


def run(config: Config, folder: RunFolder) -> None:
    """Writes ``export.output``, reads it back, and compares the answers."""
    output, given = Path(config.export.output or folder.model), config.weights
    refuse_used(output)
    if config.quantization.name == "none":
        # An adapter is merged in the type that is written, auto being that of the weights themselves. But
        # packed weights are made from the type that they were made from in training, to be the same.
        config = replace(config, model=replace(config.model, dtype=config.export.dtype))
    with settle_weights(config) as weights:
        model: Any = load_model(config, for_training=False, weights=weights)
        if config.export.merge and virtual_ids(model):
            raise ConfigError(
                "adapter=prompt_tuning: a trained prompt is tokens, and no weights could be merged into the "
                "model; set export.merge=false"
            )
        if config.export.merge and hasattr(model, "peft_config"):
            from medtune.models.merging import merge_adapter  # here, since peft costs seconds to import

            model = merge_adapter(model)
            config = replace(config, adapter=AdapterConfig(), quantization=QuantizationConfig())
        if config.export.dtype != "auto":
            model = model.to(getattr(torch, config.export.dtype))
        weights_by_name = dict(model.state_dict())
        refuse_overflow(weights_by_name, config.export.dtype)
        before = probe(model, config)
        run, checkpoint = (run_of(given), checkpoint_in(given)) if given else (None, None)
        step = checkpoint.global_step if checkpoint else None
        write_model(model, weights_by_name, load_tokenizer(config.model), config, output, run, step)
        log.info("model %s", output)
    reloaded: Any = load_model(replace(config, weights=None), for_training=False, weights=str(output))
    if probe(reloaded, config) != before:
        raise ValueError(f"{output} does not answer as the model it was written from; do not use it")
    log.info("export: %s (read back: greedy answers are token-equal)", output)
    result = {"status": "finished", "output": str(output)}
    if config.export.gguf != "none":
        home = Path(config.export.llama_cpp or os.environ["LLAMA_CPP"])
        result["gguf"] = str(convert(output, home / GGUF_CONVERTER, config.export.gguf))
        log.info("export: %s", result["gguf"])
    write_json(folder.result_file, result)


def refuse_overflow(weights: dict[str, Tensor], dtype: str) -> None:
    """Raises ConfigError where a weight is too large for the type that is written."""
    lost = [name for name, tensor in weights.items() if not bool(tensor.isfinite().all())]
    if lost:
        raise ConfigError(
            f"export.dtype={dtype} cannot hold {len(lost)} weights ({', '.join(lost[:3])}): values beyond "
            "its range turn to infinity, or were so before; set export.dtype=bfloat16"
        )


def refuse_used(output: Path) -> None:
    """Keeps an export from replacing a folder that may hold the only copy of something, such as a run.

    Raises:
        ConfigError: ``output`` is a file or holds anything.
    """
    if output.is_dir() and not any(output.iterdir()):
        return
    if output.exists():
        what = "holds files already" if output.is_dir() else "is a file"
        raise ConfigError(f"export.output={output} {what}; set export.output to a new or an empty folder")


def probe(model: PreTrainedModel, config: Config) -> list[list[int]]:
    """Greedy answers to a few fixed prompts."""
    tokenizer = load_tokenizer(config.model)
    prompts = [tokenizer.encode(text, add_special_tokens=False) for text in PROBES]
    engine = TransformersEngine(model, stop_ids=())
    return engine.generate(prompts, SamplingSettings(max_new_tokens=PROBE_TOKENS))
