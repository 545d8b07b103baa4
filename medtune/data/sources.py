"""Reading files line by line and record by record, with errors that name file and line."""

import codecs
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, text without its line break), skipping blank lines.

    Reads plain, ``.gz`` and ``.xz`` files. A byte-order mark and CRLF line ends are dropped.

    Raises:
        ValueError: The file is missing, a folder, empty, damaged, or not UTF-8; names file and line.
    """
    found = False
    number = 0
    try:
        with open_bytes(path) as file:
            for number, raw in enumerate(file, start=1):
                line = decode(raw, path, number)
                if line.strip():
                    found = True
                    yield number, line
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: the compressed file is damaged after line {number}: {error}") from error
    if not found:
        raise ValueError(f"{path}: the file is empty; put one record on each line")


def open_bytes(path: Path) -> IO[bytes]:
    """Opens a file for reading bytes, unpacking it when its name says that it is compressed."""
    if not path.exists():
        raise ValueError(f"{path}: no such file; {neighbours(path)}")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder, not a file; {neighbours(path / '*')}")
    try:
        return cast(IO[bytes], OPENERS.get(path.suffix, open)(path, "rb"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error


def neighbours(path: Path) -> str:
    """What lies beside a path that was not found, for the error message."""
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist either; set data.dir to the folder of your files"
    names = sorted(entry.name for entry in path.parent.iterdir() if not entry.name.startswith("."))
    return f"{path.parent} holds {', '.join(names[:8]) or 'nothing'}{' ...' if len(names) > 8 else ''}"


def decode(raw: bytes, path: Path, number: int) -> str:
    """One line of text from its bytes."""
    try:
        text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        is_utf16 = number == 1 and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        raise ValueError(
            f"{path}:{number}: not UTF-8 at byte {error.start} of the line (0x{raw[error.start]:02x}); "
            f"convert the file, for example: iconv -f {'UTF-16' if is_utf16 else 'GB18030'} -t UTF-8 IN > OUT"
        ) from error
    return text.rstrip("\r\n")


def read_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number, record) of a JSON lines file, or (number, record) of a JSON array.

    Raises:
        ValueError: As :func:`read_lines`, or a line that is not a JSON object.
    """
    lines = read_lines(path)
    number, first = next(lines)
    if first.lstrip().startswith("["):
        yield from read_array(path, "\n".join([first, *(line for _, line in lines)]), number)
        return
    yield number, parse_record(first, path, number)
    for number, line in lines:
        yield number, parse_record(line, path, number)


def read_array(path: Path, text: str, first_line: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the objects of a JSON array, numbered from 1."""
    try:
        values = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        line = first_line - 1 + getattr(error, "lineno", 1)
        raise ValueError(f"{path}:{line}: not a JSON array: {error}") from error
    if not values:
        raise ValueError(f"{path}: the JSON array is empty; put one record in it at least")
    for number, value in enumerate(values, start=1):
        yield number, as_object(value, path, number)


def parse_record(line: str, path: Path, number: int) -> dict[str, Any]:
    """The JSON object on one line."""
    try:
        value = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        column = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep"
        raise ValueError(
            f"{path}:{number}: not JSON{column}: {reason}; the line begins {line[:60]!r}. "
            "Every line must be one JSON object"
        ) from error
    return as_object(value, path, number)


def as_object(value: Any, path: Path, number: int) -> dict[str, Any]:
    """``value`` itself when it is a JSON object."""
    if not isinstance(value, dict):
        raise ValueError(
            f'{path}:{number}: expected a JSON object such as {{"input": ...}}, found {type(value).__name__}'
        )
    return value
