"""The rows of a predictions file, whatever is in it, and what the organisers' script would say to each line.

That script reads UTF-8 text line by line with ``json.loads``; one line that it cannot read costs it the file.
Here such a line is a row without a record, told by its number.
"""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtune.data.reading.files import file_type, named_damage, open_bytes
from medtune.data.reading.lines import skip_line
from medtune.data.reading.raw import LONGEST, BrokenRecord, parse_record
from medtune.data.reading.records import read_raw

TABLES = ("csv", "tsv", "parquet")
MAX_ARRAY = 1 << 28  # bytes; of a longer file only lines are read
NOT_LINES = "JSONDecodeError: not JSON lines"
BLANK = "JSONDecodeError: a blank line"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a predictions file, or a record of one that is no text of lines."""

    number: int
    record: dict[str, Any] | None
    """None where there is no JSON object."""
    error: str | None = None
    """Why the official script dies here, whatever the record holds."""

    @property
    def is_blank(self) -> bool:
        """Whether it holds nothing: to us it is no row, to the official script a broken one."""
        return self.error == BLANK


def read_predictions(path: Path) -> list[Line]:
    """Reads a file of predictions: JSON lines, and for convenience arrays and tables, perhaps compressed.

    Raises:
        ValueError: It cannot be opened or unpacked; what a readable file holds raises nothing.
    """
    if file_type(path) in TABLES:
        return list(_read_table(path))
    with open_bytes(path) as content, named_damage(path, str):
        if content.peek(1)[:1] == b"[" and (items := _read_array(path)) is not None:
            return items
        return list(_read_lines(content))


def _read_table(path: Path) -> Iterator[Line]:
    for number, raw in read_raw(path):
        broken = isinstance(raw, BrokenRecord)
        yield Line(number, None if broken else parse_record(raw, str(path)), NOT_LINES)


def _read_array(path: Path) -> list[Line] | None:
    """Returns the items of a file that is one JSON array of objects as a whole."""
    with open_bytes(path) as content, named_damage(path, str):
        text = content.read(MAX_ARRAY)
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(items, list) or not any(isinstance(item, dict) for item in items):
        return None
    return [
        Line(number, item if isinstance(item, dict) else None, NOT_LINES)
        for number, item in enumerate(items, start=1)
    ]


def _read_lines(content: io.BufferedReader) -> Iterator[Line]:
    for number, line in enumerate(_split_lines(content), start=1):
        yield (
            Line(number, None, f"more than {LONGEST >> 20} MiB") if line is None else read_line(number, line)
        )


def _split_lines(content: io.BufferedReader) -> Iterator[bytes | None]:
    """Yields lines as Python's text files have them, ended by a carriage return too; None is too long."""
    while line := content.readline(LONGEST + 1):
        if len(line) > LONGEST and not line.endswith(b"\n"):
            skip_line(content)
            yield None
            continue
        body = line.removesuffix(b"\n")
        yield from (body.removesuffix(b"\r") if body is not line else body).split(b"\r")


def read_line(number: int, line: bytes) -> Line:
    """Reads one line as the official script does, but goes past a byte-order mark, at which that one dies."""
    marked = line.startswith(codecs.BOM_UTF8)
    if not line.strip():
        return Line(number, None, BLANK)
    try:
        value = json.loads(line.removeprefix(codecs.BOM_UTF8).decode())
    except (ValueError, RecursionError) as error:
        return Line(number, None, f"{type(error).__name__}: {error!s:.100}")
    if not isinstance(value, dict):
        kind = type(value).__name__
        return Line(number, None, f"AttributeError: {kind} is no JSON object")
    return Line(number, value, "JSONDecodeError: a byte-order mark" if marked else None)
