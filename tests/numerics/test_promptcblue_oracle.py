"""PromptCBLUE against the organisers' own scripts: figures that these made."""

import json
import lzma
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import pytest

from medtune.config.schema import Config
from medtune.evaluation.promptcblue import score_predictions, score_submission
from medtune.evaluation.promptcblue.errors import FatalRowError
from medtune.evaluation.promptcblue.file_scores import score_lines
from medtune.evaluation.promptcblue.metrics import measure, score_extraction, score_labels
from medtune.evaluation.promptcblue.parsing import parse_answer
from medtune.evaluation.promptcblue.predictions_file import read_predictions
from medtune.evaluation.promptcblue.protocols import CCKS2023, CHIP2023
from medtune.evaluation.promptcblue.rouge import score_texts
from medtune.evaluation.promptcblue.standalone import assemble_parser
from medtune.evaluation.promptcblue.submission import parse_records
from medtune.evaluation.promptcblue.trees import compare_trees, score_trees
from medtune.tasks import scoring
from medtune.tasks.details import read_gold_answers

FIXTURES = Path(__file__).parents[1] / "fixtures" / "promptcblue"
SHARED = Path(__file__).parents[3] / "shared"
ORACLE = SHARED / "oracle" / "promptcblue"  # answers on real sentences, which are not ours to keep
TOY = SHARED / "data" / "promptcblue_toy"
needs_oracle = pytest.mark.skipif(not ORACLE.is_dir(), reason=f"the organisers' answers are not at {ORACLE}")
PROTOCOLS = {"ccks16": CCKS2023, "chip18": CHIP2023}
TOLERANCE = 1e-9
OUR_NAMES = {
    "rougeL": "rouge_l",
    "rouge1": "rouge_1",
    "rouge2": "rouge_2",
    "tree_lenv_radio": "tree_lenv_ratio",
}


def read_lines(path):
    opener = lzma.open if path.suffix == ".xz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def read_gold(name):
    return read_lines(ORACLE / f"gold_{name}.jsonl")


SUBMISSIONS = read_lines(ORACLE / "submissions.jsonl.xz") if ORACLE.is_dir() else []


def sort_terms(structured):
    """CHIP-CDN's order is a set's in the official script; every other order counts."""
    for row in structured["CHIP-CDN"]:
        row["answer"].sort(key=lambda term: term["entity"])
    return structured


def parse_case(case):
    protocol = PROTOCOLS[case["protocol"]]
    try:
        answer = parse_answer(
            case["target"], protocol.find_task(case["task_dataset"]), case["answer_choices"], protocol
        )
    except FatalRowError as error:
        return {"error": error.exception}
    return {"answer": answer}


@needs_oracle
def test_every_text_is_read_as_the_official_parser_reads_it():
    cases = read_lines(ORACLE / "parser_cases.jsonl.xz")
    assert len(cases) == 1351
    wrong = [
        (case["task_dataset"], case["target"], found)
        for case in cases
        if (found := parse_case(case)) != {key: case[key] for key in ("answer", "error") if key in case}
    ]
    assert wrong[:3] == []


def score_reports(gold, predicted):
    figures = measure(CCKS2023.find_task("IMCS-V2-MRG"), gold, predicted)
    return figures["rouge_1"], figures["rouge_2"], figures["rouge_l"]


def measure_case(case):
    gold, predicted = case["gold"], case["pred"]
    if case["metric"] == "text2dt_single_tree":
        return astuple(compare_trees(predicted, gold))
    gold, predicted = ([row["answer"] for row in rows] for rows in (gold, predicted))
    if case["metric"] == "classification":
        return score_labels(gold, predicted, case["labels_first"], case["macro"])
    metrics = {
        "info_extract": score_extraction,
        "nlg": score_texts,
        "nlg_by_sessions": score_reports,
        "text2dt": score_trees,
    }
    return metrics[case["metric"]](gold, predicted)


@pytest.mark.parametrize(
    ("folder", "count"),
    [pytest.param(FIXTURES, 150, id="invented"), pytest.param(ORACLE, 291, id="all", marks=needs_oracle)],
)
def test_every_metric_call_gives_the_official_figures(folder, count):
    cases = read_lines(folder / "metric_cases.jsonl.xz")
    assert len(cases) == count
    wrong = [
        (case["metric"], found, case["value"])
        for case in cases
        if (found := measure_case(case)) != pytest.approx(case["value"], rel=0, abs=TOLERANCE)
    ]
    assert wrong[:3] == []


@pytest.mark.parametrize("case", [pytest.param(row, id=row["case"]) for row in SUBMISSIONS])
def test_a_whole_submission_gets_the_official_answer(case):
    protocol = PROTOCOLS[case["protocol"]]
    gold = read_lines(ORACLE / case["gold"])
    result = score_submission(gold, case["predictions"], protocol.name)
    official = case["result"]
    if official is None:
        assert result.score == 0
        assert f"the official parser dies: {case['post_error'].split(':')[0]}" in result.error
        return
    assert parse_records(case["predictions"], protocol) == sort_terms(case["structured"])
    assert result.score == pytest.approx(official["score"], rel=0, abs=TOLERANCE)
    assert result.report == pytest.approx(official["scoreJson"], rel=0, abs=TOLERANCE)
    assert (result.error is None) == official["success"]
    if result.error:
        assert official["errorMsg"] in result.error
    for task, figures in (case["per_task"] or {}).items():
        if task != "Overall":
            expected = {
                OUR_NAMES.get(key, key.removeprefix("macro-")): figure for key, figure in figures.items()
            }
            assert result.details[task] == pytest.approx(expected, rel=0, abs=TOLERANCE)


