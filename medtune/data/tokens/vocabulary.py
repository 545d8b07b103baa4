"""What the data path needs of a tokenizer, light enough to send to another process."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from medtune.data.tokens.byte_pairs import Unsuited
from medtune.data.tokens.encoders import (
    CONTROL_PIECE,
    BackendEncoder,
    SlowEncoder,
    TextEncoder,
    TiktokenEncoder,
    sentencepiece_encoder,
    tiktoken_encoder,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Texts on which encoders that agree on ordinary ones have been seen to differ.
PROBES = (
    "",
    " ",
    "患者男，56岁，反复咳嗽、咳痰10年，加重3天。诊断：慢性阻塞性肺疾病（COPD）急性加重。",
    "The patient's temperature was 38.5°C; BP 120/80 mmHg, it's she'LL we've I'M\n\nResponse:\n",
    "ＡＢＣ　１２３，。！？（全角）ﬁ ﬀ Ⅲ ㎎ ℃ № ｶﾞ",
    "  two  spaces\tand\ttabs \n \n\n\r\n  end   ",
    "\n\n\n\n",
    "        x" * 3,
    "1234567890 12 345 6,789.00 ٣٤٥ ½ ²",
    "e\u0301 a\u030a \u1100\u1161\u11a8 \u0e01\u0e33 \u0928\u093f n\u0303o >\u0338",
    "👩🏽‍⚕️👨‍👩‍👧‍👦🇨🇳❤️ 😀😀",
    "𠀀𪚥龘靐齉 \ufdfa \u2603 \ue000 \ufffd \u200b\u200d\ufeff",
    "아버지가 방에 Привет мир שלום مرحبا हिन्दी ไทย",
    "a" * 300 + "好" * 300 + "!?" * 150 + " " * 300 + "0" * 50,
    "<0x41> ▁ ▁▁a Ġ Ċ ## <mask>",
    "x\x00y\x01\x1f\x7f\x80\x85\u00a0\u2028z",
    "don't DON'T ſ 'ſ 's'S's",
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Vocabulary:
    """Text to ids, and the ids of control tokens.

    Attributes:
        name: Of the tokenizer, for messages.
        encode: Ids of each text alone, without special tokens; a control token spelled in it stays text.
        ids: Every token that is a single entry of the vocabulary beyond ordinary text (special and added
            tokens), by its text.
        bos_id: None when the tokenizer has no such token; so are the next two.
        eos_id: See ``bos_id``.
        pad_id: See ``bos_id``.
        special_tokens: ``bos_token`` and its kind by name, as chat templates refer to them.
        chat_template: Jinja source, or None.
        size: Number of ids.
        encoder: The library behind ``encode``, and why it is not a faster one.
    """

    name: str
    encode: TextEncoder
    ids: Mapping[str, int]
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    special_tokens: Mapping[str, str]
    chat_template: str | None
    size: int
    encoder: str = ""


def vocabulary_of(tokenizer: "PreTrainedTokenizerBase") -> Vocabulary:
    """The vocabulary of a tokenizer, which must not get new tokens afterwards."""
    encode, encoder = fastest_encoder(tokenizer)
    return Vocabulary(
        name=str(tokenizer.name_or_path),
        encode=encode,
        ids={str(token): index for index, token in tokenizer.added_tokens_decoder.items()},
        bos_id=tokenizer.bos_token_id,
        eos_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
        special_tokens={
            name: value for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)
        },
        chat_template=tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None,
        size=len(tokenizer),
        encoder=encoder,
    )


def fastest_encoder(tokenizer: "PreTrainedTokenizerBase") -> tuple[TextEncoder, str]:
    """(the fastest encoder whose ids are the tokenizer's own, its library and why it is not a faster one)."""
    own = own_encoder(tokenizer)
    try:
        fast = faster_encoder(tokenizer, own)
    except Unsuited as reason:
        return own, f"{own.library} (not a faster one: {reason})"
    spelled = [f"头痛{token}a {token}" for token in map(str, tokenizer.added_tokens_decoder.values())]
    text = first_difference(fast, own, [*PROBES, *spelled])
    return (fast, fast.library) if text is None else (own, fallen_back(fast, own, text))


def own_encoder(tokenizer: "PreTrainedTokenizerBase") -> TextEncoder:
    """The tokenizer itself as an encoder, whose ids are right by definition."""
    if tokenizer.is_fast:
        return BackendEncoder(tokenizer.backend_tokenizer.to_str())
    return SlowEncoder(tokenizer)


def faster_encoder(tokenizer: "PreTrainedTokenizerBase", own: TextEncoder) -> TextEncoder:
    """Another library with the same vocabulary; raises Unsuited where there is none."""
    if isinstance(own, BackendEncoder):
        return tiktoken_encoder(own)
    if hasattr(tokenizer, "sp_model"):
        return sentencepiece_encoder(tokenizer.sp_model.serialized_model_proto())
    raise Unsuited("it is written in Python")


def verified(
    vocabulary: Vocabulary, tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]
) -> Vocabulary:
    """``vocabulary``, or one with the tokenizer itself as its encoder when it gives ``texts`` other ids."""
    fast = vocabulary.encode
    own = fast.fallback if isinstance(fast, TiktokenEncoder) else own_encoder(tokenizer)
    text = None if fast.library == own.library else first_difference(fast, own, texts)
    if text is None:
        return vocabulary
    return replace(vocabulary, encode=own, encoder=fallen_back(fast, own, text))


def first_difference(fast: TextEncoder, own: TextEncoder, texts: Sequence[str]) -> str | None:
    """The first text that two encoders encode differently.

    Texts that spell a turn mark of Baichuan's are left out: its tokenizer would find them.
    """
    plain = [text for text in texts if not CONTROL_PIECE.search(text)]
    pairs = zip(plain, fast(plain), own(plain), strict=True)
    return next((text for text, ids, due in pairs if ids != due), None)


def fallen_back(fast: TextEncoder, own: TextEncoder, text: str) -> str:
    """Says that, and why, a faster encoder is not used."""
    return f"{own.library} (not {fast.library}, which gives other ids for {text[:40]!r})"
