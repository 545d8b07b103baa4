"""Conversations as lists of turns, in OpenAI's and ShareGPT's spellings: the format ``messages``."""

from collections.abc import Mapping, Sequence
from typing import Any

from medtune.data.examples import Turn
from medtune.data.reading.formats.fields import (
    Columns,
    Record,
    Turns,
    as_response,
    as_system,
    checked_text,
    list_of,
    shown,
    text_of,
    value_of,
)

TURN_ROLES = {"system": "system", "user": "prompt", "assistant": "response"}
TOOL_ROLES = ("tool", "function", "observation", "function_call", "tool_call", "ipython", "function_response")
NO_TOOLS = "tool calls are not supported, since no template writes them; remove the record"


def read_messages(record: Record, columns: Columns, roles: Mapping[str, str], needs_response: bool) -> Turns:
    """A conversation that ends with a response.

    Args:
        record: The record.
        columns: Of the format.
        roles: Every spelling of a speaker and what it means: system, user or assistant.
        needs_response: Refuse a conversation whose last response is missing or empty; else one of no
            characters is put in its place.
    """
    turns = conversation_of(record, columns, roles)
    if turns[-1].role != "response":
        if needs_response:
            raise ValueError(
                f"{field_of(record, columns)} ends with a {turns[-1].role}; the last turn must be a response"
            )
        turns = (*turns, as_response(""))
    refuse_empty(turns, field_of(record, columns), needs_response=needs_response)
    return turns


def conversation_of(record: Record, columns: Columns, roles: Mapping[str, str]) -> Turns:
    """The system prompt and turns of a record, in order, checked but for empty ones."""
    what = field_of(record, columns)
    items = list_of_turns(value_of(record, columns["messages"]), what)
    turns = tuple(turn_of(item, columns, roles, f"{what}, turn {n}") for n, item in enumerate(items, start=1))
    if not turns:
        raise ValueError(f"{what} is an empty list; remove the record")
    return check_order(with_system(turns, record, columns, what), what)


def field_of(record: Record, columns: Columns) -> str:
    """The field that holds the turns, as messages begin."""
    return f"field {columns['messages'].name_in(record)!r}"


def list_of_turns(value: Any, what: str) -> Sequence[Any]:
    """The turns as a list; the datasets library makes columns of lists of records."""
    if isinstance(value, Mapping) and value and all(isinstance(column, list) for column in value.values()):
        if len({len(column) for column in value.values()}) != 1:
            raise ValueError(f"{what} is a mapping of lists of several lengths; it must be a list of turns")
        return [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
    return list_of(value, what)


def turn_of(item: Any, columns: Columns, roles: Mapping[str, str], what: str) -> Turn:
    """One turn."""
    if not isinstance(item, Mapping):
        raise ValueError(f"{what} must be a JSON object with a role and a content, found {shown(item)}")
    if item.get("tool_calls") or item.get("function_call"):
        raise ValueError(f"{what}: {NO_TOOLS}")
    role = role_of(value_in(item, columns, "role", what), roles, what)
    text = content_of(value_in(item, columns, "content", what), f"{what}: its content")
    weight = item.get("weight")
    if weight is None:
        return Turn(role, text, learned=role == "response")
    if weight not in (0, 1):
        raise ValueError(f"{what}: its weight must be 0 (not learned) or 1, found {shown(weight)}")
    if role != "response":
        raise ValueError(f"{what}: only a response can have a weight, and this is a {role}")
    return Turn(role, text, learned=bool(weight))


def value_in(item: Mapping[str, Any], columns: Columns, key: str, what: str) -> Any:
    """The role or content of a turn."""
    name = columns[key].name_in(item)
    if name is None:
        found = ", ".join(map(repr, item)) or "nothing"
        names = " or ".join(map(repr, columns[key].names)) or "a role and a content"
        raise ValueError(f"{what} has no {names} (see data.columns.{key}); it has {found}")
    return item[name]


def role_of(value: Any, roles: Mapping[str, str], what: str) -> str:
    """The role of a turn by the name of its speaker.

    Raises:
        ValueError: It is a tool, or nobody that is known.
    """
    speaker = checked_text(value, f"{what}: its role")
    role = roles.get(speaker) or roles.get(speaker.strip().lower())
    if role is not None:
        return TURN_ROLES[role]
    if speaker.strip().lower() in TOOL_ROLES:
        raise ValueError(f"{what} is spoken by {speaker!r}: {NO_TOOLS}")
    raise ValueError(
        f"{what} is spoken by {speaker!r}, who is none of {', '.join(roles)}; say who that is: "
        f"data.roles={{{speaker}: user}} or assistant or system"
    )


def content_of(value: Any, what: str) -> str:
    """The text of a turn; parts of text (``{"type": "text", "text": ...}``) are joined."""
    if not isinstance(value, list):
        return checked_text(value, what, may_be_empty=True)
    texts = []
    for number, part in enumerate(value, start=1):
        kind = part.get("type", "text") if isinstance(part, Mapping) else None
        if kind != "text":
            raise ValueError(
                f"{what}, part {number}: only parts of type 'text' can be read, found {shown(part)}"
            )
        texts.append(checked_text(part.get("text"), f"{what}, part {number}", may_be_empty=True))
    return "".join(texts)


def with_system(turns: Turns, record: Record, columns: Columns, what: str) -> Turns:
    """``turns`` with the system prompt of its column, and without an empty one."""
    system = as_system(text_of(record, columns["system"], may_be_empty=True, may_lack=True))
    has_own = turns[0].role == "system" and bool(turns[0].text.strip())
    if system and has_own and system[0].text != turns[0].text:
        field = columns["system"].name_in(record)
        raise ValueError(f"there are two system prompts, in field {field!r} and as the first turn of {what}")
    if turns[0].role != "system" or has_own:
        return turns if has_own else (*system, *turns)
    return (*system, *turns[1:])


def check_order(turns: Turns, what: str) -> Turns:
    """``turns`` themselves when prompts and responses take turns after an optional system prompt."""
    speech = [turn.role for turn in turns]
    if speech[:1] == ["system"]:
        del speech[0]
    if not speech:
        raise ValueError(f"{what} holds a system prompt only; it needs a prompt and a response")
    for number, role in enumerate(speech):
        due = ("prompt", "response")[number % 2]
        if role == due:
            continue
        if role == "system":
            raise ValueError(f"{what} has a system prompt later than its first turn")
        if number == 0:
            raise ValueError(f"{what} begins with a response; it must begin with a prompt")
        raise ValueError(
            f"{what} has two {role}s in a row (turns {number + len(turns) - len(speech)} and "
            f"{number + 1 + len(turns) - len(speech)}); prompts and responses must take turns"
        )
    return turns


def refuse_empty(turns: Turns, what: str, *, needs_response: bool) -> None:
    """Raises ValueError where a turn has no text; the last response may where it is withheld."""
    for number, turn in enumerate(turns, start=1):
        is_withheld = number == len(turns) and turn.role == "response" and not needs_response
        if not turn.text.strip() and not is_withheld:
            raise ValueError(
                f"{what}, turn {number}: the {turn.role} is empty; remove the record or give it a text"
            )
