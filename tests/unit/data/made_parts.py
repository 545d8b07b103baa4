"""Parts of a split over small real stores, written from token ids and spans."""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medtune.config.schema import SourceConfig
from medtune.data.parts import Part
from medtune.data.tokens.encode import EncodedChunk, Lists
from medtune.data.tokens.store import StoreKey, TokenStore, write_store

VOCABULARY = 90


@dataclass(frozen=True)
class Document:
    """A document as the store keeps it."""

    ids: list[int]
    spans: list[tuple[int, int]] = field(default_factory=list)
    relabels: list[tuple[int, int]] = field(default_factory=list)
    responses: int = 1


def plain(length: int, learned: int = 1) -> Document:
    """A document whose last ``learned`` tokens are its response; ids tell the place in it."""
    return Document([4 + place % VOCABULARY for place in range(length)], [(length - learned, length)])


def make_store(documents: Sequence[Document], name: str = "made") -> TokenStore:
    """A store with a document per line; two of equal ids have equal contents."""
    count = len(documents)
    flat = [[bound for span in document.spans for bound in span] for document in documents]
    relabels = [[number for pair in document.relabels for number in pair] for document in documents]
    hashes = [hashlib.sha256(repr(document.ids).encode()).digest()[:16] for document in documents]
    content = np.frombuffer(b"".join(hashes), dtype=np.uint64).reshape(count, 2)
    chunk = EncodedChunk(
        records=count,
        dropped=[],
        input_ids=Lists.of([document.ids for document in documents]),
        spans=Lists.of(flat),
        relabels=Lists.of(relabels),
        lines=np.arange(count, dtype=np.int64) + 1,
        files=np.zeros(count, dtype=np.int32),
        content=content,
        prompts=content[:, 0],
        samples=np.zeros(count, dtype=np.uint64),
        responses=np.array([document.responses for document in documents], dtype=np.int32),
    )
    about = {"pad_id": 0, "encoder": "made"}
    with tempfile.TemporaryDirectory() as folder:  # the mapped file outlives its name
        path = Path(folder) / "store"
        write_store(path, StoreKey({}), [chunk], files=[f"{name}.jsonl"], eos_id=3, about=about)
        return TokenStore(path)


def make_part(
    documents: Sequence[Document], name: str = "made", objective: str = "sft", **source: Any
) -> Part:
    """A part whose documents are all kept; ``source`` are its settings."""
    store = make_store(documents, name)
    settings = SourceConfig(name=name, **source)
    return Part(name, "train", settings, store, objective, np.zeros(len(store), dtype=np.uint8))
