"""The child is a real process here: a short Python program in the worker's place."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medtune.launch.processes import run_child

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        pytest.param("pass", 0, id="well"),
        pytest.param("import sys; sys.exit(3)", 3, id="with_a_code"),
        pytest.param("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, id="by_a_signal"),
    ],
)
def test_a_run_ends_as_its_process_does(code, ended):
    assert run_child([sys.executable, "-c", code], os.environ) == (ended, None)


def test_signals_are_given_back():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    run_child([sys.executable, "-c", ""], os.environ)
    after = [signal.getsignal(number) for number in numbers]
    assert after == before


# A launcher that a test can send signals to; its child notes each signal that it gets.
LAUNCHER = """
import os, sys
from medtune.launch import processes
processes.GRACE_SECONDS = float(sys.argv[1])
child = '''
import pathlib, signal, sys, time
notes = pathlib.Path(sys.argv[1])
def note(number, frame):
    with notes.open("a") as file:
        file.write(f"{number} ")
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, note)
notes.write_text("ready ")
until = time.monotonic() + float(sys.argv[2])
while time.monotonic() < until and (sys.argv[3] == "stubborn" or len(notes.read_text()) < 7):
    time.sleep(0.02)
sys.exit(5)
'''
print(*processes.run_child([sys.executable, "-c", child, *sys.argv[2:]], os.environ))
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


def test_a_conversation_hears_every_ctrl_c_and_nothing_is_killed():
    """A child that ends well by itself at the third."""
    code = """
import os, signal, sys, time
heard = []
signal.signal(signal.SIGINT, lambda *_: heard.append(1))
for times in (1, 2, 3):
    os.kill(os.getppid(), signal.SIGINT)
    while len(heard) < times:
        time.sleep(0.01)
"""
    assert run_child([sys.executable, "-c", code], os.environ, is_conversation=True) == (0, None)


@pytest.mark.parametrize(
    ("sent", "heard"),
    [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGTERM), (signal.SIGHUP, signal.SIGTERM)],
)
def test_a_signal_reaches_the_child_once(tmp_path, sent, heard):
    """Sent to the launcher's whole group, as a terminal does."""
    launcher = launch(tmp_path / "notes")
    os.killpg(launcher.pid, sent)
    out, err = launcher.communicate(timeout=30)
    assert (tmp_path / "notes").read_text() == f"ready {int(heard)} "
    assert out.strip() == f"5 {int(sent)}"
    assert err == f"{sent.name}: stopping within 30 s; once more kills\n"


def test_a_warning_has_no_deadline_and_the_end_that_it_warned_of_does_not_kill(tmp_path):
    """SLURM's SIGUSR1, a checkpoint that takes long, and SIGTERM at the limit."""
    launcher = launch(tmp_path / "notes", grace=1.0, manner="stubborn")
    launcher.send_signal(signal.SIGUSR1)
    time.sleep(1.5)
    assert launcher.poll() is None
    launcher.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert launcher.poll() is None
    assert (tmp_path / "notes").read_text() == f"ready {int(signal.SIGUSR1)} "
    out, err = launcher.communicate(timeout=30)
    assert out.strip() == f"-9 {int(signal.SIGUSR1)}"
    assert err == "SIGUSR1: stopping after this step\n"


def test_a_second_signal_kills(tmp_path):
    launcher = launch(tmp_path / "notes", manner="stubborn")
    launcher.send_signal(signal.SIGINT)
    time.sleep(0.5)
    launcher.send_signal(signal.SIGINT)
    out, _ = launcher.communicate(timeout=30)
    assert out.strip() == "-9 2"


def test_grace_ends(tmp_path):
    launcher = launch(tmp_path / "notes", grace=0.5, manner="stubborn")
    launcher.send_signal(signal.SIGTERM)
    out, _ = launcher.communicate(timeout=30)
    assert out.strip() == "-9 15"


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux tells a child of its parent's death"
)
def test_a_launcher_that_is_killed_leaves_no_child_behind(tmp_path):
    launcher = launch(tmp_path / "notes")
    launcher.kill()
    launcher.communicate(timeout=30)
    deadline = time.monotonic() + 30
    while (tmp_path / "notes").read_text() != f"ready {int(signal.SIGTERM)} ":
        assert time.monotonic() < deadline
        time.sleep(0.02)
