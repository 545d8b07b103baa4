"""The cases of a strategy, run by all ranks of one torchrun: ``strategy_cases.py STRATEGY OUT_DIR CASE...``.

Imports cost more than the cases, so a strategy starts once. Rank zero leaves ``results.pt``; the tests
compare it with one process.
"""

import os
import signal
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from medtune.config.schema import Config, ModelConfig
from medtune.generation.engine import eval_mode
from medtune.models.load import load_model
from medtune.models.soft_prompt import virtual_ids
from medtune.runtime.hardware import PROJECT
from medtune.runtime.record import RunFolder
from medtune.training import token_losses
from medtune.training.checkpoints import whole_checkpoints
from medtune.training.evaluation import Evaluated
from medtune.training.fit import FitResult, fit, ranks
from medtune.training.limits import training_problems
from medtune.training.metrics import read_metrics
from medtune.training.weights import weights_of
from tests.numerics.toy import (
    MIX_NAMES,
    VOCABULARY,
    Row,
    ToyData,
    make_documents,
    make_mix,
    tiny_model,
    toy_config,
)

BUILDERS = "medtune.training.strategies"
STRATEGIES: dict[str, dict[str, Any]] = {
    "ddp": {"_target_": f"{BUILDERS}.ddp"},
    "zero1": {"_target_": f"{BUILDERS}.zero", "stage": 1},
    "zero2": {"_target_": f"{BUILDERS}.zero", "stage": 2},
    "zero3": {"_target_": f"{BUILDERS}.zero", "stage": 3},
    "zero2_offload": {"_target_": f"{BUILDERS}.zero", "stage": 2, "offload_optimizer": True},
    "zero3_offload": {
        "_target_": f"{BUILDERS}.zero", "stage": 3, "offload_optimizer": True, "offload_parameters": True,
    },
    "fsdp": {"_target_": f"{BUILDERS}.fsdp"},
}  # fmt: skip

# 8 documents; unequal numbers of learned tokens, one without any.
DOCUMENTS = make_documents(8, learned=[1, 5, 3, 0, 2, 6, 4, 6])
ROWS: list[Row] = [[document] for document in DOCUMENTS]
MIX: list[Row] = [[document] for document in make_mix(8)]
ADAMW = {"optim__name": "adamw", "optim__lr": 1e-3, "optim__weight_decay": 0.1}

# Changes of toy_config, and the micro batch size.
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "accumulated": ({}, 1),
    "clipped": ({"trainer__gradient_clip_norm": 0.3}, 2),
    "adamw": (ADAMW, 2),
    "lora": ({"adapter__name": "lora"}, 1),
    "mixed": ({}, 4),
    "mixed_accumulated": ({}, 2),
    "tied": ({}, 2),  # embedding and head share their weights, as in the built-in model
    # Random weights: shapes without values until the strategy places them.
    "drawn": ({"optim__lr": 0.1}, 2),
    "drawn_lora": ({"adapter__name": "lora"}, 2),
    "drawn_norm_head": ({"optim__lr": 0.1}, 1),
    "lora_head": ({"adapter__name": "lora"}, 1),  # chunks of a head with weights of its own inside
    # Several groups of parameters, each with its rate, and an objective beside the cross-entropy.
    "grouped": (
        {
            **ADAMW,
            "optim__layer_lr_decay": 0.5,
            "optim__embedding_lr": 3e-4,
            "schedule__name": "wsd",
            "loss__label_smoothing": 0.1,
            "loss__z_loss": 1e-3,
            "trainer__gradient_clip_norm": 0.3,
        },
        2,
    ),
    "lion": ({"optim__name": "lion", "optim__lr": 1e-3, "optim__weight_decay": 0.1}, 2),
    "adafactor": ({"optim__name": "adafactor", "optim__lr": 1e-2}, 2),
    # Every other way to adapt, and packed bases, which are divided too.
    "drawn_nf4": ({"adapter__name": "lora", "quantization__name": "nf4"}, 2),
    "drawn_int8": ({"adapter__name": "rslora", "quantization__name": "int8", "optim__lr": 0.1}, 2),
    "drawn_dora_fp4": ({"adapter__name": "dora", "quantization__name": "fp4"}, 2),
    "drawn_pissa": ({"adapter__name": "pissa", "adapter__alpha": 8.0, "optim__lr": 0.1}, 2),
    "drawn_vera": ({"adapter__name": "vera", "optim__lr": 10.0}, 2),
    "drawn_ia3": ({"adapter__name": "ia3", "optim__lr": 10.0}, 2),
    "drawn_prompt": ({"adapter__name": "prompt_tuning", "optim__lr": 10.0}, 2),
    "drawn_freeze": ({"adapter__name": "freeze", "adapter__last_layers": 1, "optim__lr": 0.1}, 2),
    "drawn_norm_head_whole": (
        {"adapter__name": "lora", "adapter__modules_to_save": ["embed_tokens", "lm_head"], "optim__lr": 0.1},
        2,
    ),
    "untouched": ({"optim__lr": 0.0, "trainer__max_steps": 1}, 4),
}
SAVED_STEP, ALL_STEPS = 2, 4


