"""Multiple-choice questions, as CMB, CMExam and C-Eval are released: the format ``exam``."""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any

from medtune.data.reading.formats.fields import (
    Column,
    Record,
    Turns,
    as_prompt,
    as_response,
    checked_text,
    shown,
    text_of,
    value_of,
)

EXAM = "exam"  # the field of a record under which the question lies, parsed
LETTERS = "ABCDEFGH"
SINGLE, MULTIPLE, UNKNOWN = "single", "multiple", "unknown"

# Each with the names that the releases have: CMB and C-Eval write them small, CMExam with a capital.
QUESTION = Column("data.format=exam", ("question", "Question"))
OPTIONS = Column("data.format=exam", ("option", "options", "Options"))
ANSWER = Column("data.format=exam", ("answer", "Answer"))
KIND = Column("data.format=exam", ("question_type",))
# From the widest to the narrowest: CMB's three; CMExam's in the files with annotations.
SUBJECTS = ("exam_type", "exam_class", "exam_subject", "Clinical Department", "Medical Discipline")
SPLIT_IN_NAME = re.compile(r"[_-](dev|val|validation|test|train)$")
OPTION_LINE = re.compile(r"\(?([A-H])\)?\s*[.．、:：)）]?\s*(.*)")

INSTRUCTIONS = {
    SINGLE: "下面是{exam}一道单项选择题，只有一个选项正确。请直接写出正确选项的字母，不要解释。",
    MULTIPLE: "下面是{exam}一道多项选择题，有一个或多个选项正确。请直接写出全部正确选项的字母，不要解释。",
    UNKNOWN: "下面是{exam}一道选择题，有一个或多个选项正确。请直接写出全部正确选项的字母，不要解释。",
}


@dataclass(frozen=True)
class Question:
    """A question of an exam.

    Attributes:
        text: What is asked.
        options: By their letters, in order.
        answer: The right letters in alphabetical order; empty where they are withheld.
        kind: ``single``, ``multiple``, or ``unknown`` where the release does not tell (CMExam).
        subjects: What it is about, from the widest to the narrowest, by the release's own names.
    """

    text: str
    options: Mapping[str, str]
    answer: str
    kind: str
    subjects: Mapping[str, str]

    @property
    def prompt(self) -> str:
        """The text that is answered by letters."""
        exam = "·".join(self.subjects[name] for name in ("exam_type", "exam_class") if name in self.subjects)
        instruction = INSTRUCTIONS[self.kind].format(exam=f"{exam}的" if exam else "")
        options = [f"{letter}. {text}" for letter, text in self.options.items()]
        return "\n".join([instruction, self.text, *options, "答案："])


def read_exam(record: Record, file: str, needs_response: bool) -> tuple[Turns, dict[str, Any]]:
    """The turns of a question, and its record with the parsed question under ``exam``.

    Args:
        record: As released, with the options in one field or in fields of their own (A, B, ...).
        file: Where it stands: C-Eval has a file for each subject, and nothing else says which.
        needs_response: Refuse a question without its answer.
    """
    question = question_of(record, file, needs_response)
    turns = as_prompt(question.prompt), as_response(question.answer)
    return turns, {**record, EXAM: asdict(question)}


def question_of(record: Record, file: str, needs_response: bool) -> Question:
    """The question in a record.

    Raises:
        ValueError: It has less than two options, or an answer that is none of them.
    """
    options = dict(sorted(options_of(record)))
    answer = text_of(record, ANSWER, may_be_empty=not needs_response, may_lack=not needs_response)
    letters = letters_in(answer, f"field {ANSWER.name_in(record)!r}") if answer.strip() else ""
    options = {letter: text for letter, text in options.items() if text or letter in letters}
    if len(options) < 2:
        raise ValueError(f"a question needs two options at least, found {', '.join(options) or 'none'}")
    if missing := [letter for letter in letters if letter not in options]:
        raise ValueError(f"the answer is {answer!r}, but there is no option {', '.join(missing)}")
    text = text_of(record, QUESTION).strip()
    return Question(text, options, letters, kind_of(record), subjects_of(record, file))


