"""When checkpoints are written, which are kept, and that a bad state never becomes one."""

import os
import resource
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch

from medtune.runtime.errors import ConfigError
from medtune.runtime.record import RunFolder
from medtune.training import writing
from medtune.training.checkpoints import Checkpoint, best_first, open_checkpoint, whole_checkpoints
from medtune.training.fit import fit
from medtune.training.metrics import NonFiniteLossError, read_metrics
from medtune.training.state import copied_to_host
from tests.numerics.toy import ToyData, make_documents, tiny_model, toy_config

ROWS = [[document] for document in make_documents(6)]
CALLBACKS: list[L.Callback] = []


@pytest.fixture(autouse=True)
def _callbacks_by_name(monkeypatch):
    """An open node names its target; ours hands out the objects of the test at hand."""
    monkeypatch.setattr("medtune.training.fit.instantiate", lambda node: CALLBACKS[node["at"]])


def run(folder, callbacks=(), dropout=0.0, val_rows=(), build=None, rows=ROWS, **changes):
    settings = {"data__global_batch_size": 2, "trainer__max_steps": 6, "checkpoint__keep_last": 9}
    config = toy_config(folder, **{**settings, **changes})
    CALLBACKS[:] = callbacks
    config.callbacks = {str(at): {"at": at} for at in range(len(CALLBACKS))}
    config.resume_allow = [*config.resume_allow, "callbacks"]  # which differ between the runs of a test
    data = ToyData(rows, 2, val_rows=list(val_rows))
    build = build or (lambda: tiny_model(dropout=dropout))
    return fit(config, data, RunFolder(folder), build_model=build, export=False)


def kept(folder: Path) -> list[int]:
    return [checkpoint.global_step for checkpoint in whole_checkpoints(folder / "checkpoints")]


def state(folder: Path, step: int) -> dict:
    return torch.load(folder / f"checkpoints/step-{step}/state", weights_only=True)


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return state(folder, step)["state_dict"]


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        pytest.param({}, [6], id="the_end_alone"),
        pytest.param({"checkpoint__every_n_steps": 4}, [4, 6], id="steps"),
        pytest.param({"checkpoint__every_n_minutes": 1e-9}, [1, 2, 3, 4, 5, 6], id="minutes_over"),
        pytest.param({"checkpoint__every_n_minutes": 60.0}, [6], id="minutes_to_go"),
        pytest.param(
            {"checkpoint__every_n_steps": 1, "checkpoint__keep_last": 1, "checkpoint__keep_every_n_steps": 2},
            [2, 4, 6],
            id="some_for_good",
        ),
        pytest.param(
            {"checkpoint__keep_last": 1, "checkpoint__keep_every_n_steps": 4}, [4, 6], id="for_good_alone"
        ),
    ],
)
def test_when_checkpoints_are_written_and_which_stay(tmp_path, settings, steps):
    run(tmp_path, **settings)
    assert kept(tmp_path) == steps


