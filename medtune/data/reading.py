"""From a source's settings to its examples: which files, which format, which records."""

import difflib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from medtune.config.schema import DataConfig, SourceConfig
from medtune.config.sources import source_of_split
from medtune.data.examples import Example
from medtune.data.files import file_type, list_files, sha1_of
from medtune.data.formats import Reader, detect_format
from medtune.data.records import Raw, parse_record, read_raw


def split_path(source: SourceConfig, split: str) -> Path:
    """What a split's setting names: a file, folder or pattern.

    Raises:
        ValueError: There is no such split; names those there are.
    """
    if split not in source.splits:
        near = difflib.get_close_matches(split, list(source.splits), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join(source.splits) or "none"
        raise ValueError(f"data={source.name} has no split {split!r}, only {known}{hint}")
    return Path(source.dir or ".") / source.splits[split]


def split_files(source: SourceConfig, split: str) -> list[Path]:
    """The files of a split; none where it is read from the hub.

    Raises:
        ValueError: There is no such split, or no such file.
    """
    return [] if source.hub else list_files(split_path(source, split))


def file_names(source: SourceConfig, split: str) -> list[str]:
    """What examples of a split name as their file, by file number."""
    return [str(path) for path in split_files(source, split)]


def raw_records(
    source: SourceConfig, split: str, seen: Callable[[int], None] | None = None
) -> Iterator[tuple[int, int, Raw]]:
    """Yields (file number, line, record) of a split; see :func:`~medtune.data.records.read_raw`."""
    for index, path in enumerate(split_files(source, split)):
        for number, raw in read_raw(path, seen):
            yield index, number, raw


def reader_of(source: SourceConfig, split: str, *, needs_response: bool) -> Reader:
    """The reader of a split's records; ``data.format=auto`` is told from the first."""
    return reader_of_file(split_files(source, split)[0], source, needs_response=needs_response)


def reader_of_file(path: Path, source: SourceConfig, *, needs_response: bool) -> Reader:
    """As :func:`reader_of`, of a file."""
    format = source.format
    if format == "auto":
        if file_type(path) == "txt":
            format = "text"
        else:
            number, raw = next(iter(read_raw(path)))
            where = f"{path}:{number}"
            format = detect_format(parse_record(raw, where), source.columns, where)
    return Reader(source, needs_response=needs_response, format=format)


def verify_files(source: SourceConfig, split: str) -> None:
    """Compares a split's file with ``data.sha1``, unless ``data.verify`` is off.

    Raises:
        ValueError: They differ.
    """
    due = source.sha1.get(split)
    files = split_files(source, split)
    if not due or not source.verify or len(files) != 1:
        return
    found = sha1_of(files[0])
    if found != due.lower():
        raise ValueError(
            f"{files[0]}: its SHA-1 is {found}, but data.sha1.{split} says {due}: another version of the file, "
            "or a damaged one; get it again, or set data.verify=false"
        )


def read_examples(path: Path, source: SourceConfig, *, needs_response: bool) -> Iterator[Example]:
    """Reads a file, folder or pattern in ``data.format``, at most ``data.max_examples`` of it.

    Args:
        path: What is read, in place of a split.
        source: Format, columns, limit.
        needs_response: Refuse examples without a response.

    Raises:
        ValueError: A record that is not in the format; names file, line and field.
    """
    files = list_files(path)
    reader = reader_of_file(files[0], source, needs_response=needs_response)
    examples = (reader.read(str(file), number, raw) for file in files for number, raw in read_raw(file))
    return islice(examples, source.max_examples)


def split_examples(data: DataConfig, split: str, *, needs_response: bool) -> Iterator[Example]:
    """Reads a split (in a mix ``source/split``), at most its ``max_examples``, without ``data.filter``.

    Raises:
        ValueError: As :func:`read_examples`.
    """
    source, inner = source_of_split(data, split)
    names = file_names(source, inner)
    reader = reader_of(source, inner, needs_response=needs_response)
    examples = (reader.read(names[index], line, raw) for index, line, raw in raw_records(source, inner))
    return islice(examples, source.max_examples)
