"""The one form in which examples are held in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Turn:
    """A stretch of an example by one speaker.

    Attributes:
        role: ``prompt``, ``response``, or ``text`` for a plain document.
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
        turns: Prompts and responses in order, or a single ``text``.
        file: The file it was read from.
        line: Its line there, from 1 (in a JSON array: its number).
        record: The record as read, for scoring; empty for plain text.
    """

    turns: tuple[Turn, ...]
    file: str
    line: int
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """``file:line``, as error messages begin."""
        return f"{self.file}:{self.line}"

    @property
    def prompt(self) -> str:
        """The last prompt: what is asked for in generation."""
        return next(turn.text for turn in reversed(self.turns) if turn.role != "response")
