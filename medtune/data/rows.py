"""A split as rows to learn: lengths settled, each epoch's mix drawn and packed, learned tokens counted."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from medtune.config.schema import DataConfig
from medtune.data.fates import Fate
from medtune.data.lengths import Pieces, key_of, learned_of_texts, settle
from medtune.data.mix import Draw, Mixture, draw_documents, mixture_of, scaled, seed_of, shares_of
from medtune.data.packing import Ints, Rows, pack, row_sums
from medtune.data.parts import Part, offsets_of

IGNORE_INDEX = -100  # cross_entropy leaves these labels out of the loss
NO_SOURCE = -1  # of padding
EPOCHS_KEPT = 2  # the one that is shown and, around its end, the next
FIT_TRIES = 12
FIT_MARGIN = 1.002  # rows too many that are aimed at, since rows are not quite proportional to tokens
FIT_ENOUGH = 1.01
DESCRIBED_DOCUMENTS = 8

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


class PackedSplit:
    """The rows of one split, epoch by epoch; a pure function of its arguments.

    Args:
        parts: The sources' shares of the split, duplicates marked. Documents are numbered through all of
            them, see :func:`~medtune.data.parts.offsets_of`.
        data: Sequence length, packing and mix.
        split: ``train`` or ``validation``, for messages.
        seed: Of the mix and the packing.
        is_train: Whether weights and caps hold; otherwise everything is shown once.
        max_steps: ``trainer.max_steps``, for ``data.mix_stop=steps``.
        rows_per_step: ``data.global_batch_size``, for the same.

    Attributes:
        parts: With final fates.
        pieces: What rows are made of; of a source without weight too.
        source_names: By the numbers in ``source_ids``.

    Raises:
        ValueError: A document cannot be used, a source has none left, or the weights make no mix.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        data: DataConfig,
        split: str,
        seed: int,
        *,
        is_train: bool,
        max_steps: int | None = None,
        rows_per_step: int = 1,
    ) -> None:
        check_packing(parts, data)
        self.data, self.split, self.seed = data, split, seed
        self.sequence_length = data.sequence_length
        self.source_names = [part.name for part in parts]
        settled = [settle(part, data, seed=seed, is_train=is_train) for part in parts]
        self.parts = [part for part, _ in settled]
        self.offsets = offsets_of(self.parts)
        self.pieces = joined([pieces for _, pieces in settled], self.offsets)
        self.is_mixed = is_train and bool(data.mix)
        check_not_empty(self.parts, data, split, self.is_mixed)
        if not self.pieces.learned.any():
            raise ValueError(
                f"no token of {', '.join(self.source_names)} ({split}) is learned: all are empty"
            )
        self._positions = np.arange(self.sequence_length)
        self._relabelled = [
            part.objective == "sft" and len(part.store.relabel_table[0]) > 0 for part in self.parts
        ]
        self._epochs: dict[int, Epoch] = {}
        self.mixture = self._find_mixture(max_steps, rows_per_step)

    @property
    def is_constant(self) -> bool:
        """Whether every epoch has the same rows."""
        return self.mixture.is_constant

    def rows_of(self, epoch: int) -> Rows:
        """The rows of an epoch."""
        return self._epoch(epoch).rows

    def learned_of(self, epoch: int) -> Ints:
        """Learned tokens of each row of an epoch."""
        return self._epoch(epoch).learned

    def draw_of(self, epoch: int) -> Draw:
        """What an epoch shows of each source."""
        packed, count = self._epoch(epoch), len(self.parts)
        owner = self.part_of(packed.rows.document)
        tokens = sums_by(owner, packed.rows.end - packed.rows.start, count)
        drawn = tokens if self.unit == "tokens" else packed.documents
        passes = drawn / np.maximum(self.sizes, 1)
        return Draw(
            documents=packed.documents,
            tokens=tokens,
            learned=sums_by(owner, packed.learned_of_pieces, count),
            wanted=self.mixture.wanted,
            realised=passes if self.unit == "epochs" else shares_of(drawn),
            passes=passes,
        )

    def fill(
        self,
        epoch: int,
        row: int,
        input_ids: NDArray[np.int64],
        labels: NDArray[np.int64],
        position_ids: NDArray[np.int64],
        document_ids: NDArray[np.int64],
        source_ids: NDArray[np.int64],
    ) -> int:
        """Writes a row into arrays of at least its length; returns how many documents it holds."""
        rows = self.rows_of(epoch)
        first, last = int(rows.offsets[row]), int(rows.offsets[row + 1])
        owners = self.part_of(rows.document[first:last])
        at = 0
        for number, (owner, document, start, end) in enumerate(
            zip(
                owners.tolist(),
                (rows.document[first:last] - self.offsets[owners]).tolist(),
                rows.start[first:last].tolist(),
                rows.end[first:last].tolist(),
                strict=True,
            ),
            start=1,
        ):
            until = at + end - start
            input_ids[at:until] = self.parts[owner].store.input_ids(document)[start:end]
            position_ids[at:until] = self._positions[: end - start]
            document_ids[at:until] = number
            source_ids[at:until] = owner
            self._fill_labels(owner, document, start, end, input_ids[at:until], labels[at:until])
            at = until
        return last - first

    def _fill_labels(
        self,
        owner: int,
        document: int,
        start: int,
        end: int,
        ids: NDArray[np.int64],
        labels: NDArray[np.int64],
    ) -> None:
        """Writes the labels of a piece. Its first token is never learned: nothing in the row predicts it."""
        part = self.parts[owner]
        if part.objective == "pretrain":
            labels[1:] = ids[1:]
            return
        for first, last in part.store.spans(document).tolist():
            first, last = max(first, start + 1) - start, min(last, end) - start
            if first < last:
                labels[first:last] = ids[first:last]
        if self._relabelled[owner]:
            for position, label in part.store.relabels(document).tolist():
                if start < position < end:
                    labels[position - start] = label

    def describe_row(self, epoch: int, row: int) -> str:
        """The documents of a row as ``file:line``."""
        rows = self.rows_of(epoch)
        documents = rows.document[rows.offsets[row] : rows.offsets[row + 1]]
        owners = self.part_of(documents)
        places = [
            self.parts[owner].store.where(document)
            for owner, document in zip(
                owners.tolist(), (documents - self.offsets[owners]).tolist(), strict=True
            )
        ]
        more = len(places) - DESCRIBED_DOCUMENTS
        return ", ".join(places[:DESCRIBED_DOCUMENTS]) + (f" and {more} more" if more > 0 else "")

    def part_of(self, documents: Ints) -> Ints:
        """The number of the part that each document belongs to."""
        result: Ints = np.searchsorted(self.offsets, documents, side="right") - 1
        return result

    @cached_property
    def unit(self) -> str:
        """What the mix counts in."""
        return self.data.mix_by if self.is_mixed else "tokens"

    @cached_property
    def kept(self) -> list[Ints]:
        """The documents of each part that may be drawn."""
        return [part.kept + first for part, first in zip(self.parts, self.offsets[:-1], strict=True)]

    @cached_property
    def sizes_of_documents(self) -> Ints:
        """Size of every document in the unit of the mix; of those left out 0 or of no use."""
        if self.unit != "tokens":
            return np.ones(int(self.offsets[-1]), dtype=np.int64)
        return sums_by(self.pieces.document, self.pieces.end - self.pieces.start, int(self.offsets[-1]))

    @cached_property
    def sizes(self) -> Ints:
        """Size of each part in the unit of the mix."""
        return np.array([self.sizes_of_documents[kept].sum() for kept in self.kept], dtype=np.int64)

    def _find_mixture(self, max_steps: int | None, rows_per_step: int) -> Mixture:
        if not self.is_mixed:
            return Mixture(shares_of(self.sizes), np.ones(len(self.parts)))
        mixture = mixture_of(self.sizes, [part.source for part in self.parts], self.data)
        for name, passes in zip(self.source_names, mixture.passes.tolist(), strict=True):
            if passes == 0:
                log.warning("data: nothing of %s is learned, since its weight or max_passes is 0", name)
        if self.data.mix_stop == "steps" and self.unit != "epochs":
            if max_steps is None:
                raise ValueError("data.mix_stop=steps ends the mix after trainer.max_steps; set it")
            return self._fit_to_rows(mixture, max_steps * rows_per_step)
        return mixture

    def _fit_to_rows(self, mixture: Mixture, needed: int) -> Mixture:
        """The mix in an epoch of as many rows as are needed and hardly more."""
        sources = [part.source for part in self.parts]
        factor, best, before = needed / max(1, len(self._pack(mixture, 0).rows)), None, None
        for _ in range(FIT_TRIES):
            candidate = scaled(mixture, factor * FIT_MARGIN, sources)
            if before is not None and (candidate.passes == before.passes).all():
                break  # every source is at its most
            count, before = len(self._pack(candidate, 0).rows), candidate
            if count >= needed:
                best = candidate
            if needed <= count <= needed * FIT_ENOUGH + 1:
                break
            factor *= needed / max(1, count)
        if best is None:
            log.warning(
                "data: max_passes leaves the mix short of the rows of trainer.max_steps; it is repeated"
            )
        return best or candidate

    def _epoch(self, epoch: int) -> Epoch:
        key = 0 if self.is_constant else epoch
        if key not in self._epochs:
            packed = self._pack(self.mixture, key)
            if not len(packed.rows):
                raise ValueError(
                    f"the mix shows no document in epoch {key}: data.sources.*.max_passes or the weights are "
                    "too small"
                )
            for old in list(self._epochs)[: len(self._epochs) - EPOCHS_KEPT + 1]:
                del self._epochs[old]
            self._epochs[key] = packed
        return self._epochs[key]

    def _pack(self, mixture: Mixture, epoch: int) -> Epoch:
        """Draws and packs an epoch."""
        drawn = [
            kept[draw_documents(self.sizes_of_documents[kept], passes, seed_of(name, self.seed), epoch)]
            for kept, passes, name in zip(self.kept, mixture.passes.tolist(), self.source_names, strict=True)
        ]
        chosen = self._pieces_of(np.concatenate(drawn))
        pieces, data = self.pieces, self.data
        seed = self.seed if mixture.is_constant else [self.seed, epoch]
        groups = self._groups(pieces.document[chosen])
        rows = pack(
            chosen, pieces.start[chosen], pieces.end[chosen], data.sequence_length, data.packing, seed, groups
        )
        is_cut = data.packing == "concat"
        learned = learned_of_texts(rows.start, rows.end) if is_cut else pieces.learned[rows.document]
        rows = replace(rows, document=pieces.document[rows.document])
        return Epoch(rows, learned, np.array([len(documents) for documents in drawn]))

    @cached_property
    def pieces_before(self) -> Ints:
        """How many pieces belong to earlier documents, for each document and one past the last."""
        counts = np.bincount(self.pieces.document, minlength=int(self.offsets[-1]))
        return np.concatenate([[0], np.cumsum(counts)])

    def _pieces_of(self, documents: Ints) -> Ints:
        """All pieces of the given documents, each as often as its document is given."""
        firsts = self.pieces_before[documents]
        if len(self.pieces) == sum(map(len, self.kept)):
            return firsts
        counts = self.pieces_before[documents + 1] - firsts
        before = np.cumsum(counts) - counts
        result: Ints = np.repeat(firsts - before, counts) + np.arange(int(counts.sum()))
        return result

    def _groups(self, documents: Ints) -> Ints | None:
        """What ``data.pack_groups`` keeps apart."""
        if self.data.pack_groups == "source":
            return self.part_of(documents)
        if self.data.pack_groups == "turns":
            responses = np.concatenate([part.store.responses for part in self.parts])
            return (responses[documents] > 1).astype(np.int64)
        return None


