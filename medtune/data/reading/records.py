"""Files as records, one at a time: lines, the items of JSON arrays, the rows of tables."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from medtune.data.reading.arrays import read_array
from medtune.data.reading.files import READ_TYPES, file_type, named_damage, open_disk, unpacked
from medtune.data.reading.lines import Content, read_lines_of
from medtune.data.reading.raw import Raw, Records, decode_line, parse_record
from medtune.data.reading.tables import read_parquet, read_table

__all__ = ["Raw", "read_lines", "read_raw", "read_records"]

METER = 64  # records between two calls of `seen`


def read_raw(path: Path, seen: Callable[[int], None] | None = None) -> Records:
    """Yields (number, record) of a file in constant memory, blank lines left out.

    Numbers rise. They are the line on which the record begins, from 1; where several records of an array
    begin on one line, they count on, so that a whole array on one line is numbered by record, as are the
    rows of a parquet file.

    Args:
        path: A file of a type that :func:`~medtune.data.reading.files.file_type` knows, perhaps compressed.
        seen: Called with the bytes of the file on disk read since the last call, for a progress bar.

    Raises:
        ValueError: The file cannot be read at all, or not any further; names it and the place. A single
            record that cannot be read is given as a :class:`BrokenRecord`, or fails when it is parsed.
    """
    kind = file_type(path)
    if kind is None:
        raise ValueError(
            f"{path}: {path.suffix or 'no suffix'} is not a type that is read; rename it ({READ_TYPES})"
        )
    records = read_parquet(path, seen) if kind == "parquet" else read_content(path, kind, seen)
    found = False
    for item in records:
        found = True
        yield item
    if not found:
        raise ValueError(f"{path}: the file is empty; put one record in it at least")


def read_content(path: Path, kind: str, seen: Callable[[int], None] | None) -> Records:
    """The records of a file of text."""
    with open_disk(path) as disk:
        content = Content(unpacked(disk, path), path)
        done = 0
        with named_damage(path, content.place):
            content.skip_mark()
            for count, item in enumerate(CONTENT_READERS[kind](content)):
                if seen and count % METER == 0:
                    seen(disk.tell() - done)
                    done = disk.tell()
                yield item
        if seen:
            seen(path.stat().st_size - done)


def read_json(content: Content) -> Records:
    """The items of an array, or the lines."""
    content.skip_blank()
    if content.file.peek(1)[:1] == b"[":
        yield from read_array(content)
        return
    lines = read_lines_of(content)
    for number, line in lines:
        refuse_single_object(line, content)
        yield number, line
        break
    yield from lines


def refuse_single_object(line: Raw, content: Content) -> None:
    """Raises ValueError where the first line is only the beginning of a JSON object over several lines."""
    # A record that was cut off seldom ends like this, the first line of an indented object always.
    if (
        not isinstance(line, bytes)
        or not line.startswith(b"{")
        or line.rstrip()[-1:] not in (b"{", b"[", b",")
    ):
        return
    try:
        json.loads(line)
    except (ValueError, RecursionError) as error:
        rest = content.file.peek(1)
        if not rest or getattr(error, "pos", 0) < len(line.decode(errors="replace").rstrip()) - 1:
            return
        key = re.search(rb'"([^"\\]{1,60})"\s*:\s*\[', line + rest)
        name = key[1].decode(errors="replace") if key else ""
        raise ValueError(
            f"{content.path}:1: a single JSON object over several lines, not a list of records; write its "
            f"records one a line, for example: jq -c '.{name}[]' IN > OUT.jsonl"
        ) from None


CONTENT_READERS: dict[str, Callable[[Content], Records]] = {
    "txt": read_lines_of,
    "json": read_json,
    "jsonl": read_json,
    "csv": read_table,
    "tsv": read_table,
}


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, text without its line break) of a text file, blank lines left out.

    Raises:
        ValueError: The file is missing, empty, damaged, or not UTF-8; names file and line.
    """
    found = False
    with open_disk(path) as disk:
        content = Content(unpacked(disk, path), path)
        with named_damage(path, content.place):
            content.skip_mark()
            for number, raw in read_lines_of(content):
                found = True
                if isinstance(raw, dict):
                    parse_record(raw, f"{path}:{number}")
                else:
                    yield number, decode_line(raw, f"{path}:{number}")
    if not found:
        raise ValueError(f"{path}: the file is empty; put one record on each line")


def read_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (number, record) of a file of records; numbers as :func:`read_raw` gives them.

    Raises:
        ValueError: As :func:`read_raw`, or a record that cannot be read.
    """
    for number, raw in read_raw(path):
        yield number, parse_record(raw, f"{path}:{number}")
