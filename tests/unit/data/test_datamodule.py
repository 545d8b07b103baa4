"""The DataModule: what an epoch's batches hold over the ranks, and what is written where."""

import json
import logging
from collections import Counter
from dataclasses import replace

import pytest

from medtune.data.datamodule import PackedDataModule
from medtune.data.rows.order import NO_ROW
from medtune.data.tokens.prepare import TokenizerSource
from medtune.runtime.record import RunFolder
from tests.unit.data.made_corpora import Talk, ask, config_of, made_source


@pytest.fixture
def sources(tmp_path):
    pairs = [ask(f"question {n}" + "?" * (n % 7), "yes" * (n % 3 + 1)) for n in range(50)]
    texts = [Talk(text=f"a text, {n}" + "." * (5 * n % 30)) for n in range(40)]
    return [
        made_source(tmp_path, "pairs", splits={"train": pairs, "validation": pairs[:7], "test": pairs[3:5]}),
        made_source(tmp_path, "texts", "text", {"train": texts}, validation_size=0.2),
    ]


@pytest.fixture
def make(tmp_path, tiny_tokenizer, sources):
    """``make(rank, ranks, folder=None, **data)``: a module that is set up."""

    def run(rank=0, ranks=1, folder=None, tokenizer=None, is_set_up=True, **data):
        batches = {"global_batch_size": 8, "micro_batch_size": 2, **data}
        config = config_of(tmp_path, *sources, **batches)
        module = PackedDataModule(config, tokenizer or tiny_tokenizer, folder, rank, ranks)
        if is_set_up:
            module.setup()
        return module

    return run


def shown_rows(batches):
    return Counter((batch["epoch"], row) for batch in batches for row in batch["rows"] if row != NO_ROW)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("micro", [1, 2, None])
