"""Every type of file, whole and damaged: records with their places, or one message that names the place."""

import gzip
import json
import lzma
import pickle
import random
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtune.data.reading import arrays, lines
from medtune.data.reading.raw import LONGEST, BrokenRecord, parse_record
from medtune.data.reading.records import read_lines, read_raw, read_records

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
GOOD = {"input": "问", "target": "答", "task_dataset": "CHIP-STS"}


def as_line(**changes):
    return (json.dumps({**GOOD, **changes}, ensure_ascii=False) + "\n").encode()


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


def zstd(content):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


PACKERS = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstd}


@pytest.mark.parametrize(
    ("name", "content", "numbers"),
    [
        pytest.param("a.jsonl", as_line() * 2, [1, 2], id="lines"),
        pytest.param("a.jsonl", b"\xef\xbb\xbf" + as_line() * 2, [1, 2], id="byte_order_mark"),
        pytest.param("a.json", as_line().replace(b"\n", b"\r\n") * 2, [1, 2], id="crlf"),
        pytest.param("a.json", as_line().replace(b"\n", b"\r\n") + as_line(), [1, 2], id="mixed_line_ends"),
        pytest.param("a.jsonl", b"\n \n" + as_line() + b"\n" + as_line().rstrip(), [3, 5], id="blank_lines"),
        pytest.param("a.txt", as_line() * 2, [1, 2], id="records_in_a_txt"),
        pytest.param("a.json", b"[" + as_line() + b"," + as_line() + b"]", [1, 2], id="array"),
        pytest.param(
            "a.json",
            b"\xef\xbb\xbf\n [\n" + as_line() + b",\n" + as_line() + b"]\n",
            [3, 5],
            id="array_marked",
        ),
        pytest.param("a.json", json.dumps([GOOD, GOOD]).encode(), [1, 2], id="array_on_a_line"),
        pytest.param("a.json", json.dumps([GOOD, GOOD], indent=1).encode(), [2, 7], id="array_indented"),
        pytest.param(
            "a.csv",
            "input,target,task_dataset\n问,答,CHIP-STS\n\n问,答,CHIP-STS\n".encode(),
            [2, 4],
            id="csv",
        ),
        pytest.param(
            "a.tsv",
            "input\ttarget\ttask_dataset\r\n问\t答\tCHIP-STS\r\n问\t答\tCHIP-STS".encode(),
            [2, 3],
            id="tsv",
        ),
    ],
)
def test_records_and_where_they_begin(tmp_path, name, content, numbers):
    assert list(read_records(write(tmp_path, name, content))) == [(number, GOOD) for number in numbers]


@pytest.mark.parametrize("packing", ["", *PACKERS])
@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.jsonl"])
def test_packed_files_are_read_alike(tmp_path, name, packing):
    content = PACKERS.get(packing, bytes)(as_line() * 3)
    assert [number for number, _ in read_records(write(tmp_path, name + packing, content))] == [1, 2, 3]


