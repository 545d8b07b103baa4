"""From an example to token ids and learned spans: one object for training, generation and chat.

A template is data: lists of pieces, each text with slots or a control token (see ``TemplateConfig``). They are
resolved once for a vocabulary; what is left holds no tokenizer and can be sent to other processes.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from medtune.config.schema import TemplateConfig
from medtune.config.suggest import did_you_mean, nearest
from medtune.config.templates import SLOTS, Piece, TextPiece, TokenPiece, read_pieces, template_problems
from medtune.data.examples import Example, Turn
from medtune.runtime.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from medtune.data.vocabulary import Vocabulary

# Reasoning at the start of a response, with the white space around it; without an end it is all reasoning.
THINKING = re.compile(r"(\s*)<think>(.*?)(?:</think>(\s*)|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Control:
    """A control token of a template, looked up.

    Attributes:
        id: Its id.
        label: What is learned in its place after a learned response; None: it is not learned.
    """

    id: int
    label: int | None = None


Resolved = tuple[TextPiece | Control, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a rendered example: text still to be encoded, or a control token's id.

    Attributes:
        content: Text or id.
        learned: Whether masked fine-tuning learns it.
        label: What is learned in its place; None: itself.
    """

    content: str | int
    learned: bool = False
    label: int | None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """An example as ids.

    Attributes:
        input_ids: Token ids.
        spans: Half-open stretches of them that masked fine-tuning learns: sorted, disjoint, none empty.
        relabels: (position, label id) where the label differs from the id, sorted. Every such position lies
            in ``spans`` too, so that learned tokens are counted by the spans alone.
    """

    input_ids: list[int]
    spans: list[tuple[int, int]]
    relabels: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Thinking:
    """The reasoning at the start of a response.

    Attributes:
        before: White space in front.
        inside: What stands between the tags.
        after: White space behind; None: the reasoning does not end.
        answer: The rest of the response.
    """

    before: str
    inside: str
    after: str | None
    answer: str

    @classmethod
    def of(cls, response: str) -> "Thinking | None":
        """None: the response does not begin with reasoning."""
        found = THINKING.match(response)
        return None if found is None else cls(*found.groups(), response[found.end() :])

    @property
    def is_empty(self) -> bool:
        """Whether nothing is thought: such a block is never learned."""
        return not self.inside.strip()


