"""The splits that a run learns from: every source prepared, duplicates marked, rows packed."""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtune.config.schema import Config, DataConfig, SourceConfig
from medtune.config.sources import sources_of, sources_with_split
from medtune.data.duplicates.dedup import DedupReport, mark_duplicates
from medtune.data.duplicates.held_out import Fingerprints, fingerprints_of_split, fingerprints_of_store
from medtune.data.fates import Fate
from medtune.data.parts import Part
from medtune.data.reading.splits import raw_records, reader_of, split_files
from medtune.data.rows.lengths import drop_unusable, key_of
from medtune.data.rows.split import PackedSplit
from medtune.data.tokens.content import content_of
from medtune.data.tokens.prepare import TokenizerSource, prepare_split
from medtune.data.tokens.store import DROPPED, TokenStore
from medtune.runtime.hardware import PROJECT

TRAIN, VALIDATION = "train", "validation"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus:
    """What a run learns from and is watched on.

    Attributes:
        splits: ``train``, and ``validation`` where there is one.
        duplicates: What was found twice.
    """

    splits: dict[str, PackedSplit]
    duplicates: DedupReport

    @property
    def pad_id(self) -> int:
        """The id that fills rows up; nothing reads it but the embedding."""
        return int(self.splits[TRAIN].parts[0].store.meta["pad_id"] or 0)

    def dropped(self) -> Iterator[dict[str, Any]]:
        """The records that an error or a filter left out: source, file, line, cause, reason."""
        stores = {
            part.store.folder: (part.name, part.store)
            for split in self.splits.values()
            for part in split.parts
            if part.store.meta["dropped"]
        }
        for name, store in stores.values():
            with (store.folder / DROPPED).open(encoding="utf-8") as file:
                yield from ({"source": name, **json.loads(line)} for line in file)


def build_corpus(config: Config, tokenizer: TokenizerSource) -> Corpus:
    """Prepares every source and packs the splits; the tokens come from the cache when they are there.

    Safe before any process group exists: one process tokenises, the others wait on a file lock.

    Raises:
        ValueError: A file or record cannot be used; names it.
    """
    data, cache = config.data, cache_folder(config.data)

    def prepared(source: SourceConfig, split: str) -> TokenStore:
        return prepare_split(source, split, config.template, tokenizer, cache, data.prepare_workers)

    train, validation = [], []
    for source in sources_of(data).values():
        part = part_of(source, TRAIN, prepared(source, TRAIN), objective_of(config, source))
        held = held_out(part, data)
        part.fates[held] = Fate.VALIDATION
        train.append(part)
        if VALIDATION in source.splits:
            store = prepared(source, VALIDATION)
            validation.append(part_of(source, VALIDATION, store, part.objective))
        elif held.any():
            validation.append(replace(part, fates=np.where(held, Fate.KEPT, Fate.TRAIN).astype(np.uint8)))
    for part in train:
        drop_unusable(part, data)
    shown = [part for part in train if not data.mix or 0 not in (part.source.weight, part.source.max_passes)]
    duplicates = mark_duplicates(shown, data, held_out_splits(data, validation, cache), contents, cache)
    return Corpus(pack_splits(config, train, validation), duplicates)


def build_split(config: Config, tokenizer: TokenizerSource, split: str) -> PackedSplit:
    """A split by itself, every document of it once: ``validation`` is what a run is watched on.

    In a mix it has parts of every source that has such a split; ``SOURCE/SPLIT`` is that of one. Texts are
    measured whole, dialogues by the objective.

    Raises:
        ValueError: As :func:`build_corpus`, or there is no such split.
    """
    data, parts = config.data, []
    for source, inner in sources_with_split(data, split):
        stored = inner if inner in source.splits or source.validation_size is None else TRAIN
        store = prepare_split(
            source, stored, config.template, tokenizer, cache_folder(data), data.prepare_workers
        )
        own = source.objective if data.mix else None
        objective = "pretrain" if is_text(source, stored) else own or config.objective
        part = part_of(source, stored, store, objective)
        if stored == TRAIN:
            held = held_out(part, data)
            part.fates[held if inner == TRAIN else ~held] = Fate.VALIDATION if inner == TRAIN else Fate.TRAIN
        parts.append(part)
    if not parts:
        raise ValueError(f"data={data.name} has no split {split!r}")
    return PackedSplit(parts, data, split, config.seed, is_train=False)


def part_of(source: SourceConfig, split: str, store: TokenStore, objective: str) -> Part:
    """A split of a source, all of it kept."""
    return Part(source.name, split, source, store, objective, np.zeros(len(store), dtype=np.uint8))


