"""What answers depend on, as a few words that another process on another machine finds too."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO

from medtune.config.schema import AdapterConfig, Config, ModelConfig
from medtune.data.examples import Example
from medtune.generation.responder import Question, Responder
from medtune.models.folders import ADAPTER_FILE, is_adapter, read_settings

SETTINGS = (
    *("max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "num_beams", "length_penalty"),
    *("choices", "overlong", "engine"),
)
"""Keys of ``generate`` that answers depend on; how many rows a batch holds is not among them."""
NO_WEIGHTS = ("name", "path", "tokenizer", "lora_targets", "gradient_checkpointing", "fused_kernels")
SAMPLES, SAMPLE_BYTES = 64, 1 << 14


def fingerprint(
    config: Config,
    responder: Responder,
    examples: Sequence[Example],
    questions: Sequence[Question],
    weights: str | None,
) -> dict[str, Any]:
    """By key, what all parts of one predictions file must agree in.

    Prompts are compared as the ids that the model is given, so template and tokenizer are in them.
    """
    rows = (
        [question.prompt.ids, example.record or example.prompt]
        for question, example in zip(questions, examples, strict=True)
    )
    return {
        "prompts": digest(json.dumps(row).encode() for row in rows),
        "weights": weights_digest(config, weights),
        "model.dtype": config.model.dtype,
        "trainer.precision": config.trainer.precision,
        **{f"quantization.{key}": value for key, value in asdict(config.quantization).items()},
        "seed": config.seed,
        "stop tokens": sorted(responder.engine.stop_ids),
        **{f"generate.{key}": getattr(config.generate, key) for key in SETTINGS},
        "generate.vllm": dict(config.generate.vllm) if config.generate.engine == "vllm" else {},
    }


def weights_digest(config: Config, weights: str | None) -> str:
    """Of a model's or adapter's files, by samples of their content; of the settings that draw random ones."""
    if weights is None:
        base = base_digest(config.model, config.seed)
        added = asdict(config.adapter)
        return base if added == asdict(AdapterConfig()) else digest([base.encode(), as_bytes(added)])
    folder = Path(weights)
    if not is_adapter(folder):
        return digest(sampled(folder))
    settings = dict(read_settings(folder / ADAPTER_FILE))
    named = settings.pop("base_model_name_or_path", None)  # a place, which is another on other machines
    model = config.model
    if model.path is None and model.init != "random":  # as it is loaded
        model = replace(model, path=named)
    return digest([*sampled(folder), as_bytes(settings), base_digest(model, config.seed).encode()])


def base_digest(model: ModelConfig, seed: int) -> str:
    """Of the configured model without an adapter."""
    if model.init == "random":
        drawn = {key: value for key, value in asdict(model).items() if key not in NO_WEIGHTS}
        return digest([as_bytes([drawn, seed])])
    folder = Path(str(model.path))
    if not folder.is_dir():  # a hub id
        return f"{model.path}@{model.revision}"
    stretched = [as_bytes(model.rope_scaling)] if model.rope_scaling else []
    return digest([*sampled(folder), *stretched])


def as_bytes(value: Any) -> bytes:
    """Plain values as bytes that do not depend on the order of their keys."""
    return json.dumps(value, sort_keys=True).encode()


def sampled(folder: Path) -> Iterable[bytes]:
    """Name and size of each file of weights and settings, and pieces of it: of each tensor, and throughout.

    The whole of a large model would take a minute to read for each of many processes; a model that was
    trained on differs nearly everywhere.
    """
    files = [*folder.glob("*.safetensors"), *folder.glob("*.bin"), folder / "config.json"]
    for file in sorted(path for path in files if path.is_file()):
        size = file.stat().st_size
        yield f"{file.name} {size}".encode()
        with file.open("rb") as stream:
            for start in [*tensor_starts(stream, size), *spread(size)]:
                stream.seek(start)
                yield stream.read(SAMPLE_BYTES)


def spread(size: int) -> list[int]:
    """Where pieces of a file of so many bytes begin, from its start to its end."""
    return [piece * max(size - SAMPLE_BYTES, 0) // (SAMPLES - 1) for piece in range(SAMPLES)]


def tensor_starts(stream: BinaryIO, size: int) -> list[int]:
    """Where each tensor of a safetensors file begins, since all but a few may have been frozen."""
    length = int.from_bytes(stream.read(8), "little")
    if not 0 < length <= size - 8:
        return []
    try:
        header = json.loads(stream.read(length))
        return sorted(8 + length + entry["data_offsets"][0] for entry in header.values() if "dtype" in entry)
    except (ValueError, TypeError, KeyError, AttributeError):  # of another format
        return []


def digest(pieces: Iterable[bytes]) -> str:
    """A short hash of some pieces, in their order."""
    found = hashlib.blake2b(digest_size=12)
    for piece in pieces:
        found.update(len(piece).to_bytes(8, "little") + piece)
    return found.hexdigest()