ALIGNED = [
    pytest.param(row, id=row["case"])
    for row in SUBMISSIONS
    if len(row["predictions"]) == len(read_lines(ORACLE / row["gold"])) and row["name"] != "no_sample_id"
]


@pytest.mark.parametrize("case", ALIGNED)
def test_predictions_beside_their_records_score_as_the_submission_does(case):
    gold = read_lines(ORACLE / case["gold"])
    order = {row["sample_id"]: row["target"] for row in case["predictions"]}
    scores = score_predictions(
        gold, [order[row["sample_id"]] for row in gold], PROTOCOLS[case["protocol"]].name
    )
    official = case["result"] or {"score": 0}
    assert scores.official_score == pytest.approx(official["score"], rel=0, abs=TOLERANCE)


@needs_oracle
@pytest.mark.parametrize(
    ("name", "perfect", "empty"),
    [("ccks16", 99.9999999375, 18.5451), ("chip18", 99.99999994444444, 17.8734)],
    ids=["ccks2023", "chip2023"],
)
def test_gold_and_empty_files_score_as_officially(name, perfect, empty):
    gold, protocol = read_gold(name), PROTOCOLS[name]
    structured = json.loads((ORACLE / f"gold_{name}_structured.json").read_text(encoding="utf-8"))
    assert parse_records(gold, protocol) == sort_terms(structured)
    scores = score_predictions(gold, [row["target"] for row in gold], protocol.name)
    assert scores.official_score == pytest.approx(perfect, rel=0, abs=TOLERANCE)
    assert scores.score == scores.robust_score == scores.official_score
    assert [task.parse_failures for task in scores.tasks.values()] == [()] * len(protocol.tasks)
    nothing = score_predictions(gold, [""] * len(gold), protocol.name)
    assert nothing.official_score == pytest.approx(empty, rel=0, abs=5e-5)  # the facts give four digits


@pytest.mark.skipif(not TOY.is_dir(), reason=f"the organisers' toy dev set is not at {TOY}")
def test_the_real_toy_dev_set_scores_as_officially():
    records = read_lines(TOY / "dev.json")
    assert parse_records(records, CCKS2023) == sort_terms(
        json.loads((TOY / "dev_structured.json").read_text(encoding="utf-8"))
    )
    scores = score_predictions(records, [record["target"] for record in records])
    assert scores.official_score == pytest.approx(99.9999999375, rel=0, abs=TOLERANCE)


@pytest.mark.parametrize("case", [pytest.param(row, id=row["case"]) for row in SUBMISSIONS])
def test_a_predictions_file_gets_the_official_score(tmp_path, case):
    """What ``task=evaluate`` does, from the two files to the content of scores.json."""
    config = Config(task="evaluate")
    config.evaluate.references = str(ORACLE / case["gold"])
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in case["predictions"])
    (tmp_path / "p.jsonl").write_text("".join(lines), encoding="utf-8")
    protocol = PROTOCOLS[case["protocol"]]
    references = read_gold_answers(scoring.read_gold(config)[0], protocol)
    scores = score_lines(references, read_predictions(tmp_path / "p.jsonl"), protocol).scores.to_dict()
    official = case["result"] or {"score": 0, "success": False}
    assert scores["official_score"] == pytest.approx(official["score"], rel=0, abs=TOLERANCE)
    assert (scores["official_error"] is None) == official["success"]
    expected = score_submission(read_lines(ORACLE / case["gold"]), case["predictions"], protocol.name)
    assert scores["official_score"] == pytest.approx(expected.score, rel=0, abs=TOLERANCE)
    assert scores["robust_score"] >= scores["official_score"] - TOLERANCE
    for task, figures in (case["per_task"] or {}).items() if official["success"] else ():
        if task != "Overall":
            found = scores["tasks"][task]
            names = {OUR_NAMES.get(key, key.removeprefix("macro-")): key for key in figures}
            assert {name: found[name] for name in names} == pytest.approx(
                {name: 100 * figures[key] for name, key in names.items()}, rel=0, abs=100 * TOLERANCE
            )


@pytest.mark.parametrize("case", [pytest.param(row, id=row["case"]) for row in SUBMISSIONS])
def test_the_parser_in_a_submission_reads_as_the_official_one(tmp_path, case):
    """Where that one dies, ours answers the row with nothing and reads the others."""
    protocol = PROTOCOLS[case["protocol"]]
    (tmp_path / "post_generate_process.py").write_text(assemble_parser(protocol.name), encoding="utf-8")
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in case["predictions"])
    (tmp_path / "test_predictions.json").write_text("".join(lines), encoding="utf-8")
    command = ["-I", "-S", "post_generate_process.py", "test_predictions.json", "results.json"]
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    if case["post_error"]:
        assert case["post_error"].split(":")[0] in done.stderr
        assert {task: len(rows) for task, rows in results.items()} == {
            task.name: sum(row["task_dataset"] == task.name for row in case["predictions"])
            for task in protocol.tasks
        }
        return
    assert results == sort_terms(case["structured"])
    assert done.stderr == ""