def cache_folder(data: DataConfig) -> Path:
    """Where tokenised data is kept."""
    return Path(data.cache_dir or PROJECT / "data" / "cache")


def pack_splits(config: Config, train: list[Part], validation: list[Part]) -> dict[str, PackedSplit]:
    """The rows of both splits."""
    data = config.data
    splits = {
        TRAIN: PackedSplit(
            train,
            data,
            TRAIN,
            config.seed,
            is_train=True,
            max_steps=config.trainer.max_steps,
            rows_per_step=data.global_batch_size,
        )
    }
    if validation:
        splits[VALIDATION] = PackedSplit(validation, data, VALIDATION, config.seed, is_train=False)
    return splits


def objective_of(config: Config, source: SourceConfig) -> str:
    """What is learned of a source: the run's objective; in a mix its own, and ``pretrain`` of texts.

    Raises:
        ValueError: Responses are to be learned of a text, which has none.
    """
    objective = source.objective if config.data.mix and source.objective else config.objective
    if objective == "pretrain" or not is_text(source, TRAIN):
        return objective
    if config.data.mix and source.objective is None:
        return "pretrain"
    key = f"data.sources.{source.name}.objective" if config.data.mix else "objective"
    raise ValueError(
        f"{key}=sft learns responses, but {source.name} ({source.splits.get(TRAIN, TRAIN)}) is text, which "
        f"has none; set {key}=pretrain"
    )


def is_text(source: SourceConfig, split: str) -> bool:
    """Whether a split of a source holds documents rather than prompts and responses."""
    if source.format != "auto":
        return source.format == "text"
    return reader_of(source, split, needs_response=True).format == "text"


def held_out(part: Part, data: DataConfig) -> NDArray[np.bool_]:
    """Which documents ``validation_size`` holds out, by their prompts alone.

    Equal prompts share a side, and no other record decides about a share; a number takes those with the
    smallest fingerprints.

    Raises:
        ValueError: Nothing would be left to learn.
    """
    size, count, key = part.source.validation_size, len(part.store), key_of(data, part, "validation_size")
    if not size or not count:
        return np.zeros(count, dtype=bool)
    held = smallest_prompts(part.store.prompts, size)
    if held.all():
        raise ValueError(
            f"{key}={size:.10g} leaves nothing of {part.name} to learn: it has {count} examples, and equal "
            "prompts stay together; choose less"
        )
    if not held.any():
        log.warning("data: %s=%.10g holds out none of the %d examples of %s", key, size, count, part.name)
    return held


def smallest_prompts(prompts: NDArray[np.uint64], size: float) -> NDArray[np.bool_]:
    """Those below a share of all possible fingerprints, or so many of the smallest and what equals them."""
    if size < 1:
        return np.asarray(prompts < np.uint64(int(size * 2**64)))
    place = min(int(size), len(prompts)) - 1
    return np.asarray(prompts <= np.partition(prompts, place)[place])


def held_out_splits(data: DataConfig, validation: list[Part], cache: Path) -> dict[str, Fingerprints]:
    """What training examples must not be in: the validation rows, and every other split that is on disk.

    Raises:
        ValueError: A record of ``data.eval_splits`` cannot be read; that of a split that nothing else needs
            is only told.
    """
    found = {}
    for part in validation:
        name = f"{part.name}/{VALIDATION}" if data.mix else VALIDATION
        found[name] = fingerprints_of_store(part.store, part.kept, partial(contents, part))
    for source in sources_of(data).values():
        for split in source.splits:
            if split in (TRAIN, VALIDATION) or not is_there(source, split):
                continue
            name = f"{source.name}/{split}" if data.mix else split
            try:
                found[name] = fingerprints_of_split(source, split, cache)
            except ValueError as error:
                if name in data.eval_splits:
                    raise
                log.warning("data: %s is not compared with training: %s", name, error)
    return found


def is_there(source: SourceConfig, split: str) -> bool:
    """Whether a split that nothing needs can be read."""
    if source.hub is not None:
        log.info("data: %s of %s, on the hub, is not compared with training", split, source.name)
        return False
    try:
        return bool(split_files(source, split))
    except ValueError as error:
        log.info("data: not compared with the training examples: %s", error)
        return False


def contents(part: Part) -> Iterator[str]:
    """The normalised words of each document of a part's store, read again from its source."""
    store, reader = part.store, reader_of(part.source, part.split, needs_response=True)
    names, index = store.files, 0
    for file, number, raw in raw_records(part.source, part.split):
        if index == len(store):
            return
        if (file, number) == (int(store.file_numbers[index]), int(store.lines[index])):
            yield content_of(reader.read(names[file], number, raw).turns)
            index += 1
