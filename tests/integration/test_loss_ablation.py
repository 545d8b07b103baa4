"""The ablation as a user types it: two trials, and both scores of every task."""

import csv
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = (
    *("trainer.accelerator=cpu", "strategy=auto", "model.hidden_size=32", "model.intermediate_size=32"),
    *("model.num_hidden_layers=1", "model.num_attention_heads=2", "data.max_examples=60"),
    *("data.eval_splits=[test]", "eval.limit=12", "eval.untrained=false", "eval.trivial=false"),
    *("generate.max_new_tokens=4", "trainer.max_steps=2"),
)


def test_all_token_against_masked(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "medtune", "-m", "experiment=promptcblue_loss_ablation"),
            *("objective=pretrain,sft", "model=tiny", "data=sample", *SMALL),
            *(f"run_dir={tmp_path}/sweep", f"data.cache_dir={tmp_path}/cache"),
        ],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Scores on test (0-100), task by task:" in done.stderr
    sweep = tmp_path / "sweep"
    with (sweep / "tasks.csv").open() as file:
        heading, *rows = csv.reader(file)
    assert heading == ["task", "all-token (pretrain)", "masked (sft)", "difference"]
    assert {row[0] for row in rows} >= {"CMeEE-V2", "MedDG", "overall"}
    assert all(len(row) == 4 for row in rows)
    assert (sweep / "tasks.md").is_file()
    assert (sweep / "tasks.png").read_bytes().startswith(b"\x89PNG")
    losses = {
        name: (sweep / f"{number}-objective={name}" / "config.yaml").read_text()
        for number, name in enumerate(("pretrain", "sft"))
    }
    one, other = (
        [line for line in text.splitlines() if not line.startswith(("objective:", "run_dir:"))]
        for text in losses.values()
    )
    assert one == other, "the trials differ in more than the objective"
