import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

import medtune.models  # noqa: F401  (Baichuan becomes known to transformers)
from medtune.models.baichuan import (
    BaichuanConfig,
    BaichuanForCausalLM,
    NormHead,
)
from medtune.models.native_causal_lm import kept_positions

SIZES = {
    "vocab_size": 53,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
LAYOUTS = {"alibi": {}, "rotary": {"max_position_embeddings": 64}, "alibi_norm_head": {"norm_head": True}}


def build(attention="sdpa", **settings):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        BaichuanConfig(**SIZES | settings), attn_implementation=attention
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)  # so that the likeliest token stands out
    return model


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return LAYOUTS[request.param]


@pytest.fixture(params=["sdpa", "eager"])
def attention(request):
    return request.param


@pytest.mark.parametrize(
    ("settings", "rotary", "norm_head"),
    [
        pytest.param({"max_position_embeddings": 4096}, True, False, id="7b"),
        pytest.param({"model_max_length": 4096}, False, False, id="13b"),
        pytest.param(
            {"max_position_embeddings": 4096, "model_max_length": 4096, "vocab_size": 125696},
            True,
            True,
            id="baichuan2_7b",
        ),
        pytest.param({"model_max_length": 4096, "vocab_size": 125696}, False, True, id="baichuan2_13b"),
        pytest.param({"z_loss_weight": 0}, False, True, id="resized_baichuan2"),
        pytest.param({"norm_head": False, "vocab_size": 125696}, False, False, id="said_outright"),
    ],
)
def test_the_layout_is_read_from_the_configuration(settings, rotary, norm_head, tmp_path):
    config = BaichuanConfig(**settings)
    config.save_pretrained(tmp_path)
    for each in (config, AutoConfig.from_pretrained(tmp_path)):
        assert (each.uses_rotary_positions, each.norm_head) == (rotary, norm_head)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 30}, r"hidden_size \(30\) must be a multiple of num_attention_heads \(4\)"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
    ],
)
def test_a_configuration_that_is_no_baichuan_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        BaichuanConfig(**SIZES | settings)


@pytest.mark.parametrize("stored", [False, [False], True])
def test_the_hubs_checkpointing_key_has_no_effect(stored):
    """The original wraps it in a tuple, which is always true."""
    model = BaichuanForCausalLM(BaichuanConfig(**SIZES, gradient_checkpointing=stored))
    assert model.model.gradient_checkpointing is False
    assert not any(layer.gradient_checkpointing for layer in model.model.layers)


def test_decoding_with_a_cache_gives_the_logits_of_the_whole_row(layout, attention):
    model = build(attention, **layout)
    ids = torch.randint(3, 53, (2, 11))
    cache, pieces = None, []
    with torch.no_grad():
        whole = model(ids, use_cache=False).logits
        for piece in ids.split([5, 3, 1, 1, 1], dim=1):
            output = model(piece, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            pieces.append(output.logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-5, rtol=1e-4)


def test_left_padding_changes_no_answer(layout, attention):
    model = build(attention, **layout)
    prompts = [torch.randint(3, 53, (n,)) for n in (9, 4, 1)]
    ids = torch.zeros(3, 9, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, 9 - len(prompt) :], mask[row, 9 - len(prompt) :] = prompt, 1
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    together = model.generate(ids, attention_mask=mask, **settings)[:, 9:]
    for row, prompt in enumerate(prompts):
        alone = model.generate(prompt[None], attention_mask=torch.ones_like(prompt[None]), **settings)
        assert together[row].tolist() == alone[0, len(prompt) :].tolist()


def test_a_later_token_never_changes_an_earlier_logit(layout, attention):
    model = build(attention, **layout)
    ids = torch.randint(3, 53, (1, 8))
    changed = ids.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 53
    with torch.no_grad():
        before, after = model(ids).logits, model(changed).logits
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


def test_left_padding_in_train_mode_leaves_everything_finite(layout, attention):
    model = build(attention, **layout).train()
    mask = torch.tensor([[0, 0, 0, 1, 1, 1]])
    ids = torch.randint(3, 53, (1, 6)) * mask
    output = model(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100))
    output.loss.backward()
    assert output.logits.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param(2, id="the_last"),
        pytest.param(torch.tensor([0, 3]), id="columns"),
        pytest.param(torch.tensor([[0, 3], [1, 2]]), id="columns_per_row"),
        pytest.param(torch.tensor([[True, False, False, True], [False, True, True, True]]), id="a_mask"),
    ],
)
def test_only_the_asked_positions_are_projected(kept):
    model = build()
    ids = torch.randint(3, 53, (2, 4))
    with torch.no_grad():
        whole, some = model(ids).logits, model(ids, logits_to_keep=kept).logits
    torch.testing.assert_close(some, kept_positions(whole, kept))
    assert some.shape != whole.shape


