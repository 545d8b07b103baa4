"""MinHash signatures by one permutation hashing, and the bands that candidates share.

One permutation hashing (Li, Owen and Zhang 2012) takes one hash per member and the least of each of 256 bins
instead of 256 hashes per member: over sets that are sorted already it costs nothing. Empty bins borrow from
one chosen at random, the same for all documents (optimal densification, Shrivastava 2017): the share of equal
values is an unbiased estimate of the Jaccard similarity. Bands: Indyk and Motwani 1998.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medtune.data.duplicates.shingles import Hashes, Ints, ShingleSets, TemporaryArray, is_first, mixed

NUM_BINS = 256
BIN_SHIFT = np.uint32(24)
LEAST_FOUND = 0.95  # of pairs exactly as similar as the threshold; of more similar ones more
DONOR_TRIES = 12
CHECKED = 128  # values of which a byte is kept
BLOCK = 2048  # documents whose signatures are made and stored together


class Signatures:
    """The bands of every document, and a part of its signature to estimate similarities by.

    On disk, in files without names: 4 bytes per band and ``CHECKED`` per document.

    Args:
        folder: Where the files go.
        threshold: The similarity that the bands are made for.
    """

    def __init__(self, folder: Path, threshold: float) -> None:
        self.rows = band_rows(threshold)
        self.num_bands = NUM_BINS // self.rows
        self._keys = TemporaryArray(folder, np.uint32)
        self._checked = TemporaryArray(folder, np.uint8)
        self._count = 0

    def build(self, sets: ShingleSets) -> Iterator[int]:
        """Makes the signatures of all documents and yields how many more are done."""
        for start in range(0, len(sets), BLOCK):
            documents = np.arange(start, min(start + BLOCK, len(sets)))
            signature = minhash(*sets.take(documents))
            keys = np.zeros((self.num_bands, BLOCK), dtype=np.uint32)
            keys[:, : len(documents)] = band_keys(signature, self.rows).T
            self._keys.append(keys)
            self._checked.append(signature[:, :CHECKED])
            self._count += len(documents)
            yield len(documents)

    def band(self, index: int) -> Hashes:
        """One band's key of every document."""
        blocks = self._keys.view().reshape(-1, self.num_bands, BLOCK)
        keys: Hashes = blocks[:, index].reshape(-1)[: self._count]
        return keys

    @property
    def checked(self) -> NDArray[np.uint8]:
        """The low bytes of the first values of every signature, [documents, CHECKED]."""
        values: NDArray[np.uint8] = self._checked.view().reshape(-1, CHECKED)
        return values

    def close(self) -> None:
        """Gives the disk space back."""
        self._keys.close()
        self._checked.close()


def band_rows(threshold: float) -> int:
    """The most rows per band with which pairs of this similarity are still found.

    More rows mean fewer candidates that are not similar. With b bands of r rows a pair of similarity s shares
    one with probability 1 - (1 - s**r)**b.
    """
    rows = 1
    while rows < 32 and share_found(threshold, rows + 1) >= LEAST_FOUND:
        rows += 1
    return rows


def share_found(similarity: float, rows: int) -> float:
    """Probability that two documents share a band."""
    return float(1 - (1 - similarity**rows) ** (NUM_BINS // rows))


def minhash(members: Hashes, sizes: Ints) -> Hashes:
    """Signatures [documents, NUM_BINS] of sets whose members are ascending, one set after the other."""
    signature = np.zeros(len(sizes) * NUM_BINS, dtype=np.uint32)
    filled = np.zeros(len(sizes) * NUM_BINS, dtype=np.bool_)
    places = np.repeat(np.arange(len(sizes)) * NUM_BINS, sizes) + (members >> BIN_SHIFT)
    least = is_first(places)
    signature[places[least]] = members[least]
    filled[places[least]] = True
    densify(signature, filled)
    return signature.reshape(-1, NUM_BINS)


def densify(signature: Hashes, filled: NDArray[np.bool_]) -> None:
    """Fills empty bins in place.

    After ``DONOR_TRIES`` random donors that were empty too, which happens to sets of a few dozen members, the
    next full bin gives (Shrivastava and Li 2014): also unbiased, only with more variance.
    """
    empty = np.flatnonzero(~filled)
    for donors in donors_of_tries():
        bins = empty % NUM_BINS
        giving = empty - bins + donors[bins]
        found = filled[giving]
        signature[empty[found]] = signature[giving[found]]
        empty = empty[~found]
    if len(empty):
        rotate(signature.reshape(-1, NUM_BINS), filled.reshape(-1, NUM_BINS), empty)


def rotate(signature: Hashes, filled: NDArray[np.bool_], empty: Ints) -> None:
    """Fills the bins ``empty`` (flat) from the full one before them, around the end; empty sets get 0."""
    rows, place = np.unique(empty // NUM_BINS, return_inverse=True)
    twice = np.tile(filled[rows], 2)
    last = np.maximum.accumulate(np.where(twice, np.arange(2 * NUM_BINS), 0), axis=1)
    bins = empty % NUM_BINS
    giving = last[place, bins + NUM_BINS] % NUM_BINS
    signature[rows[place], bins] = signature[rows[place], giving]


def band_keys(signature: Hashes, rows: int) -> Hashes:
    """A hash of every ``rows`` values in a row, [documents, bands]."""
    bands = NUM_BINS // rows
    keys = np.zeros((len(signature), bands), dtype=np.uint32)
    for row in range(rows):
        keys *= np.uint32(0x9E3779B1)
        keys += signature[:, row : bands * rows : rows]
        keys = mixed(keys)
    return keys


@cache
def donors_of_tries() -> Ints:
    """[tries, bins]: from which bin an empty one borrows at each try; the same ones always."""
    return np.random.default_rng(1703_04664).integers(0, NUM_BINS, (DONOR_TRIES, NUM_BINS))
