"""Sets of character 5-grams, hashed to 32 bits, in files that nobody else sees.

Per document 4 bytes on disk for each distinct 5-gram and 8 bytes in memory. Two different 5-grams share a
hash with probability 2**-32: an error below 0.001 in the similarity of documents of five million characters.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from medtune.runtime.record import disk_error

Ints = NDArray[np.int64]
Hashes = NDArray[np.uint32]
Keys = NDArray[np.uint64]

SHINGLE = 5  # characters
BATCH_CHARACTERS = 1 << 17  # a batch's arrays stay in the second-level cache
PADDING = "\0" * (SHINGLE - 1)
LOW_HALF = np.uint64(0xFFFFFFFF)


class TemporaryArray:
    """An array that is appended to, then mapped; its file has no name and goes with the process.

    Written as a file, not through the map: a full disk is then an error instead of a crash.
    """

    def __init__(self, folder: Path, dtype: type[np.generic]) -> None:
        self.folder = folder
        self.dtype = np.dtype(dtype)
        self.length = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise disk_error(folder, error) from error

    def append(self, values: NDArray[Any]) -> None:
        """Adds the values of an array, flat.

        Raises:
            ValueError: The disk is full.
        """
        try:
            self._file.write(np.ascontiguousarray(values, dtype=self.dtype).data)
        except OSError as error:
            raise disk_error(self.folder, error) from error
        self.length += values.size

    def view(self) -> NDArray[Any]:
        """What was written so far, mapped."""
        if not self.length:
            return np.zeros(0, dtype=self.dtype)
        try:
            self._file.flush()
        except OSError as error:
            raise disk_error(self.folder, error) from error
        return np.memmap(self._file, dtype=self.dtype, mode="r", shape=(self.length,))

    def close(self) -> None:
        """Gives the disk space back once no view is left."""
        self._file.close()


class ShingleSets:
    """The set of every document, ascending, by its number.

    Attributes:
        hashes: All sets, one after the other.
        starts: Where each begins, and one past the last.
    """

    def __init__(self, hashes: Hashes, sizes: Ints) -> None:
        self.hashes = hashes
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def sizes(self) -> Ints:
        """Members of each set."""
        sizes: Ints = self.starts[1:] - self.starts[:-1]
        return sizes

    def take(self, documents: Ints) -> tuple[Hashes, Ints]:
        """The members of some sets, one after the other, and their sizes."""
        sizes = self.starts[documents + 1] - self.starts[documents]
        return self.hashes[ranges(self.starts[documents], sizes)], sizes


def ranges(starts: Ints, sizes: Ints) -> Ints:
    """``start, start + 1, …`` of every range, one after the other."""
    before = np.cumsum(sizes) - sizes
    places: Ints = np.arange(int(sizes.sum())) + np.repeat(starts - before, sizes)
    return places


def write_sets(texts: Iterable[str], into: TemporaryArray) -> Iterator[Ints]:
    """Appends the sets of ``texts`` and yields their sizes, batch by batch."""
    for batch in batches_of(texts):
        members, sizes = hash_shingles(batch)
        into.append(members)
        yield sizes


def batches_of(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts gathered to batches of about ``BATCH_CHARACTERS``; a longer text is a batch of its own."""
    batch: list[str] = []
    room = BATCH_CHARACTERS
    for text in texts:
        batch.append(text)
        room -= len(text)
        if room <= 0:
            yield batch
            batch, room = [], BATCH_CHARACTERS
    if batch:
        yield batch


def hash_shingles(texts: Sequence[str]) -> tuple[Hashes, Ints]:
    """The sets of some texts, each ascending, and their sizes.

    A text shorter than five characters is one shingle of its own; an empty one has none.
    """
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    windows = np.where(lengths > 0, np.maximum(lengths - SHINGLE + 1, 1), 0)
    starts = np.cumsum(lengths + len(PADDING)) - lengths - len(PADDING)
    # A lone surrogate is a character like any other here.
    joined = "".join(text + PADDING for text in texts).encode("utf-32-le", "surrogatepass")
    hashes = rolling_hashes(np.frombuffer(joined, dtype=np.uint32))[ranges(starts, windows)]
    keys = joined_keys(np.repeat(np.arange(len(texts)), windows), hashes)
    keys.sort()
    keys = keys[is_first(keys)]
    owners = (keys >> np.uint64(32)).astype(np.int64)
    return low_halves(keys), np.bincount(owners, minlength=len(texts))


def rolling_hashes(points: Hashes) -> Hashes:
    """The hash of every five code points in a row: a polynomial modulo 2**32, then mixed."""
    count = max(0, len(points) - SHINGLE + 1)
    hashes = np.zeros(count, dtype=np.uint32)
    for offset in range(SHINGLE):
        hashes *= np.uint32(0x9E3779B1)
        hashes += points[offset : offset + count]
    return mixed(hashes)


def mixed(hashes: Hashes) -> Hashes:
    """MurmurHash3's last step, a bijection: every bit depends on every bit."""
    hashes = hashes ^ (hashes >> np.uint32(16))
    hashes *= np.uint32(0x85EBCA6B)
    hashes ^= hashes >> np.uint32(13)
    hashes *= np.uint32(0xC2B2AE35)
    hashes ^= hashes >> np.uint32(16)
    return hashes


def joined_keys(owners: Ints, hashes: Hashes) -> Keys:
    """Owner in the high half, hash in the low one: sorted by owner, then by hash."""
    keys = owners.astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= hashes
    return keys


def low_halves(keys: Keys) -> Hashes:
    """The hashes of :func:`joined_keys`."""
    return (keys & LOW_HALF).astype(np.uint32)


def is_first(ordered: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a value differs from the one before it."""
    first = np.ones(len(ordered), dtype=np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return first
