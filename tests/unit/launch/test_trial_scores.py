import json

import pytest

from medtune.launch.outcome import FAILED, FINISHED, Outcome
from medtune.launch.sweep import Sweep
from medtune.launch.trial_scores import collect_scores, draw, label_of
from medtune.runtime.record import read_json, write_json


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Sweep(tmp_path / "sweep-1", ["objective", "optim.lr"])


DONE = Outcome(FINISHED, 0)


def add(sweep, overrides, splits=None, outcome=DONE):
    settings = sweep.settings_of(overrides)
    folder = sweep.folder_of(settings)
    write_json(folder / "result.json", {"status": outcome.status})
    if splits is not None:
        entries = {
            split: {"model": {"score": score, "tasks": {name: {"score": one} for name, one in tasks.items()}}}
            for split, (score, tasks) in splits.items()
        }
        write_json(folder / "scores.json", {"split": next(iter(splits)), "splits": entries})
    sweep.add(settings, folder, outcome)


def test_two_trials_task_by_task(sweep, capsys):
    add(sweep, ["objective=pretrain"], {"test": (30.0, {"MedDG": 10.0, "CHIP-STS": 50.0}), "dev": (1.0, {})})
    add(sweep, ["objective=sft"], {"test": (35.5, {"MedDG": 8.0, "KUAKE-IR": 63.0})})
    sweep.tell()
    rows = [
        "task      all-token (pretrain)  masked (sft)  difference",
        "MedDG     10.00                 8.00          -2.00",
        "CHIP-STS  50.00                 -             -",
        "KUAKE-IR  -                     63.00         -",
        "overall   30.00                 35.50         +5.50",
    ]
    shown = capsys.readouterr().err.splitlines()
    assert shown[-7:-1] == ["Scores on test (0-100), task by task:", *rows]
    assert shown[-1] == "sweep: sweep-1"
    assert (sweep.folder / "tasks.csv").read_text().splitlines()[1] == "MedDG,10.00,8.00,-2.00"
    markdown = (sweep.folder / "tasks.md").read_text().splitlines()
    assert markdown[2:5] == [
        "| task | all-token (pretrain) | masked (sft) | difference |",
        "| --- | ---: | ---: | ---: |",
        "| MedDG | 10.00 | 8.00 | -2.00 |",
    ]
    assert read_json(sweep.folder / "tasks.json")["trials"][1] == {
        "label": "masked (sft)",
        "folder": "1-objective=sft",
        "tasks": {"MedDG": 8.0, "KUAKE-IR": 63.0},
        "overall": 35.5,
    }
    assert (sweep.folder / "tasks.png").read_bytes().startswith(b"\x89PNG")


def test_of_several_trials_each_is_compared_to_the_first_that_was_scored(sweep, capsys, monkeypatch):
    monkeypatch.setattr("medtune.launch.sweep.draw", lambda table, picture: "no such program")
    add(sweep, ["optim.lr=1"], outcome=Outcome(FAILED, 1))
    for number, score in ((2, 20.0), (3, 30.0), (4, 10.0)):
        add(sweep, ["objective=sft", f"optim.lr={number}"], {"test": (score, {"MedDG": score})})
    add(sweep, ["optim.lr=5"], {"dev": (50.0, {"MedDG": 50.0})})  # of another split
    sweep.tell()
    shown = capsys.readouterr().err.splitlines()
    first, second, third = (f"objective=sft, optim.lr={number}" for number in (2, 3, 4))
    heading = next(line for line in shown if line.startswith("task "))
    assert heading == "  ".join(
        ["task   ", first, second, third, f"{second} - {first}", f"{third} - {first}"]
    )
    assert shown[-3].split() == ["overall", "20.00", "30.00", "10.00", "+10.00", "-10.00"]
    assert shown[-2] == "medtune: no picture of it: no such program"


def test_a_sweep_with_less_than_two_scored_trials_has_no_such_table(sweep, capsys):
    add(sweep, ["objective=pretrain"], {"test": (30.0, {"MedDG": 10.0})})
    add(sweep, ["objective=sft"])
    sweep.tell()
    assert "task by task" not in capsys.readouterr().err
    assert not list(sweep.folder.glob("tasks.*"))


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"split": "test", "splits": {"test": {}}})])
def test_scores_of_another_form_are_passed_over(tmp_path, text):
    (tmp_path / "scores.json").write_text(text)
    assert collect_scores([({}, tmp_path)]) == ("", [])


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({"objective": "sft"}, "masked (sft)"),
        ({"objective": "sft", "seed": "1"}, "objective=sft, seed=1"),
        ({"optim.lr": "1"}, "optim.lr=1"),
        ({}, "as configured"),
    ],
    ids=str,
)
def test_labels(settings, label):
    assert label_of(settings) == label


def test_a_picture_that_cannot_be_drawn_says_why(tmp_path):
    assert "No such file" in draw(tmp_path / "absent.json", tmp_path / "picture.png")
