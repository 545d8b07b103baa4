"""From records to :class:`~medtune.data.examples.Example`: one function per format."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from medtune.config.schema import ColumnsConfig, SourceConfig
from medtune.data.examples import Example, Turn
from medtune.data.files import file_type
from medtune.data.records import Raw, decode_line, parse_record

PROMPTCBLUE_FIELDS = ("input", "target", "answer_choices", "task_type", "task_dataset", "sample_id")

Turns = tuple[Turn, ...]
FormatReader = Callable[[Mapping[str, Any], ColumnsConfig, bool], Turns]


class Reader:
    """Turns raw records into examples; picklable, so that worker processes can read.

    Args:
        source: Columns, roles, what is learned.
        needs_response: Refuse examples without a response. Training needs one; a test file whose
            targets are withheld has none.
        format: One of ``data.format``'s choices but ``auto``.
        documents: Whether the lines of a ``.txt`` file are documents when ``format`` is ``text``; else they
            are JSON records, as everywhere.
    """

    def __init__(
        self, source: SourceConfig, *, needs_response: bool, format: str, documents: bool = True
    ) -> None:
        self.source = source
        self.needs_response = needs_response
        self.format = format
        self.documents = documents and format == "text"

    def read(self, file: str, number: int, raw: Raw) -> Example:
        """One example.

        Raises:
            ValueError: The record is not in the format; begins with ``file:number:``.
        """
        where = f"{file}:{number}"
        if self.documents and isinstance(raw, bytes) and file_type(file) == "txt":
            return Example((Turn("text", decode_line(raw, where), learned=True),), file, number)
        record = parse_record(raw, where)
        try:
            turns = READERS[self.format](record, self.source.columns, self.needs_response)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        return Example(turns, file, number, record)


def named(column: str | None, default: str) -> str:
    """The name of a column: the setting, or the format's own."""
    return default if column is None else column


def promptcblue(record: Mapping[str, Any], columns: ColumnsConfig, needs_response: bool) -> Turns:
    """PromptCBLUE's ``input`` and ``target``; ``target`` is empty in files without answers."""
    del columns  # the benchmark fixes its own field names
    prompt = text_of(record, "input", "data.format=promptcblue")
    response = text_of(record, "target", "data.format=promptcblue", may_be_empty=not needs_response)
    return Turn("prompt", prompt, learned=False), Turn("response", response, learned=True)


def pair(record: Mapping[str, Any], columns: ColumnsConfig, needs_response: bool) -> Turns:
    """An instruction, perhaps a query, and a response, under any column names.

    Instruction and query are joined by a line break when there is a query, as the reference QLoRA
    project for Baichuan does.
    """
    asked, about = named(columns.instruction, "instruct"), named(columns.query, "query")
    instruction = text_of(record, asked, "data.columns.instruction", may_be_empty=True)
    has_query = bool(about) and (about in record or columns.query is not None)
    query = text_of(record, about, "data.columns.query", may_be_empty=True) if has_query else ""
    prompt = f"{instruction}\n{query}" if instruction and query else instruction or query
    if not prompt:
        raise ValueError(f"both {asked!r} and {about!r} are empty; there is no prompt")
    response = text_of(
        record, named(columns.response, "answer"), "data.columns.response", may_be_empty=not needs_response
    )
    return Turn("prompt", prompt, learned=False), Turn("response", response, learned=True)


def text(record: Mapping[str, Any], columns: ColumnsConfig, needs_response: bool) -> Turns:
    """A document in a column."""
    del needs_response
    return (Turn("text", text_of(record, named(columns.text, "text"), "data.columns.text"), learned=True),)


READERS: dict[str, FormatReader] = {"promptcblue": promptcblue, "pair": pair, "text": text}


def text_of(record: Mapping[str, Any], name: str, key: str, *, may_be_empty: bool = False) -> str:
    """The string in field ``name``.

    Raises:
        ValueError: It is absent, not a string, or empty where it must not be. ``key`` is the setting
            that decides the name.
    """
    if name not in record:
        near = difflib.get_close_matches(name, list(record), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        found = ", ".join(map(repr, record))
        raise ValueError(f"the record has no field {name!r} (see {key}); it has {found}{hint}")
    value = record[name]
    if not isinstance(value, str):
        raise ValueError(f"field {name!r} must be a string, found {type(value).__name__}: {str(value)[:60]}")
    try:
        value.encode()  # a JSON escape can make half of a surrogate pair, which no tokenizer takes
    except UnicodeEncodeError as error:
        raise ValueError(
            f"field {name!r} holds a lone surrogate, which is no text; repair the file's escapes"
        ) from error
    if not value.strip() and not may_be_empty:
        raise ValueError(f"field {name!r} is empty; remove the record or give it a text")
    return value


def detect_format(record: Mapping[str, Any], columns: ColumnsConfig, where: str) -> str:
    """The format that a record is in, told by its columns."""
    del columns
    if {"input", "target"} <= set(record):
        return "promptcblue"
    if {"instruct", "answer"} <= set(record):
        return "pair"
    if "text" in record:
        return "text"
    raise ValueError(f"{where}: the format cannot be told; set data.format")


def __getattr__(name: str) -> Any:
    """The old places of ``read_examples`` and ``split_path``."""
    if name in ("read_examples", "split_path"):
        from medtune.data import reading

        return getattr(reading, name)
    raise AttributeError(name)
