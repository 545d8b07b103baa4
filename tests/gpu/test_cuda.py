"""On one CUDA device: what the CPU tests hold, where kernels and number formats differ."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig

from medtune.config.schema import Config, ModelConfig, QuantizationConfig
from medtune.generation.engine import TransformersEngine
from medtune.generation.settings import SamplingSettings
from medtune.models.attention import attention_inputs
from medtune.models.fused import use_fused_layers
from medtune.models.load import load_model
from medtune.models.network import network_class
from medtune.models.trainable import enable_checkpointing
from medtune.runtime.hardware import PROJECT
from medtune.training.token_losses import TokenLosses

pytestmark = pytest.mark.gpu

LENGTHS = (7, 1, 12, 5)  # one document of a single token
PADDING = 3
SIZES = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
}
NETWORKS = {
    "baichuan_alibi": ("baichuan", {}),
    "baichuan_rotary": ("baichuan", {"max_position_embeddings": 64}),
    "bloom": ("bloom", {}),
    "llama": ("llama", {"num_key_value_heads": 2, "max_position_embeddings": 64}),
}
# Largest difference of two logits of size 1: TF32 is off in float32, bfloat16 keeps 8 bits and adds in
# another order in a packed row.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
SMALL = (
    "trainer.accelerator=cuda",
    "trainer.devices=1",
    "model.hidden_size=64",
    "model.intermediate_size=64",
    "model.num_hidden_layers=1",
    "model.num_attention_heads=2",
    "data.max_examples=60",
    "data.sequence_length=256",
    "data.global_batch_size=4",
    "eval.limit=12",
    "eval.untrained=false",
    "generate.max_new_tokens=6",
)


@pytest.fixture(params=NETWORKS)
def network(request):
    model_type, settings = NETWORKS[request.param]
    return AutoConfig.for_model(model_type, **SIZES, **settings)


@pytest.fixture(params=TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request):
    return request.param


@pytest.fixture
def row():
    """One row of four documents and padding, on the device: ids, document ids, positions."""
    documents = torch.tensor([i + 1 for i, n in enumerate(LENGTHS) for _ in range(n)] + [0] * PADDING)
    positions = torch.tensor([p for n in (*LENGTHS, PADDING) for p in range(n)])
    ids = torch.randint(1, SIZES["vocab_size"], documents.shape) * (documents > 0)
    return SimpleNamespace(
        ids=ids[None].cuda(), documents=documents[None].cuda(), positions=positions[None].cuda()
    )


@pytest.fixture(params=["sdpa", "flex_attention", "flash_attention_2"])
def attention(request, dtype):
    if request.param == "flash_attention_2":
        pytest.importorskip("flash_attn", reason="flash_attn has to be built for the machine")
        if dtype == torch.float32:
            pytest.skip("flash_attn computes in half precision only")
    return request.param


def build(network, dtype, attention="sdpa"):
    """A random model whose attention is sharp, so that a leak shows."""
    model = network_class(network)._from_config(network, attn_implementation=attention, dtype=dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "head" not in name:
                parameter.mul_(6)
    return model.to("cuda", dtype).eval()


@torch.no_grad()
def logits_packed(model, network, row, documents):
    inputs = attention_inputs(
        network.model_type, model.config._attn_implementation, documents, row.positions, True, model.dtype
    )
    return model(input_ids=row.ids, **inputs).logits[row.documents > 0].float()


@torch.no_grad()
def logits_alone(model, row):
    alone = [
        model(input_ids=row.ids[row.documents == number][None], use_cache=False).logits[0]
        for number in range(1, len(LENGTHS) + 1)
    ]
    return torch.cat(alone).float()


def test_a_packed_document_has_the_logits_that_it_has_alone(network, dtype, attention, row):
    model = build(network, dtype, attention)
    found = logits_packed(model, network, row, row.documents)
    model.config._attn_implementation = "sdpa"
    torch.testing.assert_close(found, logits_alone(model, row), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("recomputed", [False, True])
def test_every_kernel_gives_the_gradients_of_sdpa(network, dtype, attention, row, recomputed):
    """Relative to the largest of each weight; packed rows of two lengths, as they come in a run."""
    model = build(network, dtype, attention).train()
    if recomputed:
        enable_checkpointing(model)
    gradients = []
    for kernel in (attention, "sdpa"):
        model.config._attn_implementation = kernel
        model.zero_grad()
        for length in (row.ids.shape[1], row.ids.shape[1] - PADDING):
            ids, documents, positions = (x[:, :length] for x in (row.ids, row.documents, row.positions))
            inputs = attention_inputs(network.model_type, kernel, documents, positions, True, dtype)
            logits = model(input_ids=ids, **inputs).logits[documents > 0].float()
            logits.log_softmax(-1)[:, 5].sum().backward()
        gradients.append({name: p.grad.float() for name, p in model.named_parameters()})
    for name, expected in gradients[1].items():
        error = (gradients[0][name] - expected).abs().max() / expected.abs().max().clamp_min(1e-6)
        assert error < TOLERANCE[dtype] * 5, name


@pytest.mark.parametrize("tied", [False, True])
def test_ligers_loss_is_the_chunked_one(tied):
    pytest.importorskip("liger_kernel", reason="of the extra gpu, which is not installed")
    sizes = {**SIZES, "num_key_value_heads": 2, "tie_word_embeddings": tied}
    model = build(AutoConfig.for_model("llama", **sizes), torch.float32).train()
    ids = torch.randint(1, SIZES["vocab_size"], (2, 24), device="cuda")
    columns = torch.arange(23, device="cuda")
    batch = {
        "columns": columns,
        "learned": torch.arange(46, device="cuda"),
        "next_labels": ids[:, 1:].flatten(),
    }
    results = []
    for fused in (False, True):
        model.zero_grad()
        loss = TokenLosses(model, fused)({"input_ids": ids, "use_cache": False}, batch).sum()
        loss.backward()
        results.append((loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-5, atol=1e-4)
    for name, expected in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], expected, rtol=1e-3, atol=1e-4)


def test_ligers_layers_answer_as_transformers_own():
    pytest.importorskip("liger_kernel", reason="of the extra gpu, which is not installed")
    sizes = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 64}
    model = build(AutoConfig.for_model("qwen3", **sizes, head_dim=16), torch.float32).eval()
    ids = torch.randint(1, SIZES["vocab_size"], (2, 24), device="cuda")
    with torch.no_grad():
        expected = model(ids).logits
        use_fused_layers(model)
        torch.testing.assert_close(model(ids).logits, expected, rtol=1e-3, atol=1e-3)


def test_the_comparison_notices_documents_that_see_each_other(network, row):
    model = build(network, torch.float32)
    leaking = logits_packed(model, network, row, (row.documents > 0).long())
    first = LENGTHS[0]
    assert (leaking - logits_alone(model, row))[first:].abs().max() > 0.05


def test_greedy_answers_equal_those_of_the_cpu_in_float32(make_tiny_llama):
    # Weights eight times as large as transformers', so that rounding cannot change the likeliest token.
    model = make_tiny_llama(scale=8.0)
    prompts = [torch.randint(4, 128, (length,)).tolist() for length in (5, 40, 1, 23, 64)]
    settings = SamplingSettings(max_new_tokens=24)
    expected = TransformersEngine(model, []).generate(prompts, settings)
    on_device = copy.deepcopy(model).cuda()
    assert TransformersEngine(on_device, []).generate(prompts, settings) == expected


def quantised_config() -> Config:
    config = Config(
        model=ModelConfig(
            init="random",
            model_type="llama",
            tokenizer=str(PROJECT / "data" / "sample" / "tokenizer"),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
        ),
        quantization=QuantizationConfig(name="nf4"),
    )
    config.adapter.name = "lora"
    config.trainer.precision = "bf16-mixed"
    return config


def test_a_step_on_a_quantised_base_moves_the_adapter_alone():
    model = load_model(quantised_config(), for_training=True).cuda()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items()}
    assert any(p.dtype == torch.uint8 for p in frozen.values()), "no weight is stored in 4 bits"
    ids = torch.randint(4, 100, (2, 16), device="cuda")
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    losses = []
    for _ in range(5):
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert any(not torch.equal(p.detach(), before[name]) for name, p in trained.items())
    for name, parameter in model.named_parameters():
        if name in frozen:
            assert torch.equal(parameter.detach(), frozen[name]), name


def run_medtune(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "medtune", *arguments],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_a_run_learns_answers_and_scores(tmp_path: Path, precision):
    run_dir = tmp_path / "run"
    run_medtune(
        *SMALL,
        f"run_dir={run_dir}",
        f"data.cache_dir={tmp_path}/cache",
        f"trainer.precision={precision}",
        "trainer.max_steps=30",
        "trainer.log_every_n_steps=5",
        "optim.lr=3e-3",
    )
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert losses[-1] < losses[0] - 0.5
    result = json.loads((run_dir / "result.json").read_text())
    assert (result["status"], result["global_step"]) == ("finished", 30)
    assert set(json.loads((run_dir / "scores.json").read_text())["splits"]) == {"test", "new_words"}
    dtype = json.loads((run_dir / "model" / "config.json").read_text())["dtype"]
    assert dtype == ("bfloat16" if precision == "bf16-true" else "float32")


WAYS = {
    "float16_with_a_scaled_loss": ("model=tiny_llama", "trainer.precision=16-mixed"),
    "paged_8_bit_state": ("optim=paged_adamw_8bit",),
    "8_bit_lion": ("optim=lion_8bit",),
    "adafactor": ("optim=adafactor", "optim.lr=0.02"),
    "compiled": ("trainer.compile=true",),
    "deterministic": ("deterministic=true",),
    "checkpoints_in_the_background": ("checkpoint.asynchronous=true", "checkpoint.every_n_steps=5"),
    "nf4_lora": ("adapter=lora", "quantization=nf4"),
    "int8_rslora": ("adapter=rslora", "quantization=int8"),
    "fp4_dora": ("adapter=dora", "quantization=fp4"),
    "prompt_tuning": ("adapter=prompt_tuning", "optim.lr=0.1"),
    "fsdp_nf4": ("strategy=fsdp", "adapter=lora", "quantization=nf4"),
    "zero3": ("strategy=zero3",),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_train_lowers_the_loss(tmp_path: Path, way):
    run_dir = tmp_path / "run"
    run_medtune(
        *SMALL,
        f"run_dir={run_dir}",
        f"data.cache_dir={tmp_path}/cache",
        "trainer.max_steps=20",
        "trainer.log_every_n_steps=5",
        "eval.after_fit=false",
        "optim.lr=3e-3",
        *WAYS[way],
    )
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert losses[-1] < losses[0]
