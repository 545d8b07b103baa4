"""Adapters as a user types them: trained on the command line, answering, merged, answering the same."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.integration.test_chain import SMALL, run_medtune
from tests.integration.test_models import generate

TINY = (*SMALL, "model=tiny", "data=sample", "eval.after_fit=false", "trainer.max_steps=3", "optim.lr=2e-2")


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("头痛怎么办？\n发热三天\n患者：咳嗽\n", encoding="utf-8")
    return path


def train(tmp_path: Path, name: str, *more: str) -> Path:
    run = tmp_path / name
    shown = run_medtune(*TINY, *more, f"run_dir={run}", f"data.cache_dir={tmp_path}/cache")
    assert "parameters learn" in shown
    return run


def export(tmp_path: Path, weights: Path, *more: str) -> Path:
    output = tmp_path / f"{weights.parent.name}_{weights.name}_exported"
    shown = run_medtune(
        "task=export", f"weights={weights}", f"export.output={output}", f"run_dir={output}_run", *more
    )
    assert "greedy answers are token-equal" in shown
    return output


def test_qlora_on_a_cpu_answers_the_same_before_and_after_the_merge(tmp_path, prompts):
    run = train(tmp_path, "run", "adapter=lora", "quantization=nf4", "adapter.target_modules=all-linear")
    assert all("lora_" in name for name in load_file(run / "model" / "adapter_model.safetensors"))
    merged = export(tmp_path, run)
    assert not (merged / "adapter_config.json").exists()
    assert "quantization_config" not in json.loads((merged / "config.json").read_text())
    answers = generate(run, prompts)
    assert len(set(answers)) > 0
    assert generate(merged, prompts) == answers


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp", "zero3"])
def test_a_4_bit_base_is_divided_and_its_checkpoint_merged(tmp_path, prompts, strategy):
    """What a checkpoint of a sharded run holds, read by one process."""
    if strategy == "zero3":
        pytest.importorskip("deepspeed")
    run = train(
        *(tmp_path, "run", "adapter=dora", "quantization=nf4", f"strategy={strategy}", "trainer.devices=2"),
        *("model.hidden_size=64", "model.intermediate_size=128"),
    )
    of_checkpoint, of_model = export(tmp_path, run / "checkpoints" / "step-3"), export(tmp_path, run)
    found, expected = (load_file(folder / "model.safetensors") for folder in (of_checkpoint, of_model))
    assert found.keys() == expected.keys()
    assert all(value.equal(found[name]) for name, value in expected.items())
    assert generate(of_checkpoint, prompts) == generate(run, prompts)


@pytest.mark.slow
def test_a_later_adapter_lies_on_earlier_ones_and_needs_their_folders_no_more(tmp_path, prompts):
    first = train(tmp_path, "first", "adapter=pissa")
    second = train(tmp_path, "second", "adapter=lora", f"adapter.merge=[{first}]")
    third = train(tmp_path, "third", "adapter=rslora", f"adapter.stack=[{second}]", "trainer.max_steps=2")
    first.rename(tmp_path / "elsewhere")
    second.rename(tmp_path / "elsewhere_too")
    answers = generate(third, prompts)
    assert generate(export(tmp_path, third), prompts) == answers
    adapter = export(tmp_path, third / "model", "export.merge=false")
    assert len(list((adapter / "merged_adapters").iterdir())) == 1
    assert generate(adapter, prompts) == answers


@pytest.mark.slow
def test_a_part_of_a_network_is_trained_stopped_and_exported(tmp_path, prompts):
    layers = ("adapter=freeze", "adapter.last_layers=1", "model.num_hidden_layers=2")
    run = train(tmp_path, "run", *layers, "checkpoint.every_n_steps=2", "checkpoint.keep_last=2")
    whole = load_file(run / "model" / "model.safetensors")
    exported = export(tmp_path, run / "checkpoints" / "step-3")
    assert all(value.equal(whole[name]) for name, value in load_file(exported / "model.safetensors").items())
    resumed = train(
        tmp_path, "resumed", *layers, f"resume={run}/checkpoints/step-2", "checkpoint.every_n_steps=2"
    )
    again = load_file(resumed / "model" / "model.safetensors")
    assert all(value.equal(again[name]) for name, value in whole.items())
