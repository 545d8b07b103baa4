import contextlib
import json
import shutil
import sys
import types
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, PreTrainedTokenizerFast

from medtune.config.schema import (
    AdapterConfig,
    Config,
    DataConfig,
    ModelConfig,
    QuantizationConfig,
    TrainerConfig,
)
from medtune.models.attention_choice import choose_attention
from medtune.models.baichuan_tokenizer import BaichuanTokenizer
from medtune.models.load import load_model
from medtune.models.network import known_settings
from medtune.models.tokenizers import load_tokenizer
from medtune.runtime.errors import ConfigError

FIXTURES = Path(__file__).parents[2] / "fixtures" / "baichuan"
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = torch.arange(4, 16)[None]


@pytest.fixture
def tokenizer_folder(tmp_path, tiny_tokenizer):
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


@pytest.fixture
def random(tokenizer_folder):
    """Settings of a random model: ``random(**model_keys)``."""

    def settings(**keys) -> Config:
        model = ModelConfig(**{"init": "random", "tokenizer": tokenizer_folder, **SIZES, **keys})
        return Config(model=model, trainer=TrainerConfig(accelerator="cpu"))

    return settings


@pytest.fixture
def stored(tiny_model_folder) -> Config:
    """Settings of a model on disk."""
    return Config(model=ModelConfig(path=str(tiny_model_folder)), trainer=TrainerConfig(accelerator="cpu"))


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=IDS).logits


def equal(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        pytest.param({"model_type": "baichuan"}, "BaichuanForCausalLM", id="baichuan"),
        pytest.param({"model_type": "llama", "num_key_value_heads": 2}, "LlamaForCausalLM", id="llama"),
        pytest.param({"model_type": "qwen3"}, "Qwen3ForCausalLM", id="qwen3"),
        pytest.param(
            {"model_type": "bloom", "intermediate_size": None},
            "BloomForCausalLM",
            id="bloom",
        ),
    ],
)
def test_a_random_model_fits_its_tokenizer_and_its_seed_alone_decides_it(random, keys, name):
    config = random(**keys)
    first = load_model(config, for_training=False)
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    assert equal(load_model(config, for_training=False), first)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not equal(load_model(replace(config, seed=7), for_training=False), first)
    tokenizer = load_tokenizer(config.model)
    assert type(first).__name__ == name
    assert first.config.vocab_size == len(tokenizer)
    assert (first.config.pad_token_id, first.config.eos_token_id) == (0, 3)
    assert first.config.hidden_size == 32
    assert not first.training


def test_a_folder_gives_the_architecture_of_a_random_model_and_keys_change_it(random, stored):
    config = random(path=stored.model.path, hidden_size=None, num_attention_heads=2, num_hidden_layers=1)
    model = load_model(config, for_training=False)
    assert (model.config.model_type, model.config.hidden_size, model.config.vocab_size) == ("llama", 64, 128)
    assert (model.config.head_dim, model.config.num_key_value_heads) == (32, 2)
    assert len(model.model.layers) == 1


@pytest.mark.parametrize("checkpointing", [None, True, False])
def test_a_model_for_training_is_in_train_mode_without_a_cache(random, checkpointing):
    config = random(model_type="baichuan", gradient_checkpointing=checkpointing)
    model = load_model(config, for_training=True)
    assert all(module.training for module in model.modules())
    assert model.config.use_cache is False
    assert model.model.layers[0].gradient_checkpointing is bool(checkpointing)
    assert load_model(config, for_training=False).config.use_cache is True


def test_weights_are_loaded_as_they_lie(stored, make_tiny_llama):
    model = load_model(stored, for_training=False)
    assert equal(model, make_tiny_llama())
    assert model.dtype == torch.float32


@pytest.mark.parametrize(
    ("dtype", "precision", "expected"),
    [
        ("auto", "32-true", torch.float32),
        ("auto", "bf16-mixed", torch.float32),
        ("auto", "bf16-true", torch.bfloat16),
        ("float16", "bf16-true", torch.float16),
    ],
)
@pytest.mark.parametrize("kind", ["random", "stored"])
def test_type_of_the_weights(random, stored, kind, dtype, precision, expected):
    config = random(model_type="llama") if kind == "random" else stored
    config.model.dtype, config.trainer.precision = dtype, precision
    model = load_model(config, for_training=False)
    assert {parameter.dtype for parameter in model.parameters()} == {expected}
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32


