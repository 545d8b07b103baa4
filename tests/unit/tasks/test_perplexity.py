"""Perplexity against plain forwards of each document alone, in this process."""

import json
import math

import pytest
import torch

from medtune.config.schema import Config, TemplateConfig
from medtune.data.reading.splits import split_examples
from medtune.data.tokens.templates import Template
from medtune.models.load import load_model
from medtune.models.tokenizers import load_tokenizer
from medtune.runtime.hardware import PROJECT
from medtune.runtime.record import RunFolder
from medtune.tasks import evaluate

TEMPLATE = TemplateConfig(
    start=[{"token": "bos", "optional": True}],
    prompt=["问：{prompt}\n答："],
    response=["{response}", {"token": "eos"}],
    separator=["\n"],
    text=["{text}", {"token": "eos"}],
)
PAIRS = [("头痛怎么办", "多休息"), ("发热三天", "请就医"), ("咳嗽", "多喝水，注意休息"), ("是否发热", "是")]
TEXTS = ["高血压是一种常见病", "发热与咳嗽", "头痛", "患者咳嗽三天后就医"]


@pytest.fixture
def config(config, tmp_path):
    """A mix of dialogues and texts, one row of both at least."""
    write(tmp_path / "talk.json", [{"input": asked, "target": said} for asked, said in PAIRS])
    write(tmp_path / "texts.json", [{"text": text} for text in TEXTS])
    config.task = "evaluate"
    config.template = TEMPLATE
    config.model.init, config.model.model_type = "random", "llama"
    config.model.tokenizer = str(PROJECT / "data" / "sample" / "tokenizer")
    config.model.hidden_size = config.model.intermediate_size = 64
    config.model.num_hidden_layers, config.model.num_attention_heads = 1, 2
    config.trainer.accelerator = "cpu"
    config.data.name, config.data.mix = "both", ["talk", "texts"]
    config.data.sources = {
        "talk": {"dir": str(tmp_path), "splits": {"train": "talk.json", "validation": "talk.json"}},
        "texts": {"dir": str(tmp_path), "splits": {"train": "texts.json", "validation": "texts.json"}},
    }
    config.data.sequence_length = 128
    config.data.cache_dir = str(tmp_path / "cache")
    config.evaluate.perplexity = True
    return config


def write(path, rows):
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")


def measured(config: Config, folder) -> dict:
    evaluate.run(config, RunFolder(folder))
    return json.loads((folder / "scores.json").read_text())


def plain(config: Config, split: str, *, whole: bool) -> tuple[float, int]:
    """Cross-entropy and learned tokens of a split's documents, each in a forward of its own."""
    model = load_model(config, for_training=False).eval()
    template = Template.from_tokenizer(config.template, load_tokenizer(config.model))
    total, tokens = 0.0, 0
    for encoded in template.encode(list(split_examples(config.data, split, needs_response=True))):
        ids = torch.tensor([list(map(int, encoded.input_ids))])
        learned = torch.zeros(ids.shape[1], dtype=torch.bool)
        for start, end in [(0, ids.shape[1])] if whole else encoded.spans:
            learned[start:end] = True
        learned[0] = False
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits[0].double()
        losses = -logits.log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
        total += float(losses[learned[1:]].sum())
        tokens += int(learned.sum())
    return total, tokens


@pytest.mark.parametrize("objective", ["sft", "pretrain"])
def test_each_source_equals_its_documents_alone(config, tmp_path, objective):
    config.objective = objective
    scores = measured(config, tmp_path / "run")
    everything = [
        plain(config, "talk/validation", whole=objective == "pretrain"),
        plain(config, "texts/validation", whole=True),
    ]
    for name, (total, tokens) in zip(("talk", "texts"), everything, strict=True):
        found = scores["sources"][name]
        assert (found["learned_tokens"], found["documents"]) == (tokens, 4)
        assert found["loss"] == pytest.approx(total / tokens, rel=1e-5)
        assert found["perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-4)
        assert found["bits_per_character"] == pytest.approx(
            total / math.log(2) / found["characters"], rel=1e-5
        )
    both = sum(total for total, _ in everything) / sum(tokens for _, tokens in everything)
    assert scores["loss"] == pytest.approx(both, rel=1e-5)
    if objective == "sft":
        assert scores["sources"]["talk"]["characters"] == sum(len(said) for _, said in PAIRS)


@pytest.mark.parametrize(("packing", "micro_batch_size"), [("bfd", 3), ("none", 1), ("none", 4)])
def test_packing_and_batches_change_nothing(config, tmp_path, packing, micro_batch_size):
    usual = measured(config, tmp_path / "usual")
    config.data.packing, config.data.micro_batch_size = packing, micro_batch_size
    other = measured(config, tmp_path / "other")
    for name, source in usual["sources"].items():
        assert other["sources"][name] == pytest.approx(source, rel=1e-5)


def test_a_split_of_one_source_and_what_is_held_out_of_training(config, tmp_path):
    config.generate.split = "texts/train"
    assert set(measured(config, tmp_path / "one")["sources"]) == {"texts"}
    config.generate.split = None
    config.data.sources["texts"] |= {"splits": {"train": "texts.json"}, "validation_size": 2}
    held = measured(config, tmp_path / "held")
    assert {name: source["documents"] for name, source in held["sources"].items()} == {"talk": 4, "texts": 2}
    config.generate.split = "texts/train"
    assert measured(config, tmp_path / "rest")["documents"] == 2


def test_a_split_without_training_texts_beside_it_can_be_measured(config, tmp_path):
    """A file alone, of either kind, with the objective of dialogues."""
    config.data = type(config.data)(
        name="alone", dir=str(tmp_path), splits={"test": "texts.json"}, cache_dir=config.data.cache_dir
    )
    config.generate.split = "test"
    assert measured(config, tmp_path / "run")["documents"] == 4


def test_the_table_names_sources_and_all_of_them(config, tmp_path, capsys):
    measured(config, tmp_path / "run")
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("talk", "texts", "all", "bits/char"))
