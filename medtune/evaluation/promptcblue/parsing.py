"""From generated text to structure, exactly as the official ``post_generate_process.py`` reads it.

Its quirks are kept on purpose: a score is comparable only if the same text is read in the same way. What
each grammar looks like, and which quirk sits where, is in the docstring of its reader.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medtune.evaluation.promptcblue.errors import FatalRowError
from medtune.evaluation.promptcblue.literals import read_triples
from medtune.evaluation.promptcblue.protocols import Protocol, Task

EVENT_FIELDS = {"主体词": str, "发生状态": str, "描述词": list, "解剖部位": list}
REPORT_SECTIONS = ("主诉", "现病史", "辅助检查", "既往史", "诊断", "建议")
CAUSAL_HEADERS = {"因果关系三元组如下": "因果关系", "条件关系三元组": "条件关系", "上下位关系": "上下位关系"}
NO_CAUSAL_TRIPLES = "给定的文本没有指定关系的三元组"
TREE_HEADER = "根据给定的指南文本抽取的诊疗决策树"

# Characters times choices: every line is held against every choice. 10 MB and 44 choices stay below it.
MAX_COMPARISONS = 500_000_000

Answer = Any  # a label or text, the sections of a report, or a list of records: what results.json holds


def parse_answer(text: str, task: Task, choices: Sequence[str] | None, protocol: Protocol) -> Answer:
    """Reads one generated text.

    Args:
        text: The text as generated, not stripped.
        task: The row's task, from ``protocol``.
        choices: The row's ``answer_choices``; entity, normalization and finding tasks need them.
        protocol: Whose rules hold.

    Raises:
        FatalRowError: The official parser dies on this text.
    """
    if protocol.widens_punctuation:
        text = widen_punctuation(text)
    if choices and len(text) * len(choices) > MAX_COMPARISONS and task.grammar in CHOICE_GRAMMARS:
        raise FatalRowError("MemoryError", f"{len(text)} characters for {len(choices)} choices")
    answer = PARSERS[task.grammar](text, choices or (), task)
    if not text.isascii():
        _refuse_half_surrogates(text, answer)
    return answer


def widen_punctuation(text: str) -> str:
    """Writes the first hundred each of ``:``, ``,`` and ``;`` full-width, as CCKS-2023 does to every text."""
    for narrow, wide in ((":", "："), (",", "，"), (";", "；")):
        text = text.replace(narrow, wide, 100)
    return text


def _refuse_half_surrogates(text: str, answer: Answer) -> None:
    """The official script writes its answers as UTF-8 and dies on what has none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        if any(0xD800 <= ord(char) <= 0xDFFF for char in _join_strings(answer)):
            raise FatalRowError("UnicodeEncodeError", str(error)) from error


def _join_strings(answer: Answer) -> str:
    if isinstance(answer, str):
        return answer
    if isinstance(answer, Mapping):
        return "".join(map(_join_strings, answer.values()))
    return "".join(map(_join_strings, answer)) if isinstance(answer, list) else ""


def _split_list(text: str) -> list[str]:
    return [part.strip() for part in text.split("，") if part.strip()]


def read_entities(text: str, choices: Sequence[str], task: Task) -> list[dict[str, str]]:
    """Reads ``X实体：a，b`` per asked type; types that were not asked for cost nothing.

    With another character than ``：`` after ``X实体`` the prefix stays in the first mention.
    """
    lines = [line for line in text.split("\n") if "实体" in line]
    entities = []
    for choice in choices:
        start = f"{choice}实体"
        for line in lines:
            if line.startswith(start):
                mentions = _split_list(line.replace(f"{start}：", ""))
                entities += [{"entity": mention, "type": choice} for mention in mentions]
    return entities


def read_triples_by_line(text: str, choices: Sequence[str], task: Task) -> list[dict[str, str]]:
    """Reads ``具有R关系的头尾实体对如下：头实体为A，尾实体为B。…``, one relation per line.

    The relation is whatever stands before the phrase, less two characters, and is checked against nothing.
    """
    triples = []
    for line in text.split("\n"):
        relation = line.split("关系的头尾实体对")[0][2:].strip()
        for pair in line.replace(f"具有{relation}关系的头尾实体对如下：", "").split("。"):
            head, *tails = pair.split("，尾实体为")
            if tails:
                subject, tail = head.replace("头实体为", ""), tails[0].replace("尾实体为", "")
                triples.append({"predicate": relation, "subject": subject.strip(), "object": tail.strip()})
    return triples


def _take_after(text: str, marker: str) -> str:
    """Returns what stands between ``marker`` and its next occurrence."""
    parts = text.split(marker, 2)
    if len(parts) < 2:
        raise FatalRowError("IndexError", f"no {marker!r} in {text[:40]!r}")
    return parts[1]


def _read_causal_triple(line: str, relation: str | None) -> dict[str, Any]:
    # With a nested triple the subject keeps the marker's tail: "C；尾三元组：". Gold and prediction alike.
    subject = _take_after(line, "头实体：").split("；尾实体：")[0]
    if relation != "条件关系":
        return {"predicate": relation, "subject": subject, "object": _take_after(line, "；尾实体：")}
    nested = _take_after(line, "；尾三元组：")
    inner = {
        "predicate": "因果关系",
        "subject": _take_after(nested, "头实体：").split("；尾实体：")[0],
        "object": _take_after(nested, "；尾实体：").split("；关系：")[0],
    }
    if (found := _take_after(nested, "；关系：")) != "因果关系":
        raise FatalRowError("AssertionError", f"the inner relation is {found[:40]!r}, not '因果关系'")
    return {"predicate": relation, "subject": subject, "object": inner}


