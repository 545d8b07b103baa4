import json

import pytest

from medtune.training.metrics import Metrics, Stopwatch, forget_lines_after, read_metrics


def test_lines_of_steps_that_are_taken_again_are_dropped(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps({"step": step}) + "\n" for step in (5, 10, 15)) + '{"step": 2')
    forget_lines_after(file, 10)
    assert read_metrics(file) == [{"step": 5}, {"step": 10}]


def test_nothing_is_made_of_a_file_that_is_not_there(tmp_path):
    forget_lines_after(tmp_path / "metrics.jsonl", 10)
    assert list(tmp_path.iterdir()) == []


def test_pauses_do_not_count(monkeypatch):
    times = iter([0.0, 3.0, 10.0, 12.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    watch = Stopwatch()
    with watch.paused():
        pass
    assert watch.lap() == 5.0


def test_the_recent_loss_weighs_the_last_two_lines_by_their_tokens(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl", every_n_steps=10, steps_per_epoch=10)
    assert metrics.recent_loss is None
    for line in [(900.0, 10), (6.0, 30), (4.0, 2)]:
        metrics._recent.append(line)
    assert metrics.recent_loss == pytest.approx(10 / 32)
