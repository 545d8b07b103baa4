"""Answers while a model learns: what they leave behind, and that training does not notice them."""

import os
import random
import signal

import lightning.pytorch as L
import numpy as np
import pytest
import torch

from medtune.generation.engine import TransformersEngine
from medtune.generation.settings import SamplingSettings
from medtune.models.answering import has_mixed_types, put_tensors, ready_to_answer, structure_of
from medtune.runtime.errors import ConfigError
from medtune.runtime.record import RunFolder
from medtune.training.checkpoints import open_checkpoint, whole_checkpoints
from medtune.training.evaluation import Evaluated, EvaluationError
from medtune.training.fit import fit
from medtune.training.metrics import read_metrics
from medtune.training.weights import weights_of
from tests.numerics.toy import ToyData, make_documents, tiny_model, toy_config

ROWS = [[document] for document in make_documents(8)]
PROMPTS = ([5, 6, 7], [9, 9], [11])
STEPS = 4


class Answers:
    """Answers three prompts, and draws from every random stream as some library might."""

    tasks = ("short", "long/er")

    def __init__(self, scores=()):
        self.scores = dict(scores)
        self.seen = {}

    def __call__(self, model, step, is_asked_to_stop):
        torch.rand(3), random.random(), np.random.rand()
        answers = TransformersEngine(model, stop_ids=()).generate(PROMPTS, SamplingSettings(max_new_tokens=4))
        if is_asked_to_stop():
            return None
        self.seen[step] = answers
        score = self.scores.get(step, 50.0)
        table = [("short", "in", "gold", str(ids), "[]", False) for ids in answers]
        return Evaluated(score, {"short": score, "long/er": 100 - score}, 1, table, tokens=12, seconds=0.5)


def run(folder, evaluator=None, data=None, **changes):
    every = 1 if evaluator is not None else None
    settings = {
        "data__global_batch_size": 4, "trainer__max_steps": STEPS, "optim__name": "adamw", "optim__lr": 1e-2,
        "loss__neftune_alpha": 5.0, "checkpoint__keep_last": 9, "eval__every_n_steps": every,
    }  # fmt: skip
    config = toy_config(folder, **{**settings, **changes})

    def build():
        model = tiny_model(dropout=0.2)
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.config.use_cache = False
        return model

    data = data or ToyData(ROWS, 4, val_rows=ROWS[:2], shuffle_seed=1)
    return fit(config, data, RunFolder(folder), build_model=build, export=False, evaluator=evaluator)


def lines_of(folder, name):
    return {line["step"]: line[name] for line in read_metrics(folder / "metrics.jsonl") if name in line}


def last_weights(folder):
    return weights_of(whole_checkpoints(folder / "checkpoints")[-1])


pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A fit without evaluations: with dropout, NEFTune, recomputed activations and a shuffled order."""
    folder = tmp_path_factory.mktemp("plain")
    run(folder)
    return folder


def test_training_is_bit_equal_with_and_without(tmp_path, plain):
    answers = Answers()
    run(tmp_path, answers)
    assert list(answers.seen) == [1, 2, 3, 4]
    assert len({str(found) for found in answers.seen.values()}) > 1, (
        "the weights changed, the answers did not"
    )
    assert lines_of(tmp_path, "train/loss") == lines_of(plain, "train/loss")
    assert lines_of(tmp_path, "val/loss") == lines_of(plain, "val/loss")
    expected = last_weights(plain)
    for name, tensor in last_weights(tmp_path).items():
        assert torch.equal(tensor, expected[name]), name


def test_a_fit_with_evaluations_resumes_bit_equal(tmp_path, plain):
    first, second = tmp_path / "first", tmp_path / "second"
    whole, resumed = Answers(), Answers()
    run(first, whole, checkpoint__every_n_steps=2)
    run(second, resumed, checkpoint__every_n_steps=2, resume=str(first / "checkpoints/step-2"))
    assert resumed.seen == {step: whole.seen[step] for step in (3, 4)}
    expected = last_weights(plain)
    for name, tensor in last_weights(second).items():
        assert torch.equal(tensor, expected[name]), name
    seconds = [lines_of(folder, "eval/seconds") for folder in (first, second)]
    share = lines_of(second, "eval/share_of_time")[4]
    spent = seconds[0][1] + seconds[0][2] + seconds[1][3] + seconds[1][4]
    trained = read_metrics(second / "metrics.jsonl")[-1]["train/seconds"]
    assert share == pytest.approx(spent / (spent + trained), abs=0.02)


def test_scores_and_cost_are_a_line_of_their_own(tmp_path, caplog):
    caplog.set_level("INFO")
    run(tmp_path, Answers({2: 70.0}), eval__every_n_steps=2)
    evaluated = [line for line in read_metrics(tmp_path / "metrics.jsonl") if "eval/score" in line]
    assert [line["step"] for line in evaluated] == [2, 4]
    line = evaluated[0]
    assert (line["eval/score"], line["eval/short"], line["eval/long/er"]) == (70.0, 70.0, 30.0)
    assert (line["eval/parse_failures"], line["eval/tokens_per_second"]) == (1, 24.0)
    assert 0 < line["eval/share_of_time"] < 1
    assert "train/loss" not in line
    shown = [text for text in caplog.messages if text.startswith("step 2 · score")]
    assert len(shown) == 1
    assert "score 70.00 on 3 answers, 1 of them not readable" in shown[0]
    assert "24 tokens/s · evaluations took" in shown[0]


@pytest.mark.parametrize(
    ("monitor", "best"), [("eval/score", 2), ("eval/long/er", 1), ("eval/parse_failures", 1)]
)
def test_the_best_checkpoint_by_what_was_scored(tmp_path, monitor, best):
    scores = {1: 10.0, 2: 40.0, 3: 30.0, 4: 20.0}
    changes = {"checkpoint__keep_best": 1, "checkpoint__monitor": monitor, "checkpoint__keep_last": 1}
    result = run(tmp_path, Answers(scores), **changes)
    assert os.readlink(tmp_path / "checkpoints/best") == f"step-{best}"
    assert result.best["checkpoint"] == f"checkpoints/step-{best}"
    assert result.best["eval/score"] == scores[best]
    # A resumed run knows it: only what is better takes its place.
    longer = Answers({5: 35.0, 6: 45.0})
    run(tmp_path, longer, **changes, trainer__max_steps=6, resume="auto")
    after = {"eval/score": 6, "eval/long/er": 1, "eval/parse_failures": 1}[monitor]
    assert os.readlink(tmp_path / "checkpoints/best") == f"step-{after}"
    assert open_checkpoint(tmp_path / "checkpoints/best").validation[monitor] is not None


def test_a_monitor_that_is_not_scored_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(ConfigError, match=r"eval/shrt is nothing .* eval/score, eval/short, eval/long/er"):
        run(tmp_path, Answers(), checkpoint__keep_best=1, checkpoint__monitor="eval/shrt")
    assert not (tmp_path / "metrics.jsonl").exists()


class Failing(Answers):
    def __call__(self, model, step, is_asked_to_stop):
        if step == 3:
            raise torch.OutOfMemoryError("no memory for 3 rows")
        return super().__call__(model, step, is_asked_to_stop)


def test_an_evaluation_that_fails_ends_the_run_with_its_state_saved(tmp_path, plain):
    message = r"the evaluation at step 3 failed: no memory for 3 rows\. The training up to here is saved"
    with pytest.raises(EvaluationError, match=message):
        run(tmp_path, Failing())
    assert [c.global_step for c in whole_checkpoints(tmp_path / "checkpoints")] == [3]
    run(tmp_path, resume="auto")
    for name, tensor in last_weights(tmp_path).items():
        assert torch.equal(tensor, last_weights(plain)[name]), name


class Interrupted(Answers):
    def __call__(self, model, step, is_asked_to_stop):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__call__(model, step, is_asked_to_stop)


def test_a_signal_cuts_an_evaluation_short_and_the_state_is_saved(tmp_path, plain, caplog):
    result = run(tmp_path, Interrupted())
    assert (result.status, result.signal_number, result.global_step) == ("interrupted", signal.SIGTERM, 2)
    assert [c.global_step for c in whole_checkpoints(tmp_path / "checkpoints")] == [2]
    assert list(lines_of(tmp_path, "eval/score")) == [1]
    assert "the evaluation at step 2 was cut short and is left out" in caplog.text
    run(tmp_path, Answers(), resume="auto")
    for name, tensor in last_weights(tmp_path).items():
        assert torch.equal(tensor, last_weights(plain)[name]), name


def test_every_module_trains_on_after_an_evaluation(tmp_path, monkeypatch):
    class Look(L.Callback):
        modes = []

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            network = pl_module.model
            self.modes.append((all(m.training for m in network.modules()), network.config.use_cache))

    # An open node names its target; this one hands out the class above.
    monkeypatch.setattr("medtune.training.fit.instantiate", lambda node: Look())
    run(tmp_path, Answers(), callbacks={"look": {}})
    assert Look.modes == [(True, False)] * 16


def test_a_network_decodes_as_one_that_was_loaded_to_answer(tmp_path):
    model = tiny_model(tie_word_embeddings=True)
    model.config._attn_implementation = "eager"
    for layer in model.model.layers:
        layer.compile(backend="eager")
    calls = [layer._compiled_call_impl for layer in model.model.layers]
    with ready_to_answer(model, toy_config(tmp_path)):
        assert model.config._attn_implementation == "sdpa"
        assert [layer._compiled_call_impl for layer in model.model.layers] == [None, None]
    assert model.config._attn_implementation == "eager"
    assert [layer._compiled_call_impl for layer in model.model.layers] == calls


def test_a_structure_takes_values_and_keeps_ties():
    model = tiny_model(tie_word_embeddings=True)
    shapes = structure_of(model)
    assert {tensor.device.type for tensor in shapes.parameters()} == {"meta"}
    assert {tensor.device.type for tensor in shapes.buffers()} == {"meta"}
    values = {}
    for name, shape in [*shapes.named_parameters(), *shapes.named_buffers()]:
        source = (
            model.get_parameter(name) if isinstance(shape, torch.nn.Parameter) else model.get_buffer(name)
        )
        values[id(shape)] = source.detach().clone()
    put_tensors(shapes, values)
    assert shapes.lm_head.weight.data_ptr() == shapes.model.embed_tokens.weight.data_ptr()
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(shapes(input_ids=ids).logits, model(input_ids=ids).logits)


def test_only_weights_of_several_types_need_autocast():
    model = tiny_model()
    assert not has_mixed_types(model)
    model.model.layers[1].bfloat16()
    assert has_mixed_types(model)