class Template:
    """Renders examples for one vocabulary.

    Text is encoded stretch by stretch, and control tokens are added between stretches as ids: a user's text
    that spells ``</s>`` stays text. A response, and the reasoning in it, is a stretch of its own: the ids of a
    prompt are the same whether a response follows (training) or is to be generated, and no id depends on what
    is learned.

    Attributes:
        stop_ids: Control tokens that end a generated answer, the response's own first.
    """

    def __init__(self, config: TemplateConfig, vocabulary: "Vocabulary") -> None:
        """Raises ConfigError for pieces that are wrong, or that the vocabulary does not have."""
        problems = list(template_problems(config))
        pieces = {name: read_pieces(config, name, []) for name in SLOTS}
        resolved = {name: resolve(pieces[name], vocabulary, problems) for name in SLOTS}
        if problems:
            raise ConfigError(problems)
        self.name = config.name
        self.vocabulary = vocabulary
        self.default_system = config.default_system
        self.pieces = resolved
        self.pieces["response"] = without_own_space(resolved["response"], vocabulary)
        self.think_ids = tuple(vocabulary.ids.get(tag) for tag in ("<think>", "</think>"))
        self.stop_ids = stop_ids(resolved)

    @classmethod
    def from_tokenizer(cls, config: TemplateConfig, tokenizer: "PreTrainedTokenizerBase") -> "Template":
        """The template for a tokenizer that is already loaded."""
        from medtune.data.vocabulary import vocabulary_of

        return cls(config, vocabulary_of(tokenizer))

    def encode(self, examples: Sequence[Example], *, learn_thinking: bool = True) -> list[Encoded]:
        """Encodes a batch; one call of the tokenizer's backend serves all of it.

        Args:
            examples: Whole, with their responses.
            learn_thinking: Whether the reasoning of learned responses is learned too; an empty block never is.

        Raises:
            ValueError: An example that the template cannot render, with its file and line.
        """
        rows = []
        for example in examples:
            try:
                rows.append(self.segments(example.turns, learn_thinking))
            except ValueError as error:
                raise ValueError(f"{example.where}: {error}") from error
        return self._encode(rows)

    def prompt_ids(
        self, prompt: str, history: Sequence[tuple[str, str]] = (), system: str | None = None
    ) -> list[int]:
        """Ids after which the model answers ``prompt``.

        Args:
            prompt: The user's text.
            history: Earlier (prompt, response) turns of the conversation.
            system: The system prompt. None: the template's own, if it has one.
        """
        turns = [] if system is None else [Turn("system", system, learned=False)]
        for past_prompt, response in history:
            turns += Turn("prompt", past_prompt, learned=False), Turn("response", response, learned=False)
        return self.prompts_ids([(*turns, Turn("prompt", prompt, learned=False))])[0]

    def prompts_ids(self, conversations: Sequence[Sequence[Turn]]) -> list[list[int]]:
        """Ids of many conversations that end with a prompt (or a document to go on with).

        Raises:
            ValueError: One ends with a response, or the template cannot render it.
        """
        rows = [self.open_segments(turns) for turns in conversations]
        return [encoded.input_ids for encoded in self._encode(rows)]

    def segments(self, turns: Sequence[Turn], learn_thinking: bool = True) -> list[Segment]:
        """The stretches of a whole example.

        Raises:
            ValueError: The template has no place for a turn.
        """
        body = self._segments(turns, learn_thinking)
        if turns and turns[-1].role == "response":
            body = [*body, *joined(fill(self.pieces["end"], learned=turns[-1].learned))]
        return body

    def open_segments(self, turns: Sequence[Turn]) -> list[Segment]:
        """The stretches up to where the model goes on."""
        if not turns or turns[-1].role not in ("prompt", "text"):
            last = f"ends with a {turns[-1].role}" if turns else "is empty"
            raise ValueError(f"the conversation {last}: there is no prompt to answer")
        return self._segments(turns, learn_thinking=True, is_open=True)

    def _segments(self, turns: Sequence[Turn], learn_thinking: bool, is_open: bool = False) -> list[Segment]:
        """The stretches without ``end``; with ``is_open`` nothing follows a document's text either."""
        system, turns = self._part_system(turns)
        done: list[Segment] = []
        # Text around and in prompts, up to the next response: encoded together.
        open_ = [*fill(self.pieces["start"]), *fill(self.pieces["system"], {"system": system or ""})]
        open_ = open_ if system is not None else [*fill(self.pieces["start"])]
        before: Turn | None = None
        rounds = 0
        for turn in turns:
            if turn.role == "prompt":
                rounds += 1
                open_ += self._prompt(turn, before, system if rounds == 1 else None, rounds)
            else:
                done += *joined(open_), *self._answer(turn, learn_thinking, is_open)
                open_ = []
            before = turn
        return [*done, *joined(open_)]

    def _part_system(self, turns: Sequence[Turn]) -> tuple[str | None, Sequence[Turn]]:
        """The system prompt, the conversation's own first, and the other turns; an empty one is none."""
        system = self.default_system
        if turns and turns[0].role == "system":
            system, turns = turns[0].text, turns[1:]
            if system and not (self.pieces["system"] or self.pieces["first_prompt"]):
                raise ValueError(
                    f"a system prompt, but template={self.name} has no place for one; "
                    "choose another template, or set template.system"
                )
        for turn in turns:
            if turn.role not in ("prompt", "response", "text"):
                raise ValueError(
                    f"a turn of role {turn.role!r} after the first: only the first may be system"
                )
        is_document = bool(turns) and turns[0].role == "text"
        return (None if is_document else system or None), turns

    def _prompt(self, turn: Turn, before: Turn | None, system: str | None, rounds: int) -> Iterator[Segment]:
        """A prompt, and what parts it from the response before it."""
        follows = before is not None and before.role == "response"
        if follows:
            yield from fill(self.pieces["separator"])
        pieces = self.pieces["first_prompt"] if system is not None else ()
        yield from fill(
            pieces or self.pieces["prompt"],
            {"system": system or "", "prompt": turn.text, "round": str(rounds)},
            relabel=follows and before is not None and before.learned,
        )

    def _answer(self, turn: Turn, learn_thinking: bool, is_open: bool) -> Iterator[Segment]:
        """A response or a document."""
        pieces = self.pieces[turn.role]
        if turn.role == "text":
            pieces = up_to_slot(pieces, "text") if is_open else pieces
            yield from joined(fill(pieces, {"text": turn.text}, learned=turn.learned))
            return
        thinking = Thinking.of(turn.text)
        if thinking is None:
            yield from joined(fill(pieces, {"response": turn.text}, learned=turn.learned))
            return
        learn = turn.learned and learn_thinking and not thinking.is_empty
        before, literal, after = parted(pieces, "response")
        yield from joined([*fill(before, learned=turn.learned), *self._thought(thinking, learn)])
        # To end in the middle of a thought that is not learned is not learned either.
        learned = turn.learned and (learn or thinking.after is not None)
        yield from joined([Segment(thinking.answer + literal, learned), *fill(after, learned=learned)])

    def _thought(self, thinking: Thinking, learned: bool) -> Iterator[Segment]:
        """The reasoning with its tags, which are ids where the vocabulary has them."""
        opening, closing = self.think_ids
        yield Segment(thinking.before, learned)
        yield Segment("<think>" if opening is None else opening, learned)
        yield Segment(thinking.inside, learned)
        if thinking.after is not None:
            yield Segment("</think>" if closing is None else closing, learned)
            yield Segment(thinking.after, learned)

    def _encode(self, rows: Sequence[Sequence[Segment]]) -> list[Encoded]:
        texts = [segment.content for row in rows for segment in row if isinstance(segment.content, str)]
        ids_of_texts = iter(self.vocabulary.encode(texts))
        return [encoded(row, ids_of_texts) for row in rows]


