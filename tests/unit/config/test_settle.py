"""Where settings come from besides the command line, and what is derived from them."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from medtune.config.checks import Machine
from medtune.config.inherit import differences, find_records, put, read_record
from medtune.config.load import config_from_dict
from medtune.config.settle import SAMPLE_TOKENIZER, settle
from medtune.runtime.errors import ConfigError

CPU = Machine(gpus=0, cores=2)


@pytest.fixture
def values(tmp_path):
    """Plain values of a configuration without problems, as Hydra composes them."""
    for name in ("train.json", "dev.json"):
        (tmp_path / name).touch()
    return {
        "model": {"name": "composed", "init": "random", "model_type": "llama", "tokenizer": "some/tokenizer"},
        "data": {
            "name": "toy",
            "dir": str(tmp_path),
            "splits": {"train": "train.json", "validation": "dev.json"},
            "eval_splits": ["validation"],
        },
        "template": {"name": "composed"},
    }


@pytest.fixture
def earlier(tmp_path, values):
    """The run folder of an earlier run with other settings."""
    record = asdict(config_from_dict(values))
    record["model"] |= {"name": "earlier", "hidden_size": 64}
    record["adapter"] |= {"name": "lora", "rank": 4}
    record["template"] |= {"name": "earlier"}
    record["optim"] |= {"lr": 0.5}
    run = tmp_path / "run"
    (run / "checkpoints" / "step-10" / "shard").mkdir(parents=True)
    (run / "model").mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(record))
    return run


@pytest.mark.parametrize("place", ["", "model", "checkpoints/step-10", "checkpoints/step-10/shard"])
def test_weights_bring_the_settings_of_their_run(values, earlier, place):
    values |= {"task": "generate", "weights": str(earlier / place)}
    settled = settle(values, ["task", "weights"], CPU, Path("/"))
    assert settled.config.model.name == "earlier"
    assert settled.config.model.hidden_size == 64
    assert settled.config.adapter.rank == 4
    assert settled.config.template.name == "earlier"
    assert settled.config.optim.lr == 2e-5
    assert settled.notes == [
        f"model, adapter, quantization, template, data, seed, objective: as in {earlier / 'config.yaml'}"
    ]


def test_what_was_typed_stays(values, earlier):
    values |= {"task": "generate", "weights": str(earlier)}
    values["model"]["dtype"] = "bfloat16"
    values["adapter"] = {"name": "none"}
    typed = ["task", "weights", "model.dtype", "template"]
    config = settle(values, typed, CPU, Path("/")).config
    assert (config.model.name, config.model.dtype) == ("earlier", "bfloat16")
    assert config.template.name == "composed"
    assert config.adapter.name == "lora"


@pytest.mark.parametrize("place", ["", "model"])
def test_an_export_brings_its_own_record_and_the_run_the_rest(values, earlier, place):
    exported = {"model": {**values["model"], "name": "exported"}, "weights_of": "x"}
    (earlier / "model" / "medtune.json").write_text(json.dumps(exported))
    settled = settle({**values, "task": "generate", "weights": str(earlier / place)}, [], CPU, Path("/"))
    assert settled.config.model.name == "exported"
    assert settled.config.adapter.name == "lora"
    assert settled.notes == [
        f"model: as in {earlier / 'model' / 'medtune.json'}",
        f"adapter, quantization, template, data, seed, objective: as in {earlier / 'config.yaml'}",
    ]


def test_weights_bring_the_seed_that_their_base_was_drawn_from(values, earlier):
    values |= {"task": "generate", "weights": str(earlier), "seed": 7}
    assert settle(values, ["weights"], CPU, Path("/")).config.seed == 42
    assert settle({**values, "seed": 42}, ["weights", "seed"], CPU, Path("/")).config.seed == 42
    with pytest.raises(
        ConfigError, match="seed=7, but .*/run/config.yaml has seed=42, from which"
    ) as refused:
        settle(values, ["weights", "seed"], CPU, Path("/"))
    assert refused.value.problems[0].endswith("adapter=lora was trained on; leave seed out")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        pytest.param("adapter", "name", "none", id="no_adapter"),
        pytest.param("model", "init", "pretrained", id="pretrained_base"),
    ],
)
def test_another_seed_may_sample_from_weights_that_were_not_drawn(values, earlier, section, key, value):
    record = yaml.safe_load((earlier / "config.yaml").read_text())
    record[section][key] = value
    (earlier / "config.yaml").write_text(yaml.safe_dump(record))
    values |= {"task": "generate", "weights": str(earlier), "seed": 7}
    assert settle(values, ["weights", "seed"], CPU, Path("/")).config.seed == 7


def test_a_record_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(ConfigError, match=f"^{tmp_path} cannot be read: .*Is a directory"):
        read_record(tmp_path)


def test_foreign_weights_bring_nothing(values, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    assert find_records(foreign) == []
    assert settle({**values, "task": "generate", "weights": str(foreign)}, [], CPU, Path("/")).notes == []


def test_training_does_not_take_settings_from_weights(values, earlier):
    settled = settle({**values, "weights": str(earlier)}, ["weights"], CPU, Path("/"))
    assert settled.config.model.name == "composed"
    assert len(settled.warnings) == 1


def test_a_continued_run_keeps_its_settings(values, earlier):
    values |= {"run_dir": str(earlier), "resume": "auto", "seed": 7}
    values["optim"] = {"lr": 1.0, "weight_decay": 0.25}
    settled = settle(values, ["run_dir", "resume", "optim.weight_decay"], CPU, Path("/"))
    assert settled.config.optim.lr == 0.5
    assert settled.config.optim.weight_decay == 0.25
    assert settled.config.model.name == "earlier"
    assert settled.config.resume == "auto"
    assert settled.config.seed == 42
    assert "continuing the run of" in settled.notes[0]


def test_the_first_start_of_a_run_that_may_be_continued(values, tmp_path):
    settled = settle({**values, "run_dir": "new", "resume": "auto"}, [], CPU, tmp_path)
    assert settled.config.run_dir == str(tmp_path / "new")
    assert settled.notes == []


def test_a_record_that_does_not_parse_is_refused(values, earlier):
    (earlier / "config.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="config.yaml cannot be read"):
        settle({**values, "task": "generate", "weights": str(earlier)}, [], CPU, Path("/"))


def test_relative_paths_start_where_the_command_was_typed(values, tmp_path):
    (tmp_path / "prompts.txt").touch()
    (tmp_path / "here").mkdir()
    values["data"]["dir"] = "."
    values["model"]["tokenizer"] = "here"
    values |= {"task": "generate", "generate": {"input": "prompts.txt", "output": "a/b.jsonl"}}
    config = settle(values, [], CPU, tmp_path).config
    assert config.data.dir == str(tmp_path)
    assert config.model.tokenizer == str(tmp_path / "here")
    assert config.generate.input == str(tmp_path / "prompts.txt")
    assert config.generate.output == str(tmp_path / "a/b.jsonl")


def test_a_hub_id_stays_a_hub_id(values, tmp_path):
    assert settle(values, [], CPU, tmp_path).config.model.tokenizer == "some/tokenizer"


@pytest.mark.parametrize(
    ("task", "trainer", "gpus", "accelerator", "devices"),
    [
        pytest.param("train", {}, 0, "cpu", 1, id="no_gpu"),
        pytest.param("train", {}, 4, "cuda", 4, id="all_gpus"),
        pytest.param("train", {"devices": 2}, 4, "cuda", 2, id="some_gpus"),
        pytest.param("train", {"accelerator": "cpu"}, 4, "cpu", 1, id="no_gpu_wanted"),
        pytest.param("train", {"accelerator": "cpu", "devices": 2}, 0, "cpu", 2, id="cpu_processes"),
        pytest.param("generate", {}, 4, "cuda", 4, id="generation_is_divided"),
        pytest.param("chat", {}, 4, "cuda", 1, id="chat_is_not"),
        pytest.param("export", {"devices": 4}, 4, "cuda", 1, id="export_is_not"),
    ],
)
def test_devices_are_decided_before_the_worker_starts(
    values, tmp_path, task, trainer, gpus, accelerator, devices
):
    values |= {"task": task, "trainer": trainer, "weights": str(tmp_path) if task == "export" else None}
    config = settle(values, [], Machine(gpus, cores=8), tmp_path).config
    assert (config.trainer.accelerator, config.trainer.devices) == (accelerator, devices)


def test_problems_of_every_kind_are_told_together(values, tmp_path):
    values |= {"seed": "x", "optim": {"lr": -1}}
    with pytest.raises(ConfigError, match="known before") as refused:
        settle(
            values, [], CPU, tmp_path, problems=["known before"], rules=[lambda config: ["of another layer"]]
        )
    assert refused.value.problems == [
        "known before",
        "seed=x is not a whole number",
        "optim.lr=-1.0 must be at least 0 and finite",
        "of another layer",
    ]


def test_differences_name_the_keys_of_the_schema():
    assert differences({"optim": {"lr": 1}, "seed": 2}, {"optim": {"lr": 3}, "seed": 2}) == [
        ("optim.lr", 1, 3)
    ]


@pytest.mark.parametrize(
    ("path", "result"),
    [
        pytest.param(["a", "b"], {"a": {"b": 9, "c": 2}}, id="inner"),
        pytest.param(["a"], {"a": {"b": 9}}, id="whole"),
        pytest.param(["x"], {"a": {"b": 1, "c": 2}}, id="not_there"),
    ],
)
def test_put_changes_one_place(path, result):
    into = {"a": {"b": 1, "c": 2}}
    assert put(into, path, {"a": {"b": 9}}) == result
    assert into == {"a": {"b": 1, "c": 2}}


PUBLISHED = {
    "path": "owner/published",
    "revision": "abc",
    "architecture": {"model_type": "llama"},
    "tokenizer": None,
    "model_type": None,
}


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        pytest.param([], ("abc", {"model_type": "llama"}), id="the_options_own_model"),
        pytest.param(["model.path"], (None, {}), id="another_model"),
        pytest.param(["model.path", "model.revision"], ("abc", {}), id="and_its_revision"),
        pytest.param(
            ["model.path", "model.architecture.model_type"],
            (None, {"model_type": "llama"}),
            id="and_its_shape",
        ),
    ],
)
def test_a_revision_belongs_to_the_hub_id_of_its_option(values, typed, kept):
    values["model"] |= PUBLISHED
    model = settle(values, typed, CPU, Path("/")).config.model
    assert (model.revision, model.architecture) == kept


def test_random_weights_without_a_tokenizer_borrow_the_samples_and_say_so(values):
    values["model"] |= PUBLISHED
    settled = settle(values, [], CPU, Path("/"))
    assert settled.config.model.tokenizer == str(SAMPLE_TOKENIZER)
    assert (SAMPLE_TOKENIZER / "tokenizer.json").is_file()
    assert settled.notes == [
        f"model.tokenizer: the sample's own ({SAMPLE_TOKENIZER}), with random weights, since that of "
        "owner/published is not on this machine"
    ]


@pytest.mark.parametrize("where", ["HF_HUB_CACHE", "HF_HOME", "folder"])
def test_a_tokenizer_on_this_machine_is_kept(values, tmp_path, monkeypatch, where):
    values["model"] |= PUBLISHED
    if where == "folder":
        values["model"]["path"] = str(tmp_path)
        files = tmp_path
        (tmp_path / "config.json").write_text("{}")
    else:
        monkeypatch.delenv("HF_HUB_CACHE", raising=False)
        monkeypatch.setenv(where, str(tmp_path))
        hub = tmp_path / "hub" if where == "HF_HOME" else tmp_path
        files = hub / "models--owner--published" / "snapshots" / "abc"
        files.mkdir(parents=True)
    (files / "tokenizer.model").touch()
    settled = settle(values, [], CPU, Path("/"))
    assert settled.config.model.tokenizer is None
    assert settled.notes == []


@pytest.mark.parametrize(
    ("model", "adapter", "after_fit", "expected", "said"),
    [
        pytest.param({}, "none", None, True, 0, id="trained_whole"),
        pytest.param({}, "lora", None, False, 1, id="an_adapter_on_noise"),
        pytest.param({}, "lora", True, True, 0, id="on_request"),
        pytest.param(
            {"init": "pretrained", "path": "a/b"}, "lora", None, True, 0, id="an_adapter_on_a_model"
        ),
        pytest.param({}, "none", False, False, 0, id="not_wanted"),
    ],
)
def test_a_fit_is_followed_by_answers_unless_they_mean_nothing(
    values, model, adapter, after_fit, expected, said
):
    values["model"] |= model
    values |= {"adapter": {"name": adapter}, "eval": {"after_fit": after_fit}}
    settled = settle(values, [], CPU, Path("/"))
    assert settled.config.eval.after_fit is expected
    assert len([note for note in settled.notes if note.startswith("eval.after_fit=false: ")]) == said


def test_an_adapter_on_trained_weights_answers(values, earlier):
    values |= {"adapter": {"name": "lora"}, "weights": str(earlier)}
    assert settle(values, [], CPU, Path("/")).config.eval.after_fit is True


@pytest.mark.parametrize(
    ("template", "typed", "expected"),
    [
        pytest.param({"name": "own", "chat": True}, [], "plain", id="the_tokenizers_own"),
        pytest.param({"name": "own", "prompt": [{"token": "<|im|>"}, "{prompt}"]}, [], "plain", id="token"),
        pytest.param({"name": "own", "prompt": [{"token": "bos"}, "{prompt}"]}, [], "own", id="known_token"),
        pytest.param({"name": "own", "chat": True}, ["template"], "own", id="typed"),
    ],
)
def test_a_template_of_the_models_own_tokens_goes_with_its_tokenizer(values, template, typed, expected):
    values["model"] |= PUBLISHED
    values["template"] = template
    settled = settle(values, typed, CPU, Path("/"))
    assert settled.config.template.name == expected
    assert any(note.startswith("template=plain: template=own") for note in settled.notes) is (
        expected == "plain"
    )


@pytest.mark.parametrize("typed", [False, True])
def test_the_tokenizer_beside_weights_stands_in_for_one_that_is_gone(values, earlier, tmp_path, typed):
    values["model"]["tokenizer"] = str(tmp_path / "gone")
    record = asdict(config_from_dict(values))
    (earlier / "config.yaml").write_text(yaml.safe_dump(record))
    (earlier / "model" / "tokenizer.json").touch()
    values |= {"task": "generate", "weights": str(earlier)}
    if typed:
        with pytest.raises(ConfigError, match="model.tokenizer=.*gone is not there"):
            settle(values, ["model.tokenizer"], CPU, Path("/"))
        return
    settled = settle(values, [], CPU, Path("/"))
    assert settled.config.model.tokenizer == str(earlier / "model")
    assert f"model.tokenizer: {earlier / 'model'}, since {tmp_path / 'gone'} is gone" in settled.notes
