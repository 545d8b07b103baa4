"""Records that are not examples yet, and what can be wrong with a single one."""

import json
import re
from collections.abc import Iterator
from typing import Any

LONGEST = 32 << 20
"""Most bytes of a line, and characters of an item of an array or a field of a table: what bounds memory."""

SURROGATE_BYTES = re.compile(rb"\\u[dD][89a-fA-F]")

NUL = "it holds NUL bytes; it is probably binary, or UTF-16 without its mark"


class BrokenRecord(dict[str, Any]):
    """Stands for a record that cannot be read though those after it can; a reader raises its ``reason``."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason

    def __reduce__(self) -> tuple[type["BrokenRecord"], tuple[str]]:
        return BrokenRecord, (self.reason,)


Raw = bytes | dict[str, Any]
"""A line that is not decoded yet, without its line break, or a record of an array or table."""

Records = Iterator[tuple[int, Raw]]


def parse_record(raw: Raw, where: str) -> dict[str, Any]:
    """The record in a line, or ``raw`` itself when it is one already.

    Raises:
        ValueError: It cannot be read; begins with ``where``.
    """
    if isinstance(raw, BrokenRecord):
        raise ValueError(f"{where}: {raw.reason}")
    if isinstance(raw, dict):
        return raw
    line = decode_line(raw, where)
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {not_json(error, line)}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{where}: {not_an_object(value)}")
    if SURROGATE_BYTES.search(raw) and (field := surrogate_field(value)) is not None:
        raise ValueError(f"{where}: {lone_surrogate(field)}")
    return value


def decode_line(raw: bytes, where: str) -> str:
    """One line of text from its bytes.

    Raises:
        ValueError: It is not text; begins with ``where``.
    """
    if b"\0" in raw:
        raise ValueError(f"{where}: {NUL}")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: {not_utf8(error)}") from error


def not_json(error: Exception, line: str) -> str:
    """What is wrong with a line that is no JSON."""
    column = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
    reason = "nested too deep" if isinstance(error, RecursionError) else getattr(error, "msg", str(error))
    return f"not JSON{column}: {reason}; the line begins {line[:60]!r}. Every line must be one JSON object"


def not_an_object(value: Any) -> str:
    """What is wrong with JSON that is no object."""
    return f'expected a JSON object such as {{"input": ...}}, found {type(value).__name__}'


def not_utf8(error: UnicodeDecodeError) -> str:
    """What is wrong with bytes that are not UTF-8, and how to convert the file."""
    return (
        f"not UTF-8 at byte {error.start} of the line (0x{error.object[error.start]:02x}); "
        f"convert the file, for example: {iconv('GB18030')}"
    )


def iconv(encoding: str) -> str:
    """The command that converts a file."""
    return f"iconv -f {encoding} -t UTF-8 IN > OUT"


def surrogate_field(record: dict[str, Any]) -> str | None:
    """The first field that holds half of a surrogate pair, which no tokenizer takes and no file holds."""
    for name, value in record.items():
        try:
            json.dumps({name: value}, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return name.encode(errors="backslashreplace").decode()
    return None


def lone_surrogate(field: str) -> str:
    """What is wrong with half of a surrogate pair in ``field``."""
    return f"field {field!r} holds a lone surrogate, which is no text; repair the file's escapes"
