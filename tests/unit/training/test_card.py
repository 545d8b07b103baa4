import json

import pytest
import yaml

from medtune.config.load import config_to_dict
from medtune.config.schema import AdapterConfig, Config, DataConfig, LossConfig, ModelConfig, OptimConfig
from medtune.runtime.record import RunFolder, write_json, write_text
from medtune.training.card import CARD, run_of, write_card

REPORT = {
    "splits": {
        "train": {"sources": {"wards": {"mix": {"documents": 1200, "tokens": 34567, "learned_tokens": 890}}}}
    }
}
TASK = {"metric": "micro_f1", "score": 61.25, "rows": 7}
SCORES = {
    "splits": {"test": {"model": {"protocol": "ccks2023", "score": 61.25, "tasks": {"CMeEE-V2": TASK}}}}
}


@pytest.fixture
def config():
    return Config(
        name="ward notes",
        model=ModelConfig(name="qwen3_0_6b", path="Qwen/Qwen3-0.6B"),
        adapter=AdapterConfig(name="lora"),
        data=DataConfig(name="wards", dir="/data/of/a/hospital", hub=None),
        optim=OptimConfig(lr=1e-4),
        loss=LossConfig(label_smoothing=0.1),
    )


@pytest.fixture
def run(tmp_path, config):
    """A run with all that it records."""
    folder = RunFolder(tmp_path / "run")
    write_text(folder.config_file, yaml.safe_dump(config_to_dict(config)))
    write_json(folder.data_report_file, REPORT)
    write_json(
        folder.result_file, {"status": "finished", "global_step": 30, "train_loss": 1.5, "tokens": 99_000}
    )
    write_json(folder.scores_file, SCORES)
    write_json(folder.environment_file, {"git": {"commit": "0123456789abcdef"}})
    (folder.model).mkdir()
    return folder


def card_of(folder):
    text = (folder / CARD).read_text(encoding="utf-8")
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_the_card_carries_data_recipe_and_scores(run, config):
    (run.model / "adapter_config.json").write_text("{}")
    write_card(run.model, Config(), run)  # the run's own settings win
    head, body = card_of(run.model)
    assert head["library_name"] == "peft"
    assert head["base_model"] == "Qwen/Qwen3-0.6B"
    assert {"sft", "lora", "wards"} <= set(head["tags"])
    for part in (
        "# ward notes",
        "| wards | 1,200 | 34,567 | 890 |",
        "| `optim.lr` | `0.0001` |",
        "| `loss.label_smoothing` | `0.1` |",
        "| Steps | 30 |",
        "| Training loss | 1.5000 |",
        "| CMeEE-V2 | micro_f1 | 61.25 | 7 |",
        "AutoPeftModelForCausalLM",
        "at 0123456789ab",
    ):
        assert part in body, part
    assert "`loss.z_loss`" not in body


def test_a_merged_model_is_loaded_as_one(run):
    write_card(run.model, Config(), run)
    head, body = card_of(run.model)
    assert head["library_name"] == "transformers"
    assert "AutoPeft" not in body


def test_folders_of_this_machine_are_not_told(tmp_path, config):
    config.model.path = str(tmp_path / "weights of the ward")
    write_card(tmp_path, config, None)
    text = (tmp_path / CARD).read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    assert "hospital" not in text
    assert "weights of the ward" in text
    assert "base_model" not in text


def test_what_was_not_recorded_is_left_out(tmp_path, config):
    write_card(tmp_path, config, None)
    _, body = card_of(tmp_path)
    assert "## Data" not in body
    assert "## Results" not in body


def test_nothing_is_said_of_a_training_that_is_not_known(tmp_path, config):
    """As where foreign weights are exported in another type: these settings trained nothing."""
    write_card(tmp_path, config, None)
    head, body = card_of(tmp_path)
    assert "tags" not in head
    assert "base_model" not in head
    assert "How it was trained is not recorded" in body
    for word in ("Recipe", "fine-tuning", "wards", "template"):
        assert word not in body, word


@pytest.mark.parametrize(("step", "is_the_last"), [(None, True), (30, True), (10, False)])
def test_an_earlier_checkpoint_is_not_given_the_figures_of_the_last(run, config, step, is_the_last):
    write_card(run.model, config, run, step)
    _, body = card_of(run.model)
    assert ("| Training loss | 1.5000 |" in body) is is_the_last
    assert ("61.25" in body) is is_the_last
    assert f"| Steps | {step or 30} |" in body


def test_the_run_of_a_checkpoint_or_model_is_found(run, tmp_path):
    for inner in ("", "model", "checkpoints/step-3"):
        assert run_of(str(run.path / inner)) == run
    assert run_of(str(tmp_path)) is None


def test_settings_of_another_version_do_not_keep_a_model_from_being_written(run, config):
    values = yaml.safe_load(run.config_file.read_text()) | {"a_key_of_the_future": 1}
    run.config_file.write_text(json.dumps(values))
    config.name = "this command's"
    write_card(run.model, config, run)
    assert "# this command's" in (run.model / CARD).read_text()
