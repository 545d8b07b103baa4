"""Eight processes answer a file of prompts; two are killed and started again; one process answers it too."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from medtune.generation.parts import Share, part_path, read_part

ROOT = Path(__file__).resolve().parents[2]
SHARES, ROWS = 8, 84  # shares of 11 and of 10 rows
KILLED = (3, 8)


class Server:
    """Starts runs by forking; see ``kill_server.py``."""

    def __init__(self, folder: Path, settings: list[str]) -> None:
        self.folder = folder
        self.runs = 0
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests/numerics/kill_server.py"), *settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            cwd=ROOT,
        )
        assert self.answer() == "ready"

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def start(self, **overrides: Any) -> int:
        """Starts a run in a folder of its own; gives its process id."""
        self.runs += 1
        changes = {f"generate.{key}": str(value) if isinstance(value, Path) else value
                   for key, value in overrides.items()}  # fmt: skip
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"run_dir": str(self.run_dir), **changes}) + "\n")
        self.process.stdin.flush()
        return int(self.answer())

    def run(self, **overrides: Any) -> str:
        """Runs to the end; gives what it wrote, with its exit code in front."""
        self.start(**overrides)
        code = self.answer()
        return f"exit code {code}\n" + Path(f"{self.run_dir}.log").read_text(encoding="utf-8")

    @property
    def run_dir(self) -> Path:
        return self.folder / f"run-{self.runs}"

    @property
    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run_dir / "result.json").read_text(encoding="utf-8"))
        return found


@pytest.fixture(scope="module")
def server(tmp_path_factory, make_tiny_llama, tiny_tokenizer):
    folder = tmp_path_factory.mktemp("shards")
    # Larger weights, so that rounding in other batches cannot change a token.
    make_tiny_llama(scale=4.0).save_pretrained(folder / "model")
    tiny_tokenizer.save_pretrained(folder / "model")
    prompts = [f"患者{row % 20}头痛" + "发热" * (row % 7) for row in range(ROWS)]  # most come several times
    (folder / "prompts.txt").write_text("\n".join(prompts) + "\n", encoding="utf-8")
    settings = [
        *("task=generate", "model=local", f"model.path={folder}/model", "template=plain"),
        *("trainer.accelerator=cpu", f"generate.input={folder}/prompts.txt", "generate.max_new_tokens=40"),
    ]
    server = Server(folder, settings)
    yield server
    with server.process:
        server.process.stdin.close()


def run_and_kill(server: Server, output: Path, number: int, **settings: Any) -> None:
    """Starts a share and ends its process without warning in the middle of its rows."""
    part = part_path(output, Share(number, SHARES), 0)
    process = server.start(output=output, shard=f"{number}/{SHARES}", batch_tokens=1, **settings)
    deadline = time.monotonic() + 60
    while not (part.exists() and part.read_bytes().count(b"\n") >= 4):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(process, signal.SIGKILL)
    assert int(server.answer()) == -signal.SIGKILL
    assert 3 <= len(read_part(part).answers) < 10
    with part.open("ab") as file:  # as when it is killed within a write
        file.write(b'{"row": 2, "output": {"inp')


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_eight_shards_two_of_them_killed_merge_into_the_file_of_one_process(server, temperature):
    whole = server.folder / f"whole-{temperature}.jsonl"
    assert server.run(output=whole, temperature=temperature).startswith("exit code 0")
    output = server.folder / f"shards-{temperature}" / "answers.jsonl"
    for number in range(1, SHARES + 1):
        if number in KILLED:
            run_and_kill(server, output, number, temperature=temperature)
        else:
            shown = server.run(output=output, shard=f"{number}/{SHARES}", temperature=temperature)
            assert shown.startswith("exit code 0")
    assert not output.exists()
    shown = server.run(output=output, merge_shards=SHARES)
    assert shown.startswith("exit code 1")
    assert "share 3/8 lacks" in shown
    assert "run generate.shard=8/8 again" in shown
    for number in KILLED:
        shown = server.run(output=output, shard=f"{number}/{SHARES}", temperature=temperature)
        assert shown.startswith("exit code 0")
        assert 0 < server.result["answered_now"] < len(Share(number, SHARES).rows(ROWS))
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(output.parent.iterdir()) == [output]
    assert server.result["rows"] == ROWS
    assert len(whole.read_text(encoding="utf-8").splitlines()) == ROWS


def test_one_process_goes_on_too_and_mixes_nothing(server):
    whole, output = (server.folder / f"{name}.jsonl" for name in ("uncut", "cut"))
    server.run(output=whole, stop=[7])
    process = server.start(output=output, stop=[7], batch_tokens=1)
    part = part_path(output, Share(), 0)
    while not (part.exists() and part.read_bytes().count(b"\n") >= 20):
        time.sleep(0.001)
    os.kill(process, signal.SIGKILL)
    server.answer()
    there = len(read_part(part).answers)
    before = part.read_bytes()
    shown = server.run(output=output, stop=[7], max_new_tokens=39)
    assert shown.startswith("exit code 1")
    assert "holds answers of another run" in shown
    assert "generate.max_new_tokens=39 (40 there). Repeat" in shown
    assert part.read_bytes() == before
    shown = server.run(output=output, stop=[7])
    assert shown.startswith("exit code 0")
    assert server.result["answered_now"] == ROWS - there
    assert output.read_bytes() == whole.read_bytes()
    assert not part.exists()
