import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import medtune.models  # noqa: F401  (Baichuan becomes known to transformers)
from medtune.config.schema import Config, ModelConfig
from medtune.runtime.record import RunFolder
from medtune.training.checkpoints import whole_checkpoints
from medtune.training.fit import fit
from medtune.training.weights import weights_of, write_model
from tests.numerics.toy import ToyData, ToyTokenizer, make_documents, tiny_model, toy_config

ROOT = Path(__file__).parents[3]
ROWS = [[document] for document in make_documents(4)]


def test_the_exported_folder_answers_as_the_trained_model(tmp_path):
    model = tiny_model(use_cache=False)  # as load_model makes it for a fit
    config = toy_config(tmp_path, data__global_batch_size=4, trainer__max_steps=2)
    fit(config, ToyData(ROWS, 4), RunFolder(tmp_path), build_model=lambda: model)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert reloaded.config.use_cache
    assert not model.config.use_cache
    tokens = torch.randint(4, 64, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(reloaded(tokens).logits, model.eval()(tokens).logits, atol=0, rtol=0)


def test_tied_weights_survive_checkpoint_and_export(tmp_path):
    model = tiny_model(tie_word_embeddings=True)
    config = toy_config(tmp_path, data__global_batch_size=4, trainer__max_steps=1)
    fit(config, ToyData(ROWS, 4), RunFolder(tmp_path), build_model=lambda: model)
    trained = model.model.embed_tokens.weight
    (checkpoint,) = whole_checkpoints(tmp_path / "checkpoints")
    assert torch.equal(weights_of(checkpoint)["model.embed_tokens.weight"], trained)
    assert "lm_head.weight" not in load_file(tmp_path / "model/model.safetensors")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.equal(reloaded.lm_head.weight, trained)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks transformers
def test_an_adapter_can_be_written_from_its_checkpoint(tmp_path):
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(tiny_model(), settings)
    config = toy_config(tmp_path, data__global_batch_size=4, trainer__max_steps=1, adapter__name="lora")
    fit(config, ToyData(ROWS, 4), RunFolder(tmp_path), build_model=lambda: model)
    (checkpoint,) = whole_checkpoints(tmp_path / "checkpoints")
    weights = weights_of(checkpoint)
    assert all("lora_" in name for name in weights)
    write_model(get_peft_model(tiny_model(), settings), weights, ToyTokenizer(), config, tmp_path / "again")
    exported, again = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("model", "again")
    )
    assert exported.keys() == again.keys()
    assert all(torch.equal(exported[name], again[name]) for name in exported)


WRITE = """
import resource, sys
from pathlib import Path
from tests.numerics.toy import ToyTokenizer, tiny_model, toy_config
from medtune.training.weights import write_model
model = tiny_model(seed=8)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    write_model(model, model.state_dict(), ToyTokenizer(), toy_config("."), Path(sys.argv[1]))
except ValueError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_old_folder_and_says_what_is_needed(tmp_path):
    """A limit on the size of files stands for the full disk."""
    folder = tmp_path / "model"
    old = tiny_model()
    write_model(old, old.state_dict(), ToyTokenizer(), toy_config(tmp_path), folder)
    before = (folder / "model.safetensors").read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", WRITE, str(folder)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f"cannot write {folder}" in done.stdout
    assert "MiB free" in done.stdout
    assert "MiB are needed" in done.stdout
    assert (folder / "model.safetensors").read_bytes() == before
    assert list(tmp_path.iterdir()) == [folder]


CHECKPOINT = """
import resource, signal, sys
from pathlib import Path
import torch
from medtune.runtime.record import RunFolder
from medtune.training.fit import fit
from tests.numerics.toy import ToyData, make_documents, tiny_model, toy_config
import lightning.pytorch as L

class Full(L.Callback):
    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 1:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

config = toy_config(sys.argv[1], data__global_batch_size=4, checkpoint__every_n_steps=1)
config.callbacks = {"full": {"_target_": "__main__.Full"}}
rows = [[document] for document in make_documents(4)]
try:
    fit(config, ToyData(rows, 4), RunFolder(Path(sys.argv[1])), build_model=tiny_model)
except ValueError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CHECKPOINT, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"cannot write {tmp_path}/checkpoints/step-2" in done.stdout
    checkpoints = tmp_path / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["step-1"]
    assert weights_of(whole_checkpoints(checkpoints)[-1]).keys() == tiny_model().state_dict().keys()


BAICHUAN = Path(__file__).parents[2] / "fixtures" / "baichuan"
CHAT = {
    "user_token_id": 195,
    "assistant_token_id": 196,
    "do_sample": True,
    "temperature": 0.3,
    "eos_token_id": 2,
}


def test_a_folder_that_is_not_kept_is_not_told(tmp_path, caplog):
    """A checkpoint is written to a temporary folder before it is loaded; only the caller knows."""
    caplog.set_level(logging.INFO)
    model = tiny_model()
    write_model(model, model.state_dict(), ToyTokenizer(), toy_config(tmp_path), tmp_path / "model")
    assert "model" not in {record.getMessage().split()[0] for record in caplog.records}


def test_a_baichuan_folder_is_written_as_its_own_loader_reads_it(tmp_path):
    """The keys, the type's old name, the speakers' ids, and the code that ``auto_map`` names."""
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(BAICHUAN / "13b_h5", source)
    shutil.copytree(BAICHUAN / "tok_tiny" / "v1", source, dirs_exist_ok=True)
    (source / "generation_config.json").write_text(json.dumps(CHAT))
    for name in ("modeling_baichuan.py", "configuration_baichuan.py", "tokenization_baichuan.py"):
        (source / name).write_text("raise SystemExit('this must never run')")
    model = AutoModelForCausalLM.from_pretrained(source)
    tokenizer = AutoTokenizer.from_pretrained(source)
    config = Config(model=ModelConfig(path=str(source)))
    write_model(model, dict(model.state_dict()), tokenizer, config, target)
    original, written = (json.loads((folder / "config.json").read_text()) for folder in (source, target))
    assert {key: written.get(key) for key in original} == original
    assert written["torch_dtype"] == "float32"
    assert written["architectures"] == ["BaichuanForCausalLM"]
    speakers = json.loads((target / "generation_config.json").read_text())
    assert {key: speakers[key] for key in CHAT} == CHAT
    settings = json.loads((target / "tokenizer_config.json").read_text())
    assert (settings["tokenizer_class"], settings["add_bos_token"]) == ("BaichuanTokenizer", False)
    for mapped in (written["auto_map"]["AutoConfig"], settings["auto_map"]["AutoTokenizer"][0]):
        assert (target / f"{mapped.partition('.')[0]}.py").is_file()
    assert (target / "tokenizer.model").read_bytes() == (source / "tokenizer.model").read_bytes()
