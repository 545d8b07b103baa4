"""Answers that can only be one of a row's choices: a trie over the token ids of each.

A choice's ids are those that the template gives it as a response, so what can be said is what was learned.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from medtune.data.examples import Example, Turn
from medtune.data.tokens.templates import Template

CLOSED_TYPES = ("cls", "matching")
"""PromptCBLUE's ``task_type`` of rows whose answer is one of ``answer_choices``. Others have choices too, but
of which the answer speaks: entity types, relations, terms."""

NONE_OF_THEM = "非上述类型"
TASKS_WITH_NONE = ("CHIP-CTC", "KUAKE-QIC", "IMCS-V2-DAC")
"""Tasks where the right answer may be none of the choices, as the benchmark says it; no row lists that."""


@dataclass
class Node:
    """A place in the trie.

    Attributes:
        following: By token id; a stop token follows where a choice may end.
        is_last: Whether a choice ends here and none goes on.
    """

    following: dict[int, "Node"] = field(default_factory=dict)
    is_last: bool = False


@dataclass(frozen=True)
class Choices:
    """What a row may be answered.

    Attributes:
        root: Where an answer begins.
        texts: The choice of each path.
    """

    root: Node
    texts: Mapping[tuple[int, ...], str]

    @property
    def longest(self) -> int:
        """Tokens of the longest choice, a stop token left out."""
        return max(map(len, self.texts))


class ChoiceTries:
    """Makes and keeps the tries of one template; rows with equal choices share one."""

    def __init__(self, template: Template, stop_ids: Iterable[int]) -> None:
        self.template = template
        self.stop_ids = frozenset(stop_ids)
        self.paths: dict[str, tuple[int, ...]] = {}
        self.tries: dict[tuple[str, ...], Choices] = {}

    def of(self, example: Example) -> Choices | None:
        """What may answer ``example``; None: anything."""
        texts = choices_of(example)
        if not texts:
            return None
        if texts not in self.tries:
            self.tries[texts] = self._build(texts, example.where)
        return self.tries[texts]

    def _build(self, texts: Sequence[str], where: str) -> Choices:
        by_path: dict[tuple[int, ...], str] = {}
        root, ends = Node(), []
        for text in texts:
            path = self._path(text)
            if path in by_path:
                raise ValueError(
                    f"{where}: the tokenizer writes the choices {by_path[path]!r} and {text!r} alike, so "
                    "neither could be chosen; set generate.choices=false"
                )
            by_path[path] = text
            node = root
            for token in path:
                node = node.following.setdefault(token, Node())
            ends.append(node)
        for node in ends:
            node.is_last = not node.following
        for node in ends:
            node.following |= {stop: Node() for stop in self.stop_ids}
        return Choices(root, by_path)

    def _path(self, text: str) -> tuple[int, ...]:
        """Ids of a choice as a response, up to its stop token."""
        if text not in self.paths:
            prompt = Turn("prompt", "?", learned=False)
            response = Turn("response", text, learned=True)
            [whole] = self.template.encode([Example((prompt, response), "answer_choices", 0)])
            ids = whole.input_ids[len(self.template.prompt_ids("?")) :]
            end = next((place for place, token in enumerate(ids) if token in self.stop_ids), len(ids))
            self.paths[text] = tuple(ids[:end])
        return self.paths[text]


def choices_of(example: Example) -> tuple[str, ...]:
    """The texts that may answer a row of a closed task; empty where anything may."""
    record = example.record
    choices = record.get("answer_choices")
    if record.get("task_type") not in CLOSED_TYPES or not isinstance(choices, list):
        return ()
    texts = dict.fromkeys(text for text in choices if isinstance(text, str) and text.strip())
    if texts and record.get("task_dataset") in TASKS_WITH_NONE:
        texts[NONE_OF_THEM] = None
    return tuple(texts)
