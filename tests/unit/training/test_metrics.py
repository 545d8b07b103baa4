import json

import pytest
import torch

from medtune.runtime.record import RunFolder
from medtune.training.fit import fit
from medtune.training.metrics import Metrics, Stopwatch, forget_lines_after, name_rows, read_metrics
from medtune.training.modules import SeenRows
from tests.numerics.toy import ToyData, make_documents, tiny_model, toy_config


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
    metrics = Metrics(tmp_path / "metrics.jsonl", every_n_steps=10, plan=ToyData([[]], 1).step_plan)
    assert metrics.recent_loss is None
    for line in [(900.0, 10), (6.0, 30), (4.0, 2)]:
        metrics._recent.append(line)
    assert metrics.recent_loss == pytest.approx(10 / 32)


@pytest.mark.parametrize(
    ("rows", "described", "text"),
    [
        pytest.param([3, 1, -1], False, "rows [3, 1]", id="numbers"),
        pytest.param([3, -1], True, "rows [3] (row 3: a.jsonl:23)", id="examples_of_the_epoch"),
        pytest.param(
            [0, 1, 2, 3, 4],
            True,
            "rows [0, 1, 2, 3, 4] (row 0: a.jsonl:20; row 1: a.jsonl:21; row 2: a.jsonl:22; "
            "row 3: a.jsonl:23; ...)",
            id="no_endless_message",
        ),
    ],
)
def test_rows_are_named_with_their_examples(rows, described, text):
    seen = SeenRows(1, 2, rows, torch.tensor(0.0))
    assert name_rows(seen, (lambda epoch, row: f"a.jsonl:{epoch}{row}") if described else None) == text


def test_the_epoch_column_follows_uneven_epochs(tmp_path):
    rows = [[document] for document in make_documents(4)]
    config = toy_config(tmp_path, data__global_batch_size=2, trainer__max_steps=4)
    data = ToyData(rows, 2, sizes=[2, 4])
    fit(config, data, RunFolder(tmp_path), build_model=tiny_model, export=False)
    assert [line["epoch"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1.0, 1.5, 2.0, 3.0]
