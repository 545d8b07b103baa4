"""Scoring a PromptCBLUE predictions file of the test set's size, and comparing two of them.

The rows are made here: each task's grammar and number of rows, answers of the length of real ones, invented
words. A prediction is the gold answer, one with a part taken from another row, or a text without form.
"""

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.report import FOLDER, Figure, report, run_child

MODULE = "benchmarks.bench_score"
ROWS = {"CHIP-CTC": 1060, "IMCS-V2-DAC": 800, "KUAKE-QIC": 660}  # of test A; every other task has 600
OTHER_ROWS = 600
WORDS = [
    "头痛",
    "发热",
    "左下肢水肿",
    "慢性支气管炎",
    "阿司匹林肠溶片",
    "血常规",
    "持续两周",
    "夜间加重",
    "上腹部",
]
LABELS = [f"类别{number}" for number in range(43)]
FOLDER_OF_ROWS = FOLDER / "score"


def main() -> None:
    make_files()
    scored, compared = (run_child(MODULE, part) for part in ("score", "compare"))
    report(
        "score",
        [
            Figure("rows", scored["rows"], "rows"),
            Figure("official and robust score", scored["cpu_seconds"], "CPU-s", budget=20.0),
            Figure(
                "  the same of a file out of order", scored["unordered_cpu_seconds"], "CPU-s", budget=20.0
            ),
            Figure("  peak memory", scored["peak_mb"], "MB"),
            Figure(
                "comparison of two files, resampling alone", compared["cpu_seconds"], "CPU-s", budget=20.0
            ),
        ],
    )


def make_files() -> None:
    """Writes gold records and two predictions files."""
    from medtune.evaluation.promptcblue import PROTOCOLS

    chance = random.Random(0)
    golds = []
    for task in PROTOCOLS["ccks2023"].tasks:
        for number in range(ROWS.get(task.name, OTHER_ROWS)):
            choices, target = MAKERS[task.grammar](chance)
            golds.append({
                "input": "问" * 200, "target": target, "answer_choices": choices, "task_type": "x",
                "task_dataset": task.name, "sample_id": f"test-{task.name}-{number}",
            })  # fmt: skip
    chance.shuffle(golds)
    FOLDER_OF_ROWS.mkdir(parents=True, exist_ok=True)
    write_rows("gold", golds)
    for name in ("first", "second"):
        write_rows(name, [{**gold, "target": predict(gold, golds, chance)} for gold in golds])


