"""Which columns each format reads, and the names that they have unless the settings give others."""

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
        "instruction": ("instruction", "prompt", "question"),
        **BEFORE,
        **TURN,
    },
    "text": {"text": ("text",)},
    "exam": {},  # the fields of the released exams; see data/reading/formats/exam.py
}
"""By format, the columns that it reads by their key, each with its usual names, the commonest first."""