def fill(
    pieces: Resolved, values: Mapping[str, str] | None = None, *, learned: bool = False, relabel: bool = False
) -> Iterator[Segment]:
    """The pieces with the slots filled.

    Args:
        pieces: Of one key.
        values: Text of each slot.
        learned: Whether they are learned.
        relabel: Whether a learned response goes before, so that its end is learned at tokens with a label.
    """
    for piece in pieces:
        if isinstance(piece, Control):
            marked = relabel and piece.label is not None
            yield Segment(
                piece.id, learned or marked, piece.label if marked and piece.label != piece.id else None
            )
        else:
            slots = values or {}
            text = [slots[part] if index % 2 else part for index, part in enumerate(piece.parts)]
            yield Segment("".join(text), learned)


def joined(segments: Iterable[Segment]) -> Iterator[Segment]:
    """The segments with neighbouring texts put together, and without empty ones."""
    texts: list[str] = []
    learned = False
    for segment in segments:
        if isinstance(segment.content, str) and (not texts or segment.learned == learned):
            texts += [segment.content] if segment.content else []
            learned = segment.learned
            continue
        if texts:
            yield Segment("".join(texts), learned)
        texts = []
        if isinstance(segment.content, str):
            texts, learned = [segment.content], segment.learned
        else:
            yield segment
    if texts:
        yield Segment("".join(texts), learned)


def encoded(segments: Iterable[Segment], ids_of_texts: Iterator[list[int]]) -> Encoded:
    """Puts a row's ids together, taking those of each text from ``ids_of_texts`` in order."""
    row = Encoded([], [])
    for segment in segments:
        start = len(row.input_ids)
        row.input_ids.extend(next(ids_of_texts) if isinstance(segment.content, str) else [segment.content])
        if segment.label is not None:
            row.relabels.append((start, segment.label))
        if segment.learned and start < len(row.input_ids):
            if row.spans and row.spans[-1][1] == start:
                start = row.spans.pop()[0]
            row.spans.append((start, len(row.input_ids)))
    return row


