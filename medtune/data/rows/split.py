"""A split as rows to learn: lengths settled, each epoch drawn and packed, rows written into arrays."""

import logging
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from medtune.config.schema import DataConfig
from medtune.data.fates import Fate
from medtune.data.parts import Part, offsets_of
from medtune.data.rows.epochs import Epoch, EpochPacker
from medtune.data.rows.lengths import joined, key_of, settle
from medtune.data.rows.mix import Draw
from medtune.data.rows.packing import Ints, Rows

IGNORE_INDEX = -100  # cross_entropy leaves these labels out of the loss
NO_SOURCE = -1  # of padding
EPOCHS_KEPT = 2  # the one that is shown and, around its end, the next
DESCRIBED_DOCUMENTS = 8

log = logging.getLogger(__name__)


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
        source_names: By the numbers in ``source_ids``: all sources of a mix, also where this split has parts
            of some only.

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
        settled = [settle(part, data, seed=seed, is_train=is_train) for part in parts]
        is_mixed = is_train and bool(data.mix)
        self.parts = [part for part, _ in settled]
        names = [part.name for part in parts]
        self.source_names = list(data.mix) or names
        self._numbers = [self.source_names.index(name) for name in names]
        self.sequence_length = data.sequence_length
        check_not_empty(self.parts, data, split, is_mixed)
        self.offsets = offsets_of(self.parts)
        self.pieces = joined([pieces for _, pieces in settled], self.offsets)
        if not self.pieces.learned.any():
            raise ValueError(
                f"nothing of {', '.join(self.source_names)} ({split}) is learned: all are a token"
            )
        self._packer = EpochPacker(self.parts, self.pieces, data, seed, is_mixed=is_mixed)
        if is_mixed:
            self.mixture = self._packer.mixture(max_steps, rows_per_step)
        else:
            self.mixture = self._packer.everything()
        self._epochs: dict[int, Epoch] = {}
        self._learned: dict[int, Ints] = {}
        self._positions = np.arange(data.sequence_length)
        self._check_mixture()

    def _check_mixture(self) -> None:
        """Warns about sources of which nothing is learned.

        Raises:
            ValueError: The first epoch is empty. A later one may be, and is passed over.
        """
        for part, passes in zip(self.parts, self.mixture.passes.tolist(), strict=True):
            if passes == 0:
                log.warning("data: nothing of %s is learned: its weight or max_passes is 0", part.name)
        if not len(self.rows_of(0)):
            raise ValueError(
                f"the first epoch of the mix has no document of {', '.join(self.source_names)}: their "
                "weights or max_passes leave less than one of each; raise them, or set data.mix_stop=all"
            )

    @property
    def is_constant(self) -> bool:
        """Whether every epoch has the same rows."""
        return self.mixture.is_constant

    @property
    def digest(self) -> str:
        """Of the tokens that rows are made of."""
        return " ".join(part.store.digest for part in self.parts)

    def rows_of(self, epoch: int) -> Rows:
        """The rows of an epoch."""
        return self._epoch(epoch).rows

    def learned_of(self, epoch: int) -> Ints:
        """Learned tokens of each row of an epoch.

        These are kept for all epochs, so that steps are counted and a run is resumed without packing twice.
        """
        key = 0 if self.is_constant else epoch
        if key not in self._learned:
            self._learned[key] = self._epoch(key).learned
        return self._learned[key]

    def draw_of(self, epoch: int) -> Draw:
        """What an epoch shows of each source."""
        return self._packer.draw_of(self.mixture, self._epoch(epoch))

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
        number = at = 0
        for number, (owner, document, start, end) in enumerate(self._pieces_of(epoch, row), start=1):
            until = at + end - start
            input_ids[at:until] = self.parts[owner].store.input_ids(document)[start:end]
            position_ids[at:until] = self._positions[: end - start]
            document_ids[at:until] = number
            source_ids[at:until] = self._numbers[owner]
            self._fill_labels(owner, document, start, input_ids[at:until], labels[at:until])
            at = until
        return number

    def describe_row(self, epoch: int, row: int) -> str:
        """The documents of a row as ``file:line``."""
        pieces = self._pieces_of(epoch, row)
        places = [self.parts[owner].store.where(document) for owner, document, _, _ in pieces]
        more = len(places) - DESCRIBED_DOCUMENTS
        return ", ".join(places[:DESCRIBED_DOCUMENTS]) + (f" and {more} more" if more > 0 else "")

    def _pieces_of(self, epoch: int, row: int) -> Iterator[tuple[int, int, int, int]]:
        """The pieces of a row: part, document within it, start, end."""
        rows = self.rows_of(epoch)
        inside = slice(int(rows.offsets[row]), int(rows.offsets[row + 1]))
        owners = self._packer.part_of(rows.document[inside])
        documents = rows.document[inside] - self.offsets[owners]
        columns = (owners, documents, rows.start[inside], rows.end[inside])
        return zip(*(column.tolist() for column in columns), strict=True)

    def _fill_labels(
        self, owner: int, document: int, start: int, ids: NDArray[np.int64], labels: NDArray[np.int64]
    ) -> None:
        """Writes the labels of a piece. Its first token is never learned: nothing in the row predicts it."""
        part = self.parts[owner]
        if part.objective == "pretrain":
            labels[1:] = ids[1:]
            return
        for first, last in (part.store.spans(document) - start).tolist():
            first = max(first, 1)
            if first < last:
                labels[first:last] = ids[first:last]
        for position, label in part.store.relabels(document).tolist():
            if start < position < start + len(ids):
                labels[position - start] = label

    def _epoch(self, epoch: int) -> Epoch:
        key = 0 if self.is_constant else epoch
        if key not in self._epochs:
            for old in list(self._epochs)[: len(self._epochs) - EPOCHS_KEPT + 1]:
                del self._epochs[old]
            self._epochs[key] = self._packer.pack(self.mixture, key)
        return self._epochs[key]


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
        causes = ", ".join(f"{cause} {count}" for cause, count in lost.items()) or "it had none"
        raise ValueError(
            f"no example of {part.name} is left for {split} with data.sequence_length="
            f"{data.sequence_length}: {causes}; loosen what drops them (error: data.on_error, min_chars and "
            "its like: data.filter, overlong, duplicate, contaminated: the keys of those names)"
        )