def test_a_checkpoint_follows_every_so_many_tokens_also_across_a_resume(tmp_path):
    every = 40
    run(tmp_path, checkpoint__every_n_tokens=every)
    tokens = [0, *(line["train/tokens"] for line in read_metrics(tmp_path / "metrics.jsonl"))]
    passed = [step for step in range(1, 7) if tokens[step - 1] // every < tokens[step] // every]
    assert kept(tmp_path) == sorted({*passed, 6})
    assert 1 < len(passed) < 6
    again = tmp_path / "again"
    source = str(tmp_path / f"checkpoints/step-{passed[0]}")
    run(again, checkpoint__every_n_tokens=every, resume=source)
    assert kept(again) == sorted({*passed[1:], 6})


class SetLoss(L.Callback):
    """Has validations report what a test says."""

    def __init__(self, losses):
        self.losses = losses

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.validation_metrics = lambda loss, accuracy: {
            "val/loss": self.losses[trainer.global_step - 1],
            "val/accuracy": accuracy,
        }


LOSSES = [5.0, 2.0, 3.0, float("nan"), 2.0, 4.0]


@pytest.mark.parametrize(
    ("settings", "steps", "best"),
    [
        # Step 5 equals the best and is newer: it does not take its place.
        pytest.param({"checkpoint__keep_best": 1}, [2, 6], 2, id="one"),
        pytest.param({"checkpoint__keep_best": 2}, [2, 5, 6], 2, id="two"),
        pytest.param({"checkpoint__keep_best": 9}, [1, 2, 3, 5, 6], 2, id="more_than_there_are"),
        pytest.param({"checkpoint__keep_best": 1, "checkpoint__mode": "max"}, [1, 6], 1, id="most"),
    ],
)
def test_the_best_are_written_and_kept(tmp_path, settings, steps, best):
    result = run(
        tmp_path, callbacks=[SetLoss(LOSSES)], val_rows=ROWS[:2],
        trainer__val_every_n_steps=1, checkpoint__keep_last=1, **settings,
    )  # fmt: skip
    assert kept(tmp_path) == steps
    assert os.readlink(tmp_path / "checkpoints/best") == f"step-{best}"
    assert result.best["checkpoint"] == f"checkpoints/step-{best}"
    assert result.best["val/loss"] == LOSSES[best - 1]
    assert open_checkpoint(tmp_path / "checkpoints/best").global_step == best


def test_the_best_of_before_a_resume_stay_the_best(tmp_path):
    settings = {"trainer__val_every_n_steps": 1, "checkpoint__keep_last": 1, "checkpoint__keep_best": 1}
    run(tmp_path, [SetLoss([3.0, 1.0, 2.0])], val_rows=ROWS[:2], trainer__max_steps=3, **settings)
    assert kept(tmp_path) == [2, 3]
    run(tmp_path, [SetLoss([9.0] * 3 + [2.0, 1.5, 2.0])], val_rows=ROWS[:2], resume="auto", **settings)
    assert kept(tmp_path) == [2, 6]
    assert os.readlink(tmp_path / "checkpoints/best") == "step-2"


def test_the_best_are_chosen_among_those_with_a_value():
    values = {1: {"val/loss": 2.0}, 2: {}, 3: {"val/loss": float("nan")}, 4: {"val/loss": 1.0}}
    checkpoints = [Checkpoint(Path(str(at)), at, 0, "file", 1, {}, value) for at, value in values.items()]
    assert [c.global_step for c in best_first(checkpoints, "val/loss", "min")] == [4, 1]
    assert [c.global_step for c in best_first(checkpoints, "val/loss", "max")] == [1, 4]


def test_what_no_validation_reports_is_refused_before_the_first_step(tmp_path):
    message = r"^checkpoint\.monitor=val/bleu is nothing .*; it reports val/loss, val/accuracy$"
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, val_rows=ROWS[:2], checkpoint__keep_best=1, checkpoint__monitor="val/bleu")
    assert not (tmp_path / "metrics.jsonl").exists()


def test_how_often_a_run_is_validated_does_not_change_what_it_learns(tmp_path):
    for name, every in (("often", 1), ("once", 6)):
        run(tmp_path / name, dropout=0.3, val_rows=ROWS[:2], trainer__val_every_n_steps=every)
    for name, tensor in weights(tmp_path / "often", 6).items():
        assert torch.equal(tensor, weights(tmp_path / "once", 6)[name]), name


class SlowDisk:
    """torch.save that takes its time before the first byte, when it writes a state."""

    def __init__(self, monkeypatch, seconds=0.3):
        save = torch.save
        self.waited = 0

        def slow(value, path):
            if Path(path).name == "state":
                self.waited += 1
                time.sleep(seconds)
            save(value, path)

        monkeypatch.setattr(writing.torch, "save", slow)


ADAMW = {"optim__name": "adamw", "optim__lr": 1e-2, "checkpoint__every_n_steps": 2}


