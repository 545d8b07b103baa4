"""Answers as text while their tokens come."""

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what decoding makes of the first bytes of a character
# A byte of what the vocabulary has no token for. Decoders look at all bytes in a row at once, and one that is
# wrong takes back those before it.
BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of an answer's ids, without control tokens and without prettifying its spaces."""
    text = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)  # a list comes of a list of lists only
    return text


class TextStream:
    """Turns token ids into text that never has to be taken back.

    A character may be spread over several tokens (bytes of a rare one, parts of an emoji) and a token's
    text may depend on the one before it (a sentencepiece space). So a token's text is what it adds to the
    text of the tokens just before it, and it is held back until its last character is complete, and behind
    byte tokens until another follows. The pieces joined are the text of all ids.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.start = 0  # first token of the window that is decoded
        self.given = 0  # tokens whose text was given out

    def push(self, token: int) -> str:
        """The text that can be shown now that ``token`` has come; may be empty."""
        self.ids.append(token)
        if BYTE_TOKEN.fullmatch(str(self.tokenizer.convert_ids_to_tokens(token))):
            return ""
        text = self._pending()
        if not text or text.endswith(INCOMPLETE):
            return ""
        self.start, self.given = self.given, len(self.ids)
        return text

    def end(self) -> str:
        """What was held back; a character that never became complete shows as U+FFFD."""
        text = self._pending()
        self.start = self.given = len(self.ids)
        return text

    def _pending(self) -> str:
        return self._decode(len(self.ids))[len(self._decode(self.given)) :]

    def _decode(self, end: int) -> str:
        return decode(self.tokenizer, self.ids[self.start : end])
