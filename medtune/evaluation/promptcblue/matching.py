"""Which row of a predictions file answers which gold record."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medtune.data.reading.raw import iconv
from medtune.evaluation.promptcblue.predictions_file import Line

MAX_NAMED = 100  # that a list in scores.json holds; the counts are whole
NAME_CHARS = 80
COPIED_FIELDS = ("input", "task_dataset", "task_type", "answer_choices")  # of the test file, in a submission
ABSENT_FIELDS = {"input": "", "answer_choices": None, "task_type": ""}  # that a gold record may do without


@dataclass(slots=True)
class Matched:
    """A text for each gold record, and what did not fit."""

    texts: list[str]
    """The answers in the order of the references; empty where there is none that can be read."""
    records: list[Mapping[str, Any]] = field(default_factory=list)
    """The rows as the official script would get them. In a file of answers alone, with or without their
    ``sample_id``, each is filled up from its record."""
    found: list[Mapping[str, Any] | None] = field(default_factory=list)
    """Each reference's row."""
    rows: int = 0
    malformed: list[dict[str, Any]] = field(default_factory=list)
    """Rows without a text: their line, the reason, and whose place they have."""
    missing: list[str] = field(default_factory=list)
    """Records that no row answers."""
    unknown: list[str] = field(default_factory=list)
    """Rows that no record asks for."""
    doubled: list[str] = field(default_factory=list)
    """Rows whose record has an answer already."""

    @property
    def holes(self) -> list[str]:
        """Every record without a text, by name."""
        return [*self.missing, *(row["sample_id"] for row in self.malformed if "sample_id" in row)]

    @property
    def is_whole(self) -> bool:
        """Whether each record has a text and every row a record."""
        return not (self.malformed or self.missing or self.unknown or self.doubled)

    def to_dict(self) -> dict[str, Any]:
        """Returns the entry in scores.json: every count, and the first names of each list."""
        summary: dict[str, Any] = {"rows": self.rows}
        for kind in ("malformed", "missing", "unknown", "doubled"):
            found = getattr(self, kind)
            summary[kind] = {"count": len(found), "first": found[:MAX_NAMED]}
        return summary

    def to_text(self) -> str | None:
        """Returns what a reader should know in one line; None where everything fits."""
        parts = []
        if self.malformed:
            names = [f"line {row['line']}: {row['reason']}" for row in self.malformed]
            parts.append(f"{len(names)} malformed ({list_few(names)})")
        for kind in ("missing", "unknown", "doubled"):
            if found := getattr(self, kind):
                parts.append(f"{len(found)} {kind} ({list_few(found)})")
        if not parts:
            return None
        text = f"{self.rows} rows; {', '.join(parts)}"
        if self.missing or self.malformed:
            text += "; a record without a text counts as empty"
        if self.texts and all(row is None for row in self.found):
            text += "; NO record has a text, so every figure is that of empty answers"
        if any("UnicodeDecodeError" in row["reason"] for row in self.malformed):
            text += f"; convert a file of another encoding, for example: {iconv('GB18030')}"
        return text


def list_few(names: Sequence[str], most: int = 3) -> str:
    """Returns the first of some names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def name_id(sample_id: object) -> str:
    """Returns an id as it is shown, short and free of what a terminal would act on."""
    text = sample_id if isinstance(sample_id, str) and sample_id.isprintable() else repr(sample_id)
    return text if len(text) <= NAME_CHARS else f"{text[:NAME_CHARS]}…"


def match(records: Sequence[Mapping[str, Any]], lines: Sequence[Line]) -> Matched:
    """Finds each gold record's answer: by ``sample_id`` where a row has one, else by position.

    The first of several rows of one id counts. Rows that are no JSON object, and rows without an id, belong
    to the record in their place among the rows, unless another row has its id.
    """
    rows = [line for line in lines if not line.is_blank]
    matched = Matched([""] * len(records), found=[None] * len(records), rows=len(rows))
    owners = _find_owners(records, rows, matched)
    is_bare = not any(
        name in line.record for line in rows if line.record is not None for name in COPIED_FIELDS
    )
    for place, line in enumerate(rows):
        owner = owners.get(place)
        reason = find_malformation(line)
        if reason is not None:
            row = {"line": line.number, "reason": reason}
            if owner is not None:
                row["sample_id"] = name_record(records[owner], owner)
            matched.malformed.append(row)
        elif owner is not None and line.record is not None:
            matched.texts[owner], matched.found[owner] = line.record["target"], line.record
        if line.record is not None:
            at = place if owner is None else owner
            reference = records[at] if at < len(records) else {}
            matched.records.append({**ABSENT_FIELDS, **reference, **line.record} if is_bare else line.record)
    answered = set(owners.values())
    matched.missing = [name_record(record, i) for i, record in enumerate(records) if i not in answered]
    return matched


def find_malformation(line: Line) -> str | None:
    """Says why a row holds no text, if it does not."""
    if line.record is None:
        return line.error or "no JSON object"
    if "target" not in line.record:
        return "no target"
    target = line.record["target"]
    return None if isinstance(target, str) else f"target is {type(target).__name__}, not text"


def name_record(record: Mapping[str, Any], index: int) -> str:
    """Returns a gold record's id, or its place where it has none."""
    return name_id(record["sample_id"]) if "sample_id" in record else f"record {index + 1}"


def _find_owners(
    records: Sequence[Mapping[str, Any]], rows: Sequence[Line], matched: Matched
) -> dict[int, int]:
    """Returns the record of each row that has one, and notes the rows that have none."""
    places: dict[Any, deque[int]] = {}
    for index, record in enumerate(records):
        if _is_id(record.get("sample_id")):
            places.setdefault(record["sample_id"], deque()).append(index)
    owners: dict[int, int] = {}
    unnamed = []
    for place, line in enumerate(rows):
        sample_id = line.record.get("sample_id") if line.record is not None else None
        if sample_id is None or not places:
            unnamed.append(place)
        elif not _is_id(sample_id) or sample_id not in places:
            matched.unknown.append(name_id(sample_id))
        elif places[sample_id]:
            owners[place] = places[sample_id].popleft()
        else:
            matched.doubled.append(name_id(sample_id))
    taken = set(owners.values())
    for place in unnamed:
        if place < len(records) and place not in taken:
            owners[place] = place
        elif rows[place].record is not None:
            matched.unknown.append(f"line {rows[place].number}")
    return owners


def _is_id(value: object) -> bool:
    return isinstance(value, str | int)
