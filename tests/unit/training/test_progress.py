from pathlib import Path

import pytest

from medtune.training.metrics import Metrics
from medtune.training.progress import Bar, Lines, build_progress, describe, format_seconds
from tests.numerics.toy import ToyData


@pytest.fixture
def metrics():
    return Metrics(Path("metrics.jsonl"), every_n_steps=1, plan=ToyData([[]], 1).step_plan)


@pytest.mark.parametrize(
    ("seconds", "text"), [(5.9, "0:05"), (65, "1:05"), (3661, "1:01:01")], ids=["s", "min", "h"]
)
def test_durations_read_well(seconds, text):
    assert format_seconds(seconds) == text


def test_before_the_first_line_only_the_time_is_told(metrics):
    assert describe(metrics, step=2, total_steps=12, seconds_per_step=3.0) == "0:30 left"


def test_the_newest_figures_are_told(metrics):
    metrics.last = {"train/loss": 1.23456, "train/learned_tokens_per_second": 4321.9}
    metrics.last_validation = {"val/loss": 2.0}
    text = describe(metrics, step=12, total_steps=12, seconds_per_step=3.0)
    assert text == "loss 1.2346 · 4,322 learned tokens/s · val 2.0000 · 0:00 left"
    metrics.last_evaluation = {"eval/score": 51.234}
    assert "val 2.0000 · score 51.23 · " in describe(metrics, 12, 12, 3.0)


@pytest.mark.parametrize(
    ("kind", "classes"),
    [("none", []), ("lines", [Lines]), ("bar", [Bar]), ("auto", [Lines])],
    ids=["none", "lines", "bar", "auto_without_a_terminal"],
)
def test_kinds(kind, classes, metrics):
    assert [type(callback) for callback in build_progress(kind, metrics)] == classes