def check_packing(parts: Sequence[Part], data: DataConfig) -> None:
    """Makes sure that ``concat`` parts no response from its prompt.

    Raises:
        ValueError: It would.
    """
    masked = [part for part in parts if part.objective == "sft"]
    if data.packing == "concat" and masked:
        key = key_of(data, masked[0], "objective") if data.mix else "objective"
        raise ValueError(
            f"data.packing=concat cuts rows anywhere, which would part a response of {masked[0].name} from "
            f"its prompt; set data.packing=bfd, or {key}=pretrain, which learns every token"
        )


def joined(parts: Sequence[Pieces], offsets: Ints) -> Pieces:
    """The pieces of all parts, their documents numbered through."""
    return Pieces(
        np.concatenate([part.document + first for part, first in zip(parts, offsets[:-1], strict=True)]),
        np.concatenate([part.start for part in parts]),
        np.concatenate([part.end for part in parts]),
        np.concatenate([part.learned for part in parts]),
    )


def sums_by(groups: Ints, values: Ints, count: int) -> Ints:
    """Sum of the values of each of ``count`` groups; exact below 2**53."""
    return np.bincount(groups, weights=values, minlength=count).astype(np.int64)


def check_not_empty(parts: Sequence[Part], data: DataConfig, split: str, is_mixed: bool) -> None:
    """Makes sure that every source has a document left, but for those of weight 0.

    Raises:
        ValueError: One has none; says what dropped them.
    """
    for part in parts:
        if len(part.kept) or (is_mixed and part.source.weight == 0):
            continue
        lost = {cause: count for cause, count in part.store.meta["dropped"].items() if count}
        counts = np.bincount(part.fates, minlength=len(Fate))
        lost |= {fate.name.lower(): int(counts[fate]) for fate in Fate if counts[fate]}
        causes = ", ".join(f"{cause} {count}" for cause, count in lost.items()) or "there was none"
        raise ValueError(
            f"no example of {part.name} is left for {split} with data.sequence_length="
            f"{data.sequence_length}: {causes}"
        )
