"""Starts the one process of a run, waits for it, and passes signals on."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import FrameType

from medtune.launch.console import say
from medtune.runtime.parent import end_with_parent

GRACE_SECONDS = 60.0  # for the step to end and a checkpoint to be written after Ctrl-C
POLL_SECONDS = 0.05
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@dataclass
class Child:
    """The running process of a run: the worker, or torchrun above several.

    Attributes:
        process: Leader of a session and a group of its own; None until it is started.
        is_conversation: Ctrl-C is the worker's own affair, as often as it comes: it may stop an answer only.
        received: The first signal that the launcher got meanwhile.
        deadline: When the process is killed.
    """

    is_conversation: bool = False
    process: subprocess.Popen[bytes] | None = None
    received: int | None = None
    deadline: float = float("inf")

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Passes the first signal on, once; the second kills.

        SIGUSR1 is the warning of a scheduler that ends the job itself: it sets no deadline, and the SIGTERM
        that follows at the limit is no sign of impatience.
        """
        if self.is_conversation and number == signal.SIGINT and self.process is not None:
            self.process.send_signal(number)
            return
        if self.received == signal.SIGUSR1 and number == signal.SIGTERM and self.deadline == float("inf"):
            self.deadline = time.monotonic() + GRACE_SECONDS
            return
        if self.received is not None:
            say("killed; what was written before stays")
            self.kill()
            return
        self.received = number
        limit = "after this step"
        if number != signal.SIGUSR1:
            self.deadline = time.monotonic() + GRACE_SECONDS
            limit = f"within {GRACE_SECONDS:.0f} s; once more kills"
        self.pass_on()
        if not self.is_conversation:
            say(f"{signal.Signals(number).name}: stopping {limit}")

    def pass_on(self) -> None:
        """Sends the signal that was received to the process, which tells its own children."""
        if self.process is not None and self.received is not None:
            # A worker does not know SIGHUP; the terminal that went away is a reason to stop like another.
            self.process.send_signal(signal.SIGTERM if self.received == signal.SIGHUP else self.received)

    def kill(self) -> None:
        """Ends the process and its group at once; ranks below torchrun end with it."""
        if self.process is not None and self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def run(self, command: Sequence[str], environment: Mapping[str, str], handles: Collection[int]) -> int:
        """Starts ``command`` with open ``handles`` and waits for its end. Gives its exit code."""
        # A session of its own, so that the terminal's Ctrl-C reaches the launcher only. When the launcher
        # is killed, it is told to stop.
        self.process = subprocess.Popen(
            command,
            env=dict(environment),
            start_new_session=True,
            pass_fds=tuple(handles),
            preexec_fn=partial(end_with_parent, os.getpid(), signal.SIGTERM),
        )
        self.pass_on()  # what came while it was being started
        while self.process.poll() is None:
            if time.monotonic() > self.deadline:
                self.kill()
            time.sleep(POLL_SECONDS)
        return self.process.returncode


def run_child(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    is_conversation: bool = False,
    handles: Collection[int] = (),
) -> tuple[int, int | None]:
    """Runs ``command`` to its end, with this process's signals passed on to it.

    Returns:
        Its exit code (negative: the signal that ended it), and the signal that the launcher got.
    """
    child = Child(is_conversation)
    with signals_to(child.on_signal):
        return child.run(command, environment, handles), child.received


@contextmanager
def signals_to(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Has ``handler`` called for the signals that end a run."""
    previous = {number: signal.signal(number, handler) for number in PASSED_ON}
    try:
        yield
    finally:
        for number, former in previous.items():
            signal.signal(number, former)
