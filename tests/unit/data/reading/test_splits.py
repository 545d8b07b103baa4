"""From settings to examples: files, formats told from their first record, limits, sums."""

import hashlib
import json
from pathlib import Path

import pytest

from medtune.config.schema import ColumnsConfig, DataConfig, SourceConfig
from medtune.data.reading.splits import (
    file_names,
    raw_records,
    read_examples,
    reader_of,
    split_digest,
    split_examples,
    split_files,
    verify_files,
)

SHARED = Path(__file__).resolve().parents[5] / "shared" / "data"


def source_of(folder, name="a.jsonl", content=None, **settings):
    if content is not None:
        (folder / name).write_text(content, encoding="utf-8")
    return SourceConfig(dir=str(folder), splits={"train": name}, **settings)


def examples_of(source, **settings):
    return list(
        read_examples(Path(source.dir) / source.splits["train"], source, needs_response=True, **settings)
    )


def test_a_split_that_does_not_exist_is_named_with_those_that_do():
    source = SourceConfig(name="sample", splits={"train": "a", "validation": "b"})
    message = "data=sample has no split 'valid', only train, validation; did you mean 'validation'"
    for read in (split_files, file_names, split_digest):
        with pytest.raises(ValueError, match=message):
            read(source, "valid")
    with pytest.raises(ValueError, match="no split 'train', only none"):
        split_files(SourceConfig(), "train")


