"""Tokenising a split once: the cache in front of :mod:`medtune.data.tokens.store`."""

import fcntl
import gc
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import islice, starmap
from pathlib import Path
from typing import IO, Any

from medtune.config.columns import FORMAT_COLUMNS
from medtune.config.schema import SourceConfig, TemplateConfig
from medtune.data.reading.splits import (
    file_names,
    raw_records,
    reader_of,
    split_digest,
    split_files,
    verify_files,
)
from medtune.data.tokens.encode import ChunkEncoder, EncodedChunk, Record, chunks_of
from medtune.data.tokens.pool import encode_chunks, workers_for
from medtune.data.tokens.store import META, StoreKey, TokenStore, damage_of, write_store
from medtune.data.tokens.templates import Template
from medtune.data.tokens.tokenizer_files import TokenizerSource, tokenizer_source
from medtune.data.tokens.vocabulary import verified, vocabulary_of
from medtune.runtime.errors import ConfigError
from medtune.runtime.progress import Advance, progress
from medtune.runtime.record import read_json

__all__ = ["TokenizerSource", "prepare_split", "tokenizer_source"]

ENCODER_VERSION = "2"  # raise it when the same input would give other ids, spans or fingerprints
RECORDS_COMPARED = 256  # on which a fast encoder is compared with the tokenizer itself at every build
CHARACTERS_COMPARED = 10_000  # of a text

log = logging.getLogger(__name__)


def prepare_split(
    source: SourceConfig,
    split: str,
    template: TemplateConfig,
    tokenizer: TokenizerSource,
    cache: Path,
    workers: int | None,
) -> TokenStore:
    """The tokens of a split, from the cache when they are there.

    Args:
        source: Where the records are and how they are read.
        split: Which of its splits.
        template: What is put around the turns.
        tokenizer: Loaded only when something has to be tokenised.
        cache: Folder of the stores.
        workers: Processes that tokenise. None: one per core for large files, else this one.

    Raises:
        ValueError: The split or a file is missing, a record cannot be read (names file and line), or the
            disk is full.
        ConfigError: The cache cannot be written, or the template does not go with the tokenizer.
    """
    verify_files(source, split)
    key = store_key(source, split, template, tokenizer.fingerprint)
    folder = cache / key.digest
    what = f"{split} of {source.name}"
    damage = damage_of(folder) if folder.exists() else None
    if folder.exists() and damage is None:  # whole since it was renamed: no lock, and nothing to write
        log.info("data: %s read from the cache (%s)", what, key.digest)
        return TokenStore(folder, file_names(source, split))
    with only_one_process(cache, key.digest, what):
        remove_leftovers(cache, key.digest)
        damage = damage_of(folder) if folder.exists() else None
        if folder.exists() and damage is None:
            log.info("data: %s read from the cache (%s)", what, key.digest)
        else:
            reason = f"the cache is damaged: {damage}" if damage else why_missing(cache, key)
            log.info("data: tokenising %s: %s", what, reason)
            build_store(folder, key, source, split, template, tokenizer, workers)
    return TokenStore(folder, file_names(source, split))


def store_key(
    source: SourceConfig, split: str, template: TemplateConfig, tokenizer_fingerprint: str
) -> StoreKey:
    """Fingerprints of everything that the store's content depends on, and of nothing else.

    Not of the folders the files lie in, nor of what is decided later: weights, lengths, packing, seed.
    """
    names = [Path(name).name for name in file_names(source, split)]
    # A hub data set would have to be opened for its format.
    format = source.format if source.hub else reader_of(source, split, needs_response=True).format
    columns, limits = asdict(source.columns), asdict(source.filter)
    read = FORMAT_COLUMNS.get(format, columns)
    reading = {
        "format": format,
        "columns": {name: column for name, column in columns.items() if name in read},
        "roles": source.roles,
        "learn": source.learn,
        "learn_thinking": source.learn_thinking,
        "filter": {name: limit for name, limit in limits.items() if limit is not None},
        "on_error": source.on_error,
        "max_examples": source.max_examples,
    }
    return StoreKey(
        {
            "files": json.dumps(names, ensure_ascii=False),
            "content": split_digest(source, split),
            **{
                name: json.dumps(value, sort_keys=True, ensure_ascii=False) for name, value in reading.items()
            },
            "template": json.dumps(rendering(template), sort_keys=True, ensure_ascii=False),
            "tokenizer": tokenizer_fingerprint,
            "encoder": ENCODER_VERSION,
        }
    )


def rendering(template: TemplateConfig) -> dict[str, Any]:
    """The keys of a template that ids depend on."""
    return {name: value for name, value in asdict(template).items() if name not in ("name", "stop")}


