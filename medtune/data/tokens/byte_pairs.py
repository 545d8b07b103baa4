"""From a tokenizer.json's merges to the ranks that tiktoken takes, where both give the same ids."""

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

GPT2_PATTERN = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # of ByteLevel(use_regex)
)
ANYTHING = r"[\s\S]+"
LOOK_AROUND = r"\s+(?!\S)"  # the one that white space alone can make expensive
LEFTOVER = -1  # in BytePairs.ids: the rank stands for several ids

Pair = tuple[bytes, bytes]


class Unsuited(Exception):
    """This way of encoding would not give the tokenizer's ids; the message says why."""


@dataclass(frozen=True)
class BytePairs:
    """Byte-pair encoding as tiktoken knows it.

    Attributes:
        ranks: Token to the order in which it is made; any two neighbours that make a token are merged.
        pattern: Finds the pieces that are encoded one by one; it finds every character of any text.
        ids: Id of each rank; None where ranks are ids.
        leftovers: The ids of a rank that is no token of the vocabulary: the first bytes of a character,
            left over where the character itself is not in the vocabulary.
        composed: Texts are put into the composed form (NFC) first.
        before: Put in front of each text.
        space: What a space is replaced with.
    """

    ranks: dict[bytes, int]
    pattern: str
    ids: list[int] | None
    leftovers: Mapping[int, Sequence[int]]
    composed: bool = False
    before: str = ""
    space: str = " "

    @property
    def changes_text(self) -> bool:
        """Whether :meth:`changed` does anything."""
        return self.composed or bool(self.before) or self.space != " "

    def changed(self, text: str) -> str:
        """``text`` as it is encoded."""
        if self.composed:
            text = unicodedata.normalize("NFC", text)
        if self.space != " ":
            text = text.replace(" ", self.space)
        return self.before + text if text else text

    def to_ids(self, ranks: list[int]) -> list[int]:
        """The ids that ranks stand for."""
        assert self.ids is not None
        ids = list(map(self.ids.__getitem__, ranks))
        if LEFTOVER not in ids:
            return ids
        return list(chain.from_iterable(map(self._spelled.__getitem__, ranks)))

    @cached_property
    def _spelled(self) -> list[Sequence[int]]:
        assert self.ids is not None
        return [
            self.leftovers[rank] if index == LEFTOVER else (index,) for rank, index in enumerate(self.ids)
        ]


def read_byte_pairs(definition: Mapping[str, Any]) -> BytePairs:
    """The byte pairs of a tokenizer.json.

    Raises:
        Unsuited: tiktoken would give other ids.
    """
    model = definition["model"]
    if model["type"] != "BPE" or model.get("dropout"):
        raise Unsuited(f"its model is {model['type']}{', with dropout' if model.get('dropout') else ''}")
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise Unsuited("its tokens have marks at the ends of words")
    changes = read_normalizer(definition["normalizer"])
    pattern, byte_level = read_pre_tokenizer(definition["pre_tokenizer"])
    make = byte_level_ranks if byte_level else character_ranks
    ranks, ids, leftovers = make(model)
    return BytePairs(ranks, pattern, ids, leftovers, **changes)


