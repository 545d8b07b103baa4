"""Which columns each format reads, and the names that they have unless the settings give others."""

from dataclasses import fields

from medtune.config.schema import ColumnsConfig

SINGLE = {"instruction": ("instruction",), "query": ("input",), "response": ("output",)}
BEFORE = {"system": ("system",), "history": ("history",)}
TURN = {"role": ("role", "from"), "content": ("content", "value")}

FORMAT_COLUMNS: dict[str, dict[str, tuple[str, ...]]] = {
    "promptcblue": {},  # the benchmark fixes its own
    "pair": {"instruction": ("instruct",), "query": ("query",), "response": ("answer",)},
    "alpaca": {**SINGLE, **BEFORE},
    "messages": {"messages": ("messages", "conversations"), "system": ("system",), **TURN},
    "preference": {
        **{"chosen": ("chosen",), "rejected": ("rejected",), "messages": ("conversations", "messages")},
        **SINGLE,
        **BEFORE,
        **TURN,
    },
    "text": {"text": ("text",)},
}
"""By format, the columns that it reads by their key, each with its usual names, the commonest first."""


def unread_columns(format: str, columns: ColumnsConfig) -> list[str]:
    """The keys of ``data.columns`` that are set although ``format`` does not read such a column."""
    if format not in FORMAT_COLUMNS:
        return []
    names = [item.name for item in fields(columns)]
    return [name for name in names if getattr(columns, name) and name not in FORMAT_COLUMNS[format]]
