"""Perplexity and exams as a user types them."""

import json
from pathlib import Path

import pytest

from tests.integration.test_chain import SMALL, records, run_medtune

CPU = "trainer.accelerator=cpu"
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
    """Dialogues and texts, packed; every validation row is read."""
    path = tmp_path_factory.mktemp("measures") / "run"
    run_medtune(
        *(key for key in SMALL if not key.startswith(("data.max_examples", "eval."))),
        *("data=mix", "data.mix=[sample,sample_corpus]", "data.mix_stop=steps"),
        *("data.sources.sample.max_examples=40", "data.sources.sample_corpus.max_examples=40"),
        *("data.packing=bfd", "trainer.val_max_rows=null", "eval.after_fit=false"),
        *(f"data.cache_dir={path.parent}/cache", f"run_dir={path}"),
    )
    return path


def measure(mix_run: Path, name: str, *arguments: str) -> dict:
    folder = mix_run.parent / name
    given = ("task=evaluate", "evaluate.perplexity=true", f"weights={mix_run}", CPU)
    shown = run_medtune(*given, *arguments, f"run_dir={folder}")
    assert "perplexity" in shown
    assert "no effect" not in shown
    scores = json.loads((folder / "scores.json").read_text())
    assert json.loads((folder / "result.json").read_text())["loss"] == scores["loss"]
    return scores


def check_equals_validation(scores: dict, mix_run: Path) -> None:
    last = records(mix_run / "metrics.jsonl")[-1]
    assert scores["loss"] == pytest.approx(last["val/loss"], rel=1e-5)
    for name, source in scores["sources"].items():
        assert source["loss"] == pytest.approx(last[f"val/loss/{name}"], rel=1e-5)
    assert set(scores["sources"]) == {"sample", "sample_corpus"}


def test_two_ranks_with_other_rows_and_batches_find_the_validation_loss_of_the_run(mix_run):
    scores = measure(
        mix_run, "otherwise", "data.packing=none", "data.micro_batch_size=5", "trainer.devices=2"
    )
    check_equals_validation(scores, mix_run)


@pytest.mark.slow
def test_so_does_one_rank_on_a_checkpoint_and_every_figure_is_the_same(mix_run):
    scores = measure(mix_run, "as_trained")
    check_equals_validation(scores, mix_run)
    other = measure(mix_run, "checkpoint", f"weights={mix_run}/checkpoints/step-4", "data.micro_batch_size=3")
    for name, source in scores["sources"].items():
        assert other["sources"][name] == pytest.approx(source, rel=1e-6)


@pytest.mark.slow
def test_an_exam_by_likelihood_is_the_same_on_two_ranks(mix_run, tmp_path):
    for split in ("train", "dev"):
        file = tmp_path / f"{split}.json"
        file.write_text(json.dumps(QUESTIONS, ensure_ascii=False), encoding="utf-8")
    scores = {}
    for ranks in (1, 2):
        run = tmp_path / f"ranks-{ranks}"
        shown = run_medtune(
            *("task=evaluate", f"weights={mix_run}", "data=cmb", f"data.dir={tmp_path}", CPU),
            *("data.splits={train: train.json, validation: dev.json}", "evaluate.exam=likelihood"),
            *("evaluate.shots=1", f"trainer.devices={ranks}", "eval.untrained=false"),
            f"run_dir={run}",
        )
        assert "physician" in shown
        scores[ranks] = json.loads((run / "scores.json").read_text())
    assert scores[1] == scores[2]
    assert scores[1]["tasks"]["accuracy"]["rows"] == 12
    assert set(scores[1]["splits"]["validation"]) == {"model", "trivial"}
