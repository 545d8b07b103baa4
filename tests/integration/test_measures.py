"""Perplexity and exams as a user types them."""

import json
from pathlib import Path

import pytest

from tests.integration.test_chain import SMALL, records, run_medtune

QUESTIONS = [
    {
        "exam_type": kind,
        "exam_class": f"{kind}一",
        "question": f"第{number}题",
        "answer": "B" if number % 2 else "AC",
        "question_type": "单项选择题" if number % 2 else "多项选择题",
        "option": {"A": "发热", "B": "咳嗽", "C": "头痛"},
    }
    for number in range(6)
    for kind in ("医师考试", "护理考试")
]


@pytest.fixture(scope="module")
def mix_run(tmp_path_factory) -> Path:
    """Dialogues and texts, the texts' validation held out, packed; every validation row is read."""
    path = tmp_path_factory.mktemp("measures") / "run"
    run_medtune(
        *(key for key in SMALL if not key.startswith(("data.max_examples", "eval."))),
        *("data=mix", "data.mix=[sample,sample_corpus]", "data.mix_stop=steps"),
        *("data.sources.sample.max_examples=40", "data.sources.sample_corpus.max_examples=40"),
        *("data.packing=bfd", "trainer.val_max_rows=null", "eval.after_fit=false"),
        *(f"data.cache_dir={path.parent}/cache", f"run_dir={path}"),
    )
    return path


def test_the_perplexity_of_a_run_is_its_own_validation_whatever_the_packing_batch_and_ranks(mix_run):
    last = records(mix_run / "metrics.jsonl")[-1]
    given = ("task=evaluate", "evaluate.perplexity=true", f"weights={mix_run}", "trainer.accelerator=cpu")
    whole = json.loads(measure(mix_run, "as_trained", *given))
    for key, entry in (
        ("val/loss", whole),
        ("val/loss/sample", whole["sources"]["sample"]),
        ("val/loss/sample_corpus", whole["sources"]["sample_corpus"]),
    ):
        assert entry["loss"] == pytest.approx(last[key], rel=1e-5)
    other = json.loads(
        measure(
            mix_run,
            "otherwise",
            *given,
            *("data.packing=none", "data.micro_batch_size=5", "trainer.devices=2"),
        )
    )
    for name, source in whole["sources"].items():
        assert other["sources"][name] == pytest.approx(source, rel=1e-5)
    assert json.loads((mix_run.parent / "otherwise" / "result.json").read_text())["loss"] == other["loss"]


def measure(mix_run: Path, name: str, *arguments: str) -> str:
    shown = run_medtune(*arguments, f"run_dir={mix_run.parent / name}")
    assert "perplexity" in shown
    assert "has no effect" not in shown
    return (mix_run.parent / name / "scores.json").read_text()


def test_an_exam_by_likelihood_after_training_on_two_ranks(mix_run, tmp_path):
    for split in ("train", "dev"):
        file = tmp_path / f"{split}.json"
        file.write_text(json.dumps(QUESTIONS, ensure_ascii=False), encoding="utf-8")
    scores = {}
    for ranks in (1, 2):
        run = tmp_path / f"ranks-{ranks}"
        shown = run_medtune(
            *("task=evaluate", f"weights={mix_run}", "data=cmb", f"data.dir={tmp_path}"),
            *("data.splits={train: train.json, validation: dev.json}", "evaluate.exam=likelihood"),
            *(
                "evaluate.shots=1",
                "trainer.accelerator=cpu",
                f"trainer.devices={ranks}",
                "eval.untrained=false",
            ),
            f"run_dir={run}",
        )
        assert "physician" in shown
        scores[ranks] = json.loads((run / "scores.json").read_text())
    assert scores[1] == scores[2]
    accuracy = scores[1]["tasks"]["accuracy"]
    assert accuracy["rows"] == 12
    assert accuracy["parse_failures"] == []
    assert set(accuracy["by"]) == {"question_type", "exam_type", "exam_class"}
    assert set(scores[1]["splits"]["validation"]) == {"model", "trivial"}
    answers = {row["target"] for row in records(tmp_path / "ranks-1" / "predictions" / "validation.jsonl")}
    assert answers <= {"A", "B", "C", "AB", "AC", "BC", "ABC"}
