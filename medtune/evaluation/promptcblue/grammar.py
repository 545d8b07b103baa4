"""Tells whether a generated text is an answer in its task's grammar at all.

The official parser takes anything and reads nothing out of most of it. A model that has not learned the form
of the answers and one that has learned it and is wrong score alike; this tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from medtune.evaluation.promptcblue.parsing import NO_CAUSAL_TRIPLES, Answer, widen_punctuation
from medtune.evaluation.promptcblue.protocols import Protocol, Task

NO_ENTITIES, NO_TRIPLES, NO_TERM = "没有指定类型实体", "没有指定类型的三元组", "没有对应的标准化实体"


def follows_grammar(
    text: str, answer: Answer, task: Task, choices: Sequence[str] | None, protocol: Protocol
) -> bool:
    """Says whether ``text``, which was read as ``answer``, has the form that its task asks for."""
    if protocol.widens_punctuation:
        text = widen_punctuation(text)
    return CHECKS[task.grammar](text, answer, choices or (), task)


def _is_entity_list(text: str, answer: Answer, choices: Sequence[str], task: Task) -> bool:
    starts = tuple(f"{choice}实体：" for choice in choices)
    return NO_ENTITIES in text or any(line.startswith(starts) for line in text.split("\n"))


def _is_triple_list(text: str, answer: Answer, choices: Sequence[str], task: Task) -> bool:
    return NO_TRIPLES in text or "关系的头尾实体对如下：" in text


def _is_choice_of_terms(text: str, answer: Answer, choices: Sequence[str], task: Task) -> bool:
    return bool(answer) or NO_TERM in text


def _is_event_list(text: str, answer: Answer, choices: Sequence[str], task: Task) -> bool:
    return any(event["主体词"] for event in answer) or (not answer and "临床发现事件" in text)


def _is_finding_list(text: str, answer: Answer, choices: Sequence[str], task: Task) -> bool:
    first, *lines = text.split("\n")
    return any(line.partition("：")[2] in choices for line in lines) or (not lines and "阴阳性" in first)


def _is_label(text: str, answer: Answer, choices: Sequence[str], task: Task) -> bool:
    return text.strip() in (*choices, task.default) if choices else bool(answer)


def _is_anything(text: str, answer: Answer, choices: Sequence[str], task: Task) -> bool:
    return bool(answer)


def _is_causal_triple_list(text: str, answer: Answer, choices: Sequence[str], task: Task) -> bool:
    return bool(answer) or NO_CAUSAL_TRIPLES in text


def _is_tree(text: str, answer: Answer, choices: Sequence[str], task: Task) -> bool:
    return "：role=" in text


CHECKS: dict[str, Callable[[str, Answer, Sequence[str], Task], bool]] = {
    "entities": _is_entity_list,
    "triples": _is_triple_list,
    "causal_triples": _is_causal_triple_list,
    "tree": _is_tree,
    "normalization": _is_choice_of_terms,
    "events": _is_event_list,
    "findings": _is_finding_list,
    "label": _is_label,
    "same_or_not": _is_label,
    "report": _is_anything,
    "text": _is_anything,
}