def test_parquet_gives_python_values_numbered_from_one(tmp_path):
    rows = [{"text": "一", "turns": [{"role": "user", "n": 1}], "pair": [["a", "b"]]}, {"text": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert list(read_raw(tmp_path / "a.parquet")) == [
        (1, rows[0]),
        (2, {"text": None, "turns": None, "pair": None}),
    ]


def test_a_csv_field_may_be_long_and_hold_anything_that_is_quoted(tmp_path):
    long = "长" * 200_000  # the csv module's own limit is 131 072
    path = write(tmp_path, "a.csv", f'a,b\n"x ""y"",\nz",{long}\n1,2\n'.encode())
    assert list(read_raw(path)) == [(2, {"a": 'x "y",\nz', "b": long}), (4, {"a": "1", "b": "2"})]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("a.json", b"", r"json: the file is empty", id="empty"),
        pytest.param("a.json", b"\n \n", r"json: the file is empty", id="blank_lines_only"),
        pytest.param("a.txt", b"\xef\xbb\xbf", r"txt: the file is empty", id="mark_only"),
        pytest.param("a.json", b" [ ]", r"json: the JSON array is empty", id="empty_array"),
        pytest.param("a.csv", b"a,b\n", r"csv: the file is empty", id="header_only"),
        pytest.param("a.data", b"x", r"data: \.data is not a type that is read; rename it \(txt", id="type"),
        pytest.param(
            "a.json", "\ufeff[]".encode("utf-16-le"), r"json:1: is UTF-16.*iconv -f UTF-16", id="utf16"
        ),
        pytest.param("a.json", as_line() + b"{'a': 1}\n", r"json:2: not JSON at column 2", id="not_json"),
        pytest.param("a.json", as_line() + b'{"input": ', r"json:2: not JSON", id="cut_off"),
        pytest.param(
            "a.json", as_line() + b"3\n", r"json:2: expected a JSON object .* found int", id="number"
        ),
        pytest.param(
            "a.json",
            as_line() + "问".encode("gb18030"),
            r"json:2: not UTF-8 at byte 0.*GB18030",
            id="gb18030",
        ),
        pytest.param("a.jsonl", as_line() + b'{"a": "\x00"}', r"jsonl:2: it holds NUL bytes", id="nul"),
        pytest.param(
            "a.jsonl", b'{"a": ' + b"1" * 5000 + b"}", r"jsonl:1: not JSON: Exceeds the limit", id="digits"
        ),
        pytest.param("a.jsonl", b'{"a":' * 9000, r"jsonl:1: not JSON.*: nested too deep", id="deep"),
        pytest.param(
            "a.jsonl",
            b'{"a":1}\r{"a":2}\r',
            r"jsonl:1: its lines end with carriage returns alone",
            id="lone_returns",
        ),
        pytest.param(
            "a.txt",
            "一\r二\r".encode(),
            r"txt:1: its lines end with carriage returns alone.*tr ",
            id="lone_returns_txt",
        ),
        pytest.param(
            "a.jsonl",
            b'{"b": 1, "a": ["\\ud800"]}\n',
            r"jsonl:1: field 'a' holds a lone surrogate",
            id="surrogate",
        ),
        pytest.param(
            "a.json",
            b'[{"a": "\\uD83D"}]',
            r"json:1: field 'a' holds a lone surrogate",
            id="surrogate_in_array",
        ),
        pytest.param(
            "a.json",
            b'{\n "data": [\n  {"a": 1}\n]}',
            r"json:1: a single JSON object over several.*jq -c '\.data\[\]'",
            id="object",
        ),
        pytest.param(
            "a.json", b'[{"a": 1}, 3]', r"json:2: expected a JSON object .* found int", id="array_of_numbers"
        ),
        pytest.param("a.json", b"[" * 50_000, r"json:1: not a JSON array: nested too deep", id="array_deep"),
        pytest.param(
            "a.json",
            b'[\n{"a": 1}\n{"a": 2}]',
            r"json:3: not a JSON array: expected a comma",
            id="array_comma",
        ),
        pytest.param(
            "a.json",
            b'[\n{"a": 1},\n{"a": ?}]',
            r"json:3: not a JSON array: Expecting value \(column 7\)",
            id="array_value",
        ),
        pytest.param(
            "a.json", b'[{"a": 1},\n]', r"json:2: not a JSON array: Expecting value", id="array_last_comma"
        ),
        pytest.param(
            "a.json", b'[{"a": 1},\n{"a', r"json:2: not a JSON array: Unterminated string", id="array_cut"
        ),
        pytest.param(
            "a.json", b'[{"a": 1}\n', r"json:2: not a JSON array: it is cut off", id="array_cut_between"
        ),
        pytest.param(
            "a.json",
            b'[{"a": 1}]\n[2]',
            r"json:2: not a JSON array: found '\[' after the closing",
            id="array_rest",
        ),
        pytest.param("a.json", b'[{"a": 1},\n{"a": "\xff"}]', r"json:2: not UTF-8", id="array_utf8"),
        pytest.param(
            "a.csv", b"a,b\n1,2\n1\n", r"csv:3: the row has 1 fields, but .* 2 columns", id="ragged"
        ),
        pytest.param(
            "a.csv",
            b'a,b\n1,"2\n3',
            r"csv:2: not a row of a table: a quote is opened and never",
            id="csv_quote",
        ),
        pytest.param(
            "a.csv",
            b'a,b\n1,"2"x\n',
            r"csv:2: not a row of a table: ',' expected after",
            id="csv_after_quote",
        ),
        pytest.param("a.csv", b"a,b\n1,2\n\xff,2\n", r"csv:3: not UTF-8 at byte 0", id="csv_utf8"),
        pytest.param("a.csv", b"a,b\n1,2\n\0,2\n", r"csv:3: it holds NUL bytes", id="csv_nul"),
        pytest.param(
            "a.csv", b"a,b,a\n1,2,3\n", r"csv:1: the first line names a column twice: 'a'", id="csv_twice"
        ),
        pytest.param("a.csv", b"a,\n1,2\n", r"csv:1: .* one has no name: 'a', ''", id="csv_unnamed"),
        pytest.param("a.parquet", b"PAR1", r"parquet: the parquet file is damaged", id="parquet"),
        pytest.param("a.parquet.gz", b"", r"gz: a parquet file is compressed inside", id="parquet_gz"),
    ],
)
def test_a_bad_file_is_named_with_the_place(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message) as refused:
        list(read_records(write(tmp_path, name, content)))
    assert str(refused.value).startswith(str(tmp_path / name))


