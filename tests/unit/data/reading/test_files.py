"""Which files a path means, what is said when there are none, and what tells their contents apart."""

import gzip
import hashlib
import lzma
import os

import pyarrow as pa
import pytest

from medtune.data.reading.files import file_type, files_digest, list_files, open_bytes, sha1_of


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param("a.txt", "txt", id="txt"),
        pytest.param("a.b.JSON", "json", id="upper_case"),
        pytest.param("a.jsonl.gz", "jsonl", id="packed"),
        pytest.param("a.ndjson.zst", "jsonl", id="another_name_of_jsonl"),
        pytest.param("a.tsv.xz", "tsv", id="table"),
        pytest.param("a.gz", None, id="packing_only"),
        pytest.param("README.md", None, id="unknown"),
        pytest.param("train", None, id="no_suffix"),
    ],
)
def test_a_type_is_told_by_the_name(name, kind):
    assert file_type(name) == kind


def names_of(path):
    return [file.name for file in list_files(path)]


def test_a_file_a_folder_and_a_pattern(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "c.jsonl.gz", ".hidden.jsonl", "README.md", "LICENSE"):
        (tmp_path / name).touch()
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "d.jsonl").touch()
    assert names_of(tmp_path / "b.jsonl") == ["b.jsonl"]
    assert names_of(tmp_path) == ["a.jsonl", "b.jsonl", "c.jsonl.gz"]
    assert names_of(tmp_path / "[ab].jsonl") == ["a.jsonl", "b.jsonl"]
    assert names_of(tmp_path / "*" / "*.jsonl") == ["d.jsonl"]
    assert names_of(tmp_path / "**" / "?.jsonl") == ["a.jsonl", "b.jsonl", "d.jsonl"]


def test_a_name_with_a_bracket_is_a_file_before_it_is_a_pattern(tmp_path):
    for name in ("a[1].json", "a1.json"):
        (tmp_path / name).touch()
    assert names_of(tmp_path / "a[1].json") == ["a[1].json"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        pytest.param(
            "train.json", r"train\.json: no such file; .* holds dev\.json, mixed, notes", id="missing"
        ),
        pytest.param(
            "nowhere/train.json", "nowhere does not exist either; set data.dir", id="missing_folder"
        ),
        pytest.param("notes", r"notes: the folder has no file to read \(txt, json.*holds a\.md", id="folder"),
        pytest.param("*.csv", r"\*\.csv: no file matches the pattern; .* holds dev\.json", id="pattern"),
        pytest.param("mixed", r"mixed: holds files of several types \(a\.csv, b\.json\)", id="mixed"),
        pytest.param(
            "dev.json/train.json",
            r"train\.json: no such file; .*dev\.json cannot be listed: Not a",
            id="file_as_folder",
        ),
        pytest.param("a" * 300, r"aaa: cannot be read: File name too long", id="name"),
        pytest.param("mixed/*", r"mixed/\*: holds files of several types", id="mixed_pattern"),
    ],
)
def test_nothing_to_read_says_what_there_is(tmp_path, wanted, message):
    for name in ("dev.json", "notes/a.md", "mixed/a.csv", "mixed/b.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=message):
        list_files(tmp_path / wanted)


def zstd(content):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        pytest.param("", bytes, id="plain"),
        pytest.param(".gz", gzip.compress, id="gz"),
        pytest.param(".xz", lzma.compress, id="xz"),
        pytest.param(".zst", zstd, id="zst"),
    ],
)
def test_packed_files_are_unpacked_however_many_pieces_they_have(tmp_path, suffix, pack):
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(pack("一\n".encode()) + pack("二\n".encode()))
    with open_bytes(path) as file:
        assert file.read().decode() == "一\n二\n"


def test_what_cannot_be_opened_is_named(tmp_path):
    for path, message in (
        (tmp_path / "a.txt", r"a\.txt: no such file"),
        (tmp_path, "is a folder, not a file"),
        (tmp_path / "a\0.txt", "cannot be read: embedded null"),
    ):
        with pytest.raises(ValueError, match=message), open_bytes(path):
            pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_named(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a")
    path.chmod(0)
    with pytest.raises(ValueError, match=r"a\.txt: cannot be read: Permission denied"), open_bytes(path):
        pass


def test_a_digest_is_of_contents_types_and_order(tmp_path):
    def file(name, content):
        (tmp_path / name).write_text(content)
        return tmp_path / name

    one, two, joined = file("1.txt", "a"), file("2.txt", "b"), file("3.txt", "ab")
    renamed, retyped = file("4.txt", "a"), file("5.json", "a")
    digest = files_digest([one, two])
    assert digest == files_digest([renamed, two])
    others = ([two, one], [joined], [one], [retyped, two], [one, two, two])
    assert len({digest, *(files_digest(files) for files in others)}) == 6


def test_sha1_is_that_of_the_bytes(tmp_path):
    """FIPS 180-2, the digest of "abc"."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"abc")
    assert sha1_of(path) == "a9993e364706816aba3e25717850c26c9cd0d89d" == hashlib.sha1(b"abc").hexdigest()
