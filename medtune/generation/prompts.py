"""Prompts as ids that fit the model's context; one rule for files, scores, chat and serving."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from medtune.data.examples import Turn
from medtune.data.tokens.templates import Template

GAP = "…"  # stands where text was left out, so that what was apart does not read as one sentence
NAMED_ROWS = 5


@dataclass(frozen=True)
class Prompt:
    """Ids after which a model answers.

    Attributes:
        ids: Special tokens included.
        cut: Tokens that were left out to fit.
    """

    ids: list[int]
    cut: int = 0


def answer_room(max_new_tokens: int, context: int) -> int:
    """Tokens of the context that a prompt leaves to its answer: all that it may have, at most half."""
    return min(max_new_tokens, context // 2)


def fit_prompts(
    template: Template,
    conversations: Sequence[Sequence[Turn]],
    rooms: Sequence[int | None],
    overlong: str = "middle",
) -> list[Prompt]:
    """The prompt of each conversation, cut where it is longer than its room.

    What is cut is the middle of the last turn's text: instruction and question stand at its ends, and the
    template around it, with the tag that the answer follows, is not touched.

    Args:
        template: Of the model.
        conversations: Each ends with a prompt, or a document to go on with.
        rooms: Most tokens of each prompt; None: any number.
        overlong: ``middle``, or ``error``.

    Raises:
        ValueError: Prompts are too long, with ``error``; or the template and the turns before the last alone
            leave no room.
    """
    whole = template.prompts_ids(conversations)
    excess = [0 if room is None else len(ids) - room for ids, room in zip(whole, rooms, strict=True)]
    too_long = [row for row, more in enumerate(excess) if more > 0]
    if too_long and overlong == "error":
        raise ValueError(refusal(too_long, [len(ids) for ids in whole], rooms))
    prompts = [Prompt(ids) for ids in whole]
    for row in too_long:
        ids = cut_in_the_middle(template, conversations[row], rooms[row] or 0, row)
        prompts[row] = Prompt(ids, len(whole[row]) - len(ids))
    return prompts


def cut_in_the_middle(template: Template, turns: Sequence[Turn], room: int, row: int) -> list[int]:
    """Ids with as many characters of the last turn as fit, half from its start and half from its end."""
    text = turns[-1].text

    def rendered(kept: int) -> list[int]:
        head, tail = kept - kept // 2, kept // 2
        shortened = text[:head] + GAP + text[len(text) - tail :]
        return template.prompts_ids([(*turns[:-1], replace(turns[-1], text=shortened))])[0]

    best = rendered(0)
    if len(best) > room:
        raise ValueError(
            f"prompt {row + 1}: without its text {len(best)} tokens remain (template, system prompt, earlier "
            f"turns), but the model's context has room for {room}; shorten them, or lower "
            "generate.max_new_tokens"
        )
    # Whole characters, not tokens: half a character would decode to nothing that the text had.
    fits, fails = 0, len(text)
    while fails - fits > 1:
        middle = (fits + fails) // 2
        ids = rendered(middle)
        if len(ids) <= room:
            fits, best = middle, ids
        else:
            fails = middle
    return best


def refusal(rows: Sequence[int], lengths: Sequence[int], rooms: Sequence[int | None]) -> str:
    """The message about prompts that are too long, the longest first."""
    longest = sorted(rows, key=lambda row: (-lengths[row], row))[:NAMED_ROWS]
    named = ", ".join(f"{row + 1} ({lengths[row]} tokens)" for row in longest)
    least = min(room for row in rows if (room := rooms[row]) is not None)
    return (
        f"{len(rows)} of {len(lengths)} prompts have more than the {least} tokens that the model's context "
        f"leaves beside an answer, the longest: {named}. Set generate.overlong=middle to cut them in the "
        "middle of their text, lower generate.max_new_tokens, or use a model with a longer context"
    )
