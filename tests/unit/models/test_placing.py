"""Weights get their values, types and places part by part."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from medtune.config.schema import AdapterConfig, Config, ModelConfig, TrainerConfig
from medtune.models.adapters import add_adapter
from medtune.models.network import network_class
from medtune.models.placing import (
    answering_types,
    cast,
    decoder_layers,
    draw,
    is_drawn,
    parts,
    place_whole,
    prepare_for,
    training_types,
)

ROOT = Path(__file__).parents[3]
SIZES = {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
FAMILIES = {
    "baichuan": {"intermediate_size": 96},
    "bloom": {},
    "llama": {"intermediate_size": 96},
    "qwen3": {"intermediate_size": 96},
    "gpt2": {"vocab_size": 300},
}
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16


def on_meta(model_type, **settings):
    settings = AutoConfig.for_model(model_type, **SIZES | FAMILIES[model_type] | settings)
    with torch.device("meta"):
        return network_class(settings)._from_config(settings, dtype=FP32).eval()


def drawn(model, seed=3):
    for part in parts(model):
        draw(model, part, seed)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_drawn_weights_have_the_deviations_that_transformers_gives_them(family):
    """Also those that depend on the depth of the network (GPT-2's projections)."""
    model = on_meta(family)
    assert not is_drawn(model)
    drawn(model)
    assert is_drawn(model)
    expected = network_class(model.config)(model.config)
    for (name, found), due in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert found.dtype == FP32
        found, due = found.detach(), due.detach()
        assert float(found.std()) == pytest.approx(float(due.std()), rel=0.15, abs=1e-7), name
        assert float(found.mean()) == pytest.approx(float(due.mean()), abs=3e-3), name
    for (name, found), due in zip(model.named_buffers(), expected.buffers(), strict=True):
        assert torch.equal(found, due), name


@pytest.mark.parametrize("tied", [False, True])
def test_a_tied_head_stays_the_embedding_and_padding_stays_zero(tied):
    model = drawn(on_meta("llama", tie_word_embeddings=tied, pad_token_id=5))
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied
    assert not model.model.embed_tokens.weight[5].any()
    assert model.model.embed_tokens.weight[6].any()


def test_values_depend_on_the_seed_and_the_name_alone():
    one, other = drawn(on_meta("llama")), drawn(on_meta("llama"))
    deeper = drawn(on_meta("llama", num_hidden_layers=3))
    torch.manual_seed(99)
    backwards = on_meta("llama")
    for part in [*reversed(decoder_layers(backwards)), backwards]:
        draw(backwards, part, 3)
    for name, value in one.state_dict().items():
        for model in (other, deeper, backwards):
            assert torch.equal(model.state_dict()[name], value), name
    changed = drawn(on_meta("llama"), seed=4).state_dict()
    assert not torch.equal(
        changed["model.layers.0.mlp.up_proj.weight"], one.model.layers[0].mlp.up_proj.weight
    )
    layers = [layer.mlp.up_proj.weight for layer in one.model.layers]
    assert not torch.equal(*layers)


def test_values_are_drawn_on_the_cpu_in_float32_whatever_is_the_default():
    """Lightning builds under the context of a strategy and of a precision."""
    expected = drawn(on_meta("llama")).state_dict()
    model = on_meta("llama")
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            drawn(model)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_an_adapter_that_answers_keeps_its_own_type():
    config = Config(adapter=AdapterConfig(name="lora"), model=ModelConfig(dtype="bfloat16"))
    adapted = add_adapter(on_meta("llama"), config)
    place_whole(adapted, prepare_for(adapted, config, for_training=False))
    for name, parameter in adapted.named_parameters():
        assert parameter.dtype == (FP32 if "lora_" in name else BF16), name


def test_drawing_leaves_the_random_stream_where_it_was():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    drawn(on_meta("baichuan"))
    assert torch.equal(torch.rand(1), expected)


def test_an_adapter_on_shapes_starts_as_one_that_changes_nothing():
    """The base has the values that it has without the adapter, the adapter those of peft's own start."""
    config = Config(
        adapter=AdapterConfig(name="lora", rank=4), trainer=TrainerConfig(precision="32-true"), seed=3
    )
    adapted = add_adapter(on_meta("llama"), config)
    assert not is_drawn(adapted)
    place_whole(adapted, prepare_for(adapted, config, for_training=True))
    assert is_drawn(adapted)
    base = drawn(on_meta("llama"))
    ids = torch.arange(5, 25)[None]
    assert torch.equal(adapted.eval()(input_ids=ids).logits, base(input_ids=ids).logits)
    for name, parameter in adapted.named_parameters():
        assert parameter.requires_grad is ("lora_" in name)
        if "lora_" in name:
            assert bool(parameter.any()) is ("lora_A" in name), name


@pytest.mark.parametrize(
    ("precision", "dtype", "stored", "trained", "frozen"),
    [
        pytest.param("32-true", "auto", BF16, FP32, FP32, id="all_float32"),
        pytest.param("32-true", "bfloat16", FP32, FP32, FP32, id="all_float32_whatever_is_asked"),
        pytest.param("bf16-true", "auto", FP32, BF16, BF16, id="all_bfloat16"),
        pytest.param("bf16-mixed", "auto", FP32, FP32, FP32, id="frozen_as_stored"),
        pytest.param("bf16-mixed", "auto", BF16, FP32, BF16, id="frozen_as_published"),
        pytest.param("bf16-mixed", "auto", FP16, FP32, BF16, id="float16_is_read_as_bfloat16"),
        pytest.param("bf16-mixed", "bfloat16", FP32, FP32, BF16, id="frozen_as_set"),
    ],
)
def test_types_of_a_fit(precision, dtype, stored, trained, frozen):
    config = Config(model=ModelConfig(dtype=dtype), trainer=TrainerConfig(precision=precision))
    types = training_types(config, stored)
    assert (types.trained, types.frozen) == (trained, frozen)


@pytest.mark.parametrize(
    ("precision", "dtype", "stored", "expected"),
    [
        ("bf16-mixed", "auto", FP32, FP32),
        ("bf16-mixed", "auto", BF16, BF16),
        ("32-true", "auto", FP16, FP16),
        ("bf16-true", "auto", FP32, BF16),
        ("bf16-true", "float16", FP32, FP16),
    ],
)
def test_types_of_a_model_that_answers(precision, dtype, stored, expected):
    config = Config(model=ModelConfig(dtype=dtype), trainer=TrainerConfig(precision=precision))
    types = answering_types(config, stored)
    assert types.trained == types.frozen == expected


def test_trained_and_frozen_weights_are_cast_apart_and_others_left_alone():
    model = torch.nn.ModuleDict({"free": torch.nn.Linear(2, 2), "frozen": torch.nn.Linear(2, 2)})
    model["frozen"].requires_grad_(False)
    model.register_parameter("ids", torch.nn.Parameter(torch.ones(2, dtype=torch.uint8), requires_grad=False))
    config = Config(model=ModelConfig(dtype="bfloat16"))
    config.trainer.precision = "bf16-mixed"
    cast(model, training_types(config, FP32))
    found = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert found == {
        "ids": torch.uint8,
        "free.weight": FP32,
        "free.bias": FP32,
        "frozen.weight": BF16,
        "frozen.bias": BF16,
    }


MEASURE = """
import json, sys
from pathlib import Path
import torch
from medtune.config.schema import Config, ModelConfig, TrainerConfig
from medtune.models.load import load_model
from medtune.models.placing import decoder_layers, parts, prepare_for


def held():
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) / 1024


how, precision, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
config = Config(model=ModelConfig(**settings), trainer=TrainerConfig(accelerator="cpu", precision=precision))
before = held()
model = load_model(config, for_training=True, place=how == "whole")
most = held()
if how == "by_parts":  # each part goes when it has been prepared, as to another device
    prepare = prepare_for(model, config, for_training=True)
    for part in parts(model):
        prepare(part)
        most = max(most, held())
        for parameter in part.parameters():
            parameter.data = parameter.data.new_empty(0)
print(json.dumps({"held": most - before}))
"""


def held_mib(how, precision, **settings):
    """Most anonymous memory beside that of the imports, in a process of its own."""
    # So that what is freed goes back to the system at once.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, how, precision, json.dumps(settings)],
        capture_output=True, text=True, cwd=ROOT, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])["held"]


