"""Multiple-choice exams: letters read from answers, and how many questions are answered right."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medtune.data.reading.formats.exam import EXAM, LETTERS, MULTIPLE, SINGLE
from medtune.evaluation.scores import Scores, TaskScore

ACCURACY, OPTION_F1 = "accuracy", "option_f1"
KIND_TASKS = (SINGLE, MULTIPLE)
MAX_SUBJECT_TASKS = 12  # columns of the table; a finer division is in scores.json alone
# CMB's six kinds of exams by its paper's names: pictures have no Chinese.
ENGLISH = {
    "医师考试": "physician",
    "护理考试": "nurse",
    "药师考试": "pharmacist",
    "医技考试": "technician",
    "专业知识考试": "disciplines",
    "医学考研": "graduate",
}

LETTER = f"[A-{LETTERS[-1]}]"
SEVERAL = rf"{LETTER}(?:[\s,、;和与及]*{LETTER})*"
END = r"(?![A-Za-z])"
BARE = re.compile(rf"\W*(?:选项?)?\W*({SEVERAL})\W*")
NAMED = re.compile(rf"(?:答案|选项|应选|故选|选择|选)[^A-Za-z。\n]{{0,8}}?({SEVERAL}){END}")
LEADING = re.compile(rf"\W*({SEVERAL}){END}")
OPTION_LINE = re.compile(rf"\W*({LETTER})\s*(?:[.,:)\s、]|$)")
THOUGHT = "</think>"


def is_exam(records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether every record holds a question that the format ``exam`` has read."""
    return bool(records) and all(isinstance(record.get(EXAM), Mapping) for record in records)


def read_letters(text: str, options: Mapping[str, str]) -> str:
    """The letters that an answer chooses, in alphabetical order; empty where it cannot be read.

    The first of these rules that finds a letter of the question decides; reasoning up to ``</think>`` is
    passed over, and full-width letters count as others.

    1. The answer is letters and punctuation alone: ``B``, ``A、C``, ``选ABD。``
    2. It names its answer: the last ``答案`` or ``选`` with letters at most eight characters behind it. (The
       last, since a model that reasons concludes.)
    3. Each of its lines begins with a letter and a mark or a space, as options are written: all of them.
    4. It begins with letters: ``B（心肌梗死）``.
    5. It is the text of one option.
    """
    plain = unicodedata.normalize("NFKC", text.rpartition(THOUGHT)[2]).strip()
    for found in _candidates(plain, options):
        letters = "".join(letter for letter in options if letter in found)
        if letters:
            return letters
    return ""


def _candidates(plain: str, options: Mapping[str, str]) -> Iterable[str]:
    if bare := BARE.fullmatch(plain.upper()) if len(plain) <= 64 else None:
        yield bare[1]
    if named := NAMED.findall(plain):
        yield named[-1]
    lines = [line for line in plain.split("\n") if line.strip()]
    listed = [match[1] for line in lines if (match := OPTION_LINE.match(line))]
    if len(listed) == len(lines) > 1:
        yield "".join(listed)
    if leading := LEADING.match(plain):
        yield leading[1]
    same = plain.strip(" .。")
    yield "".join(letter for letter, option in options.items() if _same_text(option, same))


def _same_text(option: str, answer: str) -> bool:
    return bool(answer) and unicodedata.normalize("NFKC", option).strip(" .。") == answer


def score_exam(records: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> Scores:
    """Scores one answer per question.

    Args:
        records: As the format ``exam`` leaves them. Questions without an answer of their own are not scored.
        texts: What was answered, in their order.

    Returns:
        ``accuracy`` (the headline): per cent of the questions whose letters are exactly the right ones; with
        one right letter, that one and no other. Its details have ``option_f1``, micro F1 over the letters,
        which tells half a multiple answer from none. The same for each kind of question and, where there
        are few, each kind of exam, as tasks of their own; every division of the release is under ``by``.
        An unreadable answer is wrong and one of ``parse_failures``.

    Raises:
        ValueError: The two differ in length, or no question has an answer of its own.
    """
    if len(records) != len(texts):
        raise ValueError(f"{len(records)} questions but {len(texts)} answers; pass one for each, in order")
    rows = [
        _Row(str(record.get("id", index)), record[EXAM], read_letters(text, record[EXAM]["options"]))
        for index, (record, text) in enumerate(zip(records, texts, strict=True))
        if record[EXAM]["answer"]
    ]
    if not rows:
        raise ValueError("no question has an answer to compare with")
    whole = _score(rows)
    tasks = {ACCURACY: whole}
    for task, members in _tasks(rows):
        tasks[task] = _score(members, divided=False)
    withheld = len(records) - len(rows)
    notes = (f"{withheld} questions without a gold answer are not scored",) if withheld else ()
    return Scores(
        protocol="exam",
        score=whole.score,
        official_score=None,
        official_error="no official score: exams are scored by their answers' letters",
        robust_score=whole.score,
        tasks=tasks,
        headline=ACCURACY,
        notes=notes,
    )


class _Row:
    """One question and the letters that were read."""

    def __init__(self, name: str, question: Mapping[str, Any], letters: str) -> None:
        self.name = name
        self.gold: str = question["answer"]
        self.letters = letters
        self.groups: dict[str, str] = {"question_type": question["kind"], **question["subjects"]}

    @property
    def is_right(self) -> bool:
        return self.letters == self.gold


def _score(rows: Sequence[_Row], *, divided: bool = True) -> TaskScore:
    hits = sum(len(set(row.letters) & set(row.gold)) for row in rows)
    chosen, wanted = sum(len(row.letters) for row in rows), sum(len(row.gold) for row in rows)
    details = {
        ACCURACY: _accuracy(rows),
        OPTION_F1: 200 * hits / (chosen + wanted),
        "option_precision": 100 * hits / chosen if chosen else 0.0,
        "option_recall": 100 * hits / wanted,
    }
    failures = tuple(row.name for row in rows if not row.letters)
    by = _divide(rows) if divided else {}
    return TaskScore(ACCURACY, details[ACCURACY], len(rows), details, failures, by=by)


def _accuracy(rows: Sequence[_Row]) -> float:
    return 100 * sum(row.is_right for row in rows) / len(rows)


def _divide(rows: Sequence[_Row]) -> dict[str, dict[str, dict[str, float]]]:
    """Accuracy and rows by every division that the questions have."""
    names = dict.fromkeys(name for row in rows for name in row.groups)
    return {
        name: {
            value: {ACCURACY: _accuracy(members), "rows": len(members)}
            for value, members in _group(rows, name).items()
        }
        for name in names
    }


def _group(rows: Sequence[_Row], name: str) -> dict[str, list[_Row]]:
    groups: dict[str, list[_Row]] = {}
    for row in rows:
        groups.setdefault(row.groups.get(name, "-"), []).append(row)
    return groups


def _tasks(rows: Sequence[_Row]) -> Iterable[tuple[str, list[_Row]]]:
    """What gets a column of its own: the kinds of questions, and the widest division by subject."""
    kinds = _group(rows, "question_type")
    if len(kinds) > 1:
        yield from ((kind, kinds[kind]) for kind in KIND_TASKS if kind in kinds)
    widest = next((name for name in rows[0].groups if name != "question_type"), None)
    subjects = _group(rows, widest) if widest else {}
    if 1 < len(subjects) <= MAX_SUBJECT_TASKS:
        yield from ((ENGLISH.get(name, name), members) for name, members in subjects.items())
