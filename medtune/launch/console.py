"""What the launcher says, on stderr, so that stdout stays free for results."""

import sys
from collections.abc import Sequence


def say(text: str) -> None:
    """Shows a line."""
    print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Shows a line that the user should not miss."""
    say(f"warning: {text}")


def show_problems(problems: Sequence[str]) -> None:
    """Shows why a command is refused, all problems on one screen."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    say(f"medtune: {count}, nothing was started")
    for problem in problems:
        say(f"  - {problem}")
    say("`python -m medtune --help GROUP` shows every key of a group.")
