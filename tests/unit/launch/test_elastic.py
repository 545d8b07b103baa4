"""torchrun is the real one here, and so are the ranks, which fail before they import anything heavy."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from medtune.launch.elastic import torchrun_arguments
from medtune.runtime.record import RunFolder

REPOSITORY = Path(__file__).resolve().parents[3]


def elastic(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "medtune.launch.elastic", str(folder), "2", *more],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("port", "meeting"),
    [
        pytest.param(None, ["--standalone", "--local-addr", "127.0.0.1"], id="any_port"),
        pytest.param("5000", ["--master-addr", "127.0.0.1", "--master-port", "5000"], id="a_port"),
    ],
)
def test_torchruns_command_line(port, meeting):
    arguments = torchrun_arguments(RunFolder(Path("/run")), "3", port)
    assert arguments[:4] == ["--nnodes", "1", "--nproc-per-node", "3"]
    assert arguments[4 : 4 + len(meeting)] == meeting
    assert arguments[-3:] == ["-m", "medtune.worker", "/run"]
    assert "SIGUSR1" in arguments[arguments.index("--signals-to-handle") + 1]


def test_ranks_that_fail_are_written_down_and_the_screen_stays_clean(tmp_path):
    (tmp_path / "config.yaml").write_text("optim:\n  lrr: 1\n")
    done = elastic(tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    codes = json.loads((tmp_path / "logs" / "exit-codes.json").read_text())
    # The other rank may be ended before it has failed by itself.
    assert 2 in codes.values()
    assert set(codes.values()) <= {2, -15}
    causes = [json.loads(file.read_text()) for file in (tmp_path / "logs").glob("error-*.json")]
    assert {cause["type"] for cause in causes} == {"ConfigError"}
    assert "failed (exitcode: 2)" in (tmp_path / "logs" / "torchrun.log").read_text()


def test_ranks_that_fail_on_a_full_disk_show_the_cause_on_the_screen(tmp_path, full_disk):
    (tmp_path / "config.yaml").write_text("optim:\n  lrr: 1\n")
    with full_disk(16):  # enough for the trial files of tempfile
        done = elastic(tmp_path)
    assert done.returncode == 1
    assert list((tmp_path / "logs").glob("*.json")) == []
    # The other rank may be ended before it has failed by itself.
    assert {line.replace("rank 1", "rank 0") for line in done.stderr.splitlines()} == {
        "medtune: rank 0: optim.lrr=1: there is no key optim.lrr; did you mean optim.lr?"
    }


def test_torchrun_itself_may_fail(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = elastic(tmp_path, str(taken.getsockname()[1]))
    assert (done.returncode, done.stdout) == (1, "")
    cause = json.loads((tmp_path / "logs" / "error-torchrun.json").read_text())
    assert cause["rank"] is None
    assert "EADDRINUSE" in cause["message"]
    assert "Traceback" in (tmp_path / "logs" / "torchrun.log").read_text()
