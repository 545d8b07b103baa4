"""The reader of raw records, light enough to send to other processes."""

from dataclasses import replace

from medtune.config.roles import SPELLINGS, role_problems
from medtune.config.schema import SourceConfig
from medtune.data.examples import Example, Turn
from medtune.data.reading.files import file_type
from medtune.data.reading.formats.exam import read_exam
from medtune.data.reading.formats.fields import Record, Turns, columns_of
from medtune.data.reading.formats.messages import read_messages
from medtune.data.reading.formats.preference import read_preference
from medtune.data.reading.formats.single import read_alpaca, read_pair, read_promptcblue, read_text
from medtune.data.reading.raw import Raw, decode_line, parse_record
from medtune.runtime.errors import ConfigError


class Reader:
    """Turns raw records into examples; picklable.

    Args:
        source: Columns, roles, which responses are learned.
        needs_response: Refuse examples without a response. Training needs one; a test file whose
            targets are withheld has none.
        format: One of ``data.format``'s choices but ``auto``.
        has_documents: Whether the lines of a ``.txt`` file are documents when ``format`` is ``text``; else
            they are JSON records, as in every other format.

    Raises:
        ConfigError: ``data.roles`` holds what is no role.
    """

    def __init__(
        self, source: SourceConfig, *, needs_response: bool, format: str, has_documents: bool = True
    ) -> None:
        problems = list(role_problems(source.roles))
        if problems:
            raise ConfigError(problems)
        self.format = format
        self.needs_response = needs_response
        self.has_documents = has_documents and format == "text"
        self.columns = columns_of(format, source.columns)
        self.roles = {**SPELLINGS, **source.roles}
        self.learns_last_only = source.learn == "last"

    def read(self, file: str, number: int, raw: Raw) -> Example:
        """One example.

        Raises:
            ValueError: The record is not in the format; begins with ``file:number:``.
        """
        where = f"{file}:{number}"
        if self.has_documents and isinstance(raw, bytes) and file_type(file) == "txt":
            return Example((as_document(raw, where),), file, number)
        record = parse_record(raw, where)
        try:
            if self.format == "exam":
                turns, record = read_exam(record, file, self.needs_response)
                rejected = None
            else:
                turns, rejected = self.parts_of(record)
            refuse_surrogates(turns, rejected)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if self.learns_last_only and len(turns) > 2:
            turns = only_last_learned(turns)
        return Example(turns, file, number, record, rejected)

    def parts_of(self, record: Record) -> tuple[Turns, str | None]:
        """The turns of a record, and its rejected response where it has one."""
        if self.format == "promptcblue":
            return read_promptcblue(record, self.needs_response), None
        if self.format == "pair":
            return read_pair(record, self.columns, self.needs_response), None
        if self.format == "alpaca":
            return read_alpaca(record, self.columns, self.needs_response), None
        if self.format == "messages":
            return read_messages(record, self.columns, self.roles, self.needs_response), None
        if self.format == "preference":
            return read_preference(record, self.columns, self.roles, self.needs_response)
        return read_text(record, self.columns), None


def refuse_surrogates(turns: Turns, rejected: str | None) -> None:
    """Raises ValueError where a text is none that UTF-8 can hold; the parsers of JSON let it pass."""
    try:
        for turn in turns:
            turn.text.encode()
        (rejected or "").encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            "a text holds a lone surrogate, which is no text; repair the file's escapes"
        ) from error


def as_document(raw: bytes, where: str) -> Turn:
    """A line of a text file.

    Raises:
        ValueError: It is not text, or several lines by the rule that a carriage return alone ends one.
    """
    text = decode_line(raw, where)
    if "\r" in text:
        raise ValueError(
            f"{where}: a carriage return stands inside the line, which may or may not end it; make it a line "
            "break: tr '\\r' '\\n' < IN > OUT"
        )
    return Turn("text", text, learned=True)


def only_last_learned(turns: Turns) -> Turns:
    """``turns`` of which none but the last is learned (``data.learn=last``)."""
    return (*(replace(turn, learned=False) for turn in turns[:-1]), turns[-1])
