"""Near duplicates: documents with similar sets of character 5-grams, found without comparing all pairs.

MinHash bands (:mod:`medtune.data.duplicates.signatures`) propose pairs, the sets themselves decide: the
signature has a say in what is missed, never in what is dropped.

Records of instruction data share a template and lists of labels. 5-grams that are in very many documents of
a source are such a *skeleton*; the others are a document's *content*. Near duplicates are similar as a whole,
and share most of the smaller content, unless that is too small to tell anything.

While it runs a document costs, on disk, 4 bytes per distinct 5-gram and 272 for its signature, and about 60
bytes of memory; the pairs found are held too.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medtune.data.duplicates.shingles import (
    Hashes,
    Ints,
    ShingleSets,
    TemporaryArray,
    is_first,
    joined_keys,
    ranges,
    write_sets,
)
from medtune.data.duplicates.signatures import CHECKED, Signatures
from medtune.runtime.progress import progress

Flags = NDArray[np.bool_]
Codes = NDArray[np.int64]

ALGORITHM = 1  # part of the cache's key: raise it when other pairs would be found

SKELETON_SHARE = 0.005  # of a source's documents; one of PromptCBLUE's 94 templates is in about 0.01 of them
SKELETON_COUNT = 50
SKELETON_SAMPLE = 1 << 15  # documents of each source that are counted
COUNTERS = 1 << 23
FEW_SHINGLES = 8  # content that two changed characters make up tells nothing
FEW_SHARE = 0.05
LEAST_SHARED = 0.6

DEVIATIONS = 3  # of an estimate below the threshold, from where on a pair is not compared: 0.1 % are missed

WINDOW = 8  # neighbours in a bucket that a document is compared with
MAX_ROUNDS = 10
PAIRS_AT_ONCE = 1 << 15
MEMBERS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class SimilarPairs:
    """Pairs of similar documents.

    Attributes:
        first: The earlier document of each pair.
        second: The later one.
        similarity: Jaccard similarity of their 5-grams.
    """

    first: Ints
    second: Ints
    similarity: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, chosen: NDArray[np.bool_] | Ints) -> "SimilarPairs":
        return SimilarPairs(self.first[chosen], self.second[chosen], self.similarity[chosen])

    @classmethod
    def joined(cls, several: Sequence["SimilarPairs"]) -> "SimilarPairs":
        """All pairs of ``several``."""
        return cls(
            np.concatenate([np.zeros(0, np.int64), *(pairs.first for pairs in several)]),
            np.concatenate([np.zeros(0, np.int64), *(pairs.second for pairs in several)]),
            np.concatenate([np.zeros(0, np.float32), *(pairs.similarity for pairs in several)]),
        )


@dataclass(frozen=True)
class NearDuplicates:
    """What :func:`find_near_duplicates` found.

    Attributes:
        dropped: A kept document, and one that is dropped for it.
        contaminated: A document, and a held-out one that it is similar to, numbered on after the documents:
            the first of each held-out list.
    """

    dropped: SimilarPairs
    contaminated: SimilarPairs


def find_near_duplicates(
    texts: Iterable[str],
    sources: Sequence[int],
    held_out: Sequence[int],
    threshold: float,
    *,
    removes_contaminated: bool,
    folder: Path,
) -> NearDuplicates:
    """Finds near duplicates among documents, and documents similar to held-out ones.

    A document is dropped when it is similar to a *kept* one before it; one that is similar to dropped ones
    only stays.

    Args:
        texts: Normalised content: the documents source by source, then the held-out ones list by list.
        sources: Number of documents of each source.
        held_out: Number of documents of each held-out list; they are never dropped.
        threshold: Least Jaccard similarity.
        removes_contaminated: Documents similar to held-out ones go before duplicates are told.
        folder: Where temporary files go; they have no names and nothing of them stays.

    Raises:
        ValueError: The disk is full.
    """
    members = TemporaryArray(folder, np.uint32)
    signatures = Signatures(folder, threshold)
    try:
        sets = read_sets(texts, sum(sources) + sum(held_out), members)
        with progress("hashing documents", "documents", len(sets)) as advance:
            for done in signatures.build(sets):
                advance(done)
        comparison = Comparison(sets, signatures, find_skeleton(sets, sources), threshold)
        contaminated = find_contaminated(comparison, sum(sources), held_out)
        alive = np.ones(sum(sources), dtype=np.bool_)
        if removes_contaminated:
            alive[contaminated.first] = False
        return NearDuplicates(find_dropped(comparison, alive), contaminated)
    finally:
        members.close()
        signatures.close()


def read_sets(texts: Iterable[str], total: int, members: TemporaryArray) -> ShingleSets:
    """The 5-grams of all texts, in a file."""
    sizes = [np.zeros(0, dtype=np.int64)]
    with progress("reading for near duplicates", "documents", total) as advance:
        for batch in write_sets(texts, members):
            sizes.append(batch)
            advance(len(batch))
    sets = ShingleSets(members.view(), np.concatenate(sizes))
    if len(sets) != total:
        raise ValueError(
            f"data.dedup=near: {len(sets)} texts were read again for {total} documents; the files "
            "were changed meanwhile. Start again"
        )
    return sets


def find_skeleton(sets: ShingleSets, sources: Sequence[int]) -> Flags:
    """Which 5-grams, by their hash modulo ``COUNTERS``, are in too many documents of a source.

    Of a large source a part is counted, evenly spread.
    """
    skeleton = np.zeros(COUNTERS, dtype=np.bool_)
    end = 0
    for size in sources:
        start, end = end, end + size
        counted = np.arange(start, end, max(1, -(-size // SKELETON_SAMPLE)))
        limit = max(SKELETON_COUNT, SKELETON_SHARE * len(counted))
        if len(counted) > limit:
            skeleton |= document_frequencies(sets, counted) > limit
    return skeleton


def document_frequencies(sets: ShingleSets, documents: Ints) -> NDArray[np.uint32]:
    """In how many of ``documents`` each 5-gram is."""
    counts = np.zeros(COUNTERS, dtype=np.uint32)
    for some in split_by_size(documents, sets.sizes[documents], MEMBERS_AT_ONCE):
        np.add.at(counts, counter_of(sets.take(some)[0]), np.uint32(1))
    return counts


def counter_of(hashes: Hashes) -> Hashes:
    """Which counter a 5-gram belongs to."""
    return hashes & np.uint32(COUNTERS - 1)


def split_by_size(items: Ints, sizes: Ints, most: int) -> Iterator[Ints]:
    """``items`` in slices whose sizes sum to about ``most``."""
    bounds = np.flatnonzero(is_first(np.cumsum(sizes) // most))
    yield from np.split(items, bounds[1:])


class Comparison:
    """Compares documents: by a part of their signatures, then by their sets.

    Args:
        sets: Of all documents.
        signatures: Of all documents.
        skeleton: See :func:`find_skeleton`.
        threshold: Least Jaccard similarity.
    """

    def __init__(self, sets: ShingleSets, signatures: Signatures, skeleton: Flags, threshold: float) -> None:
        self.sets = sets
        self.signatures = signatures
        self.sizes = sets.sizes
        self._checked = signatures.checked
        self._skeleton = skeleton
        self._threshold = threshold
        self._content = self._content_sizes()

    def likely(self, first: Ints, second: Ints) -> Flags:
        """Which pairs are not ruled out by their signatures: within three standard deviations.

        A set smaller than the signature has fewer independent values than that.
        """
        equal = np.concatenate(
            [
                np.zeros(0, np.int64),
                *(
                    np.count_nonzero(self._checked[first[some]] == self._checked[second[some]], axis=1)
                    for some in slices(len(first), PAIRS_AT_ONCE)
                ),
            ]
        )
        independent = np.clip(np.minimum(self.sizes[first], self.sizes[second]), 1, CHECKED)
        deviation = np.sqrt(self._threshold * (1 - self._threshold) / independent)
        return equal / CHECKED >= self._threshold - DEVIATIONS * deviation

    def similar(self, first: Ints, second: Ints) -> SimilarPairs:
        """The pairs that are near duplicates, by their sets."""
        sizes = self.sizes[first] + self.sizes[second]
        found = [
            self._verify(first[some], second[some])
            for some in split_by_size(np.arange(len(first)), sizes, MEMBERS_AT_ONCE)
        ]
        return SimilarPairs.joined(found)

    def _verify(self, first: Ints, second: Ints) -> SimilarPairs:
        ours, our_sizes = self.sets.take(first)
        theirs, their_sizes = self.sets.take(second)
        pairs = np.arange(len(first))
        keys = np.concatenate(
            [
                joined_keys(np.repeat(pairs, our_sizes), ours),
                joined_keys(np.repeat(pairs, their_sizes), theirs),
            ]
        )
        # Two ascending runs, which a stable sort merges: 1.6 ns per member instead of 60. A member of both
        # sets of a pair is now there twice.
        keys.sort(kind="stable")
        shared = keys[1:][~is_first(keys)[1:]]
        shared_pairs = (shared >> np.uint64(32)).astype(np.int64)
        common = np.bincount(shared_pairs, minlength=len(first))
        jaccard = common / np.maximum(1, our_sizes + their_sizes - common)
        is_content = ~self._skeleton[counter_of(shared.astype(np.uint32))]
        content = np.bincount(shared_pairs, is_content, minlength=len(first))
        least = min(LEAST_SHARED, self._threshold) * np.minimum(self._content[first], self._content[second])
        near = (jaccard >= self._threshold) & (content >= least)
        return SimilarPairs(first[near], second[near], jaccard[near].astype(np.float32))

    def _content_sizes(self) -> Ints:
        """Members of each set that are no skeleton; 0 where they are too few to compare."""
        counts = np.zeros(len(self.sets), dtype=np.int64)
        for some in split_by_size(np.arange(len(self.sets)), self.sizes, MEMBERS_AT_ONCE):
            members, sizes = self.sets.take(some)
            owners = np.repeat(np.arange(len(some)), sizes)
            counts[some] = np.bincount(owners, ~self._skeleton[counter_of(members)], minlength=len(some))
        counts[counts < np.maximum(FEW_SHINGLES, FEW_SHARE * self.sizes)] = 0
        return counts


def slices(count: int, size: int) -> list[slice]:
    """Slices of at most ``size`` that cover ``count``."""
    return [slice(start, start + size) for start in range(0, count, size)]


def find_contaminated(comparison: Comparison, count: int, held_out: Sequence[int]) -> SimilarPairs:
    """Documents (below ``count``) similar to held-out ones, a pair for each held-out list."""
    if not sum(held_out):
        return SimilarPairs.joined([])
    candidates = map_bands(comparison, partial(held_out_candidates, count=count))
    pairs = compare(comparison, candidates, Tested(len(comparison.sets)))
    lists = np.searchsorted(count + np.cumsum(held_out), pairs.second, side="right")
    order = np.lexsort((pairs.second, lists, pairs.first))
    return pairs[order[is_first(pairs.first[order] * len(held_out) + lists[order])]]


def held_out_candidates(band: Hashes, count: int) -> tuple[Ints, Ints]:
    """Documents and held-out ones in the same bucket, of each bucket a few."""
    order = np.argsort(band[count:], kind="stable")
    ordered = band[count:][order]
    start = np.searchsorted(ordered, band[:count], side="left")
    sizes = np.searchsorted(ordered, band[:count], side="right") - start
    sizes = np.minimum(sizes, WINDOW)
    return np.repeat(np.arange(count), sizes), count + order[ranges(start, sizes)]


def find_dropped(comparison: Comparison, alive: Flags) -> SimilarPairs:
    """Near duplicates among the documents that are ``alive``, each with the kept one it is dropped for.

    The first round compares with the first of a bucket only, which takes care of documents that are there
    thousands of times; later ones compare neighbours among those that are left, until nothing changes.
    """
    tested = Tested(len(comparison.sets))
    candidates = map_bands(comparison, partial(first_of_bucket, documents=np.flatnonzero(alive)))
    similar = compare(comparison, candidates, tested)
    dropped, left = drop_greedily(similar, alive)
    changed = left
    for _ in range(MAX_ROUNDS):
        candidates = map_bands(comparison, partial(neighbours, documents=left, changed=changed))
        similar = SimilarPairs.joined([similar, compare(comparison, candidates, tested)])
        before = left
        dropped, left = drop_greedily(similar, alive)
        changed = np.setxor1d(before, left)
        if not len(changed):
            break
    return dropped


def map_bands(
    comparison: Comparison, candidates: Callable[[Hashes], tuple[Ints, Ints]]
) -> Iterator[tuple[Ints, Ints]]:
    """The candidates of each band, with progress."""
    with progress("comparing similar documents", "bands", comparison.signatures.num_bands) as advance:
        for index in range(comparison.signatures.num_bands):
            yield candidates(comparison.signatures.band(index))
            advance(1)


def first_of_bucket(band: Hashes, documents: Ints) -> tuple[Ints, Ints]:
    """Every document with the first of its bucket."""
    order = documents[np.argsort(band[documents], kind="stable")]
    first = is_first(band[order])
    heads = order[first][np.cumsum(first) - 1]
    return heads[~first], order[~first]


def neighbours(band: Hashes, documents: Ints, changed: Ints) -> tuple[Ints, Ints]:
    """Every document with those just before it in its bucket; only of buckets with a ``changed`` one."""
    if len(changed) < len(documents):
        documents = documents[np.isin(band[documents], band[changed])]
    order = documents[np.argsort(band[documents], kind="stable")]
    keys = band[order]
    firsts, seconds = [order[:0]], [order[:0]]
    for distance in range(1, WINDOW + 1):
        same = np.flatnonzero(keys[distance:] == keys[:-distance])
        if not len(same):
            break
        firsts.append(order[same])
        seconds.append(order[same + distance])
    return np.concatenate(firsts), np.concatenate(seconds)


class Tested:
    """Pairs that were compared, so that none is twice."""

    def __init__(self, count: int) -> None:
        self._count = max(1, count)
        self._codes: Codes = np.zeros(0, dtype=np.int64)

    def new(self, first: Ints, second: Ints) -> tuple[Ints, Ints]:
        """Those of the pairs that were not seen before, each once."""
        codes = np.unique(first * self._count + second)
        place = np.searchsorted(self._codes, codes)
        known = np.zeros(len(codes), dtype=np.bool_)
        inside = place < len(self._codes)
        known[inside] = self._codes[place[inside]] == codes[inside]
        codes = codes[~known]
        self._codes = np.sort(np.concatenate([self._codes, codes]), kind="stable")  # merges two runs
        return codes // self._count, codes % self._count


def compare(comparison: Comparison, bands: Iterable[tuple[Ints, Ints]], tested: Tested) -> SimilarPairs:
    """The similar ones of candidate pairs that come band by band."""
    found = []
    for first, second in bands:
        likely = comparison.likely(first, second)
        found.append(comparison.similar(*tested.new(first[likely], second[likely])))
    return SimilarPairs.joined(found)


def drop_greedily(similar: SimilarPairs, alive: Flags) -> tuple[SimilarPairs, Ints]:
    """The pairs by which documents are dropped, and the documents that are left.

    Each dropped document is similar to a kept one before it; the pair names the earliest.
    """
    order = np.lexsort((similar.first, similar.second))
    is_kept = bytearray(alive.tobytes())
    chosen = []
    pairs = zip(order.tolist(), similar.first[order].tolist(), similar.second[order].tolist(), strict=True)
    for index, first, second in pairs:
        # Sorted by the later document, so what becomes of the earlier one is settled.
        if is_kept[second] and is_kept[first]:
            is_kept[second] = 0
            chosen.append(index)
    return similar[np.array(chosen, dtype=np.int64)], np.flatnonzero(np.frombuffer(is_kept, dtype=np.bool_))