def test_records_of_a_folder_come_file_by_file(tmp_path):
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / name).write_text(f'{{"text": "{name} 1"}}\n\n{{"text": "{name} 3"}}\n')
    source = SourceConfig(dir=str(tmp_path), splits={"train": ""}, format="text")
    assert file_names(source, "train") == [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    places = [(file, line) for file, line, _ in raw_records(source, "train")]
    assert places == [(0, 1), (0, 3), (1, 1), (1, 3)]
    seen: list[int] = []
    assert sum(1 for _ in raw_records(source, "train", seen.append)) == 4
    assert sum(seen) == sum(path.stat().st_size for path in tmp_path.iterdir())
    data = DataConfig(dir=str(tmp_path), splits={"train": "*.jsonl"}, format="text")
    wheres = [example.where for example in split_examples(data, "train", needs_response=True)]
    assert wheres == [f"{tmp_path / name}:{line}" for name in ("a.jsonl", "b.jsonl") for line in (1, 3)]


@pytest.mark.parametrize(
    ("name", "content", "format", "turns"),
    [
        pytest.param("a.txt", "一\n二 \n", "auto", ["一", "二 "], id="documents"),
        pytest.param("a.txt", "一\n二\n", "text", ["一", "二"], id="documents_said"),
        pytest.param("a.txt", '[1] 一\n{"a": 1}\n', "auto", ["[1] 一", '{"a": 1}'], id="documents_like_json"),
        pytest.param(
            "a.txt", '{"text": "一"}\n{"text": "二"}\n', "auto", ["一", "二"], id="records_in_a_txt"
        ),
        pytest.param(
            "a.txt", '{"text": "一"}\n{"text": "二"}\n', "text", ["一", "二"], id="records_in_a_txt_said"
        ),
        pytest.param("a.txt", "{一}\n二\n", "auto", ["{一}", "二"], id="brace_but_no_record"),
        pytest.param("a.jsonl", '{"text": "一"}\n{"text": "二"}\n', "auto", ["一", "二"], id="records"),
        pytest.param("a.json", '[{"text": "一"}, {"text": "二"}]', "auto", ["一", "二"], id="array"),
        pytest.param("a.csv", "text,id\n一,1\n二,2\n", "auto", ["一", "二"], id="table"),
    ],
)
def test_text_is_a_document_per_line_or_per_record(tmp_path, name, content, format, turns):
    examples = examples_of(source_of(tmp_path, name, content, format=format))
    assert [example.turns[0].text for example in examples] == turns
    assert {turn.role for example in examples for turn in example.turns} == {"text"}


def test_a_carriage_return_inside_a_document_is_ambiguous(tmp_path):
    source = source_of(tmp_path, "a.txt", "一\r\n二\r三\n")
    with pytest.raises(ValueError, match=r"a\.txt:2: a carriage return stands inside the line.*tr "):
        examples_of(source)


def test_records_in_a_txt_of_another_format(tmp_path):
    line = json.dumps({"instruct": "i", "query": "q", "answer": "a"}) + "\n"
    for format in ("auto", "pair"):
        (example,) = examples_of(source_of(tmp_path, "train.txt", line, format=format))
        assert [turn.text for turn in example.turns] == ["i\nq", "a"]


def test_a_format_is_told_from_the_first_record_or_asked_for(tmp_path):
    source = source_of(tmp_path, content='{"input": "q", "target": "a"}\n')
    assert reader_of(source, "train", needs_response=True).format == "promptcblue"
    source = source_of(tmp_path, content='{"text": "q", "answer": "a"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl:1: no format has the fields 'text', 'answer'"):
        reader_of(source, "train", needs_response=True)


def test_with_skipped_errors_the_format_is_told_from_the_first_readable_record(tmp_path):
    content = '{"input": \n3\n{"input": "q", "target": "a"}\n'
    source = source_of(tmp_path, content=content, on_error="skip")
    assert reader_of(source, "train", needs_response=True).format == "promptcblue"
    source.on_error = "raise"
    with pytest.raises(ValueError, match=r"a\.jsonl:1: not JSON"):
        reader_of(source, "train", needs_response=True)
    with pytest.raises(ValueError, match=r"a\.jsonl:1: not JSON"):
        reader_of(source_of(tmp_path, content='{"a\n3\n', on_error="skip"), "train", needs_response=True)


def test_columns_of_any_name_and_a_limit(tmp_path):
    columns = ColumnsConfig(instruction="问", query="", response="答")
    source = source_of(tmp_path, content='{"问": "q", "答": "a"}\n' * 5, columns=columns, max_examples=2)
    examples = examples_of(source)
    assert [example.prompt for example in examples] == ["q", "q"]
    assert examples[1].where == f"{tmp_path / 'a.jsonl'}:2"


def test_a_test_file_may_withhold_its_targets(tmp_path):
    source = source_of(tmp_path, content='{"input": "问", "target": ""}\n')
    (example,) = read_examples(tmp_path / "a.jsonl", source, needs_response=False)
    assert (example.prompt, example.turns[1].text) == ("问", "")


def test_splits_of_a_mix_are_named_by_source(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"input": "q", "target": "a"}\n' * 3)
    (tmp_path / "b.txt").write_text("一\n二\n三\n")
    data = DataConfig(
        mix=["one", "two"],
        sources={
            "one": {"dir": str(tmp_path), "splits": {"train": "a.jsonl"}, "max_examples": 1},
            "two": {"dir": str(tmp_path), "splits": {"train": "b.txt"}, "format": "text"},
        },
    )
    assert len(list(split_examples(data, "one/train", needs_response=True))) == 1
    assert len(list(split_examples(data, "two/train", needs_response=True))) == 3
    with pytest.raises(ValueError, match="in a mix a split is named SOURCE/SPLIT"):
        split_examples(data, "train", needs_response=True)


def test_a_sum_that_differs_is_refused_unless_that_is_wanted(tmp_path):
    content = '{"text": "一"}\n'
    sums = {"train": hashlib.sha1(content.encode()).hexdigest().upper()}
    source = source_of(tmp_path, content=content, sha1=sums)
    verify_files(source, "train")
    (tmp_path / "a.jsonl").write_text(content * 2)
    with pytest.raises(
        ValueError, match=r"a\.jsonl: its SHA-1 is \w{40}, but data\.sha1\.train .*data\.verify=false"
    ):
        verify_files(source, "train")
    source.verify = False
    verify_files(source, "train")
    (tmp_path / "b.jsonl").write_text(content)
    source.splits, source.verify = {"train": "*.jsonl"}, True
    with pytest.raises(ValueError, match="is the sum of one file, but there are 2; set data.verify=false"):
        verify_files(source, "train")


def test_a_digest_changes_with_the_content_and_not_with_the_name(tmp_path):
    source = source_of(tmp_path, content="1")
    before = split_digest(source, "train")
    assert split_digest(source_of(tmp_path, "b.jsonl", "1"), "train") == before
    assert split_digest(source_of(tmp_path, "b.jsonl", "2"), "train") != before


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not there")
@pytest.mark.parametrize(
    ("file", "format", "count", "roles"),
    [
        pytest.param(
            "promptcblue_toy/train.json", "promptcblue", 80, ["prompt", "response"], id="promptcblue"
        ),
        pytest.param(
            "promptcblue_toy/dev.json", "promptcblue", 80, ["prompt", "response"], id="promptcblue_dev"
        ),
        pytest.param("msra/train.txt", "pair", 600, ["prompt", "response"], id="msra"),
        pytest.param("msra/eval.txt", "pair", 200, ["prompt", "response"], id="msra_eval"),
        pytest.param(
            "caregpt/messages.jsonl", "messages", 100, ["system", "prompt", "response"], id="messages"
        ),
        pytest.param("caregpt/self_cognition.json", "alpaca", 80, ["prompt", "response"], id="alpaca"),
        pytest.param("caregpt/drug_leaflets.jsonl", "text", 800, ["text"], id="text"),
    ],
)
def test_real_files_are_told_and_read(file, format, count, roles):
    source = SourceConfig(dir=str(SHARED), splits={"train": file})
    assert reader_of(source, "train", needs_response=True).format == format
    examples = examples_of(source)
    assert len(examples) == count
    assert [turn.role for turn in examples[0].turns] == roles