@pytest.mark.parametrize("where", ["folder", "run_folder"])
def test_what_training_wrote_is_loaded_in_place_of_the_model(random, tmp_path, where, tiny_tokenizer):
    config = random(model_type="baichuan", max_position_embeddings=64)
    trained = load_model(config, for_training=True)
    with torch.no_grad():
        trained.model.norm.weight.mul_(2)
    folder = tmp_path / "run" / "model"
    trained.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    config.weights = str(folder if where == "folder" else folder.parent)
    loaded = load_model(config, for_training=False)
    assert torch.equal(logits(loaded), logits(trained))
    assert loaded.config.use_cache is True


def test_an_adapter_without_a_configured_base_is_put_on_the_one_that_it_names(stored, tmp_path):
    config = replace(stored, adapter=AdapterConfig(name="lora"))
    adapted = load_model(config, for_training=True)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.02)
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = load_model(
        Config(model=ModelConfig(tokenizer=stored.model.path), weights=str(tmp_path / "adapter")),
        for_training=False,
    )
    torch.testing.assert_close(logits(loaded), logits(adapted))
    assert not torch.allclose(logits(loaded), logits(load_model(stored, for_training=False)))


def test_pickled_weights_are_read_without_running_them(stored):
    folder = Path(stored.model.path)
    weights = load_file(folder / "model.safetensors")
    expected = logits(load_model(stored, for_training=False))
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert torch.equal(logits(load_model(stored, for_training=False)), expected)

    class Stranger:
        def __reduce__(self):
            return (Path.touch, (folder / "ran",))

    torch.save(weights | {"stranger": Stranger()}, folder / "pytorch_model.bin")
    with pytest.raises(Exception, match="[Ww]eights.only|weights_only"):
        load_model(stored, for_training=False)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_are_one_model_and_a_cut_one_is_named(stored, make_tiny_llama, kind):
    folder = Path(stored.model.path)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, stem = sorted(weights), {"safetensors": "model", "bin": "pytorch_model"}[kind]
    shards = {f"{stem}-0000{i}-of-00002.{kind}": names[i - 1 :: 2] for i in (1, 2)}
    for shard, held in shards.items():
        part = {name: weights[name] for name in held}
        if kind == "bin":
            torch.save(part, folder / shard)
        else:
            save_file(part, folder / shard, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps(index))
    assert equal(load_model(stored, for_training=False), make_tiny_llama())
    cut = folder / next(iter(shards))
    cut.write_bytes(cut.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=f"{cut.name} (has|is cut off)"):
        load_model(stored, for_training=False)


def drop_embedding(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.embed_tokens.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def add_stranger(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors") | {"model.stranger.weight": torch.ones(2)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def change_config(**keys):
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | keys))

    return change


def drop(name: str):
    return lambda folder: (folder / name).unlink()


def grow_tokenizer(folder: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_tokens([f"word{i}" for i in range(80)])
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(drop("config.json"), "this is no model folder: it has no config.json", id="no_config"),
        pytest.param(
            drop("model.safetensors"), "no weights; looked for model.safetensors, ", id="no_weights"
        ),
        pytest.param(drop_embedding, "1 weights are missing: model.embed_tokens.weight", id="missing_key"),
        pytest.param(
            add_stranger,
            "1 weights are unknown to the architecture: model.stranger.weight",
            id="unexpected_key",
        ),
        pytest.param(
            change_config(intermediate_size=96),
            r"6 weights are of another shape than config.json says: model.layers.0.mlp.down_proj.weight "
            r"\(64, 128\) instead of \(64, 96\)",
            id="mismatched_shape",
        ),
        pytest.param(
            change_config(model_type="chatglm", auto_map={"AutoConfig": "configuration_chatglm.Config"}),
            "model.model_type=chatglm: transformers has no such causal language model",
            id="remote_code",
        ),
        pytest.param(
            drop("tokenizer.json"), "holds no tokenizer: looked for tokenizer.json", id="no_tokenizer"
        ),
        pytest.param(
            grow_tokenizer, r"has \d+ tokens, but the embedding has 128 rows", id="large_vocabulary"
        ),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_with_what_is_wrong(stored, spoil, message):
    spoil(Path(stored.model.path))
    with pytest.raises(ConfigError, match=message):
        load_model(stored, for_training=False)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(change_config(hidden_size=None), "config.json: no llama can be built", id="null"),
        pytest.param(change_config(num_attention_heads=0), "config.json: no llama can be built", id="zero"),
        pytest.param(change_config(hidden_act="foo"), "config.json: no llama .*foo", id="activation"),
        pytest.param(
            change_config(quantization_config={"quant_method": "hqq"}),
            r"has quantization_config \(hqq\): weights that are quantised in such a way are not supported",
            id="quantised",
        ),
        pytest.param(
            lambda folder: (folder / "config.json").write_text("{}"),
            "model.model_type is not set, and the config.json of model.path=.* does not name one",
            id="no_type_in_the_file",
        ),
        pytest.param(
            lambda folder: (folder / "config.json").write_text("version https://git-lfs.github.com/spec/v1"),
            "config.json is a git-lfs pointer; run 'git lfs pull'",
            id="pointer",
        ),
        pytest.param(
            lambda folder: (folder / "generation_config.json").write_text("[1]"),
            "generation_config.json",
            id="generation_config",
        ),
    ],
)
def test_files_that_say_nonsense_are_named(stored, spoil, message):
    spoil(Path(stored.model.path))
    with pytest.raises(ConfigError, match=message):
        load_model(stored, for_training=False)


