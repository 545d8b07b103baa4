"""Which documents of a source can be learned in rows of a given length, and which tokens of each."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medtune.config.schema import DataConfig
from medtune.data.fates import Fate
from medtune.data.parts import Part
from medtune.data.rows.mix import nearest_cut
from medtune.data.tokens.store import TokenStore

Ints = NDArray[np.int64]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pieces:
    """The tokens of documents that rows are made of, in the order of the documents.

    Attributes:
        document: Number of the document; one that is split has several pieces.
        start: First token used.
        end: One past the last.
        learned: Tokens learned, where the piece is not cut again.
    """

    document: Ints
    start: Ints
    end: Ints
    learned: Ints

    def __len__(self) -> int:
        return len(self.document)


def settle(part: Part, data: DataConfig, *, seed: int, is_train: bool) -> tuple[Part, Pieces]:
    """A part with final fates, and the pieces of what is kept, its documents numbered from 0.

    Args:
        part: Its documents without duplicates.
        data: ``sequence_length`` and ``packing``.
        seed: Of the choice that ``max_tokens`` makes.
        is_train: Whether ``max_tokens`` holds.

    Raises:
        ValueError: Examples are too long, or none of their tokens is learned, and they may not be left out.
    """
    part = replace(part, fates=part.fates.copy())
    drop_unusable(part, data)
    start = settle_overlong(part, data)
    if is_train and part.source.max_tokens is not None:
        cap(part, part.store.lengths - start, part.source.max_tokens, seed)
    is_split = part.source.overlong == "split" and data.packing != "concat"
    return part, pieces_of(part, start, data.sequence_length if is_split else None)


def pieces_of(part: Part, start: Ints, sequence_length: int | None) -> Pieces:
    """The pieces of what is kept, none longer than ``sequence_length`` if there is one."""
    kept, lengths = part.kept, part.store.lengths
    if part.objective == "sft":
        return Pieces(kept, start[kept], lengths[kept], learned_from(part.store, start)[kept])
    parts = np.ones_like(kept) if sequence_length is None else -(-lengths[kept] // sequence_length)
    document = np.repeat(kept, parts)
    number = np.arange(len(document)) - np.repeat(np.cumsum(parts) - parts, parts)
    first, end = start[document] + number * (sequence_length or 0), lengths[document]
    if sequence_length is not None:
        end = np.minimum(first + sequence_length, end)
    return Pieces(document, first, end, learned_of_texts(first, end))


def joined(parts: Sequence[Pieces], offsets: Ints) -> Pieces:
    """The pieces of several parts, whose documents are numbered through from ``offsets``."""
    return Pieces(
        np.concatenate([part.document + first for part, first in zip(parts, offsets[:-1], strict=True)]),
        np.concatenate([part.start for part in parts]),
        np.concatenate([part.end for part in parts]),
        np.concatenate([part.learned for part in parts]),
    )


def learned_of_texts(start: Ints, end: Ints) -> Ints:
    """Learned tokens of pieces learned whole: all but the first, which nothing in the row predicts."""
    result: Ints = np.maximum(end - start - 1, 0)
    return result


def learned_from(store: TokenStore, start: Ints) -> Ints:
    """Tokens in the spans of each document, from the one after ``start`` on."""
    document, first, last = store.span_table
    inside = np.maximum(last - np.maximum(first, start[document] + 1), 0)
    return np.bincount(document, weights=inside, minlength=len(store)).astype(np.int64)


def drop_unusable(part: Part, data: DataConfig) -> None:
    """Leaves out, in place, what teaches nothing and, with ``overlong=drop``, what is too long.

    Before duplicates are looked for, so that nothing gives way to a document that is not learned.

    Raises:
        ValueError: As :func:`drop_unlearned`.
    """
    drop_unlearned(part, data)
    long = np.flatnonzero((part.fates == Fate.KEPT) & (part.store.lengths > data.sequence_length))
    if len(long) and part.source.overlong == "drop" and data.packing != "concat":
        part.fates[long] = Fate.OVERLONG
        key = key_of(data, part, "overlong")
        log.warning("data: %d overlong examples of %s are left out (%s=drop)", len(long), part.name, key)


def drop_unlearned(part: Part, data: DataConfig) -> None:
    """Leaves out documents that teach nothing.

    Raises:
        ValueError: There are some and ``on_error=raise``.
    """
    store = part.store
    teaches = learned_from(store, np.zeros_like(store.lengths)) if part.objective == "sft" else store.lengths
    useless = np.flatnonzero((part.fates == Fate.KEPT) & (teaches == 0))
    if not len(useless):
        return
    if part.source.on_error == "raise":
        what = "response to learn" if part.objective == "sft" else "token"
        raise ValueError(
            f"{store.where(int(useless[0]))}: this example has no {what} ({len(useless)} of {part.name} have "
            f"none); correct it, or leave such examples out with {key_of(data, part, 'on_error')}=skip"
        )
    part.fates[useless] = Fate.UNLEARNED


def settle_overlong(part: Part, data: DataConfig) -> Ints:
    """Applies the source's ``overlong``; returns the first token used of each document.

    ``concat`` needs no rule, since it cuts every document where a row ends.
    """
    store, rule = part.store, part.source.overlong
    start = np.zeros_like(store.lengths)
    long = np.flatnonzero((part.fates == Fate.KEPT) & (store.lengths > data.sequence_length))
    if data.packing == "concat" or not len(long):
        return start
    key = key_of(data, part, "overlong")
    if rule == "error":
        raise ValueError(overlong_message(part, data, long))
    if rule == "split" and part.objective != "pretrain":
        raise ValueError(
            f"{key}=split cuts a text into several, which would part a response of {part.name} from its "
            f"prompt; choose {key}=truncate or {key}=drop"
        )
    if rule == "truncate":
        for document in long.tolist():
            start[document] = truncated_start(part, data, document)
        log.warning("data: %d examples of %s are cut from the left (%s=truncate)", len(long), part.name, key)
    return start


def overlong_message(part: Part, data: DataConfig, long: Ints) -> str:
    """How many are too long, which, and what to change."""
    lengths, key = part.store.lengths[long], key_of(data, part, "overlong")
    worst = part.store.where(int(long[np.argmax(lengths)]))
    rules = f"{key}=drop, {key}=truncate (cuts prompts from the left, keeps responses whole)"
    if part.objective == "pretrain":
        rules += f" or, for texts, {key}=split"
    return (
        f"{len(long)} of {len(part.kept)} examples of {part.name} ({part.split}) are longer than "
        f"data.sequence_length={data.sequence_length} (the longest, {worst}, has {int(lengths.max())} "
        f"tokens; half of them have at most {int(np.median(lengths))}). Raise data.sequence_length, or "
        f"choose {rules}"
    )


def truncated_start(part: Part, data: DataConfig, document: int) -> int:
    """First token kept of an example that is cut from the left.

    A response that would be cut goes whole, with what is before it: the last one has to stay. A text has
    none, and keeps its end.

    Raises:
        ValueError: It does not fit; cutting it would lose its end.
    """
    store = part.store
    length = int(store.lengths[document])
    start = length - data.sequence_length
    spans = store.spans(document)
    if not store.responses[document] or not len(spans) or start < int(spans[0, 0]):
        return start
    if start >= int(spans[-1, 0]):
        raise ValueError(
            f"{store.where(document)}: the response has {length - int(spans[-1, 0])} tokens but "
            f"data.sequence_length is {data.sequence_length}, which must hold it and a token of the prompt; "
            f"raise it, or drop such examples with {key_of(data, part, 'overlong')}=drop"
        )
    end = int(spans[spans[:, 0] <= start][-1, 1])
    # A token that is learned as another one begins the next prompt.
    begins_prompt = (store.relabels(document)[:, 0] == end - 1).any()
    return max(start, end - int(begins_prompt))


def cap(part: Part, lengths: Ints, max_tokens: int, seed: int) -> None:
    """Keeps about ``max_tokens`` tokens: the documents whose contents have the smallest seeded hashes.

    So no other document decides about one, but for where the choice ends.
    """
    kept = part.kept
    order = kept[np.argsort(seeded_hash(part.store.content[kept, 0], seed), kind="stable")]
    total = int(lengths[kept].sum())
    if total <= max_tokens:
        return
    dropped = order[max(1, nearest_cut(lengths[order], max_tokens / total)) :]
    part.fates[dropped] = Fate.CAPPED
    log.info(
        "data: %d of %d examples of %s are used (max_tokens)",
        *(len(kept) - len(dropped), len(kept), part.name),
    )


def seeded_hash(values: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele et al. 2014) over hashes, another order for each seed."""
    step = np.uint64((0x9E3779B97F4A7C15 * (seed + 1)) % 2**64)
    mixed = values + step
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def key_of(data: DataConfig, part: Part, key: str) -> str:
    """A source's key as the user types it."""
    return f"data.sources.{part.name}.{key}" if data.mix else f"data.{key}"
