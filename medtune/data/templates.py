"""From an example to token ids and learned spans: one object for training, generation and chat."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from medtune.config.schema import TemplateConfig
from medtune.data.examples import Example, Turn
from medtune.models.tokenizers import encode_texts

PROMPT_SLOT = "{prompt}"


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a rendered example: text still to be tokenised, or a control token's id."""

    content: str | int
    learned: bool


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids and the half-open spans of them that masked fine-tuning learns."""

    input_ids: list[int]
    spans: list[tuple[int, int]]


class Template:
    """Renders examples for one tokenizer.

    Text is tokenised segment by segment, and control tokens are added between segments as ids: a
    user's text that spells ``</s>`` stays text, and the ids of a prompt are the same whether a
    response follows (training) or is to be generated.
    """

    def __init__(self, config: TemplateConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        if PROMPT_SLOT not in config.prompt:
            raise ValueError(
                f"template.prompt={config.prompt!r} has no {PROMPT_SLOT}: the prompt would be lost"
            )
        self.config = config
        self.tokenizer = tokenizer
        self.bos_id = control_id(tokenizer, "bos") if config.bos else None
        self.eos_id = control_id(tokenizer, "eos") if config.eos else None

    def segments(self, turns: Sequence[Turn]) -> Iterator[Segment]:
        """The rendered pieces of an example, control tokens included."""
        if self.bos_id is not None:
            yield Segment(self.bos_id, learned=False)
        for index, turn in enumerate(turns):
            if turn.role == "prompt":
                before = self.config.separator if index else ""
                text = self.config.prompt.replace(PROMPT_SLOT, turn.text)
                yield Segment(before + text, learned=turn.learned)
            else:
                yield Segment(turn.text, learned=turn.learned)
                if self.eos_id is not None:
                    yield Segment(self.eos_id, learned=turn.learned)

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """Encodes a batch; one call of the tokenizer's backend serves all of it."""
        rendered = [list(self.segments(example.turns)) for example in examples]
        texts = [segment.content for row in rendered for segment in row if isinstance(segment.content, str)]
        ids_of_texts = iter(encode_texts(self.tokenizer, texts))
        return [join(row, ids_of_texts) for row in rendered]

    def prompt_ids(self, prompt: str, history: Sequence[tuple[str, str]] = ()) -> list[int]:
        """Ids after which the model answers ``prompt``.

        Args:
            prompt: The user's text.
            history: Earlier (prompt, response) turns of the conversation.
        """
        turns: list[Turn] = []
        for past_prompt, response in history:
            turns += Turn("prompt", past_prompt, learned=False), Turn("response", response, learned=False)
        return self.prompts_ids([(*turns, Turn("prompt", prompt, learned=False))])[0]

    def prompts_ids(self, conversations: Sequence[Sequence[Turn]]) -> list[list[int]]:
        """Ids of many conversations that end with a prompt (or a document to go on with)."""
        rendered = [[*self.open_segments(turns)] for turns in conversations]
        texts = [segment.content for row in rendered for segment in row if isinstance(segment.content, str)]
        ids_of_texts = iter(encode_texts(self.tokenizer, texts))
        return [join(row, ids_of_texts).input_ids for row in rendered]

    def open_segments(self, turns: Sequence[Turn]) -> Iterator[Segment]:
        """:meth:`segments` without a final EOS, which would end a document that is to be continued."""
        *pieces, last = self.segments(turns)
        yield from pieces
        if last.content != self.eos_id:
            yield last


def join(segments: Sequence[Segment], ids_of_texts: Iterator[list[int]]) -> Encoded:
    """Puts a row's ids together, taking those of each text from ``ids_of_texts`` in order."""
    input_ids: list[int] = []
    spans: list[tuple[int, int]] = []
    for segment in segments:
        start = len(input_ids)
        input_ids.extend(next(ids_of_texts) if isinstance(segment.content, str) else [segment.content])
        if segment.learned and spans and spans[-1][1] == start:
            spans[-1] = (spans[-1][0], len(input_ids))
        elif segment.learned:
            spans.append((start, len(input_ids)))
    return Encoded(input_ids, spans)


def control_id(tokenizer: PreTrainedTokenizerBase, name: str) -> int:
    """The id of the tokenizer's BOS or EOS.

    Raises:
        ValueError: The tokenizer has none.
    """
    token_id = getattr(tokenizer, f"{name}_token_id")
    if token_id is None:
        raise ValueError(
            f"template.{name}=true, but the tokenizer {tokenizer.name_or_path} has no {name} token; "
            f"set template.{name}=false or choose another tokenizer with model.tokenizer"
        )
    return int(token_id)