# What stands for the rest where time is short: the other cases meet the same code under FSDP2.
QUICK = (
    *("accumulated", "clipped", "adamw", "lora", "mixed_accumulated", "drawn", "grouped", "drawn_nf4"),
    *("drawn_pissa", "untouched"),
)


def is_refused(name: str, strategy: str) -> bool:
    """Whether the strategy does not take the case's optimizer; see ``medtune.training.limits``."""
    return any(training_problems(case_config(name, Path("unused"), strategy)))


def case_config(name: str, run_dir: Path, strategy: str) -> Config:
    changes, micro = CASES[name]
    config = toy_config(run_dir, data__global_batch_size=8, data__micro_batch_size=micro, **changes)
    config.strategy = STRATEGIES.get(strategy, {})
    if name.startswith("drawn"):
        config.model = drawn_model(name)
    return config


def drawn_model(name: str) -> ModelConfig:
    # Small: torch adds up the norm of an embedding of 2,000 tokens with an error of 2e-5 on CPUs.
    sizes = {"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    if "quantization__name" in CASES[name][0]:
        sizes |= {"hidden_size": 64, "intermediate_size": 128}  # multiples of a 4-bit block
    is_normalised = "norm_head" in name
    return ModelConfig(
        init="random",
        model_type="baichuan",
        tokenizer=str(PROJECT / "tests/fixtures/baichuan/tok_tiny/v1"),
        **sizes,
        tie_word_embeddings=not is_normalised,
        architecture={"norm_head": is_normalised},
    )


def case_model(name: str) -> Any:
    if name.startswith("drawn"):
        return load_model(case_config(name, Path("unused"), "one"), for_training=True)
    if not name.startswith("lora"):
        return tiny_model(tie_word_embeddings=name == "tied")
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(5)
    settings = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["lm_head"] if name == "lora_head" else "all-linear",
        task_type="CAUSAL_LM",
        init_lora_weights=False,
    )
    return get_peft_model(tiny_model(), settings)


class Logits:
    """Evaluates the whole model on fixed ids; every rank sees all of them."""

    tasks = ()

    def __init__(self) -> None:
        self.of_step: dict[int, torch.Tensor] = {}

    def __call__(self, model: Any, step: int, is_asked_to_stop: Any) -> Evaluated:
        prompts = [[*virtual_ids(model), *row] for row in ([5, 9, 30, 7], [40, 41, 42, 43])]
        with eval_mode(model), torch.inference_mode():
            self.of_step[step] = model(input_ids=torch.tensor(prompts)).logits.clone()
        return Evaluated(0.0, {}, 0, [], 0, 0.0)


