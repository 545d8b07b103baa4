"""A hostile predictions file is scored without running anything, in time and memory that its size bounds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("size", "cpu_seconds", "megabytes"),
    [
        pytest.param(200_000, 30, 500, id="small"),
        # Seen: 213 CPU-seconds and 1,957 MB, on a shared machine.
        pytest.param(10_000_000, 500, 2500, id="10_MB_lines", marks=pytest.mark.slow),
    ],
)
def test_hostile_lines_in_every_task(tmp_path, size, cpu_seconds, megabytes):
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.evaluation.hostile_file", str(size), str(tmp_path)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout)
    assert not figures["executed"]
    assert figures["cpu"] < cpu_seconds
    assert figures["mb"] < megabytes
    for protocol in ("ccks2023", "chip2023"):
        assert figures[protocol]["malformed"] >= 9
        assert figures[protocol]["worst_bytes"] < 3_000_000
        assert figures[protocol]["table_bytes"] < 100_000


def test_combining_marks_in_turns_are_sorted_before_they_are_normalised_and_tokenised_as_before():
    """Python sorts them by insertion, which takes minutes for a few hundred thousand."""
    import random
    import unicodedata

    from medtune.evaluation.promptcblue.rouge import MANY_CHARS, sort_marks, tokenize

    for hostile in ("e" + "\u0301\u0323" * 300_000, "\u0f73" * 300_000):  # the second is two marks each
        tokenize(hostile)
        classes = [unicodedata.combining(char) for char in sort_marks(hostile)]
        assert classes == sorted(classes)
    chance = random.Random(0)
    marks = "\u0301\u0323\u0f73\u302e\U0001d165\u0344"
    runs = ("".join(chance.choices(marks, k=chance.randrange(200))) for _ in range(100))
    text = "".join(chance.choice("eé각甲") + run for run in runs)
    assert len(text) > MANY_CHARS
    assert sort_marks(text) != text
    assert all(unicodedata.normalize(form, sort_marks(text)) == unicodedata.normalize(form, text)
               for form in ("NFC", "NFD"))  # fmt: skip
