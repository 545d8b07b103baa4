"""Stretches of a rendered example, and the ids and learned spans they become."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from medtune.data.tokens.vocabulary import Vocabulary

# Reasoning at the start of a response, with the white space around it; without an end it is all reasoning.
THINKING = re.compile(r"(\s*)<think>(.*?)(?:</think>(\s*)|\Z)", re.DOTALL)


class Segment(NamedTuple):
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
        if found is None:
            return None
        before, inside, after = found.groups()
        return cls(before, inside, after, answer=response[found.end() :])

    @property
    def is_empty(self) -> bool:
        """Whether nothing is thought: such a block is never learned."""
        return not self.inside.strip()


def joined(segments: Iterable[Segment]) -> Iterator[Segment]:
    """The segments with neighbouring texts put together, and without empty ones.

    Args:
        segments: Of one stretch, in which every text is learned or none: what is joined must not depend on
            what is learned.
    """
    text, learned = "", False
    for segment in segments:
        if isinstance(segment.content, str):
            text = text + segment.content if text else segment.content
            learned = segment.learned
            continue
        if text:
            yield Segment(text, learned)
            text = ""
        yield segment
    if text:
        yield Segment(text, learned)


def encoded(segments: Iterable[Segment], ids_of_texts: Iterator[list[int]]) -> Encoded:
    """Puts a row's ids together, taking those of each text from ``ids_of_texts`` in order."""
    row = Encoded([], [])
    input_ids, spans = row.input_ids, row.spans
    start = end = 0
    for content, learned, label in segments:
        if isinstance(content, str):
            input_ids += next(ids_of_texts)
        else:
            input_ids.append(content)
        start, end = end, len(input_ids)
        if label is not None:
            row.relabels.append((start, label))
        if not learned or start == end:
            continue
        if spans and spans[-1][1] == start:
            start = spans.pop()[0]
        spans.append((start, end))
    return row


def adds_space(vocabulary: "Vocabulary") -> bool:
    """Whether a text gets a space in front when encoded (sentencepiece's dummy prefix)."""
    both, first, second = vocabulary.encode(["a b", "a", "b"])
    return both == [*first, *second]
