"""The paired bootstrap: how far a difference of two systems depends on the rows that happen to be tested.

Rows are drawn with replacement, as often as there are, the same ones for both systems, and the difference is
worked out anew; the middle of what comes out is its confidence interval (Efron 1979, the percentile method;
Koehn 2004, W04-3250, for pairs of systems). A figure that is a function of sums over rows needs
only how often each row was drawn: a matrix product instead of a thousand scorings.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 0.95


def draw_weights(rows: int, resamples: int, seed: tuple[int, ...]) -> Floats:
    """Returns how often each of ``rows`` is drawn, one line per resample."""
    chance = np.random.default_rng(seed)
    return chance.multinomial(rows, np.full(rows, 1 / rows), size=resamples).astype(np.float64)


def find_interval(values: Floats, level: float = LEVEL) -> tuple[float, float]:
    """Returns the bounds that hold the share ``level`` of the values, as much left out on each side."""
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
