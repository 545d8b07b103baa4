"""Answers on disk as they come: parts that a killed process goes on with, and that become the predictions.

A part is a file beside the output, a line for each answer, headed by what the answers depend on. Its lines
come in the order in which answers are complete; a predictions file has them in the order of the rows.
"""

import fcntl
import glob
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from medtune.config.load import show
from medtune.runtime.errors import ConfigError
from medtune.runtime.record import disk_error, json_line, write_jsonl

LAYOUT = 1
SECONDS_BETWEEN_SYNCS = (
    1.0  # a killed process loses nothing that was written; a machine that stops, this much
)
NAMED_ROWS = 5  # most numbers that a message lists

Fingerprint = Mapping[str, Any]


@dataclass(frozen=True)
class Share:
    """Every ``of``-th row, from ``number`` - 1 on; ``number`` counts from 1."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str | None) -> "Share":
        """Reads ``3/8``; None is the whole.

        Raises:
            ValueError: It is no share.
        """
        if text is None:
            return cls()
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise ValueError(f"{text} is no share; 1/8 to 8/8 are the eight shares of eight processes")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def rows(self, total: int) -> range:
        """Numbers, from 0, of the rows in it."""
        return range(self.number - 1, total, self.of)


@dataclass(frozen=True)
class Answered:
    """The answer to one row, as a part holds it.

    Attributes:
        output: The row of the predictions file.
        tokens: Tokens of the answer.
        is_cut: Whether the most tokens, and no stop token, ended it.
        prompt_cut: Tokens that the prompt lost to fit the context.
    """

    output: Mapping[str, Any]
    tokens: int
    is_cut: bool = False
    prompt_cut: int = 0


@dataclass
class Part:
    """What one part file holds.

    Attributes:
        header: What its answers depend on; empty where the process was killed before it was written.
        answers: By row.
        whole_bytes: Length of the file without a half-written line at its end.
    """

    path: Path
    header: dict[str, Any] = field(default_factory=dict)
    answers: dict[int, Answered] = field(default_factory=dict)
    whole_bytes: int = 0


class PartWriter:
    """Appends answers to one part; a context that closes it."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        """Goes on behind the last whole line of ``path``, or makes it.

        Raises:
            ConfigError: Another process writes it.
            ValueError: The disk is full or the place cannot be written.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file: BinaryIO = path.open("ab")
            lock(self.file, path)
            found = read_part(path)
            self.file.truncate(found.whole_bytes)
            self.synced = time.monotonic()
            if not found.header:
                self._write(header)
        except OSError as error:
            raise disk_error(path, error) from error

    def add(self, row: int, answer: Answered) -> None:
        """Writes one answer; it is safe from a kill of this process when this returns."""
        try:
            self._write({"row": row, **asdict(answer)})
        except OSError as error:
            raise disk_error(self.path, error) from error

    def _write(self, line: Mapping[str, Any]) -> None:
        self.file.write(json_line(line).encode() + b"\n")
        self.file.flush()
        if time.monotonic() - self.synced > SECONDS_BETWEEN_SYNCS:
            os.fsync(self.file.fileno())
            self.synced = time.monotonic()

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


