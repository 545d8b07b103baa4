"""Tokenising a split once: the cache in front of :mod:`medtune.data.store`."""

import fcntl
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from medtune.config.schema import DataConfig, TemplateConfig
from medtune.data.formats import read_examples, split_path
from medtune.data.sources import open_bytes
from medtune.data.store import META, StoreKey, TokenStore, is_whole, write_store
from medtune.data.templates import Encoded, Template
from medtune.runtime.errors import ConfigError
from medtune.runtime.hardware import PROJECT
from medtune.runtime.progress import progress
from medtune.runtime.record import read_json

ENCODER_VERSION = "1"  # raise it when the same input would give other ids or spans
BATCH = 1024

log = logging.getLogger(__name__)


def prepare_split(
    data: DataConfig, template: TemplateConfig, tokenizer: PreTrainedTokenizerBase, split: str
) -> TokenStore:
    """The tokens of a split, from the cache when they are there.

    Raises:
        ValueError: The split or its file is missing, or a record cannot be read; names file and line.
    """
    path = split_path(data, split)
    key = store_key(path, data, template, tokenizer)
    cache = Path(data.cache_dir or PROJECT / "data" / "cache")
    folder = cache / key.digest
    with only_one_process(cache / f"{key.digest}.lock"):
        if is_whole(folder):
            log.info("data: %s of %s read from the cache (%s)", split, data.name, key.digest)
        else:
            for left in cache.glob(f".{key.digest}.*.tmp"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            log.info("data: tokenising %s of %s: %s", split, data.name, why_missing(cache, key))
            write_store(folder, key, encode_file(path, data, Template(template, tokenizer)))
    return TokenStore(folder)


@contextmanager
def only_one_process(lock: Path) -> Iterator[None]:
    """Holds a file lock; the kernel lets go of it when its holder dies, however it dies.

    Raises:
        ConfigError: The cache cannot be written.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        raise ConfigError(
            f"the token cache {lock.parent} cannot be written: {error.strerror}; set data.cache_dir=DIR"
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def store_key(
    path: Path, data: DataConfig, template: TemplateConfig, tokenizer: PreTrainedTokenizerBase
) -> StoreKey:
    """Fingerprints of everything that the ids depend on, and of nothing else."""
    reading = {"format": data.format, "columns": asdict(data.columns), "max_examples": data.max_examples}
    return StoreKey(
        {
            "file": str(path.name),
            "content": file_digest(path),
            "reading": json.dumps(reading, sort_keys=True),
            "template": json.dumps(asdict(template), sort_keys=True, ensure_ascii=False),
            "tokenizer": tokenizer_fingerprint(tokenizer),
            "encoder": ENCODER_VERSION,
        }
    )


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open_bytes(path):  # raises the message for a missing file
        pass
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of what a tokenizer is: its whole backend, or its vocabulary where it has none to show."""
    if tokenizer.is_fast:
        definition = tokenizer.backend_tokenizer.to_str().encode()
    elif hasattr(tokenizer, "sp_model"):
        definition = tokenizer.sp_model.serialized_model_proto()
    else:
        definition = json.dumps(tokenizer.get_vocab(), sort_keys=True).encode()
    special = json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str).encode()
    return hashlib.sha256(definition + type(tokenizer).__name__.encode() + special).hexdigest()


def why_missing(cache: Path, key: StoreKey) -> str:
    """What differs from the nearest cached store of the same file."""
    stored = [read_json(meta)["key"] for meta in cache.glob(f"[!.]*/{META}")]  # no part of one being written
    same_file = [parts for parts in stored if parts.get("file") == key.parts["file"]]
    if not same_file:
        return "not prepared before"
    changes = [[name for name, value in key.parts.items() if parts.get(name) != value] for parts in same_file]
    _, fewest = min((len(names), names) for names in changes)
    return f"changed since it was last prepared: {', '.join(fewest)}"


def encode_file(
    path: Path, data: DataConfig, template: Template
) -> Iterator[tuple[Sequence[Encoded], Sequence[int]]]:
    """Encodes a file batch by batch, with progress."""
    examples = read_examples(path, data, needs_response=True)
    with progress(f"tokenising {path.name}", unit="examples") as advance:
        while batch := list(islice(examples, BATCH)):
            yield template.encode(batch), [example.line for example in batch]
            advance(len(batch))