def parted(pieces: Resolved, slot: str) -> tuple[Resolved, str, Resolved]:
    """The pieces up to a slot, the literal right behind it, and the pieces after that."""
    for index, piece in enumerate(pieces):
        if isinstance(piece, TextPiece) and slot in piece.parts[1::2]:
            before, _, literal = piece.parts  # the keys that are parted have one slot
            return (*pieces[:index], TextPiece((before,))), literal, pieces[index + 1 :]
    raise AssertionError(f"no {slot} in {pieces}")


def up_to_slot(pieces: Resolved, slot: str) -> Resolved:
    """The pieces without what comes after a slot."""
    before, _, after = parted(pieces, slot)
    literal = before[-1]
    assert isinstance(literal, TextPiece)
    return (*before[:-1], TextPiece((literal.parts[0], slot, "")))


def stop_ids(pieces: Mapping[str, Resolved]) -> tuple[int, ...]:
    """The tokens that end an answer: the response's own, those that are learned as its end, and ``stop``."""
    ends = [piece.id for piece in parted(pieces["response"], "response")[2] if isinstance(piece, Control)][:1]
    if not ends:
        ends = [piece.id for piece in pieces["end"] if isinstance(piece, Control)][:1]
    controls = [piece for piece in pieces["prompt"] if isinstance(piece, Control)]
    labels = [piece.label for piece in controls if piece.label is not None]
    stops = [piece.id for piece in pieces["stop"] if isinstance(piece, Control)]
    return tuple(dict.fromkeys([*ends, *labels, *stops]))


def without_own_space(pieces: Resolved, vocabulary: "Vocabulary") -> Resolved:
    """The pieces without a leading space, where the tokenizer itself puts one before every text."""
    first = pieces[0]
    if not isinstance(first, TextPiece) or not first.parts[0].startswith(" "):
        return pieces
    if not adds_space(vocabulary):
        return pieces
    return (TextPiece((first.parts[0][1:], *first.parts[1:])), *pieces[1:])


def adds_space(vocabulary: "Vocabulary") -> bool:
    """Whether a text gets a space in front when encoded (sentencepiece's dummy prefix)."""
    both, first, second = vocabulary.encode(["a b", "a", "b"])
    return both == [*first, *second]


def resolve(pieces: Iterable[Piece], vocabulary: "Vocabulary", problems: list[str]) -> Resolved:
    """Looks the control tokens up; what the vocabulary does not have is added to ``problems``."""
    resolved: list[TextPiece | Control] = []
    for piece in pieces:
        if isinstance(piece, TextPiece):
            resolved.append(piece)
            continue
        found = look_up(piece, vocabulary, problems)
        if found is not None:
            resolved.append(found)
    return tuple(resolved)


def look_up(piece: TokenPiece, vocabulary: "Vocabulary", problems: list[str]) -> Control | None:
    """A control token's ids; None when the vocabulary does not have it."""
    index = id_of(piece.token, vocabulary)
    if isinstance(index, str):
        if not piece.optional:
            problems.append(f"{piece.key}: {index}")
        return None
    if piece.label is None:
        return Control(index)
    label = id_of(piece.label, vocabulary)
    if isinstance(label, str):
        problems.append(f"{piece.key}.label: {label}")
        return None
    return Control(index, label)


def id_of(token: str | int, vocabulary: "Vocabulary") -> int | str:
    """A token's id, or why there is none."""
    if isinstance(token, int):
        if token < vocabulary.size:
            return token
        return (
            f"there is no id {token}: the tokenizer {vocabulary.name} has {vocabulary.size} tokens; "
            "the template belongs to another model"
        )
    if token in ("bos", "eos"):
        found = vocabulary.bos_id if token == "bos" else vocabulary.eos_id
        return (
            f"the tokenizer {vocabulary.name} has no {token} token; take the piece out"
            if found is None
            else found
        )
    if token in vocabulary.ids:
        return vocabulary.ids[token]
    return f"the tokenizer {vocabulary.name} has no control token {token!r}" + (
        did_you_mean(nearest(token, vocabulary.ids)) or "; the template belongs to another model"
    )
