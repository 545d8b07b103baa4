"""From an example to token ids and learned spans: one object for training, generation and chat.

A template is data: lists of pieces, each text with slots or a control token (see ``TemplateConfig``). They
are resolved once for a vocabulary; what is left can be sent to other processes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medtune.config.schema import TemplateConfig
from medtune.config.suggest import did_you_mean, nearest
from medtune.config.templates import SLOTS, Piece, TextPiece, TokenPiece, read_pieces, template_problems
from medtune.data.examples import Example, Turn
from medtune.data.tokens.segments import Encoded, Segment, Thinking, adds_space, encoded, joined
from medtune.runtime.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from medtune.data.tokens.chat_template import ChatTemplate
    from medtune.data.tokens.vocabulary import Vocabulary


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


class Template:
    """Renders examples for one vocabulary.

    Text is encoded stretch by stretch, and control tokens are added between stretches as ids: a user's text
    that spells ``</s>`` stays text. A response, and the reasoning in it, is a stretch of its own: the ids of
    a prompt are the same whether a response follows (training) or is to be generated, and no id depends on
    what is learned.

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
        self.tags = [vocabulary.ids.get(tag, tag) for tag in ("<think>", "</think>")]
        self.chat = chat_template(config, vocabulary) if config.chat else None
        self.stop_ids = stop_ids(resolved, None if self.chat is None else self.chat.stop_id)

    @classmethod
    def from_tokenizer(cls, config: TemplateConfig, tokenizer: "PreTrainedTokenizerBase") -> "Template":
        """The template for a tokenizer that is already loaded."""
        from medtune.data.tokens.vocabulary import vocabulary_of

        return cls(config, vocabulary_of(tokenizer))

    def encode(self, examples: Sequence[Example], *, learn_thinking: bool = True) -> list[Encoded]:
        """Encodes a batch; one call of the tokenizer's backend serves all of it.

        Args:
            examples: Whole, with their responses.
            learn_thinking: Whether the reasoning of learned responses is learned; an empty block never is.

        Raises:
            ValueError: An example that the template cannot render, with its file and line.
        """
        rows = []
        for example in examples:
            try:
                rows.append(self.segments(example.turns, learn_thinking=learn_thinking))
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
        return self.prompts_ids([conversation(prompt, history, system)])[0]

    def prompts_ids(self, conversations: Sequence[Sequence[Turn]]) -> list[list[int]]:
        """Ids of many conversations that end with a prompt (or a document to go on with).

        Raises:
            ValueError: One ends with a response, or the template cannot render it.
        """
        rows = [self.open_segments(turns) for turns in conversations]
        return [encoded.input_ids for encoded in self._encode(rows)]

    def segments(self, turns: Sequence[Turn], *, learn_thinking: bool = True) -> list[Segment]:
        """The stretches of a whole example.

        Raises:
            ValueError: The template has no place for a turn.
        """
        turns = self._with_system(turns)
        if self.chat is not None and turns[0].role != "text":
            return list(self.chat.segments(turns, learn_thinking=learn_thinking))
        segments = self._render(turns, learn_thinking=learn_thinking)
        if turns[-1].role == "response":
            learned = learns_end(turns[-1], learn_thinking)
            segments += joined(fill(self.pieces["end"], learned=learned))
        return segments

    def open_segments(self, turns: Sequence[Turn]) -> list[Segment]:
        """The stretches up to where the model goes on.

        Raises:
            ValueError: There is nothing to answer, or the template has no place for a turn.
        """
        turns = self._with_system(turns)
        if turns[-1].role not in ("prompt", "text"):
            raise ValueError(f"the conversation ends with a {turns[-1].role}: there is no prompt to answer")
        if self.chat is not None and turns[-1].role != "text":
            return list(self.chat.segments(turns, is_open=True))
        return self._render(turns, is_open=True)

    def _with_system(self, turns: Sequence[Turn]) -> Sequence[Turn]:
        """The turns, begun by the conversation's system prompt or the template's; an empty one is none."""
        own = turns[0] if turns and turns[0].role == "system" else None
        rest = turns if own is None else turns[1:]
        for turn in rest:
            if turn.role not in ("prompt", "response", "text"):
                raise ValueError(f"a turn of role {turn.role!r} in the middle; it may only be the first")
        if not rest:
            raise ValueError("the conversation is empty: there is no prompt to answer")
        text = self.default_system if own is None else own.text
        if not text or (own is None and rest[0].role == "text"):
            return rest
        if not (self.chat or self.pieces["system"] or self.pieces["first_prompt"]):
            raise ValueError(
                f"a system prompt, but template={self.name} has no place for one; set another template, or "
                "template.system"
            )
        return (Turn("system", text, learned=False), *rest)

    def _render(
        self, turns: Sequence[Turn], *, learn_thinking: bool = True, is_open: bool = False
    ) -> list[Segment]:
        """The stretches without ``end``; with ``is_open`` nothing follows a document's text either."""
        done: list[Segment] = []
        around = [*fill(self.pieces["start"])]  # text around and in prompts up to the next response
        system: str | None = None
        ended: bool | None = None  # whether the end of the response just before is learned
        rounds = 0
        for turn in turns:
            if turn.role == "system":
                system = turn.text
                around += fill(self.pieces["system"], {"system": system})
            elif turn.role == "prompt":
                rounds += 1
                around += self._prompt(turn.text, ended, system, rounds)
                system = ended = None
            else:
                done += joined(around)
                around = []
                done += self._answer(turn, learn_thinking, is_open)
                ended = learns_end(turn, learn_thinking) if turn.role == "response" else None
        done += joined(around)
        return done

    def _prompt(self, text: str, ended: bool | None, system: str | None, rounds: int) -> Iterator[Segment]:
        """A prompt, and what parts it from the response before it, if one is there."""
        if ended is not None:
            yield from fill(self.pieces["separator"])
        pieces = self.pieces["first_prompt"] if system is not None else ()
        values = {"system": system or "", "prompt": text, "round": str(rounds)}
        yield from fill(pieces or self.pieces["prompt"], values, relabel=bool(ended))

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
        learned = turn.learned and learn_thinking and not thinking.is_empty
        before, literal, after = parted(pieces, "response")
        yield from joined([*fill(before, learned=learned), *self._thought(thinking, learned)])
        learned = learns_end(turn, learn_thinking)
        yield from joined([Segment(thinking.answer + literal, learned), *fill(after, learned=learned)])

    def _thought(self, thinking: Thinking, learned: bool) -> Iterator[Segment]:
        """The reasoning with its tags, which are ids where the vocabulary has them."""
        opening, closing = self.tags
        yield Segment(thinking.before, learned)
        yield Segment(opening, learned)
        yield Segment(thinking.inside, learned)
        if thinking.after is not None:
            yield Segment(closing, learned)
            yield Segment(thinking.after, learned)

    def _encode(self, rows: Sequence[Sequence[Segment]]) -> list[Encoded]:
        texts = [segment.content for row in rows for segment in row if isinstance(segment.content, str)]
        ids_of_texts = iter(self.vocabulary.encode(texts))
        return [encoded(row, ids_of_texts) for row in rows]


