"""Chunks encoded in order: in this process, or in several that end with it."""

import gc
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from medtune.data.tokens.encode import ChunkEncoder, EncodedChunk, Record
from medtune.runtime.hardware import cpu_cores
from medtune.runtime.parent import end_with_parent

BYTES_FOR_WORKERS = 32 << 20  # below, starting processes costs more time than they save
MOST_WORKERS = 8  # one process reads for all of them
CHUNKS_AHEAD = 2  # per process: none waits, and memory stays flat

_encode: list[ChunkEncoder] = []  # in a worker: what it was started with


def workers_for(size: int, asked: int | None) -> int:
    """Processes that tokenise.

    Args:
        size: Bytes of the source's files.
        asked: ``data.prepare_workers``; None: one per core where that pays.
    """
    if asked is not None:
        return max(asked, 1)
    return min(cpu_cores(), MOST_WORKERS) if size >= BYTES_FOR_WORKERS else 1


def encode_chunks(
    encode: ChunkEncoder, chunks: Iterable[Sequence[Record]], workers: int
) -> Iterator[EncodedChunk]:
    """Encodes chunks; the results are in their order, whoever made them.

    Args:
        encode: The work.
        chunks: Read as they are needed.
        workers: 1: this process itself.

    Raises:
        ValueError: As ``encode`` raises it, or a process was killed.
    """
    if workers == 1:
        yield from map(encode, chunks)
        return
    with executor(encode, workers) as pool:
        waiting: deque[Future[EncodedChunk]] = deque()
        try:
            for chunk in chunks:
                with main_left_out():
                    waiting.append(pool.submit(encode_in_worker, chunk))
                if len(waiting) > workers * CHUNKS_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise ValueError(
                "a process that tokenises was killed, perhaps because memory ran out; nothing was stored. "
                "Set data.prepare_workers=1 to tokenise in one process"
            ) from error


@contextmanager
def main_left_out() -> Iterator[None]:
    """Keeps processes that are started from importing the program that starts them.

    They need nothing of it; a script without ``if __name__ == "__main__"`` would begin anew in each, and
    wait for the lock that its parent holds.
    """
    main = sys.modules["__main__"]
    known: dict[str, Any] = {
        name: vars(main).pop(name) for name in ("__file__", "__spec__") if name in vars(main)
    }
    main.__spec__ = None
    try:
        yield
    finally:
        vars(main).update(known)


@contextmanager
def executor(encode: ChunkEncoder, workers: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes that import nothing but the data path; what is not begun is dropped at the end."""
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=start_worker,
        initargs=(os.getpid(), encode),
    )
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def start_worker(parent: int, encode: ChunkEncoder) -> None:
    """Runs first in a worker."""
    end_with_parent(parent, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of the terminal's processes
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a process per core already
    gc.disable()  # tokenising makes no cycles
    _encode.append(encode)


def encode_in_worker(chunk: Sequence[Record]) -> EncodedChunk:
    """Runs in a worker, once per chunk."""
    return _encode[0](chunk)
