"""What is asked and said in splits that training must not see."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import compress, islice
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from medtune.config.schema import SourceConfig
from medtune.data.examples import Example
from medtune.data.reading.splits import file_names, raw_records, reader_of, split_digest
from medtune.data.tokens.array_cache import Arrays, cached_arrays
from medtune.data.tokens.content import content_of
from medtune.data.tokens.encode import fingerprints
from medtune.data.tokens.store import TokenStore

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
Texts = Callable[[], Iterator[str]]

VERSION = 1  # of the cached arrays
RECORDS_AT_ONCE = 2048
READING = ("format", "columns", "roles", "max_examples", "on_error")  # settings that decide about content


@dataclass(frozen=True)
class Fingerprints:
    """A held-out split, as duplicates are told by.

    Attributes:
        content: Of what each of its examples says, [examples, 2], as in the token store.
        prompts: Of what is asked.
        files: Names of its files.
        file_numbers: Which of them each example is from.
        lines: Its place there.
        texts: Reads the normalised content of the examples again, in their order. None: it cannot be read,
            and the split is compared by its fingerprints only.
    """

    content: Words
    prompts: Words
    files: Sequence[str]
    file_numbers: Ints
    lines: Ints
    texts: Texts | None = None

    def __len__(self) -> int:
        return len(self.content)

    def where(self, index: int) -> str:
        """``file:line`` of an example."""
        return f"{self.files[int(self.file_numbers[index])]}:{int(self.lines[index])}"


def fingerprints_of_store(
    store: TokenStore, documents: Ints | None = None, texts: Texts | None = None
) -> Fingerprints:
    """The fingerprints of a tokenised split.

    Args:
        store: Its tokens.
        documents: Those that are held out, ascending. None: all.
        texts: Reads the normalised content of all documents of the store.
    """
    chosen = np.arange(len(store)) if documents is None else np.asarray(documents)
    is_chosen = np.zeros(len(store), dtype=np.bool_)
    is_chosen[chosen] = True
    return Fingerprints(
        store.content[chosen],
        store.prompts[chosen],
        store.files,
        store.file_numbers[chosen].astype(np.int64),
        store.lines[chosen],
        None if texts is None else partial(chosen_texts, texts, is_chosen),
    )


def chosen_texts(texts: Texts, is_chosen: NDArray[np.bool_]) -> Iterator[str]:
    """Some of the texts."""
    return compress(texts(), is_chosen.tolist())


def fingerprints_of_split(source: SourceConfig, split: str, cache: Path) -> Fingerprints:
    """The fingerprints of a split that is not tokenised; answers may be withheld.

    They are kept under ``cache``, by the content of the files and how they are read.

    Raises:
        ValueError: There is no such split, or a record cannot be read; names file and line.
    """
    name = f"held-out-{split_key(source, split)}"
    arrays = cached_arrays(cache, name, f"{source.name}/{split}", partial(read_fingerprints, source, split))
    return Fingerprints(
        arrays["content"],
        arrays["prompts"],
        file_names(source, split),
        arrays["file_numbers"],
        arrays["lines"],
        partial(split_texts, source, split),
    )


def split_key(source: SourceConfig, split: str) -> str:
    """Tells splits apart by their content and how they are read."""
    settings = {name: value for name, value in asdict(source).items() if name in READING}
    key = f"{VERSION} {split_digest(source, split)} {sorted(settings.items())}"
    return xxhash.xxh3_128_hexdigest(key.encode())


def read_fingerprints(source: SourceConfig, split: str) -> Arrays:
    """Reads a split once."""
    content, prompts = [np.zeros((0, 2), np.uint64)], [np.zeros(0, np.uint64)]
    places: list[tuple[int, int]] = []
    for chunk in chunks(split_records(source, split)):
        words, asked = fingerprints([example for _, example in chunk])
        content.append(words)
        prompts.append(asked)
        places.extend((number, example.line) for number, example in chunk)
    table = np.array(places, dtype=np.int64).reshape(-1, 2)
    return {
        "content": np.concatenate(content),
        "prompts": np.concatenate(prompts),
        "file_numbers": table[:, 0],
        "lines": table[:, 1],
    }


def chunks(records: Iterator[tuple[int, Example]]) -> Iterator[list[tuple[int, Example]]]:
    """Some records at a time."""
    while chunk := list(islice(records, RECORDS_AT_ONCE)):
        yield chunk


def split_texts(source: SourceConfig, split: str) -> Iterator[str]:
    """The normalised content of a split's examples."""
    for _, example in split_records(source, split):
        yield content_of(example.turns)


def split_records(source: SourceConfig, split: str) -> Iterator[tuple[int, Example]]:
    """(file number, example) of a split, without its answers where they are withheld.

    With ``on_error=skip`` what cannot be read is passed over; generation, which needs it, will tell.
    """
    reader, names = reader_of(source, split, needs_response=False), file_names(source, split)
    for number, line, raw in islice(raw_records(source, split), source.max_examples):
        try:
            example = reader.read(names[number], line, raw)
        except ValueError:
            if source.on_error != "skip":
                raise
            continue
        yield number, example
