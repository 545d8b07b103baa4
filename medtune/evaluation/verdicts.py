"""Single answers beside what was wanted, for a person to look through."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from medtune.data.examples import Example
from medtune.data.reading.formats.exam import EXAM
from medtune.evaluation.exam import is_exam, read_letters
from medtune.evaluation.promptcblue.protocols import find_protocol
from medtune.evaluation.promptcblue.records import is_right, parse_again, read_references, read_rows
from medtune.evaluation.systems import gold, is_promptcblue


class Verdict(NamedTuple):
    """One answer.

    Attributes:
        task: Empty where the data have none.
        parsed: What the text is read as.
        right: Whether nothing is missing in that and nothing too much.
        is_readable: Whether the text has the form of an answer.
    """

    task: str
    input: str
    gold: str
    prediction: str
    parsed: str
    right: bool
    is_readable: bool


def judge_answers(examples: Sequence[Example], texts: Sequence[str], protocol: str) -> list[Verdict]:
    """A verdict on each answer, in order."""
    if is_exam([example.record for example in examples]):
        return [judge_letters(example, text) for example, text in zip(examples, texts, strict=True)]
    if not is_promptcblue(examples):
        return [
            Verdict("", example.prompt, gold(example), text, text, text == gold(example).strip(), bool(text))
            for example, text in zip(examples, texts, strict=True)
        ]
    rules = find_protocol(protocol)
    rows = read_rows(read_references([example.record for example in examples], rules), texts, rules)
    verdicts = []
    for row, example, text in zip(rows, examples, texts, strict=True):
        parsed = json.dumps(parse_again(row, text, rules), ensure_ascii=False, default=str)
        verdicts.append(
            Verdict(
                *(row.task.name, example.prompt, gold(example), text, parsed),
                *(row.is_readable and is_right(row), row.is_readable),
            )
        )
    return verdicts


def judge_letters(example: Example, text: str) -> Verdict:
    """A verdict on the answer to an exam's question."""
    question = example.record[EXAM]
    letters = read_letters(text, question["options"])
    right = bool(letters) and letters == question["answer"]
    return Verdict("", example.prompt, gold(example), text, letters, right, bool(letters))
