"""Processes that do not outlive the one that started them."""

import ctypes
import os
import sys

SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h
# Loaded here, because between fork and exec, where this may be called, nothing should be.
PRCTL = ctypes.CDLL(None).prctl if sys.platform.startswith("linux") else None


def end_with_parent(parent: int, number: int) -> None:
    """Has the system send this process ``number`` when its parent ends for any reason; Linux only.

    Args:
        parent: The parent's process id, by which its earlier end is noticed.
        number: The signal.
    """
    if PRCTL is None:
        return
    PRCTL(SET_DEATH_SIGNAL, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)
