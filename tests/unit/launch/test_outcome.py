import json
import signal

import pytest

from medtune.config.schema import Config
from medtune.launch.outcome import FAILED, FINISHED, INTERRUPTED, Outcome, judge, tell
from medtune.runtime.record import RunFolder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "logs").mkdir(parents=True)
    return RunFolder(tmp_path / "run")


def fail(
    folder: RunFolder, rank: int, when: float, kind: str = "ValueError", message: str = "the cause"
) -> None:
    cause = {"time": when, "rank": rank, "type": kind, "message": message}
    (folder.logs / f"error-{rank}.json").write_text(json.dumps(cause))


@pytest.mark.parametrize(
    ("codes", "received", "status", "code"),
    [
        pytest.param({0: 0}, None, FINISHED, 0, id="all_well"),
        pytest.param({0: 0}, signal.SIGINT, INTERRUPTED, 130, id="ctrl_c_and_an_orderly_end"),
        pytest.param({0: 130}, signal.SIGINT, INTERRUPTED, 130, id="ctrl_c"),
        pytest.param({0: -9, 1: -9}, signal.SIGTERM, INTERRUPTED, 143, id="killed_after_sigterm"),
        pytest.param({0: 143, 1: -15}, None, INTERRUPTED, 143, id="workers_were_told_to_stop"),
        pytest.param({0: -2}, None, INTERRUPTED, 130, id="worker_got_sigint"),
        pytest.param({0: -15, 1: 1}, None, FAILED, 1, id="one_failed_and_the_other_was_ended"),
    ],
)
def test_exit_codes(folder, codes, received, status, code):
    outcome = judge(folder, codes, received)
    assert (outcome.status, outcome.code) == (status, code)


def test_the_earliest_rank_tells_the_cause(folder):
    fail(folder, 0, 20.0, "RuntimeError", "connection closed by peer")
    fail(folder, 1, 10.0, "ValueError", "train.json:3: no target")
    assert judge(folder, {0: 1, 1: 1}, None) == Outcome(
        FAILED, 1, "train.json:3: no target\n  (rank 1; the traceback is in run/logs/rank-1.log)"
    )


def test_an_error_of_a_library_is_named(folder):
    fail(folder, 0, 1.0, "RuntimeError", "mat1 and mat2")
    assert judge(folder, {0: 1}, None).message.startswith("RuntimeError: mat1 and mat2\n")


def test_settings_that_only_the_worker_could_refuse_exit_with_2(folder):
    fail(folder, 0, 1.0, "ConfigError", "data.sequence_length=9 is too short")
    assert judge(folder, {0: 2}, None).code == 2


def test_a_long_message_is_cut_to_a_screen(folder):
    fail(folder, 0, 1.0, message="\n".join(f"line {number}" for number in range(100)))
    lines = judge(folder, {0: 1}, None).message.splitlines()
    assert len(lines) == 42
    assert lines[39:41] == ["  line 39", "  ... (60 more lines)"]


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        pytest.param(
            {1: -signal.SIGKILL, 0: -signal.SIGTERM},
            "rank 1 was killed (SIGKILL), as by a machine that is out of main memory; "
            "see run/logs/rank-1.log",
            id="out_of_memory",
        ),
        pytest.param(
            {0: -signal.SIGSEGV},
            "rank 0 ended by SIGSEGV and left no cause; see run/logs/rank-0.log",
            id="crash",
        ),
        pytest.param(
            {0: 7}, "rank 0 ended with exit code 7 and left no cause; see run/logs/rank-0.log", id="exit_code"
        ),
        pytest.param(
            {1: 1, 0: -signal.SIGTERM},
            "rank 1 ended with exit code 1; its message is above (or in run/logs/rank-1.log)",
            id="shown_but_not_recorded",
        ),
        pytest.param(
            {0: 2},
            "rank 0 ended with exit code 2; its message is above (or in run/logs/rank-0.log)",
            id="settings_shown_but_not_recorded",
        ),
    ],
)
def test_a_rank_that_ends_without_a_word(folder, codes, message):
    assert judge(folder, codes, None) == Outcome(FAILED, 1, message)


def test_a_killed_rank_tells_more_than_the_partner_that_lost_it(folder):
    fail(folder, 0, 20.0, "RuntimeError", "connection closed by peer")
    message = judge(folder, {1: -signal.SIGKILL, 0: 1}, None).message
    assert message.startswith("rank 1 was killed (SIGKILL)")
    assert judge(folder, {0: 1, 1: -signal.SIGKILL}, None).message.startswith("RuntimeError: connection")


def test_torchruns_own_failure_is_in_its_own_log(folder):
    cause = {"time": 1, "rank": None, "type": "DistNetworkError", "message": "port in use"}
    (folder.logs / "error-torchrun.json").write_text(json.dumps(cause))
    assert judge(folder, {0: 1}, None).message == (
        "DistNetworkError: port in use\n  (torchrun; the traceback is in run/logs/torchrun.log)"
    )


def test_half_a_record_is_passed_over(folder):
    (folder.logs / "error-0.json").write_text('{"time": 1')
    fail(folder, 1, 2.0)
    assert judge(folder, {0: 1, 1: 1}, None).message.startswith("the cause\n")


@pytest.mark.parametrize("saved", [True, False])
def test_an_interrupted_run_says_how_to_go_on_when_it_can(folder, capsys, saved):
    if saved:
        (folder.checkpoints / "step-3").mkdir(parents=True)
    tell(Outcome(INTERRUPTED, 130), Config(), folder)
    told = ["interrupted: run"] + ["continue with: python -m medtune run_dir=run resume=auto"] * saved
    assert capsys.readouterr().err.splitlines() == told