def test_the_normalised_head_never_writes_its_weight():
    model = build(norm_head=True)
    before = model.lm_head.weight.detach().clone()
    ids = torch.randint(3, 53, (1, 5))
    with torch.no_grad():
        logits = model(ids).logits
        for training in (True, False):
            model.train(training)(ids)
        model.lm_head.weight.mul_(7)  # of no consequence: only directions count
        torch.testing.assert_close(model(ids).logits, logits)
    torch.testing.assert_close(model.lm_head.weight, before * 7)


def test_resizing_the_vocabulary_keeps_the_normalised_head():
    model = build(norm_head=True)
    ids = torch.randint(3, 53, (1, 5))
    with torch.no_grad():
        before = model(ids).logits
        model.resize_token_embeddings(60, mean_resizing=False)
        torch.testing.assert_close(model(ids).logits[..., :53], before)
    assert isinstance(model.lm_head, NormHead)
    assert model.config.norm_head


def test_nothing_is_lost_when_built_on_the_meta_device(layout):
    """Weights are the whole state: a model made of its state dict alone answers as the first."""
    model = build(**layout)
    assert not list(model.buffers())
    with torch.device("meta"):
        empty = BaichuanForCausalLM(model.config)
    empty.load_state_dict(model.state_dict(), assign=True)
    ids = torch.randint(3, 53, (1, 7))
    assert torch.equal(empty.eval()(ids).logits, model(ids).logits)


def test_autocast_keeps_the_loss_close_and_the_mask_in_the_products_type(layout, attention):
    model = build(attention, **layout)
    ids = torch.randint(3, 53, (2, 12))
    exact = model(ids, labels=ids).loss
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(ids, labels=ids).loss
    mixed.backward()
    assert mixed.item() == pytest.approx(exact.item(), rel=0.03)
    assert model.model.layers[0].self_attn.W_pack.weight.grad.dtype == torch.float32


def test_a_random_head_and_embedding_are_initialised_as_transformers_does():
    model = BaichuanForCausalLM(BaichuanConfig(**SIZES | {"vocab_size": 4000}, norm_head=True))
    for module in (model.lm_head, model.model.embed_tokens, model.model.layers[0].self_attn.W_pack):
        assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.model.norm.weight.eq(1).all()
    assert isinstance(model.get_output_embeddings(), nn.Linear)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either input_ids or inputs_embeds"),
        ({"input_ids": torch.ones(1, 2).long(), "output_attentions": True}, "attention weights are not kept"),
    ],
)
def test_arguments_that_cannot_be_served_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build()(**arguments)


def test_hidden_states_are_returned_on_request():
    model = build()
    ids = torch.randint(3, 53, (1, 5))
    states = model(ids, output_hidden_states=True).hidden_states
    assert len(states) == 3
    torch.testing.assert_close(model.lm_head(states[-1]), model(ids).logits)


def test_the_7b_layout_is_llama_with_one_fused_projection(attention):
    from transformers import LlamaConfig, LlamaForCausalLM

    model = build(attention, max_position_embeddings=64)
    weights = dict(model.state_dict())
    for layer in range(SIZES["num_hidden_layers"]):
        prefix = f"model.layers.{layer}.self_attn."
        for name, rows in zip("qkv", weights.pop(f"{prefix}W_pack.weight").chunk(3), strict=True):
            weights[f"{prefix}{name}_proj.weight"] = rows
    llama = LlamaForCausalLM(LlamaConfig(**SIZES, max_position_embeddings=64, rms_norm_eps=1e-6)).eval()
    llama.load_state_dict(weights)
    ids = torch.randint(3, 53, (2, 40))
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, llama(ids).logits, atol=1e-5, rtol=1e-4)


def test_the_normalised_head_measures_the_angle_to_each_row():
    model = build(norm_head=True)
    ids = torch.randint(3, 53, (1, 5))
    with torch.no_grad():
        hidden = model.model(ids).last_hidden_state
        lengths = model.lm_head.weight.norm(dim=1)
        torch.testing.assert_close(model(ids).logits * lengths, hidden @ model.lm_head.weight.T)


def test_the_normalised_head_has_the_gradients_of_a_matrix_of_unit_rows():
    head = NormHead(32, 53, bias=False)
    hidden = torch.randn(7, 32, requires_grad=True)
    found = torch.autograd.grad(head(hidden).sin().sum(), (hidden, head.weight))
    unit = torch.nn.functional.normalize(head.weight)
    expected = torch.autograd.grad((hidden @ unit.T).sin().sum(), (hidden, head.weight))
    torch.testing.assert_close(found, expected)