@pytest.mark.parametrize(
    ("packing", "damage"),
    [
        *((packing, damage) for packing in PACKERS for damage in ("cut", "garbage")),
        *((packing, "changed") for packing in (".gz", ".xz")),  # a zst file need not hold a check sum
    ],
)
def test_damaged_packing_is_named_after_the_last_line_that_was_whole(tmp_path, packing, damage):
    whole = PACKERS[packing](b"".join(as_line(input=str(random.random())) for _ in range(5_000)))
    middle = len(whole) // 2
    content = {
        "cut": whole[:-20],
        "changed": whole[:middle]
        + bytes(byte ^ 0xFF for byte in whole[middle : middle + 40])
        + whole[middle + 40 :],
        "garbage": b"not packed at all",
    }[damage]
    with pytest.raises(
        ValueError, match="the compressed file is damaged( after line [0-9]+)?: .*; get it again"
    ):
        list(read_raw(write(tmp_path, f"a.jsonl{packing}", content)))


@pytest.mark.parametrize(
    ("name", "content", "kept"),
    [
        pytest.param("a.csv", b'a,b\n1,2\n1\n1,"2"x\n\xff,2\n3,4\n', [2, 6], id="csv"),
        pytest.param("a.json", b'[{"a": 1}, 3, "x", {"a": "\\ud800"}, {"a": 2}]', [1, 5], id="array"),
        pytest.param("a.jsonl", b'{"a": 1}\n' + b"x" * 200 + b'\n{"a": 2}\n', [1, 3], id="long_line"),
    ],
)
def test_records_after_a_broken_one_are_still_read(tmp_path, monkeypatch, name, content, kept):
    monkeypatch.setattr(lines, "LONGEST", 100)
    path = write(tmp_path, name, content)
    assert [number for number, raw in read_raw(path) if not isinstance(raw, BrokenRecord)] == kept


