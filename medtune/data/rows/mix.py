"""Which documents an epoch shows: weights as passes over each source, and what of it an epoch draws."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from medtune.config.schema import DataConfig, SourceConfig

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MOST_PASSES = 10_000
WHOLE = 1e-9  # passes this near to a whole number are whole: shares of a sum are not exact


@dataclass(frozen=True)
class Draw:
    """What an epoch shows of each source; arrays with an element per part of the split.

    Attributes:
        documents: Documents drawn; one drawn twice counts twice.
        tokens: Their tokens.
        learned: Tokens that are learned.
        wanted: Share of the epoch that the weights ask for, in the unit of ``data.mix_by``; passes over the
            source for ``mix_by=epochs``.
        realised: The same of what was drawn.
        passes: How often the epoch goes over the source.
    """

    documents: Ints
    tokens: Ints
    learned: Ints
    wanted: Floats
    realised: Floats
    passes: Floats


@dataclass(frozen=True)
class Mixture:
    """How much of each source an epoch shows.

    Attributes:
        wanted: As in :class:`Draw`.
        passes: Over each source, on average over the epochs.
    """

    wanted: Floats
    passes: Floats

    @cached_property
    def is_constant(self) -> bool:
        """Whether every epoch shows the same documents."""
        return bool((self.passes % 1 == 0).all())


def mixture_of(sizes: Ints, sources: Sequence[SourceConfig], data: DataConfig) -> Mixture:
    """How often an epoch goes over each source for the weights and ``data.mix_stop``.

    Without any weight each source weighs what it is large. For ``mix_stop=steps`` the epoch is as large as
    all sources together, whatever ``max_passes`` is; how large it has to be for the steps shows when it is
    packed, see :func:`scaled`.

    Args:
        sizes: Of each source in the unit of ``data.mix_by``: tokens or documents.
        sources: Their settings.
        data: The mix's.

    Raises:
        ValueError: Weights of which no mix can be made.
    """
    weights = weights_of(sizes, sources, data)
    if data.mix_by == "epochs":
        return Mixture(weights, capped(weights, sources))
    if data.mix_temperature <= 0:
        raise ValueError(f"data.mix_temperature={data.mix_temperature:g} must be above 0")
    powers = (weights / weights.max()) ** (1 / data.mix_temperature)  # the largest is 1: none overflows
    shares = powers / powers.sum()
    used = shares > 0
    totals = sizes[used] / shares[used]  # size of the epoch that shows each source exactly once
    total = {"first": totals.min(), "all": totals.max(), "steps": sizes[used].sum()}[data.mix_stop]
    passes = shares * total / np.maximum(sizes, 1)
    refuse_endless(passes, sources, data)
    return Mixture(shares, passes if data.mix_stop == "steps" else capped(passes, sources))


def refuse_endless(passes: Floats, sources: Sequence[SourceConfig], data: DataConfig) -> None:
    """Raises ValueError where an epoch would repeat a source beyond all use, and memory."""
    limits = [np.inf if source.max_passes is None else source.max_passes for source in sources]
    most = int(np.argmax(np.minimum(passes, limits)))
    if passes[most] > MOST_PASSES and limits[most] > MOST_PASSES:
        name = sources[most].name
        raise ValueError(
            f"data.mix_stop={data.mix_stop}: an epoch would go {passes[most]:.3g} times over {name}; raise "
            f"the smallest weight, set data.sources.{name}.max_passes, or choose data.mix_stop=first"
        )


def scaled(mixture: Mixture, factor: float, sources: Sequence[SourceConfig]) -> Mixture:
    """The same mix in an epoch ``factor`` times as large; sources at ``max_passes`` stay there."""
    return Mixture(mixture.wanted, capped(mixture.passes * factor, sources))


def capped(passes: Floats, sources: Sequence[SourceConfig]) -> Floats:
    """``passes``, none above its source's ``max_passes``; whole ones exactly."""
    limits = [np.inf if source.max_passes is None else source.max_passes for source in sources]
    result: Floats = np.minimum(passes, limits)
    nearest = np.round(result)
    return np.where(np.abs(result - nearest) < WHOLE * np.maximum(nearest, 1), nearest, result)


