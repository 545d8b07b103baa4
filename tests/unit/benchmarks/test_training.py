"""The arithmetic of the training benchmark, worked out by hand, and its command line."""

import json
import re
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig

from benchmarks import bench_train
from benchmarks.training import cases, rows
from benchmarks.training.case import Case, shapes_of
from benchmarks.training.flops import Sizes, Work, bf16_peak, needed_flops, published_flops
from benchmarks.training.forecast import Recipe, activation_bytes, forecast
from benchmarks.training.runs import configuration
from medtune.models.network import network_class
from medtune.runtime.hardware import PROJECT

SIZES = Sizes(
    parameters=1000, layers=2, hidden=10, attention=8, keys=4, intermediate=20, vocabulary=30, body=700,
    adapters=50, adapted_inputs=40,
)  # fmt: skip
FULL = Recipe(
    trains_all=True, quantized=False, trained_bytes=2, frozen_bytes=2, product_bytes=2, checkpointing=False
)
LORA = replace(FULL, trains_all=False, trained_bytes=4)


def test_operations_are_those_that_the_tokens_need():
    """Documents of 3 and 2 tokens in a row of 8: 6 + 3 pairs."""
    work = Work(useful=5, computed=8, learned=2, pairs=9)
    attention = 12 * 2 * 8 * 9
    assert needed_flops(replace(SIZES, adapters=0), work, trains_all=True) == (
        6 * 700 * 5 + 6 * 30 * 10 * 2 + attention
    )
    assert needed_flops(SIZES, work, trains_all=False) == (
        4 * 700 * 5 + 6 * 50 * 5 + 4 * 30 * 10 * 2 + attention
    )
    assert published_flops(SIZES, work, sequence_length=8) == 5 * (6 * 1000 + 12 * 2 * 8 * 8)


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", None),
        ("Tesla T4", None),
    ],
)
def test_a_gpu_is_found_by_its_name(device, peak):
    assert bf16_peak(device) == peak


@pytest.mark.parametrize(
    ("recipe", "weights", "trained"),
    [
        pytest.param(FULL, 1000 * 2, 1000 * 2, id="bf16"),
        pytest.param(replace(FULL, trained_bytes=4), 1000 * (4 + 2), 1000 * 4, id="mixed_with_copies"),
        pytest.param(LORA, 1000 * 2 + 50 * 4, 50 * 4, id="lora"),
        pytest.param(
            replace(LORA, quantized=True),
            700 * (0.5 + 1 / 64 + 1 / 4096) + 300 * 2 + 50 * 4,
            50 * 4,
            id="qlora",
        ),
    ],
)
def test_weights_gradients_and_moments(recipe, weights, trained):
    found = forecast(SIZES, recipe, tokens=16, learned=3, logits_at_once=64)
    assert found.weights == pytest.approx(weights)
    assert found.gradients == trained
    assert found.optimizer == 2 * trained
    assert found.logits == 64 * 16  # of the 90 that a chunk does not hold
    assert found.total == pytest.approx(weights + 3 * trained + found.activations + 64 * 16)


def test_activations_of_kept_and_recomputed_layers():
    """A layer keeps 8 * 10 + 3 * 8 + 2 * 4 + 4 * 20 = 192 numbers of a token, its adapters 20 and a mask."""
    plain = replace(SIZES, adapters=0, adapted_inputs=0)
    assert activation_bytes(plain, FULL, tokens=5) == 5 * (2 * 192 * 2 + 192 * 2)
    assert activation_bytes(SIZES, FULL, tokens=1) == 2 * (384 + 20 * 3) + 384
    recomputed = replace(FULL, checkpointing=True)
    assert activation_bytes(plain, recomputed, tokens=5) == 5 * (2 * 10 * 2 + 2 * 384)


@pytest.mark.parametrize("family", ["llama", "qwen2", "baichuan"])
def test_what_a_layer_keeps_is_what_networks_keep(family):
    """By torch's own hooks, in bfloat16: two layers more of a network and the forecast's."""
    sizes = Sizes(0, 2, 128, 128, 128, 344, 64, 0)
    expected = activation_bytes(sizes, FULL, 64) / 3 * 2  # without the layer that is at work
    assert kept_bytes(family, 4) - kept_bytes(family, 2) == pytest.approx(expected, rel=0.15)


