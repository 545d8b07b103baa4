"""The length of the longest common subsequence, fast enough for whole files and hostile lines."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def measure_common_subsequence(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Returns the length of the longest common subsequence.

    Bit-parallel (Hyyrö 2004): one big integer stands for a whole row of the dynamic programme, so the cost is
    one addition per element of the longer side, over as many bits as the shorter side is long.
    """
    short, long = sorted((first, second), key=len)
    places: dict[Hashable, int] = {}
    for index, element in enumerate(short):
        places[element] = places.get(element, 0) | 1 << index
    full = (1 << len(short)) - 1
    row = full
    for element in long:
        if mask := places.get(element):
            row = (row + (row & mask) | row & ~mask) & full
    return len(short) - row.bit_count()
