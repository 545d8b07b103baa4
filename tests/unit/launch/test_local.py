import sys
from pathlib import Path

import pytest

from medtune.config.schema import Config, LauncherConfig, TrainerConfig
from medtune.launch.elastic import EXIT_CODES
from medtune.launch.local import exit_codes, run_locally, worker_command, worker_environment
from medtune.runtime.hardware import cpu_cores
from medtune.runtime.record import RunFolder, write_json


@pytest.mark.parametrize(
    ("typed", "world_size", "threads"),
    [
        pytest.param(None, 1, None, id="one_process_has_all_cores"),
        pytest.param(None, 2, str(max(1, cpu_cores() // 2)), id="shared"),
        pytest.param(None, 10_000, "1", id="never_none"),
        pytest.param("3", 2, "3", id="the_users_own"),
    ],
)
def test_ranks_share_the_cores(monkeypatch, typed, world_size, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if typed:
        monkeypatch.setenv("OMP_NUM_THREADS", typed)
    assert worker_environment(Config(), world_size).get("OMP_NUM_THREADS") == threads


@pytest.mark.parametrize(("accelerator", "seen"), [("cpu", ""), ("cuda", "0,1")])
def test_a_cpu_run_sees_no_gpu(monkeypatch, accelerator, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    config = Config(trainer=TrainerConfig(accelerator=accelerator))
    assert worker_environment(config, 1)["CUDA_VISIBLE_DEVICES"] == seen


def test_a_server_gives_freed_tensors_back_unless_told_otherwise(monkeypatch):
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    assert worker_environment(Config(task="serve"), 1)["MALLOC_MMAP_THRESHOLD_"] == "1048576"
    assert "MALLOC_MMAP_THRESHOLD_" not in worker_environment(Config(), 1)
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    assert worker_environment(Config(task="serve"), 1)["MALLOC_MMAP_THRESHOLD_"] == "65536"


@pytest.mark.parametrize(
    ("devices", "port", "command"),
    [
        pytest.param(1, None, ["medtune.worker", "/run"], id="one"),
        pytest.param(1, 5000, ["medtune.worker", "/run"], id="one_meets_nobody"),
        pytest.param(3, None, ["medtune.launch.elastic", "/run", "3"], id="several"),
        pytest.param(3, 5000, ["medtune.launch.elastic", "/run", "3", "5000"], id="several_at_a_port"),
    ],
)
def test_one_process_is_started(devices, port, command):
    config = Config(launcher=LauncherConfig(master_port=port))
    assert worker_command(config, RunFolder(Path("/run")), devices) == [sys.executable, "-m", *command]


def test_exit_codes_are_told_in_the_order_in_which_ranks_failed(tmp_path):
    folder = RunFolder(tmp_path)
    assert exit_codes(folder, 3) == {0: 3}
    write_json(folder.logs / EXIT_CODES, {"2": -9, "0": 1})
    assert list(exit_codes(folder, 1).items()) == [(2, -9), (0, 1)]
    assert exit_codes(folder, 0) == {0: 0}


def test_variables_of_an_outer_rank_are_not_inherited(monkeypatch):
    monkeypatch.setenv("RANK", "7")
    monkeypatch.setenv("MEDTUNE_PARENT", "1")
    monkeypatch.setenv("SOMETHING_ELSE", "kept")
    environment = worker_environment(Config(), 1)
    assert {"RANK", "MEDTUNE_PARENT"}.isdisjoint(environment)
    assert environment["SOMETHING_ELSE"] == "kept"


def test_torchrun_waits_for_a_checkpoint_before_it_kills():
    assert worker_environment(Config(), 2)["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "60"


PROGRAM = """
import os, signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
os.kill(os.getppid(), signal.SIGINT)
time.sleep(30)
"""


@pytest.mark.parametrize(
    ("task", "shown", "received"),
    [
        pytest.param("chat", "", None, id="ctrl_c_ends_a_conversation"),
        pytest.param("train", "SIGINT: stopping within 60 s; once more kills\n", 2, id="else_it_interrupts"),
    ],
)
def test_ctrl_c(monkeypatch, capsys, tmp_path, task, shown, received):
    """A program in Python's place sends its launcher the signal, and ends well when it gets it back."""
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\n{PROGRAM}")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    assert run_locally(Config(task=task), RunFolder(tmp_path)) == ({0: 0}, received)
    assert capsys.readouterr().err == shown
