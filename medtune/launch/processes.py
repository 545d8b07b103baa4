"""Starts ranks, waits for them, and passes signals on.

The ranks find each other as torchrun's would (RANK, WORLD_SIZE, MASTER_ADDR, ...). They are started
here and not by torchrun because torchrun imports torch once more (two CPU-seconds), passes the
terminal's Ctrl-C on a second time, and kills ranks 30 seconds after it: less than a checkpoint takes.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from medtune.launch.console import say

GRACE_SECONDS = 60.0  # for the step to end and a checkpoint to be written after Ctrl-C
CLEANUP_SECONDS = 10.0  # for the other ranks after one failed
POLL_SECONDS = 0.05
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Ranks:
    """Running processes of one run.

    Attributes:
        processes: In the order of their ranks.
        received: The first signal that the launcher got meanwhile.
        deadline: When the remaining processes are killed.
    """

    processes: list[subprocess.Popen[bytes]]
    received: int | None = None
    deadline: float = field(default=float("inf"))

    def send(self, number: int) -> None:
        """Sends a signal to each process that still runs."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Passes the first signal on, once; the second kills."""
        if self.received is not None:
            say("killed; what was written before stays")
            self.send(signal.SIGKILL)
            return
        self.received = number
        self.deadline = time.monotonic() + GRACE_SECONDS
        # A worker does not know SIGHUP; the terminal that went away is a reason to stop like another.
        self.send(signal.SIGTERM if number == signal.SIGHUP else number)
        name = signal.Signals(number).name
        say(f"{name}: stopping within {GRACE_SECONDS:.0f} s; once more kills")

    def wait(self) -> list[int]:
        """Waits for all; ends the others when one fails. Gives the exit codes by rank."""
        while None in [process.poll() for process in self.processes]:  # each is asked, also after the first
            failed = any(process.returncode for process in self.processes)
            if failed and self.deadline == float("inf"):
                self.deadline = time.monotonic() + CLEANUP_SECONDS
                self.send(signal.SIGTERM)
            if time.monotonic() > self.deadline:
                self.send(signal.SIGKILL)
            time.sleep(POLL_SECONDS)
        return [process.returncode for process in self.processes]


def run_ranks(
    command: Sequence[str], environments: Sequence[Mapping[str, str]]
) -> tuple[list[int], int | None]:
    """Runs ``command`` once for each environment and waits.

    Returns:
        Exit codes by rank (negative: the signal that ended it), and the signal that the launcher got.
    """
    ranks = Ranks([])
    with signals_to(ranks.on_signal):
        for environment in environments:
            ranks.processes.append(start(command, environment))
        if ranks.received is not None:  # it came while they were being started
            ranks.send(ranks.received)
        return ranks.wait(), ranks.received


def start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Starts a process in a session of its own, so that the terminal's Ctrl-C reaches the launcher only."""
    return subprocess.Popen(
        command, env=dict(environment), start_new_session=True, preexec_fn=DIE_WITH_PARENT
    )


@contextmanager
def signals_to(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Has ``handler`` called for the signals that end a run."""
    previous = {number: signal.signal(number, handler) for number in PASSED_ON}
    try:
        yield
    finally:
        for number, former in previous.items():
            signal.signal(number, former)


def die_with_parent() -> Callable[[], None] | None:
    """What a child calls so that it gets SIGTERM when the launcher is killed; Linux only."""
    if not sys.platform.startswith("linux"):
        return None
    set_death_signal = 1  # PR_SET_PDEATHSIG of linux/prctl.h
    prctl = ctypes.CDLL(None).prctl

    def call() -> None:
        prctl(set_death_signal, signal.SIGTERM)

    return call


DIE_WITH_PARENT = die_with_parent()


def rank_environments(base: Mapping[str, str], world_size: int, port: int) -> list[dict[str, str]]:
    """The variables by which the ranks of one machine find each other, as torchrun sets them."""
    return [
        {
            **base,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "GROUP_RANK": "0",
            "WORLD_SIZE": str(world_size),
            "LOCAL_WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_RUN_ID": "medtune",  # by which Lightning knows that it need not start ranks
        }
        for rank in range(world_size)
    ]


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def own_environment() -> dict[str, str]:
    """This process's variables without those of ranks that it may itself have been started with."""
    foreign = rank_environments({}, 1, 0)[0]
    return {key: value for key, value in os.environ.items() if key not in foreign}
