import json
import socket

import pytest
import torch
from safetensors.torch import save_file

from medtune.models import folders
from medtune.models.folders import (
    check_adapter_weights,
    check_model_folder,
    file_problem,
    find_folder,
    find_weights,
    folder_problems,
    settle_remote_code,
    weight_files,
)
from medtune.runtime.errors import ConfigError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def write_index(folder, name, *shards):
    index = {"metadata": {}, "weight_map": {f"weight{i}": shard for i, shard in enumerate(shards)}}
    (folder / name).write_text(json.dumps(index))


def write_weights(path):
    save_file({"a": torch.ones(3), "b": torch.ones(2, 2)}, path)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], []),
        (["pytorch_model.bin"], ["pytorch_model.bin"]),
        (["pytorch_model.bin", "model.safetensors"], ["model.safetensors"]),
        (["pytorch_model.bin", "model.safetensors.index.json"], ["one", "two"]),
        (["pytorch_model.bin.index.json"], ["one", "two"]),
    ],
)
def test_safetensors_come_first(folder, names, expected):
    for name in names:
        if name.endswith("index.json"):
            write_index(folder, name, "two", "one", "two")
        else:
            (folder / name).touch()
    assert [file.name for file in weight_files(folder)] == expected


def test_a_download_that_stopped_half_way_names_what_is_missing(folder):
    write_index(folder, "model.safetensors.index.json", *(f"model-{i}.safetensors" for i in range(1, 6)))
    write_weights(folder / "model-2.safetensors")
    assert list(folder_problems(folder)) == [
        "the download is incomplete: 4 of 5 shards are missing "
        "(model-1.safetensors, model-3.safetensors, model-4.safetensors, ...)"
    ]
    with pytest.raises(ConfigError, match=f"model.path={folder}: the download is incomplete"):
        check_model_folder("model.path", folder)


@pytest.mark.parametrize("content", [{}, {"weight_map": {}}, {"metadata": {}}])
def test_an_index_without_its_keys_is_damaged(folder, content):
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    assert list(folder_problems(folder)) == [
        "model.safetensors.index.json is damaged: it has no metadata or no weight_map; fetch it again"
    ]


