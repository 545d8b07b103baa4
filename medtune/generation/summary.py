"""What is told of answers: their number, their speed, and all that was cut."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from medtune.generation.parts import numbers

log = logging.getLogger(__name__)


class Told(Protocol):
    """An answer, in memory or in a part."""

    @property
    def tokens(self) -> int:
        """Of the answer."""

    @property
    def is_cut(self) -> bool:
        """Whether the most tokens, and no stop token, ended it."""

    @property
    def prompt_cut(self) -> int:
        """Tokens that the prompt lost to fit the context."""


@dataclass(frozen=True)
class Spent:
    """What this command did, which may be less than what it found and tells of.

    Attributes:
        seconds: That answering took.
        answers: That were given in them.
        tokens: Of those answers.
    """

    seconds: float = 0.0
    answers: int = 0
    tokens: int = 0


def summary(answers: Mapping[int, Told], spent: Spent) -> dict[str, Any]:
    """What result.json says of answers by row; in it, rows count from 1."""
    told = sorted(answers.items())
    return {
        "rows": len(answers),
        "tokens": sum(answer.tokens for answer in answers.values()),
        "answered_now": spent.answers,
        "seconds": round(spent.seconds, 3),
        "tokens_per_second": round(spent.tokens / max(spent.seconds, 1e-3), 1),
        "cut_prompts": [
            {"row": row + 1, "tokens": answer.prompt_cut} for row, answer in told if answer.prompt_cut
        ],
        "cut_answers": [row + 1 for row, answer in told if answer.is_cut],
    }


def log_summary(found: Mapping[str, Any], what: str) -> None:
    """One line on the speed, and one for each kind of text that was cut."""
    log.info(
        "%s: %d answers in %.1f s, %.0f tokens/s",
        *(what, found["answered_now"], found["seconds"], found["tokens_per_second"]),
    )
    if cut := found["cut_prompts"]:
        log.warning(
            "warning: %s: %d of %d prompts were too long for the model's context and were cut in the middle "
            "of their text: %s",
            *(what, len(cut), found["rows"], numbers([entry["row"] for entry in cut])),
        )
    if cut := found["cut_answers"]:
        log.warning(
            "warning: %s: %d of %d answers had not ended when they had as many tokens as they may have "
            "(generate.max_new_tokens, or what the context leaves): %s",
            *(what, len(cut), found["rows"], numbers(cut)),
        )
