"""The tokenizer's own chat template, with the learned spans found exactly.

A chat template is a program that writes one text. It is run once for each shape of a conversation (who speaks
when), with marks in place of the contents; the text between the marks is the skeleton, in which control
tokens are looked up, and the contents go between as text. So no content can spell a control token, the
template's own treatment of white space is kept, and where a response begins and ends is known rather than
searched for.
"""

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from medtune.data.examples import Turn
from medtune.data.tokens.segments import Segment, Thinking, adds_space, joined

if TYPE_CHECKING:
    from medtune.data.tokens.vocabulary import Vocabulary

# Begins and ends with private-use characters, which no `trim` takes; what stands between shows a template
# that changes contents. The numbers are the turn and the part of it.
MARK = "\ue000{}.{}\ue001aB  \n'<&>\ue002"
MARKS = re.compile(MARK.format(r"(\d+)", r"(\d)"))
STARTS_OF_MARKS = re.compile("\ue000\\d")
# Put around the contents in a second rendering. By what is left of them: the characters that the template
# strips on that side; None: all white space.
LEFT_PADS = {"\n\t": "", "\t": "\n", "": None}
RIGHT_PADS = {" \n": "", " ": "\n", "": None}

THOUGHT, ANSWER = 1, 2
EMPTY_THINKING = re.compile(r"\s*<think>\s*</think>\s*")
# How a message is written, by its kind; {1} and {2} are the marks of its parts.
CONTENTS = {
    "system": "{2}",
    "user": "{2}",
    "assistant": "{2}",
    "thinking": "<think>{1}</think>{2}",
    "no thinking": "<think>\n\n</think>\n\n{2}",
    "unended thinking": "<think>{1}",
}
RESPONSES = ("assistant", "thinking", "no thinking", "unended thinking")


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of a content in a skeleton.

    Attributes:
        turn: Its number.
        part: ``THOUGHT`` for the reasoning of a response, else ``ANSWER``.
        left: Characters that the template strips on the left; None: all white space.
        right: On the right likewise.
    """

    turn: int
    part: int
    left: str | None = ""
    right: str | None = ""


@dataclass(frozen=True, slots=True)
class Place:
    """What a stretch of a skeleton belongs to; neighbours of one place are encoded together.

    Attributes:
        turn: Number of a response; None: to the text around and in the prompts.
        part: ``THOUGHT`` or ``ANSWER``; None: to an empty block of reasoning in front of the response.
    """

    turn: int | None = None
    part: int | None = None


AROUND = Place()
Skeleton = list[tuple[Place, tuple[str | int | Slot, ...]]]
# Literals at the even places, slots between them.
Rendered = list[Any]


class ChatTemplate:
    """A tokenizer's chat template for one vocabulary; picklable.

    Attributes:
        end: Text of the control token that ends a response.
        stop_id: Its id.
    """

    def __init__(self, vocabulary: "Vocabulary", arguments: Mapping[str, Any]) -> None:
        """Raises ValueError where there is no chat template, or responses have no end in it."""
        if vocabulary.chat_template is None:
            raise ValueError(
                f"template.chat=true, but the tokenizer {vocabulary.name} has no chat template; set another "
                "template, such as template=chatml, or name a chat model's tokenizer with model.tokenizer"
            )
        self.name = vocabulary.name
        self.source = vocabulary.chat_template
        self.variables = {**vocabulary.special_tokens, **arguments}
        self.ids = dict(vocabulary.ids)
        tokens = sorted(filter(None, self.ids), key=len, reverse=True)
        self.controls = re.compile("|".join(map(re.escape, tokens)) or r"(?!)")
        self.own_space = adds_space(vocabulary)
        self._skeletons: dict[tuple[tuple[str, ...], bool], Skeleton] = {}
        self.end = self._find_end()
        self.stop_id = self.ids[self.end]

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the skeletons behind: they are sooner found again than sent."""
        return {**vars(self), "_skeletons": {}}

    def segments(
        self, turns: Sequence[Turn], *, learn_thinking: bool = True, is_open: bool = False
    ) -> Iterator[Segment]:
        """The stretches of a conversation.

        Args:
            turns: System prompt, prompts and responses; an empty system prompt is left out.
            learn_thinking: Whether the reasoning of learned responses is learned.
            is_open: The last prompt is to be answered, so the beginning of a response follows.

        Raises:
            ValueError: The template refuses the conversation, or does not show all of it.
        """
        turns = [turn for turn in turns if turn.role != "system" or turn.text]
        shape = tuple(kind_of(turn) for turn in turns)
        if (shape, is_open) not in self._skeletons:
            self._skeletons[shape, is_open] = self._find_skeleton(shape, is_open)
        for place, items in self._skeletons[shape, is_open]:
            learned = place.turn is not None and turns[place.turn].learned and place.part is not None
            learned = learned and (learn_thinking or place.part != THOUGHT)
            yield from joined([Segment(filled(item, turns), learned) for item in items])

    def _find_skeleton(self, shape: tuple[str, ...], is_open: bool) -> Skeleton:
        """The skeleton of all conversations of a shape, in which control tokens are ids."""
        rendered = self._render(shape, is_open)
        self._require_contents(rendered, shape)
        placed = self._place(rendered, shape)
        skeleton: Skeleton = []
        for place, group in groupby(placed, key=lambda pair: pair[0]):
            items: list[str | int | Slot] = []
            for _, item in group:
                items += [item] if isinstance(item, Slot) else self._split_controls(item)
            if place.turn is not None and self.own_space and isinstance(items[0], str):
                items[0] = items[0].removeprefix(" ")
            skeleton.append((place, tuple(items)))
        return skeleton

    def _place(self, rendered: Rendered, shape: tuple[str, ...]) -> Iterator[tuple[Place, str | Slot]]:
        """Every slot, and every literal cut where a response begins or ends, with its place."""
        for index, item in enumerate(rendered):
            if isinstance(item, Slot):
                yield place_of(item, shape), item
            else:
                yield from self._cut(rendered, index, shape)

    def _cut(self, rendered: Rendered, index: int, shape: tuple[str, ...]) -> Iterator[tuple[Place, str]]:
        """A literal's parts: a response's end, text between, empty reasoning, a response's beginning."""
        literal: str = rendered[index]
        left, right = response_at(rendered, index - 1, shape), response_at(rendered, index + 1, shape)
        if left and right and left.turn == right.turn:
            yield Place(left.turn, THOUGHT), literal
            return
        tail = self._tail(literal) if left else ""
        lead = self._lead(rendered, index, shape) if right else ""
        if left:
            yield place_of(left, shape), tail
        yield AROUND, literal[len(tail) : len(literal) - len(lead)]
        if right:
            empty = found.group() if (found := EMPTY_THINKING.match(lead)) else ""
            yield Place(right.turn), empty
            yield place_of(right, shape), lead[len(empty) :]

    def _tail(self, literal: str) -> str:
        """The part of the response before it: white space up to the token that ends it, and that token."""
        text, found, _ = literal.partition(self.end)
        return text + found if found and not text.strip() else ""

    def _lead(self, rendered: Rendered, index: int, shape: tuple[str, ...]) -> str:
        """What a response begins with beyond what generation is given: the end of the literal at ``index``.

        Raises:
            ValueError: The last response does not begin where generation would.
        """
        turn = rendered[index + 1].turn
        given, literal = self._render(shape[:turn], is_open=True), rendered[index]
        if given[:-1] == rendered[:index] and literal.startswith(given[-1]):
            return str(literal[len(given[-1]) :])
        if turn == len(shape) - 1:
            raise ValueError(self._difference(shape[turn], given[-1], literal))
        # Chat templates of reasoning models write earlier responses unlike the one that is asked for.
        start = literal.rfind("<think>")
        return str(literal[start:]) if start >= 0 and shape[turn] != "assistant" else ""

    def _difference(self, kind: str, given: str, literal: str) -> str:
        """The message about a response that does not begin where generation would."""
        of = "a response" if kind == "assistant" else f"a response with {kind}"
        fix = "set another template, or write it as pieces"
        if "enable_thinking" in self.source:
            wanted = "true" if kind in ("thinking", "unended thinking") else "false"
            if self.variables.get("enable_thinking") is not (wanted == "true"):
                fix = f"set template.chat_arguments.enable_thinking={wanted}"
        return (
            f"the chat template of {self.name} has the model answer after {given[-60:]!r}, but writes {of} "
            f"after {literal[-60:]!r}; {fix}"
        )

    def _find_end(self) -> str:
        """The control token right after a response."""
        rendered = self._render(("user", "assistant"), is_open=False)
        self._require_contents(rendered, ("user", "assistant"))
        found = self.controls.search(rendered[-1])
        if found is None or rendered[-1][: found.start()].strip():
            raise ValueError(
                f"the chat template of {self.name} writes {rendered[-1]!r} after a response, which does not "
                "begin with a control token: the model would not learn to stop; set another template"
            )
        return found.group()

    def _split_controls(self, literal: str) -> Iterator[str | int]:
        """The text of a literal and the ids of its control tokens, in order."""
        start = 0
        for found in self.controls.finditer(literal):
            yield literal[start : found.start()]
            yield self.ids[found.group()]
            start = found.end()
        yield literal[start:]

    def _require_contents(self, rendered: Rendered, shape: tuple[str, ...]) -> None:
        """Raises ValueError unless prompts and the system prompt are there, and answers once each."""
        shown = [(item.turn, item.part) for item in rendered[1::2]]
        for turn, kind in enumerate(shape):
            part = THOUGHT if kind == "unended thinking" else ANSWER
            count = shown.count((turn, part))
            if count == 0:
                what = "a system prompt" if kind == "system" else f"turn {turn + 1} ({kind})"
                raise ValueError(
                    f"the chat template of {self.name} does not show {what}; take it out of the data, or set "
                    "another template"
                )
            if count > 1 and kind in RESPONSES:
                raise ValueError(f"the chat template of {self.name} shows a response {count} times")

    def _render(self, shape: tuple[str, ...], is_open: bool) -> Rendered:
        """Literals and slots of a conversation's text, with what the template strips around each content."""
        bare = self._split_marks(self._run(shape, is_open, "", ""))
        padded = self._split_marks(self._run(shape, is_open, next(iter(LEFT_PADS)), next(iter(RIGHT_PADS))))
        if bare[1::2] != padded[1::2]:
            raise ValueError(self._changes_contents())
        for index in range(0, len(bare), 2):
            left, right = self._kept_pads(bare[index], padded[index], index > 0, index + 1 < len(bare))
            if index:
                bare[index - 1] = replace(bare[index - 1], right=RIGHT_PADS[right])
            if index + 1 < len(bare):
                bare[index + 1] = replace(bare[index + 1], left=LEFT_PADS[left])
        return bare

    def _kept_pads(self, bare: str, padded: str, has_left: bool, has_right: bool) -> tuple[str, str]:
        """What is left of the pads on both sides of a literal: (of the next content, of the one before)."""
        for right in RIGHT_PADS if has_left else [""]:
            for left in LEFT_PADS if has_right else [""]:
                if right + bare + left == padded:
                    return left, right
        raise ValueError(self._changes_contents())

    def _split_marks(self, text: str) -> Rendered:
        """Literals and slots in turn."""
        parts: Rendered = MARKS.split(text)
        if len(STARTS_OF_MARKS.findall(text)) != len(parts) // 3:
            raise ValueError(self._changes_contents())
        for index in range(1, 2 * (len(parts) // 3), 2):
            parts[index : index + 2] = [Slot(int(parts[index]), int(parts[index + 1]))]
        return parts

    def _changes_contents(self) -> str:
        return (
            f"the chat template of {self.name} changes contents beyond the white space around them, so what "
            "is to be learned cannot be found; set another template"
        )

    def _run(self, shape: tuple[str, ...], is_open: bool, left: str, right: str) -> str:
        """The text for a conversation of marks, each between ``left`` and ``right``."""
        messages = []
        for turn, kind in enumerate(shape):
            role = "assistant" if kind in RESPONSES else kind
            marks = [f"{left}{MARK.format(turn, part)}{right}" for part in (0, THOUGHT, ANSWER)]
            messages.append({"role": role, "content": CONTENTS[kind].format(*marks)})
        try:
            return compiled(self.source)(messages, is_open, self.variables)
        except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
            raise ValueError(
                f"the chat template of {self.name} refuses a conversation of {', '.join(shape)}: {error}; "
                "change the data, or set another template"
            ) from error


def kind_of(turn: Turn) -> str:
    """How the message of a turn is written."""
    if turn.role != "response":
        return {"system": "system", "prompt": "user"}[turn.role]
    thinking = Thinking.of(turn.text)
    if thinking is None:
        return "assistant"
    if thinking.is_empty:
        return "no thinking"
    return "unended thinking" if thinking.after is None else "thinking"


def place_of(slot: Slot, shape: tuple[str, ...]) -> Place:
    """What a slot belongs to."""
    return Place(slot.turn, slot.part) if shape[slot.turn] in RESPONSES else AROUND


def response_at(rendered: Rendered, index: int, shape: tuple[str, ...]) -> Slot | None:
    """The slot at ``index`` if there is one and it is a response's."""
    slot = rendered[index] if 0 <= index < len(rendered) else None
    return slot if isinstance(slot, Slot) and shape[slot.turn] in RESPONSES else None


def filled(item: str | int | Slot, turns: Sequence[Turn]) -> str | int:
    """An item of a skeleton with the conversation's own content."""
    if not isinstance(item, Slot):
        return item
    text, thinking = turns[item.turn].text, None
    if turns[item.turn].role == "response":
        thinking = Thinking.of(text)
    if thinking is not None and item.part == THOUGHT:
        text = thinking.inside
    elif thinking is not None:
        text = thinking.answer if thinking.is_empty else (thinking.after or "") + thinking.answer
    return text.lstrip(item.left).rstrip(item.right)


Render = Callable[[Sequence[Mapping[str, str]], bool, Mapping[str, Any]], str]


@functools.lru_cache(maxsize=8)
def compiled(source: str) -> Render:
    """Compiles a chat template as transformers does: the same sandbox, filters and globals.

    transformers' own is not used, because importing it costs seconds in every process that tokenises.

    Raises:
        jinja2.TemplateError: It does not parse.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    template = environment.from_string(source)

    def render(messages: Sequence[Mapping[str, str]], is_open: bool, variables: Mapping[str, Any]) -> str:
        given = {"tools": None, "documents": None, **variables}
        return template.render(messages=messages, add_generation_prompt=is_open, **given)

    return render


class GenerationTag(Extension):
    """``{% generation %}``, with which some templates mark responses: the text between is what counts."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """The statements between the tags."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


def raise_exception(message: str) -> None:
    """By which a chat template refuses a conversation."""
    raise jinja2.TemplateError(message)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without the HTML escapes of jinja's own filter."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
