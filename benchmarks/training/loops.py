"""One training step in four hands: medtune's fit, a bare PyTorch loop, transformers' Trainer and TRL's.

All take the same steps on the same batches, made as they go by the product's own loader: the same network
from the same seed, kernels of attention, fused AdamW in the same groups, clipping and schedule. medtune and
the two Trainers show a bar on a terminal and log every tenth step; the bare loop does neither, nor anything
else that a loop can leave out. Where they differ:

* bare and transformers' Trainer compute a plain cross-entropy of all columns that some row learns; medtune
  and TRL only of the learned positions, in chunks where they are many.
* transformers' Trainer is given that loss. Left to itself it would compute the logits of every position.
* medtune looks at each loss for nan and can say which rows it came from; it keeps the signals, too.
"""

import importlib.util
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import Figure, run_child
from benchmarks.training.runs import WIDE_LAYERS, configuration, fit_with, make_data
from medtune.config.schema import Config

MODULE = "benchmarks.training.loops"
ROUNDS = 3
# Rich and tqdm draw as on a terminal, though what they draw goes into a pipe.
TERMINAL = {"TTY_COMPATIBLE": "1", "TERM": "xterm", "COLUMNS": "100"}


@dataclass(frozen=True)
class Course:
    """What is learned, and which of its steps are timed.

    Attributes:
        overrides: Of the product's settings.
        warm_up: Steps before the clock starts.
        timed: Steps on the clock, a multiple of ten, so that each loop logs as often as in a long run. One
            more follows, since a fit ends with its last.
        budget: Least share of the bare loop's speed.
    """

    overrides: tuple[str, ...]
    warm_up: int
    timed: int
    budget: float | None = None

    @property
    def steps(self) -> int:
        """Of the whole fit."""
        return self.warm_up + self.timed + 1


COURSES = {
    "tiny, 4 rows a step": Course((), 10, 50, 0.97),
    # Not a size that anyone trains: it shows the fixed cost of a step.
    "tiny, 1 row a step": Course(("data.global_batch_size=1",), 10, 50),
    "42 M parameters, 2 rows a step": Course(
        (*WIDE_LAYERS, "model.num_hidden_layers=3", "data.global_batch_size=2"), 3, 10, 0.97
    ),
}


def figures() -> Iterator[Figure]:
    """Shares of the bare loop's speed, and the CPU time of a step."""
    for name, course in COURSES.items():
        best = run_child(MODULE, name)
        bare = best.pop("bare")
        ours = best.pop("medtune")
        yield Figure(f"{name}: share of a bare loop's speed", bare / ours, "", course.budget, "higher")
        for other, seconds in best.items():
            yield Figure(f"  {other}'s share", bare / seconds, "")
        for loop, seconds in {"bare loop": bare, "medtune": ours, **best}.items():
            yield Figure(f"  {loop}", seconds * 1000, "CPU-ms/step")
        for other in missing(course):
            print(f"{name}: {other} is left out", file=sys.stderr)


def missing(course: Course) -> Iterator[str]:
    """Which loops cannot take a course, and why."""
    if importlib.util.find_spec("trl") is None:
        yield "TRL's SFTTrainer, since the package trl is not installed,"
    elif WIDE_LAYERS[0] not in course.overrides:
        yield "TRL's SFTTrainer, which replaces the head of transformers' own families only,"


def child(name: str) -> None:
    """Prints the best CPU-seconds per step of each loop, in rounds by turns."""
    os.environ.update(TERMINAL)
    import torch

    torch.set_num_threads(1)
    course, best = COURSES[name], dict[str, float]()
    loops: dict[str, Callable[[Config, Course], float]] = {
        "bare": time_bare_loop,
        "medtune": time_fit,
        "transformers' Trainer": time_trainer,
    }
    if not [*missing(course)]:
        loops["TRL's SFTTrainer"] = time_sft_trainer
    for _, (loop, measure) in itertools.product(range(ROUNDS), loops.items()):
        with tempfile.TemporaryDirectory() as folder:
            seconds = measure(settings(Path(folder), course), course)
        best[loop] = min(best.get(loop, seconds), seconds)
    print("\n" + json.dumps(best))


def settings(run_dir: Path, course: Course) -> Config:
    """The settings of a run that takes ``course``."""
    more = (
        "data.micro_batch_size=null",
        f"trainer.max_steps={course.steps}",
        "trainer.accelerator=cpu",
        "trainer.progress=bar",
        "trainer.log_every_n_steps=10",
        "trainer.val_max_rows=1",
    )
    return configuration(run_dir, [*course.overrides, *more])


class Clock:
    """CPU-seconds from the start of the first timed step to the start of the one after the last.

    Args:
        course: Says which steps those are.
    """

    def __init__(self, course: Course) -> None:
        self.course = course
        self.began = self.ended = 0.0

    def step_begins(self, done: int) -> None:
        """Notes the time when it is due.

        Args:
            done: Steps taken before this one.
        """
        if done == self.course.warm_up:
            self.began = time.process_time()
        elif done == self.course.warm_up + self.course.timed:
            self.ended = time.process_time()

    @property
    def seconds_per_step(self) -> float:
        """The mean of the timed steps."""
        assert 0 < self.began < self.ended
        return (self.ended - self.began) / self.course.timed


