"""Files that are not what they should be: one message that names file, line and fix."""

import gzip
import json
import lzma

import pytest

from medtune.config.schema import ColumnsConfig, DataConfig
from medtune.data.reading import read_examples, split_path
from medtune.data.records import read_lines, read_records

GOOD = {"input": "问", "target": "答", "task_dataset": "CHIP-STS"}


def as_line(**changes):
    return (json.dumps({**GOOD, **changes}, ensure_ascii=False) + "\n").encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", r"train\.json: the file is empty", id="empty"),
        pytest.param(b"\n \n", r"train\.json: the file is empty", id="blank_lines_only"),
        pytest.param(as_line() + b"{'a': 1}\n", r"train\.json:2: not JSON at column 2", id="not_json"),
        pytest.param(as_line() + b'{"input": ', r"train\.json:2: not JSON", id="cut_off"),
        pytest.param(b"[" * 50_000, r"train\.json:1: not a JSON array", id="nested_too_deep"),
        pytest.param(
            as_line() + b"3\n", r"train\.json:2: expected a JSON object .* found int", id="not_an_object"
        ),
        pytest.param(
            b'[{"input": "q", "target": "a"}, 3]', r"json:2: expected a JSON object", id="array_of_numbers"
        ),
        pytest.param(
            as_line() + "问".encode("gb18030"), r"train\.json:2: not UTF-8 at byte 0", id="not_utf8"
        ),
        pytest.param(
            b'{"imput": "q", "target": "a"}\n',
            r"train\.json:1: .*no field 'input'.*did you mean 'imput'",
            id="field",
        ),
        pytest.param(
            as_line(input=3), r"json:1: field 'input' must be a string, found int: 3", id="wrong_type"
        ),
        pytest.param(
            as_line() + as_line(target=" "), r"json:2: field 'target' is empty", id="empty_response"
        ),
        pytest.param(b'{"input": "\\ud800", "target": "a"}\n', r"json:1: .*lone surrogate", id="surrogate"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path, content, message):
    path = tmp_path / "train.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_examples(path, DataConfig(format="promptcblue"), needs_response=True))


def test_a_missing_file_says_what_lies_beside_it(tmp_path):
    (tmp_path / "dev.json").write_text("{}")
    with pytest.raises(ValueError, match=r"train\.json: no such file; .* holds dev\.json"):
        list(read_lines(tmp_path / "train.json"))
    with pytest.raises(ValueError, match="does not exist either; set data.dir"):
        list(read_lines(tmp_path / "nowhere" / "train.json"))
    with pytest.raises(ValueError, match="is a folder, not a file"):
        list(read_lines(tmp_path))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("\ufeff".encode() + as_line() + as_line(), id="byte_order_mark"),
        pytest.param(as_line().replace(b"\n", b"\r\n") * 2, id="crlf"),
        pytest.param(as_line() + b"\n" + as_line().rstrip(), id="blank_line_and_no_last_line_break"),
        pytest.param(b"[" + as_line() + b"," + as_line() + b"]", id="json_array"),
    ],
)
def test_harmless_differences_are_read_alike(tmp_path, content):
    path = tmp_path / "train.json"
    path.write_bytes(content)
    assert [record for _, record in read_records(path)] == [GOOD, GOOD]


def test_compressed_files_are_read_and_damage_is_named(tmp_path):
    for suffix, pack in [(".gz", gzip.compress), (".xz", lzma.compress)]:
        path = tmp_path / f"train.json{suffix}"
        path.write_bytes(pack(as_line() * 3))
        assert len(list(read_records(path))) == 3
        for damaged in (pack(as_line() * 3)[:-12], pack(as_line() * 3)[:12] + b"\xff" * 40):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match="compressed file is damaged"):
                list(read_records(path))


@pytest.mark.parametrize(
    ("record", "prompt"),
    [
        pytest.param({"instruct": "i", "query": "q", "answer": "a"}, "i\nq", id="both"),
        pytest.param({"instruct": "i", "query": "", "answer": "a"}, "i", id="no_query"),
        pytest.param({"instruct": "", "query": "q", "answer": "a"}, "q", id="no_instruction"),
    ],
)
def test_pairs_join_instruction_and_query_by_a_line_break(tmp_path, record, prompt):
    path = tmp_path / "train.txt"
    path.write_text(json.dumps(record))
    (example,) = read_examples(path, DataConfig(format="pair"), needs_response=True)
    assert [(turn.role, turn.text, turn.learned) for turn in example.turns] == [
        ("prompt", prompt, False),
        ("response", "a", True),
    ]


def test_columns_of_any_name_and_a_limit(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"问": "q", "答": "a"}\n' * 5)
    columns = ColumnsConfig(instruction="问", query="", response="答")
    examples = list(
        read_examples(path, DataConfig(format="pair", columns=columns, max_examples=2), needs_response=True)
    )
    assert [example.prompt for example in examples] == ["q", "q"]
    assert examples[1].where == f"{path}:2"


def test_text_is_a_document_per_line_or_per_record(tmp_path):
    plain, records = tmp_path / "a.txt", tmp_path / "a.jsonl"
    plain.write_text("一\n二\n")
    records.write_text('{"text": "一"}\n{"text": "二"}\n')
    for path in (plain, records):
        examples = read_examples(path, DataConfig(format="text"), needs_response=True)
        assert [example.turns[0].text for example in examples] == ["一", "二"]


def test_a_test_file_may_withhold_its_targets(tmp_path):
    path = tmp_path / "test.json"
    path.write_bytes(as_line(target=""))
    (example,) = read_examples(path, DataConfig(format="promptcblue"), needs_response=False)
    assert example.turns[1].text == ""


def test_a_split_that_does_not_exist_is_named_with_those_that_do():
    data = DataConfig(name="sample", splits={"train": "a", "validation": "b"})
    with pytest.raises(
        ValueError, match="data=sample has no split 'valid', only train, validation; did you mean 'valid"
    ):
        split_path(data, "valid")
