"""How a run ended, told on one screen."""

import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtune.config.schema import Config
from medtune.launch.console import say
from medtune.launch.elastic import LOG
from medtune.launch.local import relative
from medtune.runtime.record import RunFolder

FINISHED, FAILED, REFUSED, INTERRUPTED = "finished", "failed", "refused", "interrupted"
EXIT_FAILED, EXIT_REFUSED, EXIT_SIGNAL = 1, 2, 128
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
STOPPING = {code for number in ENDING for code in (128 + number, -number)}
# Ends that no other rank's failure brings about.
VIOLENT = {-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE}
LINES_OF_MESSAGE = 40


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        status: finished, failed, refused or interrupted.
        code: Exit code of the command.
        message: The cause, when it did not finish.
    """

    status: str
    code: int
    message: str = ""


def judge(folder: RunFolder, codes: Mapping[int, int], received: int | None) -> Outcome:
    """What the ranks' exit codes and records mean.

    Args:
        folder: Where the ranks wrote ``logs/error-N.json``.
        codes: By rank, the first to fail first; negative is the signal that ended it.
        received: The signal that the launcher got.
    """
    if received is not None:
        return Outcome(INTERRUPTED, EXIT_SIGNAL + received)
    ended = {rank: code for rank, code in codes.items() if code}
    if not ended:
        return Outcome(FINISHED, 0)
    first_code = next(iter(ended.values()))
    cause = earliest_cause(folder)
    # The others' causes are then only that they lost their partner.
    if cause is not None and first_code not in VIOLENT:
        code = EXIT_REFUSED if cause.get("type") == "ConfigError" else EXIT_FAILED
        return Outcome(FAILED, code, cause_text(folder, cause))
    if all(code in STOPPING for code in ended.values()):
        return Outcome(INTERRUPTED, first_code if first_code > 0 else EXIT_SIGNAL - first_code)
    return Outcome(FAILED, EXIT_FAILED, silent_end(folder, ended))


def earliest_cause(folder: RunFolder) -> Mapping[str, Any] | None:
    """What the first rank to fail wrote; the others only lost their partner."""
    causes = []
    for file in folder.logs.glob("error-*.json"):
        try:
            causes.append(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, json.JSONDecodeError):  # a rank that was killed while writing
            continue
    return min(causes, key=lambda cause: cause["time"], default=None)


def cause_text(folder: RunFolder, cause: Mapping[str, Any]) -> str:
    """The cause in a screen's length, and where the rest is."""
    lines = str(cause["message"]).splitlines() or [""]
    shown = lines[:LINES_OF_MESSAGE]
    if len(lines) > len(shown):
        shown.append(f"... ({len(lines) - len(shown)} more lines)")
    name = "" if cause["type"] in ("ConfigError", "ValueError") else f"{cause['type']}: "
    rank = cause["rank"]  # None is torchrun, which can fail to find a port or to start a process
    who, log = ("torchrun", LOG) if rank is None else (f"rank {rank}", rank_log(rank))
    text = "\n  ".join(shown)
    return f"{name}{text}\n  ({who}; the traceback is in {relative(folder.logs / log)})"


def rank_log(rank: int) -> str:
    """The file below ``logs/`` that a rank wrote."""
    return f"rank-{rank}.log"


def silent_end(folder: RunFolder, codes: Mapping[int, int]) -> str:
    """The cause of a rank that left no record: the message it could only show, or how it ended."""
    rank, code = next((rank, code) for rank, code in codes.items() if code not in STOPPING)
    log = relative(folder.logs / rank_log(rank))
    if code == -signal.SIGKILL:
        return f"rank {rank} was killed (SIGKILL), as by a machine that is out of main memory; see {log}"
    if code in (EXIT_FAILED, EXIT_REFUSED):  # it said why, but on a full disk could not record it
        return f"rank {rank} ended with exit code {code}; its message is above (or in {log})"
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return f"rank {rank} ended {how} and left no cause; see {log}"


def tell(outcome: Outcome, config: Config, folder: RunFolder) -> None:
    """Shows how the run ended."""
    place = relative(folder.path)
    if outcome.status == FINISHED:
        say(f"done: {place}")
    elif outcome.status == INTERRUPTED:
        say(f"interrupted: {place}")
        if config.task == "train" and has_checkpoint(folder.checkpoints):
            say(f"continue with: python -m medtune run_dir={place} resume=auto")
    else:
        say(f"medtune: the run failed: {outcome.message}")
        say(f"run folder: {place}")


def has_checkpoint(folder: Path) -> bool:
    """Whether there is something to resume from."""
    return folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir())