def time_fit(config: Config, course: Course) -> float:
    """CPU-seconds per step of the product's own fit, its start and end left out."""
    import lightning.pytorch as L

    clock = Clock(course)

    class Ticks(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            clock.step_begins(trainer.global_step)

    fit_with(config, Ticks)
    return clock.seconds_per_step


def time_bare_loop(config: Config, course: Course) -> float:
    """CPU-seconds per step of plain PyTorch."""
    import torch
    from torch.nn.functional import cross_entropy

    clock, (model, optimizer, schedule) = Clock(course), made_for(config, course)
    for step, batch in enumerate(batches(config, course, model)):
        clock.step_begins(step)
        labels, step_tokens = batch.pop("labels"), batch.pop("step_tokens")
        logits = model(**batch).logits
        loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        (loss / step_tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return clock.seconds_per_step


def made_for(config: Config, course: Course) -> Any:
    """The network, its optimizer and its schedule."""
    from medtune.models.load import load_model
    from medtune.training.optim import build_optimizer
    from medtune.training.schedule import build_schedule

    model = load_model(config, for_training=True)
    optimizer = build_optimizer(model, config.optim)
    return model, optimizer, build_schedule(optimizer, config.schedule, course.steps)


def batches(
    config: Config, course: Course, model: Any, all_columns: bool = False
) -> Iterator[dict[str, Any]]:
    """The network's arguments for the batches that the fit learns from, ``labels`` and ``step_tokens``.

    Args:
        config: The settings.
        course: Says how many there are.
        model: Says which kernel of attention it has.
        all_columns: Labels of every column, unshifted. Else ``logits_to_keep``, and the next labels of those.
    """
    import torch

    from medtune.models.attention import attention_inputs
    from medtune.training import losses
    from medtune.training.loader import StepLoader

    network = model.config
    for batch in StepLoader(make_data(config), 0, course.steps):
        inputs = attention_inputs(
            network.model_type, network._attn_implementation, batch["document_ids"], batch["position_ids"],
            batch["packed"], torch.float32,
        )  # fmt: skip
        inputs |= {"input_ids": batch["input_ids"], "step_tokens": batch["step_tokens"]}
        if all_columns:
            yield {**inputs, "labels": batch["labels"]}
            continue
        columns = losses.learned_columns(batch["labels"])
        yield {**inputs, "logits_to_keep": columns, "labels": losses.next_labels(batch["labels"], columns)}


def time_trainer(config: Config, course: Course) -> float:
    """CPU-seconds per step of transformers' Trainer with the bare loop's loss."""
    from torch.nn.functional import cross_entropy
    from transformers import Trainer, TrainingArguments

    def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        total = cross_entropy(outputs.logits.flatten(0, 1), labels.flatten(), reduction="sum")
        return total / num_items_in_batch

    model, optimizer, schedule = made_for(config, course)
    trainer = Trainer(
        model,
        TrainingArguments(**trainer_arguments(config, course)),
        train_dataset=[{"step": step} for step in range(course.steps)],  # type: ignore[arg-type]
        data_collator=next_of(batches(config, course, model)),
        compute_loss_func=loss,
        optimizers=(optimizer, schedule),
    )
    return time_transformers(trainer, course)


def time_sft_trainer(config: Config, course: Course) -> float:
    """CPU-seconds per step of TRL's SFTTrainer with the loss that it has of its own."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from medtune.models.tokenizers import load_tokenizer

    model, optimizer, schedule = made_for(config, course)
    arguments = SFTConfig(
        **trainer_arguments(config, course),
        dataset_kwargs={"skip_prepare_dataset": True},
        gradient_checkpointing=False,
        max_length=None,
    )
    trainer = SFTTrainer(
        model,
        arguments,
        train_dataset=Dataset.from_dict({key: [[0]] * course.steps for key in ("input_ids", "labels")}),
        processing_class=load_tokenizer(config.model),
        data_collator=next_of(batches(config, course, model, all_columns=True)),
        optimizers=(optimizer, schedule),
    )
    return time_transformers(trainer, course)


def next_of(stream: Iterator[dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    """A collator that gives the stream's next batch, whatever it is asked for."""

    def collate(_: Any) -> dict[str, Any]:
        batch = next(stream)
        batch.pop("step_tokens")  # both Trainers count labels themselves
        return batch

    return collate


def trainer_arguments(config: Config, course: Course) -> dict[str, Any]:
    """What transformers' and TRL's trainers are told alike."""
    return {
        "output_dir": str(config.run_dir),
        "max_steps": course.steps,
        "per_device_train_batch_size": 1,
        "max_grad_norm": 1.0,
        "logging_steps": 10,
        "disable_tqdm": False,
        "report_to": "none",
        "save_strategy": "no",
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "use_cpu": True,
        "bf16": False,
        "seed": config.seed,
    }


def time_transformers(trainer: Any, course: Course) -> float:
    """CPU-seconds per step of a built Trainer."""
    from transformers import TrainerCallback

    clock = Clock(course)

    class Ticks(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            clock.step_begins(state.global_step)

    trainer.add_callback(Ticks())
    trainer.train()
    return clock.seconds_per_step


if __name__ == "__main__":
    child(sys.argv[1])
