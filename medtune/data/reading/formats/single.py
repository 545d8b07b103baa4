"""Formats of one prompt and response, or of a document: ``promptcblue``, ``pair``, ``alpaca``, ``text``."""

from typing import Any

from medtune.data.examples import Turn
from medtune.data.reading.formats.fields import (
    Column,
    Columns,
    Record,
    Turns,
    as_prompt,
    as_response,
    as_system,
    checked_text,
    list_of,
    prompt_of,
    shown,
    text_of,
    value_of,
)

# The benchmark fixes its own field names.
INPUT = Column("data.format=promptcblue", ("input",))
TARGET = Column("data.format=promptcblue", ("target",))


def read_promptcblue(record: Record, needs_response: bool) -> Turns:
    """PromptCBLUE's ``input`` and ``target``; ``target`` is empty in files without answers."""
    return as_prompt(text_of(record, INPUT)), as_response(response_of(record, TARGET, needs_response))


def read_pair(record: Record, columns: Columns, needs_response: bool) -> Turns:
    """An instruction, perhaps a query, and a response, under any column names.

    Instruction and query are joined by a line break when there is a query, as the reference QLoRA
    project for Baichuan does.
    """
    instruction = columns["instruction"]
    prompt = prompt_of(record, instruction, columns["query"])
    response = response_of(record, columns["response"], needs_response)
    return as_prompt(prompt), as_response(response)


def read_alpaca(record: Record, columns: Columns, needs_response: bool) -> Turns:
    """LLaMA-Factory's ``instruction``, ``input``, ``output``, ``history`` and ``system``."""
    before = alpaca_context(record, columns)
    output = columns["response"]
    value = record.get(output.name)
    if isinstance(value, list) and len(value) == 2:
        raise ValueError(
            f"field {output.name!r} is a list of two, a better and a worse response; set "
            "data.format=preference"
        )
    return *before, as_response(response_of(record, output, needs_response))


def alpaca_context(record: Record, columns: Columns) -> Turns:
    """The system prompt, the earlier turns and the prompt of an ``alpaca`` or ``preference`` record."""
    system = text_of(record, columns["system"], may_be_empty=True, may_lack=True)
    earlier = history_of(record, columns["history"])
    instruction = columns["instruction"]
    prompt = prompt_of(record, instruction, columns["query"])
    return *as_system(system), *earlier, as_prompt(prompt)


def history_of(record: Record, column: Column) -> Turns:
    """Earlier turns, a list of [prompt, response] pairs; null, "" and [] are none.

    Raises:
        ValueError: It is anything else, or half of a pair is empty.
    """
    value = value_of(record, column, may_lack=True)
    if value is None or value == "":
        return ()
    turns: list[Turn] = []
    for number, pair in enumerate(list_of(value, f"field {column.name!r}"), start=1):
        prompt, response = checked_pair(pair, f"field {column.name!r}, pair {number}")
        turns += (as_prompt(prompt), as_response(response))
    return tuple(turns)


def checked_pair(pair: Any, what: str) -> tuple[str, str]:
    """The prompt and response of an earlier turn."""
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise ValueError(f"{what} must be a list [prompt, response], found {shown(pair)}")
    return checked_text(pair[0], f"{what}: its prompt"), checked_text(pair[1], f"{what}: its response")


def read_text(record: Record, columns: Columns) -> Turns:
    """A document in a column."""
    return (Turn("text", text_of(record, columns["text"]), learned=True),)


def response_of(record: Record, column: Column, needs_response: bool) -> str:
    """The response; empty where it is withheld and may be."""
    return text_of(record, column, may_be_empty=not needs_response, may_lack=not needs_response)