def test_a_config_with_a_byte_order_mark_is_read(stored):
    path = Path(stored.model.path) / "config.json"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert known_settings(stored.model)["model_type"] == "llama"


def test_a_tokenizers_own_code_is_never_run_whatever_is_answered(stored, tiny_tokenizer, monkeypatch):
    """Transformers asks on the terminal before it runs the code of a folder; here nobody is asked."""
    folder = Path(stored.model.path)
    settings = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with contextlib.suppress(ConfigError):
        load_tokenizer(stored.model)
    assert not (folder / "ran").exists()


def test_a_plain_tokenizer_is_read_as_one_whatever_the_family(tiny_tokenizer, tmp_path):
    """Transformers 5.23 reads every tokenizer of qwen2 as Qwen's, to which most of a text is nothing."""
    tiny_tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    text = "患者头痛"
    assert load_tokenizer(ModelConfig(path=str(tmp_path))).encode(text) == tiny_tokenizer.encode(text)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"model_type": "llama", "tie_word_embeddings": True}, "it is the embedding too"),
        ({"model_type": "bloom", "intermediate_size": None}, "it is the embedding too"),
        ({"model_type": "baichuan", "architecture": {"norm_head": True}}, "its rows are normalised"),
    ],
)
def test_a_head_whose_adapter_could_not_be_merged_is_refused(random, keys, reason):
    config = random(**keys)
    config.adapter = AdapterConfig(name="lora", target_modules=["lm_head"])
    with pytest.raises(ConfigError, match=f"names the output head lm_head, but {reason}"):
        load_model(config, for_training=True)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        pytest.param({}, "model.model_type is not set", id="no_type"),
        pytest.param(
            {"model_type": "llama", "num_key_value_heads": 3},
            r"model.num_attention_heads \(4\) must be a multiple of model.num_key_value_heads \(3\)",
            id="key_heads",
        ),
        pytest.param(
            {"model_type": "lama"}, "model.model_type=lama: transformers has no such", id="wrong_type"
        ),
        pytest.param(
            {"model_type": "baichuan", "num_key_value_heads": 2},
            "model.num_key_value_heads=2: baichuan has no such setting",
            id="key_of_another_family",
        ),
        pytest.param(
            {"model_type": "llama", "hidden_size": 30},
            r"model.hidden_size \(30\) must be a multiple of model.num_attention_heads \(4\)",
            id="heads",
        ),
        pytest.param(
            {"model_type": "llama", "vocab_size": 20}, "but the embedding has 20 rows", id="small_vocabulary"
        ),
        pytest.param(
            {"model_type": "mpt", "attention": "sdpa", "intermediate_size": None},
            "model.attention=sdpa: mpt has no such attention in transformers; set model.attention=eager",
            id="no_sdpa",
        ),
        pytest.param(
            {"model_type": "llama", "tokenizer": None}, "neither model.tokenizer nor", id="no_tokenizer"
        ),
    ],
)
def test_a_random_model_that_cannot_be_built_is_refused(random, keys, message):
    with pytest.raises(ConfigError, match=message):
        load_model(random(**keys), for_training=False)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        pytest.param({"hidden_size": 32}, "model.hidden_size=32, but .* has 64", id="size"),
        pytest.param({"model_type": "qwen2"}, "model.model_type=qwen2, but .* is llama", id="type"),
    ],
)
def test_settings_that_contradict_pretrained_files_are_refused(stored, keys, message):
    config = replace(stored, model=replace(stored.model, **keys))
    with pytest.raises(ConfigError, match=message):
        load_model(config, for_training=False)


