import json
import os
import signal
import time
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
from torch import nn

from medtune.config.schema import TrainerConfig
from medtune.runtime.errors import ConfigError
from medtune.runtime.record import RunFolder
from medtune.training.checkpoints import whole_checkpoints
from medtune.training.fit import count_steps, fit
from medtune.training.interrupt import Interrupt
from medtune.training.metrics import NonFiniteLossError, read_metrics
from tests.numerics.toy import ToyData, make_documents, tiny_model, toy_config

ROWS = [[document] for document in make_documents(6)]


def run(tmp_path, model=None, rows=ROWS, callbacks=(), **changes):
    config = toy_config(tmp_path, data__global_batch_size=2, **changes)
    CALLBACKS[:] = callbacks
    config.callbacks = {str(at): {"_target_": f"{__name__}.take", "at": at} for at in range(len(CALLBACKS))}
    data = ToyData(rows, 2, val_rows=changes.pop("val_rows", []))
    return fit(config, data, RunFolder(tmp_path), build_model=lambda: model or tiny_model(), export=False)


CALLBACKS: list[L.Callback] = []


@pytest.fixture(autouse=True)
def _callbacks_by_name(monkeypatch):
    """An open node names its target; ours hands out the objects of the test at hand."""
    monkeypatch.setattr("medtune.training.fit.instantiate", lambda node: CALLBACKS[node["at"]])


@pytest.mark.parametrize(
    ("trainer", "steps"),
    [
        pytest.param(TrainerConfig(), 10, id="one_epoch"),
        pytest.param(TrainerConfig(max_epochs=2.05), 21, id="rounded_up"),
        pytest.param(TrainerConfig(max_epochs=3, max_steps=4), 4, id="steps_win"),
    ],
)
def test_steps_of_a_fit(trainer, steps):
    assert count_steps(trainer, ToyData(ROWS * 5, 3).step_plan) == steps


@pytest.mark.parametrize(("warmup", "is_told"), [(3, True), (2, False)])
def test_a_warm_up_as_long_as_the_run_is_told(tmp_path, caplog, warmup, is_told):
    run(tmp_path, trainer__max_steps=3, schedule__warmup_steps=warmup)
    told = f"schedule.warmup_steps={warmup}, but the run has 3 steps: none reaches optim.lr"
    assert (told in caplog.text) is is_told


def test_eval_mode_of_a_loaded_model_does_not_last(tmp_path):
    """transformers loads in eval mode; dropout would be off for the whole fit."""
    model = tiny_model(dropout=0.5).eval()
    first = run(tmp_path / "a", model, trainer__max_steps=1)
    second = run(tmp_path / "b", tiny_model().eval(), trainer__max_steps=1)
    assert all(module.training for module in model.modules())
    assert first.train_loss != second.train_loss


@pytest.mark.filterwarnings("ignore:Found .* module")  # Lightning warns, and goes on
def test_a_module_in_eval_mode_stops_the_fit(tmp_path):
    class Sleeper(L.Callback):
        def on_fit_start(self, trainer, pl_module):
            pl_module.model.model.layers[1].eval()

    with pytest.raises(
        AssertionError, match=r"eval mode at the start of the fit: \['model\.model\.layers\.1'"
    ):
        run(tmp_path, callbacks=[Sleeper()])


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")  # a newer name since 5.23
def test_gradient_checkpointing_really_recomputes(tmp_path):
    model = tiny_model()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    calls = []
    model.model.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
    run(tmp_path, model, trainer__max_steps=1)
    assert len(calls) == 4  # two micro batches, each forward and again for the backward pass


