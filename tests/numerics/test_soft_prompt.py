"""Trained prompts against peft's own: the same function, the same gradient, and in packed rows too."""

import pytest
import torch
from peft import PeftModel
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig

from medtune.config.schema import AdapterConfig, Config, ModelConfig, TrainerConfig
from medtune.generation.engine import TransformersEngine
from medtune.generation.settings import SamplingSettings
from medtune.models.load import load_model
from medtune.models.network import network_class
from medtune.models.soft_prompt import PROMPT, add_prompt, load_prompt, save_prompt, virtual_ids
from medtune.runtime.errors import ConfigError
from medtune.runtime.record import RunFolder
from medtune.training.checkpoints import whole_checkpoints
from medtune.training.fit import fit
from medtune.training.virtual_tokens import with_virtual_tokens
from medtune.training.weights import weights_of
from tests.numerics.networks import NETWORKS, SIZES
from tests.numerics.toy import IGNORE, VOCABULARY, ToyData, make_documents, stack, tiny_model, toy_config

COUNT = 3
RATE = 1e3  # the gradients are small beside the prompt, from which they are told by a difference
FAMILIES = ["llama", "qwen3", "baichuan_alibi", "baichuan_rotary", "bloom"]
SETTINGS = AdapterConfig(name="prompt_tuning", num_virtual_tokens=COUNT)
# peft asks a model for a name that transformers has changed, and names position_ids that it leaves out.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def build(family: str) -> nn.Module:
    torch.manual_seed(0)
    model_type, settings = NETWORKS[family]
    network = AutoConfig.for_model(model_type, **{**SIZES, "vocab_size": VOCABULARY}, **settings)
    return network_class(network)(network).eval()


def prompted(model: nn.Module, seed: int = 1) -> nn.Module:
    """With a prompt that is far from every embedding."""
    add_prompt(model, Config(adapter=SETTINGS))
    torch.manual_seed(seed)
    model.get_input_embeddings().prompt.data.normal_()
    return model


def in_peft(model: nn.Module, base: nn.Module, folder) -> PeftModel:
    """The same prompt on another copy of the base, as peft loads it."""
    save_prompt(model, model.state_dict(), folder)
    loaded = PeftModel.from_pretrained(base, str(folder))  # peft loads prompts for answers only
    loaded.prompt_encoder.requires_grad_(True)
    return loaded


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_the_function_is_that_of_pefts_folder(family, tmp_path):
    model = prompted(build(family))
    theirs = in_peft(model, build(family), tmp_path).eval()
    ids = torch.randint(4, VOCABULARY, (2, 11))
    front = torch.tensor(virtual_ids(model)).repeat(2, 1)
    ours = model(input_ids=torch.cat([front, ids], dim=1), use_cache=False).logits[:, COUNT:]
    expected = theirs(input_ids=ids, use_cache=False).logits[:, COUNT:]
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)
    plain = build(family)(input_ids=ids, use_cache=False).logits
    assert not torch.allclose(ours, plain, atol=1e-3)


def test_only_the_prompt_learns_and_begins_as_words():
    model = add_prompt(tiny_model(), Config(adapter=SETTINGS))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained == [f"model.embed_tokens.{PROMPT}"]
    embedding = model.get_input_embeddings()
    assert (embedding.prompt[:, None] == embedding.weight[None]).all(-1).any(-1).all()
    assert list(virtual_ids(model)) == [VOCABULARY, VOCABULARY + 1, VOCABULARY + 2]


def test_a_tied_head_stays_tied():
    model = prompted(tiny_model(tie_word_embeddings=True))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model(input_ids=torch.tensor([[VOCABULARY, 5]])).logits.shape[-1] == VOCABULARY


