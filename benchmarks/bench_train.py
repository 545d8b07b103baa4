"""A training step through Lightning against a bare PyTorch loop on the same batches, in one process.

Both learn the tiny model on the built-in data with the same loss at the same columns, the same
clipping, optimizer and schedule. Rounds alternate; the best of each counts, in CPU-seconds of one
thread, because the machine may be shared.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import Figure, report, run_child
from medtune.config.schema import Config

MODULE = "benchmarks.bench_train"
ROUNDS, WARM_UP_STEPS, STEPS = 3, 10, 60


def main() -> None:
    figures = []
    # The budget is for the rows of data=sample; a step of one row shows Lightning's fixed cost.
    for name, rows_per_step, budget in (("tiny, 4 rows a step", 4, 0.97), ("tiny, 1 row a step", 1, None)):
        best = run_child(MODULE, str(rows_per_step))
        figures += [
            Figure(f"{name}: share of a bare loop's speed", best["bare"] / best["fit"], "", budget, "higher"),
            Figure("  bare loop", best["bare"] * 1000, "CPU-ms/step"),
            Figure("  medtune", best["fit"] * 1000, "CPU-ms/step"),
            Figure("  difference", (best["fit"] - best["bare"]) * 1000, "CPU-ms/step"),
        ]
    report("train", figures)


def child(rows_per_step: int) -> None:
    """Prints the best CPU-seconds per step of both loops."""
    import torch

    torch.set_num_threads(1)
    best = {"bare": float("inf"), "fit": float("inf")}
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            config = tiny_config(Path(folder), rows_per_step)
            best["bare"] = min(best["bare"], time_bare_loop(config))
            best["fit"] = min(best["fit"], time_fit(config))
    print(json.dumps(best))


def tiny_config(run_dir: Path, rows_per_step: int) -> Config:
    """``model=tiny data=sample`` with the settings that matter to a step."""
    from medtune.config.compose import compose_settings, plain_settings
    from medtune.config.load import config_from_dict

    overrides = [
        f"run_dir={run_dir}",
        f"data.global_batch_size={rows_per_step}",
        f"data.micro_batch_size={rows_per_step}",
        f"trainer.max_steps={STEPS}",
        "trainer.accelerator=cpu",
        "trainer.progress=none",
        "trainer.val_max_rows=16",
    ]
    values, _ = plain_settings(compose_settings(overrides))
    return config_from_dict(values)


def make_data(config: Config) -> Any:
    from medtune.data.datamodule import PackedDataModule
    from medtune.models.tokenizers import load_tokenizer

    data = PackedDataModule(config, load_tokenizer(config.model))
    data.setup()
    return data


def time_fit(config: Config) -> float:
    """CPU-seconds per step of the product's own fit, its start and end left out."""
    import lightning.pytorch as L

    from medtune.runtime.record import RunFolder
    from medtune.training import fit as fitting

    class Clock(L.Callback):
        began = ended = 0.0

        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step == WARM_UP_STEPS:
                self.began = time.process_time()
            if trainer.global_step == STEPS - 1:
                self.ended = time.process_time()

    config.callbacks = {"clock": {"_target_": f"{__name__}.clock"}}
    globals()["clock"] = lambda: chosen
    chosen = Clock()
    fitting.fit(config, make_data(config), RunFolder(Path(str(config.run_dir))), export=False)
    return (chosen.ended - chosen.began) / (STEPS - 1 - WARM_UP_STEPS)


def time_bare_loop(config: Config) -> float:
    """CPU-seconds per step of plain PyTorch on the batches that the fit learns from."""
    import torch
    from torch.nn.functional import cross_entropy

    from medtune.models.attention import attention_inputs
    from medtune.models.load import load_model
    from medtune.training import losses
    from medtune.training.loader import StepLoader
    from medtune.training.optim import build_optimizer, build_schedule

    model: Any = load_model(config, for_training=True)
    optimizer = build_optimizer(model, config.optim)
    schedule = build_schedule(optimizer, config.schedule, STEPS)
    began = 0.0
    for step, batch in enumerate(StepLoader(make_data(config), 0, STEPS)):
        if step == WARM_UP_STEPS:
            began = time.process_time()
        if step == STEPS - 1:
            break
        columns = losses.learned_columns(batch["labels"])
        inputs = attention_inputs(
            model.config.model_type, config.model.attention, batch["document_ids"], batch["position_ids"],
            batch["packed"], torch.float32,
        )  # fmt: skip
        logits = model(input_ids=batch["input_ids"], logits_to_keep=columns, **inputs).logits
        labels = losses.next_labels(batch["labels"], columns)
        loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        (loss / batch["step_tokens"]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return (time.process_time() - began) / (STEPS - 1 - WARM_UP_STEPS)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        child(int(sys.argv[1]))
    else:
        main()
