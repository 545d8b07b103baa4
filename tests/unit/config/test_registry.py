"""LLaMA-Factory's registry: what its entries mean here, and what is refused."""

import json
import re
from pathlib import Path

import pytest

from medtune.config.columns import FORMAT_COLUMNS
from medtune.config.load import read_section
from medtune.config.registry import resolve_registry
from medtune.config.schema import ColumnsConfig, SourceConfig

CAREGPT = Path(__file__).resolve().parents[4] / "shared" / "data" / "caregpt"
SHA1 = "607f94a7f581341e59685aef32f531095232cf23"


def resolve(folder, entry, **values):
    (folder / "dataset_info.json").write_text(json.dumps({"key": entry}))
    return resolve_registry({"dataset": "key", "dir": str(folder), "format": "auto", **values})


def resolved(folder, entry, **values):
    filled, problems = resolve(folder, entry, **values)
    assert problems == []
    # What comes out is what a source can hold.
    assert isinstance(read_section(SourceConfig, filled, "data.", problems), SourceConfig)
    assert problems == []
    return {key: value for key, value in filled.items() if key not in ("dataset", "dir")}


USUAL = {
    "instruction": "instruction",
    "query": "input",
    "response": "output",
    "history": "history",
    "system": "",
}


@pytest.mark.parametrize(
    ("entry", "values"),
    [
        pytest.param(
            {"file_name": "a.json", "file_sha1": SHA1},
            {"format": "alpaca", "splits": {"train": "a.json"}, "sha1": {"train": SHA1}, "columns": USUAL},
            id="file",
        ),
        pytest.param(
            {"file_name": "a.json", "columns": {"prompt": "text", "query": "", "response": "answer"}},
            {
                "format": "alpaca",
                "splits": {"train": "a.json"},
                "columns": {
                    "instruction": "text",
                    "query": "",
                    "response": "answer",
                    "history": "",
                    "system": "",
                },
            },
            id="columns_that_are_not_mapped_are_not_read",
        ),
        pytest.param(
            {"hf_hub_url": "a/b", "script_url": "s", "file_name": "a.json", "subset": "zh", "split": "dev"},
            {"format": "alpaca", "hub": "a/b", "subset": "zh", "splits": {"train": "dev"}, "columns": USUAL},
            id="the_hub_goes_before_scripts_and_files",
        ),
        pytest.param(
            {"hf_hub_url": "a/b", "ms_hub_url": "c/d", "folder": "x", "num_samples": 3},
            {
                **{"format": "alpaca", "hub": "a/b", "folder": "x", "splits": {"train": "train"}},
                **{"columns": USUAL, "max_examples": 3},
            },
            id="a_folder_and_a_number",
        ),
        pytest.param(
            {"file_name": "a.txt", "columns": {"prompt": "text", "query": "", "response": "", "history": ""}},
            {"format": "text", "splits": {"train": "a.txt"}, "columns": {"text": "text"}},
            id="a_prompt_alone_is_a_document",
        ),
        pytest.param(
            {"file_name": "a.json", "formatting": "sharegpt"},
            {
                "format": "messages",
                "splits": {"train": "a.json"},
                "columns": {"messages": "conversations", "system": ""},
            },
            id="sharegpt",
        ),
        pytest.param(
            {
                "file_name": "a.json",
                "formatting": "sharegpt",
                "columns": {"messages": "m", "system": "s"},
                "tags": {
                    **{"role_tag": "who", "content_tag": "says", "user_tag": "patient"},
                    **{"assistant_tag": "gpt", "observation_tag": "obs"},
                },
            },
            {
                "format": "messages",
                "splits": {"train": "a.json"},
                "columns": {"messages": "m", "system": "s", "role": "who", "content": "says"},
                "roles": {"patient": "user"},
            },
            id="sharegpt_with_tags",
        ),
        pytest.param(
            {"file_name": "a.json", "ranking": True},
            {
                "format": "preference",
                "splits": {"train": "a.json"},
                "columns": {**USUAL, "messages": "", "chosen": "", "rejected": ""},
            },
            id="ranking_of_two_outputs",
        ),
        pytest.param(
            {
                **{"file_name": "a.json", "ranking": True, "formatting": "sharegpt"},
                "columns": {"messages": "c", "chosen": "good", "rejected": "bad"},
            },
            {
                "format": "preference",
                "splits": {"train": "a.json"},
                "columns": {
                    **dict.fromkeys(USUAL, ""),
                    **{"messages": "c", "chosen": "good", "rejected": "bad"},
                },
            },
            id="ranking_of_a_conversation",
        ),
    ],
)
def test_an_entry_fills_the_settings(tmp_path, entry, values):
    filled = {"roles": {}, **resolved(tmp_path, entry)}
    due = {"roles": {}, **values}
    assert {key: value for key, value in filled.items() if value not in (None, {})} == {
        key: value for key, value in due.items() if value not in (None, {})
    }