def test_room_is_made_in_front_of_every_document():
    batch = {
        "input_ids": torch.tensor([[7, 8, 9, 5, 6, 0], [4, 5, 0, 0, 0, 0]]),
        "labels": torch.tensor([[-100, 8, 9, -100, 6, -100], [-100, 5, -100, -100, -100, -100]]),
        "position_ids": torch.tensor([[0, 1, 2, 0, 1, 5], [0, 1, 2, 3, 4, 5]]),
        "document_ids": torch.tensor([[1, 1, 1, 2, 2, 0], [1, 1, 0, 0, 0, 0]]),
        "source_ids": torch.tensor([[0, 0, 0, 1, 1, -1], [1, 1, -1, -1, -1, -1]]),
        "step_tokens": 4,
    }
    wide = with_virtual_tokens(batch, range(64, 66))
    x = -100
    assert wide["input_ids"].tolist() == [
        [64, 65, 7, 8, 9, 64, 65, 5, 6, 0, 0, 0, 0, 0, 0, 0],
        [64, 65, 4, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert wide["labels"][0].tolist() == [x, x, x, 8, 9, x, x, x, 6, *[x] * 7]
    assert wide["document_ids"][0].tolist() == [1, 1, 1, 1, 1, 2, 2, 2, 2, *[0] * 7]
    assert wide["position_ids"][0].tolist()[:9] == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert wide["position_ids"][1].tolist() == list(range(16))  # plainly causal, padding and all
    assert wide["source_ids"][0].tolist() == [0] * 5 + [1] * 4 + [-1] * 7
    assert wide["step_tokens"] == 4
    assert batch["input_ids"].shape == (2, 6)


DOCUMENTS = make_documents(8, learned=[1, 5, 3, 0, 2, 6, 4, 6])
LAYOUTS = {
    "padded": ([[document] for document in DOCUMENTS], 8),
    "packed": ([DOCUMENTS[:3], DOCUMENTS[3:4], DOCUMENTS[4:6], DOCUMENTS[6:]], 4),
    "packed_accumulated": ([DOCUMENTS[:3], DOCUMENTS[3:4], DOCUMENTS[4:6], DOCUMENTS[6:]], 1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", ["llama", "baichuan_alibi"])
def test_a_step_has_the_gradient_of_peft_on_one_padded_batch(family, layout, tmp_path):
    rows, micro = LAYOUTS[layout]
    model = prompted(build(family))
    theirs = in_peft(model, build(family), tmp_path / "peft").train()
    batch = stack([[document] for document in DOCUMENTS])
    mask = (batch["document_ids"] > 0).long()
    logits = theirs(input_ids=batch["input_ids"], attention_mask=mask, use_cache=False).logits
    labels = batch["labels"][:, 1:]
    total = F.cross_entropy(
        logits[:, COUNT:-1].flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum"
    )
    (total / (labels != IGNORE).sum()).backward()
    (due,) = [p.grad for _, p in theirs.named_parameters() if p.requires_grad]
    start = model.get_input_embeddings().prompt.detach().clone()
    settings = {"data__global_batch_size": len(rows), "data__micro_batch_size": micro}
    config = toy_config(tmp_path / "run", trainer__max_steps=1, optim__lr=RATE, **settings)
    config.adapter = SETTINGS
    fit(config, ToyData(rows, len(rows), micro, val_rows=rows), RunFolder(tmp_path / "run"), lambda: model)
    moved = (start - model.get_input_embeddings().prompt.detach()) / RATE
    assert float((moved - due).norm() / due.norm()) < 1e-5
    (checkpoint,) = whole_checkpoints(tmp_path / "run" / "checkpoints")
    assert [name.rpartition(".")[2] for name in weights_of(checkpoint)] == [PROMPT]
    loaded = load_prompt(build(family), tmp_path / "run" / "model", trainable=False)
    assert torch.equal(loaded.get_input_embeddings().prompt, model.get_input_embeddings().prompt)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "baichuan_alibi"])
def test_answers_begin_behind_the_prompt(family, tmp_path):
    model = prompted(build(family))
    theirs = in_peft(model, build(family), tmp_path).eval()
    prompts = [[5, 6, 7, 8], [9, 10]]
    settings = SamplingSettings(max_new_tokens=5, repetition_penalty=1.5)
    answers = TransformersEngine(model, stop_ids=()).generate(prompts, settings)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = list(prompt)
        for token in answer:
            logits = theirs(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            seen = torch.tensor(sorted(set(ids)))
            logits[seen] = torch.where(logits[seen] > 0, logits[seen] / 1.5, logits[seen] * 1.5)
            assert token == int(logits.argmax())
            ids.append(token)


@pytest.fixture
def configured(tmp_path, tiny_tokenizer):
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = ModelConfig(init="random", model_type="llama", tokenizer=str(tmp_path / "tokenizer"), **sizes)
    return Config(model=model, adapter=SETTINGS, trainer=TrainerConfig(accelerator="cpu"))


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_it_is_loaded_as_configured_and_from_its_folder(configured, quantization, tmp_path):
    configured.quantization.name = quantization
    model = load_model(configured, for_training=True)
    save_prompt(model, model.state_dict(), tmp_path / "adapter")
    loaded = load_model(configured, for_training=False, weights=str(tmp_path / "adapter"))
    assert torch.equal(loaded.get_input_embeddings().prompt, model.get_input_embeddings().prompt)
    configured.adapter = AdapterConfig(name="prompt_tuning", start=str(tmp_path / "adapter"))
    again = load_model(configured, for_training=True)
    assert again.get_input_embeddings().prompt.requires_grad
    assert len(virtual_ids(again)) == COUNT


def test_it_is_no_weight_that_could_be_folded_in(configured, tmp_path):
    model = load_model(configured, for_training=True)
    save_prompt(model, model.state_dict(), tmp_path / "adapter")
    for key in ("merge", "stack"):
        configured.adapter = AdapterConfig(name="lora", **{key: [str(tmp_path / "adapter")]})
        with pytest.raises(ConfigError, match=rf"adapter.{key}=.* is a trained prompt"):
            load_model(configured, for_training=True)


def test_a_prompt_of_another_width_is_refused(tmp_path):
    save_prompt(prompted(tiny_model()), prompted(tiny_model()).state_dict(), tmp_path)
    with pytest.raises(ConfigError, match=r"vectors are \(3, 64\), and the model's width is 32"):
        load_prompt(tiny_model(hidden_size=32), tmp_path, trainable=False)


def test_an_embedding_that_does_more_than_to_look_up_is_refused():
    network = AutoConfig.for_model("gemma3_text", **SIZES, head_dim=16)
    with pytest.raises(ConfigError, match=r"the embedding of gemma3_text is a \w+, which does more"):
        add_prompt(network_class(network)(network), Config(adapter=SETTINGS))