def letters_in(text: str, what: str) -> str:
    """The letters of an answer (``B``, ``ABD``, ``A,B``), each once, in order.

    Raises:
        ValueError: There is anything else in it; ``what`` it is begins the error.
    """
    plain = re.sub(r"[\s,，、;；.。]", "", unicodedata.normalize("NFKC", text)).upper()
    if not plain or not set(plain) <= set(LETTERS):
        raise ValueError(f"{what} must be letters of options, from A to {LETTERS[-1]}, found {shown(text)}")
    return "".join(sorted(set(plain)))


def options_of(record: Record) -> Iterator[tuple[str, str]]:
    """Letters and texts of the options; a text is empty where the release leaves it so.

    Raises:
        ValueError: They are in no form that is known, or a letter stands for two.
    """
    if OPTIONS.name_in(record) is None and "A" in record:
        yield from ((letter, text_at(record[letter], letter)) for letter in LETTERS if letter in record)
        return
    value = value_of(record, OPTIONS)
    what = f"field {OPTIONS.name_in(record)!r}"
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{what} is no JSON object: {error}") from error
    if isinstance(value, Mapping):
        yield from ((letter_of(key, what), text_at(text, key)) for key, text in value.items())
    elif isinstance(value, list):
        yield from (
            (letter_of(LETTERS[place : place + 1], what), checked_text(text, what))
            for place, text in enumerate(value)
        )
    else:
        yield from option_lines(checked_text(value, what), what)


def option_lines(text: str, what: str) -> Iterator[tuple[str, str]]:
    """Options a line each, ``A text``; a line that begins with none goes on with the one before."""
    found: dict[str, str] = {}
    letter = ""
    for line in filter(None, map(str.strip, text.splitlines())):
        match = OPTION_LINE.fullmatch(line)
        # Only the next letter due: a line such as "C反应蛋白升高" may go on with option A.
        if match and match[1] == LETTERS[len(found) : len(found) + 1]:
            letter = match[1]
            found[letter] = match[2]
        elif letter:
            found[letter] += f" {line}"
        else:
            raise ValueError(f"{what} must begin with option A, a line for each, found {shown(text)}")
    yield from found.items()


def letter_of(key: Any, what: str) -> str:
    """The letter that an option goes by."""
    if not isinstance(key, str) or len(key.strip()) != 1 or key.strip().upper() not in LETTERS:
        raise ValueError(f"{what}: an option goes by a letter from A to {LETTERS[-1]}, found {shown(key)}")
    return key.strip().upper()


def text_at(value: Any, letter: str) -> str:
    """An option's text; empty for null, as tables for several kinds of exam leave letters unused."""
    text = "" if value is None else checked_text(value, f"option {letter!r}", may_be_empty=True)
    return text.strip()


def kind_of(record: Record) -> str:
    """Whether one option is right or several may be.

    C-Eval asks for one. CMExam does not tell, and the number of right letters must not give it away.
    """
    if KIND.name_in(record) is not None:
        return MULTIPLE if "多" in text_of(record, KIND, may_be_empty=True) else SINGLE
    return SINGLE if OPTIONS.name_in(record) is None else UNKNOWN


def subjects_of(record: Record, file: str) -> dict[str, str]:
    """What a question is about; of C-Eval, whose fields do not say, the name of its file less the split's."""
    named = {name: str(record[name]).strip() for name in SUBJECTS if record.get(name)}
    if named or OPTIONS.name_in(record) is not None:
        return named
    return {"subject": SPLIT_IN_NAME.sub("", PurePath(file).name.split(".")[0])}


def is_exam(record: Record) -> bool:
    """Whether a record is a question with options and has none of what other formats go by."""
    has_options = OPTIONS.name_in(record) is not None or all(letter in record for letter in "ABCD")
    return QUESTION.name_in(record) is not None and has_options
