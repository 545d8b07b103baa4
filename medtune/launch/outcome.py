"""How a run ended, told on one screen."""

import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtune.config.schema import Config
from medtune.launch.console import say
from medtune.launch.local import relative
from medtune.runtime.record import RunFolder

FINISHED, FAILED, REFUSED, INTERRUPTED = "finished", "failed", "refused", "interrupted"
EXIT_FAILED, EXIT_REFUSED, EXIT_SIGNAL = 1, 2, 128
STOPPING = {128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM}
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


def judge(folder: RunFolder, codes: Sequence[int], received: int | None) -> Outcome:
    """What the ranks' exit codes and records mean.

    Args:
        folder: Where the ranks wrote ``logs/error-N.json``.
        codes: By rank; negative is the signal that ended it.
        received: The signal that the launcher got.
    """
    if received is not None:
        return Outcome(INTERRUPTED, EXIT_SIGNAL + received)
    if not any(codes):
        return Outcome(FINISHED, 0)
    cause = earliest_cause(folder)
    if cause is not None:
        code = EXIT_REFUSED if cause.get("type") == "ConfigError" else EXIT_FAILED
        return Outcome(FAILED, code, cause_text(folder, cause))
    ended = [code for code in codes if code]
    if all(code in STOPPING for code in ended):
        return Outcome(INTERRUPTED, ended[0] if ended[0] > 0 else EXIT_SIGNAL - ended[0])
    return Outcome(FAILED, EXIT_FAILED, silent_end(folder, codes))


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
    log = relative(folder.logs / f"rank-{cause['rank']}.log")
    text = "\n  ".join(shown)
    return f"{name}{text}\n  (rank {cause['rank']}; the traceback is in {log})"


def silent_end(folder: RunFolder, codes: Sequence[int]) -> str:
    """The cause of a rank that ended without a word."""
    rank, code = next((rank, code) for rank, code in enumerate(codes) if code and code not in STOPPING)
    log = relative(folder.logs / f"rank-{rank}.log")
    if code == -signal.SIGKILL:
        return f"rank {rank} was killed (SIGKILL), as by a machine that is out of main memory; see {log}"
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
