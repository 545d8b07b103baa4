"""The rows of csv, tsv and parquet files."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from medtune.data.reading.files import UNPACKERS, file_type, open_disk
from medtune.data.reading.lines import CHUNK, Content, refuse_lone_returns
from medtune.data.reading.raw import LONGEST, NUL, BrokenRecord, Records, not_utf8


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