def test_the_ranks_show_every_row_of_an_epoch_once(make, ranks, micro):
    modules = [make(rank, ranks, micro_batch_size=micro) for rank in range(ranks)]
    shares = [list(module.train_dataloader()) for module in modules]
    count = len(modules[0].splits["train"].rows_of(0))
    assert count % 8, "the last step has to be filled up"
    assert shown_rows(batch for share in shares for batch in share) == {(0, row): 1 for row in range(count)}
    passes = modules[0].step_plan.accumulation
    assert passes == 8 // ((micro or 8 // ranks) * ranks)
    assert {len(share) for share in shares} == {-(-count // 8) * passes}
    for at in range(0, len(shares[0]), passes):
        step = [batch for share in shares for batch in share[at : at + passes]]
        assert sum(len(batch["rows"]) for batch in step) == 8
        learned = sum(int((batch["labels"] != -100).sum()) for batch in step)
        assert {batch["step_tokens"] for batch in step} == {learned}


def test_ranks_and_accumulation_do_not_change_the_steps(make):
    def steps(module):
        order = [row for batch in module.train_dataloader() for row in batch["rows"]]
        return [sorted(order[at : at + 8]) for at in range(0, len(order), 8)]

    assert steps(make(micro_batch_size=1)) == steps(make(micro_batch_size=4))
    halves = [list(make(rank, 2).train_dataloader()) for rank in (0, 1)]
    both = [
        sorted(row for share in halves for batch in share[at : at + 2] for row in batch["rows"])
        for at in range(0, len(halves[0]), 2)
    ]
    assert both == steps(make())


@pytest.mark.parametrize("split", ["train", "validation"])
def test_source_ids_and_described_rows_name_the_same_files(make, split):
    module = make(sequence_length=48)
    assert module.source_names == ["pairs", "texts"]
    loader = module.train_dataloader() if split == "train" else module.val_dataloader()
    seen = Counter()
    for batch in loader:
        for at, row in enumerate(batch["rows"]):
            if row == NO_ROW:
                assert batch["source_ids"][at].unique().tolist() == [-1]
                continue
            numbers, ids = batch["document_ids"][at], batch["source_ids"][at]
            owners = [ids[numbers == number].unique().tolist() for number in range(1, int(numbers.max()) + 1)]
            described = module.splits[split].describe_row(batch["epoch"], row).split(", ")
            assert [module.source_names[owner] for (owner,) in owners] == [
                place.split("/")[-2] for place in described
            ]
            if split == "train":
                assert module.describe_row(0, row).split(", ") == described
            assert (ids[numbers == 0] == -1).all()
            seen.update(owner for (owner,) in owners)
    assert set(seen) == {0, 1}


def test_texts_of_rows_are_those_of_the_files(make, tmp_path, tiny_tokenizer):
    """Decoded, a row's documents are the records that it is said to hold."""
    module = make()
    for batch in module.val_dataloader():
        for at, row in enumerate(batch["rows"]):
            if row == NO_ROW:
                continue
            places = module.splits["validation"].describe_row(0, row).split(", ")
            for number, place in enumerate(places, start=1):
                file, line = place.rsplit(":", 1)
                with open(file, encoding="utf-8") as lines:
                    record = json.loads(lines.read().splitlines()[int(line) - 1])
                said = record.get("text") or f"{record['input']}\n{record['target']}"
                ids = batch["input_ids"][at][batch["document_ids"][at] == number].tolist()
                assert tiny_tokenizer.decode(ids) == f"{said}</s>"


def test_a_second_setup_does_nothing(make, caplog):
    caplog.set_level(logging.INFO)
    module = make()
    corpus, plan = module.corpus, module.step_plan
    caplog.clear()
    module.setup("fit")
    assert module.corpus is corpus
    assert module.step_plan is plan
    assert not caplog.records


def test_before_setup_there_are_no_splits(make):
    module = make(is_set_up=False)
    assert module.splits == {}
    module.setup("fit")
    assert list(module.splits) == ["train", "validation"]


def test_the_tokenizer_is_loaded_when_it_is_asked_for(make, tiny_tokenizer):
    loads = []

    def load():
        loads.append(1)
        return tiny_tokenizer

    make()
    source = replace(TokenizerSource.of(tiny_tokenizer), load=load)
    module = make(tokenizer=source)
    next(iter(module.train_dataloader()))
    assert not loads
    assert module.tokenizer is tiny_tokenizer
    assert loads == [1]


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_only_the_first_rank_writes_the_report(make, tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    make(1, 2, folder)
    assert files_in(folder.path) == []
    make(0, 2, folder)
    written = ["data_report.json", "data_report.md", "duplicates.jsonl", "plots/data.png"]
    assert files_in(folder.path) == written
    report = json.loads(folder.data_report_file.read_text())
    assert list(report) == ["objective", "template", "packing", "splits", "duplicates"]
    assert list(report["splits"]) == ["train", "validation"]
    pairs = (folder.path / "duplicates.jsonl").read_text().splitlines()
    assert report["duplicates"]["pairs"] == len(pairs) == 7  # those of validation, two of which are in test
    assert {json.loads(pair)["kind"] for pair in pairs} == {"contaminated"}


def test_a_list_of_duplicates_goes_when_there_are_none_any_more(make, tmp_path, sources):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    make(folder=folder)
    sources[0]["splits"] = {"train": "train.jsonl"}
    make(folder=folder)
    assert files_in(folder.path) == ["data_report.json", "data_report.md", "plots/data.png"]


def test_validation_shows_a_fixed_choice_of_rows(make):
    limited = make(trainer={"val_max_rows": 5}, packing="none")
    rows = shown_rows(limited.val_dataloader())
    assert len(rows) == rows.total() == 5
    assert shown_rows(limited.val_dataloader()) == rows
    halves = [
        shown_rows(make(rank, 2, trainer={"val_max_rows": 5}, packing="none").val_dataloader())
        for rank in (0, 1)
    ]
    assert halves[0] + halves[1] == rows
    whole = make(packing="none")
    everything = {(0, row) for row in range(len(whole.splits["validation"].rows_of(0)))}
    assert set(shown_rows(whole.val_dataloader())) == everything > set(rows)


def test_without_validation_there_is_nothing_to_watch(make, sources):
    sources[0]["splits"] = {"train": "train.jsonl"}
    sources[1]["validation_size"] = None
    assert make().val_dataloader() == []


def test_the_order_of_an_epoch_begins_where_a_run_stopped(make):
    module = make()
    whole = list(module.train_dataloader())
    loader = module.train_dataloader()
    loader.batch_sampler.start(2)
    rest = [batch["rows"] for batch in loader]
    assert rest == [batch["rows"] for batch in whole][2 * module.step_plan.accumulation :]


def test_a_worker_process_gives_the_same_batches(make):
    own, other = (list(make(num_workers=workers).train_dataloader()) for workers in (0, 1))
    assert [batch["rows"] for batch in own] == [batch["rows"] for batch in other]
    for first, second in zip(own, other, strict=True):
        assert all((first[name] == second[name]).all() for name in ("input_ids", "labels", "source_ids"))


def test_a_step_that_is_larger_than_the_epoch_is_told(make, caplog):
    make(global_batch_size=512)
    assert "data.global_batch_size=512 is more than the" in caplog.text
