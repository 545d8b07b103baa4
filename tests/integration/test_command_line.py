"""``python -m medtune`` as a user runs it, in processes of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "lightning", "transformers", "peft", "deepspeed")


def medtune(
    *arguments: str, cwd: Path = REPOSITORY, python: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *python, "-m", "medtune", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param(["--help"], 0, id="help"),
        pytest.param(["--help", "optim"], 0, id="help_of_a_group"),
        pytest.param(["--version"], 0, id="version"),
        pytest.param(["--cfg", "job"], 0, id="composed_settings"),
        pytest.param(["optim.lrr=1", "quantization=nf4"], 2, id="refused"),
        pytest.param(["strategy=zero3", "strategy.stagee=1", "trainer.extra.x=1"], 2, id="refused_open_node"),
    ],
)
def test_nothing_heavy_is_imported_before_a_run_is_accepted(tmp_path, arguments, code):
    done = medtune(*arguments, cwd=tmp_path, python=("-X", "importtime"))
    assert done.returncode == code
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert imported.isdisjoint(HEAVY)
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_composed_settings_are_yaml():
    done = medtune(
        "--cfg", "job", "--resolve", "optim.lr=1e-3", "strategy=zero3", "strategy.overlap_comm=true"
    )
    settings = yaml.safe_load(done.stdout)
    assert settings["optim"]["lr"] == 0.001
    assert settings["strategy"]["overlap_comm"] is True
    assert settings["data"]["dir"] == str(REPOSITORY / "data" / "sample")


def test_help_of_what_is_not_there():
    done = medtune("--help", "optm")
    assert done.returncode == 2
    assert done.stderr.startswith("there is no group or key optm; did you mean --help optim?")


@pytest.fixture
def records(tmp_path):
    """A data set of a dozen pairs, in a folder beside which the commands are typed."""
    (tmp_path / "own").mkdir()
    lines = [json.dumps({"instruct": "回答", "query": f"问题{i}", "answer": "是"}) for i in range(12)]
    (tmp_path / "own" / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return [
        *("task=prepare", "data=local", "data.dir=own", "data.format=pair", "data.splits.train=a.jsonl"),
        *("data.sequence_length=64", "data.cache_dir=cache"),
    ]


@pytest.mark.slow
def test_a_run_from_another_folder(tmp_path, records):
    done = medtune(*records, "run_dir=run", "optim.lr=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[:2] == [
        "warning: optim.lr has no effect: task=prepare does not use it",
        "run folder: run",
    ]
    assert done.stderr.splitlines()[-1] == "done: run"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "own", "run"]


def test_a_sweep_goes_on_after_trials_that_fail_or_are_refused(tmp_path, records):
    (tmp_path / "own" / "broken.jsonl").write_text('{"instruct": "x"\n', encoding="utf-8")
    done = medtune(
        "-m", *records, "++data.splits.train=none.jsonl,broken.jsonl,a.jsonl", "run_dir=s", cwd=tmp_path
    )
    assert done.returncode == 1
    names = [f"{i}-data.splits.train={name}.jsonl" for i, name in enumerate(("none", "broken", "a"))]
    assert (tmp_path / "s" / "sweep.txt").read_text(encoding="utf-8").splitlines() == [
        "trial  data.splits.train  status    train_loss  val_loss  score  folder",
        f"0      none.jsonl         refused   -           -         -      {names[0]}",
        f"1      broken.jsonl       failed    -           -         -      {names[1]}",
        f"2      a.jsonl            finished  -           -         -      {names[2]}",
    ]
    # The failure: its cause on the screen, the traceback in the rank's log.
    broken = tmp_path / "s" / names[1]
    assert f"medtune: the run failed: {tmp_path / 'own' / 'broken.jsonl'}:1" in done.stderr
    assert f"(rank 0; the traceback is in {Path('s', names[1], 'logs', 'rank-0.log')})" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" in (broken / "logs" / "rank-0.log").read_text(encoding="utf-8")
    assert json.loads((broken / "result.json").read_text(encoding="utf-8"))["status"] == "failed"
    # The one that ran, from a folder that is not the repository.
    settings = yaml.safe_load((tmp_path / "s" / names[2] / "config.yaml").read_text(encoding="utf-8"))
    assert settings["data"]["dir"] == str(tmp_path / "own")
    assert (settings["group"], settings["trainer"]["devices"]) == ("s", 1)
    assert (tmp_path / "s" / names[2] / "data_report.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "own", "s"]


SLEEPER = """
import time
import lightning.pytorch as L

