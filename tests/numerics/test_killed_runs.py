"""Whole runs, bit for bit: one that is killed again and again ends as the one that never was."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from medtune.training.checkpoints import whole_checkpoints
from medtune.training.metrics import read_metrics

ROOT = Path(__file__).parents[2]
# Two sources, packed, with dropout and accumulation, over several epochs; a checkpoint every third step, and
# one after each validation that is among the best.
SETTINGS = (
    "data=mix", "data.sequence_length=256", "data.micro_batch_size=2", "data.global_batch_size=4",
    "data.max_examples=60", "data.sources.sample.weight=2",
    "data.sources.sample_corpus.weight=1", "data.mix_stop=first",
    "model.hidden_size=32", "model.intermediate_size=64", "model.num_hidden_layers=1",
    "model.num_attention_heads=2", "model=tiny_llama", "model.architecture={attention_dropout:0.2}",
    "trainer.accelerator=cpu", "trainer.progress=none", "trainer.max_steps=36", "trainer.log_every_n_steps=1",
    "trainer.val_every_n_steps=5", "trainer.val_max_rows=4", "optim.lr=5e-3", "eval.after_fit=false",
    "checkpoint.every_n_steps=3", "checkpoint.keep_last=2", "checkpoint.keep_best=1",
)  # fmt: skip
LONGEST_WAIT = 90.0


class KillServer:
    """A process that starts runs by forking; see ``kill_server.py``."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests/numerics/kill_server.py"), *SETTINGS],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT,
        )  # fmt: skip
        assert self.answer() == "ready"

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def start(self, run_dir: Path, **overrides: Any) -> int:
        """Starts a run, or goes on with it; gives its process id."""
        changes = {"run_dir": str(run_dir), "resume": "auto"}
        changes |= {name.replace("__", "."): value for name, value in overrides.items()}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(changes) + "\n")
        self.process.stdin.flush()
        return int(self.answer())

    def wait(self) -> int:
        """The exit code of the run that was started; negative: the signal that ended it."""
        return int(self.answer())

    def close(self) -> None:
        with self.process:
            assert self.process.stdin is not None
            self.process.stdin.close()