def read_causal_triples(text: str, choices: Sequence[str], task: Task) -> list[dict[str, Any]]:
    """Reads ``头实体：A；尾实体：B`` under a header per relation; any other line is fatal."""
    triples: list[dict[str, Any]] = []
    relation = None
    for line in map(str.strip, text.split("\n")):
        header = next((header for header in CAUSAL_HEADERS if header in line), None)
        if header:
            relation = CAUSAL_HEADERS[header]
        elif NO_CAUSAL_TRIPLES in line:
            break
        elif line:
            triples.append(_read_causal_triple(line, relation))
    return triples


def _read_tree_node(line: str) -> dict[str, Any]:
    role = _take_after(line, "：role=").split("；logical_rel=")[0]
    relations = line.split("；logical_rel=", 2)[1:]
    literals = line.split("；triples=", 2)[1:]
    try:
        triples = read_triples(literals[0]) if literals else []
    except (TypeError, UnicodeEncodeError) as error:
        raise FatalRowError(type(error).__name__, str(error)) from error
    relation = relations[0].split("；triples=")[0] if relations else "null"
    return {"role": role, "logical_rel": relation, "triples": triples}


def _make_empty_tree() -> list[dict[str, Any]]:
    return [{"role": "D", "logical_rel": "null", "triples": []}]


def read_tree(text: str, choices: Sequence[str], task: Task) -> list[dict[str, Any]]:
    """Reads ``…：role=C；logical_rel=and；triples=[[h, r, t], …]`` per node; a line without a role is fatal.

    No node at all is read as one empty decision.
    """
    lines = [line for line in text.split("\n") if line and TREE_HEADER not in line]
    return [_read_tree_node(line) for line in lines] or _make_empty_tree()


def read_normalization(text: str, choices: Sequence[str], task: Task) -> list[dict[str, str]]:
    """Reads the last line only, so that a trailing newline loses everything.

    Keeps the offered terms, once each and sorted; the official order is a set's, which changes with each run.
    """
    offered = {choice for choice in choices if isinstance(choice, str)}
    chosen = offered.intersection(_split_list(text.split("\n")[-1]))
    return [{"entity": term, "type": "normalization"} for term in sorted(chosen)]


def _read_event_attribute(attribute: str, event: dict[str, Any]) -> None:
    # The text is shortened inside the loop, so "主体词：发生状态：x" fills both fields.
    for field, kind in EVENT_FIELDS.items():
        if attribute.startswith(f"{field}："):
            attribute = attribute.replace(f"{field}：", "").strip()
            event[field] = _split_list(attribute) if kind is list else attribute


def _read_event(line: str) -> dict[str, Any]:
    event: dict[str, Any] = {}
    for attribute in line.split("；"):
        _read_event_attribute(attribute, event)
    return {field: event.get(field, kind()) for field, kind in EVENT_FIELDS.items()}


def read_events(text: str, choices: Sequence[str], task: Task) -> list[dict[str, Any]]:
    """Reads ``主体词：x；发生状态：y；描述词：a，b；解剖部位：c`` per line after the first.

    Every such line is an event, a blank one too. Equal lines share one record, so that a text of ten million
    newlines stays small.
    """
    lines = text.split("\n")[1:]
    events = {line: _read_event(line) for line in dict.fromkeys(lines)}
    return [events[line] for line in lines]


def read_findings(text: str, choices: Sequence[str], task: Task) -> list[dict[str, str]]:
    """Reads ``finding：label`` per line after the first; an unknown label is read as the task's default."""
    findings = []
    for line in text.split("\n")[1:]:
        finding, *labels = line.split("：", 2)
        if len(labels) == 1:
            label = labels[0] if labels[0] in choices else task.default
            findings.append({"entity": finding.strip(), "attr": label})
    return findings


def read_label(text: str, choices: Sequence[str], task: Task) -> str:
    """Reads the whole text; nothing compares it with the choices."""
    return text.strip()


def read_same_or_not(text: str, choices: Sequence[str], task: Task) -> str:
    """Reads a label in either of its two wordings."""
    label = text.strip()
    return {"相同": "是的", "不同": "不是"}.get(label, label)


def read_report(text: str, choices: Sequence[str], task: Task) -> dict[str, str]:
    """Reads ``section：text`` per line after the first; later lines win, wrapped text is lost."""
    lines = text.strip().split("\n")[1:]
    report = {}
    for section in REPORT_SECTIONS:
        for line in lines:
            if line.startswith(f"{section}："):
                report[section] = line.rsplit(f"{section}：", 1)[-1].strip()
    return report


PARSERS: dict[str, Callable[[str, Sequence[str], Task], Answer]] = {
    "entities": read_entities,
    "triples": read_triples_by_line,
    "causal_triples": read_causal_triples,
    "tree": read_tree,
    "normalization": read_normalization,
    "events": read_events,
    "findings": read_findings,
    "label": read_label,
    "same_or_not": read_same_or_not,
    "report": read_report,
    "text": read_label,
}
CHOICE_GRAMMARS = frozenset({"entities", "normalization", "findings"})
EMPTY_ANSWERS: dict[str, Callable[[], Answer]] = {
    "tree": _make_empty_tree,
    "label": str,
    "same_or_not": str,
    "text": str,
    "report": dict,
}


def make_empty_answer(task: Task) -> Answer:
    """Returns what an empty text is read as."""
    return EMPTY_ANSWERS.get(task.grammar, list)()