class Sleeper(L.Callback):
    def __init__(self, seconds: float):
        self.seconds = seconds

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        time.sleep(self.seconds if batch_idx else 0)
"""


def processes_of(run_dir: Path) -> dict[int, str]:
    """Command lines by process id, of those that name a run folder."""
    shown = subprocess.run(
        ["ps", "-ewwo", "pid,stat,args"], capture_output=True, text=True, check=True
    ).stdout
    lines = [line.split(maxsplit=2) for line in shown.splitlines() if str(run_dir) in line]
    return {int(pid): args for pid, stat, args in lines if not stat.startswith("Z")}


def start_two_ranks(tmp_path, seconds):
    """A run of two ranks after its first step; each further one takes ``seconds``."""
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    small = ["hidden_size=32", "intermediate_size=32", "num_hidden_layers=1", "num_attention_heads=2"]
    command = [
        *(sys.executable, "-m", "medtune", f"run_dir={tmp_path / 'run'}", f"data.cache_dir={tmp_path}"),
        *(f"model.{key}" for key in small),
        *("data.max_examples=60", "data.micro_batch_size=2", "data.global_batch_size=4"),
        *("trainer.accelerator=cpu", "trainer.devices=2", "trainer.log_every_n_steps=1"),
        *("callbacks.sleeper._target_=sleeper.Sleeper", f"callbacks.sleeper.seconds={seconds}"),
    ]
    env = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{tmp_path}", "CUDA_VISIBLE_DEVICES": ""}
    launcher = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 100
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        assert time.monotonic() < deadline
        assert launcher.poll() is None, launcher.communicate()[1]
        time.sleep(0.1)
    return launcher


@pytest.fixture
def two_ranks(tmp_path):
    """A run of two ranks in the midst of its second step, which does not end."""
    launcher = start_two_ranks(tmp_path, 1000)
    yield launcher
    launcher.kill()


def settled(run_dir: Path) -> dict[int, str]:
    """The run's processes a little later: the system takes its time to end them."""
    deadline = time.monotonic() + 10
    while processes_of(run_dir) and time.monotonic() < deadline:
        time.sleep(0.1)
    return processes_of(run_dir)


def test_a_second_signal_kills_every_process(two_ranks, tmp_path):
    commands = [args for args in processes_of(tmp_path / "run").values() if " -m medtune." in args]
    assert len(commands) == 3, "torchrun and two ranks"
    two_ranks.send_signal(signal.SIGINT)
    time.sleep(1)
    assert two_ranks.poll() is None
    two_ranks.send_signal(signal.SIGINT)
    _, shown = two_ranks.communicate(timeout=60)
    assert two_ranks.returncode == 130
    assert "killed; what was written before stays\n" in shown
    assert settled(tmp_path / "run") == {}


@pytest.mark.slow
def test_a_schedulers_warning_saves_the_state_of_all_ranks(tmp_path):
    """SIGUSR1 to the launcher, which passes it on to torchrun, and that to the ranks."""
    launcher = start_two_ranks(tmp_path, 0.3)
    launcher.send_signal(signal.SIGUSR1)
    _, shown = launcher.communicate(timeout=100)
    assert launcher.returncode == 128 + signal.SIGUSR1
    assert "SIGUSR1: stopping after this step\n" in shown
    assert "continue with: python -m medtune run_dir=run resume=auto" in shown
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    mark = json.loads((checkpoint / "checkpoint.json").read_text(encoding="utf-8"))
    assert mark["world_size"] == 2
    assert mark["global_step"] < 15, "the run went to its end"
    assert {path.name for path in checkpoint.glob("rng-*")} == {"rng-0.pt", "rng-1.pt"}
    assert json.loads((tmp_path / "run" / "result.json").read_text())["signal_number"] == signal.SIGUSR1
    assert settled(tmp_path / "run") == {}


@pytest.mark.slow
def test_a_rank_that_is_killed_is_named(two_ranks, tmp_path):
    last = max(pid for pid, args in processes_of(tmp_path / "run").items() if "medtune.worker" in args)
    os.kill(last, signal.SIGKILL)
    _, shown = two_ranks.communicate(timeout=100)
    assert two_ranks.returncode == 1
    assert "medtune: the run failed: rank 1 was killed (SIGKILL), as by a machine that is out of" in shown
    assert "Traceback" not in shown
    assert settled(tmp_path / "run") == {}