@pytest.fixture(scope="module")
def stored_in_half(tmp_path_factory):
    """150 MiB of bfloat16 in 8 layers of 16 MiB and two embeddings of 11 MiB; their float32 would be 300."""
    folder = tmp_path_factory.mktemp("half")
    tokenizer = ROOT / "data" / "sample" / "tokenizer"
    settings = {
        "hidden_size": 1024,
        "intermediate_size": 1365,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
    }
    network = AutoConfig.for_model("baichuan", vocab_size=5500, **settings)
    AutoModelForCausalLM.from_config(network, dtype=BF16).save_pretrained(folder)
    for file in tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return str(folder)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
def test_a_process_holds_no_copy_of_the_files_and_of_float32_one_part(stored_in_half):
    """Eight ranks of a machine share the mapped file; otherwise each would hold 300 MiB."""
    assert held_mib("left", "bf16-mixed", path=stored_in_half) < 20
    assert held_mib("by_parts", "bf16-mixed", path=stored_in_half) < 100
    assert held_mib("whole", "bf16-mixed", path=stored_in_half) > 250


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
def test_random_weights_take_memory_when_they_are_placed(stored_in_half):
    settings = {"path": stored_in_half, "init": "random"}
    assert held_mib("left", "bf16-true", **settings) < 20
    assert held_mib("by_parts", "bf16-true", **settings) < 120


def test_seeds_differ_in_the_configuration(stored_in_half):
    config = Config(model=ModelConfig(path=stored_in_half, init="random"), seed=1)
    model = on_meta("llama")
    prepare_for(model, config, for_training=True)(model)
    other = on_meta("llama")
    prepare_for(other, replace(config, seed=2), for_training=True)(other)
    assert not torch.equal(model.lm_head.weight, other.lm_head.weight)