def read_normalizer(normalizer: Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields of :class:`BytePairs` that stand for a normaliser."""
    fields: dict[str, Any] = {}
    for step in steps_of(normalizer, "normalizers"):
        match step:
            case {"type": "NFC"} if not fields:
                fields["composed"] = True
            case {"type": "Prepend", "prepend": " " | "▁" as before} if not fields:
                fields["before"] = before
            case {"type": "Replace", "pattern": {"String": " "}, "content": str(space)} if space:
                fields["space"] = space
                fields["before"] = fields.get("before", "").replace(" ", space)
            case _:
                raise Unsuited(f"its text goes through {step['type']}")
    return fields


def read_pre_tokenizer(pre_tokenizer: Mapping[str, Any] | None) -> tuple[str, bool]:
    """(pattern of the pieces, whether the vocabulary is one of bytes)."""
    pattern, byte_level = None, False
    for step in steps_of(pre_tokenizer, "pretokenizers"):
        match step:
            case {"type": "Split", "pattern": {"Regex": str(regex)}} if pattern is None and not byte_level:
                if (step["behavior"], step["invert"]) not in (("Isolated", False), ("Removed", True)):
                    raise Unsuited("its pieces are not what a pattern finds")
                pattern = regex
            case {"type": "ByteLevel", "add_prefix_space": False} if not byte_level:
                byte_level = True
                if step.get("use_regex", True):
                    if pattern is not None:
                        raise Unsuited("its text is cut into pieces twice")
                    pattern = GPT2_PATTERN
            case _:
                raise Unsuited(f"its text is cut into pieces by {step['type']}")
    if pattern is not None:
        check_pattern(pattern)
    return pattern or ANYTHING, byte_level


def steps_of(part: Mapping[str, Any] | None, name: str) -> list[Mapping[str, Any]]:
    """The steps of a part of a tokenizer.json that may be absent, alone or a sequence."""
    if part is None:
        return []
    return list(part[name]) if part["type"] == "Sequence" else [part]


def check_pattern(pattern: str) -> None:
    """Raises Unsuited unless ``pattern`` finds every character, wherever it stands.

    tiktoken drops what its pattern does not find; tokenizers makes pieces of it.
    """
    from tiktoken import Encoding

    plain = pattern.replace(LOOK_AROUND, "")
    if any(mark in plain for mark in ("(?=", "(?!", "(?<", r"\b", r"\B", r"\A", r"\z", r"\Z", r"\G", "$")):
        raise Unsuited("its pattern looks around")
    try:
        single = {bytes([byte]): byte for byte in range(256)}
        found = Encoding("bytes", pat_str=pattern, mergeable_ranks=single, special_tokens={}).encode_ordinary
    except ValueError as error:
        raise Unsuited("its pattern is none that tiktoken reads") from error
    # A pattern that does not look around finds a character anywhere if it finds it alone.
    for number in (*range(0x3100), *range(0x3100, 0xD800, 61), *range(0xE000, 0x20000, 97)):
        if len(found(chr(number))) != len(chr(number).encode()):
            raise Unsuited("its pattern leaves characters out")


Ranks = tuple[dict[bytes, int], list[int] | None, dict[int, list[int]]]


def byte_level_ranks(model: Mapping[str, Any]) -> Ranks:
    """Ranks, ids and leftovers of a vocabulary whose characters stand for bytes, as GPT-2's do."""
    to_byte = byte_of_character()
    vocabulary = {as_bytes(token, to_byte): index for token, index in model["vocab"].items()}
    vocabulary.pop(b"", None)
    alphabet = [bytes([byte]) for byte in range(256)]
    if not all(byte in vocabulary for byte in alphabet):
        raise Unsuited("its vocabulary has not every byte")
    pairs = [(as_bytes(a, to_byte), as_bytes(b, to_byte)) for a, b in merges_of(model)]
    order = products_in_order(pairs)
    if not order.keys() <= vocabulary.keys():
        raise Unsuited("its merges make tokens that are not in its vocabulary")
    if model.get("ignore_merges") and len(order) + 256 < len(vocabulary):
        raise Unsuited("its vocabulary has tokens that no merge makes")
    ranks = {token: rank for rank, token in enumerate((*alphabet, *order))}
    check_merges(ranks, order, bool(model.get("ignore_merges")))
    ids = [vocabulary[token] for token in ranks]
    made = ids[256:]
    if all(a < b for a, b in zip(made, made[1:], strict=False)):
        return {token: vocabulary[token] for token in ranks}, None, {}
    return ranks, ids, {}


def character_ranks(model: Mapping[str, Any]) -> Ranks:
    """Ranks, ids and leftovers of a vocabulary of characters that spells unknown ones in bytes.

    The first bytes of the known characters have the lowest ranks after the single bytes, then come
    the characters, so that every known character is put together before any merge.
    """
    vocabulary = {token.encode(): index for token, index in model["vocab"].items()}
    spelled = [vocabulary.get(f"<0x{byte:02X}>".encode()) for byte in range(256)]
    if not model.get("byte_fallback") or None in spelled:
        raise Unsuited("its vocabulary has unknown characters")
    order = products_in_order([(a.encode(), b.encode()) for a, b in merges_of(model)])
    if not order.keys() <= vocabulary.keys():
        raise Unsuited("its merges make tokens that are not in its vocabulary")
    if model.get("ignore_merges"):
        raise Unsuited("it looks whole pieces up")
    characters = [token.encode() for token in model["vocab"] if len(token) == 1]
    alphabet = [bytes([byte]) for byte in range(256)]
    starts = sorted({token[:n] for token in characters for n in range(2, len(token))})
    long = [token for token in characters if len(token) > 1]
    ranks = {token: rank for rank, token in enumerate((*alphabet, *starts, *long, *order))}
    check_merges(ranks, order, whole_pieces=False)
    ids = [vocabulary.get(token, LEFTOVER) for token in ranks]
    ids[:256] = [spelled[rank] if one == LEFTOVER else one for rank, one in enumerate(ids[:256])]
    return ranks, ids, {ranks[start]: [spelled[byte] for byte in start] for start in starts}


def byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for characters from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def as_bytes(token: str, to_byte: Mapping[str, int]) -> bytes:
    """The bytes that a token of a byte-level vocabulary stands for; none for one that is no such token."""
    try:
        return bytes([to_byte[character] for character in token])
    except KeyError:
        return b""


def merges_of(model: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The merges in order; older files have them as "left right"."""
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        yield left, right


def products_in_order(pairs: Iterable[Pair]) -> dict[bytes, list[Pair]]:
    """Token to the pairs that make it, in the order of the merges."""
    products: dict[bytes, list[Pair]] = {}
    last = None
    for left, right in pairs:
        token = left + right
        if not left or not right or (token in products and token != last):
            raise Unsuited("its merges make the same token at several ranks")
        products.setdefault(token, []).append((left, right))
        last = token
    return products


def check_merges(
    ranks: Mapping[bytes, int], products: Mapping[bytes, Sequence[Pair]], whole_pieces: bool
) -> None:
    """Raises Unsuited unless merging any neighbours that make a token comes to the same as the merges.

    It does when each token, encoded with the lower ranks only, ends as a pair that the merges list: what
    happens inside a stretch that no merge has crossed does not depend on its surroundings.

    Args:
        ranks: As in :class:`BytePairs`.
        products: Token to the pairs that make it.
        whole_pieces: Pieces that are a token are not merged at all (ignore_merges). A token that its merges
            never come to does no harm then, if all pairs that could make it are listed.
    """
    made: dict[bytes, Pair | None] = {}  # how each token comes about, if it does
    for token, pairs in products.items():
        limit = ranks[token]
        if any(max(ranks.get(left, limit), ranks.get(right, limit)) >= limit for left, right in pairs):
            raise Unsuited("a merge comes before its parts")
        pair = next((pair for pair in pairs if not is_crossed(*pair, limit, ranks, made)), None)
        made[token] = pair
        if pair is None and not (whole_pieces and set(splits_of(token, ranks)) <= set(pairs)):
            raise Unsuited(f"its merges do not make {token!r} in the order of their ranks")


def splits_of(token: bytes, ranks: Mapping[bytes, int]) -> Iterator[Pair]:
    """The pairs of tokens that make ``token``."""
    for at in range(1, len(token)):
        if token[:at] in ranks and token[at:] in ranks:
            yield token[:at], token[at:]


def is_crossed(
    left: bytes, right: bytes, limit: int, ranks: Mapping[bytes, int], made: Mapping[bytes, Pair | None]
) -> bool:
    """Whether a merge below ``limit`` joins an end of ``left`` to a start of ``right`` before both stand.

    What ends ``left`` is a smaller token until the rank at which that one becomes part of a larger: a
    merge across the border comes first when its rank is lower than that of either side's next one.
    Of equal ranks the one further left comes first.
    """
    if made.get(left, ()) is None or made.get(right, ()) is None:
        return True  # one of them never stands
    starts = [*edges(right, limit, ranks, made, 0)]
    for end, end_gone in edges(left, limit, ranks, made, 1):
        for start, start_gone in starts:
            rank = ranks.get(end + start, limit)
            if rank < end_gone and rank <= start_gone and rank < limit:
                return True
    return False


def edges(
    token: bytes, limit: int, ranks: Mapping[bytes, int], made: Mapping[bytes, Pair | None], side: int
) -> Iterator[tuple[bytes, int]]:
    """What stands at one side (0: left) of a token while it comes about, and the rank that ends each."""
    gone = limit
    while pair := made.get(token):
        yield token, gone
        token, gone = pair[side], ranks[token]
    yield token, gone
