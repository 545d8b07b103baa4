"""How the pieces of a template are written, and what is wrong with them; without a tokenizer."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from medtune.config.schema import TemplateConfig
from medtune.config.suggest import did_you_mean, nearest

SLOT = re.compile(r"\{([A-Za-z_]+)\}")
PIECE_KEYS = ("token", "id", "label", "optional")
RESERVED_ARGUMENTS = ("messages", "add_generation_prompt", "tools", "documents")


@dataclass(frozen=True, slots=True)
class Slots:
    """What the text of a key may and must refer to."""

    needed: tuple[str, ...] = ()
    """Each exactly once."""
    allowed: tuple[str, ...] = ()
    """Beyond ``needed``, any number of times."""
    lost: str = ""
    """What comes of leaving a needed one out."""


SLOTS = {
    "start": Slots(),
    "system": Slots(("system",), lost="the system prompt would be lost"),
    "first_prompt": Slots(("prompt",), ("system", "round"), lost="the prompt would be lost"),
    "prompt": Slots(("prompt",), ("round",), lost="the prompt would be lost"),
    "response": Slots(("response",), lost="the response would be lost"),
    "separator": Slots(),
    "end": Slots(),
    "text": Slots(("text",), lost="the document would be lost"),
    "stop": Slots(),
}
ALL_SLOTS = ("system", "prompt", "response", "text", "round")
# A prompt may begin with the token that ends the response before it.
KEYS_WITH_LABELS = ("first_prompt", "prompt")


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Text: literals at the even places, names of slots at the odd ones."""

    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TokenPiece:
    """A control token, not yet looked up.

    Attributes:
        key: Where it is written, as the user types it.
        token: ``bos``, ``eos``, its text, or its id.
        label: The token that is learned in its place, written likewise.
        optional: Left out where the tokenizer does not have it.
    """

    key: str
    token: str | int
    label: str | int | None = None
    optional: bool = False


Piece = TextPiece | TokenPiece


def template_problems(config: TemplateConfig) -> Iterator[str]:
    """What is wrong with a template whatever the tokenizer: one sentence each."""
    problems: list[str] = []
    for name in SLOTS:
        read_pieces(config, name, problems)
    yield from problems
    yield from system_problems(config)
    yield from chat_problems(config)


def system_problems(config: TemplateConfig) -> Iterator[str]:
    """A system prompt without a place, or with two."""
    in_first = "system" in used_slots(config.first_prompt)
    if config.system and in_first:
        yield "{system} stands in both template.system and template.first_prompt; leave one of them empty"
    elif config.first_prompt and not config.system and not in_first:
        yield (
            f"template.first_prompt={config.first_prompt} is for conversations with a system prompt, but "
            "neither it nor template.system holds {system}: the system prompt would be lost"
        )
    if config.default_system and not (config.system or config.first_prompt or config.chat):
        yield (
            f"template.default_system={config.default_system!r} has no place: neither template.system nor "
            "template.first_prompt holds {system}"
        )


def chat_problems(config: TemplateConfig) -> Iterator[str]:
    """Variables of a chat template that are not the user's to set."""
    for name in RESERVED_ARGUMENTS:
        if name in config.chat_arguments:
            yield f"template.chat_arguments.{name} is given by the conversation itself; leave it out"


def read_pieces(config: TemplateConfig, name: str, problems: list[str]) -> list[Piece]:
    """The pieces of one key; what is wrong with them is added to ``problems``."""
    key, values = f"template.{name}", getattr(config, name)
    if not isinstance(values, (list, tuple)):
        problems.append(f"{key}={values!r} is not a list of pieces; write {key}=[{values!r}]")
        return []
    if not values and name in ("system", "first_prompt"):
        return []
    pieces = [read_piece(f"{key}[{index}]", name, value, problems) for index, value in enumerate(values)]
    problems.extend(slot_problems(name, values))
    return [piece for piece in pieces if piece is not None]


def read_piece(key: str, name: str, value: Any, problems: list[str]) -> Piece | None:
    """One piece; None when it is wrong."""
    if isinstance(value, str) and name != "stop":
        return TextPiece(tuple(SLOT.split(value)))
    if isinstance(value, dict):
        found = list(token_problems(key, name, value))
        problems.extend(found)
        if found:
            return None
        token = value["token"] if "token" in value else value["id"]
        return TokenPiece(key, token, value.get("label"), value.get("optional", False))
    wanted = "" if name == "stop" else "text or "
    problems.append(f"{key}={value!r} is not {wanted}a control token such as {{token: eos}} or {{id: 195}}")
    return None


def token_problems(key: str, name: str, value: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a control token's piece."""
    for unknown in [given for given in value if given not in PIECE_KEYS]:
        yield f"{key}={value}: there is no {unknown!r}" + (
            did_you_mean(nearest(str(unknown), PIECE_KEYS)) or f"; a token has {', '.join(PIECE_KEYS)}"
        )
    if ("token" in value) == ("id" in value):
        yield f"{key}={value} needs either a token or an id, such as {{token: eos}} or {{id: 195}}"
    elif "token" in value and not (isinstance(value["token"], str) and value["token"]):
        yield f"{key}.token={value['token']!r} is not the text of a token; for an id write {{id: 195}}"
    elif "id" in value and not is_id(value["id"]):
        yield f"{key}.id={value['id']!r} is not a whole number from 0; for its text write {{token: eos}}"
    label = value.get("label")
    if label is not None and not (is_id(label) or (isinstance(label, str) and label)):
        yield f"{key}.label={label!r} is neither the text of a token, such as eos, nor an id"
    if label is not None and name not in KEYS_WITH_LABELS:
        yield f"{key}.label={label}: only a token of template.prompt can stand for the end of a response"
    if not isinstance(value.get("optional", False), bool):
        yield f"{key}.optional={value['optional']!r} is neither true nor false"


def is_id(value: Any) -> bool:
    """Whether it can be a token's id."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def slot_problems(name: str, values: Sequence[Any]) -> Iterator[str]:
    """Slots that are missing, twice there, or of another key."""
    key, slots, used = f"template.{name}", SLOTS[name], used_slots(values)
    for slot in slots.needed:
        if used.count(slot) == 0:
            yield f"{key}={list(values)} has no {{{slot}}}: {slots.lost}; add it to one of the pieces"
        elif used.count(slot) > 1:
            yield f"{key} holds {{{slot}}} {used.count(slot)} times; it must hold it once"
    if used.count("system") > 1 and "system" in slots.allowed:
        yield f"{key} holds {{system}} {used.count('system')} times; it must hold it once"
    for slot in dict.fromkeys(used):
        if slot not in (*slots.needed, *slots.allowed):
            yield stray_slot(key, slot, (*slots.needed, *slots.allowed))


def stray_slot(key: str, slot: str, known: Sequence[str]) -> str:
    """The problem of a slot that its key does not have."""
    words = ", ".join(f"{{{name}}}" for name in known) or "no slots"
    near = nearest(slot, known)
    meant = did_you_mean(f"{{{near}}}" if near else None)
    literal = "" if meant or slot in ALL_SLOTS else "; to write a brace itself, end the piece after it"
    return f"{key} holds {{{slot}}}, but has only {words}{meant or literal}"


def used_slots(values: Sequence[Any]) -> list[str]:
    """The slots of all text pieces, repetitions included."""
    return [slot for value in values if isinstance(value, str) for slot in SLOT.findall(value)]
