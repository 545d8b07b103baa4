"""``task=evaluate evaluate.perplexity=true``: how well a model foretells the texts of a split, by source."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from medtune.config.paths import splits_measured
from medtune.config.schema import Config
from medtune.data.corpus import build_split
from medtune.data.rows.collate import Collator
from medtune.data.rows.order import NO_ROW, StepPlan, StepSampler
from medtune.data.rows.split import IGNORE_INDEX, PackedSplit
from medtune.data.tokens.prepare import tokenizer_source
from medtune.evaluation.perplexity import (
    Perplexity,
    perplexity_table,
    perplexity_text,
    split_entry,
    total,
)
from medtune.generation.engine import eval_mode
from medtune.generation.responder import build_responder
from medtune.generation.text import decode
from medtune.models.attention import attention_inputs
from medtune.models.soft_prompt import virtual_ids
from medtune.runtime.progress import progress
from medtune.runtime.ranks import gather, global_rank, world_size
from medtune.runtime.record import RunFolder, merge_json, write_json
from medtune.tasks.generate import warn_of_untrained
from medtune.tasks.weights import settle_weights
from medtune.training.loader import moved, prepared
from medtune.training.losses import sum_by_source
from medtune.training.token_losses import TokenLosses

BySource = dict[str, Perplexity]

rank_log = logging.getLogger("scores")


def run(config: Config, folder: RunFolder) -> None:
    """Writes scores.json and prints a table for each split."""
    warn_of_untrained(config)
    source = tokenizer_source(config.model)
    splits = {name: build_split(config, source, name) for name in splits_measured(config)}
    with settle_weights(config) as weights:
        responder = build_responder(config, weights)
        found = {
            name: measure(config, responder.engine.model, responder.tokenizer, split, name)  # type: ignore[attr-defined]
            for name, split in splits.items()
        }
    if global_rank() == 0:
        record(config, folder, found)


def measure(
    config: Config, model: Any, tokenizer: PreTrainedTokenizerBase, split: PackedSplit, name: str
) -> BySource:
    """The figures of each source; the ranks share the rows and all get the whole.

    Args:
        config: ``data.micro_batch_size`` rows go through the model at once.
        model: In any mode.
        tokenizer: For the characters of the learned tokens.
        split: The rows.
        name: Of the split, for the progress bar.
    """
    names = split.source_names
    sums = torch.zeros(len(names), dtype=torch.float64)
    counts = torch.zeros(2, len(names), dtype=torch.int64)
    token_losses, virtual = TokenLosses(model), virtual_ids(model)
    rows = len(split.rows_of(0))
    shown = progress(f"measuring {name}", unit="rows", total=-(-rows // world_size()))
    with shown as advance, eval_mode(model), torch.inference_mode():
        for batch in batches(config, split):
            counts += count(batch, tokenizer, len(names))
            batch = moved(prepared(batch, virtual, by_source=True), model.device)
            found = token_losses(network_inputs(model, batch), batch, apart=True)
            sums += sum_by_source(found, batch["next_sources"], len(names)).cpu()
            advance(sum(row != NO_ROW for row in batch["rows"]), tokens=batch["tokens"])
    shares = gather((sums, counts))
    losses = torch.stack([share[0] for share in shares]).sum(0).tolist()
    tokens, characters = torch.stack([share[1] for share in shares]).sum(0).tolist()
    figures = dict(zip(names, zip(losses, tokens, characters, strict=True), strict=True))
    return {part.name: Perplexity(*figures[part.name], len(part.kept)) for part in split.parts}


def batches(config: Config, split: PackedSplit) -> Iterator[dict[str, Any]]:
    """This rank's micro batches of all rows, in their order; the last may hold empty rows."""
    ranks = world_size()
    micro = config.data.micro_batch_size or max(1, config.data.global_batch_size // ranks)
    plan = StepPlan(split, micro * ranks, micro, ranks)
    collate = Collator(split, int(split.parts[0].store.meta["pad_id"] or 0))
    for items in StepSampler(plan, global_rank(), None):
        yield collate(items)


def network_inputs(model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The network's keyword arguments for a batch, as in training."""
    settings = model.config
    inputs = attention_inputs(
        model_type=settings.model_type,
        attention=settings._attn_implementation,
        document_ids=batch["document_ids"],
        position_ids=batch["position_ids"],
        packed=batch["packed"],
        dtype=model.dtype,
    )
    return {"input_ids": batch["input_ids"], **inputs}


def count(batch: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, sources: int) -> Tensor:
    """Learned tokens, and the characters of their text, of each source: int64 [2, sources]."""
    counts = torch.zeros(2, sources, dtype=torch.int64)
    columns = (batch[key] for key in ("labels", "document_ids", "source_ids"))
    for labels, documents, source_ids in zip(*columns, strict=True):
        for number in range(1, int(documents.max()) + 1):
            inside = documents == number
            learned = labels[inside]
            learned = learned[learned != IGNORE_INDEX]
            source = int(source_ids[inside][0])
            counts[:, source] += torch.tensor([len(learned), len(decode(tokenizer, learned.tolist()))])
    return counts


def record(config: Config, folder: RunFolder, splits: Mapping[str, BySource]) -> None:
    """Writes and shows the figures."""
    entries = {name: split_entry(sources) for name, sources in splits.items()}
    first = next(iter(splits))
    head = {"protocol": "perplexity", "objective": config.objective, "split": first}
    write_json(folder.scores_file, {**head, **entries[first], "splits": entries})
    console = Console()
    for name, sources in splits.items():
        title = f"{config.data.name}: {name}, objective={config.objective}"
        console.print(perplexity_table(sources, title))
        rank_log.info("%s", perplexity_text(sources, title))
    whole = total(splits[first])
    result = {"status": "finished", "loss": whole.loss, "perplexity": whole.to_dict()["perplexity"]}
    merge_json(folder.result_file, result)
    console.print(f"scores: {folder.scores_file}", soft_wrap=True, highlight=False)
