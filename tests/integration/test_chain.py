"""The whole chain as a user types it: train, generate, evaluate, export, chat, resume."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
TOY = REPOSITORY.parent / "shared" / "data" / "promptcblue_toy"
MSRA = REPOSITORY.parent / "shared" / "data" / "msra"
# A network and rows so small that a run costs little more than its imports.
SMALL = (
    "trainer.accelerator=cpu",
    "model.hidden_size=64",
    "model.intermediate_size=64",
    "model.num_hidden_layers=1",
    "model.num_attention_heads=2",
    "data.max_examples=60",
    "data.sequence_length=256",
    "data.global_batch_size=4",
    "eval.limit=12",
    "eval.untrained=false",
    "generate.max_new_tokens=6",
    "trainer.max_steps=4",
)


def command(*arguments: str) -> dict:
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""}
    return {
        "args": [sys.executable, "-m", "medtune", *arguments],
        "cwd": REPOSITORY,
        "env": env,
        "text": True,
    }


def run_medtune(*arguments: str, typed: str | None = None) -> str:
    """Runs to the end; returns everything that was shown."""
    done = subprocess.run(
        **command(*arguments),
        input=typed,
        stdin=subprocess.DEVNULL if typed is None else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """A run of four steps, scored."""
    path = tmp_path_factory.mktemp("chain") / "run"
    run_medtune(*SMALL, f"run_dir={path}", f"data.cache_dir={path.parent}/cache")
    return path


def test_a_run_folder_explains_the_run(run_dir):
    for name in ("config.yaml", "overrides.yaml", "environment.json", "logs/rank-0.log", "plots/loss.png"):
        assert (run_dir / name).stat().st_size, name
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["trainer"]["max_steps"] == 4
    last = records(run_dir / "metrics.jsonl")[-1]
    assert last["step"] == 4
    assert last["val/loss"] > 0
    card = (run_dir / "model" / "README.md").read_text(encoding="utf-8")
    assert "| Steps | 4 |" in card
    assert "Scores on `test`" in card
    result = json.loads((run_dir / "result.json").read_text())
    scores = json.loads((run_dir / "scores.json").read_text())
    assert (result["status"], result["global_step"]) == ("finished", 4)
    assert result["score"] == scores["score"]
    assert set(scores["splits"]) == {"test", "new_words"}
    assert set(scores["splits"]["test"]) == {"model", "trivial"}
    assert len(records(run_dir / "predictions" / "test.jsonl")) == 12
    report = json.loads((run_dir / "data_report.json").read_text())["splits"]["train"]
    assert report["sources"]["sample"]["documents"] == {"read": 60, "dropped": {}, "kept": 60}
    for name in ("data_report.md", "plots/data.png"):
        assert (run_dir / name).stat().st_size, name


def test_the_export_answers_as_the_checkpoint_in_plain_transformers(run_dir):
    """Promise 5, with transformers' own classes: greedy tokens equal before and after."""
    output = run_dir.parent / "export"
    run_medtune(
        "task=export",
        f"weights={run_dir}/checkpoints/step-4",
        f"export.output={output}",
        f"run_dir={output}-run",
    )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import medtune.models  # noqa: F401  (Baichuan becomes known to transformers)

    tokenizer = AutoTokenizer.from_pretrained(output)
    prompt = torch.tensor([tokenizer.encode("患者头痛三天", add_special_tokens=False)])
    answers = [
        AutoModelForCausalLM.from_pretrained(folder)
        .eval()
        .generate(prompt, max_new_tokens=12, do_sample=False)
        for folder in (output, run_dir / "model")
    ]
    assert torch.equal(*answers)
    state = torch.load(run_dir / "checkpoints" / "step-4" / "state", weights_only=True)["state_dict"]
    exported = AutoModelForCausalLM.from_pretrained(output).state_dict()
    for name, tensor in exported.items():
        assert torch.equal(tensor, state[f"model.{name}"]), name


