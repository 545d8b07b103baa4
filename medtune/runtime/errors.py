"""The one error type of our own; wrong data and arguments raise ``ValueError`` with file and line."""

from collections.abc import Sequence


class ConfigError(Exception):
    """Settings that cannot run, all problems at once.

    Attributes:
        problems: One sentence each: the key as the user types it, its value, the relation, the fix.
    """

    def __init__(self, problems: Sequence[str] | str) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class Interrupted(Exception):
    """A signal ended the run after its state was saved.

    Attributes:
        signal_number: The signal that asked for it.
    """

    def __init__(self, signal_number: int, message: str) -> None:
        self.signal_number = signal_number
        super().__init__(message)
