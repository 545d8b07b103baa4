"""Documents that are there twice, and training documents that are in a held-out split too.

Held-out splits come first: what is removed as contaminated is no original of anything. Then equal documents:
the first in the order of the sources stays. Then similar ones among those that are left.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from functools import partial
from itertools import chain, compress
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from medtune.config.schema import DataConfig
from medtune.data.duplicates.held_out import Fingerprints
from medtune.data.duplicates.near import ALGORITHM, find_near_duplicates
from medtune.data.duplicates.shingles import is_first
from medtune.data.fates import Fate
from medtune.data.parts import Part, offsets_of
from medtune.data.tokens.array_cache import Arrays, cached_arrays
from medtune.data.tokens.content import fingerprint

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
Flags = NDArray[np.bool_]
ReadTexts = Callable[[Part], Iterator[str]]

NOTHING = np.frombuffer(fingerprint(""), dtype=np.uint64)  # asking or saying it is no sign of a common origin

log = logging.getLogger(__name__)


class Kind(IntEnum):
    """Why a pair of documents is listed; the names in lower case are those of the file."""

    EXACT = 0
    NEAR = 1
    CONTAMINATED = 2


@dataclass(frozen=True)
class Pairs:
    """Documents that were found twice: numbered through all parts, then through the held-out splits.

    Attributes:
        kept: What stays, or is held out.
        dropped: What is removed for it. With ``contamination=report`` a contaminated document stays too.
        kinds: :class:`Kind` of each pair.
        similarity: 1 for equal content or an equal prompt, else the Jaccard similarity.
    """

    kept: Ints
    dropped: Ints
    kinds: NDArray[np.uint8]
    similarity: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.kept)

    @classmethod
    def of(
        cls, kept: Ints, dropped: Ints, kind: Kind, similarity: NDArray[np.float32] | None = None
    ) -> "Pairs":
        """Pairs of one kind; of similarity 1 unless it is given."""
        equal = np.ones(len(kept), np.float32) if similarity is None else similarity
        return cls(kept, dropped, np.full(len(kept), kind, np.uint8), equal)

    @classmethod
    def joined(cls, several: Sequence["Pairs"]) -> "Pairs":
        """All pairs of ``several``, in the order of the dropped documents."""
        kept = np.concatenate([pairs.kept for pairs in several])
        dropped = np.concatenate([pairs.dropped for pairs in several])
        kinds = np.concatenate([pairs.kinds for pairs in several])
        similarity = np.concatenate([pairs.similarity for pairs in several])
        order = np.lexsort((kept, dropped))
        return cls(kept[order], dropped[order], kinds[order], similarity[order])


@dataclass(frozen=True)
class Contamination:
    """How many training documents of a source are in a held-out split too.

    Attributes:
        source: Name of the source.
        split: Name of the held-out split.
        exact: Documents with equal content or an equal prompt, duplicates included.
        near: Further ones, equal ones counted once, whose content is similar. None: not looked for.
    """

    source: str
    split: str
    exact: int
    near: int | None


@dataclass(frozen=True)
class DedupReport:
    """What was found twice.

    Attributes:
        dedup: ``data.dedup``.
        removes_contaminated: Whether ``data.contamination`` is ``remove``.
        counts: By source, the number of documents by fate, those kept and held out included.
        contamination: For every source and held-out split.
        pairs: What :meth:`rows` lists.
    """

    dedup: str
    removes_contaminated: bool
    counts: Mapping[str, Mapping[str, int]]
    contamination: Sequence[Contamination]
    pairs: Pairs
    places: Callable[[int], str]

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "dedup": self.dedup,
            "contaminated": "removed" if self.removes_contaminated else "reported",
            "sources": {name: dict(counts) for name, counts in self.counts.items()},
            "contamination": [asdict(entry) for entry in self.contamination],
            "pairs": len(self.pairs),
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """A line for every pair: ``kept``, ``dropped`` (file:line), ``kind``, ``similarity``.

        A contaminated document that stays is told as ``kept`` too, beside the ``held_out`` one.
        """
        pairs = self.pairs
        for kept, dropped, kind, similarity in zip(
            pairs.kept.tolist(),
            pairs.dropped.tolist(),
            pairs.kinds.tolist(),
            pairs.similarity.tolist(),
            strict=True,
        ):
            stays = kind == Kind.CONTAMINATED and not self.removes_contaminated
            names = ("held_out", "kept") if stays else ("kept", "dropped")
            places = dict(zip(names, (self.places(kept), self.places(dropped)), strict=True))
            yield {**places, "kind": Kind(kind).name.lower(), "similarity": round(similarity, 4)}


class Documents:
    """All documents of the parts, then those of the held-out splits, numbered through.

    Attributes:
        parts: The sources.
        held_out: The held-out splits by name.
        fates: Of the parts' documents; written back by :meth:`settle`.
    """

    def __init__(self, parts: Sequence[Part], held_out: Mapping[str, Fingerprints]) -> None:
        self.parts = parts
        self.held_out = held_out
        self.offsets = offsets_of(parts)
        self.held_offsets = self.offsets[-1] + np.cumsum([0, *map(len, held_out.values())])
        self.fates = np.concatenate([np.zeros(0, np.uint8), *(part.fates for part in parts)])
        self.content = np.concatenate([np.zeros((0, 2), np.uint64), *(part.store.content for part in parts)])
        self.prompts = np.concatenate([np.zeros(0, np.uint64), *(part.store.prompts for part in parts)])

    @property
    def kept(self) -> Ints:
        """The documents that nothing has removed so far."""
        return np.flatnonzero(self.fates == Fate.KEPT)

    def sizes(self, documents: Ints) -> list[int]:
        """How many of some documents, ascending, are of each part."""
        bounds = np.searchsorted(documents, self.offsets)
        return [int(size) for size in np.diff(bounds)]

    def where(self, document: int) -> str:
        """``file:line`` of a document or a held-out one."""
        if document < self.offsets[-1]:
            number = int(np.searchsorted(self.offsets, document, side="right")) - 1
            return self.parts[number].store.where(document - int(self.offsets[number]))
        number = int(np.searchsorted(self.held_offsets, document, side="right")) - 1
        return [*self.held_out.values()][number].where(document - int(self.held_offsets[number]))

    def settle(self) -> None:
        """Writes the fates into the parts."""
        for part, start, end in zip(self.parts, self.offsets[:-1], self.offsets[1:], strict=True):
            part.fates[:] = self.fates[start:end]


def mark_duplicates(
    parts: Sequence[Part],
    data: DataConfig,
    held_out: Mapping[str, Fingerprints],
    texts: ReadTexts,
    cache: Path,
) -> DedupReport:
    """Sets the fates of documents that are there twice, by ``data.dedup`` and ``data.contamination``.

    Only documents whose fate is ``KEPT`` are looked at; the first of equal ones stays.

    Args:
        parts: The training sources in order; their fates are changed in place.
        data: ``dedup``, ``dedup_threshold`` and ``contamination``.
        held_out: What training documents are compared with, by the name of the split. Always counted.
        texts: Reads the normalised content of all documents of a part's store, in their order.
        cache: Where the result of the search for similar documents is kept.

    Raises:
        ValueError: A source has changed while it was read, or the disk is full.
    """
    documents = Documents(parts, held_out)
    removes = data.contamination == "remove"
    exact = find_contaminated(documents)
    found = [first_splits(exact)]
    if removes:
        documents.fates[found[0].dropped] = Fate.CONTAMINATED
    if data.dedup != "none":
        found.append(drop_equal(documents))
    near: Sequence[Pairs] | None = None
    if data.dedup == "near":
        near, dropped = drop_similar(documents, exact, data, texts, cache)
        found += [first_splits(near), dropped]
    documents.settle()
    report = DedupReport(
        data.dedup,
        removes,
        {part.name: count_fates(part.fates) for part in parts},
        [*contamination_counts(documents, exact, near)],
        Pairs.joined(found),
        documents.where,
    )
    log_report(report)
    return report


def find_contaminated(documents: Documents) -> list[Pairs]:
    """For each held-out split the training documents with equal content or an equal prompt."""
    kept = documents.kept
    found = []
    for start, held in zip(documents.held_offsets[:-1], documents.held_out.values(), strict=True):
        match = match_content(documents.content[kept], held.content)
        asked = match_values(documents.prompts[kept], held.prompts, ignored=NOTHING[0])
        match = np.where(match >= 0, match, asked)
        is_found = match >= 0
        found.append(Pairs.of(start + match[is_found], kept[is_found], Kind.CONTAMINATED))
    return found


def match_content(content: Words, held_out: Words) -> Ints:
    """Index of the first held-out document of equal content, -1 without one."""
    # That the first halves of two different texts are equal happens once in 2**64 pairs; the second half then
    # says that they differ, and another equal text would be overlooked.
    match = match_values(content[:, 0], held_out[:, 0], ignored=NOTHING[0])
    found = match >= 0
    found[found] = held_out[match[found], 1] == content[found, 1]
    return np.where(found, match, -1)


def match_values(values: Words, among: Words, ignored: np.uint64) -> Ints:
    """Index of the first equal entry of ``among``, -1 without one."""
    if not len(among):
        return np.full(len(values), -1)
    order = np.argsort(among, kind="stable")
    place = np.searchsorted(among[order], values)
    place[place == len(among)] = 0
    found = (among[order[place]] == values) & (values != ignored)
    return np.where(found, order[place], -1)


def first_splits(contaminated: Sequence[Pairs]) -> Pairs:
    """One pair per document, whatever number of splits it is in."""
    pairs = Pairs.joined([*contaminated, Pairs.of(*NO_DOCUMENTS, Kind.CONTAMINATED)])
    first = is_first(pairs.dropped)
    return Pairs(pairs.kept[first], pairs.dropped[first], pairs.kinds[first], pairs.similarity[first])


NO_DOCUMENTS = (np.zeros(0, np.int64), np.zeros(0, np.int64))


def drop_equal(documents: Documents) -> Pairs:
    """Drops every document whose content came before."""
    kept = documents.kept
    content = documents.content[kept]
    order = np.lexsort((content[:, 1], content[:, 0]))  # stable: the first in order comes first
    first = is_first(content[order, 0]) | is_first(content[order, 1])
    originals = order[first][np.cumsum(first) - 1]
    pairs = Pairs.of(kept[originals[~first]], kept[order[~first]], Kind.EXACT)
    documents.fates[pairs.dropped] = Fate.DUPLICATE
    return pairs


def drop_similar(
    documents: Documents, exact: Sequence[Pairs], data: DataConfig, texts: ReadTexts, cache: Path
) -> tuple[list[Pairs], Pairs]:
    """Drops documents similar to one before.

    Returns:
        For each held-out split the training documents similar to one of it that are not equal to one, and
        what was dropped for a document before it.
    """
    kept = documents.kept
    removes = data.contamination == "remove"
    arrays = cached_arrays(
        cache,
        f"near-{near_key(documents, kept, data)}",
        "the search for near duplicates",
        partial(search, documents, kept, data, texts, cache),
    )
    total = documents.offsets[-1]
    numbers = np.concatenate([kept, total + np.flatnonzero(is_readable(documents.held_out))])
    pairs = Pairs.of(
        numbers[arrays["held_out"]], numbers[arrays["near_held_out"]], Kind.CONTAMINATED, arrays["closeness"]
    )
    near = by_split(documents, pairs, exact)
    if removes:
        documents.fates[first_splits(near).dropped] = Fate.CONTAMINATED
    dropped = Pairs.of(kept[arrays["kept"]], kept[arrays["dropped"]], Kind.NEAR, arrays["similarity"])
    documents.fates[dropped.dropped] = Fate.NEAR_DUPLICATE
    return near, dropped


def is_readable(held_out: Mapping[str, Fingerprints]) -> Flags:
    """Of each held-out document whether its text can be read."""
    each = [np.full(len(held), held.texts is not None) for held in held_out.values()]
    return np.concatenate([np.zeros(0, np.bool_), *each])


def by_split(documents: Documents, pairs: Pairs, exact: Sequence[Pairs]) -> list[Pairs]:
    """Near pairs by held-out split, without documents that are equal to one of the split."""
    found = []
    for start, end, equal in zip(documents.held_offsets[:-1], documents.held_offsets[1:], exact, strict=True):
        chosen = (pairs.kept >= start) & (pairs.kept < end) & ~np.isin(pairs.dropped, equal.dropped)
        found.append(
            Pairs(pairs.kept[chosen], pairs.dropped[chosen], pairs.kinds[chosen], pairs.similarity[chosen])
        )
    return found


def near_key(documents: Documents, kept: Ints, data: DataConfig) -> str:
    """Tells searches apart by what is compared: the same content, the same result, whatever the template."""
    readable = [held for held in documents.held_out.values() if held.texts is not None]
    sizes = (documents.sizes(kept), [len(held) for held in readable])
    digest = xxhash.xxh3_128(f"{ALGORITHM} {data.dedup_threshold} {data.contamination} {sizes}".encode())
    for content in (documents.content[kept], *(held.content for held in readable)):
        digest.update(np.ascontiguousarray(content).data)
    return digest.hexdigest()


def search(documents: Documents, kept: Ints, data: DataConfig, texts: ReadTexts, cache: Path) -> Arrays:
    """Compares documents, as numbers among those that are looked at."""
    readable = [held for held in documents.held_out.values() if held.texts is not None]
    found = find_near_duplicates(
        chain(kept_texts(documents, kept, texts), *(held.texts() for held in readable if held.texts)),
        documents.sizes(kept),
        [len(held) for held in readable],
        data.dedup_threshold,
        removes_contaminated=data.contamination == "remove",
        folder=cache,
    )
    return {
        "kept": found.dropped.first,
        "dropped": found.dropped.second,
        "similarity": found.dropped.similarity,
        "near_held_out": found.contaminated.first,
        "held_out": found.contaminated.second,
        "closeness": found.contaminated.similarity,
    }


def kept_texts(documents: Documents, kept: Ints, texts: ReadTexts) -> Iterator[str]:
    """The normalised content of some documents; nothing is read of a part without any."""
    wanted = np.zeros(documents.offsets[-1], dtype=np.bool_)
    wanted[kept] = True
    for part, start, end in zip(documents.parts, documents.offsets[:-1], documents.offsets[1:], strict=True):
        if wanted[start:end].any():
            yield from compress(texts(part), wanted[start:end].tolist())


def count_fates(fates: NDArray[np.uint8]) -> dict[str, int]:
    """Number of documents by fate, those that occur."""
    counts = np.bincount(fates, minlength=len(Fate))
    return {fate.name.lower(): int(counts[fate]) for fate in Fate if counts[fate]}


def contamination_counts(
    documents: Documents, exact: Sequence[Pairs], near: Sequence[Pairs] | None
) -> Iterator[Contamination]:
    """Counts for every source and held-out split."""
    for number, (split, held) in enumerate(documents.held_out.items()):
        equal = documents.sizes(exact[number].dropped)
        similar: Sequence[int | None] = [None] * len(documents.parts)
        if near is not None and held.texts is not None:
            similar = documents.sizes(np.sort(near[number].dropped))
        for part, equal_count, similar_count in zip(documents.parts, equal, similar, strict=True):
            yield Contamination(part.name, split, equal_count, similar_count)


def log_report(report: DedupReport) -> None:
    """One line for what was dropped, one for every held-out split that training documents are in."""
    dropped = {
        fate: sum(counts.get(fate, 0) for counts in report.counts.values())
        for fate in ("duplicate", "near_duplicate")
    }
    if report.dedup != "none":
        log.info(
            "data: dedup=%s dropped %d duplicates and %d near duplicates",
            report.dedup, dropped["duplicate"], dropped["near_duplicate"],
        )  # fmt: skip
    for entry in report.contamination:
        if entry.exact or entry.near:
            log.warning(
                "data: %d training examples of %s are in %s too%s: %s",
                entry.exact,
                entry.source,
                entry.split,
                f", {entry.near} more are similar" if entry.near else "",
                "removed" if report.removes_contaminated else "data.contamination=remove leaves them out",
            )
