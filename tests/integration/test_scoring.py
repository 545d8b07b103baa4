"""Scoring predictions files for PromptCBLUE from the command line: scores, details, archive, comparison."""

import csv
import json
import lzma
import zipfile
from pathlib import Path

import pytest

from medtune.runtime.errors import ConfigError
from tests.integration.test_bad_input import SMALL, run_here
from tests.integration.test_command_line import medtune
from tests.unit.evaluation.promptcblue_files import GOLD, write_rows

ORACLE = Path(__file__).parents[3] / "shared" / "oracle" / "promptcblue"
ROWS = GOLD["ccks2023"]


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def gold(tmp_path):
    return write_rows(tmp_path / "gold.jsonl", ROWS)


def evaluate(folder, gold, rows, *more, run="run"):
    """Scores rows in this process; returns the run folder."""
    predictions = write_rows(folder / f"{run}.jsonl", rows)
    return run_here(
        "task=evaluate", f"evaluate.predictions={predictions}", f"evaluate.references={gold}",
        f"run_dir={folder}/{run}", *more,
    )  # fmt: skip


@pytest.mark.skipif(not ORACLE.is_dir(), reason=f"the organisers' answers are not at {ORACLE}")
@pytest.mark.parametrize("name", ["chip18__mixture", "ccks16__drop_fifth", "chip18__cmc_malformed"])
def test_the_command_gives_the_official_score(tmp_path, name):
    with lzma.open(ORACLE / "submissions.jsonl.xz", "rt", encoding="utf-8") as lines:
        case = next(case for case in map(json.loads, lines) if case["case"] == name)
    predictions = write_rows(tmp_path / "p.jsonl", case["predictions"])
    protocol = "ccks2023" if name.startswith("ccks") else "chip2023"
    done = medtune(
        "task=evaluate", f"evaluate.protocol={protocol}", f"evaluate.predictions={predictions}",
        f"evaluate.references={ORACLE / case['gold']}", f"run_dir={tmp_path}/run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    scores = read_json(tmp_path / "run" / "scores.json")
    official = case["result"]["score"] if case["result"] else 0
    assert scores["official_score"] == pytest.approx(official, rel=0, abs=1e-9)
    assert f"official score: {official:.4f}" in done.stdout
    assert (tmp_path / "run" / "plots" / "scores_predictions.png").is_file()


def test_a_file_with_faults_is_scored_and_explained(tmp_path, gold, capsys):
    rows = [*ROWS[1:6], '{"target": ', *ROWS[7:], {**ROWS[-1], "sample_id": "[red]z[/red]"}]
    run = evaluate(tmp_path, gold, rows, "evaluate.worst_rows=1")
    scores = read_json(run / "scores.json")
    assert scores["official_score"] == 0
    assert scores["official_error"].startswith("the official parser dies: JSONDecodeError")
    assert "(line 6)" in scores["official_error"]
    assert scores["source"]["missing"]["first"] == [ROWS[0]["sample_id"], ROWS[6]["sample_id"]]
    assert [row["line"] for row in scores["source"]["malformed"]["first"]] == [6]
    assert scores["source"]["unknown"]["first"] == ["[red]z[/red]"]
    assert scores["robust_score"] == pytest.approx(scores["score"])
    assert scores["robust_score"] > 80
    assert set(scores["tasks"]["CMeEE-V2"]) >= {"f1", "precision", "recall", "rows", "parse_failures"}
    assert set(scores["tasks"]["MedDG"]) >= {"rouge_1", "rouge_2", "rouge_l"}
    details = run / "details" / "predictions"
    worst = [json.loads(line) for line in (details / "worst_rows.jsonl").read_text("utf-8").splitlines()]
    assert {row["sample_id"] for row in worst} == {ROWS[0]["sample_id"], ROWS[6]["sample_id"]}
    table = (details / "confusion_KUAKE-IR.csv").read_bytes()
    assert table.startswith(b"\xef\xbb\xbf")
    assert len(list(csv.reader(table.decode("utf-8-sig").splitlines()))) >= 2
    assert len(list((run / "plots").glob("confusion_predictions_*.png"))) == 7
    assert "official score: 0.0000 (the official parser dies" in capsys.readouterr().out


def test_a_test_split_without_answers_becomes_a_submission(tmp_path, capsys):
    withheld = write_rows(tmp_path / "test.jsonl", [{**row, "target": ""} for row in ROWS])
    run = evaluate(tmp_path, withheld, ROWS[::-1], "evaluate.submission=true")
    result = read_json(run / "result.json")
    assert result["status"] == "finished"
    assert "score" not in result
    assert not (run / "scores.json").exists()
    assert "nothing was scored: the responses are withheld" in capsys.readouterr().out
    archive = zipfile.ZipFile(result["submission"])
    assert archive.namelist() == ["test_predictions.json", "post_generate_process.py"]
    lines = archive.read("test_predictions.json").decode().splitlines()
    assert [json.loads(line) for line in lines] == ROWS
    with pytest.raises(
        ValueError, match=f"2 have none: {ROWS[0]['sample_id']}, {ROWS[1]['sample_id']}; leave"
    ):
        evaluate(tmp_path, withheld, ROWS[2:], "evaluate.submission=true", run="holes")


def test_two_runs_are_compared(tmp_path, gold, capsys):
    other = evaluate(tmp_path, gold, [{"target": row["target"]} for row in ROWS], run="other")
    worse = [{**row, "target": "" if n % 2 else row["target"]} for n, row in enumerate(ROWS)]
    run = evaluate(tmp_path, gold, worse, f"evaluate.against={other}", run="run")
    comparison = read_json(run / "comparison.json")
    scores, before = read_json(run / "scores.json"), read_json(other / "scores.json")
    assert comparison["overall"]["difference"] == pytest.approx(scores["score"] - before["score"], abs=1e-9)
    assert comparison["overall"]["high"] < 0
    assert set(comparison["tasks"]) == set(scores["tasks"])
    assert comparison["against"] == str(other / "predictions" / "predictions.jsonl")
    assert (run / "plots" / "comparison_predictions.png").is_file()
    assert "this run against" in capsys.readouterr().out
    holes = write_rows(tmp_path / "holes.jsonl", ROWS[3:])
    with pytest.raises(
        ValueError, match=r"holes\.jsonl cannot be compared: 29 rows; 3 missing \(own-0, own-1, own-2"
    ):
        evaluate(tmp_path, gold, worse, f"evaluate.against={holes}", run="3")
    strange = write_rows(tmp_path / "strange.jsonl", [{**row, "task_dataset": "MedDG"} for row in ROWS])
    with pytest.raises(ValueError, match="30 rows have another task or input than their record"):
        evaluate(tmp_path, gold, worse, f"evaluate.against={strange}", run="4")


WRONG = {
    "protocol": (GOLD["chip2023"], (), r"gold\.jsonl:\d+: unknown .*; evaluate.protocol=chip2023 has it"),
    "unknown_task": ([{**ROWS[0], "task_dataset": "CMeEE"}], (), r"gold\.jsonl:1: .*did you mean CMeEE-V2\?"),
    "some_without_a_task": (
        [ROWS[0], {"input": "a", "target": "b"}], (), r"gold\.jsonl:2: no task_dataset, which 1 other",
    ),
    "withheld": ([{**ROWS[0], "target": ""}], (), "holds no responses to score against"),
    "partly_withheld": ([ROWS[0], {**ROWS[1], "target": ""}], (), r"gold\.jsonl:2: target is empty"),
    "target_a_number": ([ROWS[0], {**ROWS[1], "target": 3}], (), r"gold\.jsonl:2: target is int, not text"),
    "other_data_submitted": (
        [{"input": "a", "target": "b"}], ("evaluate.submission=true",), "submission is for PromptCBLUE",
    ),
    "other_data_compared": (
        [{"input": "a", "target": "b"}], ("evaluate.against=.",), "against is for PromptCBLUE",
    ),
    "nothing_to_compare_with": (ROWS, ("evaluate.against=.",), "no predictions.jsonl in its .*, but nothing"),
}  # fmt: skip


@pytest.mark.parametrize(("references", "more", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_scored_says_why(tmp_path, references, more, message):
    with pytest.raises(ValueError, match=message):
        evaluate(tmp_path, write_rows(tmp_path / "gold.jsonl", references), [{"target": "x"}], *more)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["evaluate.submission=true", "data.max_examples=5"], "needs every row, but data.max_examples=5"),
        (["evaluate.worst_rows=-1"], "evaluate.worst_rows=-1 must be at least 0"),
        (["evaluate.against=nowhere"], "evaluate.against=.*nowhere is not there; it must name a run folder"),
    ],
)
def test_settings_that_cannot_hold_are_refused(tmp_path, gold, more, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(tmp_path, gold, ROWS, *more)


def test_other_data_has_its_worst_rows_too(tmp_path):
    rows = [{"input": f"问{n}", "target": f"答案{n}", "sample_id": f"s{n}"} for n in range(4)]
    gold = write_rows(tmp_path / "gold.jsonl", rows)
    run = evaluate(tmp_path, gold, [*rows[:2], {**rows[2], "target": "错"}, rows[3]])
    lines = (run / "details" / "predictions" / "worst_rows.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"sample_id": "s2", "score": 0, "input": "问2", "gold": "答案2", "prediction": "错"}
    ]


@pytest.mark.slow
def test_a_model_answers_a_test_split_for_a_submission_and_a_scored_one_for_a_comparison(tmp_path, capsys):
    rows = [{**row, "input": f"问题{n}"} for n, row in enumerate(ROWS)]
    write_rows(tmp_path / "dev.jsonl", rows)
    write_rows(tmp_path / "test.jsonl", [{**row, "target": ""} for row in rows])
    arguments = (
        *(argument for argument in SMALL if not argument.startswith(("data.", "trainer.max", "eval."))),
        *("task=evaluate", "data=local", f"data.dir={tmp_path}", "data.splits.dev=dev.jsonl"),
        *("data.splits.test=test.jsonl", "eval.trivial=false", "generate.max_new_tokens=3"),
        *("model=tiny", "model.init=random"),
    )
    run = run_here(*arguments, "generate.split=test", "evaluate.submission=true", f"run_dir={tmp_path}/a")
    result = read_json(run / "result.json")
    assert result["status"] == "finished"
    lines = zipfile.ZipFile(result["submission"]).read("test_predictions.json").decode().splitlines()
    assert [json.loads(line)["sample_id"] for line in lines] == [row["sample_id"] for row in rows]
    assert not (run / "scores.json").exists()
    gold = tmp_path / "dev.jsonl"
    run = run_here(*arguments, "generate.split=dev", f"evaluate.against={gold}", f"run_dir={tmp_path}/b")
    comparison, scores = read_json(run / "comparison.json"), read_json(run / "scores.json")
    assert comparison["split"] == "dev"
    assert comparison["overall"]["score"] == pytest.approx(scores["score"])
    assert comparison["overall"]["against"] == pytest.approx(100)
    assert (run / "details" / "dev" / "worst_rows.jsonl").stat().st_size > 0
