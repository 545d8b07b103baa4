import shutil
from dataclasses import replace

import pytest

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
        adapter.mkdir()
        (adapter / "adapter_model.safetensors").write_bytes(b"the same")
        (adapter / "adapter_config.json").write_text(
            f'{{"base_model_name_or_path": "{folders / str(base)}"}}'
        )
        digests.append(weights_digest(TRAINED, str(adapter)))
    assert digests[0] != digests[1]


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