class Poison(L.Callback):
    """Spoils the weights before row 3 is learned."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch["rows"] == [3]:
            nn.init.constant_(pl_module.model.lm_head.weight, float("nan"))


def test_a_bad_loss_names_step_and_rows_and_leaves_the_last_checkpoint(tmp_path):
    message = r"step 2: the loss is nan on rows \[3\] of the training split; the last checkpoint is untouched"
    with pytest.raises(NonFiniteLossError, match=message):
        run(tmp_path, callbacks=[Poison()], checkpoint__every_n_steps=1)
    assert [c.global_step for c in whole_checkpoints(tmp_path / "checkpoints")] == [1]
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1]


def test_a_step_without_a_learned_token_is_told_and_spoils_nothing(tmp_path, caplog):
    rows = [[document] for document in make_documents(6, learned=[2, 3, 0, 0, 4, 1])]
    result = run(tmp_path, rows=rows, trainer__max_steps=6, optim__name="adamw", optim__lr=1e-3)
    assert [r.getMessage()[:31] for r in caplog.records if "no learned token" in r.getMessage()] == [
        "step 2 has no learned token (no"  # step 5 is the same again
    ]
    losses = [line["train/loss"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert (losses[1], losses[4]) == (0.0, 0.0)
    assert all(0 < loss < 10 for at, loss in enumerate(losses) if at not in (1, 4))
    assert result.learned_tokens == 20


def test_rows_of_which_nothing_is_learned_are_refused(tmp_path):
    rows = [[document] for document in make_documents(6, learned=[0] * 6)]
    with pytest.raises(
        ConfigError, match=r"^data: none of the 6 training rows has a learned token, so there"
    ):
        run(tmp_path, rows=rows)


def test_a_bad_loss_names_the_examples_where_the_data_can(tmp_path):
    class Described(ToyData):
        def describe_row(self, epoch, row):
            return f"notes.jsonl:{10 * epoch + row}"

    CALLBACKS[:] = [Poison()]
    config = toy_config(tmp_path, data__global_batch_size=2, trainer__max_steps=4)
    config.callbacks = {"poison": {"at": 0}}
    # Three rows in the first epoch: row 3 comes in the second.
    data = Described(ROWS, 2, sizes=[3, 6])
    with pytest.raises(NonFiniteLossError, match=r"step 4: .* rows \[3\] \(row 3: notes\.jsonl:13\) of the"):
        fit(config, data, RunFolder(tmp_path), build_model=tiny_model, export=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1], ids=str)
def test_a_signal_ends_the_fit_after_its_step_and_saves(tmp_path, number):
    class Signal(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 2:  # the first micro batch of the second step
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    result = run(tmp_path, callbacks=[Signal()], trainer__max_steps=9)
    assert (result.status, result.signal_number, result.global_step) == ("interrupted", number, 2)
    assert [c.global_step for c in whole_checkpoints(tmp_path / "checkpoints")] == [2]
    assert signal.getsignal(number) == before


def test_an_echo_is_not_a_second_signal(caplog):
    interrupt = Interrupt(checkpoints=None)
    interrupt._receive(signal.SIGINT, None)
    interrupt._receive(signal.SIGINT, None)
    interrupt._received_at = time.monotonic() - 5
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit, match="130"):
        interrupt._receive(signal.SIGINT, None)
    signal.signal(signal.SIGINT, before)


def test_the_signal_that_follows_a_warning_is_no_second_one():
    """SLURM sends SIGUSR1 some time before the limit, and SIGTERM at it."""
    interrupt = Interrupt(checkpoints=None)
    interrupt._receive(signal.SIGUSR1, None)
    interrupt._received_at = time.monotonic() - 5
    interrupt._receive(signal.SIGTERM, None)
    assert interrupt._received == signal.SIGTERM
    interrupt._received_at = time.monotonic() - 5
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="143"):
        interrupt._receive(signal.SIGTERM, None)
    signal.signal(signal.SIGTERM, before)


def test_validation_comes_at_its_steps_and_at_the_end(tmp_path):
    config = toy_config(
        tmp_path, data__global_batch_size=2, trainer__max_steps=5, trainer__val_every_n_steps=2,
        objective="pretrain",
    )  # fmt: skip
    fit(
        config, ToyData(ROWS, 2, val_rows=ROWS[:3]), RunFolder(tmp_path), build_model=tiny_model, export=False
    )
    lines = [line for line in read_metrics(tmp_path / "metrics.jsonl") if "val/loss" in line]
    assert [line["step"] for line in lines] == [2, 4, 5]
    for line in lines:
        assert line["val/perplexity"] == pytest.approx(torch.tensor(line["val/loss"]).exp().item(), rel=1e-5)


def test_early_stopping_sees_the_validation(tmp_path):
    stopping = L.callbacks.EarlyStopping("val/loss", patience=1, min_delta=100.0)
    CALLBACKS[:] = [stopping]
    config = toy_config(
        tmp_path, data__global_batch_size=2, trainer__val_every_n_steps=1, trainer__max_steps=9
    )
    config.callbacks = {"stop": {"at": 0}}
    data = ToyData(ROWS, 2, val_rows=ROWS[:2])
    result = fit(config, data, RunFolder(tmp_path), build_model=tiny_model, export=False)
    assert result.global_step == 2


def test_the_folder_explains_itself(tmp_path):
    config = toy_config(tmp_path, data__global_batch_size=2, trainer__max_steps=1)
    fit(config, ToyData(ROWS, 2), RunFolder(tmp_path), build_model=tiny_model)
    card = json.loads((tmp_path / "model/medtune.json").read_text())
    assert card.keys() == {"model", "template", "adapter", "quantization", "objective", "seed"}
    assert {path.name for path in Path(tmp_path / "model").iterdir()} >= {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer_config.json",
    }  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_not_replaced_by_the_cpu(tmp_path):
    with pytest.raises(ConfigError, match=r"trainer\.accelerator=cuda, but torch sees no GPU"):
        run(tmp_path, trainer__accelerator="cuda")


def test_a_network_that_would_swallow_document_ids_is_never_trained(tmp_path):
    """Transformers' own BLOOM takes any keyword; its packed documents would see each other."""
    from transformers import BloomConfig, BloomForCausalLM

    network = BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=2)
    config = toy_config(tmp_path, data__global_batch_size=4)
    with pytest.raises(AssertionError, match="BloomForCausalLM"):
        fit(config, ToyData(ROWS, 4), RunFolder(tmp_path), build_model=lambda: BloomForCausalLM(network))
