"""The one form in which examples are held in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Turn:
    """A stretch of an example by one speaker.

    Attributes:
        role: ``system`` (first only), ``prompt``, ``response``, or ``text`` for a plain document.
        text: The words, before any template.
        learned: Whether masked fine-tuning learns it; continued pretraining learns everything.
    """

    role: str
    text: str
    learned: bool


@dataclass(frozen=True, slots=True)
class Example:
    """One record, and where it came from.

    Attributes:
        turns: Perhaps a system prompt, then prompts and responses in turn, the last a response (of no
            characters where it is withheld); or a single ``text``.
        file: The file it was read from.
        line: Its line there, from 1, or its number; see :func:`medtune.data.reading.records.read_raw`.
        record: The record as read, for scoring; empty for plain text.
        rejected: The worse response of preference data.
    """

    turns: tuple[Turn, ...]
    file: str
    line: int
    record: Mapping[str, Any] = field(default_factory=dict)
    rejected: str | None = None

    @property
    def where(self) -> str:
        """``file:line``, as error messages begin."""
        return f"{self.file}:{self.line}"

    @property
    def prompt(self) -> str:
        """The last prompt: what is asked for in generation."""
        return next(turn.text for turn in reversed(self.turns) if turn.role != "response")