def kept_bytes(family, layers):
    """What the forward pass of 64 tokens keeps for the backward pass, parameters left out."""
    network = AutoConfig.for_model(
        family, vocab_size=64, hidden_size=128, intermediate_size=344, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    model = network_class(network)._from_config(network, attn_implementation="sdpa", dtype=torch.bfloat16)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model.train().base_model(input_ids=torch.zeros(1, 64, dtype=torch.long), use_cache=False)
    del output
    return sum(kept.values())


def test_sizes_are_those_of_the_network(tmp_path, monkeypatch):
    """The tiny model by its option: three layers of width 128 with 4 heads and 320 in between, rank 8."""
    monkeypatch.setattr("benchmarks.training.case.long_records", list)
    case = Case("tiny", "lora", 512, "cpu")
    sizes, recipe = shapes_of(configuration(tmp_path, case.overrides()))
    layer = 128 * 384 + 128 * 128 + 3 * 128 * 320 + 2 * 128
    inputs = 128 + 128 + 2 * 128 + 320
    outputs = 384 + 128 + 2 * 320 + 128
    assert (sizes.layers, sizes.hidden, sizes.attention, sizes.intermediate) == (3, 128, 128, 320)
    assert sizes.body == 3 * layer
    assert sizes.parameters == 3 * layer + 128 + sizes.vocabulary * 128  # the head is the embedding
    assert sizes.adapters == 3 * 8 * (inputs + outputs)
    assert sizes.adapted_inputs == 3 * inputs
    assert recipe == replace(LORA, frozen_bytes=4)  # tiny has no files whose type it could keep


def test_a_ratio_counts_useful_tokens(monkeypatch):
    """Padded: 100 useful of 400 in 2 s; packed: 300 of 300 in 1 s: six times as many a second."""
    found = {
        "padded": {"useful": 100, "computed": 400, "cpu_s": 2.0},
        "packed": {"useful": 300, "computed": 300, "cpu_s": 1.0},
    }
    monkeypatch.setattr(rows, "run_child", lambda module, kind: found[kind])
    ratio, tokens, *_ = rows.figures()
    assert (ratio.value, ratio.ok) == (6.0, True)
    assert tokens.value == 4.0


def test_a_case_without_memory_is_a_line_and_the_next_goes_on():
    case = Case("baichuan7b", "full", 2048, "cuda")
    (line,) = cases.figures_of(case, {"failed": "out of memory", "forecast": {"total": 60e9}})
    assert line.name == "baichuan7b full 2048: out of memory; forecast"
    assert (line.value, line.ok) == (60.0, None)
    assert cases.why(-9, "", PROJECT / "log") == "killed, as for the machine's memory"
    assert cases.why(1, "Traceback\nValueError: bad\n\n", PROJECT / "log") == "ValueError: bad (log)"


def test_every_model_in_every_mode_and_length():
    arguments = [
        "--device",
        "cpu",
        "--models",
        "tiny,tiny_llama",
        "--modes",
        "full,lora",
        "--lengths",
        "64,128",
        "--steps",
        "2",
    ]
    found = bench_train.cases(bench_train.read(arguments))
    assert [case.name for case in found[:3]] == ["tiny full 64", "tiny full 128", "tiny lora 64"]
    assert len(found) == 8
    assert {case.steps for case in found} == {2}
    assert Case(**json.loads(json.dumps(vars(found[0])))) == found[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--device cpu --models tinny", "--models tinny: conf/model has .*tiny"),
        ("--device cpu --modes qlora,fuller", "--modes fuller: there are full, lora, qlora"),
        ("--device cpu --hidden 100", "--hidden 100 is not a multiple of 64"),
        ("--device cpu --steps 0", "0 is below 1"),
    ],
)
def test_what_cannot_be_run_is_said(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        bench_train.read(arguments.split())
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the machine has a GPU")
def test_a_gpu_that_is_not_there_is_said(capsys):
    with pytest.raises(SystemExit, match="2"):
        bench_train.read(["--device", "cuda"])
    assert "--device cuda: torch sees no GPU" in capsys.readouterr().err
