"""From a source's settings to its examples: which files, which format, which records."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from medtune.config.schema import DataConfig, SourceConfig
from medtune.config.sources import source_of_split
from medtune.config.suggest import did_you_mean, nearest
from medtune.data.examples import Example
from medtune.data.reading.files import file_type, files_digest, list_files, sha1_of
from medtune.data.reading.formats import Reader, detect_format
from medtune.data.reading.hub import hub_digest, hub_name, hub_records
from medtune.data.reading.raw import Raw, parse_record
from medtune.data.reading.records import read_raw


def split_path(source: SourceConfig, split: str) -> Path:
    """What a split's setting names: a file, folder or pattern.

    Raises:
        ValueError: There is no such split; names those there are.
    """
    check_split(source, split)
    return Path(source.dir or ".") / source.splits[split]


def check_split(source: SourceConfig, split: str) -> None:
    """Raises ValueError where there is no such split; without ``data.splits`` a hub data set has its own."""
    if split in source.splits or (source.hub and not source.splits):
        return
    near = nearest(split, source.splits)
    known = ", ".join(source.splits) or "none"
    raise ValueError(
        f"data={source.name} has no split {split!r}, only {known}{did_you_mean(repr(near) if near else None)}"
    )


def split_files(source: SourceConfig, split: str) -> list[Path]:
    """The files of a split, in the order they are read; none where it is read from the hub.

    Raises:
        ValueError: There is no such split, or no such file.
    """
    check_split(source, split)
    return [] if source.hub else list_files(split_path(source, split))


def file_names(source: SourceConfig, split: str) -> list[str]:
    """What examples of a split name as their file, by file number."""
    check_split(source, split)
    return [hub_name(source, split)] if source.hub else list(map(str, split_files(source, split)))


def split_digest(source: SourceConfig, split: str) -> str:
    """A fingerprint of what a split's files or hub data set hold; their names have no part in it."""
    check_split(source, split)
    return hub_digest(source, split) if source.hub else files_digest(split_files(source, split))


def raw_records(
    source: SourceConfig, split: str, seen: Callable[[int], None] | None = None
) -> Iterator[tuple[int, int, Raw]]:
    """Yields (file number, line, record) of a split; see :func:`~medtune.data.reading.records.read_raw`.

    Of a hub data set nothing is ``seen``: how large it is is not known.
    """
    check_split(source, split)
    if source.hub:
        for number, record in hub_records(source, split):
            yield 0, number, record
        return
    for index, path in enumerate(split_files(source, split)):
        for number, raw in read_raw(path, seen):
            yield index, number, raw


def reader_of(source: SourceConfig, split: str, *, needs_response: bool) -> Reader:
    """The reader of a split's records; ``data.format=auto`` is told from the first."""
    check_split(source, split)
    if not source.hub:
        return reader_of_file(split_files(source, split)[0], source, needs_response=needs_response)
    format = source.format
    if format == "auto":
        number, record = next(iter(hub_records(source, split)))
        format = detect_format(record, source.columns, f"{hub_name(source, split)}:{number}")
    return Reader(source, needs_response=needs_response, format=format)


def reader_of_file(path: Path, source: SourceConfig, *, needs_response: bool) -> Reader:
    """As :func:`reader_of`, for a file and those of its kind."""
    format, has_documents = source.format, False
    if file_type(path) == "txt" and format in ("auto", "text"):
        has_documents = not begins_with_record(path)
        format = "text" if has_documents else format
    if format == "auto":
        where, record = first_record(path, source)
        format = detect_format(record, source.columns, where)
    return Reader(source, needs_response=needs_response, format=format, has_documents=has_documents)


def begins_with_record(path: Path) -> bool:
    """Whether the first line of a text file is a JSON object, as in files of records that are called .txt."""
    _, raw = next(iter(read_raw(path)))
    try:
        parse_record(raw, str(path))
    except ValueError:
        return False
    return True


def first_record(path: Path, source: SourceConfig) -> tuple[str, dict[str, Any]]:
    """The first record of a file and its place; with ``data.on_error=skip`` the first that can be read."""
    problem: ValueError | None = None
    for number, raw in read_raw(path):
        where = f"{path}:{number}"
        try:
            return where, parse_record(raw, where)
        except ValueError as error:
            problem = problem or error
            if source.on_error != "skip":
                break
    raise problem or ValueError(f"{path}: the file is empty")


def verify_files(source: SourceConfig, split: str) -> None:
    """Compares a split's file with ``data.sha1``, unless ``data.verify`` is off.

    Raises:
        ValueError: They differ.
    """
    due = source.sha1.get(split)
    if not due or not source.verify or source.hub:
        return
    files = split_files(source, split)
    if len(files) > 1:
        raise ValueError(
            f"{split_path(source, split)}: data.sha1.{split} is the sum of one file, but there are "
            f"{len(files)}; set data.verify=false"
        )
    found = sha1_of(files[0])
    if found != due.lower():
        raise ValueError(
            f"{files[0]}: its SHA-1 is {found}, but data.sha1.{split} says {due}: another version of the "
            "file, or a damaged one; get it again, or set data.verify=false"
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
