"""Batched decoding against one row at a time, with equal tokens; a random model of one million parameters."""

import json
import random
import sys
import time
from collections.abc import Callable

from benchmarks.report import Figure, report, run_child

NUM_PROMPTS, NUM_ALONE = 800, 60
NEW_TOKENS = 64


def main() -> None:
    figures = run_child("benchmarks.bench_generate", "child")
    report(
        "generate",
        [
            Figure(f"{NUM_PROMPTS} prompts, {NEW_TOKENS} new tokens", figures["batched_s"], "CPU-s", 20.0),
            Figure("batched", figures["batched"], "tok/CPU-s"),
            Figure("a row at a time", figures["alone"], "tok/CPU-s"),
            Figure("transformers' generate, a row at a time", figures["transformers"], "tok/CPU-s"),
            Figure("batched against alone", figures["batched"] / figures["alone"], "x", 4.0, "higher"),
        ],
    )


def child() -> dict[str, float]:
    """Decodes greedily all three ways; fails unless the tokens are equal."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from medtune.generation.engine import TransformersEngine
    from medtune.generation.settings import SamplingSettings

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=2048,
            hidden_size=128,
            intermediate_size=344,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Larger weights, so that rounding cannot change the likeliest token.
            parameter.mul_(6.0 if parameter.dim() > 1 else 1.0)
    rng = random.Random(0)
    # PromptCBLUE's spread around 80 tokens.
    lengths = [max(5, min(400, round(rng.lognormvariate(4.25, 0.5)))) for _ in range(NUM_PROMPTS)]
    prompts = [[rng.randrange(3, 2048) for _ in range(length)] for length in lengths]
    engine, settings = TransformersEngine(model, stop_ids=[]), SamplingSettings(max_new_tokens=NEW_TOKENS)

    def with_transformers() -> list[list[int]]:
        more = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        rows = [torch.tensor([prompt]) for prompt in prompts[:NUM_ALONE]]
        with torch.inference_mode():
            outputs = [model.generate(row, attention_mask=torch.ones_like(row), **more) for row in rows]
        return [output[0, row.shape[1] :].tolist() for output, row in zip(outputs, rows, strict=True)]

    batched, batched_s = timed(lambda: engine.generate(prompts, settings))
    alone, alone_s = timed(lambda: [list(engine.stream(prompt, settings)) for prompt in prompts[:NUM_ALONE]])
    reference, reference_s = timed(with_transformers)
    if not batched[:NUM_ALONE] == alone == reference:
        raise RuntimeError("batched, single and transformers' answers differ")
    return {
        "batched_s": batched_s,
        "batched": NUM_PROMPTS * NEW_TOKENS / batched_s,
        "alone": NUM_ALONE * NEW_TOKENS / alone_s,
        "transformers": NUM_ALONE * NEW_TOKENS / reference_s,
    }


def timed(work: Callable[[], list[list[int]]]) -> tuple[list[list[int]], float]:
    """What ``work`` gives, and its CPU-seconds."""
    started = time.process_time()
    result = work()
    return result, time.process_time() - started


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(child()))
    else:
        main()
