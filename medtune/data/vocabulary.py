"""What the data path needs of a tokenizer, light enough to send to another process."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from medtune.models.tokenizers import encode_texts

TextEncoder = Callable[[Sequence[str]], list[list[int]]]


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


def vocabulary_of(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """The vocabulary of a tokenizer."""
    return Vocabulary(
        name=str(tokenizer.name_or_path),
        encode=lambda texts: encode_texts(tokenizer, texts),
        ids={str(token): index for index, token in tokenizer.added_tokens_decoder.items()},
        bos_id=tokenizer.bos_token_id,
        eos_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
        special_tokens={
            name: value for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)
        },
        chat_template=tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None,
        size=len(tokenizer),
    )
