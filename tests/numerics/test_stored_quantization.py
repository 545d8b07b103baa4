"""Bases whose files hold quantised weights: made here by bitsandbytes; GPTQ and AWQ up to their refusal."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from medtune.config.schema import AdapterConfig, Config, ModelConfig, QuantizationConfig, TrainerConfig
from medtune.models.load import load_model
from medtune.models.merging import merge_adapter
from medtune.runtime.errors import ConfigError
from medtune.training.weights import write_adapter
from tests.numerics.test_adapters import SIZES, logits, train

SETTINGS = {
    "nf4": BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,  # of the run that wrote it; here it is float32
    ),
    "int8": BitsAndBytesConfig(load_in_8bit=True),
}


@pytest.fixture
def config(tmp_path, tiny_tokenizer):
    """A plain model in a folder."""
    tokenizer = str(tmp_path / "tokenizer")
    tiny_tokenizer.save_pretrained(tokenizer)
    drawn = ModelConfig(init="random", model_type="llama", tokenizer=tokenizer, **SIZES)
    trainer = TrainerConfig(accelerator="cpu")
    load_model(Config(model=drawn), for_training=False).save_pretrained(tmp_path / "plain")
    model = ModelConfig(path=str(tmp_path / "plain"), tokenizer=tokenizer)
    return Config(model=model, adapter=AdapterConfig("lora", alpha=32.0), trainer=trainer)


@pytest.fixture(params=SETTINGS)
def stored(request, config, tmp_path):
    """The same, its weights quantised in the files."""
    model = AutoModelForCausalLM.from_pretrained(
        config.model.path, quantization_config=SETTINGS[request.param], dtype=torch.float32
    )
    model.save_pretrained(tmp_path / "stored")
    return replace(config, model=replace(config.model, path=str(tmp_path / "stored"))), request.param


def test_it_is_the_base_that_quantising_while_loading_makes(config, stored):
    here = replace(config, quantization=QuantizationConfig(stored[1]), adapter=AdapterConfig())
    there = replace(stored[0], adapter=AdapterConfig())
    found, expected = (logits(load_model(each, for_training=False)) for each in (there, here))
    assert torch.equal(found, expected)


def test_an_adapter_learns_on_it_and_is_saved_loaded_and_merged(stored, tmp_path):
    settings, kind = stored
    model = load_model(settings, for_training=True)
    losses = train(model)
    assert losses[-1] < losses[0] - 0.1
    trained = logits(model)
    write_adapter(model, model.state_dict(), tmp_path / "adapter")
    loaded = load_model(settings, for_training=False, weights=str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(loaded), trained, atol=1e-5, rtol=1e-5)
    merged = merge_adapter(loaded)
    # int8 rounds activations, which ends with the merge: see test_adapters.py.
    torch.testing.assert_close(logits(merged), trained, atol=0.05 if kind == "int8" else 1e-4, rtol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantization": QuantizationConfig("nf4")}, "they are quantised already; set quantization=none"),
        (
            {"adapter": AdapterConfig()},
            "they cannot be trained themselves, as adapter=none would; set",
        ),
        ({"adapter": AdapterConfig("lora", merge=["earlier"])}, "adapter.merge cannot fold anything into"),
    ],
)
@pytest.mark.parametrize("stored", ["nf4"], indirect=True)
def test_what_cannot_be_done_with_it_is_refused(stored, change, message, tmp_path):
    settings = replace(stored[0], **change)
    if settings.adapter.merge:
        model = load_model(stored[0], for_training=True)
        write_adapter(model, model.state_dict(), tmp_path / "earlier")
        settings.adapter = replace(settings.adapter, merge=[str(tmp_path / "earlier")])
    with pytest.raises(ConfigError, match=f"holds bitsandbytes weights: {message}"):
        load_model(settings, for_training=True)


@pytest.mark.parametrize(
    ("method", "packages"), [("gptq", "pip install gptqmodel optimum"), ("awq", "pip install gptqmodel")]
)
@pytest.mark.parametrize(
    ("adapter", "reason"),
    [("lora", "their kernels are for GPUs"), ("dora", "adapter=dora is not made for them; set adapter=lora")],
)
def test_gptq_and_awq_say_what_they_need(config, tmp_path, method, packages, adapter, reason):
    file = tmp_path / "plain" / "config.json"
    settings = json.loads(file.read_text())
    stored = {"quant_method": method, "bits": 4, "group_size": 64}
    file.write_text(json.dumps(settings | {"quantization_config": stored}))
    config.adapter = AdapterConfig(adapter)
    with pytest.raises(ConfigError) as refused:
        load_model(config, for_training=True)
    told = "\n".join(refused.value.problems)
    assert f"holds {method} weights: reading them needs packages that are not here: {packages}" in told
    assert reason in told
