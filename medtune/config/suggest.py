"""Did you mean: the nearest name to one that does not exist."""

import difflib
from collections.abc import Iterable

# What other trainers call our keys; no spelling is near enough for these.
KNOWN_ELSEWHERE = {
    "learning_rate": "optim.lr",
    "batch_size": "data.global_batch_size",
    "train_batch_size": "data.global_batch_size",
    "per_device_train_batch_size": "data.micro_batch_size",
    "gradient_accumulation_steps": "data.global_batch_size",
    "accumulate_grad_batches": "data.global_batch_size",
    "max_length": "data.sequence_length",
    "max_seq_length": "data.sequence_length",
    "cutoff_len": "data.sequence_length",
    "block_size": "data.sequence_length",
    "epochs": "trainer.max_epochs",
    "num_epochs": "trainer.max_epochs",
    "num_train_epochs": "trainer.max_epochs",
    "steps": "trainer.max_steps",
    "gpus": "trainer.devices",
    "num_gpus": "trainer.devices",
    "bf16": "trainer.precision",
    "fp16": "trainer.precision",
    "gradient_clip_val": "trainer.gradient_clip_norm",
    "max_grad_norm": "trainer.gradient_clip_norm",
    "output_dir": "run_dir",
    "checkpoint": "weights",
    "ckpt_path": "resume",
    "model_name_or_path": "model.path",
    "lora_rank": "adapter.rank",
    "lora_r": "adapter.rank",
    "lora_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "lora_target": "adapter.target_modules",
}


def nearest(word: str, options: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The option spelled most like ``word``, None when none is near."""
    found = difflib.get_close_matches(word, list(options), n=1, cutoff=cutoff)
    return found[0] if found else None


def nearest_key(key: str, keys: Iterable[str]) -> str | None:
    """The dotted key that was probably meant by ``key``.

    A right name in the wrong section comes first (``lr`` for ``optim.lr``), then another trainer's
    name for it, then the nearest spelling of the whole, then of the last part.
    """
    keys = list(keys)
    last = key.rpartition(".")[2]
    same_name = [other for other in keys if other.rpartition(".")[2] == last]
    if same_name:
        return nearest(key, same_name, cutoff=0.0)
    if last in KNOWN_ELSEWHERE:
        return KNOWN_ELSEWHERE[last]
    whole = nearest(key, keys, cutoff=0.75)
    if whole:
        return whole
    by_last: dict[str, str] = {}
    for other in keys:
        by_last.setdefault(other.rpartition(".")[2], other)
    part = nearest(last, by_last, cutoff=0.75)
    return by_last[part] if part else None


def did_you_mean(found: str | None) -> str:
    """``"; did you mean ...?"`` for an error message, nothing when nothing is near."""
    return f"; did you mean {found}?" if found else ""
