"""Files as records, one at a time: lines, the items of JSON arrays, the rows of tables."""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtune.data.files import READ_TYPES, UNPACKERS, file_type, named_damage, open_disk, unpacked

LONGEST = 32 << 20
"""Most bytes of a line, and characters of an item of an array or a field of a table: what bounds memory."""

CHUNK = 1 << 18
METER = 64  # records between two calls of `seen`

# Half of a surrogate pair as a JSON escape; UTF-8 itself cannot hold one.
SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
SURROGATE_BYTES = re.compile(rb"\\u[dD][89a-fA-F]")

DECODER = json.JSONDecoder()
SPACE = re.compile(r"[ \t\n\r]*")


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


def read_raw(path: Path, seen: Callable[[int], None] | None = None) -> Records:
    """Yields (number, record) of a file in constant memory, blank lines left out.

    Numbers rise. They are the line on which the record begins, from 1; where several records of an array
    begin on one line, they count on, so that a whole array on one line is numbered by record, as are the
    rows of a parquet file.

    Args:
        path: A file of a type that :func:`~medtune.data.files.file_type` knows, perhaps compressed.
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


@dataclass
class Content:
    """The bytes of a text file as they are read.

    Attributes:
        file: Unpacked.
        path: For messages.
        line: Lines read so far.
    """

    file: io.BufferedReader
    path: Path
    line: int = 0

    def place(self) -> str:
        """How far reading came, for messages."""
        return f" after line {self.line}" if self.line else ""

    def skip_mark(self) -> None:
        """Goes past a byte-order mark.

        Raises:
            ValueError: It is that of UTF-16.
        """
        head = self.file.peek(3)
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ValueError(f"{self.path}:1: is UTF-16, not UTF-8; convert it: {iconv('UTF-16')}")
        if head.startswith(codecs.BOM_UTF8):
            self.file.read(3)

    def skip_blank(self) -> None:
        """Goes to the first byte that is not white space."""
        while head := self.file.peek(1):
            blank = len(head) - len(head.lstrip(b" \t\r\n"))
            self.line += self.file.read(blank).count(b"\n")
            if blank < len(head):
                return


def iconv(encoding: str) -> str:
    """The command that converts a file."""
    return f"iconv -f {encoding} -t UTF-8 IN > OUT"


def read_lines_of(content: Content) -> Records:
    """The lines that are not blank."""
    while line := content.file.readline(LONGEST + 1):
        content.line += 1
        if content.line == 1:
            refuse_lone_returns(line, content.path)
        if len(line) > LONGEST and not line.endswith(b"\n"):
            skip_line(content.file)
            yield (
                content.line,
                BrokenRecord(f"the line is longer than {LONGEST >> 20} MiB, the most that is read"),
            )
        elif not line.isspace():
            yield content.line, line.rstrip(b"\r\n")


def skip_line(file: io.BufferedReader) -> None:
    """Goes past the end of a line, keeping none of it."""
    while (rest := file.readline(CHUNK)) and not rest.endswith(b"\n"):
        pass


def refuse_lone_returns(line: bytes, path: Path) -> None:
    """Raises ValueError where the first line is a whole file whose lines end with carriage returns."""
    if not line.endswith(b"\n") and b"\r" in line.strip():
        raise ValueError(
            f"{path}:1: its lines end with carriage returns alone; convert it: tr '\\r' '\\n' < IN > OUT"
        )


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


@dataclass
class ArrayText:
    """A window on the text of a JSON array that moves on as items are read.

    Attributes:
        content: What is read.
        text: The window.
        start: Where in it reading stands.
        line: The line of ``start``, from 1.
        ended: Whether the window reaches the end of the file.
    """

    content: Content
    text: str = ""
    start: int = 0
    line: int = 1
    ended: bool = False

    def __post_init__(self) -> None:
        self.decoder = codecs.getincrementaldecoder("utf-8")()

    def grow(self) -> None:
        """Reads on: as much again as is left, so that a long item is scanned few times only."""
        left = self.text[self.start :]
        chunk = self.content.file.read(max(CHUNK, len(left)))
        self.ended = not chunk
        try:
            self.text = left + self.decoder.decode(chunk, final=self.ended)
        except UnicodeDecodeError as error:
            line = self.line + left.count("\n") + chunk[: error.start].count(b"\n")
            raise ValueError(f"{self.content.path}:{line}: {not_utf8(error)}") from error
        self.start = 0

    def move(self, end: int) -> None:
        """Goes on to ``end``."""
        self.line += self.text.count("\n", self.start, end)
        self.start = end
        self.content.line = self.line

    def next_letter(self) -> str:
        """Goes to the next letter that is not white space; empty at the end of the file."""
        while True:
            self.move(SPACE.match(self.text, self.start).end())  # type: ignore[union-attr]
            if self.start < len(self.text) or self.ended:
                return self.text[self.start : self.start + 1]
            self.grow()

    def next_item(self) -> Any:
        """Reads the value that begins at ``start``."""
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.start)
            except (ValueError, RecursionError) as error:
                if not self.is_cut(error):
                    raise self.error(error) from error
            else:
                if end < len(self.text) or self.ended:
                    has_escape = SURROGATE_ESCAPE.search(self.text, self.start, end) is not None
                    self.move(end)
                    return checked_item(value, has_escape)
            self.grow()

    def is_cut(self, error: Exception) -> bool:
        """Whether an item cannot be read only because the window ends in it."""
        if self.ended or not isinstance(error, json.JSONDecodeError) or len(self.text) - self.start > LONGEST:
            return False
        # A string that is not closed is told by its beginning, all else by where it stops.
        return error.msg.startswith("Unterminated string") or error.pos > len(self.text) - 16

    def error(self, error: Exception | str) -> ValueError:
        """What is wrong at ``start``, or where the JSON decoder says."""
        place = f"{self.content.path}:{self.line}"
        if isinstance(error, json.JSONDecodeError):
            line = self.line + self.text.count("\n", self.start, error.pos)
            column = error.pos - self.text.rfind("\n", 0, error.pos)
            long = len(self.text) - self.start > LONGEST
            reason = f"an item is longer than {LONGEST >> 20} MiB" if long else error.msg
            return ValueError(f"{self.content.path}:{line}: not a JSON array: {reason} (column {column})")
        if isinstance(error, RecursionError):
            error = "nested too deep"
        return ValueError(f"{place}: not a JSON array: {error}")


def checked_item(value: Any, has_escape: bool) -> dict[str, Any]:
    """An item of an array as a record."""
    if not isinstance(value, dict):
        return BrokenRecord(not_an_object(value))
    field = surrogate_field(value) if has_escape else None
    return BrokenRecord(lone_surrogate(field)) if field is not None else value


def read_array(content: Content) -> Records:
    """The items of a JSON array, read through a moving window."""
    text = ArrayText(content, line=content.line + 1)
    text.next_letter()
    text.move(text.start + 1)
    letter = text.next_letter()
    if letter == "]":
        raise ValueError(f"{content.path}: the JSON array is empty; put one record in it at least")
    number = 0
    while letter != "]":
        number = max(number + 1, text.line)
        yield number, text.next_item()
        letter = text.next_letter()
        if letter not in (",", "]"):
            raise text.error(
                f"expected a comma or the closing bracket, found {letter!r}" if letter else "it is cut off"
            )
        text.move(text.start + 1)
        if letter == ",":
            text.next_letter()
    rest = text.next_letter()
    if rest:
        raise text.error(f"found {rest!r} after the closing bracket")


def read_table(content: Content) -> Records:
    """The rows of a csv or tsv file under the names in its first line."""
    csv.field_size_limit(LONGEST)  # the module's own, 128 KiB, is shorter than many a document
    undecoded: list[str] = []
    delimiter = "\t" if file_type(content.path) == "tsv" else ","
    rows = csv.reader(decoded_lines(content, undecoded), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        number = rows.line_num + 1
        try:
            row = next(rows)
            problem = undecoded.pop() if undecoded else None
        except StopIteration:
            return
        except csv.Error as error:
            row, problem = [], not_a_row(error)
        if header is None and (row or problem):
            header = checked_header(row, problem, f"{content.path}:{number}")
        elif problem or row:
            yield number, as_row(header or [], row, problem)


def decoded_lines(content: Content, undecoded: list[str]) -> Iterator[str]:
    """Lines of text with their line breaks; ``undecoded`` collects what is wrong with them."""
    while line := content.file.readline(LONGEST + 1):
        content.line += 1
        if content.line == 1:
            refuse_lone_returns(line, content.path)
        if len(line) > LONGEST and not line.endswith(b"\n"):
            raise ValueError(f"{content.path}:{content.line}: the line is longer than {LONGEST >> 20} MiB")
        if b"\0" in line:
            undecoded.append(NUL)
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            undecoded.append(not_utf8(error))
            yield line.decode(errors="replace")


def checked_header(header: list[str], problem: str | None, where: str) -> list[str]:
    """The column names, which must be there, each once."""
    twice = {name for name in header if header.count(name) > 1}
    if not problem and any(not name.strip() for name in header):
        problem = f"the first line must name the columns, and one has no name: {', '.join(map(repr, header))}"
    elif not problem and twice:
        problem = f"the first line names a column twice: {', '.join(map(repr, sorted(twice)))}"
    if problem:
        raise ValueError(f"{where}: {problem}")
    return header


def as_row(header: list[str], row: list[str], problem: str | None) -> dict[str, Any]:
    """A row as a record."""
    if not problem and len(row) != len(header):
        problem = (
            f"the row has {len(row)} fields, but the first line names {len(header)} columns; "
            "a field with a delimiter or line break in it must be quoted"
        )
    return BrokenRecord(problem) if problem else dict(zip(header, row, strict=True))


def read_parquet(path: Path, seen: Callable[[int], None] | None) -> Records:
    """The rows of a parquet file, some hundred at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix.lower() in UNPACKERS:
        raise ValueError(f"{path}: a parquet file is compressed inside; unpack it first")
    open_disk(path).close()  # for the message where it cannot be opened
    count = 0
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=CHUNK) as file:
            rows, size, done = file.metadata.num_rows, path.stat().st_size, 0
            for batch in file.iter_batches(batch_size=256):
                for record in batch.to_pylist():
                    count += 1
                    yield count, record
                if seen:
                    now = size * count // max(rows, 1)
                    seen(now - done)
                    done = now
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: the parquet file is damaged after record {count}: {reason}") from error


