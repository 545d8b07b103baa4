"""Keys that were typed and that the run will not read: nothing is ignored without a word."""

from collections.abc import Iterable
from dataclasses import dataclass

from medtune.config.idle import ALWAYS_READ, DELTAS, IDLE, READ_BY_TASK
from medtune.config.schema import Config

# What to do instead, by task and key.
HINTS = {
    ("train", "weights"): " (to start from trained weights, set model.path and model.init=pretrained)",
}


@dataclass(frozen=True)
class Reason:
    """What follows "has no effect" after one key, and "have no effect" after several."""

    of_one: str
    of_many: str


def unused_warning(config: Config, typed: Iterable[str]) -> str | None:
    """One line that names every typed key and group that this run does not read, by reason.

    Args:
        config: The settled configuration.
        typed: Dotted keys and group names of the command line.
    """
    keys_by_reason: dict[Reason, list[str]] = {}
    for key in dict.fromkeys(typed):
        reason = idle_reason(config, key)
        if reason is not None:
            keys_by_reason.setdefault(reason, []).append(key)
    clauses = [
        f"{keys[0]} has no effect{reason.of_one}"
        if len(keys) == 1
        else f"{', '.join(keys)} have no effect{reason.of_many}"
        for reason, keys in keys_by_reason.items()
    ]
    return "; ".join(clauses) or None


def idle_reason(config: Config, key: str) -> Reason | None:
    """Why a key or group is not read; None when it is."""
    if key in DELTAS or key in ALWAYS_READ:
        return None
    if not any(overlap(key, read) for read in READ_BY_TASK[config.task]):
        start, hint = f": task={config.task} does not use", HINTS.get((config.task, key), "")
        return Reason(f"{start} it{hint}", f"{start} them{hint}")
    for idle in IDLE:
        if any(within(key, name) for name in idle.keys) and idle.when(config):
            why = f" with {idle.why(config)}"
            return Reason(why, why)
    return None


def within(key: str, section: str) -> bool:
    """Whether ``key`` is ``section`` or one of its keys."""
    return key == section or key.startswith(section + ".")


def overlap(key: str, read: str) -> bool:
    """Whether a key or group is, holds, or lies in something that is read."""
    return within(key, read) or within(read, key)