def test_what_the_settings_say_themselves_goes_before(tmp_path):
    entry = {
        "file_name": "a.json",
        "file_sha1": SHA1,
        "num_samples": 3,
        "columns": {"prompt": "p", "response": "r"},
    }
    filled = resolved(
        tmp_path,
        entry,
        format="preference",
        columns={"response": "mine", "query": None},
        splits={"train": "b.json", "validation": "c.json"},
        max_examples=7,
    )
    assert filled["format"] == "preference"
    assert (filled["columns"]["instruction"], filled["columns"]["response"]) == ("p", "mine")
    assert filled["splits"] == {"train": "b.json", "validation": "c.json"}
    assert filled["sha1"] == {}  # the sum is of another file
    assert filled["max_examples"] == 7


def test_columns_may_be_given_as_the_schema_holds_them(tmp_path):
    columns = ColumnsConfig(response="mine")
    assert resolved_columns(tmp_path, columns)["response"] == "mine"
    assert resolved_columns(tmp_path, ColumnsConfig())["response"] == "output"


def resolved_columns(folder, columns):
    filled, problems = resolve(folder, {"file_name": "a.json"}, columns=columns)
    assert problems == []
    return filled["columns"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        pytest.param(
            {"script_url": "s", "file_name": "a.json"},
            "is a data set script, which is remote code",
            id="script",
        ),
        pytest.param({"ms_hub_url": "a/b"}, "is on ModelScope, which is not read", id="modelscope"),
        pytest.param({"cloud_file_name": "s3://a"}, "is on a cloud store", id="cloud"),
        pytest.param({}, "names neither hf_hub_url nor file_name", id="nothing"),
        pytest.param(
            {"file_name": "a", "columns": {"images": "i", "prompt": "p"}},
            "columns.images=i: only text",
            id="images",
        ),
        pytest.param(
            {"file_name": "a", "columns": {"tools": "t", "prompt": "p"}},
            "columns.tools=t: tool calls",
            id="tools",
        ),
        pytest.param(
            {"file_name": "a", "columns": {"kto_tag": "k", "prompt": "p"}},
            "columns.kto_tag=k: single",
            id="kto",
        ),
        pytest.param(
            {"file_name": "a", "columns": {"respones": "r"}},
            "columns.respones, which is not known; did you mean response",
            id="column",
        ),
        pytest.param(
            {"file_name": "a", "colums": {}},
            "a key colums, which is not known; did you mean columns",
            id="key",
        ),
        pytest.param({"file_name": "a", "columns": []}, None, id="empty_columns"),
        pytest.param(
            {"file_name": "a", "columns": ["prompt"]},
            r"columns=\['prompt'\], which must be an object",
            id="columns_list",
        ),
        pytest.param(
            {"file_name": "a", "columns": {"prompt": 3}},
            "columns.prompt=3, which must be a name",
            id="column_number",
        ),
        pytest.param({"file_name": 3}, "file_name=3, which must be text", id="file_number"),
        pytest.param(
            {"file_name": "a", "formatting": "sharegtp"},
            "formatting=sharegtp, which is none of alpaca, sharegpt",
            id="formatting",
        ),
        pytest.param(
            {"file_name": "a", "ranking": "yes"}, "ranking='yes', which must be true or false", id="ranking"
        ),
        pytest.param(
            {"file_name": "a", "num_samples": 0}, "num_samples=0, which must be a whole number", id="samples"
        ),
        pytest.param(
            {"file_name": "a", "tags": {"user": "u"}},
            "tags.user, which is not known; did you mean user_tag",
            id="tag",
        ),
        pytest.param(
            {"file_name": "a", "columns": {"response": "r"}}, "maps no column to prompt", id="no_prompt"
        ),
        pytest.param(
            {"file_name": "a", "columns": {"prompt": "p", "query": "q"}},
            "a column to query but none to response",
            id="no_response",
        ),
        pytest.param(
            {"file_name": "a", "ranking": True, "columns": {"prompt": "p"}},
            "is a ranking, but maps no columns to chosen",
            id="no_sides",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(tmp_path, entry, message):
    _, problems = resolve(tmp_path, entry)
    if message is None:
        assert problems == []
        return
    assert any(re.search(message, problem) for problem in problems), problems
    assert problems[0].startswith(f"data.dataset=key in {tmp_path / 'dataset_info.json'} ")


@pytest.mark.parametrize(
    ("content", "dataset", "message"),
    [
        pytest.param(None, "key", "cannot be read: No such file or directory; set data.dir", id="missing"),
        pytest.param(b"{", "key", "is not JSON", id="cut"),
        pytest.param(b"\xff\xfe", "key", "is not JSON", id="not_utf8"),
        pytest.param(b"[" * 9000, "key", "is not JSON", id="deep"),
        pytest.param(b"[]", "key", "is not a JSON object of data sets", id="list"),
        pytest.param(
            b'{"alpaca_en": {}}',
            "alpaca_zh",
            "none of the 1 data sets .*did you mean data.dataset=alpaca_en",
            id="near",
        ),
        pytest.param(b'{"key": 3}', "key", "must be a JSON object .*found int", id="number"),
    ],
)
def test_a_registry_that_cannot_be_read_is_refused(tmp_path, content, dataset, message):
    if content is not None:
        (tmp_path / "dataset_info.json").write_bytes(content)
    values = {"dataset": dataset, "dir": str(tmp_path)}
    filled, (problem,) = resolve_registry(values)
    assert filled == values
    assert re.match(f"data.dataset={dataset}.*{message}", problem)
    _, (problem,) = resolve_registry({"dataset": "key", "dir": None})
    assert problem.endswith("set data.dir to the folder that holds it")


def test_two_places_are_refused(tmp_path):
    _, (problem,) = resolve(tmp_path, {"hf_hub_url": "a/b"}, hub="c/d")
    assert problem.endswith("is a/b on the hub, but data.hub=c/d; set one of them")
    _, (problem,) = resolve(tmp_path, {"file_name": "a.json"}, hub="c/d")
    assert problem.endswith("is the file a.json, but data.hub=c/d; set one of them")


@pytest.mark.skipif(not CAREGPT.is_dir(), reason="../shared/data/caregpt is not there")
def test_a_real_registry():
    """CareGPT's, 36 entries: 17 files (one of text), 15 on the hub, 4 scripts."""
    keys = json.loads((CAREGPT / "dataset_info.json").read_text(encoding="utf-8"))
    found = {key: resolve_registry({"dataset": key, "dir": str(CAREGPT), "format": "auto"}) for key in keys}
    scripts = [key for key, (_, problems) in found.items() if problems]
    assert scripts == ["example", "belle_multiturn", "ultra_chat", "hh_rlhf_en"]
    values = {key: filled for key, (filled, problems) in found.items() if not problems}
    assert sum("hub" in filled for filled in values.values()) == 15
    assert [key for key, filled in values.items() if filled["format"] == "text"] == [
        *("wiki_demo", "refinedweb", "starcoder", "wikipedia_en", "wikipedia_zh")
    ]
    assert values["ls"]["columns"]["response"] == "answer"
    assert values["firefly"]["columns"] == {
        **dict.fromkeys(USUAL, ""),
        "instruction": "input",
        "response": "target",
    }
    assert values["alpaca_en"]["sha1"] == {"train": SHA1}
    for filled in values.values():
        assert set(filled["columns"]) <= set(FORMAT_COLUMNS[filled["format"]])
