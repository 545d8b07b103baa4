"""Adapters that go on from earlier ones: started from, stacked on, or folded into the base."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medtune.config.schema import AdapterConfig, Config, ModelConfig, QuantizationConfig, TrainerConfig
from medtune.models.load import is_quantized, load_model
from medtune.models.merging import merge_adapter
from medtune.runtime.errors import ConfigError
from medtune.training.weights import write_adapter, write_model
from tests.numerics.test_adapters import logits, train

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
LORA = AdapterConfig("lora", rank=4, alpha=16.0)


@pytest.fixture
def config(tmp_path, tiny_tokenizer):
    """A model in a folder, as published ones are."""
    tokenizer = str(tmp_path / "tokenizer")
    tiny_tokenizer.save_pretrained(tokenizer)
    drawn = ModelConfig(init="random", model_type="llama", tokenizer=tokenizer, **SIZES)
    trainer = TrainerConfig(accelerator="cpu")
    load_model(Config(model=drawn), for_training=False).save_pretrained(tmp_path / "base")
    model = ModelConfig(path=str(tmp_path / "base"), tokenizer=tokenizer)
    return Config(model=model, adapter=LORA, trainer=trainer)


def trained(config: Config, folder: Path, seed: int, **adapter) -> torch.Tensor:
    """Trains an adapter as ``adapter`` changes the settings, writes it, and returns its logits."""
    config = replace(config, seed=seed, adapter=replace(config.adapter, **adapter))
    model = load_model(config, for_training=True)
    losses = train(model, steps=6, lr=5e-3)
    assert min(losses) < losses[0]
    write_adapter(model, model.state_dict(), folder)
    return logits(model)


def answers(config: Config, folder: Path) -> torch.Tensor:
    return logits(load_model(config, for_training=False, weights=str(folder)))


@pytest.fixture
def first(config, tmp_path):
    """An earlier adapter on other modules than the later ones."""
    trained(config, tmp_path / "first", 1, target_modules=["q_proj", "up_proj"])
    return tmp_path / "first"


def test_training_goes_on_where_an_adapter_stands(config, first, tmp_path):
    config.adapter = replace(LORA, start=str(first))
    model = load_model(config, for_training=True)
    torch.testing.assert_close(logits(model), answers(config, first))
    assert {name.split(".")[-4] for name, p in model.named_parameters() if p.requires_grad} == {
        "q_proj",
        "up_proj",
    }
    before = {name: p.clone() for name, p in model.named_parameters()}
    train(model.train())
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert all("lora_" in name for name in moved)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_stacked_adapter_is_written_with_those_below_it(config, first, tmp_path, quantization):
    config.quantization = QuantizationConfig(quantization)
    trained(config, tmp_path / "second", 2)
    below = {name: path.read_bytes() for path in first.iterdir() for name in [path.name]}
    expected = trained(config, tmp_path / "third", 3, stack=[str(first), str(tmp_path / "second")], rank=2)
    assert below == {path.name: path.read_bytes() for path in first.iterdir()}
    shutil.rmtree(first)
    shutil.rmtree(tmp_path / "second")
    torch.testing.assert_close(answers(config, tmp_path / "third"), expected, atol=1e-5, rtol=1e-5)
    merged = merge_adapter(load_model(config, for_training=False, weights=str(tmp_path / "third")))
    torch.testing.assert_close(logits(merged), expected, atol=1e-4, rtol=1e-4)


def test_the_stack_below_a_fresh_adapter_answers_as_its_sum(config, first):
    config.adapter = replace(LORA, stack=[str(first)])
    model = load_model(config, for_training=True)
    torch.testing.assert_close(logits(model), answers(config, first), atol=1e-5, rtol=1e-5)
    assert all(".default." in name for name, p in model.named_parameters() if p.requires_grad)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("name", ["lora", "ia3", "dora"])
def test_an_adapter_over_merged_ones_answers_without_their_folders(
    config, first, tmp_path, quantization, name
):
    """Each is folded in, by whatever method it was made; then the base is quantised."""
    trained(config, tmp_path / "second", 2, name=name)
    config.quantization = QuantizationConfig(quantization)
    expected = trained(config, tmp_path / "third", 3, merge=[str(first), str(tmp_path / "second")])
    shutil.rmtree(first)
    shutil.rmtree(tmp_path / "second")
    torch.testing.assert_close(answers(config, tmp_path / "third"), expected, atol=1e-5, rtol=1e-5)
    loaded = load_model(config, for_training=False, weights=str(tmp_path / "third"))
    assert is_quantized(loaded.get_base_model()) is (quantization == "nf4")
    torch.testing.assert_close(logits(merge_adapter(loaded)), expected, atol=1e-4, rtol=1e-4)


def test_a_prompt_before_merged_adapters_answers_without_their_folders(config, first, tmp_path):
    merged = logits(load_model(replace(config, adapter=replace(LORA, merge=[str(first)])), for_training=True))
    config.adapter = AdapterConfig("prompt_tuning", merge=[str(first)])
    model = load_model(config, for_training=True)
    write_adapter(model, model.state_dict(), tmp_path / "prompt")
    shutil.rmtree(first)
    torch.testing.assert_close(answers(config, tmp_path / "prompt"), merged)
    going_on = AdapterConfig("prompt_tuning", start=str(tmp_path / "prompt"))
    torch.testing.assert_close(
        logits(load_model(replace(config, adapter=going_on), for_training=True)), merged
    )


def test_what_lies_below_an_earlier_adapter_is_folded_in_once(config, first, tmp_path):
    trained(config, tmp_path / "second", 2, merge=[str(first)])
    expected = trained(config, tmp_path / "third", 3, merge=[str(first), str(tmp_path / "second")])
    alone = trained(config, tmp_path / "other", 3, merge=[str(tmp_path / "second")])
    assert torch.equal(expected, alone)
    assert len(list((tmp_path / "third" / "merged_adapters").iterdir())) == 2
    going_on = replace(config, adapter=replace(LORA, start=str(tmp_path / "third")))
    torch.testing.assert_close(logits(load_model(going_on, for_training=True)), expected)


def test_a_model_trained_over_a_merged_adapter_is_whole(config, first, tmp_path, tiny_tokenizer):
    config.adapter = AdapterConfig("freeze", last_layers=1, merge=[str(first)])
    model = load_model(config, for_training=True)
    torch.testing.assert_close(logits(model), answers(config, first), atol=1e-5, rtol=1e-5)
    train(model.train(), lr=1e-2)
    write_model(model, model.state_dict(), tiny_tokenizer, config, tmp_path / "whole")
    torch.testing.assert_close(answers(config, tmp_path / "whole"), logits(model))


def change(folder: Path, file: str, **values) -> None:
    path = folder / file
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(old | values))


@pytest.mark.parametrize("key", ["start", "stack", "merge"])
@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        pytest.param(
            "adapter_config.json",
            {"base_model_name_or_path": "hub/other"},
            "was trained on hub/other, but this run's base is .*base; set model.path",
            id="base",
        ),
        pytest.param(
            "medtune.json",
            {"model": {"model_type": "bloom"}},
            "was trained on a bloom, but this run's base is a llama",
            id="family",
        ),
        pytest.param(
            "medtune.json",
            {"model": {"rope_scaling": {"rope_type": "linear", "factor": 2}}},
            r"was trained with model.rope_scaling=.*linear.*; set the same",
            id="stretched",
        ),
        pytest.param("adapter_config.json", {"r": 3}, "does not fit this base: size mismatch", id="shape"),
        pytest.param(
            "adapter_config.json", {"target_modules": ["W_pack"]}, "does not fit this base", id="targets"
        ),
        pytest.param(
            "adapter_config.json", {"target_modules": ["q_proj"]}, "holds for layers that are not", id="more"
        ),
        pytest.param(
            "adapter_config.json",
            {"target_modules": ["q_proj", "up_proj", "v_proj"]},
            "lacks 4 tensors, such as",
            id="less",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning")
def test_an_adapter_of_another_base_is_refused(config, first, key, file, values, message):
    change(first, file, **values)
    config.adapter = replace(LORA, **{key: str(first) if key == "start" else [str(first)]})
    with pytest.raises(ConfigError, match=message):
        load_model(config, for_training=True)


def test_an_adapter_of_other_random_weights_is_refused(config, first):
    change(first, "medtune.json", model={"init": "random", "model_type": "llama"}, seed=5)
    config.model = ModelConfig(init="random", model_type="llama", tokenizer=config.model.tokenizer, **SIZES)
    config.adapter = replace(LORA, merge=[str(first)])
    with pytest.raises(ConfigError, match="random weights of seed=5, but this run draws .*; set seed=5"):
        load_model(config, for_training=True)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"name": "dora"}, "is a dora, and only low-rank updates"),
        ({"name": "ia3"}, "is a ia3, and only low-rank updates"),
        ({"modules_to_save": ["norm"]}, r"is a adapter with whole modules \(norm\)"),
    ],
)
def test_what_cannot_be_added_up_is_not_stacked(config, tmp_path, adapter, message):
    trained(config, tmp_path / "below", 1, **adapter)
    config.adapter = replace(LORA, stack=[str(tmp_path / "below")])
    with pytest.raises(ConfigError, match=message):
        load_model(config, for_training=True)


def test_another_method_does_not_go_on(config, first):
    config.adapter = AdapterConfig("ia3", start=str(first))
    with pytest.raises(ConfigError, match="is a lora adapter, but adapter=ia3; set adapter=lora"):
        load_model(config, for_training=True)


@pytest.mark.parametrize("names", [["embed_tokens", "lm_head"], ["norm"]])
def test_modules_that_are_trained_whole_are_saved_and_merged(config, tmp_path, names):
    expected = trained(config, tmp_path / "adapter", 1, modules_to_save=names)
    torch.testing.assert_close(answers(config, tmp_path / "adapter"), expected)
    model = load_model(config, for_training=False, weights=str(tmp_path / "adapter"))
    merged = merge_adapter(model)
    torch.testing.assert_close(logits(merged), expected, atol=1e-5, rtol=1e-5)
    for name in names:
        module = next(module for path, module in merged.named_modules() if path.endswith(name))
        assert len(list(module.children())) == 0
