"""Answers that list entities, a line each: ``entity_type``, as the MSRA set's are. F1 over (entity, type)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medtune.evaluation.scores import TaskScore

ENTITY_F1 = "entity_f1"
MARK = "_"  # parts an entity from its type
MAX_TYPES = 64  # more are no types, but words that happen to follow an underscore

Entity = tuple[str, str]


@dataclass
class Tally:
    """Entities that are right, wanted and found."""

    hits: int = 0
    wanted: int = 0
    found: int = 0

    def add(self, wanted: set[Entity], found: set[Entity]) -> None:
        """Counts one row."""
        self.hits += len(wanted & found)
        self.wanted += len(wanted)
        self.found += len(found)

    def details(self) -> dict[str, float]:
        """F1, precision and recall, 0-100; where nothing is wanted and nothing found, all are 100."""
        total = self.wanted + self.found
        return {
            "f1": 200 * self.hits / total if total else 100.0,
            "precision": 100 * self.hits / self.found if self.found else 100.0 * (not total),
            "recall": 100 * self.hits / self.wanted if self.wanted else 100.0 * (not total),
        }


def read_entity(line: str) -> Entity | None:
    """The entity and type of a line; the last underscore parts them. None: it is no such line."""
    entity, _, kind = line.strip().rpartition(MARK)
    entity, kind = entity.strip(), kind.strip()
    return (entity, kind) if entity and kind else None


def read_entities(text: str) -> set[Entity]:
    """The entities of an answer, whatever their order and however often each is named."""
    return {entity for line in text.split("\n") if (entity := read_entity(line)) is not None}


def lists_entities(references: Sequence[str]) -> bool:
    """Whether gold answers are lists of entities.

    Every line is an entity with its type, but for answers of one line that say that there is none, all in the
    same words.
    """
    types: set[str] = set()
    without: set[str] = set()
    for reference in references:
        lines = [line for line in reference.split("\n") if line.strip()]
        entities = [read_entity(line) for line in lines]
        if len(lines) <= 1 and not any(entities):
            without.add(reference.strip())
        elif not all(entities):
            return False
        types |= {entity[1] for entity in entities if entity}
    return bool(types) and len(types) <= MAX_TYPES and len(without - {""}) <= 1


def score_entities(references: Sequence[str], predictions: Sequence[str]) -> TaskScore:
    """Micro F1 over the rows' sets of (entity, type); by type too.

    An answer without any entity counts as an empty list. It is a parse failure unless it is what the gold
    answers say where there is none.
    """
    whole, failures = Tally(), []
    # Types that no gold answer has are wrong in the whole, and none to report on.
    by_type = {kind: Tally() for text in references for _, kind in sorted(read_entities(text))}
    nothing = {"", *(text.strip() for text in references if not read_entities(text))}
    for index, (reference, prediction) in enumerate(zip(references, predictions, strict=True)):
        wanted, found = read_entities(reference), read_entities(prediction)
        if not prediction.strip() or (not found and prediction.strip() not in nothing):
            failures.append(str(index))
        whole.add(wanted, found)
        for kind in {kind for _, kind in wanted | found} & by_type.keys():
            by_type[kind].add({e for e in wanted if e[1] == kind}, {e for e in found if e[1] == kind})
    details = whole.details()
    by = {kind: tally.details() | {"entities": tally.wanted} for kind, tally in by_type.items()}
    return TaskScore(
        ENTITY_F1, details["f1"], len(references), details, parse_failures=tuple(failures), by={"type": by}
    )