def test_training_goes_on_while_a_snapshot_is_written(tmp_path, monkeypatch):
    """What is written is the state of its own step, though later steps were done before the first byte."""
    run(tmp_path / "waits", dropout=0.2, **ADAMW)
    disk, steps_meanwhile = SlowDisk(monkeypatch), []

    class Meanwhile(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if list((tmp_path / "goes_on/checkpoints").glob(".step-*.partial")):
                steps_meanwhile.append(trainer.global_step)

    run(tmp_path / "goes_on", [Meanwhile()], dropout=0.2, checkpoint__asynchronous=True, **ADAMW)
    assert disk.waited == 3
    assert {2, 3} <= set(steps_meanwhile), "training waited for the disk"
    assert kept(tmp_path / "goes_on") == [2, 4, 6]
    for step in (2, 4, 6):
        expected, found = state(tmp_path / "waits", step), state(tmp_path / "goes_on", step)
        for name, tensor in expected["state_dict"].items():
            assert torch.equal(found["state_dict"][name], tensor), (step, name)
        moments = expected["optimizer_states"][0]["state"]
        for number, values in moments.items():
            for name, value in values.items():
                assert torch.equal(found["optimizer_states"][0]["state"][number][name], value), (step, name)
        assert found["loops"] == expected["loops"]


def test_a_run_that_is_interrupted_ends_when_its_checkpoint_stands(tmp_path, monkeypatch):
    class Signal(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    SlowDisk(monkeypatch)
    result = run(tmp_path, [Signal()], checkpoint__asynchronous=True)
    assert (result.status, result.global_step) == ("interrupted", 3)
    assert kept(tmp_path) == [3]


def test_a_copy_in_main_memory_shares_nothing_and_keeps_what_is_tied():
    weight = torch.arange(4.0)
    value = {"a": weight, "b": [weight, weight[:2]], "c": {"n": 1}, "d": (2.0, None)}
    copy = copied_to_host(value)
    weight += 1
    value["c"]["n"] = 5
    assert copy["a"].tolist() == [0, 1, 2, 3]
    assert copy["b"][0] is copy["a"]
    assert copy["b"][1].tolist() == [0, 1]
    assert (copy["c"], copy["d"]) == ({"n": 1}, (2.0, None))


@contextmanager
def no_file_above(size):
    """Stands for a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["waits", "goes_on"])
def test_a_disk_that_fills_up_ends_the_run_with_the_last_checkpoint_whole(tmp_path, asynchronous):
    settings = {"checkpoint__every_n_steps": 1, "checkpoint__asynchronous": asynchronous}
    run(tmp_path, trainer__max_steps=2, **settings)
    before = {step: weights(tmp_path, step) for step in (1, 2)}
    size = (tmp_path / "checkpoints/step-2/state").stat().st_size
    with (
        no_file_above(size - 500),
        pytest.raises(ValueError, match=r"^cannot write .*step-3: .* MiB free\); what was there before is"),
    ):
        run(tmp_path, resume="auto", **settings)
    assert kept(tmp_path) == [1, 2]
    assert list((tmp_path / "checkpoints").glob(".*")) == []
    for step, expected in before.items():
        for name, tensor in weights(tmp_path, step).items():
            assert torch.equal(tensor, expected[name])


class PoisonGradient(L.Callback):
    """The loss of step 3 is a number, its gradient is not."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == 2:
            pl_module.model.lm_head.weight.grad[0, 0] = float("nan")


@pytest.mark.parametrize("asynchronous", [False, True], ids=["waits", "goes_on"])
def test_weights_that_are_not_finite_never_become_a_checkpoint(tmp_path, asynchronous):
    message = (
        r"^step 3: lm_head\.weight is nan or infinite after the update, though the loss was not, on rows "
        r"\[4\]; rows \[5\] of the training split; the last checkpoint is untouched\. Lower optim\.lr"
    )
    with pytest.raises(NonFiniteLossError, match=message):
        run(tmp_path, [PoisonGradient()], checkpoint__every_n_steps=1, checkpoint__asynchronous=asynchronous)
    assert kept(tmp_path) == [1, 2]
    for step in (1, 2):
        assert all(tensor.isfinite().all() for tensor in weights(tmp_path, step).values())


def test_an_end_before_the_last_step_is_saved_too(tmp_path):
    stopping = L.callbacks.EarlyStopping("val/loss", patience=1, min_delta=100.0)
    run(tmp_path, [stopping], val_rows=ROWS[:2], trainer__val_every_n_steps=1)
    assert kept(tmp_path) == [2]


def bigger():
    model = tiny_model()
    model.lm_head = torch.nn.Linear(model.lm_head.in_features, 70, bias=False)
    return model


def without_a_layer():
    model = tiny_model()
    del model.model.layers[1]
    return model


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"build": bigger},
            r"^resume: the checkpoint holds the weights of another network or adapter: model\.lm_head\."
            r"weight is \[64, \d+\] there, \[70, \d+\] here\. Resume with",
            id="shape",
        ),
        pytest.param(
            {"build": without_a_layer},
            r"^resume: .* another network or adapter: model\.model\.layers\.1\.\S+ is not here; .* more\. ",
            id="layer",
        ),
    ],
)
def test_weights_of_another_network_are_one_message(tmp_path, changes, message):
    run(tmp_path, trainer__max_steps=2)
    before = (tmp_path / "checkpoints/step-2/state").read_bytes()
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, resume="auto", **changes)
    assert (tmp_path / "checkpoints/step-2/state").read_bytes() == before