@pytest.fixture(scope="module")
def server() -> Any:
    server = KillServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def whole(server: KillServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The run that nothing disturbed, and how long it took when its tokens lay ready."""
    folder = tmp_path_factory.mktemp("whole")
    for name in ("prepared", "run"):
        start = time.monotonic()
        server.start(folder / name, data__cache_dir=str(folder / "cache"))
        assert server.wait() == 0, log_of(folder / name)
    return folder / "run", time.monotonic() - start


def log_of(run_dir: Path) -> str:
    return run_dir.with_name(f"{run_dir.name}.log").read_text()[-4000:]


def column(run_dir: Path, name: str) -> dict[int, float]:
    """A column of the metrics by step; a step that was written twice fails."""
    kind = "val/loss" if name.startswith("val/") else "train/loss"
    lines = [line for line in read_metrics(run_dir / "metrics.jsonl") if kind in line and name in line]
    assert len({line["step"] for line in lines}) == len(lines)
    return {line["step"]: line[name] for line in lines}


def partial(run_dir: Path) -> bool:
    """Whether a checkpoint is being written, or was when the process was killed."""
    return any(run_dir.glob("checkpoints/.*.partial"))


def wait_until(happened: Callable[[], bool], pid: int) -> None:
    """Returns when something has happened in a run, or the run has ended."""
    deadline = time.monotonic() + LONGEST_WAIT
    while not happened() and Path(f"/proc/{pid}/cmdline").read_bytes():  # empty: it waits to be read
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def last_step(run_dir: Path) -> int:
    """The last step that the metrics tell of."""
    return max((line["step"] for line in read_metrics_so_far(run_dir / "metrics.jsonl")), default=0)


def kill_until_done(
    server: KillServer, run_dir: Path, cache: Path, seconds: float, draw: random.Random, kills: int
) -> Counter[str]:
    """Kills and resumes a run, at most so often, until it ends by itself; says where the kills hit."""
    hits: Counter[str] = Counter()
    while True:
        # A checkpoint is written the one or the other way.
        asynchronous = draw.random() < 0.5
        aim = draw.choices(["start", "step", "write"], [1, 4, 4])[0]
        target = last_step(run_dir) + draw.randint(0, 5)
        if aim == "write" and partial(run_dir):  # of the last kill
            aim = "step"
        delay = draw.uniform(0, {"start": 0.4 * seconds, "step": 0.03, "write": 0.006}[aim])
        pid = server.start(run_dir, data__cache_dir=str(cache), checkpoint__asynchronous=asynchronous)
        if hits.total() < kills:
            if aim == "write":
                wait_until(lambda: partial(run_dir), pid)
            elif aim == "step":
                wait_until(lambda target=target: last_step(run_dir) >= target, pid)
            time.sleep(delay)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        code = server.wait()
        if code == 0:
            return hits
        assert code == -signal.SIGKILL, log_of(run_dir)
        hits[where(run_dir)] += 1


def where(run_dir: Path) -> str:
    """What a run that was killed was about, by what it left."""
    if partial(run_dir):
        return "in a checkpoint"
    metrics = run_dir / "metrics.jsonl"
    steps = [line["step"] for line in read_metrics_so_far(metrics)]
    saved = [checkpoint.global_step for checkpoint in whole_checkpoints(run_dir / "checkpoints")]
    if not steps:
        return "before the first step"
    return "between two checkpoints" if max(steps) > max(saved, default=0) else "at a checkpoint's step"


def read_metrics_so_far(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file, whose last one may be cut off."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def check_equal(run_dir: Path, whole: Path) -> None:
    """Every step's losses, the last state to the bit, exported weights, the best; nothing left over."""
    names = ("train/loss", "train/loss/sample", "train/loss/sample_corpus", "train/lr", "train/grad_norm")
    for name in (*names, "train/tokens", "val/loss"):
        assert column(run_dir, name) == column(whole, name) != {}, name
    kept = [[c.global_step for c in whole_checkpoints(path / "checkpoints")] for path in (run_dir, whole)]
    assert kept[0] == kept[1]
    last = [path / "checkpoints" / f"step-{kept[0][-1]}" for path in (run_dir, whole)]
    states = [torch.load(path / "state", weights_only=True) for path in last]
    assert_bit_equal(states[0]["state_dict"], states[1]["state_dict"])
    assert_bit_equal(states[0]["optimizer_states"], states[1]["optimizer_states"])
    weights = [(path / "model" / "model.safetensors").read_bytes() for path in (run_dir, whole)]
    assert weights[0] == weights[1]
    best = [os.readlink(path / "checkpoints" / "best") for path in (run_dir, whole)]
    assert best[0] == best[1]
    left = [path.name for place in (run_dir, run_dir / "checkpoints") for path in place.glob(".*")]
    assert left == []


def assert_bit_equal(found: Any, expected: Any) -> None:
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_bit_equal(found[key], value)
    elif isinstance(expected, list):
        for one, other in zip(found, expected, strict=True):
            assert_bit_equal(one, other)
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("kills", "per_run"),
    [
        pytest.param(6, 6, id="6_kills"),
        pytest.param(40, 10, id="40_kills", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_killed_anywhere_ends_as_if_it_were_not(server, whole, tmp_path, kills, per_run):
    reference, seconds = whole
    seed = random.SystemRandom().randrange(10**6) if kills > 6 else 0
    print(f"seed {seed}, a whole run takes {seconds:.1f} s")
    draw, hits, runs = random.Random(seed), Counter[str](), 0
    while hits.total() < kills:
        run_dir = tmp_path / str(runs)
        hits += kill_until_done(
            server, run_dir, reference.parent / "cache", seconds, draw, min(per_run, kills - hits.total())
        )
        check_equal(run_dir, reference)
        runs += 1
    print(f"{runs} runs, {hits.total()} kills: {dict(hits)}")
    assert hits["in a checkpoint"] >= kills // 10
    assert hits["between two checkpoints"] >= kills // 10


def without_times(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of the metrics but for what a clock says."""
    return [
        {name: value for name, value in line.items() if "second" not in name}
        for line in read_metrics(run_dir / "metrics.jsonl")
    ]


def test_two_deterministic_runs_are_equal_bit_for_bit(server, whole, tmp_path):
    cache = str(whole[0].parent / "cache")
    runs = [tmp_path / name for name in ("one", "other")]
    for run_dir in runs:
        server.start(run_dir, threads=2, data__cache_dir=cache, deterministic=True, trainer__max_steps=4)
        assert server.wait() == 0, log_of(run_dir)
    assert without_times(runs[0]) == without_times(runs[1])
    states = [torch.load(run_dir / "checkpoints/step-4/state", weights_only=True) for run_dir in runs]
    assert_bit_equal(states[0]["state_dict"], states[1]["state_dict"])
    assert_bit_equal(states[0]["optimizer_states"], states[1]["optimizer_states"])
    assert (runs[0] / "model/model.safetensors").read_bytes() == (
        runs[1] / "model/model.safetensors"
    ).read_bytes()
