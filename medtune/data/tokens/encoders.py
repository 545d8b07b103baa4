"""Text to ids by the fastest library that gives the ids of the model's own tokenizer.

An encoder is plain data that can be sent to another process, which then needs neither transformers
nor torch. It encodes each text alone and adds no special tokens; a control token that is spelled in a text
(``</s>``, ``<|im_end|>``, ``<reserved_106>``) is encoded as the characters it consists of: whoever
writes the text cannot end a turn with it.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from medtune.data.tokens.byte_pairs import BytePairs, Unsuited, read_byte_pairs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# tiktoken's regular expressions keep a state per character of white space, and end the process's thread
# of thought (a Rust panic) between 10**5 and 10**6 of them.
LONGEST_SPACE = 50_000
SPACES = re.compile(rf"\s{{{LONGEST_SPACE}}}")
# From 10**7 on tokenizers' regular expressions give up in the same way.
MOST_SPACES = 1_000_000
TOO_MANY_SPACES = re.compile(rf"\s{{{MOST_SPACES}}}")
# Baichuan's turn marks (<reserved_106> and the like) are user-defined pieces: sentencepiece would find
# them in any text.
CONTROL_PIECE = re.compile(r"<reserved_\d+>")


class TextEncoder(Protocol):
    """Ids of each text alone.

    Attributes:
        library: The library at work, for the log.
    """

    library: ClassVar[str]

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """One list of ids per text."""
        ...


class Stateless:
    """Leaves out what is made at first use, so that only the definition goes to another process."""

    def __getstate__(self) -> dict[str, Any]:
        return {item.name: self.__dict__[item.name] for item in fields(self)}  # type: ignore[arg-type]


@dataclass
class TiktokenEncoder(Stateless):
    """Byte-pair encoding by tiktoken, four to six times as fast as by tokenizers.

    Attributes:
        pairs: The merges as tiktoken takes them.
        added: Tokens that are found in text although they are not part of its vocabulary.
        fallback: Encodes what tiktoken cannot.
    """

    pairs: BytePairs
    added: tuple[tuple[str, int], ...]
    fallback: TextEncoder
    library: ClassVar[str] = "tiktoken"

    @cached_property
    def _encode(self) -> Callable[[str], list[int]]:
        from tiktoken import Encoding

        pairs = self.pairs
        encoding = Encoding("medtune", pat_str=pairs.pattern, mergeable_ranks=pairs.ranks, special_tokens={})
        return encoding.encode_ordinary

    @cached_property
    def _added_ids(self) -> Mapping[str, int]:
        return dict(self.added)

    @cached_property
    def _added_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self._added_ids, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    @cached_property
    def _starts(self) -> str:
        return "".join(sorted({content[0] for content, _ in self.added}))

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text alone."""
        if self.pairs.ids is None and not self.added and not self.pairs.changes_text:
            encode = self._encode
            return [encode(text) if len(text) < LONGEST_SPACE else self._encode_long(text) for text in texts]
        return [self._encode_any(text) for text in texts]

    def _encode_any(self, text: str) -> list[int]:
        for start in self._starts:
            if start in text and self._added_pattern.search(text):
                return self._encode_parts(text)
        return self._encode_plain(text)

    def _encode_parts(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in self._added_pattern.split(text):
            if part in self._added_ids:
                ids.append(self._added_ids[part])
            else:
                ids += self._encode_plain(part)
        return ids

    def _encode_plain(self, text: str) -> list[int]:
        pairs = self.pairs
        if len(text) >= LONGEST_SPACE and SPACES.search(text):
            return self.fallback([text])[0]
        ranks = self._encode(pairs.changed(text) if pairs.changes_text else text)
        return ranks if pairs.ids is None else pairs.to_ids(ranks)

    def _encode_long(self, text: str) -> list[int]:
        return self.fallback([text])[0] if SPACES.search(text) else self._encode(text)


@dataclass
class BackendEncoder(Stateless):
    """The tokenizers library, which transformers' fast tokenizers consist of.

    Attributes:
        definition: The content of a tokenizer.json.
    """

    definition: str
    library: ClassVar[str] = "tokenizers"

    @cached_property
    def _backend(self) -> Any:
        from tokenizers import Tokenizer

        backend = Tokenizer.from_str(self.definition)
        backend.encode_special_tokens = True
        backend.no_padding()
        backend.no_truncation()
        return backend

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text alone.

        Raises:
            ValueError: A text has a run of a million spaces, which no tokenizer is made for.
        """
        for text in texts:
            if len(text) >= MOST_SPACES and TOO_MANY_SPACES.search(text):
                raise ValueError(
                    f"{MOST_SPACES:,} white space characters in a row, which cannot be tokenised"
                )
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]


@dataclass
class SentencePieceEncoder(Stateless):
    """sentencepiece itself, with the turn marks as control pieces, which no text matches.

    Attributes:
        model: The content of a sentencepiece model file.
    """

    model: bytes
    library: ClassVar[str] = "sentencepiece"

    @cached_property
    def _processor(self) -> Any:
        from sentencepiece import SentencePieceProcessor

        processor = SentencePieceProcessor()
        processor.LoadFromSerializedProto(self.model)
        return processor

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text alone."""
        ids: list[list[int]] = self._processor.encode(list(texts), out_type=int)
        return ids


@dataclass
class SlowEncoder:
    """A tokenizer of transformers that is written in Python; another process has to import all of it."""

    tokenizer: "PreTrainedTokenizerBase"
    library: ClassVar[str] = "transformers"

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text alone."""
        plain = {"add_special_tokens": False, "split_special_tokens": True}
        return [self.tokenizer.encode(text, **plain) for text in texts]


def tiktoken_encoder(own: BackendEncoder) -> TiktokenEncoder:
    """The faster encoder of a tokenizer.json.

    Raises:
        Unsuited: It cannot give the same ids; says why.
    """
    parts = json.loads(own.definition)
    return TiktokenEncoder(read_byte_pairs(parts), read_added(parts), own)


def read_added(definition: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    """The added tokens that are no control tokens; they are found in any text (Qwen-3's ``<think>``)."""
    plain = [token for token in definition["added_tokens"] if not token["special"]]
    for token in plain:
        if token["single_word"] or token["lstrip"] or token["rstrip"]:
            raise Unsuited(f"the added token {token['content']!r} takes its surroundings in")
        if token["normalized"] and definition["normalizer"]:
            raise Unsuited(f"the added token {token['content']!r} is found in normalised text")
    return tuple((token["content"], token["id"]) for token in plain)


def sentencepiece_encoder(model: bytes) -> SentencePieceEncoder:
    """An encoder by a copy of ``model`` in which turn marks are control pieces."""
    from sentencepiece import sentencepiece_model_pb2

    model_proto: Any = sentencepiece_model_pb2.ModelProto  # type: ignore[attr-defined]  # made at import
    proto = model_proto.FromString(model)
    for piece in proto.pieces:
        if CONTROL_PIECE.fullmatch(piece.piece):
            piece.type = piece.CONTROL
    return SentencePieceEncoder(proto.SerializeToString())
