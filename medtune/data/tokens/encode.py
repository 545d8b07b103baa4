"""From raw records to flat arrays of tokens, a chunk at a time: the work of one tokenising process.

Nothing here needs Arrow, torch or transformers, so that a process that does it starts in a moment.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtune.config.schema import FilterConfig, SourceConfig
from medtune.data.examples import Example
from medtune.data.reading.filters import rejection
from medtune.data.reading.formats import Reader
from medtune.data.reading.records import Raw
from medtune.data.tokens.content import fingerprint, normalised
from medtune.data.tokens.segments import Encoded
from medtune.data.tokens.templates import Template

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Words = NDArray[np.uint64]

RECORDS_PER_CHUNK = 2048
CHARACTERS_PER_CHUNK = 1 << 19  # of raw text; ids as Python integers take up to 36 bytes each

ERROR = "error"  # cause of a record that cannot be read


@dataclass(frozen=True)
class Record:
    """A record as read from the source.

    Attributes:
        file: Number of its file.
        line: Its place there.
        raw: Not parsed yet.
    """

    file: int
    line: int
    raw: Raw


@dataclass(frozen=True)
class Dropped:
    """A record that is not in the store.

    Attributes:
        file: Number of its file.
        line: Its place there.
        cause: A fixed word: ``error``, or the key of ``data.filter`` that it breaks.
        reason: What a user needs to find and repair it.
    """

    file: int
    line: int
    cause: str
    reason: str


@dataclass(frozen=True)
class Lists:
    """Rows of integers of any length, end to end.

    Attributes:
        values: Of all rows.
        offsets: Where each row begins, and one past the last.
    """

    values: Ints
    offsets: Longs

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> "Lists":
        """Flattens rows."""
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        values = np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=int(offsets[-1]))
        return cls(values, offsets)


@dataclass(frozen=True)
class EncodedChunk:
    """Documents of consecutive records, as the store keeps them.

    Attributes:
        records: Number of records read, dropped ones included.
        dropped: Those that became no document.
        input_ids: Token ids.
        spans: Learned spans, flat (start, end) pairs.
        relabels: Flat (position, label) pairs.
        lines: Place in the file.
        files: Number of the file.
        content: 16 bytes of fingerprint of the normalised content, [documents, 2].
        prompts: Fingerprint of what is asked.
        samples: Fingerprint of ``sample_id``; 0 without one.
        responses: Number of response turns.
    """

    records: int
    dropped: list[Dropped]
    input_ids: Lists
    spans: Lists
    relabels: Lists
    lines: Longs
    files: Ints
    content: Words
    prompts: Words
    samples: Words
    responses: Ints

    def __len__(self) -> int:
        return len(self.lines)


@dataclass(frozen=True)
class ChunkEncoder:
    """Everything that turning records into tokens takes; it can be sent to another process.

    Attributes:
        reader: Record to example.
        template: Example to ids.
        source: What is left out, and how an unreadable record is taken.
        names: The files by number, for messages.
    """

    reader: Reader
    template: Template
    source: SourceConfig
    names: Sequence[str]

    def __call__(self, records: Sequence[Record]) -> EncodedChunk:
        """Encodes a chunk.

        Raises:
            ValueError: A record cannot be read, and ``on_error`` is ``raise``; names file and line.
        """
        dropped: list[Dropped] = []
        kept = [*self.examples(records, dropped)]
        encoded = self.encode([example for _, example in kept])
        rows = []
        for (record, example), row in zip(kept, encoded, strict=True):
            if isinstance(row, str):
                dropped.append(Dropped(record.file, record.line, ERROR, row))
            else:
                rows.append((record, example, row))
        dropped.sort(key=lambda entry: (entry.file, entry.line))
        return to_chunk(len(records), dropped, rows)

    def examples(self, records: Iterable[Record], dropped: list[Dropped]) -> Iterator[tuple[Record, Example]]:
        """The examples that are readable and wanted; the others are added to ``dropped``."""
        filters = self.source.filter
        is_filtered = filters != FilterConfig(language=filters.language)
        for record in records:
            try:
                example = self.reader.read(self.names[record.file], record.line, record.raw)
            except ValueError as error:
                if self.source.on_error == "raise":
                    raise
                dropped.append(Dropped(record.file, record.line, ERROR, self.reason(record, error)))
                continue
            cause = rejection(example.turns, filters) if is_filtered else None
            if cause is not None:
                value = getattr(filters, cause)
                dropped.append(Dropped(record.file, record.line, cause, f"data.filter.{cause}={value}"))
            else:
                yield record, example

    def encode(self, examples: Sequence[Example]) -> list[Encoded | str]:
        """The ids of each example, or why it has none."""
        try:
            return [*self.template.encode(examples, learn_thinking=self.source.learn_thinking)]
        except ValueError:
            found = [self.encode_one(example) for example in examples]
        for example, row in zip(examples, found, strict=True):
            if isinstance(row, str) and self.source.on_error == "raise":
                raise ValueError(f"{example.where}: {row}")
        return found

    def encode_one(self, example: Example) -> Encoded | str:
        """The ids of one example, or why it has none."""
        try:
            return self.template.encode([example], learn_thinking=self.source.learn_thinking)[0]
        except ValueError as error:
            return str(error).removeprefix(f"{example.where}: ")

    def reason(self, record: Record, error: ValueError) -> str:
        """An error's message without the place, which stands beside it."""
        return str(error).removeprefix(f"{self.names[record.file]}:{record.line}: ")


