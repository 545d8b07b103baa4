"""Hub data sets, as folders in the hub's layout; what is not on disk is refused: tests have no network."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medtune.config.schema import SourceConfig
from medtune.data.reading.splits import file_names, raw_records, reader_of, split_digest, split_files

TURNS = [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    datasets.disable_progress_bars()


@pytest.fixture
def tables(tmp_path):
    folder = tmp_path / "tables"
    (folder / "data").mkdir(parents=True)
    for split, texts in (("train", ["一", "二"]), ("test", ["三"])):
        pq.write_table(pa.table({"text": texts}), folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture
def lines(tmp_path):
    folder = tmp_path / "lines"
    folder.mkdir()
    weighted = [TURNS[0], {**TURNS[1], "weight": 0}]
    rows = [{"messages": TURNS, "system": None}, {"messages": weighted, "system": "简短"}]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("streaming", [False, True])
def test_splits_under_their_own_and_under_other_names(tables, streaming):
    source = SourceConfig(hub=str(tables), streaming=streaming)
    assert list(raw_records(source, "train")) == [(0, 1, {"text": "一"}), (0, 2, {"text": "二"})]
    source.splits = {"train": "train", "validation": "test"}
    assert [record for _, _, record in raw_records(source, "validation")] == [{"text": "三"}]
    assert file_names(source, "validation") == [f"hub:{tables}/test"]
    assert split_files(source, "validation") == []
    with pytest.raises(ValueError, match="has no split 'test', only train, validation"):
        next(raw_records(source, "test"))


@pytest.mark.parametrize("streaming", [False, True])
def test_nested_records_are_read_as_from_a_file(lines, streaming):
    source = SourceConfig(hub=str(lines), streaming=streaming, columns=SourceConfig().columns)
    reader = reader_of(source, "train", needs_response=True)
    examples = [reader.read("hub", line, record) for _, line, record in raw_records(source, "train")]
    assert [[turn.role for turn in example.turns] for example in examples] == [
        ["prompt", "response"],
        ["system", "prompt", "response"],
    ]
    assert [example.turns[-1].learned for example in examples] == [True, False]


def test_one_folder_of_a_data_set(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text(json.dumps({"text": name}) + "\n")
    source = SourceConfig(hub=str(tmp_path), folder="two")
    assert [record for _, _, record in raw_records(source, "train")] == [{"text": "two"}]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param(
            {"hub": "owner/absent"},
            r"hub:owner/absent/train: .*hf download --repo-type dataset owner/absent",
            id="offline",
        ),
        pytest.param(
            {"hub": "{}/absent/folder"},
            "data.hub=FOLDER here, or data.hub=null data.dir=FOLDER",
            id="no_folder",
        ),
        pytest.param(
            {"hub": "{}/empty"}, "the folder must hold files such as train.jsonl", id="empty_folder"
        ),
        pytest.param(
            {"hub": "{}/script"},
            "a data set script is remote code and never run: convert its data",
            id="script",
        ),
        pytest.param(
            {"hub": "{}/tables", "splits": {"train": "dev"}},
            "name another with data.splits.train, now 'dev'",
            id="split",
        ),
        pytest.param(
            {"hub": "{}/tables", "subset": "zh"}, "name another with data.subset, now zh", id="subset"
        ),
    ],
)
def test_what_cannot_be_loaded_says_what_to_do(tmp_path, tables, settings, message, streaming):
    (tmp_path / "empty").mkdir()
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "script.py").write_text("raise SystemExit('remote code was run')")
    settings = {**settings, "hub": settings["hub"].format(tmp_path)}
    with pytest.raises(ValueError, match=message) as refused:
        list(raw_records(SourceConfig(streaming=streaming, **settings), "train"))
    assert str(refused.value).startswith("hub:")
    assert len(str(refused.value)) < 700


def test_a_data_set_of_several_subsets_needs_one(tmp_path):
    configs = "".join(
        f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("description", "split")
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    for name in ("description", "split"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": name}) + "\n")
    source = SourceConfig(hub=str(tmp_path))
    with pytest.raises(ValueError, match="description.*; name another with data.subset, now null"):
        list(raw_records(source, "train"))
    source.subset = "split"
    assert [record for _, _, record in raw_records(source, "train")] == [{"text": "split"}]


def test_damaged_files_are_told_with_the_reason(tmp_path):
    for name, row in (("train-0.jsonl", {"text": "一"}), ("train-1.jsonl", {"other": 1})):
        (tmp_path / name).write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match="generating the dataset.*column names.*must have the same columns"):
        list(raw_records(SourceConfig(hub=str(tmp_path)), "train"))
    with pytest.raises(ValueError, match=r"^hub:.*/train: cannot be read after record 1: .*column names"):
        list(raw_records(SourceConfig(hub=str(tmp_path), streaming=True), "train"))


def test_a_digest_is_of_the_files_or_of_the_commit(tables):
    source = SourceConfig(hub=str(tables), splits={"train": "train", "test": "test"})
    digest = split_digest(source, "train")
    assert split_digest(source, "train") == digest
    assert split_digest(source, "test") != digest
    pq.write_table(pa.table({"text": ["x"]}), tables / "data" / "train-00000-of-00001.parquet")
    assert split_digest(source, "train") != digest

    def of_commit(letter, **settings):
        return split_digest(SourceConfig(hub="owner/name", revision=letter * 40, **settings), "train")

    assert len({of_commit("a"), of_commit("b"), of_commit("a", subset="zh"), of_commit("a", folder="x")}) == 4
    with pytest.raises(ValueError, match="hf download"):
        split_digest(SourceConfig(hub="owner/name", revision="main"), "train")
