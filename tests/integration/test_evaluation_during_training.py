"""Evaluations during training say what evaluating the checkpoint of that step says afterwards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medtune.training.metrics import read_metrics

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = (
    *("trainer.accelerator=cpu", "model.hidden_size=64", "model.intermediate_size=128"),
    *("model.num_hidden_layers=1", "model.num_attention_heads=2", "data.max_examples=300"),
    *("data.global_batch_size=4", "template=plain", "trainer.max_steps=4"),
    *("eval.untrained=false", "eval.trivial=false"),
)
# The penalty makes answers depend on what their prompts say, which an untrained network's hardly do.
SUBSET = (
    *("eval.limit_per_task=3", "eval.tasks=[CMeEE-V2,CHIP-CDN,KUAKE-QIC,KUAKE-QQR,MedDG]"),
    *("eval.split=validation", "generate.max_new_tokens=8", "generate.repetition_penalty=2"),
)


def run_medtune(*arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "medtune", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


@pytest.mark.parametrize(
    ("strategy", "more"),
    [
        pytest.param("ddp", (), id="ddp"),
        pytest.param("fsdp", (), id="fsdp", marks=pytest.mark.slow),
        pytest.param("fsdp", ("adapter=dora", "quantization=nf4"), id="fsdp_qlora", marks=pytest.mark.slow),
        pytest.param("zero3", (), id="zero3", marks=pytest.mark.slow),
        pytest.param(
            "zero3",
            # Steps so large that a trained prompt changes what a frozen random network answers.
            ("adapter=prompt_tuning", "optim.lr=30", "schedule=constant"),
            id="zero3_prompt",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_ranks_log_the_scores_of_their_checkpoint(tmp_path, strategy, more):
    """On two ranks during training, on one afterwards: the same answers, byte by byte, and scores."""
    if strategy == "zero3":
        pytest.importorskip("deepspeed")
    run = tmp_path / "run"
    shown = run_medtune(
        *(*SMALL, *SUBSET, *more, f"run_dir={run}", f"data.cache_dir={tmp_path}/cache"),
        *(f"strategy={strategy}", "trainer.devices=2", "eval.every_n_steps=2", "eval.after_fit=false"),
        *("checkpoint.every_n_steps=2", "checkpoint.keep_last=2", "checkpoint.keep_best=1"),
        *("checkpoint.monitor=eval/score", "schedule.warmup_steps=2", "logger=tensorboard"),
    )
    assert "step 2 · score " in shown
    logged = {line["step"]: line for line in read_metrics(run / "metrics.jsonl") if "eval/score" in line}
    assert sorted(logged) == [2, 4]
    assert ("eval/gather_seconds" in logged[2]) == (strategy != "ddp")
    assert list(run.glob("tensorboard/events*"))
    assert (run / "checkpoints" / "best").is_symlink()

    after = tmp_path / "after"
    run_medtune(
        *("task=evaluate", f"weights={run}/checkpoints/step-2", f"run_dir={after}", *SUBSET),
        *("eval.trivial=false", "trainer.accelerator=cpu"),
    )
    answers = (after / "predictions" / "validation.jsonl").read_bytes()
    assert answers == (run / "predictions" / "step-2" / "validation.jsonl").read_bytes()
    texts = [json.loads(line)["target"] for line in answers.splitlines()]
    assert len(texts) == 15
    other = (run / "predictions" / "step-4" / "validation.jsonl").read_bytes()
    assert len(set(texts)) > 2, "answers that do not depend on the prompt prove nothing"
    assert other != answers, "nor do those that do not depend on the weights"
    untrained = (after / "predictions" / "validation_untrained.jsonl").read_bytes()
    assert untrained != answers, "the checkpoint answered as the model before training too"
    scores = json.loads((after / "scores.json").read_text())
    assert logged[2]["eval/score"] == scores["score"]
    tasks = {name: task["score"] for name, task in scores["tasks"].items()}
    assert {name: logged[2][f"eval/{name}"] for name in tasks} == tasks
    failures = sum(len(task["parse_failures"]) for task in scores["tasks"].values())
    assert logged[2]["eval/parse_failures"] == failures
