"""Shares and ranks as a user types them."""

import json
from pathlib import Path

import pytest

from tests.integration.test_chain import records, run_medtune

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def typed(tmp_path_factory, make_tiny_llama, tiny_tokenizer):
    """The words of a command that answers 21 prompts."""
    folder = tmp_path_factory.mktemp("generation")
    make_tiny_llama(scale=4.0).save_pretrained(folder / "model")
    tiny_tokenizer.save_pretrained(folder / "model")
    rows = [
        {"input": f"患者{'头痛' * number}", "target": "", "answer_choices": ["是的", "不是"],
         "task_type": ("cls", "ner")[number % 2], "task_dataset": "CHIP-STS", "sample_id": str(number)}
        for number in range(1, 22)
    ]  # fmt: skip
    prompts = folder / "prompts.json"
    prompts.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n")
    return [
        *("task=generate", "model=local", f"model.path={folder}/model", "template=plain"),
        *("trainer.accelerator=cpu", "data=promptcblue", f"generate.input={prompts}"),
        *("generate.max_new_tokens=12", "generate.choices=true", f"{folder}"),
    ]


def answer(typed, name: str, *more: str) -> tuple[str, dict]:
    *command, folder = typed
    run_dir = Path(folder) / name
    shown = run_medtune(*command, f"run_dir={run_dir}", *more)
    return shown, json.loads((run_dir / "result.json").read_text())


def test_shares_and_ranks_give_the_file_of_one_process(typed):
    folder = Path(typed[-1])
    shown, result = answer(typed, "whole", f"generate.output={folder}/whole.jsonl")
    whole = records(folder / "whole.jsonl")
    assert all(row["target"] in ("是的", "不是") for row in whole if row["task_type"] == "cls")
    assert (result["rows"], result["answered_now"]) == (21, 21)
    assert result["cut_answers"] == [number for number in range(1, 22) if number % 2]
    assert "tokens/s" in shown
    assert "11 of 21 answers had not ended" in shown

    answer(typed, "ranks", f"generate.output={folder}/ranks.jsonl", "trainer.devices=2")
    assert (folder / "ranks.jsonl").read_bytes() == (folder / "whole.jsonl").read_bytes()

    output = f"generate.output={folder}/shares.jsonl"
    shown, result = answer(typed, "first", output, "generate.shard=1/2", "trainer.devices=2")
    assert "there is no part of share 2/2 (10 rows; run generate.shard=2/2)" in shown
    assert (result["shard"], result["rows"]) == ("1/2", 11)
    shown, _ = answer(typed, "again", output, "generate.shard=1/2")
    assert "11 of 11 answers were there" in shown
    answer(typed, "second", output, "generate.shard=2/2")
    assert (folder / "shares.jsonl").read_bytes() == (folder / "whole.jsonl").read_bytes()
    assert not list(folder.glob("*.part-*"))
