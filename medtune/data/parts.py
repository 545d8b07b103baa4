"""One source's share of a split: its tokens, and what became of each document."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medtune.config.schema import SourceConfig
from medtune.data.fates import Fate
from medtune.data.tokens.store import TokenStore

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """One source in one split.

    Attributes:
        name: Of the source.
        split: As the source calls it: ``train`` also where ``validation`` is held out of it.
        source: Its settings.
        store: Its tokens.
        objective: What is learned of it: ``sft`` or ``pretrain``.
        fates: One :class:`~medtune.data.fates.Fate` per document of the store, uint8.
    """

    name: str
    split: str
    source: SourceConfig
    store: TokenStore
    objective: str
    fates: NDArray[np.uint8]

    @property
    def kept(self) -> Ints:
        """The documents that stay, in the order of the source."""
        return np.flatnonzero(self.fates == Fate.KEPT)


def offsets_of(parts: Sequence[Part]) -> Ints:
    """Where each part's documents begin when the parts are numbered through, and one past the last."""
    return np.cumsum([0, *(len(part.store) for part in parts)])