def weights_of(sizes: Ints, sources: Sequence[SourceConfig], data: DataConfig) -> Floats:
    """The weight of each source; its size, or one pass, where it has none.

    Raises:
        ValueError: Some are missing, one is negative or no number, or all are 0.
    """
    given = {source.name: source.weight for source in sources}
    if data.mix_by == "epochs":
        weights = np.array([1.0 if weight is None else weight for weight in given.values()])
    elif missing := [name for name, weight in given.items() if weight is None]:
        if len(missing) < len(given):
            raise ValueError(
                f"data.mix: {', '.join(missing)} has no weight but other sources have; set "
                f"data.sources.{missing[0]}.weight=..., or none at all"
            )
        weights = sizes.astype(np.float64)
    else:
        weights = np.array(list(given.values()), dtype=np.float64)
    if not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
        pairs = zip(given, weights.tolist(), strict=True)
        shown = ", ".join(f"data.sources.{name}.weight={weight:g}" for name, weight in pairs)
        raise ValueError(f"{shown}: weights are numbers from 0, and at least one is above it")
    return weights


def draw_documents(sizes: Ints, passes: float, seed: Sequence[int], epoch: int) -> Ints:
    """The documents of one source that an epoch shows, some of them several times.

    Every epoch shows each document as often as there are whole passes. The rest of a pass is taken, from
    epoch to epoch, off an endless sequence of permutations: every document is in one epoch's rest before
    any is in another's a second time. Where such a permutation ends within an epoch, the epoch can show a
    document of its end again from the beginning of the next.

    Args:
        sizes: Of each document, in the unit that passes are counted in.
        passes: Over the source, per epoch.
        seed: Of the source.
        epoch: From 0; the result depends on nothing that was drawn before.

    Returns:
        Indices into ``sizes``.
    """
    whole, fraction = divmod(passes, 1)
    drawn = [np.tile(np.arange(len(sizes)), int(whole))]
    if fraction:
        drawn.append(stretch(sizes, fraction * epoch, fraction * (epoch + 1), seed))
    return np.concatenate(drawn)


def stretch(sizes: Ints, start: float, stop: float, seed: Sequence[int]) -> Ints:
    """Documents from ``start`` to ``stop`` passes, less than one apart, into the endless permutations.

    Both ends lie between the two documents that are nearest, so that a stretch differs from what was asked
    by a document at most, and stretches that follow each other leave nothing out.
    """
    rounds = int(start), int(stop)
    orders = {number: permutation(len(sizes), seed, number) for number in set(rounds)}
    first, last = (
        nearest_cut(sizes[orders[number]], position - number)
        for number, position in zip(rounds, (start, stop), strict=True)
    )
    if rounds[0] == rounds[1]:
        return orders[rounds[0]][first:last]
    return np.concatenate([orders[rounds[0]][first:], orders[rounds[1]][:last]])


def permutation(count: int, seed: Sequence[int], number: int) -> Ints:
    """The ``number``-th of the endless permutations of a source."""
    return np.random.default_rng([*seed, number]).permutation(count)


def nearest_cut(sizes: Ints, share: float) -> int:
    """How many of the first documents are nearest to ``share`` of the size of all."""
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    target = share * bounds[-1]
    above = int(np.searchsorted(bounds[:-1], target))
    return above - 1 if above and target - bounds[above - 1] <= bounds[above] - target else above


def seed_of(name: str, seed: int) -> list[int]:
    """The seed of a source's permutations; that of another source does not depend on how many there are."""
    return [seed, zlib.crc32(name.encode())]


def shares_of(sizes: Ints) -> Floats:
    """Each size's share of the sum; zeros where the sum is 0."""
    result: Floats = sizes / max(1, int(sizes.sum()))
    return result
