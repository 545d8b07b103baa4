"""Preparations that are killed, or run at the same time: the cache holds a whole store or none."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medtune.data.tokens.store import damage_of

PROJECT = Path(__file__).parents[2]
MARK = "MEDTUNE_TEST_OF_KILLS"
CHILD = """
import logging, sys
from pathlib import Path

def main():
    from transformers import PreTrainedTokenizerFast
    from medtune.config.schema import SourceConfig, TemplateConfig
    from medtune.data.tokens.prepare import TokenizerSource, prepare_split

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    def load():
        file = "data/sample/tokenizer/tokenizer.json"
        return PreTrainedTokenizerFast(tokenizer_file=file, eos_token="</s>")
    files = {"train": "train.json.gz"}
    source = SourceConfig(name="sample", dir="data/sample", splits=files, max_examples=12_000)
    tokenizer = TokenizerSource("sample", load)
    prepare_split(source, "train", TemplateConfig(), tokenizer, Path(sys.argv[1]), workers=int(sys.argv[2]))

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def start(tmp_path):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    started = []

    def run(cache, workers=2):
        process = subprocess.Popen(
            [sys.executable, script, cache, str(workers)],
            cwd=PROJECT,
            env={**os.environ, "PYTHONPATH": str(PROJECT), MARK: str(tmp_path)},
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def finish(process):
    _, log = process.communicate(timeout=120)
    assert process.returncode == 0, log
    return log


def stores(cache):
    return [entry for entry in cache.glob("*") if entry.is_dir() and not entry.name.startswith(".")]


def content(cache):
    (folder,) = stores(cache)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def still_running(mark):
    """Processes that were started with ``mark`` in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{MARK}={mark}\0".encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def wait_until(condition, seconds=20.0):
    due = time.monotonic() + seconds
    while not condition() and time.monotonic() < due:
        time.sleep(0.01)
    return condition()


def prepared(start, cache):
    """The content of an undisturbed store, and the seconds that its writing took."""
    process = start(cache)
    assert wait_until(lambda: [*cache.glob(".*.tmp")])
    began = time.monotonic()
    assert wait_until(lambda: stores(cache))
    seconds = time.monotonic() - began
    finish(process)
    return content(cache), seconds


@pytest.mark.parametrize(
    "kills", [pytest.param(2, id="2"), pytest.param(10, id="10", marks=pytest.mark.slow)]
)
def test_killed_at_any_moment_and_run_again_it_is_the_same_store(tmp_path, start, kills):
    whole, seconds = prepared(start, tmp_path / "whole")
    drawn, cache = random.Random(kills), tmp_path / "cache"
    halves = 0
    for number in range(kills):
        process = start(cache)
        assert wait_until(lambda: [*cache.glob(".*.tmp")] or stores(cache))
        time.sleep(seconds * (number + drawn.random()) / kills)  # a moment in each part of the writing
        process.send_signal(signal.SIGKILL)
        process.wait()
        halves += len([*cache.glob(".*.tmp")])
        assert all(damage_of(folder) is None for folder in stores(cache))
        assert wait_until(lambda: not still_running(tmp_path)), "workers outlive their parent"
        for done in stores(cache):
            for file in done.iterdir():
                file.unlink()
            done.rmdir()
    assert halves, "no kill came while a store was being written"
    finish(start(cache))
    assert content(cache) == whole
    assert sorted(entry.name for entry in cache.iterdir() if entry.is_dir()) == [stores(cache)[0].name]


def test_a_script_without_a_guard_does_not_begin_anew_in_its_workers(tmp_path, start):
    script = tmp_path / "child.py"
    script.write_text(script.read_text().replace('if __name__ == "__main__":\n    main()', "main()"))
    log = finish(start(tmp_path / "cache"))
    assert log.count("tokenising train of sample: not prepared before") == 1
    assert len(stores(tmp_path / "cache")) == 1


def test_of_two_at_once_one_prepares_and_the_other_waits(tmp_path, start):
    first, second = start(tmp_path / "cache", 1), start(tmp_path / "cache", 1)
    logs = sorted([finish(first), finish(second)], key=len)
    assert [log.count("tokenising train of sample: not prepared before") for log in logs] in ([0, 1], [1, 0])
    assert sum(log.count("read from the cache") for log in logs) == 1
    assert len(stores(tmp_path / "cache")) == 1
