"""Templates, store, rows and collation: ids and labels to the token."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from medtune.config.schema import Config, DataConfig, TemplateConfig
from medtune.data.collate import Collator
from medtune.data.datamodule import PackedDataModule
from medtune.data.examples import Example, Turn
from medtune.data.order import NO_ROW
from medtune.data.prepare import prepare_split
from medtune.data.rows import IGNORE_INDEX, PackedSplit
from medtune.data.templates import Template
from medtune.runtime.record import RunFolder

EOS, BOS = 3, 2


def write_split(folder, pairs, name="train.json"):
    lines = [json.dumps({"input": prompt, "target": response}) for prompt, response in pairs]
    (folder / name).write_text("\n".join(lines))


@pytest.fixture
def data(tmp_path) -> DataConfig:
    """Four promptcblue records of 5, 9, 3 and 6 tokens, a token per character and one EOS each."""
    write_split(tmp_path, [("ab", "cd"), ("abcd", "efgh"), ("a", "b"), ("abc", "de")])
    return DataConfig(
        name="four", dir=str(tmp_path), splits={"train": "train.json"}, cache_dir=str(tmp_path / "cache"),
        sequence_length=12, global_batch_size=1,
    )  # fmt: skip


def packed(data, tokenizer, objective="sft", template=None):
    store = prepare_split(data, template or TemplateConfig(), tokenizer, "train")
    return PackedSplit(store, data, "train", objective, seed=0)


def test_a_prompt_has_the_same_ids_in_training_and_generation(tiny_tokenizer):
    config = TemplateConfig(prompt="ask: {prompt}\n", bos=True)
    template = Template(config, tiny_tokenizer)
    turns = (Turn("prompt", "a{prompt}b", learned=False), Turn("response", "c", learned=True))
    (encoded,) = template.encode([Example(turns, "f", 1)])
    prompt_ids = template.prompt_ids("a{prompt}b")
    assert encoded.input_ids[: len(prompt_ids)] == prompt_ids
    assert encoded.input_ids[0] == BOS
    assert encoded.input_ids[-1] == EOS
    assert encoded.spans == [(len(prompt_ids), len(encoded.input_ids))]


def test_control_tokens_in_user_text_stay_text(tiny_tokenizer):
    template = Template(TemplateConfig(), tiny_tokenizer)
    assert EOS not in template.prompt_ids("a</s>b")


def test_a_conversation_continues_with_the_separator_and_ends_open(tiny_tokenizer):
    template = Template(TemplateConfig(prompt="{prompt}:", separator="\n"), tiny_tokenizer)
    ids = template.prompt_ids("c", history=[("a", "b")])
    assert tiny_tokenizer.decode(ids).replace("</s>", "|") == "a:b|\nc:"


def test_a_template_without_a_place_for_the_prompt_is_refused(tiny_tokenizer):
    with pytest.raises(ValueError, match="the prompt would be lost"):
        Template(TemplateConfig(prompt="hello"), tiny_tokenizer)


def test_a_tokenizer_without_eos_is_refused(tiny_tokenizer):
    tiny_tokenizer = type(tiny_tokenizer)(tokenizer_object=tiny_tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="has no eos token; set template.eos=false"):
        Template(TemplateConfig(), tiny_tokenizer)


def test_the_store_gives_back_ids_and_spans_bit_for_bit(data, tiny_tokenizer):
    store = prepare_split(data, TemplateConfig(), tiny_tokenizer, "train")
    expected = [
        [*tiny_tokenizer.encode(text, add_special_tokens=False), EOS]
        for text in ("abcd", "abcdefgh", "ab", "abcde")
    ]
    assert [store.input_ids(index).tolist() for index in range(4)] == expected
    assert [store.spans(index).tolist() for index in range(4)] == [[[2, 5]], [[4, 9]], [[1, 3]], [[3, 6]]]
    assert store.lines.tolist() == [1, 2, 3, 4]


def test_the_cache_is_hit_by_what_changes_no_token_and_missed_by_what_does(data, tiny_tokenizer):
    folder = prepare_split(data, TemplateConfig(), tiny_tokenizer, "train").folder
    written = (folder / "tokens.arrow").stat().st_mtime_ns
    data.sequence_length, data.packing = 99, "concat"
    again = prepare_split(data, TemplateConfig(), tiny_tokenizer, "train").folder
    assert (again / "tokens.arrow").stat().st_mtime_ns == written
    assert prepare_split(data, TemplateConfig(prompt="q {prompt}"), tiny_tokenizer, "train").folder != folder
    write_split(folder.parents[1], [("ab", "ce")])
    assert prepare_split(data, TemplateConfig(), tiny_tokenizer, "train").folder != folder


@pytest.mark.parametrize(("objective", "learned"), [("sft", [3, 5, 2, 3]), ("pretrain", [4, 8, 2, 5])])
@pytest.mark.parametrize("packing", ["none", "bfd"])
def test_labels_are_the_responses_or_everything_but_the_first_token(
    data, tiny_tokenizer, objective, learned, packing
):
    data.packing = packing
    split = packed(data, tiny_tokenizer, objective)
    batch = Collator(split, pad_id=0)([(row, 1) for row in range(len(split))])
    ids, labels, documents = batch["input_ids"], batch["labels"], batch["document_ids"]
    assert int((labels != IGNORE_INDEX).sum()) == sum(learned) == int(split.learned.sum())
    assert (labels != IGNORE_INDEX).sum(1).tolist() == split.learned.tolist()
    assert torch.equal(ids[labels != IGNORE_INDEX], labels[labels != IGNORE_INDEX])
    starts = batch["position_ids"] == 0
    assert (labels[starts & (documents > 0)] == IGNORE_INDEX).all()
    assert (labels[documents == 0] == IGNORE_INDEX).all()
    assert batch["packed"] == (packing == "bfd")


def test_a_packed_row_restarts_positions_and_counts_documents(data, tiny_tokenizer):
    split = packed(data, tiny_tokenizer)
    row = int(np.argmax(np.diff(split.rows.offsets)))
    batch = Collator(split, pad_id=7)([(row, 11)])
    documents, positions = batch["document_ids"][0], batch["position_ids"][0]
    lengths = (split.rows.end - split.rows.start)[
        split.rows.offsets[row] : split.rows.offsets[row + 1]
    ].tolist()
    assert len(lengths) > 1
    assert documents[: sum(lengths)].tolist() == [
        n for n, length in enumerate(lengths, 1) for _ in range(length)
    ]
    assert positions[: sum(lengths)].tolist() == [p for length in lengths for p in range(length)]
    assert (batch["input_ids"][0, sum(lengths) :] == 7).all()
    assert batch["step_tokens"] == 11


def test_a_row_without_tokens_fills_a_step(data, tiny_tokenizer):
    batch = Collator(packed(data, tiny_tokenizer), pad_id=0)([(NO_ROW, 5), (0, 5)])
    assert (batch["document_ids"][0] == 0).all()
    assert (batch["labels"][0] == IGNORE_INDEX).all()


def test_concat_learns_everything_but_the_first_token_of_each_piece(data, tiny_tokenizer):
    data.packing, data.sequence_length = "concat", 4
    split = packed(data, tiny_tokenizer, "pretrain")
    batch = Collator(split, pad_id=0)([(row, 1) for row in range(len(split))])
    assert int((batch["document_ids"] > 0).sum()) == 5 + 9 + 3 + 6
    assert (batch["labels"] != IGNORE_INDEX).sum(1).tolist() == split.learned.tolist()


@pytest.mark.parametrize("objective", ["sft", "pretrain"])
def test_counts_equal_labels_when_prompts_are_cut_or_texts_are_split(data, tiny_tokenizer, objective):
    data.sequence_length, data.overlong = 6, "truncate" if objective == "sft" else "split"
    split = packed(data, tiny_tokenizer, objective)
    batch = Collator(split, pad_id=0)([(row, 1) for row in range(len(split))])
    assert (batch["labels"] != IGNORE_INDEX).sum(1).tolist() == split.learned.tolist()
    if objective == "sft":
        assert split.pieces.truncated == 1
        assert int(split.learned.sum()) == 3 + 5 + 2 + 3, "a response was cut"


@pytest.mark.parametrize(
    ("overlong", "message"),
    [
        pytest.param(
            "error",
            r"1 of 4 examples in train\.json are longer than data\.sequence_length=4 .*line 2, has 9",
            id="error",
        ),
        pytest.param(
            "truncate",
            r"train\.json:2: the response has 5 tokens but data\.sequence_length is 4",
            id="truncate",
        ),
    ],
)
def test_overlong_examples_are_never_cut_silently(data, tiny_tokenizer, overlong, message):
    write_split(Path(data.dir), [("a", "b"), ("abcd", "efgh"), ("a", "b"), ("a", "b")])
    data.sequence_length, data.overlong = 4, overlong
    with pytest.raises(ValueError, match=message):
        packed(data, tiny_tokenizer)


def test_dropping_leaves_a_ledger_that_closes(data, tiny_tokenizer, tmp_path):
    data.sequence_length, data.overlong = 6, "drop"
    folder = RunFolder(tmp_path / "run")
    module = PackedDataModule(Config(data=data), tiny_tokenizer, folder)
    module.setup()
    entry = json.loads(folder.data_report_file.read_text())["splits"]["train"]
    assert (entry["documents"], entry["documents_kept"], entry["dropped"], entry["overlong"]) == (4, 3, 1, 1)
    assert entry["tokens"] == entry["tokens_kept"] + entry["tokens_dropped"] + entry["tokens_cut"] == 23
    assert entry["rows"] * entry["sequence_length"] == entry["tokens_kept"] + entry["padding"]


def test_everything_dropped_is_an_error(data, tiny_tokenizer):
    data.sequence_length, data.overlong = 2, "drop"
    with pytest.raises(ValueError, match="no examples left with data.overlong=drop"):
        packed(data, tiny_tokenizer)


def test_the_loader_goes_on_where_it_is_told(data, tiny_tokenizer):
    data.packing = "none"
    module = PackedDataModule(Config(data=data), tiny_tokenizer)
    module.setup()
    loader = module.train_dataloader()
    whole = [batch["rows"] for batch in loader]
    loader.batch_sampler.start(2)
    assert [batch["rows"] for batch in loader] == whole[2:]


@pytest.mark.parametrize(("micro", "world", "passes"), [(None, 1, 1), (None, 2, 1), (1, 2, 2), (2, 1, 2)])
def test_a_device_takes_its_share_of_a_step_unless_told(data, tiny_tokenizer, micro, world, passes):
    data.global_batch_size, data.micro_batch_size = 4, micro
    module = PackedDataModule(Config(data=data), tiny_tokenizer, world_size=world)
    module.setup()
    assert module.step_plan.accumulation == passes
    assert module.step_plan.micro_batch_size * world * passes == 4