def conversation(
    prompt: str, history: Sequence[tuple[str, str]] = (), system: str | None = None
) -> list[Turn]:
    """The turns of a conversation that ends with ``prompt``; arguments as of :meth:`Template.prompt_ids`."""
    turns = [] if system is None else [Turn("system", system, learned=False)]
    for past_prompt, response in history:
        turns += Turn("prompt", past_prompt, learned=False), Turn("response", response, learned=False)
    return [*turns, Turn("prompt", prompt, learned=False)]


def chat_template(config: TemplateConfig, vocabulary: "Vocabulary") -> "ChatTemplate":
    """The tokenizer's own; raises ConfigError where there is none that can be learned from."""
    from medtune.data.tokens.chat_template import ChatTemplate  # with jinja2, which only chat templates need

    try:
        return ChatTemplate(vocabulary, config.chat_arguments)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def learns_end(turn: Turn, learn_thinking: bool) -> bool:
    """Whether the end of a response is learned: not where it ends within reasoning that is not."""
    if not turn.learned:
        return False
    thinking = Thinking.of(turn.text)
    if thinking is None or thinking.after is not None:
        return True
    return learn_thinking and not thinking.is_empty


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
            if relabel and piece.label is not None:
                yield Segment(piece.id, True, None if piece.label == piece.id else piece.label)
            else:
                yield Segment(piece.id, learned)
        elif len(piece.parts) == 1:
            yield Segment(piece.parts[0], learned)
        else:
            slots = values or {}
            texts = list(piece.parts)
            texts[1::2] = [slots[name] for name in texts[1::2]]
            yield Segment("".join(texts), learned)


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


def stop_ids(pieces: Mapping[str, Resolved], chat_end: int | None = None) -> tuple[int, ...]:
    """The tokens that end an answer: the response's own, those that are learned as its end, and ``stop``.

    Args:
        pieces: By key.
        chat_end: The end of a response in the tokenizer's own chat template, which replaces the pieces.
    """
    stops = ids_in(pieces["stop"])
    if chat_end is not None:
        return tuple(dict.fromkeys([chat_end, *stops]))
    ends = ids_in(parted(pieces["response"], "response")[2]) or ids_in(pieces["end"])
    labels = [
        piece.label for piece in pieces["prompt"] if isinstance(piece, Control) and piece.label is not None
    ]
    return tuple(dict.fromkeys([*ends[:1], *labels, *stops]))


def ids_in(pieces: Resolved) -> list[int]:
    """The control tokens among the pieces."""
    return [piece.id for piece in pieces if isinstance(piece, Control)]


def without_own_space(pieces: Resolved, vocabulary: "Vocabulary") -> Resolved:
    """The pieces without a leading space, where the tokenizer itself puts one before every text."""
    first = pieces[0]
    if not isinstance(first, TextPiece) or not first.parts[0].startswith(" "):
        return pieces
    if not adds_space(vocabulary):
        return pieces
    return (TextPiece((first.parts[0][1:], *first.parts[1:])), *pieces[1:])


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


def named_ids(tokens: Sequence[str | int], vocabulary: "Vocabulary", key: str) -> list[int]:
    """The ids of control tokens that a setting names.

    Raises:
        ConfigError: The vocabulary does not have one.
    """
    found = [id_of(token, vocabulary) for token in tokens]
    if problems := [f"{key}: {index}" for index in found if isinstance(index, str)]:
        raise ConfigError(problems)
    return [index for index in found if isinstance(index, int)]


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
            "it belongs to another model"
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
        did_you_mean(nearest(token, vocabulary.ids)) or "; it belongs to another model"
    )