def test_a_broken_record_survives_another_process():
    assert pickle.loads(pickle.dumps(BrokenRecord("why"))).reason == "why"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("a.txt", b"x" * (33 << 20), r"txt:1: the line is longer than 32 MiB", id="line"),
        pytest.param(
            "a.json", b'[{"a": "' + b"x" * (70 << 20), r"json:1: .*an item is longer than 32 MiB", id="item"
        ),
        pytest.param(
            "a.csv", b"a,b\n1," + b"x" * (33 << 20), r"csv:2: the line is longer than 32 MiB", id="row"
        ),
    ],
)
def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path, name, content, message):
    path = write(tmp_path, name, content)
    tracemalloc.start()
    with pytest.raises(ValueError, match=message):
        list(read_lines(path) if name == "a.txt" else read_records(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * LONGEST


@pytest.mark.parametrize("form", ["lines", "array", "table"])
def test_memory_does_not_grow_with_the_file(tmp_path, form):
    def peak(count):
        rows = [{"a": f"{number} {'字' * 100}"} for number in range(count)]
        if form == "array":
            path = write(tmp_path, "a.json", json.dumps(rows, ensure_ascii=False).encode())
        elif form == "lines":
            path = write(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
        else:
            path = write(tmp_path, "a.csv", ("a\n" + "".join(row["a"] + "\n" for row in rows)).encode())
        tracemalloc.start()
        assert sum(1 for _ in read_raw(path)) == count
        measured = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return measured

    assert peak(40_000) < peak(10_000) + (1 << 20)


@pytest.mark.parametrize("chunk", [1, 2, 7, 100])
def test_an_array_is_read_alike_through_a_window_of_any_width(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(arrays, "CHUNK", chunk)
    rows = [{"键": '值\n"[{,', "n": 12.5, "l": [1, None, True, {"a": "\U0001f600"}]}, {}, {"a": "é"}]
    path = write(tmp_path, "a.json", json.dumps(rows, ensure_ascii=False, indent=2).encode())
    assert list(read_raw(path)) == list(zip([2, 14, 15], rows, strict=True))


def test_a_number_is_not_cut_by_the_window(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "CHUNK", 4)
    path = write(tmp_path, "a.json", b'[123456, {"a": 1}, 7]')
    assert [(number, isinstance(raw, BrokenRecord)) for number, raw in read_raw(path)] == [
        (1, True),
        (2, False),
        (3, True),
    ]


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.text(), JSON, max_size=3), min_size=1, max_size=5),
    chunk=st.integers(1, 40),
)
def test_what_json_can_hold_comes_back(tmp_path_factory, rows, chunk):
    folder = tmp_path_factory.mktemp("any")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "CHUNK", chunk)
        for name, text in (
            ("a.json", json.dumps(rows, ensure_ascii=False)),
            ("b.json", json.dumps(rows, indent=2)),
            ("c.jsonl", "\r\n".join(map(json.dumps, rows))),
        ):
            found = list(read_raw(write(folder, name, text.encode())))
            assert [parse_record(raw, name) for _, raw in found] == rows
            assert [number for number, _ in found] == sorted({number for number, _ in found})


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.csv", "a.parquet"])
def test_progress_adds_up_to_the_file(tmp_path, name):
    rows = [{"a": str(random.random())} for _ in range(3000)]
    if name == "a.parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    elif name == "a.csv":
        write(tmp_path, name, ("a\n" + "\n".join(row["a"] for row in rows)).encode())
    else:
        text = json.dumps(rows) if name == "a.json" else "".join(json.dumps(row) + "\n" for row in rows)
        write(tmp_path, name, gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    seen: list[int] = []
    assert sum(1 for _ in read_raw(tmp_path / name, seen.append)) == 3000
    assert sum(seen) == (tmp_path / name).stat().st_size
    assert len(seen) > 5
    assert min(seen) >= 0


def test_lines_are_text_without_their_ends(tmp_path):
    path = write(tmp_path, "a.txt", "\ufeff 一 \r\n\r\n[二]\n三".encode())
    assert list(read_lines(path)) == [(1, " 一 "), (3, "[二]"), (4, "三")]
    with pytest.raises(ValueError, match=r"b\.txt: the file is empty"):
        list(read_lines(write(tmp_path, "b.txt", b"\n")))