def test_settings_that_agree_with_pretrained_files_are_taken(stored):
    config = replace(stored, model=replace(stored.model, hidden_size=64, model_type="llama"))
    assert load_model(config, for_training=False).config.hidden_size == 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            {"quantization": QuantizationConfig(name="int8")},
            "quantization=int8 freezes every weight; train with adapter=lora",
            id="nothing_to_learn",
        ),
        pytest.param(
            {"model_type": "mpt", "attention": "eager", "intermediate_size": None},
            "model_type=mpt cannot train on packed rows",
            id="packing_would_leak",
        ),
        pytest.param(
            {"model_type": "mistral", "data": DataConfig(sequence_length=8192)},
            "data.sequence_length=8192 is longer than the model's sliding window of 4096",
            id="window",
        ),
    ],
)
def test_training_that_would_go_wrong_silently_is_refused(random, change, message):
    whole = {key: change[key] for key in ("quantization", "data") if key in change}
    keys = {"model_type": "llama"} | {key: value for key, value in change.items() if key not in whole}
    config = replace(random(**keys), **whole)
    with pytest.raises(ConfigError, match=message):
        load_model(config, for_training=True)
    load_model(replace(config, quantization=QuantizationConfig()), for_training=False)


def test_a_hub_id_without_a_network_is_refused_with_what_to_do():
    name = "baichuan-inc/Baichuan-13B-Base"
    config = Config(model=ModelConfig(path=name, revision="v1"))
    with pytest.raises(
        ConfigError,
        match=f"model.path={name} with model.revision=v1: there is no such folder here, .*"
        f"'hf download {name} --revision v1 --local-dir FOLDER'.*set model.path=FOLDER",
    ):
        load_model(config, for_training=False)


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        pytest.param("generation_config.json", {"eos_token_id": [5, 6]}, id="the_first_of_several"),
        pytest.param("config.json", {"eos_token_id": 5, "model_type": "llama"}, id="one"),
    ],
)
def test_an_eos_that_only_the_model_names_is_taken_and_said(tiny_tokenizer, tmp_path, caplog, file, settings):
    backend = tiny_tokenizer.backend_tokenizer
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>").save_pretrained(tmp_path)
    (tmp_path / file).write_text(json.dumps(settings))
    with caplog.at_level("INFO", logger="medtune"):
        tokenizer = load_tokenizer(ModelConfig(path=str(tmp_path)))
    assert tokenizer.eos_token_id == 5
    assert f"{file} says it is {tokenizer.eos_token} (id 5)" in caplog.text


def test_a_larger_tokenizer_gets_rows_on_request(stored, caplog):
    folder = Path(stored.model.path)
    grow_tokenizer(folder)
    stored.model.resize_embeddings = True
    before = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    with caplog.at_level("INFO", logger="medtune"):
        model, again = load_model(stored, for_training=True), load_model(stored, for_training=True)
    num_tokens = len(load_tokenizer(stored.model))
    rows = model.get_input_embeddings().weight
    assert (len(rows), model.config.vocab_size, num_tokens > 128) == (192, 192, True)
    assert torch.equal(rows[:128], before)
    assert rows[128:num_tokens].std() < 2 * before.std()
    assert model.lm_head.weight.shape == rows.shape
    assert equal(model, again)
    assert f"the embedding grows from 128 to 192 rows for {num_tokens} tokens" in caplog.text
    stored.adapter = AdapterConfig(name="lora")
    assert load_model(stored, for_training=False).config.vocab_size == 192


@pytest.mark.parametrize(
    ("adapter", "left"),
    [
        pytest.param({"last_layers": 1}, "the embedding and the head", id="layers_alone"),
        pytest.param({"trainable": ["*embed_tokens*"]}, "the head", id="one_end"),
        pytest.param({"trainable": ["*embed_tokens*", "lm_head*"]}, None, id="both_ends"),
    ],
)
def test_new_rows_that_a_frozen_part_would_leave_as_drawn_are_refused(stored, adapter, left):
    grow_tokenizer(Path(stored.model.path))
    stored.model.resize_embeddings = True
    stored.adapter = AdapterConfig("freeze", **adapter)
    if left is None:
        load_model(stored, for_training=True)
        return
    message = f"would leave those of {left} as they are drawn; name both in adapter.trainable"
    with pytest.raises(ConfigError, match=message):
        load_model(stored, for_training=True)


