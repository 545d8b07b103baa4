"""A better and a worse response to the same prompt: the format ``preference``."""

from collections.abc import Mapping
from typing import Any

from medtune.data.reading.formats.fields import (
    Columns,
    Record,
    Turns,
    as_response,
    checked_text,
    list_of,
    value_of,
)
from medtune.data.reading.formats.messages import (
    check_order,
    conversation_of,
    field_of,
    refuse_empty,
    turn_of,
    with_system,
)
from medtune.data.reading.formats.single import alpaca_context


def read_preference(
    record: Record, columns: Columns, roles: Mapping[str, str], needs_response: bool
) -> tuple[Turns, str | None]:
    """The turns with the chosen response, and the rejected response.

    The prompt is that of an ``alpaca`` record, a conversation in a column of its own (LLaMA-Factory), or
    the turns that the chosen and the rejected conversation have in common (TRL).
    """
    chosen, rejected = (side_turns(value, columns, roles, what) for value, what in sides_of(record, columns))
    if not (chosen and rejected):
        if needs_response:
            raise ValueError(f"the {'rejected' if chosen else 'chosen'} response is empty or null")
        return (*context_of((), record, columns, roles), as_response("")), None
    if chosen[:-1] != rejected[:-1]:
        raise ValueError(
            "the chosen and the rejected conversation differ before their last turn; only their last "
            "responses may"
        )
    worse = rejected[-1].text
    if chosen[-1].text == worse:
        raise ValueError("the chosen and the rejected response are the same; remove the record")
    return (*context_of(chosen[:-1], record, columns, roles), chosen[-1]), worse


def sides_of(record: Record, columns: Columns) -> tuple[tuple[Any, str], tuple[Any, str]]:
    """The chosen and the rejected value, each with how messages about it begin."""
    chosen, rejected = columns["chosen"], columns["rejected"]
    output = columns["response"]
    has_sides = chosen.name_in(record) or rejected.name_in(record)
    if has_sides or chosen.is_set or rejected.is_set or not output.name_in(record):
        return (
            (value_of(record, chosen), f"field {chosen.name!r}"),
            (value_of(record, rejected), f"field {rejected.name!r}"),
        )
    value = value_of(record, output)
    if isinstance(value, str) and not value.lstrip().startswith("["):
        raise ValueError(
            f"field {output.name!r} is one response; preference needs a list of two, or fields 'chosen' "
            "and 'rejected'"
        )
    pair = [] if value is None else list_of(value, f"field {output.name!r}")
    if len(pair) not in (0, 2):
        raise ValueError(f"field {output.name!r} must be a list of two responses, found {len(pair)}")
    better, worse = pair or (None, None)
    return (better, f"field {output.name!r}, response 1"), (worse, f"field {output.name!r}, response 2")


def side_turns(value: Any, columns: Columns, roles: Mapping[str, str], what: str) -> Turns:
    """The turns of one side: a response as text or as a turn, or a conversation that ends with it.

    Nothing where it is withheld.
    """
    if value is None or (isinstance(value, str) and not value.strip()) or value == []:
        return ()
    if isinstance(value, str):
        return (as_response(checked_text(value, what)),)
    items = [value] if isinstance(value, Mapping) else list_of(value, what)
    turns = tuple(turn_of(item, columns, roles, f"{what}, turn {n}") for n, item in enumerate(items, start=1))
    if turns[-1].role != "response":
        raise ValueError(f"{what} must end with a response, but its last turn is a {turns[-1].role}")
    refuse_empty(turns, what, needs_response=True)
    return turns


def context_of(shared: Turns, record: Record, columns: Columns, roles: Mapping[str, str]) -> Turns:
    """What is answered: ``shared`` turns of both sides, a conversation, or an instruction."""
    what = f"field {columns['chosen'].name!r}"
    prompt = columns["instruction"].name_in(record)
    if shared:
        if prompt and record[prompt] != shared[-1].text:
            raise ValueError(
                f"{what} has a prompt of its own beside field {prompt!r}, and they differ; set "
                'data.columns.instruction="" to read the conversation alone'
            )
        context = check_order(with_system(shared, record, columns, what), what)
    elif prompt and isinstance(record[prompt], list):
        what = f"field {prompt!r}"
        items = enumerate(record[prompt], start=1)
        turns = tuple(turn_of(item, columns, roles, f"{what}, turn {n}") for n, item in items)
        if not turns:
            raise ValueError(f"{what} is an empty list; remove the record")
        refuse_empty(turns, what, needs_response=True)
        context = check_order(with_system(turns, record, columns, what), what)
    elif columns["messages"].name_in(record):
        context = conversation_of(record, columns, roles)
        what = field_of(record, columns)
        refuse_empty(context, what, needs_response=True)
    else:
        context = alpaca_context(record, columns)
    if context[-1].role != "prompt":
        raise ValueError(f"{what} must end with a prompt before the two responses")
    return context
