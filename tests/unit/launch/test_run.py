import pytest

from medtune.launch.outcome import FAILED, FINISHED, Outcome
from medtune.launch.run import record
from medtune.runtime.record import RunFolder, read_json, write_json


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path)
    write_json(folder.result_file, {"train_loss": 1.0})
    return folder


@pytest.mark.parametrize(
    ("outcome", "result"),
    [
        pytest.param(Outcome(FINISHED, 0), {"train_loss": 1.0}, id="finished"),
        pytest.param(
            Outcome(FAILED, 1, "why"),
            {"train_loss": 1.0, "status": "failed", "message": "why"},
            id="failed",
        ),
        pytest.param(Outcome(FAILED, 1), {"train_loss": 1.0, "status": "failed"}, id="without_a_cause"),
    ],
)
def test_a_bad_end_is_added_to_the_result(folder, outcome, result):
    record(outcome, folder)
    assert read_json(folder.result_file) == result


def test_on_a_full_disk_it_is_said_that_the_result_could_not_be_written(folder, full_disk, capsys):
    with full_disk(5):
        record(Outcome(FAILED, 1, "why"), folder)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"medtune: cannot write {folder.result_file}: File too large (")
    assert read_json(folder.result_file) == {"train_loss": 1.0}
