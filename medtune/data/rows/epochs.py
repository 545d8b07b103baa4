"""An epoch of a split: the documents that the mix draws, packed into rows."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from medtune.config.schema import DataConfig
from medtune.data.parts import Part, offsets_of
from medtune.data.rows.lengths import Pieces, learned_of_texts
from medtune.data.rows.mix import Draw, Mixture, draw_documents, mixture_of, scaled, seed_of, shares_of
from medtune.data.rows.packing import Ints, Rows, pack, row_sums

FIT_TRIES = 12
FIT_MARGIN = 1.002  # rows too many that are aimed at, since rows are not quite proportional to tokens
FIT_ENOUGH = 1.01

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Epoch:
    """The rows of an epoch.

    Attributes:
        rows: Documents are numbered through all parts.
        learned_of_pieces: Learned tokens of each piece of the rows.
        documents: Documents drawn of each part.
    """

    rows: Rows
    learned_of_pieces: Ints
    documents: Ints

    @cached_property
    def learned(self) -> Ints:
        """Learned tokens of each row."""
        return row_sums(self.learned_of_pieces, self.rows.offsets)


class EpochPacker:
    """Draws and packs the epochs of a split: each a pure function of the seed and its number.

    Args:
        parts: With final fates.
        pieces: Of their kept documents, numbered through all parts.
        data: Packing and mix.
        seed: Of both.
        is_mixed: Whether weights hold; otherwise an epoch shows everything once.
    """

    def __init__(
        self, parts: Sequence[Part], pieces: Pieces, data: DataConfig, seed: int, *, is_mixed: bool
    ) -> None:
        self.parts, self.pieces, self.data, self.seed = parts, pieces, data, seed
        self.names = [part.name for part in parts]
        self.sources = [part.source for part in parts]
        self.unit = data.mix_by if is_mixed else "tokens"
        self.offsets = offsets_of(parts)
        self.kept = [part.kept + first for part, first in zip(parts, self.offsets[:-1], strict=True)]
        self.sizes = np.array([self.sizes_of_documents[kept].sum() for kept in self.kept], dtype=np.int64)

    @cached_property
    def sizes_of_documents(self) -> Ints:
        """Size of every document in the unit of the mix; of those left out 0 or of no use."""
        count = int(self.offsets[-1])
        if self.unit != "tokens":
            return np.ones(count, dtype=np.int64)
        return sums_by(self.pieces.document, self.pieces.end - self.pieces.start, count)

    @cached_property
    def pieces_before(self) -> Ints:
        """How many pieces belong to earlier documents, for each document and one past the last."""
        counts = np.bincount(self.pieces.document, minlength=int(self.offsets[-1]))
        return np.concatenate([[0], np.cumsum(counts)])

    def part_of(self, documents: Ints) -> Ints:
        """The number of the part that each document belongs to."""
        result: Ints = np.searchsorted(self.offsets, documents, side="right") - 1
        return result

    def everything(self) -> Mixture:
        """Each document once."""
        return Mixture(shares_of(self.sizes), np.ones(len(self.parts)))

    def mixture(self, max_steps: int | None, rows_per_step: int) -> Mixture:
        """What the weights ask for; see :func:`~medtune.data.rows.mix.mixture_of`.

        Args:
            max_steps: Steps that an epoch has to last for ``data.mix_stop=steps``.
            rows_per_step: Rows of a step.

        Raises:
            ValueError: The weights make no mix.
        """
        mixture = mixture_of(self.sizes, self.sources, self.data)
        if self.data.mix_stop != "steps" or self.unit == "epochs":
            return mixture
        if max_steps is None:
            raise ValueError(
                "data.mix_stop=steps ends the mix after trainer.max_steps; set trainer.max_steps=N"
            )
        return self.fitted(mixture, max_steps * rows_per_step)

    def fitted(self, mixture: Mixture, needed: int) -> Mixture:
        """The mix in a first epoch of as many rows as are needed and hardly more."""
        factor, best, before = needed / self.least_rows(mixture), None, mixture
        for _ in range(FIT_TRIES):
            candidate = scaled(mixture, factor * FIT_MARGIN, self.sources)
            count = len(self.pack(candidate, 0).rows)
            if count >= needed:
                best = candidate
            is_near = needed <= count <= needed * FIT_ENOUGH + 1
            if is_near or (candidate.passes == before.passes).all():  # nothing more to gain
                break
            before = candidate
            factor *= needed / max(1, count)
        if best is None:
            log.warning("data: max_passes leaves the mix short of trainer.max_steps; a second epoch follows")
        return best or candidate

    def least_rows(self, mixture: Mixture) -> float:
        """Rows of an average epoch without padding, which no packing undercuts."""
        owner, count = self.part_of(self.pieces.document), len(self.parts)
        if self.data.packing == "none":
            return float(mixture.passes @ np.bincount(owner, minlength=count))
        tokens = sums_by(owner, self.pieces.end - self.pieces.start, count)
        return float(mixture.passes @ tokens / self.data.sequence_length)

    def pack(self, mixture: Mixture, epoch: int) -> Epoch:
        """Draws and packs an epoch."""
        drawn = [
            kept[draw_documents(self.sizes_of_documents[kept], passes, seed_of(name, self.seed), epoch)]
            for kept, passes, name in zip(self.kept, mixture.passes.tolist(), self.names, strict=True)
        ]
        chosen = self.pieces_of(np.concatenate(drawn))
        pieces, data = self.pieces, self.data
        seed = self.seed if mixture.is_constant else [self.seed, epoch]
        groups = self.groups_of(pieces.document[chosen])
        rows = pack(
            chosen, pieces.start[chosen], pieces.end[chosen], data.sequence_length, data.packing, seed, groups
        )
        is_cut = data.packing == "concat"
        learned = learned_of_texts(rows.start, rows.end) if is_cut else pieces.learned[rows.document]
        rows = replace(rows, document=pieces.document[rows.document])
        return Epoch(rows, learned, np.array([len(documents) for documents in drawn]))

    def pieces_of(self, documents: Ints) -> Ints:
        """All pieces of the given documents, each as often as its document is given."""
        firsts = self.pieces_before[documents]
        if len(self.pieces) == sum(map(len, self.kept)):
            return firsts
        counts = self.pieces_before[documents + 1] - firsts
        before = np.cumsum(counts) - counts
        result: Ints = np.repeat(firsts - before, counts) + np.arange(int(counts.sum()))
        return result

    def groups_of(self, documents: Ints) -> Ints | None:
        """What ``data.pack_groups`` keeps apart."""
        if self.data.pack_groups == "source":
            return self.part_of(documents)
        if self.data.pack_groups == "turns":
            responses = np.concatenate([part.store.responses for part in self.parts])
            return (responses[documents] > 1).astype(np.int64)
        return None

    def draw_of(self, mixture: Mixture, packed: Epoch) -> Draw:
        """What an epoch shows of each source."""
        owner, count = self.part_of(packed.rows.document), len(self.parts)
        tokens = sums_by(owner, packed.rows.end - packed.rows.start, count)
        drawn = tokens if self.unit == "tokens" else packed.documents
        passes = drawn / np.maximum(self.sizes, 1)
        return Draw(
            documents=packed.documents,
            tokens=tokens,
            learned=sums_by(owner, packed.learned_of_pieces, count),
            wanted=mixture.wanted,
            realised=passes if self.unit == "epochs" else shares_of(drawn),
            passes=passes,
        )


def sums_by(groups: Ints, values: Ints, count: int) -> Ints:
    """Sum of the values of each of ``count`` groups; exact below 2**53."""
    return np.bincount(groups, weights=values, minlength=count).astype(np.int64)
