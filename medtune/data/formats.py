"""From records to :class:`~medtune.data.examples.Example`: one function per format."""

import difflib
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from medtune.config.schema import ColumnsConfig, DataConfig
from medtune.data.examples import Example, Turn
from medtune.data.sources import read_lines, read_records

PROMPTCBLUE_FIELDS = ("input", "target", "answer_choices", "task_type", "task_dataset", "sample_id")

Reader = Callable[[Mapping[str, Any], ColumnsConfig, bool], tuple[Turn, ...]]


def read_examples(path: Path, data: DataConfig, *, needs_response: bool) -> Iterator[Example]:
    """Reads a file in ``data.format``, at most ``data.max_examples`` of it.

    Args:
        path: The file.
        data: Format, columns, limit.
        needs_response: Refuse examples without a response. Training needs one; a test file whose
            targets are withheld has none.

    Raises:
        ValueError: A record that is not in the format; names file, line and field.
    """
    examples = read_text(path, data) if is_plain_text(path, data) else read_turns(path, data, needs_response)
    return islice(examples, data.max_examples)


def is_plain_text(path: Path, data: DataConfig) -> bool:
    """Whether each line of the file is a document by itself."""
    return data.format == "text" and ".txt" in path.suffixes


def read_text(path: Path, data: DataConfig) -> Iterator[Example]:
    """One document per line."""
    for number, line in read_lines(path):
        yield Example((Turn("text", line, learned=True),), str(path), number)


def read_turns(path: Path, data: DataConfig, needs_response: bool) -> Iterator[Example]:
    """One example per record."""
    to_turns = READERS[data.format]
    for number, record in read_records(path):
        try:
            turns = to_turns(record, data.columns, needs_response)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from error
        yield Example(turns, str(path), number, record)


def promptcblue(record: Mapping[str, Any], columns: ColumnsConfig, needs_response: bool) -> tuple[Turn, ...]:
    """PromptCBLUE's ``input`` and ``target``; ``target`` is empty in files without answers."""
    del columns  # the benchmark fixes its own field names
    prompt = text_of(record, "input", "data.format=promptcblue")
    response = text_of(record, "target", "data.format=promptcblue", may_be_empty=not needs_response)
    return Turn("prompt", prompt, learned=False), Turn("response", response, learned=True)


def pair(record: Mapping[str, Any], columns: ColumnsConfig, needs_response: bool) -> tuple[Turn, ...]:
    """An instruction, perhaps a query, and a response, under any column names.

    Instruction and query are joined by a line break when there is a query, as the reference QLoRA
    project for Baichuan does.
    """
    instruction = text_of(record, columns.instruction, "data.columns.instruction", may_be_empty=True)
    query = text_of(record, columns.query, "data.columns.query", may_be_empty=True) if columns.query else ""
    prompt = f"{instruction}\n{query}" if instruction and query else instruction or query
    if not prompt:
        raise ValueError(f"both {columns.instruction!r} and {columns.query!r} are empty; there is no prompt")
    response = text_of(record, columns.response, "data.columns.response", may_be_empty=not needs_response)
    return Turn("prompt", prompt, learned=False), Turn("response", response, learned=True)


def text(record: Mapping[str, Any], columns: ColumnsConfig, needs_response: bool) -> tuple[Turn, ...]:
    """A document in a column."""
    del needs_response
    return (Turn("text", text_of(record, columns.text, "data.columns.text"), learned=True),)


READERS: dict[str, Reader] = {"promptcblue": promptcblue, "pair": pair, "text": text}


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


def split_path(data: DataConfig, split: str) -> Path:
    """The file of a split.

    Raises:
        ValueError: There is no such split; names those there are.
    """
    if split not in data.splits:
        near = difflib.get_close_matches(split, list(data.splits), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join(data.splits) or "none"
        raise ValueError(f"data={data.name} has no split {split!r}, only {known}{hint}")
    return Path(data.dir or ".") / data.splits[split]
