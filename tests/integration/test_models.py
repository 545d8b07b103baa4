"""Published models as a user types them: without their files, and from files in the released layout."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

from medtune.models.network import network_class
from tests.integration.test_chain import REPOSITORY, records, run_medtune

ORACLE = REPOSITORY / "tests" / "fixtures" / "baichuan"
# Two narrow layers instead of forty wide ones.
NARROW = (
    "trainer.accelerator=cpu",
    "data.max_examples=60",
    "data.global_batch_size=4",
    "trainer.max_steps=2",
    "generate.max_new_tokens=4",
)
SIZES = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("头痛怎么办？\n发热三天\n", encoding="utf-8")
    return path


def generate(weights: Path, prompts: Path, *more: str) -> list[str]:
    """The answers to a file of prompts."""
    out = prompts.parent / f"{weights.name}.jsonl"
    run_medtune(
        "task=generate", f"weights={weights}", f"generate.input={prompts}", f"generate.output={out}",
        f"run_dir={prompts.parent / 'answering' / weights.name}", "trainer.accelerator=cpu", *more,
    )  # fmt: skip
    return [row["target"] for row in records(out)]


def test_a_model_that_is_not_here_is_measured_and_its_adapter_answers(tmp_path, prompts):
    run = tmp_path / "run"
    shown = run_medtune(
        *NARROW,
        *(f"model.{key}={value}" for key, value in SIZES.items()),
        *("model=baichuan13b", "model.init=random", "adapter=lora", "trainer.precision=bf16-true"),
        *("data=sample", f"run_dir={run}", f"data.cache_dir={tmp_path}/cache"),
    )
    assert "model.tokenizer: the sample's own" in shown
    assert "eval.after_fit=false: adapter=lora on random weights can answer nothing" in shown
    assert "parameters learn" in shown
    assert not (run / "scores.json").exists()
    assert len(generate(run, prompts)) == 2


def test_a_bloom_in_the_released_layout_trains_packed_answers_and_exports(tmp_path, prompts):
    """Old weights in pickled shards, whose names begin below the decoder, as on the hub."""
    folder, run = tmp_path / "bloom", tmp_path / "run"
    tokenizer = REPOSITORY / "data" / "sample" / "tokenizer"
    network = AutoConfig.for_model("bloom", vocab_size=2304, hidden_size=64, n_layer=2, n_head=4)
    model = network_class(network)(network)
    weights = {name.removeprefix("transformer."): value for name, value in model.state_dict().items()}
    del weights["lm_head.weight"]
    shutil.copytree(tokenizer, folder)
    model.config.architectures = ["BloomModel"]
    model.config.save_pretrained(folder)
    names = sorted(weights)
    shards = {f"pytorch_model_{i}.bin": names[i::2] for i in range(2)}
    for shard, held in shards.items():
        torch.save({name: weights[name] for name in held}, folder / shard)
    index = {"metadata": {}, "weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    shown = run_medtune(
        *NARROW,
        *("model=local", f"model.path={folder}", "trainer.precision=32-true", "eval.limit=4"),
        *("data=sample", f"run_dir={run}", f"data.cache_dir={tmp_path}/cache"),
    )
    assert "packing=bfd" in shown
    answers = generate(run, prompts)
    exported = tmp_path / "exported"
    shown = run_medtune(
        "task=export", f"weights={run}", f"export.output={exported}", f"run_dir={tmp_path}/exporting"
    )
    assert "greedy answers are token-equal" in shown
    assert generate(exported, prompts) == answers
    assert json.loads((exported / "config.json").read_text())["architectures"] == ["BloomForCausalLM"]


def test_baichuan_in_the_released_layout_keeps_it(tmp_path):
    """More tokens than rows here, so it is also resized."""
    folder, run = tmp_path / "baichuan", tmp_path / "run"
    shutil.copytree(ORACLE / "13b_h5", folder)
    shutil.copytree(ORACLE / "tok_tiny" / "v1", folder, dirs_exist_ok=True)
    speakers = {"user_token_id": 195, "assistant_token_id": 196, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(speakers))
    run_medtune(
        *NARROW,
        *("model=baichuan13b_chat", f"model.path={folder}", "model.resize_embeddings=true"),
        *("trainer.precision=32-true", "data=sample", "data.sequence_length=1024", "eval.after_fit=false"),
        *(f"run_dir={run}", f"data.cache_dir={tmp_path}/cache"),
    )
    written = json.loads((run / "model" / "config.json").read_text())
    assert (written["vocab_size"], written["torch_dtype"]) == (832, "float32")
    assert "auto_map" not in written  # there is no code beside the source that it could name
    assert json.loads((run / "model" / "generation_config.json").read_text()).items() >= speakers.items()
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    assert type(tokenizer).__name__ == "BaichuanTokenizer"
    card = json.loads((run / "model" / "medtune.json").read_text())
    assert card["template"]["name"] == "baichuan"