def test_whole_files_have_no_problem(folder):
    write_weights(folder / "model.safetensors")
    assert list(folder_problems(folder)) == []


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        pytest.param("a.safetensors", lambda whole: whole[:-5], "bytes where its header promises", id="cut"),
        pytest.param("a.safetensors", lambda whole: whole + b"x", "bytes where its header", id="too_long"),
        pytest.param("a.safetensors", lambda _: b"", "is cut off or no safetensors file", id="empty"),
        pytest.param("a.safetensors", lambda whole: whole[:20], "is cut off or no safetensors", id="header"),
        pytest.param(
            "a.safetensors",
            lambda whole: whole[:8] + b"?" * len(whole[8:]),
            "its header is not JSON",
            id="bits",
        ),
        pytest.param(
            "a.safetensors", lambda _: b"version https://git-lfs", "is a git-lfs pointer", id="lfs_pointer"
        ),
        pytest.param("a.bin", lambda _: b"version https://git-lfs", "is a git-lfs pointer", id="bin_pointer"),
        pytest.param("a.bin", lambda _: b"", "is empty", id="bin_empty"),
    ],
)
def test_a_damaged_file_is_told_before_it_is_loaded(tmp_path, name, content, problem):
    write_weights(tmp_path / "whole")
    (tmp_path / name).write_bytes(content((tmp_path / "whole").read_bytes()))
    assert problem in file_problem(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("/absent/folder", "there is no such folder", id="absolute"),
        pytest.param("absent", "there is no such folder", id="one_word"),
        pytest.param("config.json", "is a file; give the folder that holds it", id="a_file"),
        pytest.param(
            "models/absent", "there is no such folder here, .*hf download models/absent", id="hub_id"
        ),
    ],
)
def test_what_is_not_there_is_refused(folder, monkeypatch, name, message):
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError, match=f"model.path={name}.*{message}|model.path={name} {message}"):
        find_folder("model.path", name)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine that accepts a connection and never answers; its cache is empty."""
    import huggingface_hub.constants

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(folders, "SECONDS_TO_REACH_HUB", 0.2)
        yield tmp_path / "cache"


def test_a_network_that_swallows_packets_does_not_hang(hub):
    with pytest.raises(ConfigError, match="the hub cannot be reached. Fetch it on a machine with a network"):
        find_folder("model.path", "owner/silent")


def test_the_hubs_cache_serves_without_a_network(hub):
    repository = hub / "models--owner--cached"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    write_weights(snapshot / "model.safetensors")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    found = find_folder("model.path", "owner/cached")
    assert found.resolve() == snapshot.resolve()
    check_model_folder("model.path", found)


@pytest.mark.parametrize(
    ("file", "found"),
    [("config.json", ""), ("adapter_config.json", ""), ("model/config.json", "model")],
)
def test_weights_are_a_folder_or_the_run_folder_around_it(tmp_path, file, found):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    assert find_weights(str(tmp_path)) == tmp_path / found


def test_weights_that_are_no_model_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=f"weights={tmp_path} is no model or adapter folder"):
        find_weights(str(tmp_path))
    with pytest.raises(ConfigError, match="weights=/absent: there is no such folder"):
        find_weights("/absent")


def test_an_adapter_without_whole_weights_is_refused(tmp_path):
    file = tmp_path / "adapter_model.safetensors"
    with pytest.raises(ConfigError, match=f"adapter.start={tmp_path} cannot be used: {file.name} is missing"):
        check_adapter_weights("adapter.start", tmp_path)
    write_weights(file)
    check_adapter_weights("weights", tmp_path)
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(ConfigError, match=f"weights={tmp_path} cannot be used: {file.name} is cut off"):
        check_adapter_weights("weights", tmp_path)


@pytest.mark.parametrize(
    "left", [".cache/huggingface/download/model-1.safetensors.abc.incomplete", "model-1.safetensors.aria2"]
)
def test_what_a_broken_download_left_behind_is_named(folder, left):
    write_index(folder, "model.safetensors.index.json", "model-1.safetensors")
    (folder / left).parent.mkdir(parents=True, exist_ok=True)
    (folder / left).touch()
    first, second = folder_problems(folder)
    assert first.startswith("the download is incomplete: 1 of 1 shards are missing")
    assert second == (
        f"1 files of a download that broke off lie in it ({(folder / left).name}); run the same download "
        "again, it goes on where it stopped"
    )
    write_weights(folder / "model-1.safetensors")
    assert list(folder_problems(folder)) == []  # fetched again by other means


AUTO_MAP = {"AutoModel": "modeling_x.Model", "AutoTokenizer": ["tokenization_x.Tokenizer", None]}


@pytest.fixture
def written(folder):
    (folder / "config.json").write_text(json.dumps({"auto_map": AUTO_MAP, "model_type": "x"}))
    return folder


def test_code_of_a_source_folder_is_copied_not_run(written, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "modeling_x.py").write_text("raise SystemExit")
    settle_remote_code(written, str(source))
    assert (written / "modeling_x.py").read_text() == "raise SystemExit"
    assert json.loads((written / "config.json").read_text())["auto_map"] == AUTO_MAP


def test_code_of_a_hub_id_is_named_there(written):
    settle_remote_code(written, "owner/model")
    settle_remote_code(written, "owner/model")  # a second time changes nothing
    assert json.loads((written / "config.json").read_text())["auto_map"] == {
        "AutoModel": "owner/model--modeling_x.Model",
        "AutoTokenizer": ["owner/model--tokenization_x.Tokenizer", None],
    }


@pytest.mark.parametrize("source", [None, "an_empty_folder"])
def test_code_that_is_nowhere_is_not_asked_for(written, tmp_path, source):
    (tmp_path / "an_empty_folder").mkdir()
    settle_remote_code(written, source and str(tmp_path / source))
    assert json.loads((written / "config.json").read_text()) == {"model_type": "x"}


def test_a_folder_without_remote_code_is_left_alone(folder, tmp_path):
    (folder / "code.py").touch()
    before = (folder / "config.json").read_bytes()
    settle_remote_code(folder, str(folder))
    assert (folder / "config.json").read_bytes() == before
