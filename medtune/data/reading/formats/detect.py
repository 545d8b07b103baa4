"""Which format a record is in, told by its fields where that is unambiguous."""

from collections.abc import Iterator, Mapping
from typing import Any

from medtune.config.schema import ColumnsConfig
from medtune.data.reading.formats.exam import is_exam
from medtune.data.reading.formats.fields import SHOWN_FIELDS, Record, columns_of, is_list_of_records, unnest
from medtune.data.reading.formats.single import INPUT, TARGET

# A document has none of these beside it; a record with `text` and one of them is some kind of pair.
ANSWERS = ("answer", "output", "response", "target", "completion", "chosen", "rejected", "label", "labels")


def detect_format(record: Record, columns: ColumnsConfig, where: str) -> str:
    """The format of a record.

    Raises:
        ValueError: It could be several, or none; begins with ``where``.
    """
    found = list(candidates(record, columns))
    if len(found) == 1:
        return found[0]
    fields = ", ".join(map(repr, list(record)[:SHOWN_FIELDS])) or "none"
    if found:
        raise ValueError(
            f"{where}: the format cannot be told from the fields {fields}; it could be "
            f"{' or '.join(found)}; say which with {' or '.join(f'data.format={name}' for name in found)}"
        )
    nested = next((name for name, value in record.items() if is_list_of_records(value)), None)
    if nested and len(record) == 1:
        raise ValueError(
            f"{where}: a single object whose field {nested!r} is a list; write its records one a line: "
            f"{unnest(nested)}"
        )
    raise ValueError(
        f"{where}: no format has the fields {fields}; name them, for example data.format=pair "
        'data.columns.instruction=FIELD data.columns.query="" data.columns.response=FIELD, or '
        "data.format=text data.columns.text=FIELD"
    )


def candidates(record: Record, columns: ColumnsConfig) -> Iterator[str]:
    """The formats that a record could be in."""
    single = list(single_formats(record, columns))
    several = list(conversation_formats(record, columns))
    yield from several
    yield from single
    if not single and not several and is_document(record, columns):
        yield "text"


def single_formats(record: Record, columns: ColumnsConfig) -> Iterator[str]:
    """Those of one prompt and one response."""
    if is_exam(record) and columns.instruction is None:
        yield "exam"
    if INPUT.name in record and TARGET.name in record and columns.instruction is None:
        yield "promptcblue"
    # Under names of one's own both formats read a record alike, but for what only one of them can hold.
    is_named = bool(columns.instruction and columns.response)
    is_alpaca = has(record, "alpaca", columns, "instruction", "response")
    is_pair = has(record, "pair", columns, "instruction", "response")
    if is_alpaca and not (is_named and is_pair and not (columns.history or columns.system)):
        output = record[columns.response or "output"]
        yield "preference" if isinstance(output, list) and len(output) == 2 else "alpaca"
    elif is_pair:
        yield "pair"


def conversation_formats(record: Record, columns: ColumnsConfig) -> Iterator[str]:
    """Those of turns in a list, and those of two responses."""
    messages = columns_of("messages", columns)["messages"]
    name = messages.name_in(record)
    has_sides = has(record, "preference", columns, "chosen", "rejected")
    if has_sides:
        yield "preference"
    # LLaMA-Factory's rankings hold the conversation up to the prompt, and two single responses.
    is_ranking = has_sides and not is_whole(record[columns.chosen or "chosen"])
    if name is not None and is_conversation(record[name]) and not is_ranking:
        yield "messages"


def has(record: Record, format: str, columns: ColumnsConfig, *keys: str) -> bool:
    """Whether a record has these columns of a format."""
    names = columns_of(format, columns)
    return all(names[key].name_in(record) is not None for key in keys)


def is_conversation(value: Any) -> bool:
    """Whether a value is a list of turns, also as text in a table or column by column."""
    if isinstance(value, str):
        return value.lstrip().startswith("[")
    return isinstance(value, Mapping) or is_list_of_records(value)


def is_whole(value: Any) -> bool:
    """Whether one side of a preference is a conversation rather than a response."""
    return isinstance(value, list) and len(value) > 1


def is_document(record: Record, columns: ColumnsConfig) -> bool:
    """Whether a record is a document, perhaps with a source and the like beside it."""
    name = columns.text or "text"
    return isinstance(record.get(name), str) and not any(answer in record for answer in ANSWERS)
