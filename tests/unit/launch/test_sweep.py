import pytest

from medtune.launch.outcome import FAILED, FINISHED, INTERRUPTED, REFUSED, Outcome
from medtune.launch.sweep import Sweep
from medtune.runtime.record import read_json, write_json


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Sweep(tmp_path / "sweep-1", ["optim.lr", "strategy.stage"])


def add(sweep: Sweep, overrides: list[str], outcome: Outcome, **result) -> None:
    settings = sweep.settings_of(overrides)
    folder = sweep.folder_of(settings)
    if result:
        write_json(folder / "result.json", result)
    sweep.add(settings, folder, outcome)


def test_the_table(sweep, capsys):
    add(
        sweep,
        ["seed=1", "optim.lr=1e-05"],
        Outcome(FINISHED, 0),
        train_loss=1.23456,
        val_loss=2.0,
        score=50.0,
    )
    add(sweep, ["optim.lr='0'", "++strategy.stage=2"], Outcome(REFUSED, 2, "why"))
    add(sweep, ["optim.lr=1"], Outcome(FAILED, 1), status="failed", train_loss=3.5)
    sweep.tell()
    text = (
        "trial  optim.lr  strategy.stage  status    train_loss  val_loss  score    folder\n"
        "0      1e-05                     finished  1.2346      2.0000    50.0000  0-optim.lr=1e-05\n"
        "1      0         2               refused   -           -         -        "
        "1-optim.lr=0,strategy.stage=2\n"
        "2      1                         failed    3.5000      -         -        2-optim.lr=1\n"
    )
    assert (sweep.folder / "sweep.txt").read_text() == text
    assert capsys.readouterr().err == f"{text}sweep: sweep-1\n"
    assert (sweep.folder / "sweep.csv").read_text().splitlines()[2] == (
        '1,0,2,refused,-,-,-,"1-optim.lr=0,strategy.stage=2"'
    )


def test_a_refused_trial_is_recorded_in_its_folder(sweep):
    add(sweep, ["optim.lr=0"], Outcome(REFUSED, 2, "why"))
    assert read_json(sweep.folder / "0-optim.lr=0" / "result.json") == {"status": "refused", "message": "why"}


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        pytest.param([Outcome(FINISHED, 0)], 0, id="all_finished"),
        pytest.param([Outcome(REFUSED, 2), Outcome(FINISHED, 0)], 1, id="one_refused"),
        pytest.param([Outcome(FAILED, 1), Outcome(INTERRUPTED, 130)], 130, id="interrupted"),
    ],
)
def test_the_exit_code(sweep, outcomes, code):
    for outcome in outcomes:
        add(sweep, [], outcome)
    assert sweep.code == code


def test_a_long_or_slashed_value_makes_a_folder_name(sweep):
    folder = sweep.folder_of({"model.path": "a/b" * 200})
    assert folder.parent == sweep.folder
    assert len(folder.name) < 120


def test_on_a_full_disk_the_table_is_shown_all_the_same(sweep, full_disk, capsys):
    with full_disk(0):
        add(sweep, ["optim.lr=0"], Outcome(REFUSED, 2, "why"))
        sweep.tell()
    shown = capsys.readouterr().err.splitlines()
    assert shown[0].startswith(
        f"medtune: cannot write {sweep.folder}/0-optim.lr=0/result.json: File too large"
    )
    assert shown[1].startswith(f"medtune: cannot write {sweep.folder}/sweep.txt: File too large")
    assert shown[3].split() == ["0", "0", "refused", "-", "-", "-", "0-optim.lr=0"]


def test_a_table_that_could_not_be_written_is_no_success(sweep, full_disk, capsys):
    add(sweep, [], Outcome(FINISHED, 0), train_loss=1.0)
    with full_disk(0):
        sweep.tell()
    assert sweep.code == 1
    assert capsys.readouterr().err.endswith("sweep: sweep-1\n")
