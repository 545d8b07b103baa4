"""What answers depend on, as a few words that another process on another machine finds too."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medtune.config.schema import Config
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
        "prompts": digest(json.dumps(row, ensure_ascii=False).encode() for row in rows),
        "weights": weights_digest(config, weights),
        "model.dtype": config.model.dtype,
        "trainer.precision": config.trainer.precision,
        "quantization.name": config.quantization.name,
        "seed": config.seed,
        "stop tokens": sorted(responder.engine.stop_ids),
        **{f"generate.{key}": getattr(config.generate, key) for key in SETTINGS},
    }


def weights_digest(config: Config, weights: str | None) -> str:
    """Of a model's or adapter's files, by samples of their content; of the settings that draw random ones."""
    if weights is None and config.model.init == "random":
        drawn = {key: value for key, value in asdict(config.model).items() if key not in NO_WEIGHTS}
        return digest([json.dumps([drawn, config.seed], sort_keys=True).encode()])
    source = weights or str(config.model.path)
    folder = Path(source)
    if not folder.is_dir():  # a hub id
        return f"{source}@{config.model.revision}"
    found = digest(sampled(folder))
    base = read_settings(folder / ADAPTER_FILE).get("base_model_name_or_path") if is_adapter(folder) else None
    if base and Path(base).is_dir():
        return digest([found.encode(), *sampled(Path(base))])
    return digest([found.encode(), str(base).encode()]) if base else found


def sampled(folder: Path) -> Iterable[bytes]:
    """Name and size of each file of weights and settings, and pieces of it from start to end.

    The whole of a large model would take a minute to read for each of many processes; a model that was
    trained on differs nearly everywhere.
    """
    files = [*folder.glob("*.safetensors"), *folder.glob("*.bin"), folder / "config.json"]
    for file in sorted(path for path in files if path.is_file()):
        size = file.stat().st_size
        yield f"{file.name} {size}".encode()
        with file.open("rb") as stream:
            for piece in range(SAMPLES):
                stream.seek(piece * max(size - SAMPLE_BYTES, 0) // (SAMPLES - 1))
                yield stream.read(SAMPLE_BYTES)


def digest(pieces: Iterable[bytes]) -> str:
    """A short hash of some pieces, in their order."""
    found = hashlib.blake2b(digest_size=12)
    for piece in pieces:
        found.update(len(piece).to_bytes(8, "little") + piece)
    return found.hexdigest()