CONTENT_READERS: dict[str, Callable[[Content], Records]] = {
    "txt": read_lines_of,
    "json": read_json,
    "jsonl": read_json,
    "csv": read_table,
    "tsv": read_table,
}

NUL = "it holds NUL bytes; it is probably binary, or UTF-16 without its mark"


def not_a_row(error: csv.Error) -> str:
    """What is wrong with a row, in other words than the csv module's where they are about Python."""
    reason = str(error)
    if reason.startswith("new-line character"):
        reason = "a carriage return stands outside quotes"
    elif reason.startswith("unexpected end of data"):
        reason = "a quote is opened and never closed"
    elif reason.startswith("field larger"):
        reason = f"a field is longer than {LONGEST >> 20} Mi characters; a quote may be open before it"
    return f"not a row of a table: {reason}"


def not_utf8(error: UnicodeDecodeError) -> str:
    """What is wrong with bytes that are not UTF-8, and how to convert the file."""
    return (
        f"not UTF-8 at byte {error.start} of the line (0x{error.object[error.start]:02x}); "
        f"convert the file, for example: {iconv('GB18030')}"
    )


def not_an_object(value: Any) -> str:
    """What is wrong with JSON that is no object."""
    return f'expected a JSON object such as {{"input": ...}}, found {type(value).__name__}'


def lone_surrogate(field: str) -> str:
    """What is wrong with half of a surrogate pair in ``field``."""
    return f"field {field!r} holds a lone surrogate, which is no text; repair the file's escapes"


def surrogate_field(record: dict[str, Any]) -> str | None:
    """The first field that holds half of a surrogate pair, which no tokenizer takes and no file holds."""
    for name, value in record.items():
        try:
            json.dumps({name: value}, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return name.encode(errors="backslashreplace").decode()
    return None


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


def not_json(error: Exception, line: str) -> str:
    """What is wrong with a line that is no JSON."""
    column = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
    reason = "nested too deep" if isinstance(error, RecursionError) else getattr(error, "msg", str(error))
    return f"not JSON{column}: {reason}; the line begins {line[:60]!r}. Every line must be one JSON object"


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