def test_random_weights_have_rows_for_a_larger_tokenizer_from_the_start(random):
    config = random(model_type="llama", resize_embeddings=True, architecture={"vocab_size": 20})
    assert load_model(config, for_training=True).config.vocab_size == 128


@pytest.mark.parametrize("resize", [False, True])
def test_a_typed_vocabulary_that_is_too_small_is_refused_whatever_may_be_resized(random, resize):
    config = random(model_type="llama", vocab_size=20, resize_embeddings=resize)
    with pytest.raises(
        ConfigError, match="has 20 rows; use the model's own .*, or leave model.vocab_size=20 out"
    ):
        load_model(config, for_training=True)


@pytest.mark.parametrize("keys", [{"hidden_size": 32}, {"attention_dropout": 0.1}])
def test_auto_leaves_flex_attention_where_it_cannot_run(monkeypatch, keys):
    """Heads of 8 numbers, and dropout on the attention weights."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    network = AutoConfig.for_model("llama", **{"hidden_size": 64, "num_attention_heads": 4, **keys})
    config = Config(trainer=TrainerConfig("cuda", precision="bf16-mixed"))
    assert choose_attention(config, network, for_training=True) == "sdpa"


def test_a_tokenizer_that_fits_changes_no_row(stored):
    stored.model.resize_embeddings = True
    assert load_model(stored, for_training=False).config.vocab_size == 128


ARCHITECTURE = {
    "model_type": "llama",
    "vocab_size": 500,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
}


def test_an_option_says_the_architecture_of_a_model_that_is_not_here(tokenizer_folder):
    settings = {"path": "nobody/nothing", "init": "random", "tokenizer": tokenizer_folder}
    config = Config(model=ModelConfig(**settings, num_hidden_layers=1, architecture=ARCHITECTURE))
    model = load_model(config, for_training=False)
    assert (model.config.vocab_size, model.config.hidden_size, len(model.model.layers)) == (500, 48, 1)
    assert model.config.rope_parameters["rope_theta"] == 500.0
    assert model.config.eos_token_id == 3
    config.model.architecture = ARCHITECTURE | {"ropes": 2}
    with pytest.raises(ConfigError, match="model.architecture.ropes=2: llama has no such setting"):
        load_model(config, for_training=False)


def test_a_folder_says_more_than_the_option(random, stored):
    config = random(
        path=stored.model.path, architecture=ARCHITECTURE, hidden_size=None, num_hidden_layers=None
    )
    assert load_model(config, for_training=False).config.hidden_size == 64


def test_names_of_the_family_and_those_of_the_settings_are_the_same_keys(tokenizer_folder):
    """BLOOM's own files say n_layer and n_head."""
    known = {"model_type": "bloom", "vocab_size": 300, "hidden_size": 32, "n_layer": 5, "n_head": 4}
    settings = {"init": "random", "tokenizer": tokenizer_folder, "architecture": known}
    model = load_model(Config(model=ModelConfig(**settings, num_hidden_layers=2)), for_training=False)
    assert (len(model.transformer.h), model.config.n_head) == (2, 4)


@pytest.mark.parametrize("model_type", ["mistral", "qwen2", "qwen3"])
def test_fewer_heads_have_as_many_keys_where_nothing_else_is_said(random, model_type):
    """The families' defaults of 8 and 32 key heads would not go with 4."""
    model = load_model(random(model_type=model_type), for_training=False)
    assert model.config.num_key_value_heads == 4
    assert logits(model).isfinite().all()


@pytest.mark.parametrize("for_training", [True, False])
def test_without_being_placed_random_weights_take_no_memory(random, for_training):
    model = load_model(random(model_type="baichuan"), for_training=for_training, place=False)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert model.training is for_training


