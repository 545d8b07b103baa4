"""Columns under the names that the settings give them, and the text in them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medtune.config.columns import FORMAT_COLUMNS
from medtune.config.schema import ColumnsConfig
from medtune.config.suggest import did_you_mean, nearest
from medtune.data.examples import Turn

Record = Mapping[str, Any]
Turns = tuple[Turn, ...]

SHOWN_FIELDS = 12


@dataclass(frozen=True)
class Column:
    """A column as the settings name it.

    Attributes:
        key: Of the settings, for messages.
        names: In the records, the usual one first; empty where there is no such column.
        is_set: The settings name it, so that a record without it is an error even where the format can do
            without.
    """

    key: str
    names: tuple[str, ...]
    is_set: bool = False

    @property
    def name(self) -> str:
        """The usual name, for messages; empty where there is no such column."""
        return self.names[0] if self.names else ""

    def name_in(self, record: Record) -> str | None:
        """The name that a record has it under, if any."""
        for name in self.names:
            if name in record:
                return name
        return None


Columns = Mapping[str, Column]


def columns_of(format: str, columns: ColumnsConfig) -> dict[str, Column]:
    """The columns that a format reads, by their key in ``data.columns``."""
    found = {}
    for key, names in FORMAT_COLUMNS[format].items():
        name = getattr(columns, key)
        is_set = bool(name) and name not in names
        read = names if name is None else (name,) if name else ()
        found[key] = Column(f"data.columns.{key}", read, is_set)
    return found


def value_of(record: Record, column: Column, *, may_lack: bool = False) -> Any:
    """The value in a column; None where the record lacks it and may.

    Raises:
        ValueError: It is not there; names the fields that are.
    """
    for name in column.names:
        if name in record:
            return record[name]
    if may_lack and not column.is_set:
        return None
    raise ValueError(missing(record, column))


def missing(record: Record, column: Column) -> str:
    """What is wrong with a record without a field."""
    if not column.names:
        return f'{column.key} is "", but the format cannot do without it'
    found = ", ".join(map(repr, list(record)[:SHOWN_FIELDS])) or "none"
    more = " and more" if len(record) > SHOWN_FIELDS else ""
    near = nearest(column.name, [name for name in record if isinstance(name, str)])
    nested = next((name for name, value in record.items() if is_list_of_records(value)), None)
    hint = did_you_mean(repr(near) if near else None)
    if len(record) == 1 and nested is not None:
        hint = f"; if its records are in {nested!r}, write them one a line: {unnest(nested)}"
    names = " or ".join(map(repr, column.names))
    return f"the record has no field {names} (see {column.key}); it has {found}{more}{hint}"


def unnest(field: str) -> str:
    """The command that writes the records in a field one a line."""
    return f"jq -c '.{field}[]' IN > OUT.jsonl"


def is_list_of_records(value: Any) -> bool:
    """Whether a value is a list whose first item is a JSON object."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def text_of(record: Record, column: Column, *, may_be_empty: bool = False, may_lack: bool = False) -> str:
    """The text in a column; empty where it is null or lacking and may be.

    Args:
        record: The record.
        column: The column.
        may_be_empty: Text of white space alone and null are no error.
        may_lack: A record without the field is no error, unless the settings name the column.

    Raises:
        ValueError: It is absent, no text, or empty where it must not be.
    """
    value = value_of(record, column, may_lack=may_lack)
    if value is None and may_be_empty:
        return ""
    if isinstance(value, str) and (may_be_empty or value.strip()):
        return value
    return checked_text(value, f"field {column.name_in(record)!r}", may_be_empty=may_be_empty)


def checked_text(value: Any, what: str, *, may_be_empty: bool = False) -> str:
    """``value`` itself when it is text; ``what`` it is begins the error."""
    if not isinstance(value, str):
        raise ValueError(f"{what} must be a string, found {shown(value)}")
    if not may_be_empty and not value.strip():
        raise ValueError(f"{what} is empty; remove the record or give it a text")
    return value


def list_of(value: Any, what: str) -> list[Any]:
    """``value`` as a list; tables hold lists as JSON text.

    Raises:
        ValueError: It is none; ``what`` it is begins the error.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
            json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate would break the messages too
        except (ValueError, RecursionError) as error:
            reason = "nested too deep" if isinstance(error, RecursionError) else error
            raise ValueError(f"{what} is no list in JSON: {reason}") from error
    if isinstance(value, tuple):
        return list(value)
    if not isinstance(value, list):
        raise ValueError(f"{what} must be a list, found {shown(value)}")
    return value


def shown(value: Any) -> str:
    """A value's type, and how it begins."""
    return "null" if value is None else f"{type(value).__name__}: {str(value)[:60]}"


def joined(instruction: str, query: str) -> str:
    """A prompt of an instruction and, on the next line, what it is about: the reference systems' way."""
    return f"{instruction}\n{query}" if instruction and query else instruction or query


def prompt_of(record: Record, instruction: Column, query: Column) -> str:
    """The prompt of a record with an instruction and perhaps a query.

    Raises:
        ValueError: Both are empty.
    """
    asked = text_of(record, instruction, may_be_empty=True)
    about = text_of(record, query, may_be_empty=True, may_lack=True)
    if not asked.strip() and not about.strip():
        empty = " and ".join(repr(column.name) for column in (instruction, query) if column.names)
        raise ValueError(f"there is no prompt: {empty} {'are' if ' and ' in empty else 'is'} empty")
    return joined(asked, about)


def as_prompt(text: str) -> Turn:
    """A turn that is answered; never learned by sft."""
    return Turn("prompt", text, learned=False)


def as_response(text: str) -> Turn:
    """A turn that is learned."""
    return Turn("response", text, learned=True)


def as_system(text: str) -> tuple[Turn, ...]:
    """A system prompt, or nothing where it is empty."""
    return (Turn("system", text, learned=False),) if text.strip() else ()