def write_rows(name: str, rows: list[dict[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (FOLDER_OF_ROWS / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def predict(gold: dict[str, Any], golds: list[dict[str, Any]], chance: random.Random) -> str:
    """The gold answer, a mixture with another row's, or a sentence."""
    kind, target = chance.random(), str(gold["target"])
    if kind < 0.5:
        return target
    other = str(chance.choice(golds)["target"])
    return target[: len(target) // 2] + other[len(other) // 2 :] if kind < 0.9 else words(chance, 30)


def words(chance: random.Random, most: int) -> str:
    return "".join(chance.choices(WORDS, k=chance.randint(1, most)))


def make_entities(chance: random.Random) -> tuple[list[str], str]:
    choices = chance.sample(["疾病", "药物", "症状", "身体部位", "医疗程序", "检验"], chance.randint(1, 6))
    lines = [
        f"{choice}实体：{'，'.join(words(chance, 3) for _ in range(chance.randint(0, 4)))}"
        for choice in choices
    ]
    return choices, "\n".join(["上述句子中的实体包含：", *lines])


def make_triples(chance: random.Random) -> tuple[list[str], str]:
    choices = chance.sample(["病因", "药物治疗", "辅助检查", "临床表现"], chance.randint(1, 4))
    pair = "头实体为{}，尾实体为{}。"
    return choices, "\n".join(
        f"具有{choice}关系的头尾实体对如下："
        + "".join(pair.format(words(chance, 2), words(chance, 2)) for _ in range(chance.randint(0, 3)))
        for choice in choices
    )


def make_terms(chance: random.Random) -> tuple[list[str], str]:
    choices = sorted({words(chance, 3) for _ in range(chance.randint(2, 14))})
    return choices, "，".join(chance.sample(choices, chance.randint(1, min(2, len(choices)))))


def make_events(chance: random.Random) -> tuple[None, str]:
    event = "主体词：{}；发生状态：；描述词：{}，{}；解剖部位：{}"
    lines = [event.format(*(words(chance, 2) for _ in range(4))) for _ in range(chance.randint(1, 5))]
    return None, "\n".join(["上述句子中的临床发现事件如下：", *lines])


def make_findings(chance: random.Random) -> tuple[list[str], str]:
    choices = ["没有患有该症状", "患有该症状", "无法根据上下文确定病人是否患有该症状"]
    lines = [f"{words(chance, 2)}：{chance.choice(choices)}" for _ in range(chance.randint(1, 6))]
    return choices, "\n".join(["当前对话中的症状及其阴阳性判断为：", *lines])


def make_label(chance: random.Random) -> tuple[list[str], str]:
    choices = chance.sample(LABELS, 8)
    return choices, chance.choice(choices)


def make_same_or_not(chance: random.Random) -> tuple[list[str], str]:
    return ["是的", "不是"], chance.choice(["是的", "不是"])


def make_report(chance: random.Random) -> tuple[None, str]:
    sections = ("主诉", "现病史", "辅助检查", "既往史", "诊断", "建议")
    return None, "\n".join(
        ["上述问诊对话的诊疗报告如下：", *(f"{name}：{words(chance, 12)}。" for name in sections)]
    )


def make_text(chance: random.Random) -> tuple[None, str]:
    return None, f"{words(chance, 10)}，{words(chance, 5)}。"


MAKERS: dict[str, Callable[[random.Random], tuple[list[str] | None, str]]] = {
    "entities": make_entities,
    "triples": make_triples,
    "normalization": make_terms,
    "events": make_events,
    "findings": make_findings,
    "label": make_label,
    "same_or_not": make_same_or_not,
    "report": make_report,
    "text": make_text,
}


def score() -> dict[str, float]:
    """Scores the first file as it is, and with its rows turned round."""
    import resource

    from medtune.evaluation.promptcblue import find_protocol
    from medtune.evaluation.promptcblue.file_scores import score_lines
    from medtune.evaluation.promptcblue.predictions_file import read_predictions
    from medtune.evaluation.promptcblue.records import read_references

    rules = find_protocol("ccks2023")
    seconds = []
    for order in (1, -1):
        start = time.process_time()
        gold = [line.record or {} for line in read_predictions(FOLDER_OF_ROWS / "gold.jsonl")]
        lines = read_predictions(FOLDER_OF_ROWS / "first.jsonl")[::order]
        scored = score_lines(read_references(gold, rules), lines, rules)
        seconds.append(time.process_time() - start)
        assert (scored.scores.official_score == 0) == (order == -1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "rows": len(gold),
        "cpu_seconds": seconds[0],
        "unordered_cpu_seconds": seconds[1],
        "peak_mb": peak,
    }


def compare() -> dict[str, float]:
    """Compares the two files; reading and scoring them is not counted."""
    from medtune.evaluation.promptcblue import find_protocol
    from medtune.evaluation.promptcblue.predictions_file import read_predictions
    from medtune.evaluation.promptcblue.records import read_references, read_rows
    from medtune.evaluation.promptcblue.resampling import compare_rows

    rules = find_protocol("ccks2023")
    gold, first, second = (
        [line.record or {} for line in read_predictions(Path(FOLDER_OF_ROWS / f"{name}.jsonl"))]
        for name in ("gold", "first", "second")
    )
    references = read_references(gold, rules)
    sides = [read_rows(references, [row["target"] for row in rows], rules) for rows in (first, second)]
    start = time.process_time()
    compare_rows(*sides, rules, seed=0)
    return {"cpu_seconds": time.process_time() - start}


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps({"score": score, "compare": compare}[sys.argv[1]]()))
    else:
        main()