def run_case(name: str, strategy: str, out: Path, rank: int, world_size: int) -> dict[str, Any]:
    """One fit; its losses, gradient norms, and weights from the checkpoint and the exported folder."""
    folder = RunFolder(out / name)
    config = case_config(name, folder.path, strategy)
    config.eval.every_n_steps = 2 if name in QUICK else ALL_STEPS  # and after the last step, the third
    evaluator = Logits()
    rows, names = (MIX, MIX_NAMES) if name.startswith("mixed") else (ROWS, ["toy"])
    micro = config.data.micro_batch_size
    data = ToyData(rows, 8, micro, world_size, rank, val_rows=rows[:5], source_names=names)
    build = None if name.startswith("drawn") else lambda: case_model(name)
    result = fit(config, data, folder, build_model=build, evaluator=evaluator)
    return {**summary(result, folder), "logits": evaluator.of_step} if rank == 0 else {}


def summary(result: FitResult, folder: RunFolder) -> dict[str, Any]:
    from safetensors.torch import load_file

    lines = [line for line in read_metrics(folder.metrics_file) if "eval/score" not in line]
    exported = next(folder.model.glob("*.safetensors"))
    return {
        "losses": [line["train/loss"] for line in lines if "train/loss" in line],
        "norms": [line["train/grad_norm"] for line in lines if "train/loss" in line],
        "val": [(line["val/loss"], line["val/accuracy"]) for line in lines if "val/loss" in line],
        "by_source": [
            {key: value for key, value in line.items() if key.startswith(("train/loss/", "val/loss/"))}
            for line in lines
        ],
        "tokens": (result.tokens, result.learned_tokens),
        "weights": weights_of(whole_checkpoints(folder.checkpoints)[-1]),
        "exported": load_file(exported),
    }


def run_resumed(
    strategy: str, out: Path, rank: int, world_size: int, adapted: bool = False
) -> dict[str, Any]:
    """Four steps with dropout and shuffling; then the last two again, from the checkpoint between them."""
    kind = "adapted_" if adapted else ""
    whole = RunFolder(out / f"{kind}whole")
    changes = {**ADAMW, "checkpoint__every_n_steps": SAVED_STEP, "checkpoint__keep_last": 2}
    if adapted:
        changes |= {"adapter__name": "pissa", "adapter__dropout": 0.3, "quantization__name": "nf4"}
    results = {}
    for folder in (whole, RunFolder(out / f"{kind}resumed")):
        config = toy_config(folder.path, data__global_batch_size=4, trainer__max_steps=ALL_STEPS, **changes)
        config.strategy = STRATEGIES.get(strategy, {})
        build: Any = lambda: tiny_model(dropout=0.3, tie_word_embeddings=True)  # noqa: E731
        if adapted:
            config.model, build = drawn_model("drawn_nf4"), None
        if folder is not whole:
            config.resume = str(whole.checkpoints / f"step-{SAVED_STEP}")
        data = ToyData(ROWS, 4, 1, world_size, rank, shuffle_seed=1)
        result = fit(config, data, folder, build_model=build)
        if rank == 0:
            results[folder.path.name] = {**summary(result, folder), "rows": data.seen}
    return results


def run_half(strategy: str, out: Path, rank: int, world_size: int) -> dict[str, Any]:
    """Losses of a fit in half precision, and the rotary frequencies, which its casts must not round."""
    models: list[Any] = []
    losses = {}
    for precision in ("bf16-true", "bf16-mixed", *(["16-mixed"] if strategy != "fsdp" else [])):
        folder = RunFolder(out / precision)
        config = toy_config(
            folder.path, data__global_batch_size=4, trainer__max_steps=2, trainer__precision=precision
        )
        config.strategy = STRATEGIES.get(strategy, {})
        data = ToyData(ROWS, 4, 2, world_size, rank)

        def build(precision: str = precision) -> Any:
            models.append(tiny_model().to(torch.bfloat16 if precision == "bf16-true" else torch.float32))
            # As transformers builds it: half of the weights' size, and frequencies in float32.
            models[-1].model.rotary_emb.inv_freq = tiny_model().model.rotary_emb.inv_freq
            return models[-1]

        fit(config, data, folder, build_model=build, export=False)
        if rank == 0:
            lines = read_metrics(folder.metrics_file)
            losses[precision] = [line["train/loss"] for line in lines if "train/loss" in line]
    return {"losses": losses, "frequencies": [model.model.rotary_emb.inv_freq for model in models]}


