import json
import socket

import pytest

from medtune.config.schema import Config
from medtune.runtime.record import RunFolder
from medtune.training.loggers import (
    build_loggers,
    has_api_key,
    log_table,
    reachable_mode,
    run_id,
    without_secrets,
)


@pytest.fixture(autouse=True)
def _no_key(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_without_a_key_wandb_stays_offline():
    assert reachable_mode() == "offline"


def test_with_a_key_but_no_server_wandb_stays_offline(monkeypatch):
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1")
        assert reachable_mode() == "offline"


def test_a_login_on_disk_is_found(tmp_path):
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    assert has_api_key("api.wandb.ai")
    assert not has_api_key("wandb.example.org")


def test_secrets_do_not_reach_a_logger():
    values = {"logger": {"wandb": {"api_key": "abc", "project": "p"}}, "max_new_tokens": 5, "model": "m"}
    assert without_secrets(values) == {
        "logger": {"wandb": {"project": "p"}},
        "max_new_tokens": 5,
        "model": "m",
    }


def test_a_run_folder_keeps_its_id(tmp_path):
    assert run_id(tmp_path) == run_id(tmp_path / "x" / "..")
    assert run_id(tmp_path) != run_id(tmp_path / "other")


def test_a_table_reaches_tensorboard_as_text_that_stays_a_table(tmp_path):
    pytest.importorskip("tensorboard")
    config = Config(logger={"t": {"_target_": "medtune.training.loggers.tensorboard"}})
    (logger,) = build_loggers(config, RunFolder(tmp_path))
    shown = []
    logger.experiment.add_text = lambda *arguments: shown.append(arguments)
    log_table(logger, "eval/predictions", ["input", "right"], [["a|b\nc", True], ["x" * 500, False]], 7)
    [(name, text, step)] = shown
    assert (name, step) == ("eval/predictions", 7)
    assert text.splitlines() == [
        "| input | right |",
        "| --- | --- |",
        "| a\\|b c | True |",
        f"| {'x' * 300}… | False |",
    ]


@pytest.mark.slow
def test_a_table_reaches_wandb_as_its_own(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    config = Config(logger={"w": {"_target_": "medtune.training.loggers.wandb"}})
    (logger,) = build_loggers(config, RunFolder(tmp_path))
    log_table(logger, "eval/predictions", ["input", "right"], [["头痛", True]], 7)
    logger.experiment.finish()
    [table] = tmp_path.glob("wandb/offline-run-*/files/media/table/eval/*.table.json")
    assert json.loads(table.read_text()) == {"columns": ["input", "right"], "data": [["头痛", True]]} | {
        key: value for key, value in json.loads(table.read_text()).items() if key not in ("columns", "data")
    }


@pytest.mark.slow
def test_a_wandb_run_lies_in_the_run_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    config = Config(name="here", tags=["a"], logger={"w": {"_target_": "medtune.training.loggers.wandb"}})
    (logger,) = build_loggers(config, RunFolder(tmp_path))
    logger.log_metrics({"train/loss": 1.0, "train/tokens": 10}, step=1)
    logger.experiment.finish()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
