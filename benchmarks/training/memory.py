"""Peak memory of one training step: the loss by chunks of the head, and gradient checkpointing.

Each figure is the most that a process of its own held beside its model, so other work on the machine does not
count. A small decoder under Baichuan-2's vocabulary, and one of twelve layers under a small one.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks.report import Figure, run_child

MODULE = "benchmarks.training.memory"
TOKENS = 4096
WIDE = {"vocab_size": 125696, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1}
DEEP = {"vocab_size": 512, "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 12}


def figures() -> Iterator[Figure]:
    """Shares of the plain way's memory, and what both took."""
    for name, plain, lean, budget in (
        ("loss of 4096 tokens, 125,696 words", "plain", "chunked", 0.2),
        # What is left is inputs of layers, weights' gradients, and one layer at work.
        ("12 layers of width 512, 4096 tokens", "stored", "recomputed", None),
    ):
        found = {kind: run_child(MODULE, kind) for kind in (plain, lean)}
        share = found[lean]["peak_mb"] / found[plain]["peak_mb"]
        yield Figure(f"{name}: {lean} against {plain}", share, "x", budget)
        for kind, values in found.items():
            yield Figure(f"  {kind}", values["peak_mb"], "MB")
            yield Figure(f"  {kind}", values["cpu_seconds"], "CPU-s")


def child(kind: str) -> None:
    """Prints what one forward and backward pass of ``kind`` took."""
    import time

    import torch
    from transformers import AutoConfig

    from medtune.models.network import network_class
    from medtune.models.trainable import enable_checkpointing

    torch.manual_seed(0)
    torch.set_num_threads(1)
    sizes = WIDE if kind in ("plain", "chunked") else DEEP
    settings = {**sizes, "num_attention_heads": 4, "norm_head": sizes is WIDE}
    network = AutoConfig.for_model("baichuan", **settings, max_position_embeddings=TOKENS)
    model: Any = network_class(network)(network).train()
    if kind == "recomputed":
        enable_checkpointing(model)
    ids = torch.randint(3, sizes["vocab_size"], (1, TOKENS))
    before, began = peak_mb(), time.process_time()
    (plain_loss if kind == "plain" else chunked_loss)(model, ids).backward()
    print(json.dumps({"peak_mb": peak_mb() - before, "cpu_seconds": time.process_time() - began}))


def plain_loss(model: Any, ids: Any) -> Any:
    from torch.nn.functional import cross_entropy

    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    return cross_entropy(logits, ids[0, 1:], reduction="sum")


def chunked_loss(model: Any, ids: Any) -> Any:
    import torch

    from medtune.training.token_losses import TokenLosses

    places = torch.arange(TOKENS - 1)
    batch = {"columns": places, "learned": places, "next_labels": ids[0, 1:]}
    return TokenLosses(model)({"input_ids": ids, "use_cache": False}, batch).sum()


def peak_mb() -> float:
    """The most memory that this process has held so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    child(sys.argv[1])
