"""Invented gold records of both protocols, and predictions files made from them."""

import json
from pathlib import Path

from medtune.evaluation.promptcblue import PROTOCOLS
from medtune.evaluation.promptcblue.file_scores import score_lines
from medtune.evaluation.promptcblue.predictions_file import read_predictions
from medtune.evaluation.promptcblue.records import read_references

FIXTURES = Path(__file__).parents[2] / "fixtures" / "promptcblue"
RECORDS = [json.loads(line) for line in (FIXTURES / "records.jsonl").read_text(encoding="utf-8").splitlines()]
GOLD = {
    name: [record for record in RECORDS if protocol.find_task(record["task_dataset"])]
    for name, protocol in PROTOCOLS.items()
}


def write_rows(path, rows):
    """Writes records, and strings as they are, one a line."""
    lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def score_file(path, protocol="ccks2023", gold=None):
    rules = PROTOCOLS[protocol]
    references = read_references(GOLD[protocol] if gold is None else gold, rules)
    return score_lines(references, read_predictions(path), rules)
