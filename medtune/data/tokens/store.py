"""Tokens on disk: Arrow, memory-mapped, addressed by what they were made from."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from medtune.data.tokens.encode import Dropped, EncodedChunk, Lists
from medtune.runtime.record import read_json, whole_folder, write_json

INTEGERS = pa.large_list(pa.field("item", pa.int32(), nullable=False))
SCHEMA = pa.schema(
    [
        ("input_ids", INTEGERS),
        ("spans", INTEGERS),
        ("relabels", INTEGERS),
        ("line", pa.int64()),
        ("file", pa.int32()),
        ("content_0", pa.uint64()),
        ("content_1", pa.uint64()),
        ("prompt", pa.uint64()),
        ("sample", pa.uint64()),
        ("responses", pa.int32()),
    ]
)
TOKENS = "tokens.arrow"
DROPPED = "dropped.jsonl"
META = "meta.json"
BLOCK = 1 << 22
CHUNKS_PER_BATCH = 8  # opening a store costs time and mapped pages per batch, writing it memory


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
    """Encoded documents of one split of one source, read without copying.

    Documents are numbered in the order of the source. Everything that depends on the sequence length, the
    packing, the objective or a weight is decided by its users, so that changing one of these tokenises
    nothing.

    Attributes:
        folder: Where it lies.
        meta: ``records`` read = ``examples`` + the sum of ``dropped`` (by cause); ``tokens``;
            ``ends_with_eos``, the number of documents that do; ``pad_id``; ``encoder``, the library that made
            the ids and why not a faster one; ``key``, the fingerprints of what it was made from.
        files: The source's files by number.
    """

    def __init__(self, folder: Path, files: Sequence[str] | None = None) -> None:
        """Opens a store.

        Args:
            folder: As :func:`write_store` made it.
            files: Names of the source's files as messages show them. None: as they were when it was made.
        """
        self.folder = folder
        self.meta: dict[str, Any] = read_json(folder / META)
        self.files: list[str] = list(self.meta["files"] if files is None else files)
        reader = pa.ipc.open_file(pa.memory_map(str(folder / TOKENS)))
        self._batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])

    def __reduce__(self) -> tuple[type["TokenStore"], tuple[Path, list[str]]]:
        return TokenStore, (self.folder, self.files)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def digest(self) -> str:
        """Of the tokens and spans of all documents, as they were written."""
        return str(self.meta["digests"][TOKENS])

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document."""
        return np.concatenate([np.diff(offsets) for _, offsets in self._ids] or [np.zeros(0, np.int64)])

    @cached_property
    def lines(self) -> NDArray[np.int64]:
        """Line (in arrays and tables: number of the record) of each document in its file."""
        return self._column("line", np.int64)

    @cached_property
    def file_numbers(self) -> NDArray[np.int32]:
        """Which of ``files`` each document is from."""
        return self._column("file", np.int32)

    @cached_property
    def content(self) -> NDArray[np.uint64]:
        """Fingerprints of what each document says (``content.content_of``), shape [documents, 2]."""
        return np.stack([self._column("content_0", np.uint64), self._column("content_1", np.uint64)], axis=1)

    @cached_property
    def prompts(self) -> NDArray[np.uint64]:
        """Fingerprints of what is asked in each document (prompt_of)."""
        return self._column("prompt", np.uint64)

    @cached_property
    def samples(self) -> NDArray[np.uint64]:
        """Fingerprints of each record's ``sample_id``; 0 without one."""
        return self._column("sample", np.uint64)

    @cached_property
    def responses(self) -> NDArray[np.int32]:
        """Number of response turns of each document."""
        return self._column("responses", np.int32)

    def where(self, index: int) -> str:
        """``file:line`` of a document, as messages name it."""
        return f"{self.files[int(self.file_numbers[index])]}:{int(self.lines[index])}"

    def input_ids(self, index: int) -> NDArray[np.int32]:
        """Token ids of a document, a view of the mapped file."""
        return self._slice(self._ids, index)

    def spans(self, index: int) -> NDArray[np.int32]:
        """Learned spans of a document as pairs (start, end), shape [spans, 2]."""
        return self._slice(self._spans, index).reshape(-1, 2)

    def relabels(self, index: int) -> NDArray[np.int32]:
        """Positions whose label is not their id, as pairs (position, label id), shape [relabels, 2]."""
        return self._slice(self._relabels, index).reshape(-1, 2)

    @cached_property
    def span_table(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Every span of the store as (document, start, end), for counting without a loop."""
        documents = [np.zeros(0, dtype=np.int64)]
        flat = [np.zeros((0, 2), dtype=np.int64)]
        for first, (values, offsets) in zip(self._starts[:-1], self._spans, strict=True):
            documents.append(np.repeat(np.arange(len(offsets) - 1) + first, np.diff(offsets) // 2))
            flat.append(values[offsets[0] : offsets[-1]].reshape(-1, 2).astype(np.int64))
        table = np.concatenate(flat)
        return np.concatenate(documents), table[:, 0], table[:, 1]

    @cached_property
    def _ids(self) -> list[tuple[NDArray[np.int32], NDArray[np.int64]]]:
        return [list_views(batch, "input_ids") for batch in self._batches]

    @cached_property
    def _spans(self) -> list[tuple[NDArray[np.int32], NDArray[np.int64]]]:
        return [list_views(batch, "spans") for batch in self._batches]

    @cached_property
    def _relabels(self) -> list[tuple[NDArray[np.int32], NDArray[np.int64]]]:
        return [list_views(batch, "relabels") for batch in self._batches]

    def _column(self, name: str, dtype: Any) -> NDArray[Any]:
        parts = [flat_view(batch.column(name), dtype) for batch in self._batches]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)

    def _slice(
        self, columns: Sequence[tuple[NDArray[np.int32], NDArray[np.int64]]], index: int
    ) -> NDArray[np.int32]:
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        values, offsets = columns[part]
        row = index - int(self._starts[part])
        return values[offsets[row] : offsets[row + 1]]


def list_views(batch: pa.RecordBatch, name: str) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """(values, offsets) of a list column, both views of the mapped file."""
    column = batch.column(name)
    return flat_view(column.values, np.int32), flat_view(column.offsets, np.int64)


def flat_view(array: pa.Array, dtype: Any) -> NDArray[Any]:
    """A column of numbers without nulls as a view of the mapped file.

    Arrow's own to_numpy() imports pandas, for half a CPU-second.
    """
    _, values = array.buffers()
    if values is None:  # of no numbers at all
        return np.zeros(0, dtype=dtype)
    assert array.offset == 0  # a batch as it was written is no slice of another
    return np.frombuffer(values, dtype=dtype, count=len(array))


@dataclass
class Counts:
    """What a store's meta tells of its chunks.

    Attributes:
        records: Records read.
        examples: Documents stored.
        tokens: Their tokens.
        ends_with_eos: Documents whose last token is EOS.
        dropped: Records that became no document, by cause.
    """

    records: int = 0
    examples: int = 0
    tokens: int = 0
    ends_with_eos: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def add(self, chunk: EncodedChunk, eos_id: int | None) -> None:
        """Counts a chunk."""
        ids = chunk.input_ids
        self.records += chunk.records
        self.examples += len(chunk)
        self.tokens += len(ids.values)
        last = ids.values[ids.offsets[1:][np.diff(ids.offsets) > 0] - 1]
        self.ends_with_eos += 0 if eos_id is None else int((last == eos_id).sum())
        for record in chunk.dropped:
            self.dropped[record.cause] = self.dropped.get(record.cause, 0) + 1


def write_store(
    path: Path,
    key: StoreKey,
    chunks: Iterable[EncodedChunk],
    *,
    files: Sequence[str],
    eos_id: int | None,
    about: Mapping[str, Any],
) -> None:
    """Writes a store whole or not at all.

    Args:
        path: Folder to make.
        key: What the tokens are made from.
        chunks: Consumed as they come.
        files: Names of the source's files, by number.
        eos_id: For counting the documents that end with it.
        about: Further entries of the meta: ``pad_id``, ``encoder``.

    Raises:
        ValueError: The disk is full or cannot be written; nothing is left there.
    """
    counts = Counts()
    with whole_folder(path) as aside:
        with (
            pa.OSFile(str(aside / TOKENS), "wb") as sink,
            pa.ipc.new_file(sink, SCHEMA) as writer,
            (aside / DROPPED).open("w", encoding="utf-8") as dropped,
        ):
            waiting: list[pa.RecordBatch] = []
            for chunk in chunks:
                write_dropped(dropped, chunk.dropped, files)
                counts.add(chunk, eos_id)
                waiting.append(to_record_batch(chunk))
                if len(waiting) == CHUNKS_PER_BATCH:
                    write_together(writer, waiting)
                    waiting = []
            write_together(writer, waiting)
        meta = {**asdict(counts), **about, "files": list(files), "key": dict(key.parts)}
        digests = {name: file_digest(aside / name) for name in (TOKENS, DROPPED)}
        write_json(aside / META, {**meta, "digests": {**digests, META: meta_digest(meta)}})


def write_together(writer: pa.RecordBatchFileWriter, batches: Sequence[pa.RecordBatch]) -> None:
    """Writes batches as one."""
    table = pa.Table.from_batches(batches, schema=SCHEMA).combine_chunks()
    for batch in table.to_batches():
        if batch.num_rows:
            writer.write_batch(batch)


def to_record_batch(chunk: EncodedChunk) -> pa.RecordBatch:
    """One Arrow batch of a chunk."""
    columns = [
        list_column(chunk.input_ids),
        list_column(chunk.spans),
        list_column(chunk.relabels),
        *map(
            pa.array,
            (
                chunk.lines,
                chunk.files,
                chunk.content[:, 0],
                chunk.content[:, 1],
                chunk.prompts,
                chunk.samples,
                chunk.responses,
            ),
        ),
    ]
    return pa.record_batch(columns, schema=SCHEMA)


def list_column(rows: Lists) -> pa.Array:
    """A large_list<int32> column on the arrays as they are."""
    return pa.LargeListArray.from_arrays(pa.array(rows.offsets), pa.array(rows.values), type=INTEGERS)


def write_dropped(sink: IO[str], dropped: Iterable[Dropped], files: Sequence[str]) -> None:
    """Lists records that became no document, one JSON object a line."""
    for record in dropped:
        entry = {**asdict(record), "file": files[record.file]}
        sink.write(json.dumps(entry, ensure_ascii=False) + "\n")


def damage_of(folder: Path) -> str | None:
    """What is wrong with a store on disk; None: nothing. Reads all of it, at several gigabytes a second."""
    if not (folder / META).is_file():
        return f"{META} is missing"
    try:
        meta = read_json(folder / META)
        digests = meta.pop("digests")
        due = {name: str(digests[name]) for name in (META, TOKENS, DROPPED)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{META} cannot be read"
    try:
        found = {META: meta_digest(meta), **{name: file_digest(folder / name) for name in (TOKENS, DROPPED)}}
    except OSError:
        return "a file is missing"
    return next((f"{name} is not as it was written" for name in due if due[name] != found[name]), None)


def file_digest(path: Path) -> str:
    """XXH3-128 of a file's bytes."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def meta_digest(meta: Mapping[str, Any]) -> str:
    """XXH3-128 of what the meta says."""
    return str(xxhash.xxh3_128_hexdigest(json.dumps(meta, sort_keys=True).encode()))