def run_interrupted(strategy: str, out: Path, rank: int, world_size: int) -> dict[str, Any]:
    """Only the last rank receives SIGTERM, while it fetches a row of the second step."""
    folder = RunFolder(out / "interrupted")
    config = toy_config(folder.path, data__global_batch_size=4, trainer__max_steps=50)
    config.strategy = STRATEGIES.get(strategy, {})
    data = SignallingData(ROWS, 4, 1, world_size, rank)
    data.signal_after = 3 if rank == world_size - 1 else None
    result = fit(config, data, folder, build_model=tiny_model)
    return {
        "result": asdict(result),
        "checkpoints": [c.global_step for c in whole_checkpoints(folder.checkpoints)],
    }


# Why a checkpoint is written, on which the ranks have to agree.
TRIGGERS: dict[str, dict[str, Any]] = {
    "minutes": {"checkpoint__every_n_minutes": 1e-9},
    "minutes_asynchronous": {"checkpoint__every_n_minutes": 1e-9, "checkpoint__asynchronous": True},
    "tokens": {"checkpoint__every_n_tokens": 100},
}


def run_triggered(name: str, strategy: str, out: Path, rank: int, world_size: int) -> dict[str, Any]:
    """The steps of which there are checkpoints, and the tokens that each step showed to all ranks."""
    folder = RunFolder(out / name)
    config = toy_config(
        folder.path,
        data__global_batch_size=4,
        trainer__max_steps=7,
        checkpoint__keep_last=9,
        **TRIGGERS[name],
    )
    config.strategy = STRATEGIES.get(strategy, {})
    fit(config, ToyData(ROWS, 4, 1, world_size, rank), folder, build_model=tiny_model, export=False)
    if rank:
        return {}
    kept = whole_checkpoints(folder.checkpoints)
    return {
        "steps": [checkpoint.global_step for checkpoint in kept],
        "files": {path.name for checkpoint in kept for path in checkpoint.path.iterdir()},
        "tokens": [line["train/tokens"] for line in read_metrics(folder.metrics_file)],
    }


class SignallingData(ToyData):
    """Sends SIGTERM to its own process when that many micro batches were made."""

    signal_after: int | None = None

    def train_dataloader(self) -> Any:
        loader = super().train_dataloader()
        collate = loader.collate_fn

        def collate_and_signal(items: Any) -> Any:
            if len(self.seen) + 1 == self.signal_after:
                os.kill(os.getpid(), signal.SIGTERM)
            return collate(items)

        loader.collate_fn = collate_and_signal
        return loader


def run_all(strategy: str, out: Path, chosen: Iterable[str] = tuple(CASES)) -> dict[str, Any]:
    rank, world_size = int(os.environ.get("RANK", "0")), ranks()[0]
    names = [name for name in chosen if not is_refused(name, strategy)]
    results = {name: run_case(name, strategy, out, rank, world_size) for name in names}
    results |= run_resumed(strategy, out, rank, world_size)
    results |= run_resumed(strategy, out, rank, world_size, adapted=True)
    results["half"] = run_half(strategy, out, rank, world_size)
    if strategy in ("one", "ddp"):
        results["interrupted"] = run_interrupted(strategy, out, rank, world_size)
        results |= {name: run_triggered(name, strategy, out, rank, world_size) for name in TRIGGERS}
    return results


if __name__ == "__main__":
    torch.set_num_threads(1)
    token_losses.LOGITS_AT_ONCE = 4 * VOCABULARY  # so that the head works in chunks
    results = run_all(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
    if os.environ.get("RANK", "0") == "0":
        torch.save(results, Path(sys.argv[2]) / "results.pt")
