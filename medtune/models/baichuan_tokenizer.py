"""Baichuan's tokenizer on transformers 5.

The package registers the tokenizer with transformers.
"""

import json
import os
from pathlib import Path
from typing import Any

from transformers.tokenization_utils_sentencepiece import SentencePieceBackend


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
