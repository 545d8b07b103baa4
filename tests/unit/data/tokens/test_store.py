"""Tokens on disk: what goes in comes out, and damage is told."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtune.data.tokens.encode import Dropped, EncodedChunk, Lists
from medtune.data.tokens.store import DROPPED, META, TOKENS, StoreKey, TokenStore, damage_of, write_store

PROJECT = Path(__file__).parents[4]
KEY = StoreKey({"content": "a", "encoder": "1"})
INT32, INT64, UINT64 = (st.integers(0, 2**bits - 1) for bits in (31, 63, 64))
PAIRS = st.lists(st.tuples(INT32, INT32).map(list), max_size=3).map(lambda pairs: sum(pairs, []))
ROWS = st.lists(
    st.tuples(st.lists(INT32, max_size=6), PAIRS, PAIRS, INT64, UINT64, UINT64, UINT64, UINT64, INT32),
    max_size=5,
)


def chunk_of(rows, dropped=()):
    ids, spans, relabels, lines, *words, responses = zip(*rows, strict=True) if rows else [()] * 9
    first, second, prompts, samples = (np.array(column, dtype=np.uint64) for column in words)
    return EncodedChunk(
        records=len(rows) + len(dropped),
        dropped=list(dropped),
        input_ids=Lists.of(ids),
        spans=Lists.of(spans),
        relabels=Lists.of(relabels),
        lines=np.array(lines, dtype=np.int64),
        files=np.zeros(len(rows), dtype=np.int32),
        content=np.stack([first, second], axis=1),
        prompts=prompts,
        samples=samples,
        responses=np.array(responses, dtype=np.int32),
    )


def write(folder, chunks, key=KEY, eos_id=2):
    about = {"pad_id": 0, "encoder": "tiktoken"}
    write_store(folder, key, chunks, files=["a.jsonl", "b.jsonl"], eos_id=eos_id, about=about)
    return TokenStore(folder)


ROW = ([5, 2, 7], [1, 3], [2, 9], 4, 11, 12, 13, 14, 1)
OTHER = ([8, 2], [0, 1, 1, 2], [], 7, 21, 22, 23, 0, 2)


@given(st.lists(ROWS, max_size=4))
@settings(max_examples=60, deadline=None)
def test_everything_survives_the_store_bit_for_bit(tmp_path_factory, chunks):
    folder = tmp_path_factory.mktemp("store") / "x"
    store = write(folder, map(chunk_of, chunks))
    rows = [row for chunk in chunks for row in chunk]
    assert len(store) == len(rows) == store.meta["examples"] == store.meta["records"]
    assert damage_of(folder) is None
    columns = [store.lines, *store.content.T, store.prompts, store.samples, store.responses]
    assert [column.dtype.name for column in columns] == ["int64", *["uint64"] * 4, "int32"]
    for index, (ids, spans, relabels, *numbers) in enumerate(rows):
        assert store.input_ids(index).tolist() == ids
        assert store.spans(index).flatten().tolist() == spans
        assert store.relabels(index).flatten().tolist() == relabels
        assert [int(column[index]) for column in columns] == numbers
    assert store.lengths.tolist() == [len(row[0]) for row in rows]
    pairs = [(i, *row[1][k : k + 2]) for i, row in enumerate(rows) for k in range(0, len(row[1]), 2)]
    assert [tuple(map(int, entry)) for entry in zip(*store.span_table, strict=True)] == pairs
    assert store.meta["tokens"] == sum(len(row[0]) for row in rows)
    assert store.meta["ends_with_eos"] == sum(row[0][-1:] == [2] for row in rows)


def test_ids_are_views_of_the_mapped_file(tmp_path):
    store = write(tmp_path / "x", [chunk_of([ROW])])
    assert not store.input_ids(0).flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        store.input_ids(0)[0] = 1


def test_dropped_records_are_counted_and_listed(tmp_path):
    dropped = [Dropped(0, 5, "error", "not JSON"), Dropped(1, 6, "min_chars", "data.filter.min_chars=3")]
    store = write(tmp_path / "x", [chunk_of([ROW], dropped), chunk_of([], dropped[1:]), chunk_of([OTHER])])
    assert store.meta["dropped"] == {"error": 1, "min_chars": 2}
    assert store.meta["records"] == store.meta["examples"] + 3 == 5
    listed = [json.loads(line) for line in (tmp_path / "x" / DROPPED).read_text().splitlines()]
    assert listed[:2] == [
        {"file": "a.jsonl", "line": 5, "cause": "error", "reason": "not JSON"},
        {"file": "b.jsonl", "line": 6, "cause": "min_chars", "reason": "data.filter.min_chars=3"},
    ]
    assert [store.where(index) for index in range(2)] == ["a.jsonl:4", "a.jsonl:7"]
    assert TokenStore(tmp_path / "x", ["c.jsonl", "d.jsonl"]).where(1) == "c.jsonl:7"


def test_a_store_goes_to_another_process(tmp_path):
    store = pickle.loads(pickle.dumps(write(tmp_path / "x", [chunk_of([ROW, OTHER])])))
    assert store.input_ids(1).tolist() == [8, 2]
    assert store.files == ["a.jsonl", "b.jsonl"]


def test_the_bytes_depend_on_the_content_alone(tmp_path):
    for name in "ab":
        write(tmp_path / name, [chunk_of([ROW]), chunk_of([OTHER])])
    for file in (TOKENS, DROPPED, META):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)


def more_tokens(path):
    meta = json.loads(path.read_text())
    path.write_text(json.dumps({**meta, "tokens": meta["tokens"] + 1}))


def other_values(path):
    path.write_text('{"digests": [1]}')


@pytest.mark.parametrize(
    ("file", "damage", "told"),
    [
        pytest.param(TOKENS, cut, "tokens.arrow is not as it was written", id="tokens_cut"),
        pytest.param(TOKENS, flip, "tokens.arrow is not as it was written", id="tokens_flipped"),
        pytest.param(TOKENS, Path.unlink, "a file is missing", id="tokens_missing"),
        pytest.param(DROPPED, Path.unlink, "a file is missing", id="list_missing"),
        pytest.param(META, Path.unlink, "meta.json is missing", id="meta_missing"),
        pytest.param(META, cut, "meta.json cannot be read", id="meta_cut"),
        pytest.param(META, lambda path: path.write_text(""), "meta.json cannot be read", id="meta_empty"),
        pytest.param(
            META, lambda path: path.write_bytes(b"\xff"), "meta.json cannot be read", id="meta_binary"
        ),
        pytest.param(META, lambda path: path.write_text("[]"), "meta.json cannot be read", id="meta_list"),
        pytest.param(META, other_values, "meta.json cannot be read", id="meta_without_keys"),
        pytest.param(META, more_tokens, "meta.json is not as it was written", id="meta_changed"),
    ],
)
def test_damage_on_disk_is_told(tmp_path, file, damage, told):
    write(tmp_path / "x", [chunk_of([ROW, OTHER])] * 3)
    assert damage_of(tmp_path / "x") is None
    damage(tmp_path / "x" / file)
    assert damage_of(tmp_path / "x") == told


def test_every_flipped_byte_of_the_meta_is_told(tmp_path):
    write(tmp_path / "x", [chunk_of([ROW])])
    path = tmp_path / "x" / META
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        same = damage_of(tmp_path / "x") is None
        assert not same or json.loads(path.read_bytes()) == json.loads(whole)


def test_a_failure_leaves_nothing_behind(tmp_path):
    def chunks():
        yield chunk_of([ROW])
        raise ValueError("line 2 is bad")

    with pytest.raises(ValueError, match="line 2 is bad"):
        write(tmp_path / "x", chunks())
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import resource, sys
from pathlib import Path
from tests.unit.data.tokens.test_store import ROW, chunk_of, write
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    write(Path(sys.argv[1]) / "x", [chunk_of([ROW] * 1000)] * 50)
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [100, 200_000, 2_000_000])
def test_a_full_disk_is_told_and_nothing_is_half_written(tmp_path, limit):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path, str(limit)],
        capture_output=True,
        text=True,
        check=True,
        cwd=PROJECT,
    )
    assert f"cannot write {tmp_path / 'x'}: " in done.stdout
    assert "data.cache_dir=DIR" in done.stdout
    assert list(tmp_path.iterdir()) == []