def lock(file: BinaryIO, path: Path) -> None:
    """Keeps a part to this process until it ends, however that is; where the file system knows locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise ConfigError(
            f"{path} is in use: another process answers these rows; wait for its end, or name another "
            "generate.output"
        ) from error
    except OSError:
        return


def part_path(output: Path, share: Share, rank: int) -> Path:
    """The part that ``rank`` of the process for ``share`` writes."""
    return output.with_name(f"{output.name}.part-{share.number}-of-{share.of}.{rank}")


def part_paths(output: Path, share: Share) -> list[Path]:
    """The parts of a share that are there, of however many ranks."""
    return sorted(output.parent.glob(f"{glob.escape(output.name)}.part-{share.number}-of-{share.of}.*"))


def header_of(fingerprint: Fingerprint, total: int, share: Share) -> dict[str, Any]:
    """The first line of a part."""
    return {"layout": LAYOUT, "shares": share.of, "rows": total, **fingerprint}


def read_part(path: Path) -> Part:
    """Reads a part; a half-written last line is left out.

    Raises:
        ValueError: Another line does not parse.
    """
    part = Part(path)
    content = path.read_bytes()
    lines = content.split(b"\n")
    for number, line in enumerate(lines[:-1], 1):  # what follows the last line break is half a line
        try:
            take_line(part, json.loads(line))
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines) - 1:
                break
            raise ValueError(f"{path}:{number}: no line of a part ({error}); delete the file") from error
        part.whole_bytes += len(line) + 1
    return part


def take_line(part: Part, line: dict[str, Any]) -> None:
    """Takes in one line: the header, or an answer."""
    if not part.whole_bytes:
        if line.get("layout") != LAYOUT:
            raise ValueError(f"layout {line.get('layout')} instead of {LAYOUT}")
        part.header = line
    else:
        part.answers.setdefault(line.pop("row"), Answered(**line))


def answers_of(output: Path, share: Share, header: Mapping[str, Any]) -> dict[int, Answered]:
    """The answers of a share that are there already, by row.

    Raises:
        ConfigError: They depend on something else than this run's would.
    """
    answers: dict[int, Answered] = {}
    for part in map(read_part, part_paths(output, share)):
        if part.header:
            refuse_other_header(part, header)
        answers |= part.answers
    return answers


def refuse_other_header(part: Part, header: Mapping[str, Any]) -> None:
    """Raises ConfigError, with the keys that differ, unless a part belongs to the run of ``header``."""
    keys = dict.fromkeys([*header, *part.header])
    differing = [key for key in keys if header.get(key) != part.header.get(key)]
    if differing:
        pairs = "; ".join(
            f"{key}={show(header.get(key))} ({show(part.header.get(key))} there)" for key in differing
        )
        raise ConfigError(
            f"{part.path} holds answers of another run, which are not mixed with this one's: {pairs}. Repeat "
            "that run's settings, delete its parts, or name another generate.output"
        )


def merge_parts(output: Path, shares: int) -> dict[int, Answered]:
    """Writes the predictions file from the parts of all shares, removes them, and gives its answers by row.

    Raises:
        ConfigError: The parts are not of one run.
        ValueError: Rows are missing; names them and their shares. Nothing was changed.
    """
    parts = {
        share: [read_part(path) for path in part_paths(output, share)]
        for share in (Share(number, shares) for number in range(1, shares + 1))
    }
    headed = [part for found in parts.values() for part in found if part.header]
    if not headed:
        raise ValueError(f"there are no parts of {shares} shares beside {output}")
    for part in headed:
        refuse_other_header(part, headed[0].header)
    total = headed[0].header["rows"]
    answers = {row: answer for part in headed for row, answer in part.answers.items()}
    if holes := list(missing(parts, total)):
        raise ValueError(f"{output} would have holes: {'; '.join(holes)}")
    write_jsonl(output, (answers[row].output for row in range(total)))
    for part in (part for found in parts.values() for part in found):
        part.path.unlink(missing_ok=True)
    return answers


def missing(parts: Mapping[Share, Sequence[Part]], total: int) -> Iterator[str]:
    """A clause for each share that is not complete."""
    for share, found in parts.items():
        there = {row for part in found for row in part.answers}
        rows = [row + 1 for row in share.rows(total) if row not in there]
        if rows and not found:
            yield f"there is no part of share {share} ({len(rows)} rows; run generate.shard={share})"
        elif rows:
            yield (
                f"share {share} lacks {len(rows)} of {len(share.rows(total))} rows ({numbers(rows)}; run "
                f"generate.shard={share} again)"
            )


def numbers(rows: Sequence[int]) -> str:
    """The first of some row numbers, which count from 1, in words."""
    named = ", ".join(map(str, rows[:NAMED_ROWS]))
    return f"row{'s' if len(rows) > 1 else ''} {named}{', …' if len(rows) > NAMED_ROWS else ''}"
