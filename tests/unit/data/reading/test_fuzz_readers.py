"""Files that are not what they should be, 20 160 of them: each is read, or refused with its name.

Seeded; a case that fails prints what makes it again.
"""

import csv
import gzip
import io
import json
import lzma
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medtune.config.schema import SourceConfig
from medtune.data.reading.files import UNPACKERS
from medtune.data.reading.records import read_raw
from medtune.data.reading.splits import read_examples, reader_of_file

CASES = 240  # of each of 12 types and 7 formats
SHARED = Path(__file__).resolve().parents[5] / "shared" / "data"

TURNS = [
    {"role": "system", "content": "简短"},
    {"role": "user", "content": "头痛怎么办？"},
    {"role": "assistant", "content": "多休息。", "weight": 1},
    {"role": "user", "content": "还痛"},
    {"role": "assistant", "content": "就医。"},
]
ALPACA = {
    "instruction": "问",
    "input": "什么",
    "output": "答",
    "history": [["一", "二"], ["三", "四"]],
    "system": "简短",
}
RECORDS = {
    "promptcblue": [{"input": "问", "target": "答", "answer_choices": ["是", "否"], "sample_id": "dev-1"}],
    "pair": [
        {"instruct": "问", "query": "", "answer": "答"},
        {"instruct": "问", "query": "什么", "answer": "答"},
    ],
    "alpaca": [ALPACA, {**ALPACA, "history": []}],
    "messages": [{"messages": TURNS}, {"messages": TURNS[1:3]}],
    "preference": [
        {"instruction": "问", "chosen": "好", "rejected": "坏"},
        {**ALPACA, "output": ["好", "坏"]},
    ],
    "text": [{"text": "高血压是一种常见病。"}, {"text": "第二篇"}],
    "exam": [
        {"question": "问", "option": {"A": "一", "B": "二"}, "answer": "A", "question_type": "多项选择题"},
        {"question": "问", "option": {"A": "一", "B": "二"}, "answer": "AB", "question_type": "单项选择题"},
    ],
}
SHAREGPT = {"conversations": [{"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}]}
REAL = {
    "promptcblue": "promptcblue_toy/train.json",
    "pair": "msra/train.txt",
    "alpaca": "caregpt/self_cognition.json",
    "messages": "caregpt/messages.jsonl",
    "text": "caregpt/drug_leaflets.jsonl",
}
TYPES = (
    *("txt", "json", "jsonl", "csv", "tsv", "parquet"),
    *("txt.gz", "json.gz", "json.xz", "json.zst", "jsonl.zst", "csv.gz"),
)
# Values in the place of others, and bytes in the middle of a file.
VALUES = (
    *(None, 0, -1.5, True, "", " ", "\n", "字", "\ud800", "\x00", [], {}, [[]], [None], [["a"]], [["a", 3]]),
    *([{"role": "user"}], {"role": "tool", "content": "x"}, {"from": "gpt", "value": ["y"]}, ["a", "b"]),
    *(
        [{"type": "text", "text": "t"}],
        [{"type": "image_url"}],
        10**30,
        "[[1]",
        '[{"role":"user","content":"x"}]',
    ),
)
PIECES = (
    *(
        b"\x00",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\r",
        b"\r\n",
        b"\n",
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
    ),
    *(
        b"\\ud800",
        b"\\u0000",
        b"\xc3\x28",
        "问".encode("gb18030"),
        b"NaN",
        b"-Infinity",
        b"1" * 5000,
        b"1e999",
    ),
    *(
        b"[" * 2000,
        b'{"a":' * 2000,
        b"\xe2\x80\xa8",
        b"null",
        b"\x1f\x8b",
        b"PAR1",
        b'""',
        b'"a',
        b"\t",
        b" " * 70_000,
    ),
)


def real_records(format: str) -> list[dict[str, object]]:
    """A few records that nobody here wrote, where they are."""
    path = SHARED / REAL.get(format, "none")
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    return (
        json.loads(text)[:3] if text.startswith("[") else [json.loads(line) for line in text.splitlines()[:3]]
    )


def file_of(records: list[dict[str, object]], kind: str) -> bytes:
    """Records as a file of a type."""
    base, _, packing = kind.partition(".")
    if base == "json":
        content = json.dumps(records, ensure_ascii=False, indent=1).encode(errors="surrogatepass")
    elif base in ("csv", "tsv"):
        content = table_of(records, "," if base == "csv" else "\t")
    elif base == "parquet":
        content = parquet_of(records)
    else:
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        content = "".join(lines).encode(errors="surrogatepass")
    return packed(content, packing)


def packed(content: bytes, packing: str) -> bytes:
    if packing == "zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(content)
        return sink.getvalue().to_pybytes()
    return {"gz": gzip.compress, "xz": lzma.compress, "": bytes}[packing](content)


def table_of(records: list[dict[str, object]], delimiter: str) -> bytes:
    names = list(dict.fromkeys(name for record in records for name in record))
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow(names)
    for record in records:
        cells = (record.get(name, "") for name in names)
        writer.writerow([cell if isinstance(cell, str) else json.dumps(cell) for cell in cells])
    return out.getvalue().encode(errors="surrogatepass")


def parquet_of(records: list[dict[str, object]]) -> bytes:
    out = io.BytesIO()
    try:
        pq.write_table(pa.Table.from_pylist(records), out)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):  # what a table cannot hold
        return b"PAR1"
    return out.getvalue()


def mutated_record(record: object, chance: random.Random) -> object:
    """A record with a value somewhere in it replaced, removed or doubled."""
    if isinstance(record, dict) and record and chance.random() < 0.8:
        name = chance.choice(list(record))
        kind = chance.random()
        if kind < 0.1:
            return {key: value for key, value in record.items() if key != name}
        if kind < 0.15:
            return {(f"{key}x" if key == name else key): value for key, value in record.items()}
        return {**record, name: mutated_record(record[name], chance)}
    if isinstance(record, list) and record and chance.random() < 0.8:
        at = chance.randrange(len(record))
        if chance.random() < 0.3:
            return [*record[:at], record[at], *record[at:]] if chance.random() < 0.5 else record[:at]
        return [*record[:at], mutated_record(record[at], chance), *record[at + 1 :]]
    return chance.choice(VALUES)


def mutated_bytes(content: bytes, chance: random.Random) -> bytes:
    """Bytes cut off, changed, put in, taken out or doubled."""
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(content) + 1)
        kind = chance.randrange(6)
        if kind == 0:
            content = content[:at]
        elif kind == 1:
            content = content[:at] + chance.randbytes(chance.randint(1, 9)) + content[at + 1 :]
        elif kind == 2:
            content = content[:at] + chance.choice(PIECES) + content[at:]
        elif kind == 3:
            content = content[:at] + content[at + chance.randint(1, 20) :]
        elif kind == 4:
            content = content[:at] + content[max(0, at - chance.randint(1, 50)) :]
        else:
            content = content[:at] + content[at : at + 1].swapcase() + content[at + 1 :]
    return content


def make_case(records: list[dict[str, object]], kind: str, chance: random.Random) -> bytes:
    """One file that is probably not what it should be."""
    way = chance.random()
    if way < 0.05:
        return b"".join(chance.choices([*PIECES, chance.randbytes(9)], k=chance.randint(0, 30)))
    if way < 0.4:
        records = [mutated_record(record, chance) for record in chance.choices(records, k=2)]  # type: ignore[misc]
        return file_of([record for record in records if isinstance(record, dict)] or [{}], kind)
    base, _, packing = kind.partition(".")
    if packing and way < 0.8:
        return packed(mutated_bytes(file_of(records, base), chance), packing)
    return mutated_bytes(file_of(records, kind), chance)


@contextmanager
def refused_by_name(start: str) -> Iterator[None]:
    """Lets a ValueError pass whose message begins with ``start`` and can be written to a log."""
    try:
        yield
    except ValueError as error:
        message = str(error).encode().decode()
        if not message.startswith(start):
            pytest.fail(f"the message does not begin with {start}: {message}")


def read_all(path: Path, source: SourceConfig) -> None:
    """Reads a file as training does, and then past every record that cannot be read."""
    with refused_by_name(str(path)):
        for example in read_examples(path, source, needs_response=True):
            assert all(turn.text.encode().strip() for turn in example.turns)
    with refused_by_name(str(path)):
        reader = reader_of_file(path, source, needs_response=False)
        for number, raw in read_raw(path):
            with refused_by_name(f"{path}:{number}: "):
                reader.read(str(path), number, raw)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("format", ["auto", *RECORDS])
def test_every_file_is_read_or_refused_with_its_name(tmp_path, kind, format):
    chance = random.Random(f"{kind} {format}")
    formats = list(RECORDS) if format == "auto" else [format]
    records = [record for name in formats for record in (*RECORDS[name], *real_records(name))]
    if format in ("auto", "messages"):
        records.append(SHAREGPT)
    source = SourceConfig(format=format, on_error=chance.choice(("raise", "skip")))
    path = tmp_path / f"a.{kind}"
    for case in range(CASES):
        chance = random.Random(f"{kind} {format} {case}")
        content = make_case(chance.sample(records, min(3, len(records))), kind, chance)
        path.write_bytes(content)
        try:
            read_all(path, source)
        except Exception as error:
            pytest.fail(
                f"case {case} of {kind}, {format}: {type(error).__name__}: {error}; {content[:300]!r}"
            )


def test_the_fuzz_reaches_every_way_of_packing():
    assert {f".{kind.rpartition('.')[2]}" for kind in TYPES if "." in kind} == set(UNPACKERS)
