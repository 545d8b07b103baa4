"""BLOOM against transformers' own, which knows no packing and eager attention only."""

import copy

import pytest
import torch
from transformers import BloomConfig
from transformers.models.bloom.modeling_bloom import BloomForCausalLM as Original

from medtune.models.bloom import BloomForCausalLM
from medtune.models.network import network_class
from medtune.models.trainable import enable_checkpointing

PADDED = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1, 1]])


@pytest.fixture(params=[False, True], ids=["before_norm", "after_norm"])
def original(request):
    """A random model of six heads, no power of two, whose likeliest token stands out."""
    settings = BloomConfig(
        vocab_size=61,
        hidden_size=48,
        n_layer=2,
        n_head=6,
        apply_residual_connection_post_layernorm=request.param,
    )
    model = Original(settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6 if parameter.dim() > 1 else 1).add_(0.02 * torch.randn_like(parameter))
    return model


@pytest.fixture(params=["eager", "sdpa"])
def ours(request, original):
    settings = copy.deepcopy(original.config)
    model = network_class(settings)._from_config(settings, attn_implementation=request.param).eval()
    assert type(model) is BloomForCausalLM
    model.load_state_dict(original.state_dict())
    return model


@pytest.fixture
def ids():
    return torch.randint(4, 61, PADDED.shape)


def test_logits_of_a_left_padded_batch(original, ours, ids):
    real = PADDED.bool()
    expected = original(ids, attention_mask=PADDED).logits[real]
    torch.testing.assert_close(ours(ids, attention_mask=PADDED).logits[real], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients(original, ours, ids, checkpointing):
    if checkpointing:
        enable_checkpointing(ours)
    losses = [model.train()(ids, labels=ids).loss for model in (original, ours)]
    torch.testing.assert_close(losses[1], losses[0])
    for loss in losses:
        loss.backward()
    for (name, expected), found in zip(original.named_parameters(), ours.parameters(), strict=True):
        error = (found.grad - expected.grad).abs().max() / expected.grad.abs().max()
        assert error < 1e-5, name


def test_greedy_tokens_of_a_left_padded_batch(original, ours, ids):
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 3}
    expected = original.generate(ids, attention_mask=PADDED, **settings)
    assert ours.generate(ids, attention_mask=PADDED, **settings).tolist() == expected.tolist()


def test_hidden_states(original, ours, ids):
    found, expected = (model(ids, output_hidden_states=True).hidden_states for model in (ours, original))
    for each, due in zip(found, expected, strict=True):
        torch.testing.assert_close(each, due, atol=1e-5, rtol=1e-5)


def test_a_saved_model_is_read_by_transformers_own_class(original, ours, ids, tmp_path):
    ours.save_pretrained(tmp_path)
    again = Original.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(ids).logits, original(ids).logits)
    assert again.config.architectures == ["BloomForCausalLM"]


@pytest.mark.parametrize("key", ["attention_dropout", "hidden_dropout"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_dropout_acts_in_train_mode_only(ids, key, attention):
    settings = BloomConfig(vocab_size=61, hidden_size=48, n_layer=2, n_head=6, **{key: 0.5})
    model = BloomForCausalLM._from_config(settings, attn_implementation=attention).eval()
    assert torch.equal(model(ids).logits, model(ids).logits)
    assert not torch.equal(model.train()(ids).logits, model(ids).logits)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either input_ids or inputs_embeds"),
        ({"input_ids": torch.ones(1, 2).long(), "output_attentions": True}, "attention weights are not kept"),
    ],
)
def test_arguments_that_cannot_be_served_are_refused(ours, arguments, message):
    with pytest.raises(ValueError, match=message):
        ours(**arguments)
