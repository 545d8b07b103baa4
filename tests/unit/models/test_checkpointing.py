"""Gradient checkpointing really acts: the activations that a forward pass keeps, counted."""

import pytest
import torch

from medtune.config.schema import AdapterConfig, Config, ModelConfig, TrainerConfig
from medtune.models.attention import attention_inputs
from medtune.models.load import load_model
from medtune.models.trainable import CHECKPOINTING_FROM
from medtune.runtime.families import SAFE_FAMILIES

LENGTH = 96
SIZES = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4}


@pytest.fixture
def config(tmp_path, tiny_tokenizer):
    tiny_tokenizer.save_pretrained(tmp_path)
    model = ModelConfig(init="random", tokenizer=str(tmp_path), **SIZES)
    return Config(model=model, trainer=TrainerConfig(accelerator="cpu", precision="32-true"))


def kept_bytes(model):
    """What the forward pass of a packed row keeps for the backward pass, beside weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    documents = torch.repeat_interleave(torch.tensor([[1, 2, 3]]), LENGTH // 3, dim=1)
    positions = torch.arange(LENGTH // 3).repeat(3)[None]
    inputs = attention_inputs(
        model.config.model_type,
        model.config._attn_implementation,
        documents,
        positions,
        True,
        torch.float32,
    )
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(input_ids=torch.randint(4, 60, (1, LENGTH)), logits_to_keep=1, **inputs).logits
    logits.sum().backward()
    return sum(kept.values())


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("family", SAFE_FAMILIES)
def test_a_decoder_layer_keeps_its_input_alone(config, family, adapter):
    config.model.model_type, config.adapter = family, AdapterConfig(name=adapter)
    kept = {}
    for config.model.gradient_checkpointing in (False, True):
        model = load_model(config, for_training=True)
        assert model.training
        kept[config.model.gradient_checkpointing] = kept_bytes(model)
        assert any(p.grad is not None and p.grad.any() for p in model.parameters() if p.requires_grad)
    inputs = SIZES["num_hidden_layers"] * LENGTH * SIZES["hidden_size"] * 4
    shared = LENGTH * LENGTH * 4 * (SIZES["num_attention_heads"] + 1)  # mask and bias, positions, the norm
    assert kept[True] < inputs + shared + 8 * LENGTH * SIZES["hidden_size"] * 4
    assert kept[True] < 0.25 * kept[False]


def test_large_models_are_checkpointed_by_default(config):
    """Built without memory: 1.2 billion parameters, and 1.0 billion less a few."""
    config.model.model_type, config.model.num_hidden_layers = "llama", 1
    config.model.hidden_size = config.model.intermediate_size = 2048
    for vocabulary, expected in ((280_000, True), (230_000, False)):
        config.model.vocab_size = vocabulary
        model = load_model(config, for_training=True, place=False)
        assert (model.num_parameters() > CHECKPOINTING_FROM) is expected
        assert model.model.layers[0].gradient_checkpointing is expected