def test_generate_answers_a_file_in_its_order(run_dir, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("头痛怎么办？\n发热三天\n\n咳嗽\n")
    run_medtune(
        "task=generate",
        f"weights={run_dir}",
        f"generate.input={prompts}",
        f"run_dir={tmp_path}/run",
        f"generate.output={tmp_path}/out.jsonl",
    )
    assert [row["input"] for row in records(tmp_path / "out.jsonl")] == ["头痛怎么办？", "发热三天", "咳嗽"]


def test_evaluate_scores_a_file_and_gold_is_all_right(tmp_path):
    gold = REPOSITORY / "data" / "sample" / "dev.json"
    shown = run_medtune(
        "task=evaluate",
        f"evaluate.predictions={gold}",
        f"evaluate.references={gold}",
        f"run_dir={tmp_path}/run",
    )
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["score"] == pytest.approx(100)
    assert set(scores["tasks"]) == {"CMeEE-V2", "KUAKE-QIC", "KUAKE-QQR", "CHIP-CDN", "IMCS-V2-SR", "MedDG"}
    assert "100.00" in shown


def test_chat_answers_and_ends_with_its_input(run_dir, tmp_path):
    shown = run_medtune("task=chat", f"weights={run_dir}", f"run_dir={tmp_path}/run", typed="你好\n/exit\n")
    assert "Traceback" not in shown


def test_a_run_goes_on_where_it_was_interrupted(run_dir, tmp_path):
    """Ctrl-C: the step ends, the checkpoint is whole, and the resumed run ends as one that never stopped."""
    arguments = [
        *SMALL,
        f"run_dir={tmp_path}/run",
        f"data.cache_dir={run_dir.parent}/cache",
        "eval.after_fit=false",
    ]
    arguments[arguments.index("trainer.max_steps=4")] = "trainer.max_steps=400"
    metrics = tmp_path / "run" / "metrics.jsonl"
    process = subprocess.Popen(**command(*arguments, "trainer.log_every_n_steps=1"), stderr=subprocess.PIPE)
    deadline = time.monotonic() + 200
    while not (metrics.exists() and metrics.read_text().count("\n") > 2):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "resume=auto" in shown
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "interrupted"
    stopped = int(max((tmp_path / "run" / "checkpoints").glob("step-*")).name.split("-")[1])
    assert records(metrics)[-1]["step"] == stopped

    arguments[arguments.index("trainer.max_steps=400")] = f"trainer.max_steps={stopped + 2}"
    run_medtune(*arguments, "trainer.log_every_n_steps=1", "resume=auto")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["global_step"] == stopped + 2
    steps = [row["step"] for row in records(metrics) if "train/loss" in row]
    assert steps == list(range(1, stopped + 3)), "a step is missing or was logged twice"


@pytest.mark.parametrize(
    ("data", "objective"),
    [
        pytest.param(["data=promptcblue", f"data.dir={TOY}"], "sft", id="promptcblue_sft"),
        pytest.param(["data=promptcblue", f"data.dir={TOY}"], "pretrain", id="promptcblue_pretrain"),
        pytest.param(["data=msra_ner", f"data.dir={MSRA}"], "sft", id="msra"),
    ],
)
def test_real_records_train_and_score_without_edits(tmp_path, data, objective):
    if not Path(data[1].partition("=")[2]).is_dir():
        pytest.skip(f"{data[1]} is not there")
    small = [key for key in SMALL if not key.startswith(("data.sequence_length", "data.max_examples"))]
    run_medtune(
        *small,
        *data,
        f"objective={objective}",
        f"run_dir={tmp_path}/run",
        "data.packing=none",
        "data.global_batch_size=4",
        f"data.cache_dir={tmp_path}/cache",
    )
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert 0 <= scores["score"] <= 100
    assert (tmp_path / "run" / "plots" / "scores_validation.png").stat().st_size


STRATEGIES = ["ddp", "zero3", "deepspeed_stage_3_offload", "fsdp"]


@pytest.mark.parametrize(
    "strategy", [pytest.param(name, marks=() if name == "zero3" else pytest.mark.slow) for name in STRATEGIES]
)
def test_two_ranks_train_and_score_under_every_strategy(run_dir, tmp_path, strategy):
    """The losses are those of one process; tests/numerics holds the weights too."""
    run_medtune(
        *SMALL,
        f"run_dir={tmp_path}/run",
        f"data.cache_dir={run_dir.parent}/cache",
        f"strategy={strategy}",
        "trainer.devices=2",
    )
    result, alone = (json.loads((path / "result.json").read_text()) for path in (tmp_path / "run", run_dir))
    assert result["train_loss"] == pytest.approx(alone["train_loss"], abs=1e-5)
    assert result["val_loss"] == pytest.approx(alone["val_loss"], abs=1e-5)
    ours, theirs = ((path / "predictions" / "test.jsonl").read_text() for path in (tmp_path / "run", run_dir))
    assert ours == theirs


def test_a_quantised_base_with_an_adapter_trains_scores_and_exports(run_dir, tmp_path):
    run_medtune(
        *SMALL,
        f"run_dir={tmp_path}/run",
        f"data.cache_dir={run_dir.parent}/cache",
        "adapter=lora",
        "quantization=nf4",
    )
    assert (tmp_path / "run" / "model" / "adapter_config.json").exists()
    shown = run_medtune(
        "task=export",
        f"weights={tmp_path}/run",
        f"export.output={tmp_path}/merged",
        f"run_dir={tmp_path}/export",
    )
    assert "token-equal" in shown
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())


@pytest.mark.slow
def test_a_sweep_of_two_ranks_gives_a_folder_and_an_offline_run_each(run_dir, tmp_path):
    shown = run_medtune(
        "-m",
        *SMALL,
        "optim.lr=1e-3,3e-3",
        "strategy=ddp",
        "trainer.devices=2",
        "logger=wandb",
        f"run_dir={tmp_path}/sweep",
        f"data.cache_dir={run_dir.parent}/cache",
    )
    results = sorted(tmp_path.rglob("result.json"))
    assert [json.loads(path.read_text())["status"] for path in results] == ["finished"] * 2, shown
    assert len(list(tmp_path.rglob("offline-run-*"))) == 2
    table = next(tmp_path.rglob("sweep.csv")).read_text()
    assert "0.001" in table
    assert "0.003" in table
