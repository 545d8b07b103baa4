"""Ranks are real processes here: short Python programs in the worker's place."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from medtune.launch import processes
from medtune.launch.processes import free_port, own_environment, rank_environments, run_ranks

REPOSITORY = Path(__file__).resolve().parents[3]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


def test_each_rank_knows_its_place():
    code = """
    import os, sys
    assert os.environ["WORLD_SIZE"] == "3"
    assert os.environ["LOCAL_RANK"] == os.environ["RANK"]
    sys.exit(10 + int(os.environ["RANK"]) * (os.environ["MASTER_PORT"] == "12345"))
    """
    environments = rank_environments(own_environment(), world_size=3, port=12345)
    # Every rank fails here; each is heard with its own code or with the signal that ended it.
    codes, received = run_ranks(python(code), environments)
    assert received is None
    assert all(code in (10 + rank, -signal.SIGTERM) for rank, code in enumerate(codes))


def test_a_run_ends_when_all_ranks_have():
    codes, received = run_ranks(python("pass"), rank_environments(own_environment(), 2, free_port()))
    assert (codes, received) == ([0, 0], None)


def test_the_others_end_when_one_fails():
    code = """
    import os, sys, time
    if os.environ["RANK"] == "1":
        sys.exit(3)
    time.sleep(60)
    """
    started = time.monotonic()
    codes, _ = run_ranks(python(code), rank_environments(own_environment(), 2, free_port()))
    assert codes == [-signal.SIGTERM, 3]
    assert time.monotonic() - started < 30


def test_a_rank_that_ignores_the_end_is_killed(monkeypatch):
    monkeypatch.setattr(processes, "CLEANUP_SECONDS", 0.5)
    code = """
    import os, signal, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.environ["RANK"] == "1":
        time.sleep(1)
        sys.exit(3)
    time.sleep(60)
    """
    codes, _ = run_ranks(python(code), rank_environments(own_environment(), 2, free_port()))
    assert codes == [-signal.SIGKILL, 3]


# A launcher that a test can send signals to; its rank notes each signal that it gets.
LAUNCHER = """
import sys
from medtune.launch.processes import run_ranks, own_environment
from medtune.launch import processes
processes.GRACE_SECONDS = float(sys.argv[1])
rank = '''
import pathlib, signal, sys, time
notes = pathlib.Path(sys.argv[1])
def note(number, frame):
    with notes.open("a") as file:
        file.write(f"{number} ")
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, note)
notes.write_text("ready ")
until = time.monotonic() + float(sys.argv[2])
while time.monotonic() < until and (sys.argv[3] == "stubborn" or len(notes.read_text()) < 7):
    time.sleep(0.02)
sys.exit(5)
'''
codes, received = run_ranks([sys.executable, "-c", rank, *sys.argv[2:]], [own_environment()])
print(codes, received)
"""


def launch(notes: Path, *, grace: float = 30, manner: str = "polite") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", LAUNCHER, str(grace), str(notes), "30", manner]
    launcher = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 30
    while not (notes.exists() and notes.read_text().startswith("ready ")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return launcher


@pytest.mark.parametrize(
    ("sent", "heard"),
    [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGTERM), (signal.SIGHUP, signal.SIGTERM)],
)
def test_a_signal_reaches_the_rank_once(tmp_path, sent, heard):
    """Sent to the launcher's whole group, as a terminal does."""
    launcher = launch(tmp_path / "notes")
    os.killpg(launcher.pid, sent)
    out, err = launcher.communicate(timeout=30)
    assert (tmp_path / "notes").read_text() == f"ready {int(heard)} "
    assert out.strip() == f"[5] {int(sent)}"
    assert err == f"{sent.name}: stopping within 30 s; once more kills\n"


def test_a_second_signal_kills(tmp_path):
    launcher = launch(tmp_path / "notes", manner="stubborn")
    launcher.send_signal(signal.SIGINT)
    time.sleep(0.5)
    launcher.send_signal(signal.SIGINT)
    out, _ = launcher.communicate(timeout=30)
    assert out.strip() == "[-9] 2"


def test_grace_ends(tmp_path):
    launcher = launch(tmp_path / "notes", grace=0.5, manner="stubborn")
    launcher.send_signal(signal.SIGTERM)
    out, _ = launcher.communicate(timeout=30)
    assert out.strip() == "[-9] 15"


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux tells a child of its parent's death"
)
def test_a_launcher_that_is_killed_leaves_no_rank_behind(tmp_path):
    launcher = launch(tmp_path / "notes")
    launcher.kill()
    launcher.communicate(timeout=30)
    deadline = time.monotonic() + 30
    while (tmp_path / "notes").read_text() != f"ready {int(signal.SIGTERM)} ":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_variables_of_an_outer_rank_are_not_inherited(monkeypatch):
    monkeypatch.setenv("RANK", "7")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("SOMETHING_ELSE", "kept")
    environment = own_environment()
    assert {"RANK", "WORLD_SIZE"}.isdisjoint(environment)
    assert environment["SOMETHING_ELSE"] == "kept"