def build_store(
    folder: Path,
    key: StoreKey,
    source: SourceConfig,
    split: str,
    template: TemplateConfig,
    tokenizer: TokenizerSource,
    workers: int | None,
) -> None:
    """Reads, encodes and writes a split."""
    names = file_names(source, split)
    loaded = tokenizer.load()
    vocabulary = vocabulary_of(loaded)
    reader = reader_of(source, split, needs_response=True)
    encode = ChunkEncoder(reader, Template(template, vocabulary), source, names)
    vocabulary = verified(vocabulary, loaded, first_texts(encode, split))
    encode = replace(encode, template=Template(template, vocabulary))
    log.info("data: ids by %s", vocabulary.encoder)
    size = sum(path.stat().st_size for path in split_files(source, split))
    with rare_collections(), progress(f"tokenising {split} of {source.name}", unit="records") as advance:
        write_store(
            folder,
            key,
            encoded_chunks(encode, split, workers_for(size, workers), size, advance),
            files=names,
            eos_id=vocabulary.eos_id,
            about={"pad_id": vocabulary.pad_id, "encoder": vocabulary.encoder},
        )


@contextmanager
def rare_collections() -> Iterator[None]:
    """Has Python look for reference cycles rarely: tokenising makes none, and looking takes a tenth of it."""
    before = gc.get_threshold()
    gc.set_threshold(1_000_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def first_texts(encode: ChunkEncoder, split: str) -> list[str]:
    """What is said in the first records that can be read, long texts cut."""
    records = islice(raw_records(encode.source, split), RECORDS_COMPARED)
    lenient = replace(encode, source=replace(encode.source, on_error="skip"))
    examples = lenient.examples(starmap(Record, records), [])
    return [turn.text[:CHARACTERS_COMPARED] for _, example in examples for turn in example.turns]


def encoded_chunks(
    encode: ChunkEncoder, split: str, workers: int, size: int, advance: Advance
) -> Iterator[EncodedChunk]:
    """The chunks of a split, told to a progress bar as they come."""
    read = 0

    def seen(count: int) -> None:
        nonlocal read
        read += count

    records = islice(raw_records(encode.source, split, seen), encode.source.max_examples)
    for chunk in encode_chunks(encode, chunks_of(records), workers):
        yield chunk
        share = read / size if size else None
        advance(chunk.records, tokens=len(chunk.input_ids.values), share=share)


@contextmanager
def only_one_process(cache: Path, name: str, what: str) -> Iterator[None]:
    """Holds a file lock; the kernel lets go of it when its holder dies, however it dies.

    Raises:
        ConfigError: The cache cannot be written.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        file = lock_file(cache, name).open("w")
    except OSError as error:
        raise ConfigError(
            f"the token cache {cache} cannot be written: {error.strerror}; set data.cache_dir=DIR"
        ) from error
    with file:
        if not try_lock(file):
            log.info("data: another process is preparing %s; waiting for it", what)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def lock_file(cache: Path, name: str) -> Path:
    """The file that is locked while the store ``name`` is looked for or made."""
    return cache / f"{name}.lock"


def try_lock(file: IO[str]) -> bool:
    """Locks a file unless another process has."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def remove_leftovers(cache: Path, held: str) -> None:
    """Removes what killed preparations left behind: parts of stores that nobody holds the lock of.

    Args:
        cache: Folder of the stores.
        held: The store whose lock this process holds.
    """
    for left in [*cache.glob(".*.tmp"), *cache.glob(".*.old")]:
        name = left.name.split(".")[1]
        if name == held:
            shutil.rmtree(left, ignore_errors=True)
            continue
        with lock_file(cache, name).open("w") as file:
            if try_lock(file):
                shutil.rmtree(left, ignore_errors=True)


def why_missing(cache: Path, key: StoreKey) -> str:
    """What differs from the nearest cached store of files of the same names."""
    same_files = [parts for parts in stored_keys(cache) if parts.get("files") == key.parts["files"]]
    if not same_files:
        return "not prepared before"
    changes = [
        [name for name, value in key.parts.items() if parts.get(name) != value] for parts in same_files
    ]
    _, fewest = min((len(names), names) for names in changes)
    return f"changed since it was last prepared: {', '.join(fewest)}"


def stored_keys(cache: Path) -> Iterator[dict[str, str]]:
    """The keys of the stores in the cache; damaged ones are passed over."""
    for meta in cache.glob(f"[!.]*/{META}"):  # no part of one being written
        try:
            parts = read_json(meta)["key"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(parts, dict):
            yield parts
