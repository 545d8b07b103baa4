"""A fit that was killed and resumed is the fit that never stopped, bit by bit on one CPU process."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medtune.runtime.errors import ConfigError
from medtune.training.checkpoints import open_checkpoint, whole_checkpoints
from medtune.training.metrics import read_metrics
from medtune.training.weights import weights_of
from tests.numerics.killed_fit import SAVED_EVERY, STEPS, build_config, build_data, run
from tests.numerics.toy import MIX_NAMES

ROOT = Path(__file__).parents[2]


def losses(run_dir: Path, name: str = "train/loss") -> dict[int, float]:
    """The metrics file's column ``name`` by step; a step that was written twice fails."""
    lines = [line for line in read_metrics(run_dir / "metrics.jsonl") if name in line]
    assert len({line["step"] for line in lines}) == len(lines)
    return {line["step"]: line[name] for line in lines}


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return weights_of(whole_checkpoints(run_dir / "checkpoints")[-1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an uninterrupted fit, with dropout."""
    run_dir = tmp_path_factory.mktemp("whole")
    run(build_config(run_dir))
    return run_dir


def kill_in_step_6(run_dir: Path, data: str) -> Path:
    """Leaves the run folder of a fit whose process died in step 6, after the checkpoint of step 4."""
    command = [sys.executable, str(ROOT / "tests/numerics/killed_fit.py"), str(run_dir), "22", data]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr[-4000:]
    return run_dir


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kill_in_step_6(tmp_path_factory.mktemp("killed"), "single")


@pytest.fixture
def copy_of_killed(killed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(killed, tmp_path / "run"))


def test_a_killed_fit_resumes_bit_equal(whole, copy_of_killed):
    assert max(losses(copy_of_killed)) == 5
    config = build_config(copy_of_killed, resume="auto")
    data = build_data(config)
    result = run(config, data)
    assert (result.status, result.global_step) == ("finished", STEPS)
    assert losses(copy_of_killed) == losses(whole)
    assert losses(copy_of_killed, "val/loss") == losses(whole, "val/loss")
    assert len(data.seen) == (STEPS - 4) * 4
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(copy_of_killed)[name], tensor), name


def test_a_killed_mix_resumes_bit_equal_in_the_middle_of_an_epoch(tmp_path):
    """Step 4 ends two of the three steps of the second epoch, whose rows are not those of the first."""
    whole, killed = tmp_path / "whole", kill_in_step_6(tmp_path / "killed", "mix")
    config = build_config(whole)
    run(config, build_data(config, "mix"))
    config = build_config(killed, resume="auto")
    assert run(config, build_data(config, "mix")).global_step == STEPS
    assert losses(killed) == losses(whole)
    for name in MIX_NAMES:
        assert losses(killed, f"train/loss/{name}") == losses(whole, f"train/loss/{name}") != {}, name
        assert losses(killed, f"val/loss/{name}") == losses(whole, f"val/loss/{name}") != {}, name
    epochs = [line["epoch"] for line in read_metrics(killed / "metrics.jsonl") if "train/loss" in line]
    assert epochs == [0.5, 1.0, 1.3333, 1.6667, 2.0, 3.0, 3.5, 4.0]
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(killed)[name], tensor), name


@pytest.mark.parametrize(("before", "after"), [(4, 1), (1, 2)], ids=["1_to_4", "4_to_2"])
def test_another_accumulation_goes_on_with_the_same_rows(tmp_path, before, after):
    """Lightning counts micro batches: taken over as they are, the groups would be misaligned."""
    first, second = tmp_path / "first", tmp_path / "second"
    config = build_config(first, checkpoint__keep_last=4, data__micro_batch_size=before)
    run(config, dropout=0.0)
    config = build_config(second, resume=str(first / "checkpoints/step-6"), data__micro_batch_size=after)
    run(config, dropout=0.0)
    expected = {step: loss for step, loss in losses(first).items() if step > 6}
    assert losses(second) == pytest.approx(expected, rel=1e-5)


def test_more_steps_may_follow_a_finished_fit(whole, tmp_path):
    run_dir = Path(shutil.copytree(whole, tmp_path / "run"))
    again = run(build_config(run_dir, resume="auto"))
    assert (again.status, again.global_step) == ("finished", STEPS)
    longer = run(build_config(run_dir, resume="auto", trainer__max_steps=STEPS + 2))
    assert longer.global_step == STEPS + 2
    assert sorted(losses(run_dir)) == list(range(1, STEPS + 3))


def test_only_the_newest_checkpoints_are_kept(whole):
    assert [c.global_step for c in whole_checkpoints(whole / "checkpoints")] == [STEPS - SAVED_EVERY, STEPS]


def test_a_part_of_a_checkpoint_is_never_taken(copy_of_killed):
    checkpoints = copy_of_killed / "checkpoints"
    part = Path(shutil.copytree(checkpoints / "step-4", checkpoints / "step-6"))
    (part / "checkpoint.json").unlink()
    assert whole_checkpoints(checkpoints)[-1].global_step == 4
    with pytest.raises(ConfigError, match=r"step-6 was not written to its end: checkpoint\.json is missing"):
        run(build_config(copy_of_killed, resume=str(part)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"optim__lr": 0.5},
            r"optim\.lr=0\.5 \(0\.01 before\): .*step-4 was .*resume_allow=\[optim\.lr\]",
            id="rate",
        ),
        pytest.param({"seed": 9}, r"seed=9 \(3 before\): .*resume_allow=\[seed\]", id="order_of_rows"),
        pytest.param(
            {"strategy": {"_target_": "medtune.training.strategies.fsdp"}},
            r"written in the layout 'file', this run uses 'fsdp'",
            id="strategy",
        ),
    ],
)
def test_settings_that_the_state_contradicts_are_refused(killed, tmp_path, changes, message):
    config = build_config(tmp_path, resume=str(killed / "checkpoints/step-4"), **changes)
    with pytest.raises(ConfigError, match=message):
        run(config)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp", "zero2"])
def test_what_a_sharding_strategy_cannot_take_up_is_one_message(tmp_path, strategy):
    if strategy == "zero2":
        pytest.importorskip("deepspeed")
    command = [
        sys.executable,
        str(ROOT / "tests/numerics/refused_states.py"),
        strategy,
        str(tmp_path / "run"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": str(Path(sys.executable).parent)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    another, cut, gone = [line for line in done.stdout.splitlines() if line.startswith("resume: ")]
    if strategy == "fsdp":
        assert "the weights of another network or adapter: model.lm_head.weight is [64, " in another
    else:
        assert "step-2 cannot be taken up (RuntimeError: Error(s) in loading state_dict for SFT" in another
    for message in (cut, gone):
        assert "/run/checkpoints/step-2 cannot be taken up (" in message
        assert "It is damaged, or another optimizer's. Resume from an older checkpoint" in message


def test_a_checkpoint_holds_plain_types_and_its_settings(whole):
    checkpoint = open_checkpoint(whole / f"checkpoints/step-{STEPS}")
    assert (checkpoint.global_step, checkpoint.rows, checkpoint.layout) == (STEPS, STEPS * 4, "file")
    assert checkpoint.config["optim"]["lr"] == 1e-2
    state = torch.load(checkpoint.state, weights_only=True)
    assert {"state_dict", "optimizer_states", "lr_schedulers", "loops", "global_step"} <= state.keys()
