"""Several ranks on this machine, by torchrun: ``python -m medtune.launch.elastic RUN_DIR RANKS [PORT]``.

A process of its own between the launcher and the ranks. Of the launcher's modules it alone imports torch,
inside :func:`launch`, where no one imports it from.
"""

import logging
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from medtune.runtime.record import RunFolder, write_json

EXIT_CODES = "exit-codes.json"  # in RUN_DIR/logs: rank to exit code, in the order in which they failed
LOG = "torchrun.log"
EXIT_FAILED, EXIT_SIGNAL = 1, 128

log = logging.getLogger("torchrun")


def main(arguments: list[str]) -> int:
    """Runs the worker on all ranks; what went wrong is in the folder's logs, not on the screen."""
    folder = RunFolder(Path(arguments[0]).resolve())
    os.environ["MEDTUNE_PARENT"] = str(os.getpid())  # by which the ranks notice that this process is gone
    try:
        return launch(folder, torchrun_arguments(folder, *arguments[1:]))
    except KeyboardInterrupt:  # before torchrun took the signals over
        return EXIT_SIGNAL + signal.SIGINT
    except Exception as error:  # the last place where a failure can be recorded
        log.exception("torchrun failed")
        cause = {"time": time.time(), "rank": None, "type": type(error).__name__, "message": str(error)}
        try:
            write_json(folder.logs / "error-torchrun.json", cause)
        except ValueError:  # on a disk that is full the screen is all that is left
            sys.stderr.write(f"medtune: torchrun: {error}\n")
        return EXIT_FAILED


def torchrun_arguments(folder: RunFolder, ranks: str, port: str | None = None) -> list[str]:
    """The command line of torchrun.

    Args:
        folder: Of the run.
        ranks: How many.
        port: Where they meet; None: one that is free.
    """
    # Named by number: the machine's own name need not lead back to it.
    meeting = (
        ["--master-addr", "127.0.0.1", "--master-port", port]
        if port
        else ["--standalone", "--local-addr", "127.0.0.1"]
    )
    # Of these torchrun passes the first on to the ranks; SIGUSR1 is not among its own.
    signals = ["--signals-to-handle", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"]
    logs = ["--log-dir", str(folder.logs / "torchrun")]
    return [
        *("--nnodes", "1", "--nproc-per-node", ranks, *meeting, *signals, *logs, "--max-restarts", "0"),
        *("-m", "medtune.worker", str(folder.path)),
    ]


def launch(folder: RunFolder, arguments: list[str]) -> int:
    """Runs torchrun in this process and gives its exit code; failed ranks are written to EXIT_CODES."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    log_to_file(folder.logs / LOG)
    try:
        run(parse_args(arguments))
    except ChildFailedError as error:
        codes = {str(rank): failure.exitcode for rank, failure in error.failures.items()}
        with suppress(ValueError):  # on a full disk; the launcher then takes this process's code
            write_json(folder.logs / EXIT_CODES, codes)
        return EXIT_FAILED
    except SignalException as end:
        return EXIT_SIGNAL + end.sigval
    return 0


def log_to_file(path: Path) -> None:
    """Sends torchrun's lines to a file: the console is rank zero's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    logging.raiseExceptions = False  # a full disk must not fill the screen with the handlers' tracebacks
    logging.basicConfig(
        filename=path, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for name in ("torch", "torch.distributed"):  # torch gives them handlers to stderr when it is imported
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