def to_chunk(
    count: int, dropped: list[Dropped], rows: Sequence[tuple[Record, Example, Encoded]]
) -> EncodedChunk:
    """The arrays of a chunk of ``count`` records."""
    content, prompts = fingerprints([example for _, example, _ in rows])
    return EncodedChunk(
        records=count,
        dropped=dropped,
        input_ids=Lists.of([row.input_ids for *_, row in rows]),
        spans=Lists.of([[*chain.from_iterable(row.spans)] for *_, row in rows]),
        relabels=Lists.of([[*chain.from_iterable(row.relabels)] for *_, row in rows]),
        lines=np.array([record.line for record, *_ in rows], dtype=np.int64),
        files=np.array([record.file for record, *_ in rows], dtype=np.int32),
        content=content,
        prompts=prompts,
        samples=np.array([sample_of(example) for _, example, _ in rows], dtype=np.uint64),
        responses=np.array([responses_of(example) for _, example, _ in rows], dtype=np.int32),
    )


def fingerprints(examples: Sequence[Example]) -> tuple[Words, Words]:
    """Of each example's content and prompt, as ``content`` defines them; each turn is normalised once."""
    contents, prompts = [], []
    for example in examples:
        words = [(turn.role, normalised(turn.text)) for turn in example.turns if turn.role != "system"]
        contents.append(fingerprint("\n".join(text for _, text in words)))
        prompts.append(fingerprint("\n".join(text for role, text in words if role != "response"))[:8])
    content = np.frombuffer(b"".join(contents), dtype=np.uint64).reshape(-1, 2)
    return content, np.frombuffer(b"".join(prompts), dtype=np.uint64)


def sample_of(example: Example) -> int:
    """8 bytes of fingerprint of the record's ``sample_id``; 0 without one."""
    sample = example.record.get("sample_id")
    return 0 if sample is None else int.from_bytes(fingerprint(str(sample))[:8], "little")


def responses_of(example: Example) -> int:
    """How many turns of an example are responses."""
    return sum(turn.role == "response" for turn in example.turns)


def chunks_of(records: Iterable[tuple[int, int, Raw]]) -> Iterator[list[Record]]:
    """Cuts records into chunks, by their number and size alone: the same ones wherever they are encoded."""
    chunk: list[Record] = []
    characters = 0
    for file, line, raw in records:
        chunk.append(Record(file, line, raw))
        characters += size_of(raw)
        if len(chunk) == RECORDS_PER_CHUNK or characters >= CHARACTERS_PER_CHUNK:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def size_of(raw: Any) -> int:
    """About how many characters a record has."""
    if isinstance(raw, bytes | str):
        return len(raw)
    if isinstance(raw, dict):
        return sum(map(size_of, raw.values()))
    return sum(map(size_of, raw)) if isinstance(raw, list | tuple) else 8
