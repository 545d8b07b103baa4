"""Baichuan against figures that the published code made on tiny seeded models, in fp32."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from medtune.models.attention import attention_inputs
from medtune.models.native_attention import alibi_slopes
from medtune.models.trainable import enable_checkpointing

TESTS = Path(__file__).parents[1]
# One variant lies with the tests; the others beside the repository, where they are at hand.
FOLDERS = {
    "13b_h5": TESTS / "fixtures" / "baichuan" / "13b_h5",
    **{
        name: TESTS.parents[1] / "shared" / "oracle" / "baichuan" / name.replace("_h4", "") / "h4"
        for name in ("7b_h4", "13b_h4", "b2_7b_h4", "b2_13b_h4")
    },
}
GRADIENTS = (
    "lm_head.weight",
    "model.embed_tokens.weight",
    "model.layers.0.input_layernorm.weight",
    "model.layers.0.self_attn.W_pack.weight",
    "model.layers.0.self_attn.o_proj.weight",
    "model.norm.weight",
)


@pytest.fixture(params=FOLDERS)
def oracle(request):
    """One variant: its folder, tensors and figures."""
    folder = FOLDERS[request.param]
    if not folder.is_dir():
        pytest.skip(f"the oracle {request.param} is not on this machine")
    figures = json.loads((folder / "oracle.json").read_text(encoding="utf-8"))
    return SimpleNamespace(folder=folder, tensors=load_file(folder / "io.safetensors"), figures=figures)


@pytest.fixture(params=["sdpa", "eager"])
def attention(request):
    return request.param


def load(oracle, attention="sdpa", **settings):
    model = AutoModelForCausalLM.from_pretrained(oracle.folder, attn_implementation=attention, **settings)
    assert type(model).__module__ == "medtune.models.baichuan"
    return model


def document_inputs(oracle, attention):
    tensors = oracle.tensors
    inputs = attention_inputs(
        "baichuan",
        attention,
        tensors["packed.segment_ids"],
        tensors["packed.position_ids"],
        True,
        torch.float32,
    )
    return {"input_ids": tensors["packed.input_ids"], **inputs}


@pytest.mark.parametrize("case", ["nopad", "right", "left"])
def test_logits_and_loss(oracle, attention, case):
    mask = oracle.tensors[f"{case}.attention_mask"]
    labels = oracle.tensors[f"{case}.labels"]
    with torch.no_grad():
        found = load(oracle, attention)(
            input_ids=oracle.tensors[f"{case}.input_ids"], attention_mask=mask, labels=labels
        )
    real = mask.bool()
    expected = oracle.tensors[f"{case}.eval.logits"][real]
    # The original's own two ways of computing the same logits differ by 2e-5.
    torch.testing.assert_close(found.logits[real], expected, atol=1e-4, rtol=0)
    assert found.loss.item() == pytest.approx(oracle.figures["cases"][case]["loss_eval"], abs=1e-5)


def test_packed_logits_and_loss(oracle, attention):
    real = oracle.tensors["packed.segment_ids"] > 0
    with torch.no_grad():
        found = load(oracle, attention)(
            **document_inputs(oracle, attention), labels=oracle.tensors["packed.labels"]
        )
    torch.testing.assert_close(found.logits[real], oracle.tensors["packed.logits"][real], atol=1e-4, rtol=0)
    assert found.loss.item() == pytest.approx(oracle.figures["cases"]["packed"]["loss"], abs=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "recomputed"])
@pytest.mark.parametrize("case", ["right", "packed"])
def test_gradients(oracle, attention, case, checkpointing):
    model = load(oracle, attention).train()
    if checkpointing:
        enable_checkpointing(model)
    if case == "packed":
        inputs = document_inputs(oracle, attention)
    else:
        inputs = {key: oracle.tensors[f"right.{key}"] for key in ("input_ids", "attention_mask")}
    model(**inputs, labels=oracle.tensors[f"{case}.labels"]).loss.backward()
    for name in GRADIENTS:
        expected = oracle.tensors[f"{case}.grad.{name}"]
        error = (model.get_parameter(name).grad - expected).abs().max() / expected.abs().max()
        assert error < 1e-4, name


def test_greedy_tokens_of_a_left_padded_batch(oracle, attention):
    prompts = oracle.tensors["left.input_ids"]
    found = load(oracle, attention).generate(
        prompts,
        attention_mask=oracle.tensors["left.attention_mask"],
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=None,
    )
    assert found.tolist() == oracle.tensors["left.greedy"].tolist()


@pytest.mark.parametrize("use_cache", [False, True])
def test_greedy_tokens_of_one_prompt(oracle, use_cache):
    prompt = oracle.tensors["nopad.input_ids"][:1, :9]
    found = load(oracle).generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=None,
        use_cache=use_cache,
    )
    assert found.tolist() == oracle.tensors["nopad.greedy_prompt9"].tolist()


@pytest.mark.parametrize("oracle", ["13b_h5", "13b_h4", "b2_13b_h4"], indirect=True)
def test_slopes(oracle):
    expected = oracle.figures["alibi_slopes"]
    assert alibi_slopes(len(expected)).tolist() == expected


@pytest.mark.parametrize("oracle", ["b2_7b_h4", "b2_13b_h4"], indirect=True)
def test_z_loss(oracle):
    key = "loss_nopad_with_z_loss_weight_0.01"
    model = load(oracle)
    model.config.z_loss_weight = 0.01
    with torch.no_grad():
        loss = model(input_ids=oracle.tensors["nopad.input_ids"], labels=oracle.tensors["nopad.labels"]).loss
    assert loss.item() == pytest.approx(oracle.figures[key], abs=1e-5)


def test_bfloat16_is_no_further_from_fp32_than_the_original(oracle, attention):
    """By the mean error over a row, which is stable; the largest differs threefold from row to row."""
    inputs = {"input_ids": oracle.tensors["nopad.input_ids"]}
    with torch.no_grad():
        logits = load(oracle, attention, dtype=torch.bfloat16)(**inputs).logits.float()
    error = (logits - oracle.tensors["nopad.eval.logits"]).abs().mean().item()
    assert error < 1.5 * oracle.figures["bf16_vs_fp32_T31"]["mean"]


def test_a_saved_model_loads_with_the_same_keys_and_logits(oracle, tmp_path):
    model = load(oracle)
    model.save_pretrained(tmp_path)
    stored = load_file(oracle.folder / "model.safetensors")
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == {name for name in stored if not name.endswith("rotary_emb.inv_freq")}
    assert all(torch.equal(saved[name], stored[name]) for name in saved)
    original = json.loads((oracle.folder / "config.json").read_text(encoding="utf-8"))
    written = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert {key: written.get(key) for key in original} == original
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    again.save_pretrained(tmp_path / "again")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes(), name
    inputs = {"input_ids": oracle.tensors["nopad.input_ids"]}
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, again(**inputs).logits)
