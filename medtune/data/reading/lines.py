"""The content of a text file as it is read, line by line, in bounded memory."""

import codecs
import io
from dataclasses import dataclass
from pathlib import Path

from medtune.data.reading.raw import LONGEST, BrokenRecord, Records, iconv

CHUNK = 1 << 18


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
