import os
import re
import subprocess
import sys

import pytest
import yaml

from medtune.config.load import load_config
from medtune.config.schema import Config, OptimConfig
from medtune.launch import run_folder
from medtune.launch.run_folder import HELD, make_run_folder, new_id, release, write_run_folder
from medtune.runtime.errors import ConfigError
from medtune.runtime.record import read_json


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_run_gets_a_folder_of_its_own(tmp_path):
    first, second = make_run_folder(Config(name="a/b")), make_run_folder(Config(name="a/b"))
    assert first.path.parent == second.path.parent == tmp_path / "outputs" / "a-b"
    assert first.path != second.path
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", first.path.name)


@pytest.mark.parametrize("name", ["..", "", "/", " . "])
def test_a_name_never_leads_out_of_outputs(tmp_path, name):
    assert (tmp_path / "outputs") in make_run_folder(Config(name=name)).path.parents


def test_ids_sort_by_time_and_differ_within_a_second():
    assert len({new_id() for _ in range(20)}) > 1


def test_what_is_written_reads_back(tmp_path):
    config = Config(run_dir=str(tmp_path / "run"), name="糖尿病", optim=OptimConfig(lr=1e-7))
    folder = make_run_folder(config)
    assert write_run_folder(folder, config, ["optim.lr=1e-7"]) == []
    assert load_config(folder.config_file) == config
    assert yaml.safe_load(folder.overrides_file.read_text()) == ["optim.lr=1e-7"]
    assert "packages" in read_json(folder.environment_file)


@pytest.mark.parametrize(
    ("present", "resume", "message"),
    [
        pytest.param(
            "config.yaml", "never", "holds an earlier run; continue it with resume=auto", id="a_run"
        ),
        pytest.param("config.yaml", "/x/step-1", "holds an earlier run", id="a_run_and_anothers_checkpoint"),
        pytest.param("thesis.tex", "auto", "holds other files; set run_dir to a new", id="other_files"),
    ],
)
def test_a_folder_in_use_is_refused(tmp_path, present, resume, message):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / present).touch()
    with pytest.raises(ConfigError, match=message):
        make_run_folder(Config(run_dir=str(tmp_path / "run"), resume=resume))


def test_a_folder_whose_first_writing_was_killed_is_as_good_as_empty(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".config.yaml.123.tmp").write_text("name: med")
    assert list(make_run_folder(Config(run_dir=str(tmp_path / "run"))).path.iterdir()) == []


def test_what_a_killed_run_left_aside_goes_with_the_next(tmp_path):
    config = Config(run_dir=str(tmp_path / "run"), resume="auto")
    folder = make_run_folder(config)
    write_run_folder(folder, config, [])
    for path in (folder.checkpoints / ".step-4.partial", folder.path / ".model.12.tmp"):
        path.mkdir(parents=True)
    folder.path.joinpath(".model.12.old").mkdir()
    make_run_folder(config)
    assert list(folder.checkpoints.iterdir()) == []
    assert sorted(path.name for path in folder.path.iterdir() if path.name.startswith(".")) == []
    assert folder.model.is_dir()


def test_a_folder_in_which_a_run_is_at_work_is_refused_and_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "PATIENCE_SECONDS", 0.2)
    config = Config(run_dir=str(tmp_path / "run"), resume="auto")
    folder = make_run_folder(config)
    write_run_folder(folder, config, [])
    partial = folder.checkpoints / ".step-4.partial"
    partial.mkdir(parents=True)
    worker = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        pass_fds=[HELD[folder.path]],
    )
    release(folder.path)  # as when the launcher was killed: its worker still saves
    with pytest.raises(ConfigError, match="is in use: a run is still at work in it; wait for its end"):
        make_run_folder(config)
    assert partial.is_dir()
    monkeypatch.setattr(run_folder, "PATIENCE_SECONDS", 60)
    worker.stdin.close()  # ends while the next command waits for it
    assert make_run_folder(config) == folder
    worker.wait()
    assert not partial.exists()


def test_a_file_is_no_run_folder(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(ConfigError, match="run is a file; set run_dir=DIR"):
        make_run_folder(Config(run_dir=str(tmp_path / "run")))
    with pytest.raises(ConfigError, match="cannot be made: Not a directory"):
        make_run_folder(Config(run_dir=str(tmp_path / "run" / "inner")))


def test_a_continued_run_keeps_its_former_settings_aside(tmp_path):
    before = Config(run_dir=str(tmp_path / "run"))
    folder = make_run_folder(before)
    write_run_folder(folder, before, [])
    (folder.logs / "error-0.json").write_text("{}")
    folder.result_file.write_text("{}")
    after = Config(run_dir=before.run_dir, resume="auto", optim=OptimConfig(lr=1.0))
    assert make_run_folder(after) == folder
    assert write_run_folder(folder, after, []) == ["optim.lr: 2e-05 before, 1.0 now"]
    (former,) = folder.logs.glob("config-until-*.yaml")
    assert load_config(former).optim.lr == 2e-5
    assert load_config(folder.config_file).optim.lr == 1.0
    assert not (folder.logs / "error-0.json").exists()
    assert not folder.result_file.exists()


def test_a_run_continued_as_it_was_keeps_no_copy(tmp_path):
    config = Config(run_dir=str(tmp_path / "run"), resume="auto")
    folder = make_run_folder(config)
    write_run_folder(folder, config, [])
    assert write_run_folder(make_run_folder(config), config, []) == []
    assert list(folder.logs.iterdir()) == []


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, full_disk, exists):
    if exists:
        (tmp_path / "run").mkdir()
    with (
        full_disk(0),
        pytest.raises(ConfigError, match=r"run_dir=.*/run cannot be written: File too large; make room"),
    ):
        make_run_folder(Config(run_dir=str(tmp_path / "run")))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize(
    ("mode", "message"),
    [
        pytest.param(0o500, "cannot be written: Permission denied", id="not_written"),
        pytest.param(0o300, "cannot be read: Permission denied", id="not_read"),
    ],
)
def test_a_folder_without_permission_is_refused(tmp_path, mode, message):
    (tmp_path / "run").mkdir(mode=mode)
    with pytest.raises(ConfigError, match=message):
        make_run_folder(Config(run_dir=str(tmp_path / "run")))


def test_the_trial_file_leaves_nothing(tmp_path):
    assert list(make_run_folder(Config(run_dir=str(tmp_path / "run"))).path.iterdir()) == []


def test_a_disk_that_fills_while_the_folder_is_written_leaves_it_to_be_used_again(tmp_path, full_disk):
    config = Config(run_dir=str(tmp_path / "run"))
    folder = make_run_folder(config)
    with (
        full_disk(8192),
        pytest.raises(ConfigError, match=r"run_dir=.*/run: cannot write .*/overrides.yaml: File too large"),
    ):  # settings of some 3 kB fit, these overrides do not
        write_run_folder(folder, config, ["x" * 9000])
    assert list(folder.path.iterdir()) == []


def test_a_full_disk_leaves_the_record_of_a_continued_run(tmp_path, full_disk):
    before = Config(run_dir=str(tmp_path / "run"))
    folder = make_run_folder(before)
    write_run_folder(folder, before, [])
    after = Config(run_dir=before.run_dir, resume="auto", optim=OptimConfig(lr=1.0))
    with full_disk(100), pytest.raises(ConfigError, match="File too large"):
        write_run_folder(folder, after, [])
    assert load_config(folder.config_file) == before
    assert folder.environment_file.exists()
