"""Going on from a checkpoint, as far as the launcher decides it: before a file is written, without torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from medtune.config.load import config_to_dict
from medtune.launch.command import main, make_plan, read_options, request_of
from medtune.launch.run import changes_on_resume, settle_request
from medtune.launch.run_folder import make_run_folder, write_run_folder
from medtune.runtime.errors import ConfigError
from medtune.runtime.record import RunFolder, write_json

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _a_machine_without_gpus(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)


def settled(*line):
    plan = make_plan(read_options(line))
    return settle_request(request_of(plan.settings, plan.line.accepted)).config


@pytest.fixture
def run(tmp_path) -> RunFolder:
    """A run that ended after its checkpoint of step 2, as far as the launcher looks at it."""
    config = settled("trainer.max_steps=4", f"run_dir={tmp_path / 'run'}")
    folder = make_run_folder(config)
    write_run_folder(folder, config, [])
    path = folder.checkpoints / "step-2"
    path.mkdir(parents=True)
    mark = {"global_step": 2, "rows": 16, "layout": "file", "world_size": 1, "config": config_to_dict(config)}
    write_json(path / "checkpoint.json", mark)
    return folder


def test_a_refused_change_leaves_the_settings_that_the_run_has(run, capsys):
    before = run.config_file.read_bytes()
    assert main([f"run_dir={run.path}", "resume=auto", "optim.lr=0.5", "model.hidden_size=32"]) == 2
    shown = capsys.readouterr().err
    assert "optim.lr=0.5 (0.002 before): " in shown
    assert "'resume_allow=[optim.lr]'" in shown
    assert "model.hidden_size=32 (128 before): " in shown
    assert run.config_file.read_bytes() == before
    assert list(run.logs.iterdir()) == []
    assert settled(f"run_dir={run.path}", "resume=auto").optim.lr == 0.002


def test_an_accepted_change_is_listed_and_needs_no_second_word(run):
    typed = (f"run_dir={run.path}", "resume=auto", "optim.lr=0.5", "resume_allow=[optim]", "name=b")
    config = settled(*typed)
    assert changes_on_resume(config) == ["name: medtune before, b now", "optim.lr: 0.002 before, 0.5 now"]
    write_run_folder(make_run_folder(config), config, typed)
    # Killed before it wrote a checkpoint of its own, the run goes on by the plain command.
    assert settled(f"run_dir={run.path}", "resume=auto").optim.lr == 0.5


def test_another_runs_checkpoint_is_compared_too(run, tmp_path):
    path = run.checkpoints / "step-2"
    with pytest.raises(ConfigError, match=r"^seed=7 \(42 before\): .*step-2 was written with the former"):
        settled("trainer.max_steps=4", "seed=7", f"resume={path}", f"run_dir={tmp_path / 'new'}")
    assert not (tmp_path / "new").exists()
    config = settled("trainer.max_steps=9", f"resume={path}", f"run_dir={tmp_path / 'new'}")
    assert changes_on_resume(config)[0] == "trainer.max_steps: 4 before, 9 now"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param('{"global_step": 2', r"step-2 is damaged: checkpoint\.json cannot be read", id="cut"),
        pytest.param("\x00\x01garbage", r"step-2 is damaged: checkpoint\.json cannot be read", id="garbage"),
        pytest.param("[]", r"step-2 is damaged: checkpoint\.json cannot be read \(TypeError", id="a_list"),
    ],
)
def test_a_damaged_mark_is_told_before_anything_starts(run, damage, message):
    (run.checkpoints / "step-2/checkpoint.json").write_text(damage)
    before = run.config_file.read_bytes()
    with pytest.raises(ConfigError, match=message):
        settled(f"run_dir={run.path}", "resume=auto", "name=b")
    assert run.config_file.read_bytes() == before


def test_without_a_checkpoint_everything_may_change(run):
    (run.checkpoints / "step-2/checkpoint.json").unlink()
    config = settled(f"run_dir={run.path}", "resume=auto", "optim.lr=0.5", "seed=7")
    assert changes_on_resume(config) == []
    changed = write_run_folder(make_run_folder(config), config, [])
    assert changed == ["seed: 42 before, 7 now", "optim.lr: 0.002 before, 0.5 now"]


@pytest.mark.parametrize(
    ("allow", "problem"),
    [
        (
            "[optim.lrr]",
            r"resume_allow=\[optim\.lrr\]: there is no key or section optim\.lrr; did you mean",
        ),
        ("[optims]", r"resume_allow=\[optims\]: there is no key or section optims; did you mean optim"),
    ],
)
def test_what_is_allowed_must_exist(run, allow, problem):
    with pytest.raises(ConfigError, match=problem):
        settled(f"run_dir={run.path}", "resume=auto", f"resume_allow={allow}")


def test_a_resume_is_decided_without_anything_heavy(run):
    code = (
        "import sys; from medtune.launch.command import main; "
        f"code = main(['run_dir={run.path}', 'resume=auto', 'optim.lr=0.5']); "
        "sys.exit(str((code, sorted({'torch', 'lightning', 'transformers'} & set(sys.modules)))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.stderr.splitlines()[-1] == "(2, [])"
