"""What a predictions file may hold: read line by line as the organisers do, and never an exception."""

import gzip
import json

import pytest

from medtune.evaluation.promptcblue.predictions_file import BLANK, read_predictions

ROW = b'{"target": "x"}'


def read(tmp_path, content, name="p.jsonl"):
    (tmp_path / name).write_bytes(content)
    return read_predictions(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        pytest.param(b"", [], id="empty"),
        pytest.param(ROW, [(1, True, None)], id="no_newline_at_the_end"),
        pytest.param(ROW + b"\r\n" + ROW + b"\r\n", [(1, True, None), (2, True, None)], id="crlf"),
        pytest.param(ROW + b"\r" + ROW, [(1, True, None), (2, True, None)], id="lone_returns"),
        pytest.param(ROW + b"\n\n" + ROW, [(1, True, None), (2, False, BLANK), (3, True, None)], id="blank"),
        pytest.param(
            b"\xef\xbb\xbf" + ROW, [(1, True, "JSONDecodeError: a byte-order mark")], id="byte_order_mark"
        ),
        pytest.param(
            b'{"target": "x"\n' + ROW,
            [
                (1, False, "JSONDecodeError: Expecting ',' delimiter: line 1 column 15 (char 14)"),
                (2, True, None),
            ],
            id="broken",
        ),
        pytest.param(b"[1]\n", [(1, False, "AttributeError: list is no JSON object")], id="no_object"),
        pytest.param(b"null", [(1, False, "AttributeError: NoneType is no JSON object")], id="null"),
        pytest.param(b'{"target": NaN}', [(1, True, None)], id="nan_is_json_to_python"),
    ],
)
def test_lines_are_what_the_official_script_takes_for_lines(tmp_path, content, lines):
    found = read(tmp_path, content)
    assert [(line.number, line.record is not None, line.error) for line in found] == lines


@pytest.mark.parametrize(
    ("content", "error"),
    [
        pytest.param(b'{"target": "\xff"}', "UnicodeDecodeError", id="not_utf8"),
        pytest.param(b"\0" * 9, "JSONDecodeError", id="nul"),
        pytest.param("{}".encode("utf-16"), "UnicodeDecodeError", id="utf16"),
        pytest.param(b'{"a": ' + b"[" * 100_000, "RecursionError", id="deep"),
        pytest.param(b'{"a": ' + b"9" * 5000 + b"}", "ValueError", id="long_number"),
        pytest.param(b"{" + b" " * (32 << 20) + b"}", "more than 32 MiB", id="endless_line"),
    ],
)
def test_a_line_that_cannot_be_read_is_told_and_the_next_one_is_read(tmp_path, content, error):
    first, second = read(tmp_path, content + b"\n" + ROW)
    assert first.record is None
    assert first.error.startswith(error)
    assert second.record == {"target": "x"}


def test_arrays_tables_and_compressed_files_are_read_though_they_are_no_json_lines(tmp_path):
    rows = [{"target": "a"}, {"target": "b"}]
    for lines in (
        read(tmp_path, json.dumps(rows, indent=1).encode(), "p.json"),
        read(tmp_path, b"target\na\nb\n", "p.csv"),
    ):
        assert [line.record for line in lines] == rows
        assert all(line.error.startswith("JSONDecodeError: not JSON lines") for line in lines)
    zipped = read(tmp_path, gzip.compress(ROW), "p.jsonl.gz")
    assert [(line.record, line.error) for line in zipped] == [({"target": "x"}, None)]


def test_a_first_line_that_is_an_array_leaves_the_others_lines(tmp_path):
    assert [line.record for line in read(tmp_path, b"[1]\n" + ROW)] == [None, {"target": "x"}]
