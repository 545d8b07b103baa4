"""The two PromptCBLUE protocols: which tasks each holds, how their answers are read and scored."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

MICRO_F1, WEIGHTED_F1, MACRO_F1 = "micro_f1", "weighted_f1", "macro_f1"
ROUGE_L, TREE_RATIO = "rouge_l", "tree_lenv_ratio"

# The organisers' report says Micro-F1 where their code takes the weighted average.
OFFICIAL_METRIC_NAMES = {
    MICRO_F1: "Micro-F1",
    WEIGHTED_F1: "Micro-F1",
    MACRO_F1: "Macro-F1",
    ROUGE_L: "RougeL",
    TREE_RATIO: "TreeLenvRatio",
}


@dataclass(frozen=True)
class Task:
    """One task of the benchmark, by its ``task_dataset``."""

    name: str
    grammar: str
    """How its answers are written: a key of ``parsing.PARSERS``."""
    metric: str
    default: str = ""
    """What an empty label counts as, or what a label outside the choices is read as."""

    @property
    def official_key(self) -> str:
        """The task's key in the organisers' report."""
        return f"{self.name}-{OFFICIAL_METRIC_NAMES[self.metric]}"


@dataclass(frozen=True)
class Protocol:
    """A year's rules."""

    name: str
    tasks: tuple[Task, ...]
    """In the order in which the organisers' script scores them, which decides whose error is reported."""
    widens_punctuation: bool
    """Whether the first hundred half-width ``:``, ``,`` and ``;`` of a text are read as full-width ones."""

    def find_task(self, name: str) -> Task | None:
        """Returns the task called ``name``, or None."""
        return next((task for task in self.tasks if task.name == name), None)


def _list_tasks(spo_name: str, unread_finding: str) -> tuple[Task, ...]:
    return (
        Task("CMeEE-V2", "entities", MICRO_F1),
        Task(spo_name, "triples", MICRO_F1),
        Task("CHIP-CDN", "normalization", MICRO_F1),
        Task("CHIP-CDEE", "events", MICRO_F1),
        Task("IMCS-V2-NER", "entities", MICRO_F1),
        Task("CHIP-MDCFNPC", "findings", MICRO_F1, unread_finding),
        Task("IMCS-V2-SR", "findings", MICRO_F1, "无法根据上下文确定病人是否患有该症状"),
        Task("IMCS-V2-DAC", "label", MACRO_F1, "非上述类型"),
        Task("IMCS-V2-MRG", "report", ROUGE_L),
        Task("CHIP-CTC", "label", MACRO_F1, "非上述类型"),
        Task("CHIP-STS", "same_or_not", WEIGHTED_F1, "是的"),
        Task("KUAKE-IR", "label", WEIGHTED_F1, "相关"),
        Task("KUAKE-QIC", "label", MACRO_F1, "非上述类型"),
        Task("KUAKE-QQR", "label", WEIGHTED_F1, "完全一致"),
        Task("KUAKE-QTR", "label", WEIGHTED_F1, "完全不匹配或者没有参考价值"),
        Task("MedDG", "text", ROUGE_L),
    )


CCKS2023 = Protocol(
    "ccks2023",
    _list_tasks("CMeIE", "无实际意义的不标注或者和病人当前的状态独立不标注"),
    widens_punctuation=True,
)
CHIP2023 = Protocol(
    "chip2023",
    (
        # 不标注 is no label of the task: such a finding is never right.
        *_list_tasks("CMeIE-V2", "不标注"),
        Task("Text2DT", "tree", TREE_RATIO),
        Task("CMedCausal", "causal_triples", MICRO_F1),
    ),
    widens_punctuation=False,
)
PROTOCOLS = {protocol.name: protocol for protocol in (CCKS2023, CHIP2023)}


def find_protocol(name: str) -> Protocol:
    """Returns the protocol called ``name``.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"unknown PromptCBLUE protocol {name!r}; it is one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def suggest_task(protocol: Protocol, name: object) -> str:
    """Returns the sentence that tells someone which task names ``protocol`` knows, the likeliest first."""
    known = [task.name for task in protocol.tasks]
    elsewhere = [other.name for other in PROTOCOLS.values() if other.find_task(str(name))]
    if elsewhere:
        hint = f"evaluate.protocol={elsewhere[0]} has it; "
    else:
        longer = [task for task in known if str(name) and task.startswith(str(name))]
        close = longer or difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}{protocol.name} knows {', '.join(known)}"
