"""Tokens on disk: Arrow, memory-mapped, addressed by what they were made from."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from medtune.data.templates import Encoded
from medtune.runtime.record import read_json, whole_folder, write_json

INTEGERS = pa.large_list(pa.field("item", pa.int32(), nullable=False))
SCHEMA = pa.schema([("input_ids", INTEGERS), ("spans", INTEGERS), ("line", pa.int64())])
TOKENS = "tokens.arrow"
META = "meta.json"


@dataclass(frozen=True)
class StoreKey:
    """What a store was made from; equal keys mean equal tokens.

    Attributes:
        parts: Name to fingerprint, kept beside the tokens so that a miss can say what changed.
    """

    parts: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Name of the cache folder."""
        return hashlib.sha256(json.dumps(dict(self.parts), sort_keys=True).encode()).hexdigest()[:20]


class TokenStore:
    """Encoded examples of one file, read without copying.

    Indices are those of the file's examples. Everything that depends on the sequence length, the
    packing, the objective or a weight is decided by its users, so that changing one of these
    tokenises nothing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta: dict[str, Any] = read_json(folder / META)
        reader = pa.ipc.open_file(pa.memory_map(str(folder / TOKENS)))
        batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        self._ids = [column_views(batch, "input_ids") for batch in batches]
        self._spans = [column_views(batch, "spans") for batch in batches]
        self._lines = [batch.column("line").to_numpy() for batch in batches]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each example."""
        return np.concatenate([np.diff(offsets) for _, offsets in self._ids])

    @cached_property
    def lines(self) -> NDArray[np.int64]:
        """Line in the source file of each example."""
        return np.concatenate(self._lines)

    def input_ids(self, index: int) -> NDArray[np.int32]:
        """Token ids of an example, a view of the mapped file."""
        return self._slice(self._ids, index)

    def spans(self, index: int) -> NDArray[np.int32]:
        """Learned spans of an example as pairs (start, end), shape [spans, 2]."""
        return self._slice(self._spans, index).reshape(-1, 2)

    @cached_property
    def span_table(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Every span of the store as (example, start, end), for counting without a loop."""
        examples, flat = [], []
        for first, (values, offsets) in zip(self._starts[:-1], self._spans, strict=True):
            examples.append(np.repeat(np.arange(len(offsets) - 1) + first, np.diff(offsets) // 2))
            flat.append(values[offsets[0] : offsets[-1]].reshape(-1, 2).astype(np.int64))
        table = np.concatenate(flat)
        return np.concatenate(examples), table[:, 0], table[:, 1]

    def _slice(self, columns: Sequence[tuple[NDArray[Any], NDArray[Any]]], index: int) -> NDArray[Any]:
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        values, offsets = columns[part]
        row = index - int(self._starts[part])
        return values[offsets[row] : offsets[row + 1]]


def column_views(batch: pa.RecordBatch, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """(values, offsets) of a list column, both views of the mapped file."""
    column = batch.column(name)
    return column.values.to_numpy(), column.offsets.to_numpy()


def write_store(
    path: Path, key: StoreKey, batches: Iterable[tuple[Sequence[Encoded], Sequence[int]]]
) -> None:
    """Writes a store whole or not at all.

    Args:
        path: Folder to make.
        key: What the tokens are made from.
        batches: (encoded examples, their source lines), consumed as they come.
    """
    count = tokens = 0
    with whole_folder(path) as aside:
        with pa.OSFile(str(aside / TOKENS), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            for encoded, lines in batches:
                writer.write_batch(to_record_batch(encoded, lines))
                count += len(encoded)
                tokens += sum(len(example.input_ids) for example in encoded)
        write_json(aside / META, {"examples": count, "tokens": tokens, "key": dict(key.parts)})


def to_record_batch(encoded: Sequence[Encoded], lines: Sequence[int]) -> pa.RecordBatch:
    """One Arrow batch of encoded examples."""
    spans = [[bound for span in example.spans for bound in span] for example in encoded]
    columns = [
        list_column([example.input_ids for example in encoded]),
        list_column(spans),
        pa.array(lines, type=pa.int64()),
    ]
    return pa.record_batch(columns, schema=SCHEMA)


def list_column(rows: Sequence[Sequence[int]]) -> pa.Array:
    """A large_list<int32> column, built from flat arrays: several times faster than from nested lists."""
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    values = np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=int(offsets[-1]))
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values), type=INTEGERS)


def is_whole(folder: Path) -> bool:
    """Whether a cache folder holds a finished store."""
    return (folder / META).is_file() and (folder / TOKENS).is_file()