@pytest.mark.parametrize(
    ("family", "packing", "precision", "gpu", "flash", "expected"),
    [
        pytest.param("baichuan", "bfd", "bf16-mixed", False, True, "sdpa", id="cpu"),
        pytest.param("baichuan", "bfd", "bf16-mixed", True, True, "flash_attention_2", id="flash"),
        pytest.param("baichuan", "bfd", "bf16-mixed", True, False, "flex_attention", id="flex"),
        pytest.param("baichuan", "bfd", "32-true", True, True, "flex_attention", id="flash_takes_halves"),
        pytest.param("baichuan", "none", "bf16-true", True, False, "flex_attention", id="alibi_unpacked"),
        pytest.param("llama", "none", "bf16-true", True, False, "sdpa", id="plainly_causal"),
        pytest.param("llama", "none", "bf16-true", True, True, "sdpa", id="plainly_causal_beside_flash"),
        pytest.param("mpt", "none", "32-true", True, False, "eager", id="a_family_without_kernels"),
    ],
)
def test_the_attention_that_auto_chooses(monkeypatch, family, packing, precision, gpu, flash, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    if flash:
        package = types.ModuleType("flash_attn")
        package.__spec__ = ModuleSpec("flash_attn", None)
        monkeypatch.setitem(sys.modules, "flash_attn", package)
    config = Config(data=DataConfig(packing=packing), trainer=TrainerConfig("cuda", precision=precision))
    network = AutoConfig.for_model(family)
    assert choose_attention(config, network, for_training=True) == expected
    assert choose_attention(config, network, for_training=False) == ("eager" if family == "mpt" else "sdpa")
    config.model.attention = "eager"
    assert choose_attention(config, network, for_training=True) == "eager"


@pytest.mark.parametrize("attention", ["auto", "flex_attention", "flash_attention_2"])
def test_answers_are_decoded_with_sdpa(random, attention):
    config = random(model_type="baichuan", attention=attention)
    assert load_model(config, for_training=False).config._attn_implementation == "sdpa"


def test_no_model_at_all_is_refused():
    with pytest.raises(ConfigError, match="model.path is not set"):
        load_model(Config(), for_training=False)


@pytest.mark.parametrize(
    ("special", "pad"),
    [
        pytest.param({"unk_token": "<unk>", "eos_token": "</s>"}, "<unk>", id="unk_for_padding"),
        pytest.param({"eos_token": "</s>"}, "</s>", id="eos_for_padding"),
        pytest.param({"eos_token": "</s>", "pad_token": "</s>"}, "</s>", id="the_same_token"),
    ],
)
def test_a_tokenizer_always_has_a_padding_token_and_says_which(
    tiny_tokenizer, tmp_path, caplog, special, pad
):
    backend = tiny_tokenizer.backend_tokenizer
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(tmp_path)
    with caplog.at_level("INFO", logger="medtune"):
        tokenizer = load_tokenizer(ModelConfig(tokenizer=str(tmp_path)))
    assert tokenizer.pad_token == pad
    assert pad in caplog.text


def test_a_tokenizer_without_eos_is_refused(tiny_tokenizer, tmp_path):
    backend = tiny_tokenizer.backend_tokenizer
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>").save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="the tokenizer has no EOS token"):
        load_tokenizer(ModelConfig(tokenizer=str(tmp_path)))


@pytest.mark.parametrize("told_by", ["tokenizer_config.json", "config.json"])
def test_baichuans_tokenizer_is_found_beside_its_model(tmp_path, told_by):
    shutil.copytree(FIXTURES / "tok_tiny" / "v1", tmp_path, dirs_exist_ok=True)
    if told_by == "config.json":
        shutil.copy(FIXTURES / "13b_h5" / "config.json", tmp_path)
        change = json.loads((tmp_path / "tokenizer_config.json").read_text())
        del change["tokenizer_class"], change["auto_map"]
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(change))
    assert isinstance(load_tokenizer(ModelConfig(path=str(tmp_path))), BaichuanTokenizer)


def test_a_baichuan_model_keeps_the_fast_tokenizer_that_it_was_trained_with(random, tmp_path, tiny_tokenizer):
    config = random(model_type="baichuan")
    load_model(config, for_training=False).save_pretrained(tmp_path / "model")
    load_tokenizer(config.model).save_pretrained(tmp_path / "model")
    tokenizer = load_tokenizer(ModelConfig(path=str(tmp_path / "model")))
    assert tokenizer.encode("fever") == tiny_tokenizer.encode("fever")
    assert tokenizer.decode(tokenizer.encode("头痛 ok")) == "头痛 ok"
