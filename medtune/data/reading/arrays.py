"""JSON arrays, item by item, however large the file."""

import codecs
import json
import re
from dataclasses import dataclass
from typing import Any

from medtune.data.reading.lines import CHUNK, Content
from medtune.data.reading.raw import (
    LONGEST,
    BrokenRecord,
    Records,
    lone_surrogate,
    not_an_object,
    not_utf8,
    surrogate_field,
)

# Half of a surrogate pair as a JSON escape; UTF-8 itself cannot hold one.
SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")

DECODER = json.JSONDecoder()

SPACE = re.compile(r"[ \t\n\r]*")


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
            space = SPACE.match(self.text, self.start)
            assert space is not None  # it may be empty
            self.move(space.end())
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
