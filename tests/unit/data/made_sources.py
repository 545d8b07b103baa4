"""Sources of a few records on disk, tokenised into real stores a character at a time."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medtune.config.schema import SourceConfig
from medtune.data.examples import Example
from medtune.data.parts import Part
from medtune.data.reading.splits import file_names, raw_records, reader_of
from medtune.data.tokens.content import content_of
from medtune.data.tokens.encode import EncodedChunk, Lists, fingerprints
from medtune.data.tokens.store import StoreKey, TokenStore, write_store

Record = tuple[str, str]


def write_records(path: Path, records: Sequence[Record]) -> None:
    """A file of prompt and response; an empty response is one that is withheld."""
    rows = [{"input": prompt, **({"target": response} if response else {})} for prompt, response in records]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def make_source(folder: Path, name: str, **splits: Sequence[Record]) -> SourceConfig:
    """A source whose splits are files."""
    for split, records in splits.items():
        write_records(folder / f"{name}-{split}.jsonl", records)
    files = {split: f"{name}-{split}.jsonl" for split in splits}
    return SourceConfig(name=name, dir=str(folder), splits=files, format="promptcblue")


def examples_of(source: SourceConfig, split: str) -> list[Example]:
    """What a split holds."""
    reader, names = reader_of(source, split, needs_response=True), file_names(source, split)
    return [reader.read(names[number], line, raw) for number, line, raw in raw_records(source, split)]


def make_split(source: SourceConfig, split: str, **settings: Any) -> Part:
    """A split with all of its documents kept."""
    examples = examples_of(source, split)
    content, prompts = fingerprints(examples)
    zeros = np.zeros(len(examples), dtype=np.int64)
    empty = Lists.of([[] for _ in examples])
    chunk = EncodedChunk(
        records=len(examples), dropped=[], spans=empty, relabels=empty, content=content, prompts=prompts,
        input_ids=Lists.of([list(map(ord, example.prompt)) for example in examples]),
        lines=np.array([example.line for example in examples], dtype=np.int64),
        files=zeros.astype(np.int32), samples=zeros.astype(np.uint64), responses=zeros.astype(np.int32) + 1,
    )  # fmt: skip
    path = Path(source.dir or "") / f"store-{source.name}-{split}"
    about = {"pad_id": 0, "encoder": "made"}
    write_store(path, StoreKey({}), [chunk], files=file_names(source, split), eos_id=None, about=about)
    store = TokenStore(path)
    return Part(source.name, split, source, store, "sft", np.zeros(len(store), np.uint8), **settings)


def texts_of(part: Part) -> Iterator[str]:
    """The normalised content of a part's documents, read again."""
    for example in examples_of(part.source, part.split):
        yield content_of(example.turns)
