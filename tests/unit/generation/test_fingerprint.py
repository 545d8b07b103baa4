import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from medtune.config.schema import Config, ModelConfig
from medtune.generation.fingerprint import weights_digest

TRAINED = Config(model=ModelConfig(path="unused"))


@pytest.fixture
def folders(tmp_path, make_tiny_llama):
    """Two models of one size and two seeds."""
    for seed in (0, 1):
        make_tiny_llama(seed=seed).save_pretrained(tmp_path / str(seed))
    return tmp_path


def test_weights_are_known_by_their_content_wherever_they_lie(folders):
    first, second = (weights_digest(TRAINED, str(folders / str(seed))) for seed in (0, 1))
    assert first != second
    shutil.copytree(folders / "0", folders / "copy")
    assert weights_digest(TRAINED, str(folders / "copy")) == first
    assert weights_digest(Config(model=ModelConfig(path=str(folders / "0"))), None) == first


def test_the_base_of_an_adapter_counts(folders):
    digests = []
    for base in (0, 1):
        adapter = folders / f"adapter-{base}"
        write_adapter(adapter, base_model_name_or_path=str(folders / str(base)))
        digests.append(weights_digest(Config(), str(adapter)))
    assert digests[0] != digests[1]
    # What is configured is what an adapter is put on, whatever base it names.
    configured = Config(model=ModelConfig(path=str(folders / "0")))
    assert weights_digest(configured, str(folders / "adapter-1")) == digests[0]
    for change in ({"seed": 1}, {"model": ModelConfig(init="random", hidden_size=32)}):
        drawn = Config(model=ModelConfig(init="random"))
        of_base, of_other = (
            weights_digest(config, str(folders / "adapter-1")) for config in (drawn, replace(drawn, **change))
        )
        assert of_base != of_other


def test_an_adapter_s_settings_count_but_not_where_its_base_lies(folders):
    model = Config(model=ModelConfig(path=str(folders / "0")))
    digests = {}
    for name, settings in {
        "one": {"lora_alpha": 8},
        "elsewhere": {"lora_alpha": 8, "base_model_name_or_path": "/another/place"},
        "other": {"lora_alpha": 16},
    }.items():
        write_adapter(folders / name, **settings)
        digests[name] = weights_digest(model, str(folders / name))
    assert digests["one"] == digests["elsewhere"]
    assert digests["one"] != digests["other"]


def test_one_small_tensor_that_was_trained_among_frozen_ones_counts(tmp_path):
    """Of a large file only samples are read; so each tensor is sampled."""
    tensors = {f"layer.{number}.weight": torch.zeros(400_000) for number in range(4)}
    tensors |= {f"layer.{number}.bias": torch.zeros(8) for number in range(4)}
    digests = set()
    for trained in (None, *(name for name in tensors if name.endswith("bias"))):
        folder = tmp_path / str(trained)
        folder.mkdir()
        changed = {} if trained is None else {trained: torch.ones(8)}
        save_file({**tensors, **changed}, folder / "model.safetensors")
        digests.add(weights_digest(TRAINED, str(folder)))
    assert len(digests) == 5


def write_adapter(folder, **settings):
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"the same")
    (folder / "adapter_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("change", "is_other"),
    [
        pytest.param({"seed": 1}, True, id="seed"),
        pytest.param({"model": ModelConfig(init="random", hidden_size=32)}, True, id="size"),
        pytest.param({"model": ModelConfig(init="random", tokenizer="elsewhere")}, False, id="place"),
        pytest.param({"run_dir": "other"}, False, id="run"),
    ],
)
def test_random_weights_are_known_by_what_draws_them(change, is_other):
    config = Config(model=ModelConfig(init="random"))
    assert (weights_digest(config, None) != weights_digest(replace(config, **change), None)) == is_other


def test_a_hub_id_is_known_by_its_revision():
    config = Config(model=ModelConfig(path="owner/model", revision="abc"))
    assert weights_digest(config, None) == "owner/model@abc"
