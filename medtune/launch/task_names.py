"""Names of tasks that no protocol knows: a rule that needs the benchmark's list, and nothing heavy."""

import re
from collections.abc import Iterator, Sequence

from medtune.config.evaluations import source_of_evaluation
from medtune.config.schema import Config
from medtune.config.suggest import did_you_mean, nearest
from medtune.evaluation.promptcblue.protocols import PROTOCOLS

OTHER_RESULTS = ("eval/score", "eval/parse_failures")


def task_name_problems(config: Config) -> Iterator[str]:
    """Tasks to evaluate, or to choose checkpoints by, that the protocol does not have."""
    protocol = PROTOCOLS.get(config.evaluate.protocol)
    if config.task not in ("train", "evaluate") or protocol is None:
        return
    known = [task.name for task in protocol.tasks]
    source = source_of_evaluation(config)
    format = source.format if source is not None else "auto"
    if config.eval.tasks and format not in ("auto", "promptcblue"):
        yield (f"eval.tasks: data.format={format} has none of PromptCBLUE's tasks; leave it out")
        return
    if config.eval.tasks == []:
        yield "eval.tasks=[] leaves nothing to answer; name tasks, or set eval.tasks=null for all"
    for name in config.eval.tasks or ():
        if name not in known:
            yield (
                f"eval.tasks: {config.evaluate.protocol} has no task {name}"
                f"{did_you_mean(meant_task(name, known)) or ', only ' + ', '.join(known)}"
            )
    monitor = config.checkpoint.monitor
    if config.task != "train" or not config.checkpoint.keep_best or not monitor.startswith("eval/"):
        return
    if config.eval.every_n_steps is None:
        yield (
            f"checkpoint.monitor={monitor} is measured by evaluations during training; set "
            "eval.every_n_steps=N"
        )
    elif format == "promptcblue":
        # What other data are measured by is known when they are read, before the first step.
        names = [*OTHER_RESULTS, *(f"eval/{name}" for name in config.eval.tasks or known)]
        if monitor not in names:
            meant = did_you_mean(meant_task(monitor, names))
            yield f"checkpoint.monitor={monitor} is none of {', '.join(names)}{meant}"


def meant_task(name: str, known: Sequence[str]) -> str | None:
    """The name that was meant: the one that tables shorten to ``name``, else the nearest."""
    short = name.rpartition("/")[2].lower()
    whole = (full for full in known if short in re.split("[-/]", full.lower()))
    return next(whole, None) or nearest(name, known)
