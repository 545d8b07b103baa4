"""Baichuan's tokenizer on transformers 5, and encoding of text that must stay text.

The package registers the tokenizer with transformers.
"""

import copy
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
from transformers import PreTrainedTokenizerBase
from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

Encoder = Callable[[Sequence[str]], list[list[int]]]

# Baichuan's turn marks (<reserved_106> and the like) are user-defined pieces: sentencepiece would find
# them in any text.
CONTROL_PIECE = re.compile(r"<reserved_\d+>")


class BaichuanTokenizer(SentencePieceBackend):
    """Encodes and decodes as the hub's tokenizer of the same name, for Baichuan-1 and -2.

    Converted to a fast tokenizer, a third (Baichuan-1) or two thirds (Baichuan-2) of unusual texts
    would get other ids.
    """

    def __init__(self, add_bos_token: bool = True, add_eos_token: bool = False, **kwargs: Any) -> None:
        """Takes the keys of ``tokenizer_config.json``, with the original class's defaults."""
        self.add_bos_token = add_bos_token
        self.add_eos_token = add_eos_token
        defaults = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
        # legacy=False would switch Baichuan-1's dummy prefix off.
        super().__init__(**{**defaults, **kwargs, "legacy": True})  # type: ignore[no-untyped-call]

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Puts BOS and EOS around each sequence, where they are on."""
        bos = [self.bos_token_id] if self.add_bos_token else []
        eos = [self.eos_token_id] if self.add_eos_token else []
        joined = bos + token_ids_0 + eos
        return joined if token_ids_1 is None else joined + bos + token_ids_1 + eos

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Decodes what lies between special tokens by sentencepiece, with a space before each special one."""
        special = set(self.all_special_tokens)
        text, run, after_special = "", [], False
        for index, token in enumerate(tokens):
            if token not in special:
                run.append(token)
                after_special = False
                continue
            gap = " " if index and not after_special else ""
            text += gap + self.sp_model.decode(run) + token
            run, after_special = [], True
        decoded: str = text + self.sp_model.decode(run)
        return decoded

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> tuple[str, ...]:
        """Also writes ``add_bos_token`` and ``add_eos_token``.

        Transformers drops them, and the original class would then begin every text with BOS.
        """
        files: tuple[str, ...] = super().save_pretrained(save_directory, *args, **kwargs)
        path = Path(save_directory) / "tokenizer_config.json"
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings |= {"add_bos_token": self.add_bos_token, "add_eos_token": self.add_eos_token}
        written = json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False)
        path.write_text(written + "\n", encoding="utf-8")
        return files


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text alone, without special tokens.

    A control token that is spelled in a text (``</s>``, ``<|im_end|>``, ``<reserved_106>``) is encoded
    as the characters it consists of: whoever writes the text cannot end a turn with it. The tokenizer
    itself is left as it is, and must not get new tokens after the first call.
    """
    encode = _encoders.get(tokenizer)
    if encode is None:
        encode = _encoders[tokenizer] = _text_encoder(tokenizer)
    return encode(texts)


_encoders: WeakKeyDictionary[PreTrainedTokenizerBase, Encoder] = WeakKeyDictionary()


def _text_encoder(tokenizer: PreTrainedTokenizerBase) -> Encoder:
    if tokenizer.is_fast:
        return _backend_encoder(tokenizer)
    if isinstance(tokenizer, BaichuanTokenizer):
        return _sentencepiece_encoder(tokenizer.sp_model)
    # No closure over the tokenizer itself: it would keep its own key in the weak dictionary alive.
    private = copy.deepcopy(tokenizer)
    plain = {"add_special_tokens": False, "split_special_tokens": True}
    return lambda texts: [private.encode(text, **plain) for text in texts]


def _backend_encoder(tokenizer: PreTrainedTokenizerBase) -> Encoder:
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.encode_special_tokens = True
    backend.no_padding()
    backend.no_truncation()

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    return encode


def _sentencepiece_encoder(original: SentencePieceProcessor) -> Encoder:
    """Encodes by a copy of ``original`` in which the turn marks are control pieces, which no text matches."""
    model_proto: Any = sentencepiece_model_pb2.ModelProto  # type: ignore[attr-defined]  # made at import
    proto = model_proto.FromString(original.serialized_model_proto())
    for piece in proto.pieces:
        if CONTROL_PIECE.fullmatch(piece.piece):
            piece.type = piece.CONTROL
    private = SentencePieceProcessor()
    private.LoadFromSerializedProto(proto.SerializeToString())

    def encode(texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = private.encode(list(texts), out_type=int)
        return ids

    return encode