def test_rows_that_changed_behind_the_same_settings_are_refused(tmp_path):
    run(tmp_path, trainer__max_steps=2)
    changed = [*ROWS[:4], ROWS[0], ROWS[1]]
    with pytest.raises(ConfigError, match=r"^data: the training rows are not those that .*step-2 was"):
        run(tmp_path, resume="auto", rows=changed)
    assert run(tmp_path, resume="auto", rows=changed, resume_allow=["data"]).global_step == 6


def test_a_run_that_would_end_before_its_checkpoint_is_refused(tmp_path):
    run(tmp_path, trainer__max_steps=None, trainer__max_epochs=2.0)
    with pytest.raises(ConfigError, match=r"^trainer\.max_epochs: the run would end at step 3, but .*step-6"):
        run(tmp_path, resume="auto", trainer__max_steps=None, trainer__max_epochs=1.0)


def test_the_state_of_another_optimizer_is_one_message(tmp_path):
    """The mark is made to say what this run's settings say, so that only the state itself can tell."""
    run(tmp_path, trainer__max_steps=2)
    mark = tmp_path / "checkpoints/step-2/checkpoint.json"
    mark.write_text(mark.read_text().replace('"name": "sgd"', '"name": "adamw"'))
    message = (
        r"^resume: the checkpoint holds the state of another optimizer than AdamW: .*settings \['amsgrad'"
    )
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, resume="auto", optim__name="adamw")


class Rates(L.Callback):
    """Notes the learning rate that each update really used."""

    def __init__(self):
        self.used = {}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.used[trainer.global_step + 1] = optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize(
    ("changes", "rate"),
    [
        pytest.param({"trainer__max_steps": 12}, 0.01, id="a_later_end"),
        pytest.param({"optim__lr": 0.5, "resume_allow": ["optim.lr"]}, 0.5, id="another_rate"),
        pytest.param({"schedule__name": "constant", "resume_allow": ["schedule"]}, 0.01, id="no_schedule"),
    ],
)
def test_an_accepted_change_of_the_rate_has_its_effect_from_the_first_step(tmp_path, changes, rate):
    """Optimizer and schedule keep rates in their state; those of the checkpoint must not win."""
    settings = {**ADAMW, "schedule__name": "cosine", "trainer__max_steps": 6}
    rates = Rates()
    run(tmp_path, trainer__max_steps=4, **{key: value for key, value in settings.items() if "max" not in key})
    run(tmp_path, [rates], resume="auto", **{**settings, **changes})
    lines = [line for line in read_metrics(tmp_path / "metrics.jsonl") if line["step"] > 4]
    assert [line["train/lr"] for line in lines] == pytest.approx([rates.used[line["step"]] for line in lines])
    assert 0 < lines[0]["train/lr"] <= rate
    if changes.get("schedule__name") == "constant":
        assert lines[0]["train/lr"] == rate


def test_a_weight_decay_that_was_accepted_acts(tmp_path):
    run(tmp_path, trainer__max_steps=2, **ADAMW)
    decays = []

    class Decay(L.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            decays.append({group["weight_decay"] for group in optimizer.param_groups})

    run(tmp_path, [Decay()], resume="auto", optim__weight_decay=0.3, resume_allow=["optim"], **ADAMW)
    assert decays
    assert all(found == {0.3, 0.0} for found in decays)  # of matrices, and of all else
