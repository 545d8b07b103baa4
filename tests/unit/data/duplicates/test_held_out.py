"""Fingerprints of splits that training must not see."""

import json
from dataclasses import replace

import numpy as np
import pytest

from medtune.data.duplicates.held_out import fingerprints_of_split, fingerprints_of_store
from medtune.data.tokens.array_cache import FILE, cached_arrays
from medtune.data.tokens.content import fingerprint, normalised
from tests.unit.data.made_sources import make_source, make_split, texts_of, write_records

RECORDS = [("高血压怎么办？", "低盐饮食"), ("头痛", "休息"), ("高血压怎么办?", "运动")]


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path, "toy", train=RECORDS, test=[(prompt, "") for prompt, _ in RECORDS])


def number_of(text):
    return int.from_bytes(fingerprint(text)[:8], "little")


def test_a_split_and_its_store_have_the_same_fingerprints(source, tmp_path):
    part = make_split(source, "train")
    stored = fingerprints_of_store(part.store, texts=lambda: texts_of(part))
    read = fingerprints_of_split(source, "train", tmp_path / "cache")
    assert stored.content.tolist() == read.content.tolist() == part.store.content.tolist()
    assert stored.prompts.tolist() == read.prompts.tolist() == part.store.prompts.tolist()
    assert [stored.where(index) for index in range(3)] == [read.where(index) for index in range(3)]
    assert [*stored.texts()] == [*read.texts()] == [*texts_of(part)]


def test_answers_may_be_withheld(source, tmp_path):
    test = fingerprints_of_split(source, "test", tmp_path / "cache")
    assert test.prompts.tolist() == make_split(source, "train").store.prompts.tolist()
    assert test.prompts.tolist() == [number_of(normalised(prompt)) for prompt, _ in RECORDS]
    assert test.prompts[0] == test.prompts[2]  # another form of the question mark
    assert test.where(1) == f"{tmp_path / 'toy-test.jsonl'}:2"


def test_some_documents_of_a_store(source):
    part = make_split(source, "train")
    some = fingerprints_of_store(part.store, np.array([0, 2]), lambda: texts_of(part))
    assert some.content.tolist() == part.store.content[[0, 2]].tolist()
    assert some.where(1).endswith("toy-train.jsonl:3")
    assert [*some.texts()] == [text for index, text in enumerate(texts_of(part)) if index != 1]
    assert fingerprints_of_store(part.store, np.array([], dtype=np.int64)).texts is None


@pytest.mark.parametrize(
    ("change", "is_read_again"),
    [
        pytest.param({}, False, id="nothing"),
        pytest.param({"name": "other", "weight": 2.0, "origin": "elsewhere"}, False, id="a_name"),
        pytest.param({"max_examples": 2}, True, id="number_of_examples"),
        pytest.param({"roles": {"patient": "user"}}, True, id="roles"),
    ],
)
def test_what_decides_about_content_is_read_again(source, tmp_path, change, is_read_again):
    cache = tmp_path / "cache"
    fingerprints_of_split(source, "test", cache)
    before = {*cache.glob(f"*/{FILE}")}
    again = fingerprints_of_split(replace(source, **change), "test", cache)
    assert ({*cache.glob(f"*/{FILE}")} != before) == is_read_again
    assert len(again) == change.get("max_examples", 3)


def test_other_files_are_read_and_other_names_are_not(source, tmp_path):
    cache = tmp_path / "cache"
    before = fingerprints_of_split(source, "test", cache)
    (tmp_path / "toy-test.jsonl").rename(tmp_path / "moved.jsonl")
    moved = replace(source, splits={"test": "moved.jsonl"})
    assert fingerprints_of_split(moved, "test", cache).where(0) == f"{tmp_path / 'moved.jsonl'}:1"
    assert len([*cache.glob(f"*/{FILE}")]) == 1
    write_records(tmp_path / "moved.jsonl", [("别的问题", "")])
    after = fingerprints_of_split(moved, "test", cache)
    assert (len(before), len(after)) == (3, 1)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_record_that_cannot_be_read(tmp_path, on_error):
    source = replace(make_source(tmp_path, "toy", test=RECORDS), on_error=on_error)
    path = tmp_path / "toy-test.jsonl"
    path.write_text(path.read_text() + json.dumps({"output": "?"}) + "\n")
    if on_error == "skip":
        assert len(fingerprints_of_split(source, "test", tmp_path)) == 3
        return
    with pytest.raises(ValueError, match=r"toy-test\.jsonl:4: "):
        fingerprints_of_split(source, "test", tmp_path)


@pytest.mark.parametrize("damage", [0, 100, -30, None], ids=["head", "middle", "end", "cut"])
def test_a_damaged_cache_is_made_again(tmp_path, damage):
    calls = []

    def make():
        calls.append(1)
        return {"one": np.arange(1000), "two": np.zeros((0, 2))}

    cached_arrays(tmp_path, "name", "it", make)
    path = tmp_path / "name" / FILE
    content = bytearray(path.read_bytes())
    if damage is None:
        path.write_bytes(content[:-200])
    else:
        content[damage] ^= 0xFF
        path.write_bytes(content)
    arrays = cached_arrays(tmp_path, "name", "it", make)
    assert arrays["one"].tolist() == [*range(1000)]
    assert arrays["two"].shape == (0, 2)
    assert len(calls) == 2
    cached_arrays(tmp_path, "name", "it", make)
    assert len(calls) == 2


def test_nothing_is_kept_of_what_could_not_be_made(tmp_path):
    def make():
        raise ValueError("no such record")

    with pytest.raises(ValueError, match="no such record"):
        cached_arrays(tmp_path, "name", "it", make)
    assert not (tmp_path / "name").exists()
