"""How well a model foretells given texts: loss, perplexity, and bits per character, by source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medtune.evaluation.report import Grid, grid_table, grid_text

if TYPE_CHECKING:
    from rich.table import Table

ALL = "all"
HEADER = ["source", "docs", "tokens", "chars", "loss", "perplexity", "bits/char"]


@dataclass(frozen=True)
class Perplexity:
    """What was counted over some documents.

    Attributes:
        cross_entropy: Of all learned tokens together, in nats.
        tokens: Learned tokens: what the objective learns, but for the first token of a row.
        characters: Of their text, as the tokenizer decodes it; control tokens have none.
        documents: Records that were kept.
    """

    cross_entropy: float
    tokens: int
    characters: int
    documents: int

    def __add__(self, other: Perplexity) -> Perplexity:
        return Perplexity(
            self.cross_entropy + other.cross_entropy,
            self.tokens + other.tokens,
            self.characters + other.characters,
            self.documents + other.documents,
        )

    @property
    def loss(self) -> float | None:
        """Nats per learned token: what training reports as ``val/loss``. None without any."""
        return self.cross_entropy / self.tokens if self.tokens else None

    @property
    def perplexity(self) -> float | None:
        """The exponential of the loss; per token, so that models with other tokenizers cannot be compared."""
        if self.loss is None:
            return None
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_character(self) -> float | None:
        """What the text costs whatever the tokenizer; tokens that end a text are paid for, but no text."""
        return self.cross_entropy / math.log(2) / self.characters if self.characters else None

    def to_dict(self) -> dict[str, Any]:
        """The entry in scores.json."""
        perplexity = self.perplexity
        return {
            "loss": self.loss,
            "perplexity": None if perplexity is None or math.isinf(perplexity) else perplexity,
            "bits_per_character": self.bits_per_character,
            "learned_tokens": self.tokens,
            "characters": self.characters,
            "documents": self.documents,
        }


def total(sources: Mapping[str, Perplexity]) -> Perplexity:
    """All sources together, each token counting alike."""
    return sum(sources.values(), Perplexity(0.0, 0, 0, 0))


def split_entry(sources: Mapping[str, Perplexity]) -> dict[str, Any]:
    """A split in scores.json: the whole, and each source."""
    return {
        **total(sources).to_dict(),
        "sources": {name: source.to_dict() for name, source in sources.items()},
    }


def lay_out(sources: Mapping[str, Perplexity]) -> Grid:
    """The cells of the table, header first; several sources have a last row for all of them."""
    rows = dict(sources) | ({ALL: total(sources)} if len(sources) > 1 else {})
    return [HEADER, *([name, *_cells(row)] for name, row in rows.items())]


def _cells(row: Perplexity) -> list[str]:
    counts = [f"{count:,}" for count in (row.documents, row.tokens, row.characters)]
    figures = zip((row.loss, row.perplexity, row.bits_per_character), (4, 3, 4), strict=True)
    return [*counts, *("-" if value is None else f"{value:.{digits}f}" for value, digits in figures)]


def perplexity_table(sources: Mapping[str, Perplexity], title: str) -> Table:
    """The table for the terminal."""
    return grid_table(lay_out(sources), title)


def perplexity_text(sources: Mapping[str, Perplexity], title: str) -> str:
    """The same as Markdown."""
    return grid_text(lay_out(sources), title)
